"""Split-half reliability of the response to a picture, from sums over odd and even repetitions.

Shape letters: P picture, C chan, T time, R region, K electrode and time, B resample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from eegdecode.metrics import spearman_brown

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

MIN_PICTURES = 8
"""Of fewer, a correlation says nothing: by chance alone it scatters by 0.38 (eight pictures) or more."""
WINDOW_S = (0.05, 0.4)
"""Where a response to a picture is expected."""
ALL = "all electrodes"
_RESAMPLES = 300
_AT_ONCE = 25


@dataclass(frozen=True)
class Halves:
    """Sums over the first, third, ... and over the second, fourth, ... repetition of each picture, of one subject.

    Attributes
    ----------
    sum_P2CT
        Float32. 200 pictures of 63 electrodes and 250 times take 25 MB.
    count_P2
        Repetitions in each sum.
    """

    pictures: tuple[str, ...]
    sum_P2CT: F32
    count_P2: I64

    def __add__(self, later: "Halves") -> "Halves":
        """Join with what the same subject was shown later; odd and even go on being counted where this one ended."""
        pictures = tuple(sorted({*self.pictures, *later.pictures}))
        row = {picture: i for i, picture in enumerate(pictures)}
        sum_P2CT = np.zeros((len(pictures), *self.sum_P2CT.shape[1:]), np.float32)
        count_P2 = np.zeros((len(pictures), 2), np.int64)
        for part in (self, later):
            for picture, sum_2CT, count_2 in zip(part.pictures, part.sum_P2CT, part.count_P2, strict=True):
                at = row[picture]
                first = -1 if count_P2[at].sum() % 2 else 1
                sum_P2CT[at] += sum_2CT[::first]
                count_P2[at] += count_2[::first]
        return Halves(pictures, sum_P2CT, count_P2)


@dataclass(frozen=True)
class Reliability:
    """How well the response to a picture repeats. Chance is 0, and 1 is a response without noise.

    Attributes
    ----------
    value_CT
        Per electrode and time.
    curve_RT, low_RT, high_RT
        Per region and time, with 95 % interval.
    window_R, window_low_R, window_high_R
        Over the times of `window_s`, with 95 % interval.
    limit
        A single electrode and time reaches this by chance in 5 of 100 cases, up or down.
    pictures_of
        Subject to its pictures with at least two repetitions; only subjects with `MIN_PICTURES` are in.
    repetitions
        Of each of those pictures, of all subjects: the reliability is that of so many.
    """

    value_CT: F64
    regions: tuple[str, ...]
    curve_RT: F64
    low_RT: F64
    high_RT: F64
    window_s: tuple[float, float]
    window_R: F64
    window_low_R: F64
    window_high_R: F64
    limit: float
    pictures_of: dict[str, int]
    repetitions: tuple[int, ...]


def split_half(
    halves_of: Mapping[str, Halves], regions: Mapping[str, Sequence[int]], times_s: F64, seed: int = 0
) -> Reliability | None:
    """Correlate, over pictures, the mean of the odd with the mean of the even repetitions.

    A repetition is one of the same subject: the correlation is taken within each subject, then averaged over subjects,
    over the electrodes of a region and over the window where that is asked for, and corrected to full length last
    (Spearman 1910, Brown 1910). What all pictures have in common does not count. Slow drifts do count where a picture's
    repetitions follow one another.

    The interval is over pictures: they are drawn with replacement, alike for all subjects, and the scatter of Fisher's
    z of the average correlation gives a symmetric interval of z (Student's t). It holds for these subjects. Quantiles
    of the draws would be too low and too narrow where many electrodes and times are averaged.

    Parameters
    ----------
    halves_of
        Subject to its sums.
    regions
        Region to rows of its electrodes.

    Returns
    -------
    Reliability or None
        None if no subject has at least `MIN_PICTURES` pictures with two repetitions.
    """
    usable = {}
    for subject, halves in sorted(halves_of.items()):
        rows = np.flatnonzero(halves.count_P2.min(axis=1, initial=np.iinfo(np.int64).max) > 0)
        if len(rows) >= MIN_PICTURES:
            usable[subject] = rows
    if not usable:
        return None
    names = sorted({halves_of[subject].pictures[row] for subject, rows in usable.items() for row in rows})
    number = {name: i for i, name in enumerate(names)}
    rng = np.random.default_rng(seed)
    # The first row is the pictures as they are.
    weight_BP = np.concatenate(
        [np.ones((1, len(names))), rng.multinomial(len(names), np.full(len(names), 1 / len(names)), _RESAMPLES)]
    ).astype(np.float32)
    n_chans, n_times = halves_of[next(iter(usable))].sum_P2CT.shape[2:]
    within = {**(regions if len(regions) > 1 else {}), ALL: range(n_chans)}
    r_CT = np.zeros((n_chans, n_times))
    r_BRT = np.zeros((len(weight_BP), len(within), n_times))
    for subject, rows in usable.items():
        halves = halves_of[subject]
        columns = [number[halves.pictures[row]] for row in rows]
        mean_P2K = halves.sum_P2CT[rows].reshape(len(rows), 2, -1) / halves.count_P2[rows][:, :, None]
        x_PK, y_PK = (_standardised(mean_P2K[:, half]) for half in (0, 1))
        for start in range(0, len(weight_BP), _AT_ONCE):
            r_BK = _correlations(x_PK, y_PK, weight_BP[start : start + _AT_ONCE, columns])
            r_BCT = r_BK.reshape(len(r_BK), -1, n_times)
            if start == 0:
                r_CT += r_BCT[0] / len(usable)
            for i, electrodes in enumerate(within.values()):
                r_BRT[start : start + _AT_ONCE, i] += r_BCT[:, list(electrodes)].mean(axis=1) / len(usable)
    inside_T = (times_s >= WINDOW_S[0]) & (times_s <= WINDOW_S[1])
    if not inside_T.any():
        inside_T[:] = True
    window_BR = r_BRT[:, :, inside_T].mean(axis=2)
    (low_RT, high_RT), (low_R, high_R) = (_interval(r_B, len(names)) for r_B in (r_BRT, window_BR))
    # Fisher's z has a deviation of 1 / sqrt(P - 3); the mean over subjects has that much less.
    deviation = np.sqrt(sum(1 / (len(rows) - 3) for rows in usable.values())) / len(usable)
    return Reliability(
        value_CT=spearman_brown(r_CT),
        regions=tuple(within),
        curve_RT=spearman_brown(r_BRT[0]),
        low_RT=low_RT,
        high_RT=high_RT,
        window_s=(float(times_s[inside_T][0]), float(times_s[inside_T][-1])),
        window_R=spearman_brown(window_BR[0]),
        window_low_R=low_R,
        window_high_R=high_R,
        limit=float(spearman_brown(np.tanh(1.96 * deviation))),
        pictures_of={subject: len(rows) for subject, rows in usable.items()},
        repetitions=tuple(int(n) for s, rows in usable.items() for n in halves_of[s].count_P2[rows].sum(axis=1)),
    )


def _interval(r_B: F64, n_pictures: int) -> tuple[F64, F64]:
    """Return the 95 % interval of the first of some average correlations, whose others are resamples, corrected."""
    # A resample of few pictures may correlate perfectly, and its z be infinite.
    z_B = np.arctanh(np.clip(r_B, -0.999, 0.999))
    half = stats.t.ppf(0.975, n_pictures - 1) * z_B[1:].std(axis=0, ddof=1)
    return spearman_brown(np.tanh(z_B[0] - half)), spearman_brown(np.tanh(z_B[0] + half))


def _standardised(x_PK: npt.NDArray[np.floating]) -> F32:
    """Take off the mean over pictures and divide by the deviation, so that float32 sums of squares are safe."""
    centred_PK = x_PK - x_PK.mean(axis=0, dtype=np.float64)
    deviation_K = np.sqrt((centred_PK**2).mean(axis=0))
    return np.asarray(centred_PK / np.where(deviation_K > 0, deviation_K, 1), np.float32)


def _correlations(x_PK: F32, y_PK: F32, weight_BP: F32) -> F64:
    """Return the weighted correlation over pictures, for each row of weights; 0 where one side does not vary."""
    weight_BP = weight_BP / weight_BP.sum(axis=1, keepdims=True)
    mean_x_BK, mean_y_BK = weight_BP @ x_PK, weight_BP @ y_PK
    covariance_BK = weight_BP @ (x_PK * y_PK) - mean_x_BK * mean_y_BK
    variance_x_BK = weight_BP @ x_PK**2 - mean_x_BK**2
    variance_y_BK = weight_BP @ y_PK**2 - mean_y_BK**2
    scale_BK = np.sqrt(np.maximum(variance_x_BK, 0) * np.maximum(variance_y_BK, 0))
    r_BK = np.divide(covariance_BK, scale_BK, out=np.zeros_like(covariance_BK), where=scale_BK > 1e-6)
    return np.asarray(np.clip(r_BK, -1, 1), np.float64)
