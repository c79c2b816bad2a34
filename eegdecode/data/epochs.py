"""Continuous EEG of one run to trials: filter, cut, baseline, reject, resample; and why each trial was dropped.

Shape letters: N trial, C chan, T time. Volt becomes microvolt here and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mne
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.signal import butter, sosfiltfilt

from eegdecode.batch import Dropped
from eegdecode.config import Epochs
from eegdecode.data.sources import EventsError, Recording, RecordingError

UV_PER_V = 1e6
PLAUSIBLE_UV = (0.5, 2000.0)
"""Typical range (largest minus smallest) of scalp EEG within 0.1 s, median over electrodes. Real recordings give 5 to
150 µV; volt taken for millivolt or microvolt is off by a thousand or more and falls outside."""


@dataclass
class Trials:
    """Trials that were cut the same way.

    Attributes
    ----------
    eeg_uv_NCT
        Float32, microvolt.
    table
        One row a trial: recording, subject, session, run, position, event, picture, onset_s. ``event`` is the row in
        the recording's events, ``position`` the place in the order of presentation, counted with dropped trials.
    tmin_s
        Time of the first sample, relative to the onset of the picture.
    """

    eeg_uv_NCT: npt.NDArray[np.float32]
    table: pd.DataFrame
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    dropped: list[Dropped]


def cut(recording: Recording, spec: Epochs) -> Trials:
    """Cut one recording into trials.

    In this order: choose electrodes, check, filter the whole run, cut, subtract the baseline, drop what exceeds
    `reject_uv` anywhere in the epoch, change the rate, crop. The rate is changed by keeping every n-th sample, from the
    first of the epoch on, where `sfreq_hz` divides the recorded rate and `h_freq_hz` lies below half of it; else by
    MNE's FFT resampling of each epoch. Baseline and epoch include both end points, as MNE does.

    Raises
    ------
    RecordingError
        An electrode that is missing, flat or holds NaN or infinity; values in a wrong unit.
    EventsError
        An event outside the recording, or events that are not in the order of time.
    ValueError
        A filter or rate that the recording's rate does not allow; a crop outside the epoch.
    """
    key = recording.ref.key
    raw = _chosen(recording, spec)
    _check_signal(raw, key)
    samples = _samples(recording, raw)
    _filter(raw, spec, key)
    epochs, dropped = _epochs(raw, samples, recording, spec)
    eeg_uv_NCT = epochs.get_data(copy=False) * UV_PER_V if len(epochs) else np.empty((0, len(raw.ch_names), 0))
    good_N, rejected = _reject(eeg_uv_NCT, epochs, spec, key)
    eeg_uv_NCT, times_s = _change_rate(epochs, good_N, spec, key)
    eeg_uv_NCT, times_s = _crop(eeg_uv_NCT, times_s, spec, key)
    events = np.asarray(epochs.selection, dtype=np.int64)[good_N]
    return Trials(
        eeg_uv_NCT=np.ascontiguousarray(eeg_uv_NCT, dtype=np.float32),
        table=_table(recording, events, samples, raw.info["sfreq"]),
        channels=tuple(raw.ch_names),
        sfreq_hz=spec.sfreq_hz,
        tmin_s=float(times_s[0]),
        dropped=sorted(dropped + rejected, key=lambda drop: drop.event),
    )


def join(parts: Sequence[Trials]) -> Trials:
    """Put the trials of several recordings one after the other.

    Raises
    ------
    ValueError
        No parts, or parts that differ in electrodes, rate, first sample or length.
    """
    if not parts:
        raise ValueError("trials of at least one recording are needed, got none.")
    first = parts[0]
    for part in parts[1:]:
        for name in ("channels", "sfreq_hz", "tmin_s"):
            if getattr(part, name) != getattr(first, name):
                raise ValueError(
                    f"all recordings must have the same {name}, got {getattr(first, name)} in {_named(first)} and "
                    f"{getattr(part, name)} in {_named(part)}. Name common electrodes in data.epochs.channels."
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
    )


def _named(trials: Trials) -> str:
    return str(trials.table["recording"].iloc[0]) if len(trials.table) else "a recording without trials"


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
    chosen = raw.copy().pick(wanted, verbose="ERROR").load_data(verbose="ERROR")
    return chosen.reorder_channels(wanted)


def _check_signal(raw: mne.io.BaseRaw, key: str) -> None:
    eeg_uv_CT = raw.get_data() * UV_PER_V
    for name, values_T in zip(raw.ch_names, eeg_uv_CT, strict=True):
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
    typical_uv = float(np.median([_range_uv(values_T, raw.info["sfreq"]) for values_T in eeg_uv_CT]))
    low, high = PLAUSIBLE_UV
    if not low <= typical_uv <= high:
        size = "small" if typical_uv < low else "large"
        raise RecordingError(
            f"{key}: values look a thousand times (or more) too {size}: they range over {typical_uv:.3g} µV within "
            f"0.1 s, EEG over {low:g} to {high:g}. The reader must give volt (MNE's unit); check the unit in the "
            "file's header."
        )


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


def _epochs(
    raw: mne.io.BaseRaw, samples: npt.NDArray[np.int64], recording: Recording, spec: Epochs
) -> tuple[mne.Epochs, list[Dropped]]:
    key = recording.ref.key
    rows = np.zeros((len(samples), 3), dtype=np.int64)
    rows[:, 0] = samples + raw.first_samp
    rows[:, 2] = 1
    if not len(samples):
        raise EventsError(f"{key}: has no events; there is nothing to cut.")
    try:
        epochs = mne.Epochs(
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
    dropped = []
    for event, reasons in enumerate(epochs.drop_log):
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
    return epochs, dropped


def _reject(
    eeg_uv_NCT: npt.NDArray[np.float64], epochs: mne.Epochs, spec: Epochs, key: str
) -> tuple[npt.NDArray[np.bool_], list[Dropped]]:
    good_N = np.ones(len(eeg_uv_NCT), dtype=bool)
    if spec.reject_uv is None or not len(eeg_uv_NCT):
        return good_N, []
    peak_uv_NC = np.abs(eeg_uv_NCT).max(axis=2)
    good_N = peak_uv_NC.max(axis=1) <= spec.reject_uv
    rejected = []
    for row in np.flatnonzero(~good_N):
        worst = int(peak_uv_NC[row].argmax())
        reason = f"{epochs.ch_names[worst]} reaches {peak_uv_NC[row, worst]:.0f} µV, more than {spec.reject_uv:g}"
        rejected.append(Dropped(recording=key, event=int(epochs.selection[row]), reason=reason))
    return good_N, rejected


def _change_rate(
    epochs: mne.Epochs, good_N: npt.NDArray[np.bool_], spec: Epochs, key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    sfreq_hz = epochs.info["sfreq"]
    ratio = sfreq_hz / spec.sfreq_hz
    if ratio < 1:
        raise ValueError(
            f"data.epochs.sfreq_hz must not exceed the rate of {key} ({sfreq_hz:g} Hz), got {spec.sfreq_hz:g}."
        )
    low_passed = spec.h_freq_hz is not None and spec.h_freq_hz < spec.sfreq_hz / 2
    step = round(ratio)
    n_times = len(epochs.times)
    whole = step == 1 or low_passed
    if abs(ratio - step) < 1e-9 and whole:
        n_times = -(-n_times // step)
    else:
        step, n_times = 0, max(1, round(n_times / ratio))
    times_s = epochs.times[0] + np.arange(n_times) / spec.sfreq_hz
    if not good_N.any():
        return np.empty((0, len(epochs.ch_names), n_times)), times_s
    if step == 0:
        epochs = epochs[good_N].resample(spec.sfreq_hz, verbose="ERROR")
        return epochs.get_data(copy=False) * UV_PER_V, times_s
    return epochs.get_data(copy=False)[good_N][:, :, ::step] * UV_PER_V, times_s


def _crop(
    eeg_uv_NCT: npt.NDArray[np.float64], times_s: npt.NDArray[np.float64], spec: Epochs, key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if spec.crop_s is None:
        return eeg_uv_NCT, times_s
    # A thousandth of a sample absorbs that 0.1 is no binary number.
    slack_s = 1e-3 / spec.sfreq_hz
    kept = (times_s >= spec.crop_s[0] - slack_s) & (times_s <= spec.crop_s[1] + slack_s)
    if not kept.any():
        raise ValueError(
            f"data.epochs.crop_s must lie in the epoch of {key} ({times_s[0]:g} to {times_s[-1]:g} s), "
            f"got {spec.crop_s}."
        )
    return eeg_uv_NCT[:, :, kept], times_s[kept]


def _table(
    recording: Recording, events: npt.NDArray[np.int64], samples: npt.NDArray[np.int64], sfreq_hz: float
) -> pd.DataFrame:
    ref = recording.ref
    pictures = recording.events["picture"].astype(str).to_numpy()
    return pd.DataFrame(
        {
            "recording": ref.key,
            "subject": ref.subject,
            "session": ref.session,
            "run": ref.run,
            "position": events,
            "event": events,
            "picture": pictures[events],
            "onset_s": samples[events] / sfreq_hz,
        }
    )
