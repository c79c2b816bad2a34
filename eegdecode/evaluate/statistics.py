"""Intervals and permutation nulls, as functions of arrays.

Shape letters: N trial, Q query, G gallery, L label, U unit of resampling, R resample or permutation.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eegdecode import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Permute = Literal["pictures", "trials", "positions"]
Interval = tuple[float, float]


def permutation_p(observed: float, null_R: Floats) -> float:
    """Return the share of the null at least as large as observed, the observed one counted in.

    Never 0: with R permutations the smallest value is 1 / (R + 1) (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585).
    """
    null_R = np.asarray(null_R, np.float64)
    if null_R.size == 0 or not np.isfinite(null_R).all() or not np.isfinite(observed):
        raise ValueError(
            f"a permutation p needs a finite score and a finite null, got {observed} and {null_R.size} values."
        )
    # Sums of the same hits in another order differ in the last digit: equal scores must count as equal.
    return float((1 + np.count_nonzero(null_R >= observed - 1e-12)) / (1 + null_R.size))


def bootstrap_interval(
    statistic: Callable[[Floats], Floats], n_units: int, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Return the bias-corrected and accelerated interval of a statistic of weighted units (Efron 1987).

    Parameters
    ----------
    statistic
        Maps weights ``(R, U)``, how often each unit was drawn, to R values.
    n_units
        What is resampled with replacement: concepts, runs or subjects.

    Raises
    ------
    ValueError
        Fewer than two units: there is no spread to learn from.
    """
    if n_units < 2:
        raise ValueError(f"an interval needs at least 2 units to resample, got {n_units}.")
    rng = np.random.default_rng(seed)
    drawn_RU = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_resamples).astype(np.float64)
    value_R = statistic(drawn_RU)
    observed = float(statistic(np.ones((1, n_units)))[0])
    if np.ptp(value_R) == 0:
        return _interval_without_spread(observed, n_units, level)
    left_out_U = statistic(np.ones((n_units, n_units)) - np.eye(n_units))
    pull_U = left_out_U.mean() - left_out_U
    spread = float((pull_U**2).sum()) ** 1.5
    acceleration = float((pull_U**3).sum()) / (6 * spread) if spread > 0 else 0.0
    below = float(np.mean(value_R < observed) + 0.5 * np.mean(value_R == observed))
    bias = stats.norm.ppf(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    tail = (1 - level) / 2
    shifted = bias + stats.norm.ppf([tail, 1 - tail])
    quantile = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(value_R, quantile)
    # A skewed handful of units can push both corrected quantiles past the estimate.
    return min(float(low), observed), max(float(high), observed)


def _interval_without_spread(observed: float, n_units: int, level: float) -> Interval:
    """All units agree: the bootstrap sees no spread, so the exact binomial bound for 0 or n of n stands in."""
    tail = (1 - level) / 2
    if observed == 0:
        return 0.0, float(stats.beta.ppf(1 - tail, 1, n_units))
    if observed == 1:
        return float(stats.beta.ppf(tail, n_units, 1)), 1.0
    return observed, observed


def permuted_labels(
    labels_N: NDArray[Any],
    run_N: NDArray[Any],
    position_N: NDArray[Any],
    how: Permute,
    rng: np.random.Generator,
    picture_N: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return labels exchanged as the null says: within runs, by position alike in all runs, or between pictures.

    Parameters
    ----------
    run_N, position_N
        Run of each trial and its place in that run.
    how
        ``trials``: within each run. ``positions``: one order of positions for all runs, the right one where the
        labels come in the same order every time. ``pictures``: each picture takes another picture's label.
    picture_N
        Needed for ``pictures`` where a label is not the picture itself.

    Raises
    ------
    ValueError
        A position (or picture) that carries more than one label.
    """
    labels_N = np.asarray(labels_N)
    if how == "trials":
        permuted_N = labels_N.copy()
        for run in np.unique(run_N):
            rows = np.flatnonzero(run_N == run)
            permuted_N[rows] = labels_N[rng.permutation(rows)]
        return permuted_N
    unit_N = np.asarray(position_N) if how == "positions" else labels_N if picture_N is None else np.asarray(picture_N)
    units, first, unit_of_N = np.unique(unit_N, return_index=True, return_inverse=True)
    label_U = labels_N[first]
    odd = np.flatnonzero(label_U[unit_of_N] != labels_N)
    if odd.size:
        unit = how.removesuffix("s")
        raise ValueError(
            f"permute='{how}' needs one label per {unit}, got more than one at {unit} {unit_N[odd[0]]} "
            f"(run {run_N[odd[0]]}). Labels whose order differs between runs are permuted by permute='trials'."
        )
    permuted_N = label_U[rng.permutation(len(units))][unit_of_N]
    return np.asarray(permuted_N)


def label_hits(scores_QG: Floats, label_G: Ints, n_labels: int, k: int) -> Floats:
    """Return (Q, L): whether label l would be among the k best of query q, if it were the right one.

    The column of the picture shown is `metrics.top_k_hits`; the others are what a permutation may ask for. Ties are
    broken at random, in expectation, so a decoder that says nothing sits on chance exactly.
    """
    scores_QG = np.asarray(scores_QG, np.float64)
    n_gallery = scores_QG.shape[1]
    best_QL = np.full((len(scores_QG), n_labels), -np.inf)
    for g in range(n_gallery):
        np.maximum(best_QL[:, label_G[g]], scores_QG[:, g], out=best_QL[:, label_G[g]])
    above_QL, tied_QL = np.empty((2, *best_QL.shape), np.int64)
    for q, row_G in enumerate(np.sort(scores_QG, axis=1)):
        above_QL[q] = n_gallery - np.searchsorted(row_G, best_QL[q], side="right")
        tied_QL[q] = n_gallery - np.searchsorted(row_G, best_QL[q], side="left") - above_QL[q]
    hits_QL = (above_QL < k).astype(np.float64)
    for q, label in np.argwhere((above_QL < k) & (tied_QL > k - above_QL)):
        own = int(np.count_nonzero(scores_QG[q, label_G == label] == best_QL[q, label]))
        hits_QL[q, label] = metrics.chance_top_k(int(tied_QL[q, label]), int(k - above_QL[q, label]), own)
    return hits_QL


def pairing_null(hits_QL: Floats, shown_Q: Ints, weight_Q: Floats, n_permutations: int, seed: int) -> Floats:
    """Return the scores under random pairing of EEG and pictures: one exchange of pictures for all subjects.

    The score is linear in the hits, so queries are first added up by the picture that was shown and a permutation
    costs one look-up per picture, however many trials there are.
    """
    shown_L = np.unique(shown_Q)
    table_LL = np.zeros((hits_QL.shape[1], hits_QL.shape[1]))
    np.add.at(table_LL, shown_Q, hits_QL * weight_Q[:, None])
    rng = np.random.default_rng(seed)
    order_RL = rng.permuted(np.tile(shown_L, (n_permutations, 1)), axis=1)
    null_R: Floats = table_LL[shown_L[None, :], order_RL].sum(axis=1)
    return null_R


def auc_rows(rank_N: Floats, positive_RN: NDArray[np.bool_]) -> Floats:
    """Return R values of ROC AUC from mid-ranks and R rows of labels (Mann and Whitney 1947); NaN for one label."""
    n_positive_R = positive_RN.sum(axis=1).astype(np.float64)
    n_negative_R = positive_RN.shape[1] - n_positive_R
    above_R = positive_RN @ rank_N - n_positive_R * (n_positive_R + 1) / 2
    pairs_R = n_positive_R * n_negative_R
    auc_R: Floats = np.divide(above_R, pairs_R, out=np.full(len(pairs_R), np.nan), where=pairs_R > 0)
    return auc_R


def auc_interval(
    decisions: list[Floats],
    positives: list[NDArray[np.bool_]],
    *,
    seed: int,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Return the percentile interval of the mean AUC over groups: groups are drawn, then trials within each.

    Both levels are drawn because three runs alone say little about spread and trials alone ignore that runs differ.
    Trials are drawn within their category, so that every AUC exists.
    """
    rng = np.random.default_rng(seed)
    group_RS = rng.integers(len(decisions), size=(n_resamples, len(decisions)))
    auc_RS = np.empty(group_RS.shape)
    for g, (decision_N, positive_N) in enumerate(zip(decisions, positives, strict=True)):
        where = group_RS == g
        n_draws = int(where.sum())
        up_N, down_N = decision_N[positive_N], decision_N[~positive_N]
        up_DN = up_N[rng.integers(len(up_N), size=(n_draws, len(up_N)))]
        down_DN = down_N[rng.integers(len(down_N), size=(n_draws, len(down_N)))]
        rank_DN = stats.rankdata(np.concatenate([up_DN, down_DN], axis=1), axis=1)
        above_D = rank_DN[:, : len(up_N)].sum(axis=1) - len(up_N) * (len(up_N) + 1) / 2
        auc_RS[where] = above_D / (len(up_N) * len(down_N))
    tail = (1 - level) / 2
    low, high = np.quantile(auc_RS.mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
