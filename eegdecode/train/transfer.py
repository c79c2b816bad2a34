"""From one person's EEG to other people's: a linear map between mean responses to pictures that both saw.

Subject transfer as in Perceptogram (Fei et al., 2024; desa-lab/Perceptogram@8924f99): ridge regression from EEG to
EEG, penalty 1,000 on standardised samples, 3,000 pictures. A decoder of the others then reads a person whom it never
saw, by training pictures alone.

Shape letters: N trial, P picture, C chan, T time, X sample of a trial (C times T).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eegdecode.batch import Fold
from eegdecode.data.shardset import ShardSet
from eegdecode.data.splits import NONE, TRAIN
from eegdecode.train.closed_form import Ridge, RidgePath, accumulate

ALPHA = 1000.0
PICTURES = 3000
"""At most; drawn if there are more."""
LARGEST = 4096
"""Samples of a trial beyond which the map would not fit into memory: it has their square."""


@dataclass(frozen=True)
class Transfer:
    """A map of trials (N, C, T) of one person to what the others' would be."""

    ridge: Ridge
    n_pictures: int

    def __call__(self, eeg_uv_NCT: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the mapped trials, float32 (N, C, T)."""
        flat_NX = eeg_uv_NCT.reshape(len(eeg_uv_NCT), -1).astype(np.float64)
        mapped_NX = flat_NX @ self.ridge.weight_DE + self.ridge.bias_E
        mapped_NCT: NDArray[np.float32] = mapped_NX.reshape(eeg_uv_NCT.shape).astype(np.float32)
        return mapped_NCT


def fit_transfer(
    shards: ShardSet, fold: Fold, seed: int, pictures: int = PICTURES, alpha: float = ALPHA
) -> dict[str, Transfer]:
    """Return a map for every person whom a fold tests and does not learn from, to the mean of those it learns from.

    Only pictures that the fold learns from are looked at, and only trials of no part that selects or scores.

    Raises
    ------
    ValueError
        No person who is left out, trials too long, or fewer than two pictures in common.
    """
    manifest, part_N = shards.manifest, shards.part_of(fold)
    size = len(manifest.channels) * manifest.n_times
    if size > LARGEST:
        raise ValueError(
            f"a map from EEG to EEG needs trials of at most {LARGEST} samples over all electrodes, got {size}. "
            "Take fewer electrodes or a lower data.epochs.sfreq_hz."
        )
    person_N, row_N = shards.table["subject"].to_numpy(str), shards.picture_row
    learnt_N = part_N == TRAIN
    others = np.unique(person_N[learnt_N])
    left = sorted(set(person_N[part_N > TRAIN].tolist()) - set(others.tolist()))
    if not left:
        raise ValueError(
            f"a map needs a person who is tested and not learnt from, fold '{fold.name}' has none: set "
            "protocol.split_by='subject_concept' and protocol.calibration_concepts=0."
        )
    found = {}
    for person in left:
        own_N = (person_N == person) & (part_N == NONE) & np.isin(row_N, row_N[learnt_N])
        common = np.intersect1d(row_N[own_N], row_N[learnt_N])
        if len(common) < 2:
            raise ValueError(f"a map needs two pictures that '{person}' and {others.tolist()} saw, got {len(common)}.")
        drawn = np.sort(np.random.default_rng(seed).permutation(common)[:pictures])
        moments = accumulate(
            (
                _mean_flat(shards, own_N & (row_N == row))[None],
                {"": _mean_of_people(shards, learnt_N & (row_N == row), person_N)[None]},
            )
            for row in drawn.tolist()
        )
        found[person] = Transfer(RidgePath(moments, standardise=True).fit("", alpha), len(drawn))
    return found


def _mean_flat(shards: ShardSet, chosen_N: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of trials, (X,)."""
    mean_CT: NDArray[np.float64] = shards.gather(np.flatnonzero(chosen_N)).mean(axis=0, dtype=np.float64)
    return mean_CT.ravel()


def _mean_of_people(shards: ShardSet, chosen_N: NDArray[np.bool_], person_N: NDArray[np.str_]) -> NDArray[np.float64]:
    """Return the mean over people of their mean trials, (X,): one who saw a picture more often does not count more."""
    people = np.unique(person_N[chosen_N])
    means = [_mean_flat(shards, chosen_N & (person_N == person)) for person in people]
    mean_X: NDArray[np.float64] = np.mean(means, axis=0)
    return mean_X
