"""EEG of one run to trials: filter, scale, cut, baseline, reject, resample, clamp; and why each trial was dropped.

Takes continuous recordings, and those whose trials came cut (`recut`). Volt becomes microvolt here and nowhere else.
Shape letters: N trial, B trial of a block, C chan, T time.
"""

from collections.abc import Iterator
from typing import Literal

import mne
import numpy as np
import numpy.typing as npt
from scipy.signal import butter, sosfiltfilt

from eegdecode.batch import Dropped
from eegdecode.config import Epochs
from eegdecode.data.recut import recut
from eegdecode.data.sources import CutRecording, EventsError, Recording, RecordingError
from eegdecode.data.trials import F64, I64, Trials, blocks_of, check_unit, range_uv, rate_of, stored, table_of

UV_PER_V = 1e6
_SCALED = (
    "data.epochs.scale: median and interquartile range are those of the whole recording, the test trials that it holds "
    "included."
)


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
    return recut(recording, spec) if isinstance(recording, CutRecording) else _cut_continuous(recording, spec)


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
    rate = rate_of(times_s, raw.info["sfreq"], spec, key)
    factor = UV_PER_V if unit == "uV" else 1.0
    dropped: list[Dropped] = []

    def blocks() -> Iterator[tuple[I64, F64]]:
        # A few events at a time: the epochs of a whole run are several times its size.
        for block in blocks_of(len(samples), len(raw.ch_names), len(times_s)):
            epochs = _epochs(raw, samples[block], spec, key)
            dropped.extend(_dropped(epochs, samples, block.start, spec, raw, key))
            if len(epochs):
                yield block.start + np.asarray(epochs.selection, dtype=np.int64), epochs.get_data(copy=False) * factor

    eeg_NCT, kept_N, rejected = stored(blocks(), len(samples), tuple(raw.ch_names), rate, spec, key)
    return Trials(
        eeg_uv_NCT=eeg_NCT,
        table=table_of(recording.ref, recording.events, kept_N, samples[kept_N] / raw.info["sfreq"]),
        channels=tuple(raw.ch_names),
        sfreq_hz=spec.sfreq_hz,
        tmin_s=float(rate.times_s[0]),
        dropped=sorted(dropped + rejected, key=lambda drop: drop.event),
        unit=unit,
        notes=notes,
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
        typical_uv_C.append(range_uv(values_T, raw.info["sfreq"]))
    check_unit(
        float(np.median(typical_uv_C)),
        key,
        "The reader must give volt (MNE's unit); check the unit in the file's header.",
    )


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
