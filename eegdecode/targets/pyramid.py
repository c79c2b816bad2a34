"""A tower without weights for photographs: Gabor energies at half octaves, where they are and how they vary.

A picture is squeezed to 96 px. Luminance goes through six orientations at eight frequencies, half an octave apart. The
logarithm of each energy is averaged on a 3 x 3 grid, and its mean and deviation are taken over the picture. Luminance
and the two opponent colours give means on a 4 x 4 grid and deviations over the picture.

The statistics over a picture are of those by which textures are told apart (Portilla & Simoncelli 2000, Int. J.
Computer Vision 40, 49), which V2 answers to (Freeman et al. 2013, Nature Neuroscience 16, 974); `gabor` has none of
them. Every constant is declared below: nothing is fitted to a data set.

Shape letters: N picture, H row, W column, F filter, D embedding.
"""

import hashlib
import json

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.gabor import OPPONENT, SOFT, log_gabor, opponent, pooling
from eegdecode.targets.spec import Spec

PX = 96
CYCLES = tuple(2 ** (1 + k / 2) for k in range(8))
"""Of the filters, in a picture: 2 to 22.6."""
N_ORIENTATIONS = 6
FREQUENCY_SIGMA = 0.5
"""Radial width: standard deviation of ln(frequency)."""
ANGLE_SIGMA = np.pi / N_ORIENTATIONS * 0.9
ENERGY_GRID, COLOUR_GRID = 3, 4
ENERGY, ENERGY_MEAN, ENERGY_DEVIATION = (1.0, 0.34), (1.0, 0.26), (0.5, 0.09)
"""Offset and scale of each kind of number: about its mean and deviation over photographs of objects."""
COLOUR = ((0.5, 0.18), (0.0, 0.05), (0.0, 0.055))
COLOUR_DEVIATION = ((0.2, 0.06), (0.04, 0.028), (0.04, 0.028))


class PyramidTower:
    """Energies, their statistics and colours: 579 numbers a picture, no weights, the same bytes on every call."""

    def __init__(self) -> None:
        self._filter_FHW = np.concatenate(
            [log_gabor(PX, cycles, N_ORIENTATIONS, FREQUENCY_SIGMA, ANGLE_SIGMA) for cycles in CYCLES]
        )
        self._energy_pool, self._colour_pool = pooling(PX, ENERGY_GRID), pooling(PX, COLOUR_GRID)
        constants = [
            PX, CYCLES, N_ORIENTATIONS, FREQUENCY_SIGMA, ANGLE_SIGMA, ENERGY_GRID, COLOUR_GRID, SOFT, ENERGY,
            ENERGY_MEAN, ENERGY_DEVIATION, COLOUR, COLOUR_DEVIATION, OPPONENT.tolist(),
        ]  # fmt: skip
        revision = hashlib.sha256(json.dumps(constants).encode()).hexdigest()[:16]
        n_filters = len(self._filter_FHW)
        dim = n_filters * (ENERGY_GRID**2 + 2) + 3 * (COLOUR_GRID**2 + 1)
        self.fact = TargetFact(
            tower="pyramid",
            layer="energy3x3+mean+deviation+colour4x4+deviation",
            revision=f"1-{revision}",
            preprocessing=f"RGB, squeezed to {PX}x{PX} (Pillow bicubic) unless it has that size, [0, 1]",
            dim=dim,
            shape=(dim,),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, 579), about zero mean and unit deviation on photographs of objects."""
        if not images:
            return np.zeros((0, self.fact.dim), dtype=np.float32)
        # One picture at a time: its numbers can not depend on its neighbours.
        return np.stack([self._embed_one(image) for image in images])

    def _embed_one(self, image: Image.Image) -> NDArray[np.float32]:
        opponent_3HW = opponent(image, PX)
        luminance_HW = opponent_3HW[0]
        spectrum_HW = scipy.fft.fft2(luminance_HW - luminance_HW.mean())
        energy_FHW = np.log1p(np.abs(scipy.fft.ifft2(spectrum_HW * self._filter_FHW)) / SOFT)
        parts = [
            _scaled(self._energy_pool @ energy_FHW @ self._energy_pool.T, ENERGY),
            _scaled(energy_FHW.mean((1, 2)), ENERGY_MEAN),
            _scaled(energy_FHW.std((1, 2)), ENERGY_DEVIATION),
            *(
                _scaled(self._colour_pool @ o @ self._colour_pool.T, c)
                for o, c in zip(opponent_3HW, COLOUR, strict=True)
            ),
            *(_scaled(o.std(), c) for o, c in zip(opponent_3HW, COLOUR_DEVIATION, strict=True)),
        ]
        return np.concatenate(parts).astype(np.float32)


def _scaled(value: NDArray[np.float32] | np.float32, offset_scale: tuple[float, float]) -> NDArray[np.float32]:
    offset, scale = offset_scale
    return np.ravel((value - offset) / scale)


def open_pyramid(spec: Spec, weights_uri: str) -> PyramidTower:
    """Make the tower of the spec ``pyramid``; it needs no weights."""
    return PyramidTower()
