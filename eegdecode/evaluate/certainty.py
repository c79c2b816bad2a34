"""How sure the answers may be, and how well the trials agree with themselves: what a report says of either.

A probability is a share of its gallery, and validation has other candidates and fewer repetitions than test. So both
are brought to one task first: galleries of one size with one picture per concept, and queries of as many repetitions.

Shape letters: N trial, C chan, T time, P picture, R repetition, X electrode and time bin, D embedding, Q query,
G gallery.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eegdecode.config import Section
from eegdecode.evaluate.calibration import Calibration, calibrate
from eegdecode.evaluate.ceiling import NoiseCeiling, noise_ceiling
from eegdecode.evaluate.retrieval import average_repetitions

Score = Callable[[NDArray[np.float32], NDArray[np.str_], NDArray[np.float32]], NDArray[np.float32]]
"""EEG (Q, C, T), the subject of each query and targets (G, D) to scores (Q, G)."""
LEAST_QUERIES = 20
"""Validation queries below which no temperature is fitted."""
BIN_S = 0.05
"""Responses are averaged over so many seconds before halves are compared, or classes told from them."""


class CalibrationFact(Section):
    """Calibration on test concepts, fitted on validation concepts, or why there is none."""

    result: Calibration | None = None
    repetitions: int | None = None
    """Averaged into a query of either part: the most that every picture of both has."""
    reason: str = ""
    """Why there is none."""


class CeilingFact(Section):
    """Split-half noise ceiling of the test trials of each subject, or why there is none."""

    per_subject: dict[str, NoiseCeiling] = Field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """Trials of validation or test, and the pictures they may be taken for.

    Attributes
    ----------
    eeg_uv_NCT, picture_N, subject_N
        Trials and what was shown to whom.
    pictures, concepts, target_PD
        Candidates, as the decoder's embeddings are compared with them.
    """

    eeg_uv_NCT: NDArray[np.float32]
    picture_N: NDArray[np.str_]
    subject_N: NDArray[np.str_]
    pictures: tuple[str, ...]
    concepts: tuple[str, ...]
    target_PD: NDArray[np.float32]

    def fewest_repetitions(self) -> int:
        """Return the least number of trials that a subject has of a picture."""
        pairs = np.stack([self.subject_N, self.picture_N], axis=1)
        return int(np.unique(pairs, axis=0, return_counts=True)[1].min())


def calibration_fact(
    val: Part | None,
    test: Part,
    score: Score,
    *,
    test_repetitions: int,
    seed: int,
    reason: str = "",
) -> CalibrationFact:
    """Calibrate on small galleries of one size, or say why not.

    Parameters
    ----------
    val
        None where no validation concept stayed out of training; `reason` then says why.
    score
        How a decoder ranks.
    test_repetitions
        Most repetitions in a query; 0: as many as both parts have.
    """
    if val is None:
        return CalibrationFact(reason=reason)
    n_way = min(len(set(val.concepts)), len(set(test.concepts)))
    k = min(val.fewest_repetitions(), test.fewest_repetitions(), test_repetitions or 10**9)
    val_scores_QG, val_target_Q, val_concept_Q = _small(val, score, n_way, k, seed)
    if len(val_target_Q) < LEAST_QUERIES or n_way < 2:
        return CalibrationFact(
            reason=f"validation has {len(val_target_Q)} queries over {n_way} concepts; a temperature needs "
            f"{LEAST_QUERIES} queries over 2."
        )
    scores_QG, target_Q, concept_Q = _small(test, score, n_way, k, seed)
    found = calibrate(val_scores_QG, val_target_Q, val_concept_Q, scores_QG, target_Q, concept_Q, seed=seed)
    return CalibrationFact(result=found, repetitions=k)


def small_galleries(
    pictures: Sequence[str], concepts: Sequence[str], n_way: int, seed: int
) -> tuple[tuple[str, ...], ...]:
    """Return disjoint galleries of `n_way` pictures, one of a concept in each; what does not fill one is left out."""
    rng = np.random.default_rng(seed)
    of: dict[str, list[str]] = {}
    for picture, concept in sorted(zip(pictures, concepts, strict=True)):
        of.setdefault(concept, []).append(picture)
    shuffled = {concept: rng.permutation(own).tolist() for concept, own in of.items()}
    galleries = []
    for turn in range(max(len(own) for own in of.values())):
        left = [own[turn] for own in shuffled.values() if turn < len(own)]
        drawn = rng.permutation(left).tolist()
        galleries += [tuple(drawn[i : i + n_way]) for i in range(0, len(drawn) - n_way + 1, n_way)]
    return tuple(galleries)


def ceiling_fact(
    eeg_uv_NCT: NDArray[np.float32],
    picture_N: NDArray[np.str_],
    subject_N: NDArray[np.str_],
    *,
    sfreq_hz: float,
    tmin_s: float,
    seed: int,
) -> CeilingFact:
    """Return the noise ceiling of responses after the picture appears, in bins of `BIN_S`, or why there is none."""
    binned_NX = time_bins(eeg_uv_NCT, sfreq_hz, tmin_s).reshape(len(eeg_uv_NCT), -1)
    if not binned_NX.shape[1]:
        return CeilingFact(reason="no time bin lies after the picture appears.")
    found = {}
    for subject in np.unique(subject_N):
        rows = np.flatnonzero(subject_N == subject)
        shown, count_P = np.unique(picture_N[rows], return_counts=True)
        n = int(count_P.min())
        if len(shown) < 3 or n < 2:
            return CeilingFact(
                reason=f"halves need 3 pictures with 2 repetitions each; subject {subject} has {len(shown)} pictures "
                f"and {n} of the one shown least."
            )
        response_PRX = np.stack([binned_NX[rows[picture_N[rows] == picture][:n]] for picture in shown])
        # A silent electrode never differs between pictures and has no correlation.
        alive_X = np.ptp(response_PRX.mean(axis=1, dtype=np.float64), axis=0) > 0
        if not alive_X.any():
            return CeilingFact(reason=f"no electrode of subject {subject} ever differs between pictures.")
        found[str(subject)] = noise_ceiling(response_PRX[:, :, alive_X], seed=seed)
    return CeilingFact(per_subject=found)


def time_bins(eeg_NCT: NDArray[Any], sfreq_hz: float, tmin_s: float) -> NDArray[Any]:
    """Return means over bins of `BIN_S` after the picture appears, (N, C, bins); a rest that fills none is left out."""
    first, size = max(0, round(-tmin_s * sfreq_hz)), max(1, round(BIN_S * sfreq_hz))
    n_bins = max(0, (eeg_NCT.shape[2] - first) // size)
    cut_NCT = eeg_NCT[:, :, first : first + n_bins * size]
    binned_NCB: NDArray[Any] = cut_NCT.reshape(*cut_NCT.shape[:2], n_bins, size).mean(axis=3)
    return binned_NCB


def _small(
    part: Part,
    score: Score,
    n_way: int,
    k: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_]]:
    """Return scores (Q, n_way), the right column and the concept; the first mean of every subject and picture."""
    means = average_repetitions(part.eeg_uv_NCT, part.picture_N, part.subject_N, k, seed)
    pairs = np.stack([means.subject_Q, means.picture_Q], axis=1)
    first_Q = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    eeg_uv_QCT, picture_Q = means.eeg_uv_QCT[first_Q], means.picture_Q[first_Q]
    row = {picture: i for i, picture in enumerate(part.pictures)}
    concept = dict(zip(part.pictures, part.concepts, strict=True))
    scores_QP = score(eeg_uv_QCT, means.subject_Q[first_Q], part.target_PD)
    rows_Q, columns_QG, target_Q = [], [], []
    for gallery in small_galleries(part.pictures, part.concepts, n_way, seed):
        place = {picture: i for i, picture in enumerate(gallery)}
        for q in np.flatnonzero(np.isin(picture_Q, gallery)).tolist():
            rows_Q.append(q)
            columns_QG.append([row[picture] for picture in gallery])
            target_Q.append(place[picture_Q[q]])
    at_Q, at_QG = np.array(rows_Q, np.int64), np.array(columns_QG, np.int64).reshape(-1, n_way)
    concept_Q = np.array([concept[picture] for picture in picture_Q[at_Q].tolist()])
    return scores_QP[at_Q[:, None], at_QG], np.array(target_Q, np.int64), concept_Q
