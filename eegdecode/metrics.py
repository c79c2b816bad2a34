"""Retrieval and two-class scores, each with its chance level. Shape letters: Q query, G gallery.

Scores must be finite: a NaN would silently rank last. Ties are never resolved in favour of the right answer, each
function says how.
"""

from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def top_k(scores_QG: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """Return the share of queries with a relevant candidate among the k best; see `top_k_hits`."""
    return float(top_k_hits(scores_QG, relevant, k).mean())


def top_k_hits(scores_QG: ArrayLike, relevant: ArrayLike, k: int) -> Floats:
    """Return for each query the probability that a relevant candidate is among the k best.

    It is 0 or 1 without ties. Ties are broken at random and the exact expectation is returned, so that a constant score
    lands on chance.

    Parameters
    ----------
    scores_QG
        Higher is better.
    relevant
        Boolean (Q, G), or the index of the one relevant candidate (Q,).
    k
        At least 1.

    Raises
    ------
    ValueError
        Shapes that do not fit, scores that are not finite, a query without a relevant candidate.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}.")
    scores, right = _checked(scores_QG, relevant)
    best_Q = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    above_Q = (scores > best_Q).sum(axis=1)
    tied_QG = scores == best_Q
    hits = np.empty(len(scores))
    for q, (above, tied, own) in enumerate(
        zip(above_Q.tolist(), tied_QG.sum(axis=1).tolist(), (tied_QG & right).sum(axis=1).tolist(), strict=True)
    ):
        hits[q] = chance_top_k(tied, min(k - above, tied), own) if k > above else 0.0
    return hits


def n_way_hits(scores_QG: ArrayLike, target_Q: ArrayLike, n_way: int, k: int = 1) -> Floats:
    """Return each query's expected n-way top-k: the exact mean over all draws of n_way - 1 distractors.

    Ties are broken at random, in expectation.
    """
    scores, right = _checked(scores_QG, target_Q)
    if (right.sum(axis=1) != 1).any():
        raise ValueError("n-way accuracy needs exactly one relevant candidate per query.")
    n = scores.shape[1]
    if not 2 <= n_way <= n or k < 1:
        raise ValueError(f"n_way must be between 2 and the {n} candidates and k at least 1, got {n_way} and {k}.")
    own_Q = scores[right][:, None]
    above_Q, tied_Q = (scores > own_Q).sum(axis=1), (scores == own_Q).sum(axis=1)
    # Chance that at most k - 1 of the distractors drawn come from the r candidates above the target.
    by_rank = np.array(
        [sum(comb(r, j) * comb(n - 1 - r, n_way - 1 - j) for j in range(min(k, n_way))) for r in range(n)], dtype=object
    ) / comb(n - 1, n_way - 1)
    return np.array([float(np.mean(by_rank[a : a + t])) for a, t in zip(above_Q, tied_Q, strict=True)])


def mean_average_precision(scores_QG: ArrayLike, relevant: ArrayLike) -> float:
    """Return the mean of `average_precision` over queries; the mean reciprocal rank where one candidate is relevant."""
    return float(average_precision(scores_QG, relevant).mean())


def average_precision(scores_QG: ArrayLike, relevant: ArrayLike) -> Floats:
    """Return each query's average precision.

    Candidates of one score enter together, as in scikit-learn: a constant score gives the share of relevant candidates,
    which is below the expectation under random ties (pessimistic).
    """
    scores, right = _checked(scores_QG, relevant)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    hit = np.take_along_axis(right, order, axis=1)
    found = hit.cumsum(axis=1)
    n = scores.shape[1]
    # Precision is read at the end of each run of equal scores.
    is_end = np.concatenate([ordered[:, 1:] != ordered[:, :-1], np.ones((len(scores), 1), bool)], axis=1)
    end = np.minimum.accumulate(np.where(is_end, np.arange(n), n)[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(found, end, axis=1) / (end + 1)
    return np.asarray((precision * hit).sum(axis=1) / hit.sum(axis=1))


def roc_auc(scores_N: ArrayLike, positive_N: ArrayLike) -> float:
    """Return the probability that a positive scores above a negative; a tie counts one half. Chance is 0.5.

    Raises
    ------
    ValueError
        One class only, or scores that are not finite.
    """
    scores, positive = np.asarray(scores_N, np.float64), np.asarray(positive_N, bool)
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ValueError(f"ROC AUC needs one score and one label a trial, got {scores.shape} and {positive.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    n_pos = int(positive.sum())
    n_neg = len(positive) - n_pos
    if n_pos == 0 or n_neg == 0:
        raise ValueError(f"ROC AUC needs trials of both classes, got {n_pos} positive and {n_neg} negative.")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum())
    return (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)


def chance_top_k(n_way: int, k: int, n_relevant: int = 1) -> float:
    """Return the probability that a random order puts one of `n_relevant` candidates among the first k of `n_way`."""
    if not 1 <= n_relevant <= n_way or k < 1:
        raise ValueError(f"chance needs 1 <= n_relevant <= n_way and k >= 1, got {n_relevant}, {n_way} and {k}.")
    k = min(k, n_way)
    if n_relevant == 1:
        return k / n_way
    return 1 - comb(n_way - n_relevant, k) / comb(n_way, k)


def chance_average_precision(n_way: int, n_relevant: int = 1) -> float:
    """Return the expected average precision of a random order (Bestgen, 2015)."""
    if not 1 <= n_relevant <= n_way:
        raise ValueError(f"chance needs 1 <= n_relevant <= n_way, got {n_relevant} and {n_way}.")
    harmonic = float((1 / np.arange(1, n_way + 1)).sum())
    if n_way == 1:
        return 1.0
    return (harmonic + (n_relevant - 1) / (n_way - 1) * (n_way - harmonic)) / n_way


def _checked(scores_QG: ArrayLike, relevant: ArrayLike) -> tuple[Floats, Bools]:
    scores, given = np.asarray(scores_QG, np.float64), np.asarray(relevant)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"scores must be (queries, candidates), got {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {int((~np.isfinite(scores)).sum())} that are not.")
    if given.ndim == 1 and given.dtype != bool:
        n = scores.shape[1]
        if given.shape != scores.shape[:1] or given.min() < 0 or given.max() >= n:
            raise ValueError(
                f"targets must be one index below {n} for each of {len(scores)} queries, got {given.shape}."
            )
        right = np.arange(n)[None, :] == given[:, None]
    else:
        right = given.astype(bool)
    if right.shape != scores.shape:
        raise ValueError(f"relevant must have the shape of the scores {scores.shape}, got {right.shape}.")
    if not right.any(axis=1).all():
        raise ValueError(
            f"query {int(np.flatnonzero(~right.any(axis=1))[0])} has no relevant candidate in the gallery."
        )
    return scores, right


def spearman_brown(r: ArrayLike, factor: float = 2.0) -> Floats:
    """Return the reliability of `factor` times as many repetitions, from the correlation of two sets of them.

    Below 0, where the formula runs to minus infinity, it is mirrored, so that noise averages 0. Spearman (1910) and
    Brown (1910), Br. J. Psychol. 3.
    """
    found = np.asarray(r, np.float64)
    corrected: Floats = factor * found / (1 + (factor - 1) * np.abs(found))
    return corrected
