"""Photographs of a folder as stimuli of the simulation: one file a concept, named after it.

Shape letters: N picture, H row, W column, 3 colour.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from eegdecode.data.sources import PictureError, SourceError

SUFFIXES = (".jpg", ".jpeg", ".png")


class Photographs:
    """The pictures below a folder, in the order of their names.

    Parameters
    ----------
    folder
        Holds files ``<concept>.jpg`` (or png), in subfolders or not.

    Raises
    ------
    SourceError
        No picture there, or a concept with two files.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        self._file = {path.stem: path for path in files}
        if not files:
            raise SourceError(f"compute.data_uri: {folder} must hold pictures ({', '.join(SUFFIXES)}), found none.")
        twice = sorted(name for name, n in Counter(path.stem for path in files).items() if n > 1)
        if twice:
            raise SourceError(f"compute.data_uri: a concept must have one file, '{twice[0]}' has several in {folder}.")

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names without suffix, sorted."""
        return tuple(sorted(self._file))

    def divided(self, seed: int, n_train: int, n_test: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Draw disjoint training and test concepts, each sorted by name.

        Raises
        ------
        SourceError
            More concepts than there are files.
        """
        names = self.concepts
        if n_train + n_test > len(names):
            raise SourceError(
                f"data.source: n_train_concepts + n_test_concepts must be at most the {len(names)} pictures of "
                f"compute.data_uri, got {n_train} + {n_test}."
            )
        order = np.random.default_rng([seed, 11]).permutation(len(names))
        chosen = [names[i] for i in order[: n_train + n_test]]
        return tuple(sorted(chosen[:n_train])), tuple(sorted(chosen[n_train:]))

    def rgb(self, concepts: Sequence[str], px: int) -> np.ndarray:
        """Return pictures squeezed to a square, uint8 (N, px, px, 3).

        Raises
        ------
        PictureError
            A file that does not decode.
        """
        rgb_NHW3 = np.empty((len(concepts), px, px, 3), dtype=np.uint8)
        for n, concept in enumerate(concepts):
            path = self._file[concept]
            try:
                with Image.open(path) as image:
                    rgb_NHW3[n] = np.asarray(image.convert("RGB").resize((px, px), Image.Resampling.BICUBIC))
            except OSError as error:
                raise PictureError(f"{path.name} of compute.data_uri does not decode: {error}") from None
        return rgb_NHW3
