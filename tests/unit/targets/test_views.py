import numpy as np
import pytest
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.spec import parse_views
from eegdecode.targets.views import VIEWS, foveal_mask, gaussian_kernel, open_view


def view(text):
    (call,) = parse_views(text)
    return open_view(call)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(1)
    return Image.fromarray(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8))


def test_gaussian_blur_equals_a_plain_sum(picture):
    image = np.asarray(picture, dtype=float)
    weight = gaussian_kernel(5)
    assert weight.sum() == pytest.approx(1, abs=1e-15)
    # OpenCV's rule: 0.3 * ((5 - 1) / 2 - 1) + 0.8 = 1.1.
    assert weight[0] / weight[2] == pytest.approx(np.exp(-(2**2) / (2 * 1.1**2)))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    expected = np.zeros_like(image)
    for i in range(5):
        for j in range(5):
            expected += weight[i] * weight[j] * padded[i : i + 224, j : j + 224]
    got = np.asarray(view("blur(kernel=5)")(picture), dtype=float)
    assert np.abs(got - expected).max() <= 0.5 + 1e-9


def test_the_fovea_is_sharper_than_the_edge(picture):
    blurred = np.abs(np.asarray(view("fovea")(picture), float) - np.asarray(picture, float)).mean(axis=2)
    assert blurred[92:132, 92:132].mean() < 0.75 * blurred[:40, :40].mean()
    mask = foveal_mask(224, 224, "quadratic", 3.0)
    assert (mask[112, 112], mask[223, 223]) == (0.5, 0.0)
    assert mask[112, 167] == pytest.approx(0.5 * (1 - (55 / (111 * 2**0.5)) ** 2), abs=1e-6)


def test_noise_is_that_of_the_picture(picture):
    noise = view("noise(std=10)")
    once, twice = np.asarray(noise(picture), float), np.asarray(noise(picture.copy()), float)
    np.testing.assert_array_equal(once, twice)
    middling = Image.new("RGB", (224, 224), (128, 128, 128))
    other = Image.new("RGB", (224, 224), (128, 128, 129))
    grain, other_grain = (np.asarray(noise(image), float) - 128 for image in (middling, other))
    assert grain.std() == pytest.approx(10, rel=0.02)
    assert abs(grain.mean()) < 0.1
    assert abs(np.corrcoef(grain.ravel(), other_grain.ravel())[0, 1]) < 0.02
    # The stream of this generator is promised to stay; these are its first values for this picture.
    np.testing.assert_array_equal(np.asarray(noise(middling))[0, :3], FIRST_GRAIN)


FIRST_GRAIN = [[126, 133, 129], [127, 136, 125], [125, 127, 127]]


def test_low_resolution_and_mosaic_keep_what_they_say(picture):
    low = np.asarray(view("lowres(scale=0.1)")(picture), float)
    assert low.shape == (224, 224, 3)
    assert np.abs(np.diff(low, axis=0)).mean() < 0.1 * np.abs(np.diff(np.asarray(picture, float), axis=0)).mean()
    blocks = np.asarray(view("mosaic(block=16)")(picture), float).reshape(14, 16, 14, 16, 3)
    assert np.ptp(blocks, axis=(1, 3)).max() == 0
    original = np.asarray(picture, float).reshape(14, 16, 14, 16, 3)
    np.testing.assert_allclose(blocks[:, 0, :, 0], original[:, 7:9, :, 7:9].mean(axis=(1, 3)), atol=0.5)
    # 224 is no multiple of 5: 44 blocks a side, as published.
    assert len(np.unique(np.asarray(view("mosaic(block=5)")(picture))[0, :, 0])) <= 44


@pytest.mark.parametrize("name", VIEWS)
def test_views_bring_any_picture_to_their_side(name):
    image = Image.new("L", (90, 60), 200)
    out = view(name)(image)
    assert (out.mode, out.size) == ("RGB", (90, 60) if name == "identity" else (224, 224))
    if name != "noise":
        assert np.asarray(out).min() == np.asarray(out).max() == 200
    assert name == "identity" or view(f"{name}(px=32)")(image).size == (32, 32)


def test_a_tower_sees_the_view(picture):
    plain, blurred = open_tower("gabor", ""), open_tower("gabor#blur(kernel=31)", "")
    np.testing.assert_array_equal(blurred.embed([picture]), plain.embed([view("blur(kernel=31)")(picture)]))
    assert (plain.fact.view, blurred.fact.view) == ("", "blur(kernel=31; px=224)")
    assert blurred.fact.model_copy(update={"view": ""}) == plain.fact
    assert open_tower("gabor#identity", "").fact == plain.fact


def test_several_views_are_averaged(picture):
    tower = open_tower("gabor#identity+blur+noise+lowres+mosaic", "")
    plain = open_tower("gabor", "")
    each = [plain.embed([view(name)(picture)]) for name in ("identity", "blur", "noise", "lowres", "mosaic")]
    np.testing.assert_allclose(tower.embed([picture]), np.mean(each, axis=0), atol=1e-5)
    assert tower.fact.view == (
        "identity + blur(kernel=15; px=224) + noise(std=25.0; px=224) + lowres(scale=0.1; px=224) "
        "+ mosaic(block=5; px=224)"
    )
