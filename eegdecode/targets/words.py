"""Looks of the picture beside the words of its concept: looks and meaning in one target, without weights.

Looks are the numbers of `gabor` or of `pyramid`.

A word has a fixed random vector, drawn from the digest of its letters, so that nothing is fitted and no list of words
is kept. Words that two concepts share bring them together; words that no training concept has tell nothing.
Early visual areas answer to energies, later ones to what a thing is (Grill-Spector & Weiner 2014, Nature Reviews
Neuroscience 15, 536), which no filter of pixels tells.
Shape letters: N picture, D embedding.
"""

import hashlib
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.gabor import GaborTower
from eegdecode.targets.pyramid import PyramidTower
from eegdecode.targets.spec import Spec

WORD_DIM = 128
"""Length of a word's vector: random directions among a few hundred words are then nearly at right angles."""
WORD_SHARE = 0.2
"""Power of the words over the power of the looks, about."""
_PART, _WORD = re.compile(r"[-\s]+"), re.compile(r"[-_\s]+")


def words_of(concept: str) -> tuple[str, ...]:
    """Return the parts of a concept's name and their words, each once, sorted: ``disc-stripes_fine`` has four."""
    name = concept.lower().strip()
    return tuple(sorted({word for pattern in (_PART, _WORD) for word in pattern.split(name) if word}))


def word_vector(word: str) -> NDArray[np.float32]:
    """Return the vector of a word, (WORD_DIM,), of about unit length and the same everywhere."""
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    # Signs from the raw stream of PCG64, which NumPy promises to keep; its normal variates it does not.
    bits = np.unpackbits(np.random.PCG64(seed).random_raw(WORD_DIM // 64).astype(">u8").view(np.uint8))
    vector: NDArray[np.float32] = ((2.0 * bits - 1.0) / np.sqrt(WORD_DIM)).astype(np.float32)
    return vector


class LooksAndWordsTower:
    """The numbers of a tower of looks, then `WORD_DIM` numbers of the concept's words.

    Parameters
    ----------
    looks
        Its numbers have about zero mean and unit deviation.
    """

    def __init__(self, looks: GaborTower | PyramidTower) -> None:
        self._looks, of_looks = looks, looks.fact
        dim = of_looks.dim + WORD_DIM
        self._scale = np.float32(np.sqrt(WORD_SHARE * of_looks.dim))
        self.fact = TargetFact(
            tower=f"{of_looks.tower}_words",
            layer=f"{of_looks.layer}+words",
            revision=f"{of_looks.revision}+signs{WORD_DIM}x{WORD_SHARE:g}",
            preprocessing=f"{of_looks.preprocessing} | concept split at hyphens, underscores and spaces, lower case",
            dim=dim,
            shape=(dim,),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, D).

        Raises
        ------
        ValueError
            No concept for each picture.
        """
        named = check_concepts(self.fact.tower, images, concepts)
        word_ND = np.zeros((len(images), WORD_DIM), np.float32)
        for n, concept in enumerate(named):
            found = words_of(concept)
            for word in found:
                word_ND[n] += word_vector(word)
            # A long name is not a loud one.
            word_ND[n] *= self._scale / np.float32(np.sqrt(max(len(found), 1)))
        return np.concatenate([self._looks.embed(images), word_ND], axis=1)


def check_concepts(tower: str, images: list[Image.Image], concepts: list[str] | None) -> list[str]:
    """Return the concepts that a tower of words reads, one for each picture.

    Raises
    ------
    ValueError
        No concept for each picture.
    """
    if concepts is None or len(concepts) != len(images):
        raise ValueError(
            f"{tower} needs one concept for each of {len(images)} pictures, got "
            f"{'none' if concepts is None else len(concepts)}: embed(images, concepts)."
        )
    return concepts


def open_gabor_words(spec: Spec, weights_uri: str) -> LooksAndWordsTower:
    """Make the tower of the spec ``gabor_words``; it needs no weights."""
    return LooksAndWordsTower(GaborTower())


def open_pyramid_words(spec: Spec, weights_uri: str) -> LooksAndWordsTower:
    """Make the tower of the spec ``pyramid_words``; it needs no weights."""
    return LooksAndWordsTower(PyramidTower())
