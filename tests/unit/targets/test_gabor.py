import numpy as np
import pytest
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.gabor import ANGLE_SIGMA, N_ORIENTATIONS, OCTAVE_SIGMA, PX, log_gabor


def grating(angle: float, cycles: float, phase: float = 0.0) -> Image.Image:
    y, x = np.mgrid[0:PX, 0:PX] / PX
    wave = 0.5 + 0.4 * np.cos(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return Image.fromarray(np.repeat((wave * 255).round().astype(np.uint8)[..., None], 3, axis=2))


def energies(z_ND: np.ndarray) -> np.ndarray:
    """(N, octave, orientation, cell)."""
    return z_ND[:, :162].reshape(len(z_ND), 3, 6, 9)


def test_a_grating_excites_its_own_orientation_and_octave():
    tower = open_tower("gabor", "")
    for octave, cycles in enumerate((16, 8, 4)):
        for orientation in range(6):
            z = energies(tower.embed([grating(orientation * np.pi / 6, cycles)]))[0, :, :, 4]
            assert np.unravel_index(z.argmax(), z.shape) == (octave, orientation)


def test_energy_does_not_know_the_phase():
    tower = open_tower("gabor", "")
    z = energies(tower.embed([grating(0.5, 8, phase) for phase in (0.0, 0.7, 2.0)]))[:, 1, :, 4]
    assert np.ptp(z, axis=0).max() < 0.1


def test_energy_is_that_of_a_plain_convolution():
    tower = open_tower("gabor", "")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (PX, PX, 3), dtype=np.uint8))
    grey = np.asarray(picture, np.float64) / 255 @ [0.299, 0.587, 0.114]
    field = (grey - grey.mean()) * tower._taper_hw
    kernel = np.fft.ifft2(log_gabor(PX, PX / 4, N_ORIENTATIONS, OCTAVE_SIGMA, ANGLE_SIGMA)[2])
    direct = np.array(
        [np.sum(field * np.roll(kernel[::-1, ::-1], (r + 1, c + 1), (0, 1))) for r in range(PX) for c in range(PX)]
    )
    pooled = tower._pools[0] @ np.abs(direct).reshape(PX, PX) @ tower._pools[0].T
    from eegdecode.targets import gabor

    expected = (np.log1p(pooled / gabor.SOFT) - gabor.ENERGY_OFFSET[0]) / gabor.ENERGY_SCALE[0]
    np.testing.assert_allclose(energies(tower.embed([picture]))[0, 0, 2], expected.ravel(), atol=1e-3)


def test_colour_and_place_are_seen():
    tower = open_tower("gabor", "")
    left = np.full((PX, PX, 3), 128, np.uint8)
    left[:, :32] = (200, 40, 40)
    means = tower.embed([Image.fromarray(left), Image.fromarray(left[:, ::-1].copy())])[:, 162:210].reshape(2, 3, 4, 4)
    assert (means[0, 1, :, :2] > 5).all()
    np.testing.assert_allclose(means[0, 1, :, 2:], 0, atol=1e-5)
    np.testing.assert_allclose(means[1], means[0, :, :, ::-1], atol=1e-5)


def test_an_embedding_is_the_same_bytes_alone_and_in_company():
    tower = open_tower("gabor", "")
    pictures = [grating(a, c) for a in (0.1, 1.0) for c in (3, 11)]
    together = tower.embed(pictures)
    alone = np.concatenate([open_tower("gabor", "").embed([p]) for p in reversed(pictures)])[::-1]
    np.testing.assert_array_equal(together, alone)
    assert together.dtype == np.float32
    assert together.shape == (4, tower.fact.dim) == (4, 222)
    assert tower.embed([]).shape == (0, 222)


def test_any_size_and_mode_is_brought_to_one():
    tower = open_tower("gabor", "")
    big = grating(0.4, 4).resize((200, 160), Image.Resampling.BICUBIC)
    z = tower.embed([grating(0.4, 4), big, big.convert("L")])
    assert np.corrcoef(z)[0, 1] > 0.99
    np.testing.assert_allclose(z[1], z[2], atol=0.2)


@pytest.mark.parametrize("spec", ["", "gabor:2", "timm:", "open_clip:RN50", "clip"])
def test_a_spec_of_no_known_form_is_refused(spec):
    with pytest.raises(ValueError, match=r"targets\.tower must be"):
        open_tower(spec, "")
