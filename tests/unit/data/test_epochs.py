import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file
from sklearn.preprocessing import RobustScaler

from eegdecode.config import EegCvpr40Data, EegImageNetData, Epochs, ThingsEeg2Data
from eegdecode.data import trials as trials_module
from eegdecode.data.epochs import cut
from eegdecode.data.sources import (
    CutRecording,
    EventsError,
    Recording,
    RecordingError,
    RecordingRef,
    Source,
    open_source,
)
from eegdecode.data.trials import Trials, clamped, join
from tests.writers import things_eeg2 as things_writers
from tests.writers.eeg_imagenet import write_eeg_imagenet
from tests.writers.eegcvpr40 import write_eegcvpr40

SFREQ_HZ = 200.0
PLAIN = Epochs(tmin_s=-0.1, tmax_s=0.3, baseline_s=None, sfreq_hz=SFREQ_HZ)


def recording(
    eeg_uv_CT: np.ndarray, samples: list[int], sfreq_hz: float = SFREQ_HZ, names: tuple[str, ...] = ()
) -> Recording:
    names = names or ("O1", "Oz", "O2", "Pz")[: len(eeg_uv_CT)]
    raw = mne.io.RawArray(eeg_uv_CT * 1e-6, mne.create_info(list(names), sfreq_hz, "eeg"), verbose="ERROR")
    events = pd.DataFrame({"sample": samples, "picture": [f"p{i}" for i in range(len(samples))]})
    return Recording(RecordingRef("sub-01_ses-01_run-01", "sub-01", "ses-01", "run-01", ""), raw, events)


def noise(n_chans: int = 3, n_times: int = 2000, sd_uv: float = 20.0) -> np.ndarray:
    return np.random.default_rng(0).normal(0, sd_uv, (n_chans, n_times))


def test_trials_are_microvolts_of_the_right_samples_and_keep_their_place() -> None:
    eeg = noise()
    trials = cut(recording(eeg, [5, 300, 700, 1990]), PLAIN)
    np.testing.assert_allclose(trials.eeg_uv_NCT, [eeg[:, 280:361], eeg[:, 680:761]], rtol=1e-5)
    assert trials.table["event"].tolist() == [1, 2]
    assert trials.table["position"].tolist() == [1, 2]
    assert trials.table["picture"].tolist() == ["p1", "p2"]
    assert trials.table["onset_s"].tolist() == [1.5, 3.5]
    assert [(drop.event, "reaches out of the recording" in drop.reason) for drop in trials.dropped] == [
        (0, True),
        (3, True),
    ]
    assert (trials.tmin_s, trials.sfreq_hz, trials.channels) == (-0.1, SFREQ_HZ, ("O1", "Oz", "O2"))


def test_chosen_electrodes_come_in_the_order_asked_for() -> None:
    eeg = noise()
    trials = cut(recording(eeg, [300]), PLAIN.model_copy(update={"channels": ("O2", "O1")}))
    np.testing.assert_allclose(trials.eeg_uv_NCT[0], eeg[[2, 0], 280:361], rtol=1e-5)
    assert trials.channels == ("O2", "O1")


def test_baseline_rejection_and_crop_come_in_that_order() -> None:
    eeg = noise(sd_uv=5)
    eeg[1] += 400.0  # an offset that the baseline takes away
    eeg[2, 330] = 250.0  # inside the epoch of the first event, outside the crop
    spec = PLAIN.model_copy(update={"baseline_s": (None, 0.0), "reject_uv": 100.0, "crop_s": (0.0, 0.1)})
    trials = cut(recording(eeg, [300, 700]), spec)
    assert [(d.event, d.reason) for d in trials.dropped] == [(0, trials.dropped[0].reason)]
    assert trials.dropped[0].reason.startswith("O2 reaches 2")
    expected = eeg[:, 680:761] - eeg[:, 680:701].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(trials.eeg_uv_NCT[0], expected[:, 20:41], atol=1e-3)
    assert trials.tmin_s == pytest.approx(0.0, abs=1e-9)


def test_low_passed_data_reach_the_rate_by_keeping_every_nth_sample() -> None:
    spec = PLAIN.model_copy(update={"h_freq_hz": 20.0, "filter": "butterworth4"})
    full = cut(recording(noise(), [300, 700]), spec)
    thin = cut(recording(noise(), [300, 700]), spec.model_copy(update={"sfreq_hz": 50.0}))
    np.testing.assert_array_equal(thin.eeg_uv_NCT, full.eeg_uv_NCT[:, :, ::4])
    # Not low-passed enough: resampled, and what lies above the new half rate does not fold back.
    t_s = np.arange(2000) / SFREQ_HZ
    tone = np.tile(30 * np.sin(2 * np.pi * 40 * t_s), (2, 1))
    resampled = cut(recording(tone, [300, 700]), PLAIN.model_copy(update={"sfreq_hz": 50.0}))
    assert resampled.eeg_uv_NCT.shape[2] == 20
    assert np.abs(resampled.eeg_uv_NCT[:, :, 4:-4]).max() < 3.0


def test_butterworth_is_zero_phase_and_squares_the_fourth_order_gain() -> None:
    t_s = np.arange(8000) / SFREQ_HZ
    eeg = 30 * np.sin(2 * np.pi * np.array([[10.0], [30.0]]) * t_s)
    spec = PLAIN.model_copy(update={"h_freq_hz": 30.0, "filter": "butterworth4"})
    trials = cut(recording(eeg, [4000]), spec)
    ratio = (trials.eeg_uv_NCT[0] * eeg[:, 3980:4061]).sum(axis=1) / (eeg[:, 3980:4061] ** 2).sum(axis=1)
    np.testing.assert_allclose(ratio, [1.0, 0.5], atol=0.01)


@pytest.mark.parametrize("n_first", [0, 100])
def test_a_file_that_does_not_start_at_sample_zero_is_cut_at_the_same_place(n_first: int) -> None:
    eeg = noise()
    given = recording(eeg, [300])
    raw = mne.io.RawArray(given.raw.get_data(), given.raw.info, first_samp=n_first, verbose="ERROR")
    trials = cut(Recording(given.ref, raw, given.events), PLAIN)
    np.testing.assert_allclose(trials.eeg_uv_NCT[0], eeg[:, 280:361], rtol=1e-5)


def test_a_run_whose_trials_are_all_rejected_has_none_and_says_why() -> None:
    spec = PLAIN.model_copy(update={"reject_uv": 1.0, "sfreq_hz": 50.0})
    trials = cut(recording(noise(), [300, 700]), spec)
    assert trials.eeg_uv_NCT.shape == (0, 3, 20)
    assert len(trials.dropped) == 2
    assert len(trials.table) == 0


def with_nan() -> np.ndarray:
    eeg = noise()
    eeg[1, 77] = np.nan
    return eeg


def with_flat() -> np.ndarray:
    eeg = noise()
    eeg[2] = 3.0
    return eeg


@pytest.mark.parametrize(
    ("eeg", "words"),
    [
        (with_nan(), "Oz must be finite, got nan at sample 77"),
        (with_flat(), "O2 is flat, 3 µV"),
        (noise() * 1e3, "thousand times .* too large"),
        (noise() * 1e6, "thousand times .* too large"),
        (noise() * 1e-3, "thousand times .* too small"),
    ],
)
def test_bad_signal_is_one_error_that_names_it(eeg: np.ndarray, words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        cut(recording(eeg, [300]), PLAIN)


def test_offsets_and_slow_drifts_are_no_wrong_unit() -> None:
    eeg = noise(n_times=20000) + 30000 + np.linspace(0, 50000, 20000)
    assert cut(recording(eeg, [300]), PLAIN).eeg_uv_NCT.shape == (1, 3, 81)


def test_missing_electrode_lists_those_there_are() -> None:
    with pytest.raises(RecordingError, match=r"missing \['Cz'\]. It has \['O1', 'Oz', 'O2'\]"):
        cut(recording(noise(), [300]), PLAIN.model_copy(update={"channels": ("Oz", "Cz")}))


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([300, 2000], "event 1 must lie in the recording of 2000 samples"),
        ([-1], "event 0 must lie"),
        ([300, 300], "none twice, got sample 300 in row 1"),
        ([300, 200], "order of time"),
        ([], "no events"),
    ],
)
def test_impossible_events_are_refused(samples: list[int], words: str) -> None:
    with pytest.raises(EventsError, match=words):
        cut(recording(noise(), samples), PLAIN)


@pytest.mark.parametrize(
    ("update", "words"),
    [
        ({"h_freq_hz": 120.0}, "h_freq_hz must lie between 0 and half the rate"),
        ({"notch_hz": (100.0,)}, "notch_hz must lie"),
        ({"sfreq_hz": 500.0}, "sfreq_hz must not exceed the rate"),
        ({"crop_s": (0.5, 0.9)}, "crop_s must lie in the epoch"),
    ],
)
def test_settings_that_do_not_fit_the_recording_are_refused(update: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cut(recording(noise(), [300]), PLAIN.model_copy(update=update))


def test_join_puts_runs_one_after_the_other_and_refuses_others() -> None:
    one = cut(recording(noise(), [300, 700]), PLAIN)
    both = join([one, one])
    assert both.eeg_uv_NCT.shape[0] == len(both.table) == 4
    other = cut(recording(noise(), [300], names=("O1", "Oz", "Pz")), PLAIN)
    with pytest.raises(ValueError, match="same channels"):
        join([one, other])


def test_a_run_of_which_no_epoch_fits_has_no_trials() -> None:
    trials = cut(recording(noise(), [5, 1990]), PLAIN)
    assert trials.eeg_uv_NCT.shape == (0, 3, 81)
    assert [drop.event for drop in trials.dropped] == [0, 1]


def test_blocks_of_continuous_trials_are_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PLAIN.model_copy(update={"baseline_s": (None, 0.0), "reject_uv": 65.0, "sfreq_hz": 50.0})
    given = recording(noise(), list(range(100, 1900, 100)))
    whole = cut(given, spec)
    assert 0 < len(whole.dropped) < 18
    monkeypatch.setattr(trials_module, "BLOCK_BYTES", 4 * 8 * 3 * 81)
    in_blocks = cut(given, spec)
    np.testing.assert_array_equal(in_blocks.eeg_uv_NCT, whole.eeg_uv_NCT)
    pd.testing.assert_frame_equal(in_blocks.table, whole.table)
    assert in_blocks.dropped == whole.dropped


def test_robust_scaling_is_that_of_scikit_learn_over_the_filtered_recording() -> None:
    eeg = noise() * np.array([[1.0], [3.0], [0.5]]) + np.array([[0.0], [500.0], [-40.0]])
    eeg[0, 1500:] += 900.0  # outliers move neither median nor quartiles much
    spec = PLAIN.model_copy(update={"h_freq_hz": 30.0, "filter": "butterworth4"})
    given = recording(eeg, [300, 700])
    whole = spec.model_copy(update={"tmin_s": 0.0, "tmax_s": 1999 / SFREQ_HZ})
    filtered = cut(recording(eeg, [0]), whole).eeg_uv_NCT[0]
    expected = RobustScaler().fit_transform(filtered.astype(np.float64).T).T
    trials = cut(given, spec.model_copy(update={"scale": "robust"}))
    np.testing.assert_allclose(trials.eeg_uv_NCT, [expected[:, 280:361], expected[:, 680:761]], atol=2e-5)
    assert trials.unit == "scaled"
    assert len(trials.notes) == 1
    assert "test trials" in trials.notes[0]
    plain = cut(given, spec)
    assert (plain.unit, plain.notes) == ("uV", ())


def test_an_electrode_without_interquartile_range_is_not_scaled() -> None:
    eeg = noise()
    eeg[1, :1200] = 4.0
    with pytest.raises(RecordingError, match="Oz has one value in half of its samples"):
        cut(recording(eeg, [300]), PLAIN.model_copy(update={"scale": "robust"}))


def test_values_are_clamped_last_and_not_before_whitening() -> None:
    eeg = noise() + 300.0
    spec = PLAIN.model_copy(update={"baseline_s": (None, 0.0), "clamp": 25.0})
    trials = cut(recording(eeg, [300]), spec)
    free = cut(recording(eeg, [300]), spec.model_copy(update={"clamp": None}))
    np.testing.assert_array_equal(trials.eeg_uv_NCT, np.clip(free.eeg_uv_NCT, -25.0, 25.0))
    assert (np.abs(trials.eeg_uv_NCT) == 25.0).any()
    left_to_caller = cut(recording(eeg, [300]), spec.model_copy(update={"mvnn": "epochs"}))
    np.testing.assert_array_equal(left_to_caller.eeg_uv_NCT, free.eeg_uv_NCT)
    limited = clamped(left_to_caller.eeg_uv_NCT, 25.0)
    np.testing.assert_array_equal(limited, trials.eeg_uv_NCT)
    assert limited.dtype == np.float32
    scaled = cut(recording(eeg, [300]), spec.model_copy(update={"scale": "robust", "clamp": 0.5}))
    assert np.abs(scaled.eeg_uv_NCT).max() == 0.5


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        Epochs(clamp=0.0)
    with pytest.raises(ValidationError, match="reject_uv is in microvolt, which scaled trials have no more, got 100"):
        Epochs(scale="robust", reject_uv=100.0)
    both = Epochs(scale="robust", mvnn="time", clamp=20.0)
    assert (both.mvnn, Epochs(mvnn="epochs", reject_uv=100.0).reject_uv) == ("time", 100.0)


NAMES = ("O1", "Oz", "O2")


def cut_recording(
    n: int = 10, unit: str = "uV", tmin_s: float = -0.1, n_times: int = 80, dtype: str = "float32", **events: object
) -> CutRecording:
    """Trials of 3 electrodes at 200 Hz, from -0.1 s to 0.295 s."""
    sd = 20.0 if unit == "uV" else 1.0
    eeg = np.random.default_rng(3).normal(0, sd, (n, 3, n_times)).astype(dtype)
    table = pd.DataFrame({"picture": [f"p{i % 4}" for i in range(n)], "repetition": 0, **events})
    ref = RecordingRef("sub-07_ses-all_run-test", "07", "all", "test", "")
    return CutRecording(ref, eeg, unit, NAMES, SFREQ_HZ, tmin_s, table)  # type: ignore[arg-type]


CUT = Epochs(tmin_s=-0.1, tmax_s=0.3, baseline_s=None, sfreq_hz=SFREQ_HZ)


def test_trials_that_came_cut_are_themselves() -> None:
    given = cut_recording()
    trials = cut(given, CUT)
    np.testing.assert_array_equal(trials.eeg_uv_NCT, given.eeg_NCT)
    assert trials.eeg_uv_NCT.dtype == np.float32
    assert list(trials.table) == list(cut(recording(noise(), [300]), PLAIN).table)
    assert trials.table["picture"].tolist() == given.events["picture"].tolist()
    assert trials.table["event"].tolist() == trials.table["position"].tolist() == list(range(10))
    assert trials.table["onset_s"].isna().all()
    assert set(trials.table["session"]) == {"all"}
    assert (trials.channels, trials.sfreq_hz, trials.tmin_s) == (NAMES, SFREQ_HZ, -0.1)
    assert (trials.unit, trials.notes, trials.dropped) == ("uV", (), [])


def test_the_session_of_a_trial_wins_over_that_of_the_file() -> None:
    sessions = [f"0{1 + i // 3}" for i in range(10)]
    assert cut(cut_recording(session=sessions), CUT).table["session"].tolist() == sessions


def test_cut_trials_get_electrodes_epoch_baseline_and_crop() -> None:
    given = cut_recording()
    spec = CUT.model_copy(update={"channels": ("O2", "O1"), "tmin_s": -0.05, "tmax_s": 0.2, "baseline_s": (None, 0.0)})
    eeg = given.eeg_NCT[:, [2, 0], 10:61].astype(np.float64)
    eeg -= eeg[:, :, :11].mean(axis=2, keepdims=True)
    trials = cut(given, spec)
    np.testing.assert_allclose(trials.eeg_uv_NCT, eeg, atol=1e-5)
    assert (trials.channels, trials.tmin_s) == (("O2", "O1"), -0.05)
    cropped = cut(given, spec.model_copy(update={"crop_s": (0.0, 0.1)}))
    np.testing.assert_array_equal(cropped.eeg_uv_NCT, trials.eeg_uv_NCT[:, :, 10:31])
    assert cropped.tmin_s == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(RecordingError, match=r"missing \['Cz'\]. It has \['O1', 'Oz', 'O2'\]"):
        cut(given, CUT.model_copy(update={"channels": ("Cz",)}))


def test_cut_and_continuous_trials_change_rate_reject_and_clamp_alike() -> None:
    samples = list(range(100, 1900, 100))
    spec = PLAIN.model_copy(update={"baseline_s": (None, 0.0), "reject_uv": 65.0, "sfreq_hz": 80.0, "clamp": 30.0})
    given = recording(noise(), samples)
    expected = cut(given, spec)
    whole = cut(given, PLAIN)
    before = CutRecording(given.ref, whole.eeg_uv_NCT, "uV", NAMES, SFREQ_HZ, -0.1, given.events[["picture"]])
    trials = cut(before, spec)
    np.testing.assert_allclose(trials.eeg_uv_NCT, expected.eeg_uv_NCT, atol=1e-4)
    assert trials.dropped == expected.dropped
    assert len(trials.dropped) > 0
    pd.testing.assert_frame_equal(trials.table.drop(columns="onset_s"), expected.table.drop(columns="onset_s"))
    with pytest.raises(ValueError, match="sfreq_hz must not exceed the rate"):
        cut(before, spec.model_copy(update={"sfreq_hz": 250.0}))


def test_a_cut_trial_that_is_not_finite_is_dropped_and_named() -> None:
    given = cut_recording(dtype="float16")
    given.eeg_NCT[4, 1, 30] = np.nan
    given.eeg_NCT[6, 2, 0] = np.inf
    trials = cut(given, CUT.model_copy(update={"baseline_s": (None, 0.0)}))
    assert [(drop.recording, drop.event, drop.reason) for drop in trials.dropped] == [
        ("sub-07_ses-all_run-test", 4, "Oz is nan at 0.050 s (1 values are not finite)"),
        ("sub-07_ses-all_run-test", 6, "O2 is inf at -0.100 s (1 values are not finite)"),
    ]
    assert trials.table["event"].tolist() == [0, 1, 2, 3, 5, 7, 8, 9]
    assert np.isfinite(trials.eeg_uv_NCT).all()
    # An electrode that is not asked for, or a sample outside the epoch, spoils nothing.
    assert not cut(given, CUT.model_copy(update={"channels": ("O1",)})).dropped
    assert [d.event for d in cut(given, CUT.model_copy(update={"tmin_s": 0.0})).dropped] == [4]


def test_all_cut_trials_may_be_dropped() -> None:
    given = cut_recording()
    given.eeg_NCT[:, 0, 5] = np.nan
    trials = cut(given, CUT.model_copy(update={"sfreq_hz": 50.0}))
    assert trials.eeg_uv_NCT.shape == (0, 3, 20)
    assert (len(trials.table), len(trials.dropped)) == (0, 10)


def test_a_mapped_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, n_times, block = 2000, 80, 1 << 18
    eeg = np.memmap(tmp_path / "eeg", "float16", "w+", shape=(n, 3, n_times))
    eeg[:] = np.random.default_rng(0).normal(0, 20, eeg.shape)
    eeg[1234, 1, 7] = np.nan
    table = pd.DataFrame({"picture": np.arange(n).astype(str)})
    given = CutRecording(cut_recording().ref, eeg, "uV", NAMES, SFREQ_HZ, -0.1, table)
    spec = CUT.model_copy(update={"sfreq_hz": 100.0, "baseline_s": (None, 0.0), "clamp": 60.0, "reject_uv": 85.0})
    whole = cut(given, spec)
    monkeypatch.setattr(trials_module, "BLOCK_BYTES", block)
    tracemalloc.start()
    in_blocks = cut(given, spec)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(in_blocks.eeg_uv_NCT, whole.eeg_uv_NCT)
    assert in_blocks.dropped == whole.dropped
    assert 0 < len(whole.table) < n - 1
    # The result, a table and some arrays of a block; a copy of all trials in float64 would be 3.8 MB more.
    assert peak < n * 3 * 40 * 4 + 8 * block


@pytest.mark.parametrize(
    ("update", "unit", "words"),
    [
        ({"l_freq_hz": 0.1}, "uV", "data.epochs.l_freq_hz can not be applied .* needs the continuous recording"),
        ({"h_freq_hz": 40.0}, "whitened", "data.epochs.h_freq_hz can not be applied"),
        ({"notch_hz": (50.0,)}, "uV", r"data.epochs.notch_hz can not .* Leave it at \(\), got \(50.0,\)"),
        ({"scale": "robust"}, "uV", "data.epochs.scale can not .* continuous recording"),
        ({"mvnn": "time"}, "whitened", "data.epochs.mvnn can not .* whiten again"),
        ({"reject_uv": 100.0}, "whitened", "data.epochs.reject_uv can not .* in microvolt, which the trials are not"),
        ({"tmin_s": -0.2}, "uV", "data.epochs.tmin_s: the epoch must lie in .* -0.1 to 0.295 s, got -0.2 to 0.3 s"),
        ({"tmax_s": 0.5}, "uV", "data.epochs.tmax_s: the epoch must lie in"),
        ({"tmin_s": -0.2, "tmax_s": 0.0}, "uV", "data.epochs.tmin_s: the epoch must lie in"),
        ({"baseline_s": (-0.2, 0.0)}, "uV", "data.epochs.baseline_s must lie in the trials"),
        ({"tmin_s": 0.0, "baseline_s": (0.0, 0.001)}, "uV", "data.epochs.baseline_s must .* hold two samples"),
        ({"crop_s": (-0.2, 0.1)}, "uV", "data.epochs.crop_s must lie in the epoch"),
    ],
)
def test_settings_that_cut_trials_do_not_admit_are_refused(update: dict[str, object], unit: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        cut(cut_recording(unit=unit), CUT.model_copy(update=update))


def test_defaults_that_cut_trials_do_not_admit_are_left_out_and_said() -> None:
    given = cut_recording(unit="whitened", tmin_s=0.0)
    trials = cut(given, Epochs(sfreq_hz=SFREQ_HZ))
    np.testing.assert_array_equal(trials.eeg_uv_NCT, given.eeg_NCT)
    assert trials.unit == "whitened"
    assert trials.notes == (
        "data.epochs.tmin_s, tmax_s: the default epoch of -0.2 to 0.8 s does not lie in trials that came cut to 0 to "
        "0.395 s; they are kept whole.",
        "data.epochs.baseline_s: the default, up to 0 s, does not lie in trials that came cut to 0 to 0.395 s; none "
        "was subtracted.",
    )
    # Where they can be applied they are; -0.2 to 0.795 s is an epoch to 0.8 s after resampling.
    longer = cut_recording(tmin_s=-0.2, n_times=200)
    assert cut(longer, Epochs(sfreq_hz=SFREQ_HZ)).notes == ()
    baseline = cut(longer, Epochs(sfreq_hz=SFREQ_HZ)).eeg_uv_NCT[:, :, :41].mean(axis=2)
    np.testing.assert_allclose(baseline, 0, atol=1e-4)
    assert join([trials, trials]).notes == trials.notes


def test_cut_trials_of_a_wrong_unit_or_with_a_flat_electrode_or_without_pictures_are_refused() -> None:
    given = cut_recording()
    given.eeg_NCT[:] *= 1e-6
    with pytest.raises(RecordingError, match=r"thousand times .* too small.*The source must give microvolt"):
        cut(given, CUT)
    flat = cut_recording(unit="whitened")
    flat.eeg_NCT[:, 1] = 2.0
    with pytest.raises(RecordingError, match="Oz is flat in all trials"):
        cut(flat, CUT)
    for events in (given.events.iloc[:9], given.events.drop(columns="picture")):
        with pytest.raises(EventsError, match="a column picture and a row for each of 10 trials"):
            cut(dataclasses.replace(given, events=events), CUT)
    with pytest.raises(RecordingError, match="has no trials"):
        cut(dataclasses.replace(given, eeg_NCT=given.eeg_NCT[:0]), CUT)


def of_all(source: Source) -> list[tuple[CutRecording, Trials]]:
    found = []
    for ref in source.recordings():
        given = source.read(ref)
        assert isinstance(given, CutRecording)
        found.append((given, cut(given, Epochs(sfreq_hz=given.sfreq_hz))))
    assert found
    return found


@pytest.mark.parametrize(
    ("file", "unit"), [("eeg_55_95_std.pth", "whitened"), ("eeg_signals_raw_with_mean_std.pth", "uV")]
)
def test_eegcvpr40_is_cut_with_the_defaults(tmp_path: Path, file: str, unit: str) -> None:
    write_eegcvpr40(tmp_path, file=file)
    for given, trials in of_all(open_source(EegCvpr40Data(file=file), str(tmp_path))):
        np.testing.assert_array_equal(trials.eeg_uv_NCT, given.eeg_NCT)
        assert (trials.unit, trials.tmin_s, len(trials.notes)) == (unit, 0.02, 2)


def test_eeg_imagenet_is_cut_with_the_defaults(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path)
    for given, trials in of_all(open_source(EegImageNetData(), str(tmp_path))):
        np.testing.assert_array_equal(trials.eeg_uv_NCT, given.eeg_NCT)
        assert (trials.unit, trials.tmin_s, len(trials.notes)) == ("uV", 0.04, 2)


@pytest.mark.parametrize(
    ("layout", "write", "n_notes"),
    [
        ("gifford", things_writers.write_gifford, 1),
        ("nice", things_writers.write_nice, 2),
        ("ubp", things_writers.write_ubp, 2),
        ("neurobridge", things_writers.write_neurobridge, 2),
        ("enigma", things_writers.write_enigma, 2),
    ],
)
def test_things_eeg2_as_others_cut_it_is_cut_with_the_defaults(
    tmp_path: Path, layout: str, write: Callable[..., object], n_notes: int
) -> None:
    write(tmp_path, n_train_concepts=2, pictures_per_concept=2, n_test=3, px=16)
    source = open_source(ThingsEeg2Data.model_validate({"layout": layout}), str(tmp_path))
    for given, trials in of_all(source):
        eeg = np.asarray(given.eeg_NCT, dtype=np.float32)
        if layout == "gifford":  # these have 0.2 s before the picture, subtracted again
            eeg = eeg - eeg[:, :, :21].mean(axis=2, keepdims=True)
        np.testing.assert_allclose(trials.eeg_uv_NCT, eeg, atol=1e-4)
        assert trials.table["picture"].tolist() == given.events["picture"].tolist()
        assert (trials.unit, len(trials.notes)) == ("whitened", n_notes)
        assert trials.table["session"].tolist() == given.events.get("session", trials.table["session"]).tolist()
        assert (set(trials.table["session"]) == {"all"}) == (layout != "ubp")


def test_golden_mne_epochs_baseline_resample(shared: Path) -> None:
    case = load_file(shared / "golden" / "mne_epochs_baseline_resample.safetensors")
    # The case has no unit; its values are small enough to be taken as microvolt.
    given = recording(case["input.raw"].astype(np.float64), case["input.event_samples"].tolist(), 1000.0)
    for sfreq_hz, expected in ((1000.0, "epochs"), (250.0, "resampled_250"), (100.0, "resampled_100")):
        trials = cut(given, Epochs(tmin_s=-0.2, tmax_s=1.0, baseline_s=(None, 0.0), sfreq_hz=sfreq_hz))
        want = case[f"expected.{expected}"]
        assert trials.eeg_uv_NCT.shape == want.shape
        assert np.abs(trials.eeg_uv_NCT - want).max() <= 1e-5 * np.abs(want).max()


def test_golden_nice_epoching(shared: Path) -> None:
    case = load_file(shared / "golden" / "nice_epoching.safetensors")
    facts = json.loads((shared / "golden" / "nice_epoching.json").read_text())["scalars"]
    spec = Epochs(
        tmin_s=-0.2,
        tmax_s=1.0,
        baseline_s=(None, 0.0),
        sfreq_hz=250.0,
        crop_s=(0.0, 0.996),
        channels=tuple(facts["ch_names_out"]),
    )
    raw = case["input.raw_int16.training"].astype(np.float64) * 0.0078125
    events = case["input.events.training"]
    shown = events[events[:, 1] != 99999]
    given = recording(raw, shown[:, 0].tolist(), 1000.0, tuple(facts["ch_names_in"]))
    trials = cut(given, spec)
    at = {event: row for row, event in enumerate(trials.table["event"])}
    want = case["expected.epochs.training"]
    got = np.stack([[trials.eeg_uv_NCT[at[e]] for e in row] for row in case["expected.selected_epochs.training"]])
    assert got.shape == want.shape == (3, 2, 63, 250)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
