"""Scores that use the whole unlabelled test set; every function and every score says so in its name.

An inductive decoder answers one query without knowing the others. What is here does not: CSLS and Sinkhorn spread the
answers over the gallery, Hungarian assignment hands out each candidate once, whitening and rotation are fitted on the
test queries. They tell what a batch of unlabelled EEG is worth when the gallery is known to be exactly what was shown;
they are no headline, and `TransductiveScore` is a type that a report, its headline and a search refuse.

Shape letters: Q query, G gallery, D embedding.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import linear_sum_assignment

from eegdecode import metrics
from eegdecode.config import Section
from eegdecode.evaluate.statistics import Floats, Interval, Ints, bootstrap_interval

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern="^transductive_")]
WHITENING_FLOOR = 1e-6
"""Added to every variance before whitening, as the reference does."""


class TransductiveScore(Section):
    """One number that an inductive decoder could not have reached by the same rule."""

    name: Name
    value: Share
    """Mean over subjects."""
    chance: Share
    ci95: Interval
    """Concepts drawn with replacement while the assignment stays as it is; its own spread is not in it."""
    n_way: int
    n_queries: int
    n_subjects: int
    uses: str
    """What of the test set it takes."""


def transductive_csls(scores_QG: NDArray[Any], k: int = 10) -> Floats:
    """Return cross-domain similarity local scaling: hubs lose what they have with everybody.

    Twice the score less the mean of the query's and of the candidate's k best (Conneau et al. 2018, arXiv:1710.04087;
    as in ViktorHug0/Neurobridge_ssl@7898cf6). `k` is cut to the smaller side.
    """
    scores_QG = _finite(scores_QG)
    k = max(1, min(k, *scores_QG.shape))
    by_query_Q1 = np.sort(scores_QG, axis=1)[:, -k:].mean(axis=1, keepdims=True)
    by_candidate_1G = np.sort(scores_QG, axis=0)[-k:].mean(axis=0, keepdims=True)
    csls_QG: Floats = 2 * scores_QG - by_query_Q1 - by_candidate_1G
    return csls_QG


def transductive_sinkhorn(scores_QG: NDArray[Any], temperature: float = 0.05, n_iterations: int = 20) -> Floats:
    """Return soft assignments whose rows and columns are normalised in turn (Cuturi 2013, arXiv:1306.0895).

    Rows first, so that in the end the columns sum to 1 and the rows nearly.
    """
    if temperature <= 0 or n_iterations < 1:
        raise ValueError(f"Sinkhorn needs a temperature above 0 and 1 iteration, got {temperature} and {n_iterations}.")
    log_QG = _finite(scores_QG) / temperature
    # In logarithms, so that no candidate's column can sum to 0.
    for _ in range(n_iterations):
        log_QG = log_QG - np.logaddexp.reduce(log_QG, axis=1, keepdims=True)
        log_QG = log_QG - np.logaddexp.reduce(log_QG, axis=0, keepdims=True)
    soft_QG: Floats = np.exp(log_QG)
    return soft_QG


def transductive_assignment(scores_QG: NDArray[Any]) -> Ints:
    """Return the candidate of each query (Q,) when no candidate may be given twice and the sum is largest (Kuhn 1955).

    Raises
    ------
    ValueError
        More queries than candidates: they can not all get one of their own.
    """
    scores_QG = _finite(scores_QG)
    if scores_QG.shape[0] > scores_QG.shape[1]:
        raise ValueError(
            f"one-to-one assignment needs at least as many candidates as queries, got {scores_QG.shape}; give one "
            "subject at a time, one query a picture."
        )
    return np.asarray(linear_sum_assignment(scores_QG, maximize=True)[1], np.int64)


def transductive_whiten(z_QD: NDArray[Any], subject_Q: NDArray[Any], shrinkage: float = 0.2) -> Floats:
    """Return predicted embeddings whitened (ZCA) by each subject's own test queries, rows of unit norm.

    The covariance is shrunk by a fixed share towards its mean variance; subject-adaptive whitening of SATTC
    (arXiv:2603.20738), as in ViktorHug0/Neurobridge_ssl@7898cf6.

    Raises
    ------
    ValueError
        A subject with one query, a shrinkage outside 0 to 1.
    """
    z_QD, subject_Q = _finite(z_QD), np.asarray(subject_Q)
    if len(subject_Q) != len(z_QD) or not 0 <= shrinkage <= 1:
        raise ValueError(
            f"whitening needs a subject per query and a shrinkage of 0 to 1, got {len(subject_Q)} for {len(z_QD)} "
            f"and {shrinkage}."
        )
    white_QD = np.empty(z_QD.shape)
    for subject in np.unique(subject_Q):
        rows = np.flatnonzero(subject_Q == subject)
        if len(rows) < 2:
            raise ValueError(f"whitening needs 2 queries of a subject, got {len(rows)} of '{subject}'.")
        centred_ND = z_QD[rows] - z_QD[rows].mean(axis=0)
        covariance_DD = centred_ND.T @ centred_ND / (len(rows) - 1)
        size = len(covariance_DD)
        target = np.trace(covariance_DD) / size
        covariance_DD = (1 - shrinkage) * covariance_DD + (shrinkage * target + WHITENING_FLOOR) * np.eye(size)
        values, vectors = np.linalg.eigh(covariance_DD)
        white_QD[rows] = centred_ND @ (vectors / np.sqrt(np.maximum(values, WHITENING_FLOOR))) @ vectors.T
    return _unit(white_QD)


def transductive_procrustes(z_QD: NDArray[Any], gallery_GD: NDArray[Any], soft_QG: NDArray[Any]) -> Floats:
    """Return the rotation (D, D) that brings unit-norm queries nearest to the candidates they are assigned to.

    Orthogonal Procrustes (Schönemann 1966) weighted by a soft assignment, such as `transductive_sinkhorn`; apply it as
    ``z_QD @ rotation_DD``. As in ViktorHug0/Neurobridge_ssl@7898cf6.
    """
    z_QD, gallery_GD, soft_QG = _finite(z_QD), _finite(gallery_GD), _finite(soft_QG)
    if soft_QG.shape != (len(z_QD), len(gallery_GD)) or z_QD.shape[1] != gallery_GD.shape[1]:
        raise ValueError(
            f"queries, candidates and assignment must fit, got {z_QD.shape}, {gallery_GD.shape}, {soft_QG.shape}."
        )
    if soft_QG.min() < 0 or soft_QG.sum() <= 0:
        raise ValueError("an assignment must be at least 0 everywhere and above 0 somewhere.")
    left_DD, _, right_DD = np.linalg.svd(_unit(z_QD).T @ soft_QG @ _unit(gallery_GD))
    rotation_DD: Floats = left_DD @ right_DD
    return rotation_DD


def transductive_scores(
    scores_QG: NDArray[Any],
    gallery: Sequence[str],
    shown_Q: Sequence[str] | NDArray[Any],
    subject_Q: Sequence[str] | NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    seed: int,
    csls_k: int = 10,
) -> tuple[TransductiveScore, ...]:
    """Score a matrix under CSLS, Sinkhorn and Hungarian assignment, each subject's queries taken together.

    Returns
    -------
    Top-1 and top-5 of CSLS and Sinkhorn, top-1 of the assignment; the latter is left out where a subject has more
    queries than candidates.
    """
    scores_QG = _finite(scores_QG)
    labels_G, shown_Q, subject_Q = np.asarray(gallery), np.asarray(shown_Q), np.asarray(subject_Q)
    if scores_QG.shape != (len(shown_Q), len(labels_G)) or len(subject_Q) != len(shown_Q):
        raise ValueError(
            f"scores must be (queries, candidates), got {scores_QG.shape} for {len(shown_Q)} and {len(labels_G)}."
        )
    right_QG = shown_Q[:, None] == labels_G[None]
    csls_QG, sinkhorn_QG = np.empty(scores_QG.shape), np.empty(scores_QG.shape)
    assigned_Q = np.zeros(len(shown_Q))
    fits = True
    for subject in np.unique(subject_Q):
        rows = np.flatnonzero(subject_Q == subject)
        csls_QG[rows] = transductive_csls(scores_QG[rows], csls_k)
        # The usual temperature 0.05 belongs to cosines; scores of another size are brought to theirs.
        sinkhorn_QG[rows] = transductive_sinkhorn(scores_QG[rows] / max(np.abs(scores_QG[rows]).max(), 1e-300))
        if len(rows) <= len(labels_G):
            assigned_Q[rows] = right_QG[rows, transductive_assignment(scores_QG[rows])]
        else:
            fits = False
    hits = {
        f"transductive_{rule}_top{k}": (k, metrics.top_k_hits(x_QG, right_QG, k))
        for rule, x_QG in (("csls", csls_QG), ("sinkhorn", sinkhorn_QG))
        for k in (1, 5)
    }
    if fits:
        hits["transductive_hungarian_top1"] = (1, assigned_Q)
    return tuple(
        transductive_score(name, hits_Q, right_QG.sum(axis=1), len(labels_G), subject_Q, concept_Q, k=k, seed=seed)
        for name, (k, hits_Q) in hits.items()
    )


def transductive_score(
    name: str,
    hits_Q: NDArray[Any],
    n_right_Q: NDArray[Any],
    n_way: int,
    subject_Q: NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    k: int = 1,
    seed: int,
) -> TransductiveScore:
    """Return the mean of hits over subjects with chance and interval, under a name that says what it is.

    Parameters
    ----------
    n_right_Q
        How many candidates are right for each query.
    """
    hits_Q = np.asarray(hits_Q, np.float64)
    subjects, subject_of_Q = np.unique(subject_Q, return_inverse=True)
    concepts, concept_of_Q = np.unique(np.asarray(concept_Q), return_inverse=True)
    sum_SU, n_SU = np.zeros((2, len(subjects), len(concepts)))
    np.add.at(sum_SU, (subject_of_Q, concept_of_Q), hits_Q)
    np.add.at(n_SU, (subject_of_Q, concept_of_Q), 1)

    def mean(weight_RU: Floats) -> Floats:
        n_RS = weight_RU @ n_SU.T
        share_RS = np.divide(weight_RU @ sum_SU.T, n_RS, out=np.full(n_RS.shape, np.nan), where=n_RS > 0)
        return np.asarray(np.nanmean(share_RS, axis=1))

    weight_Q = 1 / (np.bincount(subject_of_Q)[subject_of_Q] * len(subjects))
    chance_Q = [metrics.chance_top_k(n_way, k, int(m)) for m in n_right_Q]
    low, high = bootstrap_interval(mean, len(concepts), seed=seed)
    return TransductiveScore(
        name=name,
        value=float(np.clip(hits_Q @ weight_Q, 0, 1)),
        chance=float(np.clip(np.dot(chance_Q, weight_Q), 0, 1)),
        ci95=(max(low, 0.0), min(high, 1.0)),
        n_way=n_way,
        n_queries=len(hits_Q),
        n_subjects=len(subjects),
        uses="all test queries of a subject at once, and that the gallery is what was shown",
    )


def _finite(x: NDArray[Any]) -> Floats:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise ValueError(
            f"a matrix of finite numbers is needed, got {x.shape} with {int((~np.isfinite(x)).sum())} bad."
        )
    return x


def _unit(x_ND: Floats) -> Floats:
    norm_N1 = np.linalg.norm(x_ND, axis=1, keepdims=True)
    if (norm_N1 == 0).any():
        raise ValueError(f"every row must have a length above 0, row {int(np.argmin(norm_N1))} has 0.")
    unit_ND: Floats = x_ND / norm_N1
    return unit_ND
