import json
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from eegdecode.config import Epochs
from eegdecode.data.epochs import cut, join
from eegdecode.data.sources import EventsError, Recording, RecordingError, RecordingRef

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
