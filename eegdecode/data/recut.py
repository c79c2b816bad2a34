"""Trials that came cut, cut again: picked, cropped and slowed down; what cannot be done to them any more is said.

Shape letters: N trial, B trial of a block, C chan, T time.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from eegdecode.batch import Dropped
from eegdecode.config import Epochs
from eegdecode.data.sources import CutRecording, EventsError, RecordingError
from eegdecode.data.trials import F64, I64, Trials, blocks_of, check_unit, range_uv, rate_of, stored, table_of, within

_N_CHECKED = 16
"""Trials whose range is looked at."""


def recut(recording: CutRecording, spec: Epochs) -> Trials:
    """Return the trials as `spec` asks for them; see `eegdecode.data.epochs.cut` for what is refused and left out."""
    key = recording.ref.key
    _check_admitted(recording, spec)
    picks = _picks(recording, spec)
    n, _, n_times = recording.eeg_NCT.shape
    times_s = recording.tmin_s + np.arange(n_times) / recording.sfreq_hz
    window_T, no_window = _window(times_s, recording.sfreq_hz, spec, key)
    times_s = times_s[window_T]
    baseline_T, no_baseline = _baseline(times_s, recording.sfreq_hz, spec, key)
    _check_crop(times_s, recording.sfreq_hz, spec, key)
    rate = rate_of(times_s, recording.sfreq_hz, spec, key)
    channels = tuple(recording.channels[pick] for pick in picks)
    dropped: list[Dropped] = []
    blocks = _read(recording, picks, window_T, baseline_T, dropped)
    eeg_NCT, kept_N, rejected = stored(blocks, n, channels, rate, spec, key)
    table = table_of(recording.ref, recording.events, kept_N, np.full(len(kept_N), np.nan))
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
    for block in blocks_of(n, *recording.eeg_NCT.shape[1:]):
        eeg_BCT = np.asarray(recording.eeg_NCT[block])[:, picks][:, :, window_T].astype(np.float64)
        events_B = np.arange(n, dtype=np.int64)[block]
        finite_B = np.isfinite(eeg_BCT).all(axis=(1, 2))
        dropped += [_not_finite(eeg_BCT[b], events_B[b], times_s, channels, key) for b in np.flatnonzero(~finite_B)]
        eeg_BCT = eeg_BCT[finite_B]
        if len(eeg_BCT) and recording.unit == "uV" and not checked:
            checked = True
            check_unit(_typical_uv(eeg_BCT, recording.sfreq_hz), key, "The source must give microvolt.")
        varies_C |= (np.ptp(eeg_BCT, axis=2) > 0).any(axis=0)
        if baseline_T is not None:
            eeg_BCT -= eeg_BCT[:, :, baseline_T].mean(axis=2, keepdims=True)
        yield events_B[finite_B], eeg_BCT
    if len(dropped) < n and not varies_C.all():
        raise RecordingError(
            f"{key}: {channels[int(varies_C.argmin())]} is flat in all trials. Leave it out with data.epochs.channels."
        )


def _typical_uv(eeg_uv_NCT: F64, sfreq_hz: float) -> float:
    ranges = [[range_uv(values_T, sfreq_hz) for values_T in eeg_uv_CT] for eeg_uv_CT in eeg_uv_NCT[:_N_CHECKED]]
    return float(np.median(ranges))


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


def _holds(times_s: F64, start_s: float, stop_s: float, sfreq_hz: float) -> bool:
    """Whether times reach from start to stop; the end may lie up to one sample after the last, as resampling leaves it.

    0.8 s is in an epoch of 1 kHz to 0.8 s, whose last sample is at 0.79 s after resampling to 100 Hz.
    """
    slack_s = 1e-3 / sfreq_hz
    return bool(
        start_s >= times_s[0] - slack_s
        and stop_s <= times_s[-1] + 1 / sfreq_hz + slack_s
        and within(times_s, start_s, stop_s, sfreq_hz).any()
    )


def _window(times_s: F64, sfreq_hz: float, spec: Epochs, key: str) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which samples of trials that came cut are in the epoch, and a note if the default does not fit them."""
    window = (spec.tmin_s, spec.tmax_s)
    if _holds(times_s, *window, sfreq_hz):
        return within(times_s, *window, sfreq_hz), ""
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
    baseline_T = within(times_s, start_s, stop_s, sfreq_hz)
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
