"""How good could a score be, and what more repetitions or more training trials would bring.

Shape letters: P condition (picture), R repetition, X any further shape (electrode, time), I division into halves,
H repetition of a half, B resample, Q query, G gallery, M size of a training set.
"""

from collections.abc import Callable, Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from eegdecode import metrics
from eegdecode.config import Section
from eegdecode.evaluate.retrieval import Averaged, RepetitionPoint, average_repetitions, repetition_point
from eegdecode.evaluate.statistics import Floats, Interval, Ints
from eegdecode.metrics import spearman_brown

MOST_ELEMENTS = 2**26
"""Responses larger than this are refused rather than held in memory twice."""


class NoiseCeiling(Section):
    """Agreement of two halves of the repetitions over conditions, averaged over electrodes and times; chance is 0."""

    lower: float
    """Correlation of one half with the other: what a model as noisy as half the data would reach."""
    upper: float
    """Correlation of one half with the mean of all: shares data, so it is optimistic by design."""
    corrected: float
    """Spearman and Brown's reliability of the mean of all repetitions; a perfect model correlates with that mean by
    the square root of it."""
    ci95_lower: Interval
    """Conditions drawn with replacement, with another division each time."""
    ci95_upper: Interval
    ci95_corrected: Interval
    chance: float = 0.0
    n_conditions: int
    n_repetitions: int
    n_divisions: int


class RepetitionCurve(Section):
    """Top-1 against the number of repetitions averaged before the decoder."""

    n_way: int
    chance_top1: float
    points: tuple[RepetitionPoint, ...]


class ScalingFit(Section):
    """Least squares of a score against log2 of the number of training trials."""

    per_doubling: float
    """What twice the trials add; chance is 0."""
    ci95_per_doubling: Interval
    p: float
    """Two-sided, of no slope."""
    at_one: float
    """The line at one trial; only a number of the line, never a score."""
    residual_sd: float
    r2: float
    n_points: int
    smallest: float
    largest: float
    """Sizes fitted; beyond them the line is a guess."""
    mean_log2: float
    spread_log2: float
    """Sum of squared deviations of log2 of the sizes."""

    def predict(self, n_trials: float) -> tuple[float, Interval]:
        """Return the line at a number of trials and its 95 % interval (of the mean, not of one new score)."""
        if n_trials <= 0:
            raise ValueError(f"a training set needs trials, got {n_trials}.")
        x = log2(n_trials)
        value = self.at_one + self.per_doubling * x
        error = self.residual_sd * np.sqrt(1 / self.n_points + (x - self.mean_log2) ** 2 / self.spread_log2)
        reach = float(stats.t.ppf(0.975, self.n_points - 2) * error)
        return value, (value - reach, value + reach)


def divisions(n_repetitions: int, n_divisions: int, seed: int) -> tuple[Ints, Ints]:
    """Return two halves (I, H) of the repetitions per division; of an odd number one is left out each time."""
    if n_repetitions < 2 or n_divisions < 1:
        raise ValueError(f"halves need 2 repetitions and 1 division, got {n_repetitions} and {n_divisions}.")
    size = n_repetitions // 2
    order_IR = np.random.default_rng(seed).permuted(np.tile(np.arange(n_repetitions), (n_divisions, 1)), axis=1)
    return order_IR[:, :size], order_IR[:, size : 2 * size]


def split_half(
    response_PRX: NDArray[np.floating],
    half_IH: Ints,
    other_IH: Ints,
    model_PX: NDArray[np.floating] | None = None,
) -> tuple[Floats, Floats, Floats | None]:
    """Return lower bound, upper bound and the model's correlation, each (X,), averaged over divisions.

    Gifford et al. (2022, NeuroImage 264, 119754): Pearson correlation over conditions, averaged over divisions without
    Fisher's z. All three are against the mean of `other_IH`: that of `half_IH`, that of all repetitions, the model.

    Raises
    ------
    ValueError
        Halves that share a repetition, shapes that do not fit, a response without variance over conditions.
    """
    response_PRX = _checked(response_PRX)
    half_IH, other_IH = np.asarray(half_IH), np.asarray(other_IH)
    if half_IH.shape != other_IH.shape or any(set(a) & set(b) for a, b in zip(half_IH, other_IH, strict=True)):
        raise ValueError("halves must be of one size and share no repetition.")
    shape_X = response_PRX.shape[2:]
    if model_PX is not None and model_PX.shape != (len(response_PRX), *shape_X):
        raise ValueError(f"the model must be {(len(response_PRX), *shape_X)} like the responses, got {model_PX.shape}.")
    all_PX = response_PRX.mean(axis=1)
    total = [np.zeros(shape_X) for _ in range(2 if model_PX is None else 3)]
    for half_H, other_H in zip(half_IH, other_IH, strict=True):
        one_PX, two_PX = response_PRX[:, half_H].mean(axis=1), response_PRX[:, other_H].mean(axis=1)
        for at, against_PX in enumerate([one_PX, all_PX] if model_PX is None else [one_PX, all_PX, model_PX]):
            total[at] += _correlation(against_PX, two_PX)
    mean = [sum_X / len(half_IH) for sum_X in total]
    return mean[0], mean[1], None if model_PX is None else mean[2]


def noise_ceiling(
    response_PRX: NDArray[np.floating], *, n_divisions: int = 100, seed: int, n_resamples: int = 1000
) -> NoiseCeiling:
    """Return the split-half noise ceiling with intervals, averaged over electrodes and times.

    Parameters
    ----------
    response_PRX
        Response to each condition in each repetition, then electrodes, times or both; one subject.

    Raises
    ------
    ValueError
        Fewer than 3 conditions or 2 repetitions, values that are not finite or that never differ.
    """
    response_PRX = _checked(response_PRX)
    n_conditions, n_repetitions = response_PRX.shape[:2]
    half_IH, other_IH = divisions(n_repetitions, n_divisions, seed)
    lower_X, upper_X, _ = split_half(response_PRX, half_IH, other_IH)
    factor = n_repetitions / half_IH.shape[1]
    flat_PRX = response_PRX.reshape(n_conditions, n_repetitions, -1)
    all_PX = flat_PRX.mean(axis=1)
    rng = np.random.default_rng([seed, 1])
    draws = []
    share = -(-n_resamples // n_divisions)
    # Each resample has a division of its own, so the interval also holds what the choice of halves does.
    for half_H, other_H in zip(half_IH, other_IH, strict=True):
        weight_BP = rng.multinomial(n_conditions, np.full(n_conditions, 1 / n_conditions), size=share)
        # Fewer than 3 different conditions have no correlation worth the name.
        weight_BP = weight_BP[(weight_BP > 0).sum(axis=1) >= 3]
        one_PX, two_PX = flat_PRX[:, half_H].mean(axis=1), flat_PRX[:, other_H].mean(axis=1)
        low_BX, up_BX = (_weighted_correlation(weight_BP, x_PX, two_PX) for x_PX in (one_PX, all_PX))
        draws.append(np.stack([low_BX.mean(1), up_BX.mean(1), spearman_brown(low_BX, factor).mean(1)]))
    low_3, high_3 = np.quantile(np.concatenate(draws, axis=1), [0.025, 0.975], axis=1)
    intervals = [(float(low), float(high)) for low, high in zip(low_3, high_3, strict=True)]
    return NoiseCeiling(
        lower=float(lower_X.mean()),
        upper=float(upper_X.mean()),
        corrected=float(spearman_brown(lower_X, factor).mean()),
        ci95_lower=intervals[0],
        ci95_upper=intervals[1],
        ci95_corrected=intervals[2],
        n_conditions=n_conditions,
        n_repetitions=n_repetitions,
        n_divisions=n_divisions,
    )


def repetition_curve(
    score: Callable[[Averaged], NDArray[np.floating]],
    eeg_uv_NCT: NDArray[np.floating],
    picture_N: NDArray[np.str_],
    subject_N: NDArray[np.str_],
    gallery: Sequence[str],
    concept_of: Callable[[str], str],
    *,
    counts: Sequence[int] | None = None,
    seed: int,
) -> RepetitionCurve:
    """Score averages of 1, 2, 4, ... repetitions, each trial in one average at most, drawn by seed.

    Parameters
    ----------
    score
        Averaged trials to scores (Q, G) against the gallery.
    counts
        Repetitions in an average; powers of two and the most that every picture has where None.

    Raises
    ------
    ValueError
        A count that some picture does not have.
    """
    keys = [f"{s}\0{p}" for s, p in zip(np.asarray(subject_N).tolist(), np.asarray(picture_N).tolist(), strict=True)]
    most = int(np.unique(keys, return_counts=True)[1].min())
    if counts is None:
        counts = sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})
    points = []
    for k in counts:
        averaged = average_repetitions(eeg_uv_NCT, picture_N, subject_N, k, seed)
        concept_Q = np.array([concept_of(picture) for picture in averaged.picture_Q.tolist()])
        points.append(
            repetition_point(k, score(averaged), gallery, averaged.picture_Q, averaged.subject_Q, concept_Q, seed=seed)
        )
    shown = sorted(set(np.asarray(picture_N).tolist()))
    chance = float(np.mean([metrics.chance_top_k(len(gallery), 1, list(gallery).count(p)) for p in shown]))
    return RepetitionCurve(n_way=len(gallery), chance_top1=chance, points=tuple(points))


def scaling_fit(n_trials_M: Sequence[float], score_M: Sequence[float]) -> ScalingFit:
    """Fit score = a + b log2(training trials) by least squares.

    Points should be independent: give one mean over subjects for each size, or fit each subject by itself. Scores near
    chance or near 1 bend away from any such line.

    Raises
    ------
    ValueError
        Fewer than three different sizes, a size of 0, a score that is not finite, lengths that differ.
    """
    size_M, y_M = np.asarray(n_trials_M, np.float64), np.asarray(score_M, np.float64)
    if size_M.ndim != 1 or size_M.shape != y_M.shape or len(np.unique(size_M)) < 3:
        raise ValueError(f"a scaling fit needs one score per size and 3 different sizes, got {n_trials_M}.")
    if not (np.isfinite(size_M).all() and np.isfinite(y_M).all() and (size_M > 0).all()):
        raise ValueError(f"sizes must be above 0 and scores finite, got {n_trials_M} and {score_M}.")
    x_M = np.log2(size_M)
    line = stats.linregress(x_M, y_M)
    reach = float(stats.t.ppf(0.975, len(x_M) - 2) * line.stderr)
    residual_M = y_M - line.intercept - line.slope * x_M
    return ScalingFit(
        per_doubling=float(line.slope),
        ci95_per_doubling=(float(line.slope) - reach, float(line.slope) + reach),
        p=float(line.pvalue),
        at_one=float(line.intercept),
        residual_sd=float(np.sqrt((residual_M**2).sum() / (len(x_M) - 2))),
        r2=float(line.rvalue**2),
        n_points=len(x_M),
        smallest=float(size_M.min()),
        largest=float(size_M.max()),
        mean_log2=float(x_M.mean()),
        spread_log2=float(((x_M - x_M.mean()) ** 2).sum()),
    )


def _checked(response_PRX: NDArray[np.floating]) -> Floats:
    if response_PRX.ndim < 3 or response_PRX.shape[0] < 3 or response_PRX.shape[1] < 2:
        raise ValueError(
            "responses must be (conditions, repetitions, ...), at least 3 conditions of 2 repetitions, got "
            f"{response_PRX.shape}."
        )
    if response_PRX.size > MOST_ELEMENTS:
        raise ValueError(
            f"responses of {response_PRX.size} values are too many at once (at most {MOST_ELEMENTS}): give fewer "
            "electrodes or times, or one subject at a time."
        )
    checked_PRX = np.asarray(response_PRX, np.float64)
    if not np.isfinite(checked_PRX).all():
        raise ValueError(f"responses must be finite, got {np.argwhere(~np.isfinite(checked_PRX))[0].tolist()}.")
    flat_X = np.ptp(checked_PRX.mean(axis=1), axis=0) == 0
    if flat_X.any():
        raise ValueError(
            f"responses must differ between conditions, those at {np.argwhere(flat_X)[0].tolist()} never do: leave out "
            "a silent electrode, or a time the baseline fixes."
        )
    return checked_PRX


def _correlation(a_PX: Floats, b_PX: Floats) -> Floats:
    a_PX, b_PX = a_PX - a_PX.mean(axis=0), b_PX - b_PX.mean(axis=0)
    r_X: Floats = (a_PX * b_PX).sum(axis=0) / np.sqrt((a_PX**2).sum(axis=0) * (b_PX**2).sum(axis=0))
    return r_X


def _weighted_correlation(weight_BP: Ints, a_PX: Floats, b_PX: Floats) -> Floats:
    # Centred first: second moments are taken raw below.
    a_PX, b_PX, n = a_PX - a_PX.mean(axis=0), b_PX - b_PX.mean(axis=0), len(a_PX)
    mean_a, mean_b = weight_BP @ a_PX / n, weight_BP @ b_PX / n
    joint = weight_BP @ (a_PX * b_PX) / n - mean_a * mean_b
    own_a, own_b = weight_BP @ a_PX**2 / n - mean_a**2, weight_BP @ b_PX**2 / n - mean_b**2
    r_BX: Floats = joint / np.sqrt(own_a * own_b)
    return r_BX
