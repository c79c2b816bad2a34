"""Whether a decoder knows how sure it may be: temperature, calibration error and sets that hold the right candidate.

All is fitted on validation queries and judged on test queries of other concepts; shared concepts are refused.

The sets are split conformal with the score 1 - p of the right candidate (LAC; Sadinle, Lei and Wasserman 2019, J. Am.
Stat. Assoc. 114, 223): of all sets with that coverage the smallest on average, and without the random part that APS
(Romano, Sesia and Candès 2020, arXiv:2006.02544) needs for exact coverage. APS spreads coverage more evenly over easy
and hard queries and pays with larger sets: with 200 candidates and flat EEG scores most of a gallery. The guarantee
holds on average over queries that are exchangeable with those of validation, so both galleries must be of one size; it
is exact for one query per concept and approximate where a concept comes several times.

Shape letters: N query of either part, Q query, G gallery, K bin, U concept.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import optimize, special, stats

from eegdecode.config import Section
from eegdecode.evaluate.statistics import Floats, Interval, Ints, bootstrap_interval, permutation_p

Share = Annotated[float, Field(ge=0, le=1)]
N_BINS = 15
BOUNDS = (1e-4, 1e4)
"""Temperatures tried, in units of the standard deviation of the scores."""


class Temperature(Section):
    """One number that turns scores into probabilities: softmax(score / temperature) over the gallery."""

    value: float
    cross_entropy: float
    """On the queries it was fitted on, nats."""
    cross_entropy_chance: float
    """Of equal probabilities: log of the number of candidates."""
    at_bound: bool
    """The best temperature lies beyond what was tried: the scores tell nothing, or are never wrong."""
    n_way: int
    n_queries: int


class ReliabilityBin(Section):
    """Queries of similar confidence."""

    n: int
    confidence: Share
    accuracy: Share
    ci95_accuracy: Interval
    """Clopper and Pearson (1934), as if queries were independent."""


class CalibrationError(Section):
    """Expected calibration error of the first candidate, over bins of equal mass."""

    ece: Share
    ci95: Interval
    """Concepts drawn with replacement, bins kept."""
    ece_if_calibrated: Share
    """What so few queries give on average when confidence is right: the floor, never 0."""
    ece_if_calibrated_ci95: Interval
    p: Share
    """Of an error this large when confidence is right."""
    accuracy: Share
    mean_confidence: Share
    chance: Share
    """Accuracy of a random answer."""
    n_bins: int
    """Asked for; equal confidences stay in one bin, so there may be fewer."""
    n_queries: int
    reliability: tuple[ReliabilityBin, ...]


class Coverage(Section):
    """How often a conformal set holds the right candidate, on test concepts."""

    nominal: Share
    coverage: Share
    ci95: Interval
    """Concepts drawn with replacement."""
    chance: Share
    """Coverage of random sets of these sizes."""
    mean_size: float
    median_size: float
    largest_size: int
    threshold: float
    """Least probability of a member."""
    n_way: int
    n_validation: int
    n_queries: int


class Calibration(Section):
    """Fitted on validation, judged on test."""

    temperature: Temperature
    uncalibrated: CalibrationError
    """At temperature 1."""
    calibrated: CalibrationError
    coverage: Coverage


def fit_temperature(scores_QG: NDArray[Any], target_Q: NDArray[Any]) -> Temperature:
    """Find the temperature of least cross-entropy over the gallery (Guo et al. 2017, arXiv:1706.04599).

    Parameters
    ----------
    scores_QG
        Of validation queries; higher is better.
    target_Q
        Index of the right candidate.

    Raises
    ------
    ValueError
        Scores that are not finite or are all equal, targets outside the gallery.
    """
    scores_QG, target_Q = _checked(scores_QG, target_Q)
    spread = float(scores_QG.std())
    if spread == 0:
        raise ValueError("scores must differ for a temperature to exist, all are equal.")
    own_Q = scores_QG[np.arange(len(target_Q)), target_Q]

    def cross_entropy(log_t: float) -> float:
        scale = spread * np.exp(log_t)
        return float((special.logsumexp(scores_QG / scale, axis=1) - own_Q / scale).mean())

    low, high = np.log(BOUNDS)
    # Convex in 1 / temperature, so there is one minimum and a bounded search finds it.
    found = optimize.minimize_scalar(cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-8})
    return Temperature(
        value=float(spread * np.exp(found.x)),
        cross_entropy=float(found.fun),
        cross_entropy_chance=float(np.log(scores_QG.shape[1])),
        at_bound=bool(min(found.x - low, high - found.x) < 1e-3),
        n_way=scores_QG.shape[1],
        n_queries=len(target_Q),
    )


def probabilities(scores_QG: NDArray[Any], temperature: float) -> Floats:
    """Return softmax(score / temperature) over the gallery."""
    if not temperature > 0:
        raise ValueError(f"a temperature must be above 0, got {temperature}.")
    p_QG: Floats = special.softmax(np.asarray(scores_QG, np.float64) / temperature, axis=1)
    return p_QG


def calibration_error(
    p_QG: NDArray[Any],
    target_Q: NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    n_bins: int = N_BINS,
    n_simulations: int = 1000,
    seed: int,
) -> CalibrationError:
    """Return the expected calibration error of the first candidate in bins of equal mass (Nixon et al. 2019).

    Equal confidences share a bin, so the order of rows decides nothing. Where candidates tie for the first place, the
    answer counts with its share of them.
    """
    p_QG, target_Q = _checked(p_QG, target_Q)
    if n_bins < 1:
        raise ValueError(f"a calibration error needs at least 1 bin, got {n_bins}.")
    confidence_N = p_QG.max(axis=1)
    first_QG = p_QG == confidence_N[:, None]
    right_N = first_QG[np.arange(len(target_Q)), target_Q] / first_QG.sum(axis=1)
    n = len(confidence_N)
    bin_N = ((stats.rankdata(confidence_N) - 0.5) * n_bins // n).astype(np.int64)
    gap_N = right_N - confidence_N
    ece = float(np.abs(np.bincount(bin_N, gap_N, n_bins)).sum() / n)
    rng = np.random.default_rng(seed)
    member_NK = np.eye(n_bins)[bin_N]
    simulated_RN = rng.random((n_simulations, n)) < confidence_N
    null_R = np.abs((simulated_RN - confidence_N) @ member_NK).sum(axis=1) / n
    concepts, concept_of_N = np.unique(np.asarray(concept_Q), return_inverse=True)
    gap_UK = np.zeros((len(concepts), n_bins))
    np.add.at(gap_UK, (concept_of_N, bin_N), gap_N)
    n_U = np.bincount(concept_of_N).astype(np.float64)

    def error(weight_RU: Floats) -> Floats:
        error_R: Floats = np.abs(weight_RU @ gap_UK).sum(axis=1) / (weight_RU @ n_U)
        return error_R

    bins = []
    for k in np.unique(bin_N):
        rows = bin_N == k
        hits = round(float(right_N[rows].sum()))
        interval = stats.binomtest(hits, int(rows.sum())).proportion_ci()
        bins.append(
            ReliabilityBin(
                n=int(rows.sum()),
                confidence=_share(confidence_N[rows].mean()),
                accuracy=_share(right_N[rows].mean()),
                ci95_accuracy=(float(interval.low), float(interval.high)),
            )
        )
    low, high = bootstrap_interval(error, len(concepts), seed=seed)
    return CalibrationError(
        ece=_share(ece),
        ci95=(_share(low), _share(high)),
        ece_if_calibrated=_share(null_R.mean()),
        ece_if_calibrated_ci95=(_share(np.quantile(null_R, 0.025)), _share(np.quantile(null_R, 0.975))),
        p=permutation_p(ece, null_R),
        accuracy=_share(right_N.mean()),
        mean_confidence=_share(confidence_N.mean()),
        chance=1 / p_QG.shape[1],
        n_bins=n_bins,
        n_queries=n,
        reliability=tuple(bins),
    )


def conformal_threshold(p_QG: NDArray[Any], target_Q: NDArray[Any], coverage: float) -> float:
    """Return the least probability a member of a set must have, from validation queries.

    Raises
    ------
    ValueError
        Too few queries for that coverage: every set would have to be the whole gallery.
    """
    p_QG, target_Q = _checked(p_QG, target_Q)
    if not 0 < coverage < 1:
        raise ValueError(f"coverage must be between 0 and 1, got {coverage}.")
    n = len(target_Q)
    # The finite-sample quantile of split conformal: one more query is counted as the worst.
    rank = int(np.ceil((n + 1) * coverage - 1e-9))
    if rank > n:
        least = int(np.ceil(coverage / (1 - coverage) - 1e-9))
        raise ValueError(
            f"a coverage of {coverage} needs at least {least} validation queries, "
            f"got {n}. Ask for less or validate on more concepts."
        )
    own_Q = np.sort(p_QG[np.arange(n), target_Q])[::-1]
    return float(own_Q[rank - 1])


def conformal_sets(p_QG: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return members (Q, G): the best candidates down to the threshold, always the first one."""
    p_QG = np.asarray(p_QG, np.float64)
    return np.asarray((p_QG >= threshold) | (p_QG == p_QG.max(axis=1, keepdims=True)))


def coverage_of(
    set_QG: NDArray[np.bool_],
    target_Q: NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    nominal: float,
    threshold: float,
    n_validation: int,
    seed: int,
) -> Coverage:
    """Return how often sets hold the right candidate, with interval over concepts, and how large they are."""
    held_Q = np.asarray(set_QG)[np.arange(len(target_Q)), np.asarray(target_Q)].astype(np.float64)
    size_Q = np.asarray(set_QG).sum(axis=1)
    concepts, concept_of_Q = np.unique(np.asarray(concept_Q), return_inverse=True)
    held_U, n_U = np.bincount(concept_of_Q, held_Q), np.bincount(concept_of_Q).astype(np.float64)

    def share(weight_RU: Floats) -> Floats:
        share_R: Floats = (weight_RU @ held_U) / (weight_RU @ n_U)
        return share_R

    low, high = bootstrap_interval(share, len(concepts), seed=seed)
    return Coverage(
        nominal=nominal,
        coverage=_share(held_Q.mean()),
        ci95=(_share(low), _share(high)),
        chance=_share(size_Q.mean() / set_QG.shape[1]),
        mean_size=float(size_Q.mean()),
        median_size=float(np.median(size_Q)),
        largest_size=int(size_Q.max()),
        threshold=threshold,
        n_way=set_QG.shape[1],
        n_validation=n_validation,
        n_queries=len(held_Q),
    )


def calibrate(
    val_scores_NG: NDArray[Any],
    val_target_N: NDArray[Any],
    val_concept_N: Sequence[str] | NDArray[Any],
    scores_QG: NDArray[Any],
    target_Q: NDArray[Any],
    concept_Q: Sequence[str] | NDArray[Any],
    *,
    coverage: float = 0.9,
    seed: int,
) -> Calibration:
    """Fit temperature and sets on validation queries, judge both on test queries.

    Raises
    ------
    ValueError
        A concept in both parts, galleries of different size, lengths that differ, too few validation queries.
    """
    both = sorted(set(np.asarray(val_concept_N).tolist()) & set(np.asarray(concept_Q).tolist()))
    if both:
        raise ValueError(
            f"calibration must be fitted on other concepts than it is judged on: '{both[0]}' is in validation and test "
            f"({len(both)} such)."
        )
    val_scores_NG, val_target_N = _checked(val_scores_NG, val_target_N)
    scores_QG, target_Q = _checked(scores_QG, target_Q)
    for scores, concepts, part in ((val_scores_NG, val_concept_N, "validation"), (scores_QG, concept_Q, "test")):
        if len(concepts) != len(scores):
            raise ValueError(f"{part} needs one concept per query, got {len(concepts)} for {len(scores)}.")
    if val_scores_NG.shape[1] != scores_QG.shape[1]:
        raise ValueError(
            "validation and test galleries must be of one size, because a probability is a share of its gallery: got "
            f"{val_scores_NG.shape[1]} and {scores_QG.shape[1]} candidates."
        )
    temperature = fit_temperature(val_scores_NG, val_target_N)
    p_QG = probabilities(scores_QG, temperature.value)
    threshold = conformal_threshold(probabilities(val_scores_NG, temperature.value), val_target_N, coverage)
    return Calibration(
        temperature=temperature,
        uncalibrated=calibration_error(probabilities(scores_QG, 1.0), target_Q, concept_Q, seed=seed),
        calibrated=calibration_error(p_QG, target_Q, concept_Q, seed=seed),
        coverage=coverage_of(
            conformal_sets(p_QG, threshold),
            target_Q,
            concept_Q,
            nominal=coverage,
            threshold=threshold,
            n_validation=len(val_target_N),
            seed=seed,
        ),
    )


def _checked(scores_QG: NDArray[Any], target_Q: NDArray[Any]) -> tuple[Floats, Ints]:
    scores_QG, target_Q = np.asarray(scores_QG, np.float64), np.asarray(target_Q)
    if scores_QG.ndim != 2 or not scores_QG.size or target_Q.shape != scores_QG.shape[:1]:
        raise ValueError(f"scores (queries, candidates) need one target each, got {scores_QG.shape}, {target_Q.shape}.")
    if not np.isfinite(scores_QG).all():
        q, g = np.argwhere(~np.isfinite(scores_QG))[0]
        raise ValueError(f"scores must be finite, got {scores_QG[q, g]} for query {q} and candidate {g}.")
    if target_Q.min() < 0 or target_Q.max() >= scores_QG.shape[1]:
        raise ValueError(f"targets must be below the {scores_QG.shape[1]} candidates, got {target_Q.max()}.")
    return scores_QG, target_Q.astype(np.int64)


def _share(value: Any) -> float:
    """Clip rounding."""
    return float(np.clip(value, 0, 1))
