"""From one person's EEG to other people's: a linear map between mean responses to pictures that both saw.

Subject transfer as in Perceptogram (Fei et al., 2024; desa-lab/Perceptogram@8924f99): ridge regression from EEG to
EEG, penalty 1,000 on standardised samples, 3,000 pictures. A decoder of the others then reads a person whom it never
saw, by training pictures alone.

Shape letters: N trial, Q mean response, P picture, C chan, T time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eegdecode.batch import Fold
from eegdecode.data.shardset import ShardSet, Untested
from eegdecode.data.splits import NONE, TEST, TRAIN
from eegdecode.train.closed_form import Ridge, RidgePath, accumulate
from eegdecode.train.validation import picture_means

ALPHA = 1000.0
PICTURES = 3000
"""At most; drawn if there are more."""
LARGEST = 4096
"""Samples of a trial beyond which the map would not fit into memory: it has their square."""


@dataclass(frozen=True)
class Transfer:
    """A map of trials (N, C, T) of one person to what the others' would be."""

    subject: str
    ridge: Ridge
    n_pictures: int

    def __call__(self, eeg_uv_NCT: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the mapped trials, float32 (N, C, T)."""
        flat_ND = eeg_uv_NCT.reshape(len(eeg_uv_NCT), -1).astype(np.float64)
        mapped_ND = flat_ND @ self.ridge.weight_DE + self.ridge.bias_E
        mapped_NCT: NDArray[np.float32] = mapped_ND.reshape(eeg_uv_NCT.shape).astype(np.float32)
        return mapped_NCT


def fit_transfer(shards: ShardSet, fold: Fold, seed: int, pictures: int = PICTURES) -> Transfer:
    """Return the map of the person whom a fold leaves out to the mean of those it learns from.

    Only pictures that the fold learns from are looked at, and only trials of no part that selects or scores. Every
    person counts alike, whoever saw a picture more often.

    Raises
    ------
    ValueError
        Not one person left out, trials too long, or fewer than two pictures in common.
    """
    size = len(shards.manifest.channels) * shards.manifest.n_times
    if size > LARGEST:
        raise ValueError(
            f"a map from EEG to EEG needs trials of at most {LARGEST} samples over all electrodes, got {size}. "
            "Take fewer electrodes or a lower data.epochs.sfreq_hz."
        )
    part_N, row_N = shards.part_of(fold), shards.picture_row
    person_N = shards.table["subject"].to_numpy(str)
    learnt_N = part_N == TRAIN
    left = np.setdiff1d(person_N[part_N == TEST], person_N[learnt_N])
    if len(left) != 1:
        raise ValueError(
            f"a map needs one person who is tested and not learnt from, fold '{fold.name}' has {left.tolist()}: set "
            "protocol.split_by='subject_concept' and protocol.calibration_concepts=0."
        )
    subject = str(left[0])
    own_N = (person_N == subject) & (part_N == NONE)
    common_P = np.intersect1d(row_N[own_N], row_N[learnt_N])
    if len(common_P) < 2:
        raise ValueError(f"a map needs two pictures that '{subject}' and others saw, got {len(common_P)}.")
    drawn_P = np.sort(np.random.default_rng(seed).permutation(common_P)[:pictures])
    wanted_N = np.flatnonzero((own_N | learnt_N) & np.isin(row_N, drawn_P))
    mean_QCT, row_Q, person_Q = picture_means(shards, fold, Untested(wanted_N))
    mean_QD, own_Q = mean_QCT.reshape(len(row_Q), -1), np.array(person_Q) == subject
    moments = accumulate(
        (mean_QD[own_Q & (row_Q == row)], {"": mean_QD[~own_Q & (row_Q == row)].mean(axis=0, keepdims=True)})
        for row in drawn_P.tolist()
    )
    return Transfer(subject, RidgePath(moments, standardise=True).fit("", ALPHA), len(drawn_P))
