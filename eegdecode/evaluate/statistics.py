"""Intervals, paired tests and permutation nulls, as functions of arrays.

Shape letters: N trial, Q query, G gallery, L label, U unit of resampling, S subject, F test of a family, R resample or
permutation.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from math import lgamma
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eegdecode import metrics
from eegdecode.config import Section

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Permute = Literal["pictures", "trials", "positions"]
Interval = tuple[float, float]
EXACT_PAIRS = 25
"""Up to so many pairs without ties the signed-rank p is exact."""
ALL_SIGNS_PAIRS = 13
"""Up to so many pairs with ties every assignment of signs is counted."""
CHUNK = 2**24
"""Labels permuted at once, to bound memory."""


class PairedTest(Section):
    """Wilcoxon's signed-rank test of one recipe against another, over the same subjects or folds."""

    first: str
    second: str
    unit: str
    """What is paired: `subjects`, `runs`, `concepts`, `pictures`."""
    n_pairs: int
    n_equal: int
    """Pairs without a difference; the test leaves them out."""
    mean_difference: float
    """First minus second; 0 if the recipes are alike."""
    ci95_difference: Interval
    """Of the mean difference, units drawn with replacement."""
    p: float
    """Two-sided."""
    p_holm: float
    """Corrected for all tests of the family."""
    smallest_p: float
    """What p would be if all differences had one sign: no result of so few pairs can be smaller."""
    smallest_p_holm: float
    method: Literal["exact", "all signs", "normal approximation", "no difference"]


class GroupPermutation(Section):
    """A score against the same score with labels exchanged inside groups (runs, blocks)."""

    value: float
    chance: float
    """Mean of the null: what the groups alone give."""
    null_ci95: Interval
    """Where 95 % of the null lies."""
    p: float
    smallest_p: float
    """1 / (R + 1), or more where the groups allow few exchanges; 1 where every group holds one label only."""
    n_permutations: int


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
    # Labels that were never shown take no part, so a gallery of thousands costs no more than what was shown.
    shown_L, row_Q = np.unique(shown_Q, return_inverse=True)
    table_LL = np.zeros((len(shown_L), len(shown_L)))
    np.add.at(table_LL, row_Q, hits_QL[:, shown_L] * weight_Q[:, None])
    rng = np.random.default_rng(seed)
    rows_L = np.arange(len(shown_L))
    order_RL = rng.permuted(np.tile(rows_L, (n_permutations, 1)), axis=1)
    null_R: Floats = table_LL[rows_L[None, :], order_RL].sum(axis=1)
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


def two_way_interval(
    hits_SU: Floats, n_SU: Floats, *, seed: int, n_resamples: int = 2000, level: float = 0.95
) -> Interval:
    """Return the percentile interval of the mean over subjects, subjects and concepts both drawn with replacement.

    It answers for new people and new concepts at once. With crossed factors no bootstrap is unbiased; drawing both
    errs to the wide side (Owen 2007, Ann. Appl. Stat. 1, 386). With fewer than about ten subjects the spread between
    people is known badly, whatever is drawn.

    Parameters
    ----------
    hits_SU, n_SU
        Sum of the hits and number of queries of each subject for each concept; 0 queries where it was not shown.

    Raises
    ------
    ValueError
        Fewer than 2 subjects or concepts, a subject without a query, values that are not finite.
    """
    hits_SU, n_SU = np.asarray(hits_SU, np.float64), np.asarray(n_SU, np.float64)
    if hits_SU.ndim != 2 or hits_SU.shape != n_SU.shape or min(hits_SU.shape) < 2:
        raise ValueError(
            f"a two-way interval needs at least 2 subjects and 2 concepts, got {hits_SU.shape} and {n_SU.shape}."
        )
    if not (np.isfinite(hits_SU).all() and np.isfinite(n_SU).all()) or (n_SU.sum(axis=1) <= 0).any():
        raise ValueError("hits must be finite and every subject must have a query; leave out a subject without one.")
    n_subjects, n_concepts = hits_SU.shape
    rng = np.random.default_rng(seed)
    weight_RS = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=n_resamples).astype(np.float64)
    weight_RU = rng.multinomial(n_concepts, np.full(n_concepts, 1 / n_concepts), size=n_resamples).astype(np.float64)
    n_RS = weight_RU @ n_SU.T
    share_RS = np.divide(weight_RU @ hits_SU.T, n_RS, out=np.zeros(n_RS.shape), where=n_RS > 0)
    # A subject of whom no concept was drawn has no share in this resample.
    weight_RS = weight_RS * (n_RS > 0)
    total_R = weight_RS.sum(axis=1)
    value_R = (weight_RS * share_RS).sum(axis=1)[total_R > 0] / total_R[total_R > 0]
    if np.ptp(value_R) < 1e-12:
        return _interval_without_spread(round(float(value_R[0]), 12), n_concepts, level)
    tail = (1 - level) / 2
    low, high = np.quantile(value_R, [tail, 1 - tail])
    return float(low), float(high)


def holm(p_F: Floats) -> Floats:
    """Return Holm's adjusted p of a family, which bounds the family-wise error (1979, Scand. J. Stat. 6, 65)."""
    p_F = np.asarray(p_F, np.float64)
    if p_F.ndim != 1 or not p_F.size or not ((p_F >= 0) & (p_F <= 1)).all():
        raise ValueError(f"Holm's correction needs p values between 0 and 1, got {p_F}.")
    order = np.argsort(p_F, kind="stable")
    stepped = np.maximum.accumulate(p_F[order] * np.arange(len(p_F), 0, -1))
    adjusted_F = np.empty(len(p_F))
    adjusted_F[order] = np.minimum(stepped, 1)
    return adjusted_F


def paired_tests(
    score_by_recipe: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "subjects",
    against: str | None = None,
    seed: int,
) -> tuple[PairedTest, ...]:
    """Compare recipes two by two over the subjects (or folds) they share, with Holm's correction over all comparisons.

    Folds share training trials, so their differences are not independent and p is too small (Nadeau and Bengio 2003,
    Mach. Learn. 52, 239): prefer subjects.

    Parameters
    ----------
    score_by_recipe
        Recipe to unit to score; pairs are made by the name of the unit.
    against
        Compare all others with this recipe only: a smaller family and so a milder correction.

    Raises
    ------
    ValueError
        Fewer than two recipes, recipes with different units, fewer than two units, a score that is not finite.
    """
    names = list(score_by_recipe)
    if len(names) < 2 or (against is not None and against not in names):
        raise ValueError(f"a comparison needs two recipes, {against or 'any'} among them, got {names}.")
    units = sorted(score_by_recipe[names[0]])
    for name in names:
        odd = sorted(set(units) ^ set(score_by_recipe[name]))
        if odd:
            raise ValueError(f"recipes must have the same {unit}: '{odd[0]}' is in only one of {names[0]} and {name}.")
        bad = [u for u in units if not np.isfinite(score_by_recipe[name][u])]
        if bad:
            raise ValueError(f"scores must be finite, got {score_by_recipe[name][bad[0]]} for {name}, '{bad[0]}'.")
    if len(units) < 2:
        raise ValueError(f"a paired test needs at least 2 {unit}, got {len(units)}.")
    pairs = list(combinations(names, 2)) if against is None else [(n, against) for n in names if n != against]
    difference_FN = np.array([[score_by_recipe[a][u] - score_by_recipe[b][u] for u in units] for a, b in pairs])
    found = [_signed_rank(difference_N) for difference_N in difference_FN]
    adjusted_F = holm(np.array([p for p, _, _ in found]))
    tests = []
    for (first, second), difference_N, (p, smallest, method), adjusted in zip(
        pairs, difference_FN, found, adjusted_F, strict=True
    ):

        def mean(weight_RU: Floats, difference_N: Floats = difference_N) -> Floats:
            mean_R: Floats = weight_RU @ difference_N / weight_RU.sum(axis=1)
            return mean_R

        observed = float(difference_N.mean())
        spread = np.ptp(difference_N) > 0
        tests.append(
            PairedTest(
                first=first,
                second=second,
                unit=unit,
                n_pairs=len(units),
                n_equal=int(np.count_nonzero(np.abs(difference_N) <= 1e-12)),
                mean_difference=observed,
                ci95_difference=bootstrap_interval(mean, len(units), seed=seed) if spread else (observed, observed),
                p=p,
                p_holm=float(adjusted),
                smallest_p=smallest,
                smallest_p_holm=min(1.0, smallest * len(pairs)),
                method=method,
            )
        )
    return tuple(tests)


def _signed_rank(
    difference_N: Floats,
) -> tuple[float, float, Literal["exact", "all signs", "normal approximation", "no difference"]]:
    """Return the two-sided p, the smallest p these pairs could give, and how they were found."""
    # Differences of equal scores are rounding, not evidence.
    kept_N = difference_N[np.abs(difference_N) > 1e-12]
    if not len(kept_N):
        return 1.0, 1.0, "no difference"
    # Sums of the same hits in another order differ in the last digit: equal differences must tie.
    size_N = np.round(np.abs(kept_N), 12)
    signed_N = np.sign(kept_N) * size_N
    tied = len(np.unique(size_N)) < len(size_N)
    how: Literal["exact", "all signs", "normal approximation"]
    if not tied and len(kept_N) <= EXACT_PAIRS:
        how, method = "exact", "exact"
    elif tied and len(kept_N) <= ALL_SIGNS_PAIRS:
        how, method = "all signs", stats.PermutationMethod(n_resamples=np.inf)
    else:
        how, method = "normal approximation", "asymptotic"
    p, smallest = (float(stats.wilcoxon(x_N, method=method).pvalue) for x_N in (signed_N, size_N))
    return min(p, 1.0), min(smallest, 1.0), how


def permutation_in_groups(
    score: Callable[[NDArray[Any]], Floats],
    labels_N: NDArray[Any],
    group_N: NDArray[Any],
    *,
    n_permutations: int,
    seed: int,
    vectorised: bool = True,
) -> GroupPermutation:
    """Compare a score with its null under labels exchanged inside groups only.

    What a group as a whole gives away (drift, a block that holds one class) stays in the null, so a small p speaks of
    something beyond the group.

    Parameters
    ----------
    score
        Maps labels (R, N) to R scores; with `vectorised=False` labels (N,) to one score, for a decoder that trains
        again on each.
    group_N
        Run or block of each trial.

    Raises
    ------
    ValueError
        Arrays of unequal length, no permutation, a score that is not finite.
    """
    labels_N = np.asarray(labels_N)
    codes_N, group_of_N = (
        np.unique(labels_N, return_inverse=True)[1],
        np.unique(group_N, return_inverse=True)[1],
    )
    if len(codes_N) != len(group_of_N) or not len(codes_N) or n_permutations < 1:
        raise ValueError(
            f"a permutation in groups needs one group per label and at least 1 permutation, got {len(codes_N)} labels, "
            f"{len(group_of_N)} groups, {n_permutations} permutations."
        )

    def scored(labels_RN: NDArray[Any]) -> Floats:
        if vectorised:
            return np.asarray(score(labels_RN), np.float64)
        return np.array([np.asarray(score(row_N), np.float64).item() for row_N in labels_RN])

    observed = float(scored(labels_N[None])[0])
    alone = float(np.exp(-_log_arrangements(codes_N, group_of_N)))
    if alone == 1:  # one label in every group: each exchange gives the same labels, so nothing is scored again
        null_R = np.full(n_permutations, observed)
    else:
        null_R = np.concatenate(
            [scored(labels_RN) for labels_RN in _exchanged(labels_N, group_of_N, n_permutations, seed)]
        )
    p = permutation_p(observed, null_R)
    smallest = max(1 / (1 + n_permutations), alone)
    low, high = np.quantile(null_R, [0.025, 0.975])
    return GroupPermutation(
        value=observed,
        chance=float(null_R.mean()),
        null_ci95=(float(low), float(high)),
        p=p,
        smallest_p=smallest,
        n_permutations=n_permutations,
    )


def _exchanged(labels_N: NDArray[Any], group_of_N: Ints, n: int, seed: int) -> Iterator[NDArray[Any]]:
    """Yield n labelings (R, N), some at a time, with labels exchanged inside groups."""
    rng = np.random.default_rng(seed)
    # Sorted by group the trials of a group stand together, before and after a random key is added.
    by_group_N = np.argsort(group_of_N, kind="stable")
    rows = max(1, CHUNK // len(labels_N))
    for start in range(0, n, rows):
        key_RN = rng.random((min(rows, n - start), len(labels_N)))
        drawn_RN = np.argsort(group_of_N + key_RN, axis=1)
        permuted_RN = np.empty(drawn_RN.shape, labels_N.dtype)
        permuted_RN[:, by_group_N] = labels_N[drawn_RN]
        yield permuted_RN


def _log_arrangements(codes_N: Ints, group_of_N: Ints) -> float:
    """Log of the number of different labelings that exchanges inside groups can reach."""
    count_UL = np.zeros((group_of_N.max() + 1, codes_N.max() + 1), np.int64)
    np.add.at(count_UL, (group_of_N, codes_N), 1)
    orders = sum(lgamma(n + 1) for n in count_UL.sum(axis=1).tolist())
    # Rounding must not make one arrangement a little more than one.
    return max(0.0, orders - sum(lgamma(n + 1) for n in count_UL.ravel().tolist()))
