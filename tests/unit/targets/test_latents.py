"""Latents against the autoencoders' own encode."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

from eegdecode.targets import open_tower


@pytest.fixture(scope="module")
def kl(hub):
    torch.manual_seed(0)
    net = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.25,
        shift_factor=0.5,
    )
    net.save_pretrained(hub / "kl")
    net.save_pretrained(hub / "pipeline" / "vae")
    return net.eval()


def tensor(pictures, px):
    resized = [image.convert("RGB").resize((px, px), Image.Resampling.BICUBIC) for image in pictures]
    return torch.from_numpy(np.stack([np.asarray(image, np.float32) for image in resized]) / 255).permute(0, 3, 1, 2)


def close(got, expected):
    assert got.dtype == np.float32
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_mean_shifted_and_scaled_as_a_diffusion_model_takes_it(hub, kl, pictures):
    tower = open_tower("vae:kl", str(hub))
    with torch.no_grad():
        mean = kl.encode(tensor(pictures, 32) * 2 - 1).latent_dist.mean.numpy()
    close(tower.embed(pictures), (mean - 0.5) * 0.25)
    assert (tower.fact.shape, tower.fact.dim) == ((4, 16, 16), 1024)
    assert "squeezed to 32x32" in tower.fact.preprocessing
    assert "(latent - 0.5) * 0.25" in tower.fact.preprocessing


def test_side_range_and_subfolder(hub, kl, pictures):
    tower = open_tower("vae(px=48; range=unit; subfolder=vae):pipeline", str(hub))
    with torch.no_grad():
        mean = kl.encode(tensor(pictures, 48)).latent_dist.mean.numpy()
    close(tower.embed(pictures), (mean - 0.5) * 0.25)
    assert tower.fact.shape == (4, 24, 24)
    assert "[0, 1] * 1 + 0" in tower.fact.preprocessing


def test_a_tiny_autoencoder(hub, pictures):
    torch.manual_seed(1)
    net = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    net.save_pretrained(hub / "tiny")
    tower = open_tower("vae(px=32):tiny", str(hub))
    with torch.no_grad():
        expected = net.eval().encode(tensor(pictures, 32) * 2 - 1).latents.numpy()
    close(tower.embed(pictures), expected)
    close(np.concatenate([tower.embed([image]) for image in pictures]), expected)
    with pytest.raises(ValueError, match=r"needs the side pictures are squeezed to"):
        open_tower("vae:tiny", str(hub))


def test_other_classes_and_missing_weights_are_refused(hub, kl, tmp_path):
    from safetensors.torch import load_file, save_file

    kl.save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({**state, "extra": torch.zeros(1)}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="and no others, got 'extra'"):
        open_tower("vae:vae", str(tmp_path))
    del state["encoder.conv_in.bias"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 are missing, such as 'encoder\.conv_in\.bias'"):
        open_tower("vae:vae", str(tmp_path))
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    with pytest.raises(ValueError, match="must say AutoencoderKL or AutoencoderTiny, got UNet2DModel"):
        open_tower("vae:vae", str(tmp_path))
    with pytest.raises(ValueError, match="range must be one of signed, unit, got 'wide'"):
        open_tower("vae(range=wide):kl", str(hub))
