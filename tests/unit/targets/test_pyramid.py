import numpy as np
from PIL import Image

from eegdecode.targets import open_tower
from eegdecode.targets.pyramid import CYCLES, ENERGY_DEVIATION, ENERGY_MEAN, N_ORIENTATIONS, PX

N_FILTERS = len(CYCLES) * N_ORIENTATIONS
N_ENERGIES = 9 * N_FILTERS


def grating(angle: float, cycles: float) -> np.ndarray:
    y, x = np.mgrid[0:PX, 0:PX] / PX
    wave = 0.5 + 0.4 * np.cos(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)))
    return np.repeat((wave * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def embedded(*pictures: np.ndarray) -> np.ndarray:
    return open_tower("pyramid", "").embed([Image.fromarray(picture) for picture in pictures])


def test_a_grating_excites_its_own_orientation_and_frequency_most() -> None:
    for number in (2, 4, 6):
        for orientation in range(N_ORIENTATIONS):
            z_D = embedded(grating(orientation * np.pi / N_ORIENTATIONS, CYCLES[number]))[0]
            mean = z_D[N_ENERGIES : N_ENERGIES + N_FILTERS].reshape(len(CYCLES), N_ORIENTATIONS)
            assert np.unravel_index(mean.argmax(), mean.shape) == (number, orientation)


def test_statistics_of_a_filter_are_those_of_a_plain_sum_over_the_picture() -> None:
    """One filter written out as a function of frequency, without arrays of filters, and its statistics by hand."""
    picture = np.random.default_rng(0).integers(0, 256, (PX, PX, 3), dtype=np.uint8)
    grey = picture / 255 @ [0.299, 0.587, 0.114]
    spectrum = np.fft.fftshift(np.fft.fft2(grey - grey.mean()))
    fy, fx = np.mgrid[-PX // 2 : PX // 2, -PX // 2 : PX // 2].astype(float)
    radius, angle = np.hypot(fy, fx), np.arctan2(fy, fx)
    radius[PX // 2, PX // 2] = np.nan
    turn = (angle - np.pi / 3 + np.pi) % (2 * np.pi) - np.pi
    gain = 2 * np.exp(-(np.log(radius / 8) ** 2) / (2 * 0.5**2) - turn**2 / (2 * (0.9 * np.pi / 6) ** 2))
    energy = np.log1p(np.abs(np.fft.ifft2(np.fft.ifftshift(np.nan_to_num(spectrum * gain)))) / 0.02)
    k = 4 * N_ORIENTATIONS + 2  # 8 cycles, 60 degrees
    z_D = embedded(picture)[0]
    mean, deviation = z_D[N_ENERGIES + k], z_D[N_ENERGIES + N_FILTERS + k]
    np.testing.assert_allclose(mean * ENERGY_MEAN[1] + ENERGY_MEAN[0], energy.mean(), rtol=1e-4)
    np.testing.assert_allclose(deviation * ENERGY_DEVIATION[1] + ENERGY_DEVIATION[0], energy.std(), rtol=1e-3)


def test_a_texture_in_patches_varies_more_and_is_seen_where_it_is() -> None:
    whole = grating(0.0, 8.0)
    left = whole.copy()
    left[:, PX // 2 :] = 128
    z_2D = embedded(whole, left)
    k = 4 * N_ORIENTATIONS
    deviation_2 = z_2D[:, N_ENERGIES + N_FILTERS + k]
    assert deviation_2[1] > deviation_2[0] + 5
    cell_33 = z_2D[1, 9 * k : 9 * k + 9].reshape(3, 3)
    assert (cell_33[:, 0] > cell_33[:, 2] + 5).all()


def test_colours_on_their_grid_and_their_deviation() -> None:
    half = np.full((PX, PX, 3), 128, np.uint8)
    half[: PX // 2] = (200, 40, 40)
    z_D = embedded(half)[0]
    first = 11 * N_FILTERS
    red_44 = z_D[first + 16 : first + 32].reshape(4, 4)
    assert (red_44[0] > 5).all()
    np.testing.assert_allclose(red_44[-1], 0, atol=1e-4)
    red_green = (half[..., 0] / 510 - half[..., 1] / 510).std()
    np.testing.assert_allclose(z_D[first + 48 + 1] * 0.028 + 0.04, red_green, rtol=1e-4)


def test_an_embedding_is_the_same_bytes_alone_and_in_company() -> None:
    pictures = [grating(0.1, 3), grating(1.0, 11)]
    together = embedded(*pictures)
    np.testing.assert_array_equal(together[1], embedded(pictures[1])[0])
    assert together.shape == (2, open_tower("pyramid", "").fact.dim) == (2, 579)
    assert embedded_none().shape == (0, 579)


def embedded_none() -> np.ndarray:
    return open_tower("pyramid", "").embed([])
