"""Trials that were cut the same way, and what every cut ends with: reject, change the rate, crop, clamp, in blocks.

Shape letters: N trial, B trial of a block, C chan, T time, R row of a block.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd

from eegdecode.batch import Dropped
from eegdecode.config import Epochs
from eegdecode.data.sources import RecordingError, RecordingRef

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
_Float = TypeVar("_Float", bound=np.floating)
PLAUSIBLE_UV = (0.5, 2000.0)
"""Typical range (largest minus smallest) of scalp EEG within 0.1 s, median over electrodes. Real recordings give 5 to
150 µV; volt taken for millivolt or microvolt is off by a thousand or more and falls outside."""
BLOCK_BYTES = 1 << 25
"""Trials are worked on in blocks of about this size in float64."""


@dataclass
class Trials:
    """Trials that were cut the same way.

    Attributes
    ----------
    eeg_uv_NCT
        Float32. Microvolt, as its name says, unless `unit` says another.
    table
        One row a trial: recording, subject, session, run, position, event, picture, onset_s. ``event`` is the row in
        the recording's events, ``position`` the place in the order of presentation (in the order of the file where
        trials came cut), counted with dropped trials. ``onset_s`` is NaN where it is not known.
    tmin_s
        Time of the first sample, relative to the onset of the picture.
    unit
        ``uV``; ``scaled``: in interquartile ranges of each electrode; ``whitened``: by whoever cut the trials before,
        or by the caller.
    notes
        What of the settings was left out, or looks at more than the trial; for the manifest's findings, beside
        `CutRecording.history`. Recordings are not named, so that the same note of many is one.
    """

    eeg_uv_NCT: F32
    table: pd.DataFrame
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    dropped: list[Dropped]
    unit: Literal["uV", "whitened", "scaled"] = "uV"
    notes: tuple[str, ...] = ()


def join(parts: Sequence[Trials]) -> Trials:
    """Put the trials of several recordings one after the other.

    Raises
    ------
    ValueError
        No parts, or parts that differ in electrodes, rate, first sample, unit or length.
    """
    if not parts:
        raise ValueError("trials of at least one recording are needed, got none.")
    first = parts[0]
    for part in parts[1:]:
        for name in ("channels", "sfreq_hz", "tmin_s", "unit"):
            if getattr(part, name) != getattr(first, name):
                advice = " Name common electrodes in data.epochs.channels." if name == "channels" else ""
                raise ValueError(
                    f"all recordings must have the same {name}, got {getattr(first, name)} in {_named(first)} and "
                    f"{getattr(part, name)} in {_named(part)}.{advice}"
                )
        if part.eeg_uv_NCT.shape[1:] != first.eeg_uv_NCT.shape[1:]:
            raise ValueError(
                f"all trials must have one shape (chans, times), got {first.eeg_uv_NCT.shape[1:]} in {_named(first)} "
                f"and {part.eeg_uv_NCT.shape[1:]} in {_named(part)}."
            )
    return Trials(
        np.concatenate([part.eeg_uv_NCT for part in parts]),
        pd.concat([part.table for part in parts], ignore_index=True),
        first.channels,
        first.sfreq_hz,
        first.tmin_s,
        [drop for part in parts for drop in part.dropped],
        first.unit,
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _named(trials: Trials) -> str:
    return str(trials.table["recording"].iloc[0]) if len(trials.table) else "a recording without trials"


def clamped(eeg_NCT: npt.NDArray[_Float], clamp: float) -> npt.NDArray[_Float]:
    """Return the values limited to -clamp and +clamp, in the unit they have."""
    limited_NCT: npt.NDArray[_Float] = np.clip(eeg_NCT, -clamp, clamp)
    return limited_NCT


def check_unit(typical_uv: float, key: str, advice: str) -> None:
    """Raise RecordingError if a typical range cannot be one of EEG in microvolt; `advice` says who must change what."""
    low, high = PLAUSIBLE_UV
    if not low <= typical_uv <= high:
        size = "small" if typical_uv < low else "large"
        raise RecordingError(
            f"{key}: values look a thousand times (or more) too {size}: they range over {typical_uv:.3g} µV within "
            f"0.1 s, EEG over {low:g} to {high:g}. {advice}"
        )


def range_uv(values_T: npt.NDArray[np.float64], sfreq_hz: float) -> float:
    """Return the 90th percentile of the range within 0.1 s.

    Such a short window does not know of electrode offsets and slow drifts, which may be a hundred times the EEG.
    Windows in which nothing moves do not count: values may be held, or coarse.
    """
    n_window = min(max(2, round(0.1 * sfreq_hz)), values_T.size)
    windows_WT = values_T[: values_T.size // n_window * n_window].reshape(-1, n_window)
    moving_W = np.ptp(windows_WT, axis=1)
    moving_W = moving_W[moving_W > 0]
    return float(np.quantile(moving_W, 0.9)) if moving_W.size else float(np.ptp(values_T))


def within(times_s: F64, start_s: float, stop_s: float, sfreq_hz: float) -> npt.NDArray[np.bool_]:
    """Return which times lie between two others, both included."""
    # A thousandth of a sample absorbs that 0.1 is no binary number.
    slack_s = 1e-3 / sfreq_hz
    return (times_s >= start_s - slack_s) & (times_s <= stop_s + slack_s)


@dataclass(frozen=True)
class Rate:
    """How the samples of an epoch become those that are stored.

    Attributes
    ----------
    step
        Every so many samples are kept; 0: they are resampled.
    kept
        Which of the samples after that are in the crop.
    times_s
        Of the samples that are stored.
    """

    sfreq_hz: float
    step: int
    kept: npt.NDArray[np.bool_]
    times_s: F64


def rate_of(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> Rate:
    """Return how samples at these times become those that `spec` asks for.

    Raises
    ------
    ValueError
        A higher rate than the recorded one, or a crop outside the epoch.
    """
    ratio = sfreq_hz / spec.sfreq_hz
    if ratio < 1:
        raise ValueError(
            f"data.epochs.sfreq_hz must not exceed the rate of {key} ({sfreq_hz:g} Hz), got {spec.sfreq_hz:g}."
        )
    low_passed = spec.h_freq_hz is not None and spec.h_freq_hz < spec.sfreq_hz / 2
    step = round(ratio)
    if abs(ratio - step) < 1e-9 and (step == 1 or low_passed):
        n_times = -(-len(times_s) // step)
    else:
        step, n_times = 0, max(1, round(len(times_s) / ratio))
    stored_s = times_s[0] + np.arange(n_times) / spec.sfreq_hz
    kept = np.ones(n_times, dtype=bool)
    if spec.crop_s is not None:
        kept = within(stored_s, *spec.crop_s, spec.sfreq_hz)
        if not kept.any():
            raise ValueError(
                f"data.epochs.crop_s must lie in the epoch of {key} ({stored_s[0]:g} to {stored_s[-1]:g} s), "
                f"got {spec.crop_s}."
            )
    return Rate(sfreq_hz, step, kept, stored_s[kept])


def blocks_of(n: int, n_chans: int, n_times: int) -> list[slice]:
    """Return the slices of n trials that take about `BLOCK_BYTES` each."""
    step = max(1, BLOCK_BYTES // (8 * n_chans * n_times))
    return [slice(start, start + step) for start in range(0, n, step)]


def stored(
    blocks: Iterator[tuple[I64, F64]], n: int, channels: tuple[str, ...], rate: Rate, spec: Epochs, key: str
) -> tuple[F32, I64, list[Dropped]]:
    """Reject, change the rate, crop and clamp; return what is left, its events and what was dropped."""
    eeg_NCT = np.empty((n, len(channels), len(rate.times_s)), np.float32)
    kept: list[int] = []
    dropped: list[Dropped] = []
    for events_B, eeg_BCT in blocks:
        good_B, rejected = _reject(eeg_BCT, events_B, channels, spec, key)
        dropped += rejected
        if not good_B.any():
            continue
        slow_BCT = _slowed(eeg_BCT[good_B], rate, spec)[:, :, rate.kept]
        if spec.clamp is not None and spec.mvnn == "none":
            slow_BCT = clamped(slow_BCT, spec.clamp)
        eeg_NCT[len(kept) : len(kept) + len(slow_BCT)] = slow_BCT
        kept += events_B[good_B].tolist()
    return eeg_NCT[: len(kept)], np.array(kept, dtype=np.int64), dropped


def _reject(
    eeg_uv_BCT: F64, events_B: I64, channels: tuple[str, ...], spec: Epochs, key: str
) -> tuple[npt.NDArray[np.bool_], list[Dropped]]:
    if spec.reject_uv is None or not len(eeg_uv_BCT):
        return np.ones(len(eeg_uv_BCT), dtype=bool), []
    peak_uv_BC = np.abs(eeg_uv_BCT).max(axis=2)
    good_B = peak_uv_BC.max(axis=1) <= spec.reject_uv
    rejected = []
    for row in np.flatnonzero(~good_B):
        worst = int(peak_uv_BC[row].argmax())
        reason = f"{channels[worst]} reaches {peak_uv_BC[row, worst]:.0f} µV, more than {spec.reject_uv:g}"
        rejected.append(Dropped(recording=key, event=int(events_B[row]), reason=reason))
    return good_B, rejected


def _slowed(eeg_NCT: F64, rate: Rate, spec: Epochs) -> npt.NDArray[np.floating]:
    if rate.step:
        return eeg_NCT[:, :, :: rate.step]
    n_times = eeg_NCT.shape[2]
    slow_RT: F64 = eeg_NCT.reshape(-1, n_times) @ _resampling(n_times, spec.sfreq_hz, rate.sfreq_hz)
    return slow_RT.reshape(*eeg_NCT.shape[:2], -1)


@lru_cache(maxsize=4)
def _resampling(n_times: int, to_hz: float, from_hz: float) -> F64:
    """Return what `mne.Epochs.resample` does to a row of samples, as a matrix (times, times after).

    MNE's FFT resampling with its padding is linear. Applied to the unit vectors once, it is a matrix product from then
    on: the same numbers to 1e-12, and about twenty times as fast as a transform for every trial and electrode.
    """
    return np.asarray(mne.filter.resample(np.eye(n_times), to_hz, from_hz, npad="auto", pad="edge", verbose="ERROR"))


def table_of(ref: RecordingRef, shown: pd.DataFrame, events: I64, onset_s: F64) -> pd.DataFrame:
    """Return the table of trials that are left, by their rows in the recording's events."""
    return pd.DataFrame(
        {
            "recording": ref.key,
            "subject": ref.subject,
            "session": ref.session,
            "run": ref.run,
            "position": events,
            "event": events,
            "picture": shown["picture"].astype(str).to_numpy()[events],
            "onset_s": onset_s,
        }
    )
