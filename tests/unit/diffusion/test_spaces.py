import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eegdecode.diffusion.drawer import Drawer
from eegdecode.diffusion.spaces import Taef2Space, build_space, picture_tensor


@pytest.fixture(scope="module")
def taef2(shared):
    return lambda px: build_space("taef2", px, shared / "data" / "weights")


@pytest.fixture(scope="module")
def samples(shared):
    folder = shared / "data" / "images" / "imagenet_samples"
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::50]
    assert len(rows) == 20
    return [Image.open(folder / row["file"]).convert("RGB") for row in rows]


@pytest.mark.parametrize(("px", "expected_db"), [(64, 26.01), (96, 27.76)])
def test_taef2_reconstructs_photographs_as_published(taef2, samples, px, expected_db):
    space = taef2(px)
    scores, latents = [], []
    for image in samples:
        x = picture_tensor([image], px)
        latents.append(space.encode(x))
        scores.append(-10 * torch.log10(((space.decode(latents[-1]) - x) ** 2).mean()).item())
    assert np.mean(scores) == pytest.approx(expected_db, abs=0.1)
    flat = torch.cat(latents).transpose(0, 1).flatten(1)
    assert latents[0].shape == (1, 32, px // 8, px // 8)
    # Normalised by statistics of 1000 other sizes and pictures: about zero mean and unit deviation.
    assert flat.mean().abs() < 0.1
    assert 0.85 < flat.std().item() < 1.15


def test_taef2_stays_frozen_and_travels_with_its_drawer(shared, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(shared / "data" / "weights", folder, ignore=shutil.ignore_patterns("mobile*"))
    drawer = Drawer(6, 32, 16, space="taef2", weights_dir=folder, sampler_steps=2)
    shutil.rmtree(folder)
    drawer.train()
    assert not drawer.space.autoencoder.training
    assert not any(p.requires_grad for p in drawer.space.parameters())
    drawer(torch.rand(2, 3, 32, 32), torch.randn(2, 6)).backward()
    drawer.save(tmp_path / "drawer")
    z = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    drawn = drawer.draw(z, seed=0)
    loaded = Drawer.load(tmp_path / "drawer")
    shutil.rmtree(tmp_path / "drawer")
    np.testing.assert_array_equal(loaded.draw(z, seed=0), drawn)
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(Drawer.load(tmp_path / "again").draw(z, seed=0), drawn)


def test_weights_that_are_missing_or_foreign_are_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"needs taef2\.json"):
        Taef2Space(tmp_path, 32)
    with pytest.raises(ValueError, match=r"compute\.weights_uri"):
        build_space("taef2", 32)
    shutil.copytree(shared / "data" / "weights", tmp_path / "w", ignore=shutil.ignore_patterns("mobile*"))
    path = tmp_path / "w" / "taef2_encoder.safetensors"
    path.chmod(0o644)
    weights = {k: v for k, v in load_file(path).items() if "pool" not in k}
    save_file(weights, path)
    # What diffusers' own AutoencoderTiny would take in silence, and draw 13 dB worse.
    with pytest.raises(ValueError, match="TAEF2's encoder"):
        Taef2Space(tmp_path / "w", 32)


def test_pixels_are_folded_without_loss():
    space = build_space("pixels", 16)
    x = torch.rand(3, 3, 16, 16)
    latents = space.encode(x)
    assert latents.shape == (3, space.channels, space.side, space.side) == (3, 12, 8, 8)
    torch.testing.assert_close(space.decode(latents), x)
    assert latents.min() >= -1
    assert space.decode(latents * 9).max() <= 1


def test_pictures_are_resized_as_pillow_does():
    array = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = Image.fromarray(array)
    torch.testing.assert_close(picture_tensor([image], 24)[0], torch.from_numpy(array).permute(2, 0, 1) / 255)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    torch.testing.assert_close(picture_tensor([image], 16)[0], torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)


def test_an_unknown_space_is_refused():
    with pytest.raises(ValueError, match="pixels, taef2"):
        build_space("vae", 32)
