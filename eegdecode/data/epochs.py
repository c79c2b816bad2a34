"""EEG of one run to trials: filter, scale, cut, baseline, reject, resample, clamp; and why each trial was dropped.

Takes continuous recordings, and those whose trials came cut. Volt becomes microvolt here and nowhere else.
Shape letters: N trial, B trial of a block, C chan, T time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.signal import butter, sosfiltfilt

from eegdecode.batch import Dropped
from eegdecode.config import Epochs
from eegdecode.data.sources import CutRecording, EventsError, Recording, RecordingError, RecordingRef

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
_Float = TypeVar("_Float", bound=np.floating)
UV_PER_V = 1e6
PLAUSIBLE_UV = (0.5, 2000.0)
"""Typical range (largest minus smallest) of scalp EEG within 0.1 s, median over electrodes. Real recordings give 5 to
150 µV; volt taken for millivolt or microvolt is off by a thousand or more and falls outside."""
BLOCK_BYTES = 1 << 25
"""Trials are worked on in blocks of about this size in float64."""
_N_CHECKED = 16
"""Trials whose range is looked at where they came cut."""

_SCALED = (
    "data.epochs.scale: median and interquartile range are those of the whole recording, the test trials that it holds "
    "included."
)


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


def cut(recording: Recording | CutRecording, spec: Epochs) -> Trials:
    """Cut one recording into trials.

    In this order: choose electrodes, check, filter the whole run, scale it, cut, subtract the baseline, drop what
    exceeds `reject_uv` anywhere in the epoch, change the rate, crop, clamp. The rate is changed by keeping every n-th
    sample, from the first of the epoch on, where `sfreq_hz` divides the recorded rate and `h_freq_hz` lies below half
    of it; else by MNE's FFT resampling of each epoch. Baseline and epoch include both end points, as MNE does.

    Noise normalisation (`mvnn`) needs the training trials of a session and is the caller's: `noise_sum` of each
    recording, added, then `whitened`, then `clamped`. Values are clamped here only if `mvnn` is ``none``.

    Trials that came cut are read in blocks; a mapped file is never held whole. What of `spec` can not be done to them
    is refused if it differs from the default, and else left out and said in `Trials.notes`: filters, scale, an epoch
    or a baseline that does not lie in the trials; of whitened trials also `reject_uv` and `mvnn`. A trial with a value
    that is not finite is dropped.

    Raises
    ------
    RecordingError
        An electrode that is missing, flat or holds NaN or infinity; values in a wrong unit.
    EventsError
        An event outside the recording, or events that are not in the order of time, or not one a trial.
    ValueError
        A filter or rate that the recording's rate does not allow; a crop outside the epoch; a setting that trials
        which came cut do not admit.
    """
    return _cut_again(recording, spec) if isinstance(recording, CutRecording) else _cut_continuous(recording, spec)


def clamped(eeg_NCT: npt.NDArray[_Float], clamp: float) -> npt.NDArray[_Float]:
    """Return the values limited to -clamp and +clamp, in the unit they have."""
    limited_NCT: npt.NDArray[_Float] = np.clip(eeg_NCT, -clamp, clamp)
    return limited_NCT


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


def _cut_continuous(recording: Recording, spec: Epochs) -> Trials:
    key = recording.ref.key
    raw = _chosen(recording, spec)
    _check_signal(raw, key)
    samples = _samples(recording, raw)
    _filter(raw, spec, key)
    unit: Literal["uV", "scaled"] = "uV"
    notes: tuple[str, ...] = ()
    if spec.scale == "robust":
        _scale(raw, key)
        unit, notes = "scaled", (_SCALED,)
    times_s = _epochs(raw, samples[:1], spec, key).times
    rate = _rate(times_s, raw.info["sfreq"], spec, key)
    factor = UV_PER_V if unit == "uV" else 1.0
    dropped: list[Dropped] = []

    def blocks() -> Iterator[tuple[I64, F64]]:
        # A few events at a time: the epochs of a whole run are several times its size.
        for block in _blocks(len(samples), len(raw.ch_names), len(times_s)):
            epochs = _epochs(raw, samples[block], spec, key)
            dropped.extend(_dropped(epochs, samples, block.start, spec, raw, key))
            if len(epochs):
                yield block.start + np.asarray(epochs.selection, dtype=np.int64), epochs.get_data(copy=False) * factor

    eeg_NCT, kept_N, rejected = _stored(blocks(), len(samples), tuple(raw.ch_names), rate, spec, key)
    return Trials(
        eeg_uv_NCT=eeg_NCT,
        table=_table(recording.ref, recording.events, kept_N, samples[kept_N] / raw.info["sfreq"]),
        channels=tuple(raw.ch_names),
        sfreq_hz=spec.sfreq_hz,
        tmin_s=float(rate.times_s[0]),
        dropped=sorted(dropped + rejected, key=lambda drop: drop.event),
        unit=unit,
        notes=notes,
    )


def _cut_again(recording: CutRecording, spec: Epochs) -> Trials:
    key = recording.ref.key
    _check_admitted(recording, spec)
    picks = _picks(recording, spec)
    n, _, n_times = recording.eeg_NCT.shape
    times_s = recording.tmin_s + np.arange(n_times) / recording.sfreq_hz
    window_T, no_window = _window(times_s, recording.sfreq_hz, spec, key)
    times_s = times_s[window_T]
    baseline_T, no_baseline = _baseline(times_s, recording.sfreq_hz, spec, key)
    _check_crop(times_s, recording.sfreq_hz, spec, key)
    rate = _rate(times_s, recording.sfreq_hz, spec, key)
    channels = tuple(recording.channels[pick] for pick in picks)
    dropped: list[Dropped] = []
    blocks = _read(recording, picks, window_T, baseline_T, dropped)
    eeg_NCT, kept_N, rejected = _stored(blocks, n, channels, rate, spec, key)
    table = _table(recording.ref, recording.events, kept_N, np.full(len(kept_N), np.nan))
    if "session" in recording.events:
        table["session"] = recording.events["session"].astype(str).to_numpy()[kept_N]
    return Trials(
        eeg_uv_NCT=eeg_NCT,
        table=table,
        channels=channels,
        sfreq_hz=spec.sfreq_hz,
        tmin_s=float(rate.times_s[0]),
        dropped=sorted(dropped + rejected, key=lambda drop: drop.event),
        unit=recording.unit,
        notes=tuple(note for note in (no_window, no_baseline) if note),
    )


def _read(
    recording: CutRecording,
    picks: list[int],
    window_T: npt.NDArray[np.bool_],
    baseline_T: npt.NDArray[np.bool_] | None,
    dropped: list[Dropped],
) -> Iterator[tuple[I64, F64]]:
    """Read blocks of trials, check them and subtract the baseline; trials that are not finite go to `dropped`."""
    n, key, checked = len(recording.eeg_NCT), recording.ref.key, False
    channels = tuple(recording.channels[pick] for pick in picks)
    times_s = recording.tmin_s + np.flatnonzero(window_T) / recording.sfreq_hz
    varies_C = np.zeros(len(picks), dtype=bool)
    for block in _blocks(n, *recording.eeg_NCT.shape[1:]):
        eeg_BCT = np.asarray(recording.eeg_NCT[block])[:, picks][:, :, window_T].astype(np.float64)
        events_B = np.arange(n, dtype=np.int64)[block]
        finite_B = np.isfinite(eeg_BCT).all(axis=(1, 2))
        dropped += [_not_finite(eeg_BCT[b], events_B[b], times_s, channels, key) for b in np.flatnonzero(~finite_B)]
        eeg_BCT = eeg_BCT[finite_B]
        if len(eeg_BCT) and recording.unit == "uV" and not checked:
            checked = True
            _check_unit(_typical_uv(eeg_BCT, recording.sfreq_hz), key, "The source must give microvolt.")
        varies_C |= (np.ptp(eeg_BCT, axis=2) > 0).any(axis=0)
        if baseline_T is not None:
            eeg_BCT -= eeg_BCT[:, :, baseline_T].mean(axis=2, keepdims=True)
        yield events_B[finite_B], eeg_BCT
    if len(dropped) < n and not varies_C.all():
        raise RecordingError(
            f"{key}: {channels[int(varies_C.argmin())]} is flat in all trials. Leave it out with data.epochs.channels."
        )


def _chosen(recording: Recording, spec: Epochs) -> mne.io.BaseRaw:
    raw, key = recording.raw, recording.ref.key
    electrodes = [raw.ch_names[i] for i in mne.pick_types(raw.info, meg=False, eeg=True, exclude=())]
    wanted = list(spec.channels) if spec.channels is not None else electrodes
    missing = [name for name in wanted if name not in raw.ch_names]
    if missing or not wanted:
        raise RecordingError(
            f"{key}: data.epochs.channels must be electrodes of the recording, missing {missing}. "
            f"It has {electrodes or raw.ch_names}."
        )
    if recording.raw.n_times == 0:
        raise RecordingError(f"{key}: has no samples.")
    # Not raw.copy().pick(): of a run in memory that is two more copies.
    picks = [raw.ch_names.index(name) for name in wanted]
    info = mne.pick_info(raw.info, picks)
    chosen = mne.io.RawArray(raw.get_data(picks=picks), info, first_samp=raw.first_samp, copy="info", verbose="ERROR")
    return chosen.set_annotations(raw.annotations, verbose="ERROR")


def _check_signal(raw: mne.io.BaseRaw, key: str) -> None:
    # One electrode at a time: a copy of the run would be gigabytes.
    typical_uv_C = []
    for chan, name in enumerate(raw.ch_names):
        values_T = raw.get_data(picks=[chan])[0] * UV_PER_V
        bad = np.flatnonzero(~np.isfinite(values_T))
        if bad.size:
            raise RecordingError(
                f"{key}: {name} must be finite, got {values_T[bad[0]]} at sample {bad[0]} "
                f"({bad.size} such samples). Repair or leave out the electrode (data.epochs.channels)."
            )
        if np.ptp(values_T) == 0:
            raise RecordingError(
                f"{key}: {name} is flat, {values_T[0]:g} µV in all {values_T.size} samples. "
                "Leave it out with data.epochs.channels."
            )
        typical_uv_C.append(_range_uv(values_T, raw.info["sfreq"]))
    _check_unit(
        float(np.median(typical_uv_C)),
        key,
        "The reader must give volt (MNE's unit); check the unit in the file's header.",
    )


def _check_unit(typical_uv: float, key: str, advice: str) -> None:
    low, high = PLAUSIBLE_UV
    if not low <= typical_uv <= high:
        size = "small" if typical_uv < low else "large"
        raise RecordingError(
            f"{key}: values look a thousand times (or more) too {size}: they range over {typical_uv:.3g} µV within "
            f"0.1 s, EEG over {low:g} to {high:g}. {advice}"
        )


def _typical_uv(eeg_uv_NCT: F64, sfreq_hz: float) -> float:
    ranges = [[_range_uv(values_T, sfreq_hz) for values_T in eeg_uv_CT] for eeg_uv_CT in eeg_uv_NCT[:_N_CHECKED]]
    return float(np.median(ranges))


def _range_uv(values_T: npt.NDArray[np.float64], sfreq_hz: float) -> float:
    """Return the 90th percentile of the range within 0.1 s.

    Such a short window does not know of electrode offsets and slow drifts, which may be a hundred times the EEG.
    Windows in which nothing moves do not count: values may be held, or coarse.
    """
    n_window = min(max(2, round(0.1 * sfreq_hz)), values_T.size)
    windows_WT = values_T[: values_T.size // n_window * n_window].reshape(-1, n_window)
    moving_W = np.ptp(windows_WT, axis=1)
    moving_W = moving_W[moving_W > 0]
    return float(np.quantile(moving_W, 0.9)) if moving_W.size else float(np.ptp(values_T))


def _samples(recording: Recording, raw: mne.io.BaseRaw) -> npt.NDArray[np.int64]:
    key = recording.ref.key
    missing = {"sample", "picture"} - set(recording.events.columns)
    if missing:
        raise EventsError(f"{key}: events need the columns sample and picture, missing {sorted(missing)}.")
    samples = recording.events["sample"].to_numpy(dtype=np.int64)
    outside = np.flatnonzero((samples < 0) | (samples >= raw.n_times))
    if outside.size:
        row = int(outside[0])
        raise EventsError(
            f"{key}: event {row} must lie in the recording of {raw.n_times} samples "
            f"({raw.n_times / raw.info['sfreq']:g} s), got sample {samples[row]}."
        )
    if not len(samples):
        raise EventsError(f"{key}: has no events; there is nothing to cut.")
    disorder = np.flatnonzero(np.diff(samples) <= 0)
    if disorder.size:
        row = int(disorder[0]) + 1
        raise EventsError(
            f"{key}: events must be in the order of time and none twice, got sample {samples[row]} in row {row} "
            f"after {samples[row - 1]}."
        )
    return samples


def _filter(raw: mne.io.BaseRaw, spec: Epochs, key: str) -> None:
    nyquist_hz = raw.info["sfreq"] / 2
    for name, value in (
        ("l_freq_hz", spec.l_freq_hz),
        ("h_freq_hz", spec.h_freq_hz),
        *(("notch_hz", f) for f in spec.notch_hz),
    ):
        if value is not None and not 0 < value < nyquist_hz:
            raise ValueError(
                f"data.epochs.{name} must lie between 0 and half the rate of {key} ({nyquist_hz:g} Hz), got {value:g}."
            )
    if spec.notch_hz:
        raw.notch_filter(list(spec.notch_hz), picks="all", verbose="ERROR")
    if spec.l_freq_hz is None and spec.h_freq_hz is None:
        return
    if spec.filter == "fir":
        raw.filter(spec.l_freq_hz, spec.h_freq_hz, picks="all", verbose="ERROR")
        return
    edges = [f for f in (spec.l_freq_hz, spec.h_freq_hz) if f is not None]
    kind = "bandpass" if len(edges) == 2 else ("highpass" if spec.h_freq_hz is None else "lowpass")
    sos = butter(4, edges if len(edges) == 2 else edges[0], kind, fs=raw.info["sfreq"], output="sos")
    raw.apply_function(
        lambda values_CT: sosfiltfilt(sos, values_CT, axis=-1), picks="all", channel_wise=False, verbose="ERROR"
    )


def _scale(raw: mne.io.BaseRaw, key: str) -> None:
    low_C, median_C, high_C = np.percentile(raw.get_data(), (25, 50, 75), axis=1)
    still = np.flatnonzero(high_C <= low_C)
    if still.size:
        raise RecordingError(
            f"{key}: {raw.ch_names[still[0]]} has one value in half of its samples, so data.epochs.scale='robust' can "
            "not divide by its interquartile range. Leave it out with data.epochs.channels."
        )
    raw.apply_function(
        lambda values_CT: (values_CT - median_C[:, None]) / (high_C - low_C)[:, None],
        picks="all",
        channel_wise=False,
        verbose="ERROR",
    )


def _epochs(raw: mne.io.BaseRaw, samples: I64, spec: Epochs, key: str) -> mne.Epochs:
    rows = np.zeros((len(samples), 3), dtype=np.int64)
    rows[:, 0] = samples + raw.first_samp
    rows[:, 2] = 1
    try:
        return mne.Epochs(
            raw,
            rows,
            event_id=1,
            tmin=spec.tmin_s,
            tmax=spec.tmax_s,
            baseline=spec.baseline_s,
            picks="all",
            preload=True,
            verbose="ERROR",
        )
    except ValueError as error:
        raise ValueError(f"{key}: data.epochs can not be applied ({error}).") from error


def _dropped(
    epochs: mne.Epochs, samples: I64, first: int, spec: Epochs, raw: mne.io.BaseRaw, key: str
) -> list[Dropped]:
    """Say why events from number `first` on have no epoch."""
    dropped = []
    for event, reasons in enumerate(epochs.drop_log, first):
        if not reasons:
            continue
        cut_off = {"NO_DATA", "TOO_SHORT"} & set(reasons)
        dropped.append(
            Dropped(
                recording=key,
                event=event,
                reason=(
                    f"window {spec.tmin_s:g} to {spec.tmax_s:g} s around {samples[event] / raw.info['sfreq']:.3f} s "
                    f"reaches out of the recording ({raw.n_times / raw.info['sfreq']:.3f} s)"
                    if cut_off
                    else f"annotated {', '.join(reasons)}"
                ),
            )
        )
    return dropped


def _default(name: str) -> Any:
    return Epochs.model_fields[name].default


def _check_admitted(recording: CutRecording, spec: Epochs) -> None:
    key = recording.ref.key
    lost = "needs the continuous recording, of which only trials are left"
    refused = {"l_freq_hz": lost, "h_freq_hz": lost, "notch_hz": lost, "scale": lost}
    if recording.unit != "uV":
        refused["reject_uv"] = "is in microvolt, which the trials are not"
        refused["mvnn"] = "would whiten again what came whitened"
    for name, reason in refused.items():
        value, default = getattr(spec, name), _default(name)
        if value != default:
            raise ValueError(
                f"data.epochs.{name} can not be applied to {key}, whose trials came cut: it {reason}. "
                f"Leave it at {default!r}, got {value!r}."
            )
    if not len(recording.eeg_NCT):
        raise RecordingError(f"{key}: has no trials.")
    if "picture" not in recording.events or len(recording.events) != len(recording.eeg_NCT):
        raise EventsError(
            f"{key}: events need a column picture and a row for each of {len(recording.eeg_NCT)} trials, got "
            f"{len(recording.events)} rows of {list(recording.events.columns)}."
        )


def _picks(recording: CutRecording, spec: Epochs) -> list[int]:
    wanted = spec.channels if spec.channels is not None else recording.channels
    missing = [name for name in wanted if name not in recording.channels]
    if missing or not wanted:
        raise RecordingError(
            f"{recording.ref.key}: data.epochs.channels must be electrodes of the recording, missing {missing}. "
            f"It has {list(recording.channels)}."
        )
    return [recording.channels.index(name) for name in wanted]


def _within(times_s: F64, start_s: float, stop_s: float, sfreq_hz: float) -> npt.NDArray[np.bool_]:
    # A thousandth of a sample absorbs that 0.1 is no binary number.
    slack_s = 1e-3 / sfreq_hz
    return (times_s >= start_s - slack_s) & (times_s <= stop_s + slack_s)


def _holds(times_s: F64, start_s: float, stop_s: float, sfreq_hz: float) -> bool:
    """Whether times reach from start to stop; the end may lie up to one sample after the last, as resampling leaves it.

    0.8 s is in an epoch of 1 kHz to 0.8 s, whose last sample is at 0.79 s after resampling to 100 Hz.
    """
    slack_s = 1e-3 / sfreq_hz
    return bool(
        start_s >= times_s[0] - slack_s
        and stop_s <= times_s[-1] + 1 / sfreq_hz + slack_s
        and _within(times_s, start_s, stop_s, sfreq_hz).any()
    )


def _window(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which samples of trials that came cut are in the epoch, and a note if the default does not fit them."""
    window = (spec.tmin_s, spec.tmax_s)
    if _holds(times_s, *window, sfreq_hz):
        return _within(times_s, *window, sfreq_hz), ""
    if window != (_default("tmin_s"), _default("tmax_s")):
        field = "tmin_s" if spec.tmin_s < times_s[0] else "tmax_s"
        raise ValueError(
            f"data.epochs.{field}: the epoch must lie in the trials of {key}, which came cut to {times_s[0]:g} to "
            f"{times_s[-1]:g} s, got {spec.tmin_s:g} to {spec.tmax_s:g} s."
        )
    return np.ones(len(times_s), dtype=bool), (
        f"data.epochs.tmin_s, tmax_s: the default epoch of {spec.tmin_s:g} to {spec.tmax_s:g} s does not lie in trials "
        f"that came cut to {times_s[0]:g} to {times_s[-1]:g} s; they are kept whole."
    )


def _baseline(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> tuple[npt.NDArray[np.bool_] | None, str]:
    """Return which samples are the baseline of trials that came cut, and a note if the default does not fit them."""
    if spec.baseline_s is None:
        return None, ""
    start_s = times_s[0] if spec.baseline_s[0] is None else spec.baseline_s[0]
    stop_s = times_s[-1] if spec.baseline_s[1] is None else spec.baseline_s[1]
    baseline_T = _within(times_s, start_s, stop_s, sfreq_hz)
    # One sample, as at 0 s in trials that begin there, is no baseline.
    if _holds(times_s, start_s, stop_s, sfreq_hz) and baseline_T.sum() > 1:
        return baseline_T, ""
    cut_to = f"trials that came cut to {times_s[0]:g} to {times_s[-1]:g} s"
    if spec.baseline_s != _default("baseline_s"):
        raise ValueError(
            f"data.epochs.baseline_s must lie in the trials of {key} and hold two samples, got {spec.baseline_s} for "
            f"{cut_to}. Set it to None."
        )
    return None, f"data.epochs.baseline_s: the default, up to 0 s, does not lie in {cut_to}; none was subtracted."


def _check_crop(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> None:
    # Stricter than for a continuous recording, whose epoch is chosen by the same person: a window before the picture
    # must not become the one sample at 0 s of trials that begin there.
    if spec.crop_s is not None and not _holds(times_s, *spec.crop_s, sfreq_hz):
        raise ValueError(
            f"data.epochs.crop_s must lie in the epoch of {key} ({times_s[0]:g} to {times_s[-1]:g} s; its trials came "
            f"cut), got {spec.crop_s}."
        )


def _not_finite(eeg_CT: F64, event: int, times_s: F64, channels: tuple[str, ...], key: str) -> Dropped:
    bad = np.argwhere(~np.isfinite(eeg_CT))
    chan, time = bad[0]
    reason = f"{channels[chan]} is {eeg_CT[chan, time]} at {times_s[time]:.3f} s ({len(bad)} values are not finite)"
    return Dropped(recording=key, event=int(event), reason=reason)


@dataclass(frozen=True)
class _Rate:
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


def _rate(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> _Rate:
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
        kept = _within(stored_s, *spec.crop_s, spec.sfreq_hz)
        if not kept.any():
            raise ValueError(
                f"data.epochs.crop_s must lie in the epoch of {key} ({stored_s[0]:g} to {stored_s[-1]:g} s), "
                f"got {spec.crop_s}."
            )
    return _Rate(sfreq_hz, step, kept, stored_s[kept])


def _blocks(n: int, n_chans: int, n_times: int) -> list[slice]:
    step = max(1, BLOCK_BYTES // (8 * n_chans * n_times))
    return [slice(start, start + step) for start in range(0, n, step)]


def _stored(
    blocks: Iterator[tuple[I64, F64]], n: int, channels: tuple[str, ...], rate: _Rate, spec: Epochs, key: str
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


def _slowed(eeg_NCT: F64, rate: _Rate, spec: Epochs) -> npt.NDArray[np.floating]:
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


def _table(ref: RecordingRef, shown: pd.DataFrame, events: I64, onset_s: F64) -> pd.DataFrame:
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
