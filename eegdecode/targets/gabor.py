"""The tower without weights: Gabor energies and colour moments on small grids.

A picture is squeezed to 64 px. Luminance goes through one bank of six orientations at three octaves (4, 8 and 16 px a
cycle); the energy of each is pooled on a 3 x 3 grid. Luminance and the two opponent colours give means on a 4 x 4 grid
and standard deviations on a 2 x 2 grid. Every constant is declared below: nothing is fitted to a data set.

After Adelson & Bergen 1985 (energy), Field 1987 (log-Gabor), Kay et al. 2008 (Gabor pyramids as early vision).
Shape letters: N picture, H row, W column, O orientation, G grid cell, D embedding.
"""

import hashlib
import json

import numpy as np
import scipy.fft
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.spec import Spec

PX = 64
N_ORIENTATIONS = 6
SIDES = (64, 32, 16)
"""Side of the spectrum kept per octave; the filter sits at a quarter of it (16, 8, 4 cycles a picture)."""
OCTAVE_SIGMA = 0.55
"""Radial width: standard deviation of ln(frequency)."""
ANGLE_SIGMA = np.pi / N_ORIENTATIONS * 0.75
ENERGY_GRID, MEAN_GRID, DEVIATION_GRID = 3, 4, 2
TAPER_PX = 4
"""Luminance fades to its mean over this border, because the FFT wraps round."""
SOFT = 0.02
"""Amplitude at which the response turns from linear to logarithmic."""
ENERGY_OFFSET, ENERGY_SCALE = (0.40, 0.50, 0.65), (0.25, 0.27, 0.28)
MEAN_OFFSET, MEAN_SCALE = (0.5, 0.0, 0.0), (0.15, 0.06, 0.06)
DEVIATION_OFFSET, DEVIATION_SCALE = (0.10, 0.05, 0.05), (0.06, 0.035, 0.035)
OPPONENT = np.array([[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]], dtype=np.float32)
"""RGB to luminance, red-green and yellow-blue."""


def log_gabor(side: int, cycles: float, n_orientations: int, frequency_sigma: float, angle_sigma: float) -> np.ndarray:
    """Return one-sided log-Gabor filters over an unshifted spectrum, (O, side, side).

    Parameters
    ----------
    side
        Of the spectrum, pixels.
    cycles
        Frequency of the filters, cycles a picture.
    frequency_sigma, angle_sigma
        Widths: standard deviation of ln(frequency), and of the orientation in radians.
    """
    axis = scipy.fft.fftfreq(side) * side
    fy, fx = np.meshgrid(axis, axis, indexing="ij")
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1.0
    radial = np.exp(-0.5 * (np.log(radius / cycles) / frequency_sigma) ** 2)
    radial[0, 0] = 0.0
    centre_o = np.arange(n_orientations)[:, None, None] * np.pi / n_orientations
    turn = np.angle(np.exp(1j * (np.arctan2(fy, fx)[None] - centre_o)))
    # One-sided: the imaginary part of the response is the filter in quadrature, so its modulus is the energy envelope.
    return np.asarray(2 * radial * np.exp(-0.5 * (turn / angle_sigma) ** 2), dtype=np.float32)


def pooling(side: int, grid: int) -> np.ndarray:
    """Return overlapping triangular windows that sum to one over places, (grid, side)."""
    place = (np.arange(side) + 0.5) / side * grid - 0.5
    window = np.clip(1 - np.abs(place[None] - np.arange(grid)[:, None]), 0, None)
    window[0, place < 0] = 1
    window[-1, place > grid - 1] = 1
    return np.asarray(window / window.sum(1, keepdims=True), dtype=np.float32)


def _crop(spectrum_nhw: np.ndarray, side: int) -> np.ndarray:
    """Keep the lowest frequencies of an unshifted spectrum."""
    half = side // 2
    keep = np.r_[0:half, spectrum_nhw.shape[-1] - half : spectrum_nhw.shape[-1]]
    return spectrum_nhw[:, keep[:, None], keep[None]]


def _grid_mean(maps: np.ndarray, grid: int) -> np.ndarray:
    """Average maps (..., H, W) over square cells, (..., grid, grid)."""
    cell = PX // grid
    means: np.ndarray = maps.reshape(*maps.shape[:-2], grid, cell, grid, cell).mean((-3, -1))
    return means


def opponent(image: Image.Image, px: int) -> np.ndarray:
    """Return luminance, red-green and yellow-blue of a picture squeezed to `px`, float32 (3, px, px)."""
    image = image.convert("RGB")
    if image.size != (px, px):
        image = image.resize((px, px), Image.Resampling.BICUBIC)
    rgb_hw3 = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(np.moveaxis(rgb_hw3 @ OPPONENT.T, -1, 0))


class GaborTower:
    """Gabor energies and colour moments: 222 numbers a picture, no weights, the same bytes on every call."""

    def __init__(self) -> None:
        self._filters = [log_gabor(side, side / 4, N_ORIENTATIONS, OCTAVE_SIGMA, ANGLE_SIGMA) for side in SIDES]
        self._pools = [pooling(side, ENERGY_GRID) for side in SIDES]
        edge = np.ones(PX, dtype=np.float32)
        edge[:TAPER_PX] = (1 - np.cos(np.pi * (np.arange(TAPER_PX) + 0.5) / TAPER_PX)) / 2
        edge[-TAPER_PX:] = edge[:TAPER_PX][::-1]
        self._taper_hw = edge[:, None] * edge[None]
        constants = [
            PX, N_ORIENTATIONS, SIDES, OCTAVE_SIGMA, ANGLE_SIGMA, ENERGY_GRID, MEAN_GRID, DEVIATION_GRID, TAPER_PX,
            SOFT, ENERGY_OFFSET, ENERGY_SCALE, MEAN_OFFSET, MEAN_SCALE, DEVIATION_OFFSET, DEVIATION_SCALE,
            OPPONENT.tolist(),
        ]  # fmt: skip
        revision = hashlib.sha256(json.dumps(constants).encode()).hexdigest()[:16]
        dim = len(SIDES) * N_ORIENTATIONS * ENERGY_GRID**2 + 3 * (MEAN_GRID**2 + DEVIATION_GRID**2)
        self.fact = TargetFact(
            tower="gabor",
            layer="energy3x3+mean4x4+deviation2x2",
            revision=f"1-{revision}",
            preprocessing=f"RGB, squeezed to {PX}x{PX} (Pillow bicubic) unless it has that size, [0, 1]",
            dim=dim,
            shape=(dim,),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> np.ndarray:
        """Return the embeddings, float32 (N, 222), about zero mean and unit deviation on pictures of objects."""
        if not images:
            return np.zeros((0, self.fact.dim), dtype=np.float32)
        # One picture at a time: its numbers can not depend on its neighbours, and the working set stays in cache.
        return np.stack([self._embed_one(image) for image in images])

    def _embed_one(self, image: Image.Image) -> np.ndarray:
        opponent_chw = opponent(image, PX)
        return np.concatenate([self._energy(opponent_chw[0]), *self._moments(opponent_chw)]).astype(np.float32)

    def _energy(self, luminance_hw: np.ndarray) -> np.ndarray:
        spectrum = scipy.fft.fft2((luminance_hw - luminance_hw.mean()) * self._taper_hw)
        parts = []
        for k, side in enumerate(SIDES):
            cropped = _crop(spectrum[None], side) * self._filters[k]
            # The inverse of a cropped spectrum is the same function on a coarser grid, times (side / PX)^2.
            envelope_ohw = np.abs(scipy.fft.ifft2(cropped)) * np.float32((side / PX) ** 2)
            pooled = self._pools[k] @ envelope_ohw @ self._pools[k].T
            parts.append((np.log1p(pooled.ravel() / SOFT) - ENERGY_OFFSET[k]) / ENERGY_SCALE[k])
        return np.concatenate(parts)

    def _moments(self, opponent_chw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = _grid_mean(opponent_chw, MEAN_GRID)
        coarse = _grid_mean(opponent_chw, DEVIATION_GRID)
        variance = _grid_mean(opponent_chw**2, DEVIATION_GRID) - coarse**2
        deviation = np.sqrt(np.clip(variance, 0, None))
        mean_z = (mean - np.array(MEAN_OFFSET)[:, None, None]) / np.array(MEAN_SCALE)[:, None, None]
        deviation_z = (deviation - np.array(DEVIATION_OFFSET)[:, None, None]) / np.array(DEVIATION_SCALE)[:, None, None]
        return mean_z.ravel(), deviation_z.ravel()


def open_gabor(spec: Spec, weights_uri: str) -> GaborTower:
    """Make the tower of the spec ``gabor``; it needs no weights."""
    return GaborTower()
