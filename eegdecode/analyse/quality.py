"""How good the trials of a shard set are, in numbers: one small summary per recording, and their exact sum.

A task that holds one recording's trials calls `summarise`; whoever gathers the summaries calls `merge`. Nothing in a
summary grows with the number of trials.

Shape letters: N trial, C chan, T time, R region, P picture. A 2 stands for every other: first, third, ... and second,
fourth, ...
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from eegdecode.analyse.regions import region_of, regions_of
from eegdecode.analyse.reliability import MIN_PICTURES, Halves, Reliability, split_half
from eegdecode.batch import Dropped

F64 = npt.NDArray[np.float64]
Unit = Literal["uV", "whitened", "scaled"]

MAX_TRACKED = 200
"""Pictures whose repetitions are kept apart. With 63 electrodes and 250 times a recording that shows all of them sends
25 MB, and the sum over recordings holds that much per subject."""
_AT_ONCE = 256
_PARTITIONS = ("test", "val", "any", "train")


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of trials; adding two gives those of all trials (Chan et al. 1979)."""

    n: int
    mean: F64
    squares: F64

    @classmethod
    def of(cls, x_N: F64) -> "Moments":
        """Return the moments over the first axis."""
        if not len(x_N):
            return cls(0, np.zeros(x_N.shape[1:]), np.zeros(x_N.shape[1:]))
        mean = x_N.mean(axis=0)
        return cls(len(x_N), mean, ((x_N - mean) ** 2).sum(axis=0))

    def __add__(self, other: "Moments") -> "Moments":
        n = self.n + other.n
        if n == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            n, self.mean + step * (other.n / n), self.squares + other.squares + step**2 * (self.n * other.n / n)
        )

    @property
    def deviation(self) -> F64:
        """Standard deviation over trials."""
        return np.asarray(np.sqrt(self.squares / (self.n - 1)))

    @property
    def half_interval(self) -> F64:
        """Half of the 95 % interval of the mean over trials (Student's t)."""
        return np.asarray(stats.t.ppf(0.975, self.n - 1) * self.deviation / np.sqrt(self.n))


@dataclass(frozen=True)
class RecordingSummary:
    """What one recording's trials leave behind.

    Attributes
    ----------
    electrodes, regions
        Moments over trials, (C, T) and (R, T); the latter of the mean over a region's electrodes.
    alternate_2CT
        Sums over every other trial, in the order of presentation.
    n_of_picture, concept_of
        Trials and concept of each picture that was shown.
    halves
        Of the tracked pictures that were shown.
    """

    recording: str
    subject: str
    unit: Unit
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    electrodes: Moments
    regions: Moments
    alternate_2CT: F64
    n_of_picture: dict[str, int]
    concept_of: dict[str, str]
    halves: Halves

    def to_bytes(self) -> bytes:
        """Return the summary as it is kept beside an unpublished set: arrays, and the rest as JSON."""
        facts = {name: getattr(self, name) for name in _PLAIN} | {"pictures": self.halves.pictures}
        file = io.BytesIO()
        np.savez(
            file,
            facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
            n=np.array([self.electrodes.n, self.regions.n]),
            alternate_2CT=self.alternate_2CT,
            sum_P2CT=self.halves.sum_P2CT,
            count_P2=self.halves.count_P2,
            **{f"{of}_{kind}": getattr(getattr(self, of), kind) for of in _MOMENTS for kind in ("mean", "squares")},
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "RecordingSummary":
        """Return the summary that `to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as kept:
            facts = json.loads(kept["facts"].tobytes())
            halves = Halves(tuple(facts.pop("pictures")), kept["sum_P2CT"], kept["count_P2"])
            moments: dict[str, Any] = {
                of: Moments(int(kept["n"][k]), kept[f"{of}_mean"], kept[f"{of}_squares"])
                for k, of in enumerate(_MOMENTS)
            }
            facts["channels"] = tuple(facts["channels"])
            return cls(alternate_2CT=kept["alternate_2CT"], halves=halves, **moments, **facts)


_MOMENTS = ("electrodes", "regions")
_PLAIN = ("recording", "subject", "unit", "channels", "sfreq_hz", "tmin_s", "n_of_picture", "concept_of")


@dataclass(frozen=True)
class Example:
    """The mean response to one picture, over all its trials of all subjects."""

    picture: str
    concept: str
    n_trials: int
    mean_CT: F64


@dataclass(frozen=True)
class SetSummary:
    """The sum of all recordings; attributes as in `RecordingSummary`, what is per subject by subject."""

    unit: Unit
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    electrodes: Moments
    regions: Moments
    alternate_2CT: F64
    subject_of: dict[str, str]
    """Recording to subject."""
    n_of_recording: dict[str, int]
    n_of_picture: dict[str, dict[str, int]]
    concept_of: dict[str, str]
    halves: dict[str, Halves]

    @property
    def times_s(self) -> F64:
        """Time of each sample relative to the onset of the picture."""
        return np.asarray(self.tmin_s + np.arange(self.electrodes.mean.shape[1]) / self.sfreq_hz)

    @property
    def region_rows(self) -> dict[str, list[int]]:
        """Region to the rows of its electrodes."""
        return regions_of(self.channels)

    @property
    def plus_minus_CT(self) -> F64:
        """Plus-minus average: half the difference of the means over every other trial (Schimmel 1967).

        The response, which is in both, is gone; what is left is the noise of the mean over all trials.
        """
        n_first = (self.electrodes.n + 1) // 2
        means = self.alternate_2CT[0] / n_first, self.alternate_2CT[1] / (self.electrodes.n - n_first)
        return np.asarray((means[0] - means[1]) / 2)

    @property
    def field_power_T(self) -> F64:
        """Global field power of the mean response.

        The standard deviation over electrodes, which is that of the average-referenced response (Lehmann and Skrandies
        1980, Electroencephalogr. Clin. Neurophysiol. 48, 609).
        """
        return np.asarray(self.electrodes.mean.std(axis=0))

    @property
    def noise_field_power_T(self) -> F64:
        """Global field power of the plus-minus average: what noise alone would give with as many trials."""
        return np.asarray(self.plus_minus_CT.std(axis=0))

    @property
    def baseline_T(self) -> npt.NDArray[np.bool_]:
        """Which samples lie before the picture; a thousandth of a sample absorbs that 0.1 is no binary number."""
        return np.asarray(self.times_s < -1e-3 / self.sfreq_hz)

    @property
    def noise_from(self) -> Literal["baseline", "plus-minus average"]:
        """What the noise of single trials is taken from: samples before the picture, if there are any."""
        return "baseline" if self.baseline_T.any() else "plus-minus average"

    @property
    def noise_C(self) -> F64:
        """Standard deviation over single trials at each electrode, in the root mean square over time.

        In the baseline, or else of the plus-minus average, scaled from the mean over all trials to a single one.
        """
        if self.noise_from == "baseline":
            before = self.electrodes.deviation[:, self.baseline_T]
            return np.asarray(np.sqrt((before**2).mean(axis=1)))
        n_first = (self.electrodes.n + 1) // 2
        share = (1 / n_first + 1 / (self.electrodes.n - n_first)) / 4
        return np.asarray(np.sqrt((self.plus_minus_CT**2).mean(axis=1) / share))

    @cached_property
    def reliability(self) -> Reliability | None:
        """Split-half reliability of the tracked pictures; None where too few were repeated."""
        return split_half(self.halves, self.region_rows, self.times_s)

    @property
    def n_of_concept(self) -> dict[str, int]:
        """Trials of each concept."""
        counts: Counter[str] = Counter()
        for shown in self.n_of_picture.values():
            for picture, n in shown.items():
                counts[self.concept_of[picture]] += n
        return dict(counts)

    @property
    def repetitions(self) -> dict[int, int]:
        """Repetitions within a subject to the number of (subject, picture) that have so many."""
        return dict(sorted(Counter(n for shown in self.n_of_picture.values() for n in shown.values()).items()))

    def examples(self, n: int = 6) -> list[Example]:
        """Return the tracked pictures with most trials and their mean response, ties in the order of their ids."""
        sums: dict[str, F64] = {}
        counts: Counter[str] = Counter()
        for halves in self.halves.values():
            for picture, sum_2CT, count_2 in zip(halves.pictures, halves.sum_P2CT, halves.count_P2, strict=True):
                sums[picture] = sums.get(picture, np.float64(0)) + sum_2CT.sum(axis=0, dtype=np.float64)
                counts[picture] += int(count_2.sum())
        chosen = sorted(counts, key=lambda picture: (-counts[picture], picture))[:n]
        return [Example(p, self.concept_of[p], counts[p], sums[p] / counts[p]) for p in chosen]

    def facts(self) -> dict[str, Any]:
        """Return the figures that matter, as plain values for JSON."""
        noise_C, response_T = self.noise_C, self.field_power_T
        after = np.flatnonzero(self.times_s > 0) if (self.times_s > 0).any() else np.arange(len(self.times_s))
        peak = int(after[response_T[after].argmax()])
        found = self.reliability
        return {
            "unit": self.unit,
            "sfreq_hz": self.sfreq_hz,
            "tmin_s": self.tmin_s,
            "n_times": len(self.times_s),
            "n_trials": self.electrodes.n,
            "n_recordings": len(self.n_of_recording),
            "n_subjects": len(set(self.subject_of.values())),
            "n_pictures": len(self.concept_of),
            "n_concepts": len(set(self.concept_of.values())),
            "trials_per_recording": spread(self.n_of_recording.values()),
            "trials_per_concept": spread(self.n_of_concept.values()),
            "repetitions_per_picture": spread(n for shown in self.n_of_picture.values() for n in shown.values()),
            "reliability": None
            if found is None
            else {
                "window_s": list(found.window_s),
                "chance": 0.0,
                "pictures": dict(found.pictures_of),
                "repetitions": spread(found.repetitions),
                "regions": {
                    region: {"value": float(value), "ci95": [float(low), float(high)]}
                    for region, value, low, high in zip(
                        found.regions, found.window_R, found.window_low_R, found.window_high_R, strict=True
                    )
                },
            },
            "field_power_peak": {
                "time_s": float(self.times_s[peak]),
                "value": float(response_T[peak]),
                "noise": float(self.noise_field_power_T[peak]),
            },
            "noise": {
                "from": self.noise_from,
                "per_electrode": {
                    name: {"region": region, "value": float(value)}
                    for name, region, value in zip(self.channels, region_of(self.channels), noise_C, strict=True)
                },
            },
        }


def choose_pictures(partitions: Mapping[str, str], limit: int = MAX_TRACKED) -> tuple[str, ...]:
    """Choose the pictures whose repetitions are kept apart; every task that is given the same pictures chooses alike.

    Only test pictures, since those are repeated most, and reliability is that of so many repetitions; where there are
    fewer than `MIN_PICTURES`, those of the next partition too (val, any, train). Within a partition the order is that
    of the sha256 of the id, so that no class or place in the list is preferred.

    Parameters
    ----------
    partitions
        Picture id to ``test``, ``val``, ``any`` or ``train``.
    """
    chosen: list[str] = []
    for partition in _PARTITIONS:
        if len(chosen) < MIN_PICTURES:
            there = [picture for picture, name in partitions.items() if name == partition]
            chosen += sorted(there, key=lambda picture: hashlib.sha256(picture.encode()).hexdigest())
    return tuple(sorted(chosen[:limit]))


def summarise(
    eeg_NCT: npt.NDArray[np.float32],
    table: pd.DataFrame,
    *,
    recording: str,
    subject: str,
    channels: Sequence[str],
    sfreq_hz: float,
    tmin_s: float,
    tracked: Collection[str],
    unit: Unit = "uV",
) -> RecordingSummary:
    """Reduce one recording's trials to what the quality page needs; no copy of all trials is made.

    Parameters
    ----------
    table
        One row a trial, in the order of presentation: picture, concept, event.
    tracked
        Of `choose_pictures`.

    Raises
    ------
    ValueError
        Shapes that do not fit, or a value that is not finite.
    """
    if eeg_NCT.ndim != 3 or eeg_NCT.shape[:2] != (len(table), len(channels)):
        raise ValueError(
            f"{recording}: trials must be (trials, electrodes, times) for {len(table)} rows of the table and "
            f"{len(channels)} electrodes, got {eeg_NCT.shape}."
        )
    rows_of_region = list(regions_of(channels).values())
    shape = eeg_NCT.shape[1:]
    electrodes, regions = Moments.of(np.zeros((0, *shape))), Moments.of(np.zeros((0, len(rows_of_region), shape[1])))
    alternate_2CT = np.zeros((2, *shape))
    # An even number at once, so that every other trial stays every other.
    for start in range(0, len(table), _AT_ONCE):
        block_NCT = eeg_NCT[start : start + _AT_ONCE].astype(np.float64)
        finite_N = np.isfinite(block_NCT).all(axis=(1, 2))
        if not finite_N.all():
            row = start + int(np.flatnonzero(~finite_N)[0])
            raise ValueError(
                f"{recording}: trials must be finite, got NaN or infinity in event {table['event'].iloc[row]}."
            )
        electrodes += Moments.of(block_NCT)
        regions += Moments.of(np.stack([block_NCT[:, rows].mean(axis=1) for rows in rows_of_region], axis=1))
        for half in (0, 1):
            alternate_2CT[half] += block_NCT[half::2].sum(axis=0)
    picture_N = table["picture"].astype(str).to_numpy()
    return RecordingSummary(
        recording=recording,
        subject=subject,
        unit=unit,
        channels=tuple(channels),
        sfreq_hz=sfreq_hz,
        tmin_s=tmin_s,
        electrodes=electrodes,
        regions=regions,
        alternate_2CT=alternate_2CT,
        n_of_picture={str(picture): n for picture, n in Counter(picture_N).items()},
        concept_of=dict(zip(picture_N.tolist(), table["concept"].astype(str), strict=True)),
        halves=_halves(eeg_NCT, picture_N, tracked),
    )


def _halves(eeg_NCT: npt.NDArray[np.float32], picture_N: npt.NDArray[Any], tracked: Collection[str]) -> Halves:
    pictures = tuple(sorted(set(picture_N.tolist()) & set(tracked)))
    sum_P2CT = np.zeros((len(pictures), 2, *eeg_NCT.shape[1:]), np.float32)
    count_P2 = np.zeros((len(pictures), 2), np.int64)
    for i, picture in enumerate(pictures):
        rows = np.flatnonzero(picture_N == picture)
        for half in (0, 1):
            sum_P2CT[i, half] = eeg_NCT[rows[half::2]].sum(axis=0, dtype=np.float64)
            count_P2[i, half] = len(rows[half::2])
    return Halves(pictures, sum_P2CT, count_P2)


def merge(parts: Iterable[RecordingSummary]) -> SetSummary:
    """Add the summaries of all recordings.

    Odd and even go on being counted from one recording to the next, so the result is that of all trials at once.

    Parameters
    ----------
    parts
        In the order of the recordings; consumed one by one.

    Raises
    ------
    ValueError
        Recordings that differ in electrodes, rate, length or unit, a recording given twice, or fewer than two trials.
    """
    first: RecordingSummary | None = None
    subject_of: dict[str, str] = {}
    n_of_recording: dict[str, int] = {}
    n_of_picture: dict[str, Counter[str]] = {}
    concept_of: dict[str, str] = {}
    halves: dict[str, Halves] = {}
    for part in parts:
        if first is None:
            first = part
            electrodes, regions, alternate_2CT = part.electrodes, part.regions, part.alternate_2CT
        else:
            _check_alike(first, part)
            flipped_2CT = part.alternate_2CT[:: -1 if electrodes.n % 2 else 1]
            alternate_2CT = alternate_2CT + flipped_2CT
            electrodes, regions = electrodes + part.electrodes, regions + part.regions
        if part.recording in subject_of:
            raise ValueError(f"{part.recording}: each recording must be summarised once, got it twice.")
        subject_of[part.recording] = part.subject
        n_of_recording[part.recording] = part.electrodes.n
        n_of_picture.setdefault(part.subject, Counter()).update(part.n_of_picture)
        concept_of |= part.concept_of
        known = halves.get(part.subject)
        halves[part.subject] = part.halves if known is None else known + part.halves
    if first is None or electrodes.n < 2:
        raise ValueError("the quality of a shard set needs at least 2 trials; see why they were dropped.")
    return SetSummary(
        unit=first.unit,
        channels=first.channels,
        sfreq_hz=first.sfreq_hz,
        tmin_s=first.tmin_s,
        electrodes=electrodes,
        regions=regions,
        alternate_2CT=alternate_2CT,
        subject_of=subject_of,
        n_of_recording=n_of_recording,
        n_of_picture={subject: dict(counts) for subject, counts in n_of_picture.items()},
        concept_of=concept_of,
        halves=halves,
    )


def _check_alike(first: RecordingSummary, part: RecordingSummary) -> None:
    for name in ("channels", "sfreq_hz", "tmin_s", "unit"):
        if getattr(first, name) != getattr(part, name):
            raise ValueError(
                f"all recordings must have the same {name}, got {getattr(first, name)} in {first.recording} and "
                f"{getattr(part, name)} in {part.recording}."
            )
    if first.electrodes.mean.shape != part.electrodes.mean.shape:
        raise ValueError(
            f"all trials must have the same number of times, got {first.electrodes.mean.shape[1]} in "
            f"{first.recording} and {part.electrodes.mean.shape[1]} in {part.recording}."
        )


def spread(counts: Iterable[int]) -> dict[str, float]:
    """Return the smallest, the median and the largest of some counts."""
    found = list(counts)
    return {"min": min(found), "median": float(np.median(found)), "max": max(found)}


@dataclass(frozen=True)
class DropKind:
    """Trials that were left out for one kind of reason.

    Attributes
    ----------
    kind
        The reason with its numbers and electrodes taken out.
    electrodes
        How often each electrode is named, the most frequent first.
    examples
        Up to three of them in full: recording, event, reason.
    """

    kind: str
    n: int
    n_recordings: int
    electrodes: tuple[tuple[str, int], ...]
    examples: tuple[str, ...]


def drop_kinds(dropped: Sequence[Dropped], channels: Sequence[str]) -> list[DropKind]:
    """Group what was left out by kind of reason, the most frequent first.

    Parameters
    ----------
    channels
        Names of the electrodes, which are taken out of the reasons too; names without a letter are left in.
    """
    names = sorted((name for name in channels if re.search("[A-Za-z]", name)), key=len, reverse=True)
    electrode = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)") if names else None
    number = re.compile(r"(?<!\w)[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
    groups: dict[str, list[Dropped]] = {}
    for drop in dropped:
        kind = electrode.sub("an electrode", drop.reason) if electrode else drop.reason
        groups.setdefault(number.sub("…", kind), []).append(drop)
    kinds = []
    for kind, drops in groups.items():
        named = Counter(name for drop in drops if electrode for name in electrode.findall(drop.reason))
        kinds.append(
            DropKind(
                kind=kind,
                n=len(drops),
                n_recordings=len({drop.recording for drop in drops}),
                electrodes=tuple(sorted(named.items(), key=lambda item: (-item[1], item[0]))),
                examples=tuple(f"{drop.recording}, event {drop.event}: {drop.reason}" for drop in drops[:3]),
            )
        )
    return sorted(kinds, key=lambda kind: (-kind.n, kind.kind))
