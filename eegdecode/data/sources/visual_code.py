"""What the simulated brain computes from a picture: early energies and colour, then texture, then concept.

The early and the texture code are functions of the pixels. The concept code of a drawn picture is a random vector per
shape and texture, which no pixel tells; that of a photograph, whose concept is in no catalogue, further components of
the texture. Each is brought to about zero mean and unit deviation on reference pictures: drawn ones of no partition, or
the training photographs.
Shape letters: N picture, H row, W column, 3 colour, F feature, K code, G grid cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from eegdecode.data.sources.synthetic_pictures import CONCEPTS, SHAPES, TEXTURES, render

FREQUENCIES = (3.0, 6.0, 12.0)
"""Cycles a picture of the oriented filters; those that the picture's side can not carry are left at zero."""
N_ORIENTATIONS = 4
N_GRID = 3
N_REFERENCE = 400
REFERENCE_EXEMPLAR = 1_000_000
"""Exemplar number of the reference pictures, out of reach of any partition."""
VARIANCE_POWER = 0.3
"""Component k of the code has variance (eigenvalue k / eigenvalue 0) to this power: 0 whitens, 1 keeps their own."""
_OPPONENT = np.array([[0.3, 0.59, 0.11], [0.7, -0.6, -0.1], [0.25, 0.35, -0.6]], dtype=np.float32)
"""RGB to luminance, red-green and yellow-blue."""


def oriented_energy(luminance_NHW: np.ndarray) -> np.ndarray:
    """Return the envelope of log-Gabor responses (Field 1987), (N, frequency x orientation, H, W)."""
    side = luminance_NHW.shape[-1]
    cycles = scipy.fft.fftfreq(side) * side
    fy, fx = np.meshgrid(cycles, cycles, indexing="ij")
    radius = np.hypot(fy, fx)
    radius[0, 0] = 1e-6
    centred = luminance_NHW - luminance_NHW.mean((1, 2), keepdims=True)
    spectrum = scipy.fft.fft2(centred.astype(np.float32))
    envelope = np.zeros((len(luminance_NHW), len(FREQUENCIES) * N_ORIENTATIONS, side, side), dtype=np.float32)
    for i, frequency in enumerate(FREQUENCIES):
        if frequency > 0.45 * side:
            continue
        radial = np.exp(-0.5 * (np.log(radius / frequency) / 0.5) ** 2)
        for k in range(N_ORIENTATIONS):
            turn = np.angle(np.exp(1j * (np.arctan2(fy, fx) - np.pi * k / N_ORIENTATIONS)))
            gain = (2 * radial * np.exp(-0.5 * (turn / (np.pi / N_ORIENTATIONS)) ** 2)).astype(np.float32)
            envelope[:, i * N_ORIENTATIONS + k] = np.abs(scipy.fft.ifft2(spectrum * gain))
    return envelope


def _on_grid(maps: np.ndarray) -> np.ndarray:
    """Average maps (N, F, H, W) under smooth overlapping windows, (N, F * N_GRID * N_GRID)."""
    place = (np.arange(maps.shape[-1]) + 0.5) / maps.shape[-1]
    centres = (np.arange(N_GRID) + 0.5) / N_GRID
    window = np.exp(-0.5 * ((place[None] - centres[:, None]) / (0.5 / N_GRID)) ** 2)
    window = (window / window.sum(1, keepdims=True)).astype(np.float32)
    return np.asarray((window @ maps @ window.T).reshape(len(maps), -1))


def pixel_features(rgb_NHW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return early features (energies and colours on a grid) and texture features (energies wherever they are).

    Parameters
    ----------
    rgb_NHW3
        Uint8.

    Returns
    -------
    Float32 arrays (N, F_early), (N, F_texture).
    """
    early, texture = [], []
    for start in range(0, len(rgb_NHW3), 64):
        opponent = np.moveaxis(rgb_NHW3[start : start + 64].astype(np.float32) / 255 @ _OPPONENT.T, -1, 1)
        energy = np.log1p(oriented_energy(opponent[:, 0]) / 0.05)
        early.append(np.concatenate([_on_grid(energy), 3 * _on_grid(opponent)], axis=1))
        texture.append(np.concatenate([energy.mean((2, 3)), energy.std((2, 3)), opponent.std((2, 3))], axis=1))
    return np.concatenate(early), np.concatenate(texture)


@dataclass(frozen=True)
class Projection:
    """Features to a few components: minus the mean, over the deviation, onto principal axes."""

    mean_F: np.ndarray
    scale_F: np.ndarray
    axes_FK: np.ndarray
    deviation_K: np.ndarray
    """Of each component on the reference pictures."""

    @classmethod
    def fit(cls, features_NF: np.ndarray, n_components: int) -> "Projection":
        """Fit on the reference pictures."""
        mean_F = features_NF.mean(0)
        scale_F = features_NF.std(0) + 1e-6
        _, singular, axes = np.linalg.svd((features_NF - mean_F) / scale_F, full_matrices=False)
        singular, axes = singular[:n_components], axes[:n_components]
        # An axis and its negative are the same; the sign is fixed so that another LAPACK gives the same brain.
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        variance = (singular / singular[0]) ** (2 * VARIANCE_POWER)
        deviation = singular / np.sqrt(len(features_NF))
        return cls(mean_F, scale_F, np.asarray(axes.T / deviation * np.sqrt(variance)), np.sqrt(variance))

    def __call__(self, features_NF: np.ndarray) -> np.ndarray:
        """Return the components, (N, K)."""
        return np.asarray((features_NF - self.mean_F) / self.scale_F @ self.axes_FK, dtype=np.float64)


class VisualCode:
    """Pictures to code vectors: `n_early` + `n_texture` + `n_concept` numbers each.

    Parameters
    ----------
    photographs_NHW3
        Reference pictures where photographs are shown, uint8; None where pictures are drawn.
    """

    def __init__(
        self,
        seed: int,
        px: int,
        n_early: int,
        n_texture: int,
        n_concept: int,
        photographs_NHW3: np.ndarray | None = None,
    ) -> None:
        self.group_K = np.repeat(["early", "texture", "concept"], [n_early, n_texture, n_concept])
        self._drawn = photographs_NHW3 is None
        if photographs_NHW3 is not None:
            early, texture = pixel_features(photographs_NHW3)
            self.early = Projection.fit(early, n_early)
            self.texture = Projection.fit(texture, n_texture + n_concept)
            self.deviation_K = np.concatenate([self.early.deviation_K, self.texture.deviation_K])
            return
        order = np.random.default_rng([seed, 3]).permutation(len(CONCEPTS))[:N_REFERENCE]
        exemplars = [REFERENCE_EXEMPLAR] * len(order)
        early, texture = pixel_features(render(seed, [CONCEPTS[i] for i in order], exemplars, px))
        self.early = Projection.fit(early, n_early)
        self.texture = Projection.fit(texture, n_texture)
        rng = np.random.default_rng([seed, 4])
        self.shape_SK = dict(zip(SHAPES, rng.standard_normal((len(SHAPES), n_concept)), strict=True))
        self.texture_SK = dict(zip(TEXTURES, rng.standard_normal((len(TEXTURES), n_concept)), strict=True))
        self.deviation_K = np.concatenate([self.early.deviation_K, self.texture.deviation_K, np.ones(n_concept)])

    def __call__(self, rgb_NHW3: np.ndarray, concepts: Sequence[str]) -> np.ndarray:
        """Return the code of pictures, float64 (N, K)."""
        early, texture = pixel_features(rgb_NHW3)
        if not self._drawn:
            return np.concatenate([self.early(early), self.texture(texture)], axis=1)
        names = [concept.split("-") for concept in concepts]
        concept = np.stack([(self.shape_SK[shape] + self.texture_SK[wave]) / np.sqrt(2) for shape, wave in names])
        return np.concatenate([self.early(early), self.texture(texture), concept], axis=1)
