import numpy as np
import pytest
import torch
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.saliency import spectral_residual


def texture(odd):
    """Clouds with the spectrum of natural pictures, and a bright square at `odd` (row, column)."""
    frequency = np.fft.fftfreq(64)
    radius = np.hypot(frequency[:, None], frequency)
    radius[0, 0] = 1
    clouds = np.fft.ifft2(np.fft.fft2(np.random.default_rng(0).normal(size=(64, 64))) / radius).real
    grey = 100 + 15 * (clouds - clouds.mean()) / clouds.std()
    row, column = odd
    grey[row - 4 : row + 4, column - 4 : column + 4] += 70
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("odd", [(20, 20), (44, 16), (32, 46), (16, 40)])
def test_the_odd_patch_stands_out(odd):
    tower = open_tower("saliency:spectral_residual", "")
    map_HW = tower.embed([texture(odd)])[0]
    peak = np.unravel_index(map_HW.argmax(), map_HW.shape)
    # Edges stand out: the peak is at the square's border, 4 pixels from its middle.
    assert np.abs(np.subtract(peak, odd)).max() <= 5
    assert (map_HW.min(), map_HW.max()) == (0, 1)
    assert map_HW.mean() < 0.3
    assert (map_HW.shape, map_HW.dtype, tower.fact.shape, tower.fact.dim) == ((64, 64), np.float32, (64, 64), 4096)


def test_it_is_the_papers_formula():
    """Each step written out with NumPy alone."""
    grey = np.random.default_rng(0).uniform(0, 255, (16, 16))
    spectrum = np.fft.fft2(grey)
    log = np.log(np.abs(spectrum))
    wide = np.pad(log, 1, mode="edge")
    trend = sum(wide[i : i + 16, j : j + 16] for i in range(3) for j in range(3)) / 9
    raw = np.abs(np.fft.ifft2(np.exp(log - trend) * spectrum / np.abs(spectrum))) ** 2
    tap = np.arange(-10, 11)
    weight = np.exp(-(tap**2) / (2 * 2.5**2))
    weight /= weight.sum()
    padded = np.pad(raw, 10)
    smooth = sum(weight[i] * weight[j] * padded[i : i + 16, j : j + 16] for i in range(21) for j in range(21))
    expected = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    np.testing.assert_allclose(spectral_residual(grey), expected, atol=1e-9)


def test_one_grey_has_nothing_that_stands_out_and_brightness_does_not_matter():
    tower = open_tower("saliency:spectral_residual", "")
    assert not tower.embed([Image.new("RGB", (50, 70), (9, 80, 200))]).any()
    image = texture((20, 20))
    dimmer = Image.fromarray((np.asarray(image) // 2).astype(np.uint8))
    np.testing.assert_allclose(tower.embed([dimmer])[0], tower.embed([image])[0], atol=0.1)
    assert tower.embed([]).shape == (0, 64, 64)


def save_segmenter(folder, labels):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    torch.manual_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(labels)),
        label2id={name: k for k, name in enumerate(labels)},
    )
    net = SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    net.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return net


@pytest.mark.parametrize("labels", [["salient"], ["Background", "cat", "dog"]])
def test_a_learned_map_is_the_foregrounds_probability(tmp_path, pictures, labels):
    from transformers import AutoImageProcessor

    net = save_segmenter(tmp_path / "segmenter", labels)
    tower = open_tower("saliency:segmenter", str(tmp_path))
    processor = AutoImageProcessor.from_pretrained(tmp_path / "segmenter")
    pixels = torch.cat([processor(images=p.convert("RGB"), return_tensors="pt")["pixel_values"] for p in pictures])
    with torch.no_grad():
        logits = net(pixel_values=pixels).logits
    expected = logits[:, 0].sigmoid() if len(labels) == 1 else logits.softmax(dim=1)[:, 1:].sum(dim=1)
    got = tower.embed(pictures)
    assert np.ptp(got, axis=0).max() > 0.05
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
    assert tower.fact.shape == (8, 8)
    assert (tower.fact.tower, tower.fact.layer) == ("saliency:segmenter", "foreground")


def test_a_model_without_a_background_is_refused(tmp_path):
    save_segmenter(tmp_path / "segmenter", ["wall", "floor"])
    with pytest.raises(ValueError, match=r"the first called background.*calls the first 'wall'"):
        open_tower("saliency:segmenter", str(tmp_path))
