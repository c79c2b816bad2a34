import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from eegdecode.config import Epochs, ThingsEeg2Data
from eegdecode.data.epochs import cut
from eegdecode.data.sources import (
    CutRecording,
    DuplicateError,
    EventsError,
    PictureError,
    Recording,
    RecordingError,
    Source,
    SourceError,
    open_source,
)
from eegdecode.data.sources.forward_model import CHANNELS
from tests.writers import things_eeg2 as writers
from tests.writers.things_eeg2 import MARK, POSTERIOR, TARGET

SMALL = {"n_train_concepts": 3, "pictures_per_concept": 2, "n_test": 4, "px": 16}
CUT: dict[str, Callable[..., writers.ImageSet]] = {
    "gifford": writers.write_gifford,
    "nice": writers.write_nice,
    "ubp": writers.write_ubp,
    "neurobridge": writers.write_neurobridge,
    "enigma": writers.write_enigma,
}
EXPECTED = {
    "gifford": (POSTERIOR, 100.0, -0.2, 40),
    "nice": (CHANNELS, 250.0, 0.0, 25),
    "ubp": (CHANNELS, 250.0, 0.0, 25),
    "neurobridge": (CHANNELS, 250.0, 0.0, 25),
    "enigma": (CHANNELS, 250.0, 0.0, 25),
}


def source(root: Path, layout: str = "raw", **fields: Any) -> Source:
    return open_source(ThingsEeg2Data(layout=layout, **fields), str(root))  # type: ignore[arg-type]


def read_cut(source: Source, ref: Any) -> CutRecording:
    recording = source.read(ref)
    assert isinstance(recording, CutRecording)
    return recording


def read_raw(source: Source, ref: Any) -> Recording:
    recording = source.read(ref)
    assert isinstance(recording, Recording)
    return recording


@pytest.mark.parametrize("layout", CUT)
def test_each_cut_layout_pairs_every_trial_with_its_picture(tmp_path: Path, layout: str) -> None:
    images = CUT[layout](tmp_path, subjects=("01", "08"), **SMALL)
    things = source(tmp_path, layout)
    refs = things.recordings()
    assert [ref.key for ref in refs] == [
        f"sub-{subject}_ses-all_run-{run}" for subject in ("01", "08") for run in ("test", "training")
    ]
    assert things.findings == []
    channels, sfreq_hz, tmin_s, n_times = EXPECTED[layout]
    for ref in refs:
        recording = read_cut(things, ref)
        eeg_NCT, events = recording.eeg_NCT, recording.events
        assert (recording.channels, recording.sfreq_hz, recording.tmin_s) == (channels, sfreq_hz, tmin_s)
        assert (recording.unit, recording.ref) == ("whitened", ref)
        assert eeg_NCT.shape == (len(events), len(channels), n_times)
        assert len(recording.history) >= 2
        ids = images.ids(ref.run)
        # What the trial itself says it is, against what the events say.
        said = [ids[int(code) - 1] for code in eeg_NCT[:, 0, 0] / MARK]
        assert events["picture"].tolist() == said
        np.testing.assert_array_equal(events["repetition"], eeg_NCT[:, 1, 0] / MARK)
        assert set(eeg_NCT[:, 2, 0] / MARK) == {int(ref.subject)}
        if layout != "enigma":
            n_repetitions = 4 if ref.run == "training" else 6
            assert events["picture"].value_counts().to_dict() == dict.fromkeys(ids, n_repetitions)


@pytest.mark.parametrize("layout", CUT)
def test_pictures_are_the_same_in_each_layout(tmp_path: Path, layout: str) -> None:
    CUT[layout](tmp_path, **SMALL)
    pictures = source(tmp_path, layout).pictures()
    assert [(p.picture, p.concept, p.partition) for p in pictures] == [
        ("other0001_01s", "00001_other0001", "test"),
        ("other0002_02s", "00002_other0002", "test"),
        ("other0003_03s", "00003_other0003", "test"),
        ("other0004_04s", "00004_other0004", "test"),
        ("thing0001_01s", "00001_thing0001", "train"),
        ("thing0001_02s", "00001_thing0001", "train"),
        ("thing0002_01s", "00002_thing0002", "train"),
        ("thing0002_02s", "00002_thing0002", "train"),
        ("thing0003_01s", "00003_thing0003", "train"),
        ("thing0003_02s", "00003_thing0003", "train"),
    ]
    opened = [picture.images()[0] for picture in pictures]
    assert {(image.mode, image.size) for image in opened} == {("RGB", (16, 16))}
    assert len({image.tobytes() for image in opened}) == 10


@pytest.mark.parametrize("layout", CUT)
def test_large_trials_stay_in_the_file(tmp_path: Path, layout: str) -> None:
    CUT[layout](tmp_path, n_train_concepts=6, pictures_per_concept=4, n_test=20, px=16)
    things = source(tmp_path, layout)
    for ref in things.recordings():
        eeg_NCT = read_cut(things, ref).eeg_NCT
        assert eeg_NCT.nbytes > 100_000
        assert not eeg_NCT.flags.owndata
        assert not eeg_NCT.flags.writeable


def test_ubp_keeps_the_session_of_each_trial_and_may_hold_tensors(tmp_path: Path) -> None:
    writers.write_ubp(tmp_path, tensors=True, **SMALL)
    things = source(tmp_path, "ubp")
    test, training = (read_cut(things, ref) for ref in things.recordings())
    assert training.eeg_NCT.dtype == np.float16
    assert training.events["session"].tolist() == ["01", "01", "02", "02"] * 6
    assert test.events["session"].tolist() == ["01", "01", "02", "02", "03", "03"] * 4


def test_ubp_kept_the_last_samples_of_times_and_nice_those_from_zero_on(tmp_path: Path) -> None:
    # Some versions of MNE leave 301 times instead of 300.
    for layout, tmin_s in (("ubp", 0.004), ("nice", 0.0)):
        root = tmp_path / layout
        CUT[layout](root, **SMALL)
        things = source(root, layout)
        ref = things.recordings()[0]
        path = Path(ref.location)
        if layout == "ubp":
            content = torch.load(path, weights_only=False)
            content["times"] = writers.times_s(26, 250.0, 50)
            torch.save(content, path, pickle_protocol=5)
        else:
            content = pickle.loads(path.read_bytes())
            content["times"] = writers.times_s(26, 250.0, 50)
            path.write_bytes(pickle.dumps(content, protocol=4))
        assert read_cut(things, ref).tmin_s == tmin_s


def test_neurobridge_says_how_it_was_normalised(tmp_path: Path) -> None:
    writers.write_neurobridge(tmp_path, normalization="zscore", **SMALL)
    things = source(tmp_path, "neurobridge")
    assert "divided by its deviation" in read_cut(things, things.recordings()[0]).history[-1]


def test_the_fixtures_are_what_the_published_loaders_read(tmp_path: Path) -> None:
    writers.write_gifford(tmp_path / "gifford", **SMALL)
    writers.write_nice(tmp_path / "nice", **SMALL)
    path = tmp_path / "gifford/preprocessed_data/sub-01/preprocessed_eeg_training.npy"
    assert np.load(path, allow_pickle=True).item()["preprocessed_eeg_data"].shape == (6, 4, 17, 40)
    path = tmp_path / "nice/Preprocessed_data_250Hz/sub-01/preprocessed_eeg_training.npy"
    assert np.load(path, allow_pickle=True)["preprocessed_eeg_data"].shape == (6, 4, 63, 25)


# Raw recordings


def test_raw_events_name_what_was_shown_and_catch_trials_are_counted(tmp_path: Path) -> None:
    images, shown = writers.write_raw(tmp_path, subjects=("01", "02"), n_targets=3, **SMALL)
    things = source(tmp_path)
    refs = things.recordings()
    assert [ref.key for ref in refs] == [
        f"sub-{subject}_ses-{session}_run-{run}"
        for subject in ("01", "02")
        for session in ("01", "02")
        for run in ("test", "training")
    ]
    for ref, finding in zip(refs, things.findings, strict=True):
        rows = shown[(shown.subject == ref.subject) & (shown.session == ref.session) & (shown.run == ref.run)]
        assert finding == (
            f"{ref.key}: 3 of {len(rows)} events are catch trials (code 99999) and no trials of a picture."
        )
        rows = rows[rows.code != TARGET]
        recording = read_raw(things, ref)
        assert recording.events["sample"].tolist() == rows["sample"].tolist()
        assert recording.events["picture"].tolist() == [images.ids(ref.run)[code - 1] for code in rows["code"]]
        assert recording.raw.ch_names == list(POSTERIOR)
        assert recording.raw.info["sfreq"] == 1000.0
        assert set(recording.raw.get_channel_types()) == {"eeg"}
        # Volt: deviation of 10 µV and the responses.
        assert 8e-6 < recording.raw.get_data().std() < 25e-6
    # Each session shows half of the training pictures and all test pictures.
    halves = [set(read_raw(things, ref).events["picture"]) for ref in refs if ref.run == "training"]
    assert halves[0].isdisjoint(halves[1])
    assert halves[0] | halves[1] == set(images.ids("training"))


def test_raw_eeg_after_an_event_is_the_response_to_its_picture(tmp_path: Path) -> None:
    images, _ = writers.write_raw(tmp_path, noise_uv=0.0, **SMALL)
    things = source(tmp_path)
    for ref in things.recordings():
        recording = read_raw(things, ref)
        response_KC = writers.responses_uv(ref.subject, 17, 5.0)[:, :, 60]
        expected_PC = images.latents(ref.run) @ response_KC
        # 60 ms after an onset the response to the picture before, at most 300 ms long, still adds to it.
        late_PC = images.latents(ref.run) @ writers.responses_uv(ref.subject, 17, 5.0)[:, :, 260]
        ids = images.ids(ref.run)
        at = recording.events["sample"].to_numpy()
        seen_NC = recording.raw.get_data()[:, at + 60].T * 1e6
        previous = None
        for k, (sample, picture) in enumerate(recording.events[["sample", "picture"]].itertuples(index=False)):
            left = late_PC[ids.index(previous)] if previous and sample - at[k - 1] == 200 else 0
            distance_P = np.abs(expected_PC + left - seen_NC[k]).max(axis=1)
            assert ids[int(distance_P.argmin())] == picture
            assert distance_P.min() < 1e-9
            previous = picture


def test_a_decoder_learns_from_the_raw_fixture(tmp_path: Path) -> None:
    images, _ = writers.write_raw(tmp_path, n_train_concepts=10)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 20e6
    things = source(tmp_path)
    spec = Epochs(tmin_s=-0.05, tmax_s=0.3, baseline_s=None, sfreq_hz=50.0)
    mean: dict[str, dict[str, np.ndarray]] = {"training": {}, "test": {}}
    for run, averages in mean.items():
        parts = [cut(read_raw(things, ref), spec) for ref in things.recordings() if ref.run == run]
        eeg_NF = np.concatenate([part.eeg_uv_NCT.reshape(len(part.table), -1) for part in parts])
        picture_N = np.concatenate([part.table["picture"] for part in parts])
        averages.update({p: eeg_NF[picture_N == p].mean(0) for p in images.ids(run)})
    x_PF, y_PF = (np.stack([mean[run][p] for p in images.ids(run)]) for run in ("training", "test"))
    centre_F = x_PF.mean(0)
    gram = (x_PF - centre_F) @ (x_PF - centre_F).T
    weights = np.linalg.solve(gram + np.trace(gram) / len(gram) * np.eye(len(gram)), images.latents("training"))
    guess_PK = (y_PF - centre_F) @ (x_PF - centre_F).T @ weights
    similarity_PP = guess_PK @ images.latents("test").T / np.linalg.norm(images.latents("test"), axis=1)
    # Ten candidates: 1 is expected by chance, 5 or more with probability 0.002.
    assert (similarity_PP.argmax(1) == np.arange(10)).sum() >= 5


@pytest.mark.parametrize(
    ("case", "spec"),
    [
        ("gifford", Epochs(tmin_s=-0.2, tmax_s=0.8, sfreq_hz=100.0)),
        ("nice", Epochs(tmin_s=-0.2, tmax_s=1.0, sfreq_hz=250.0, crop_s=(0.0, 1.0))),
    ],
)
def test_a_raw_file_cut_by_us_is_what_the_published_scripts_made_of_it(
    tmp_path: Path, shared: Path, case: str, spec: Epochs
) -> None:
    golden = load_file(shared / f"golden/{case}_epoching.safetensors")
    described = json.loads((shared / f"golden/{case}_epoching.json").read_text())["scalars"]
    channels = described["ch_names_in"]
    for run in ("training", "test"):
        # The golden values are of any unit; as microvolt they are plausible.
        eeg_v_CT = golden[f"input.raw_int16.{run}"] * 0.0078125 * 1e-6
        samples, codes = golden[f"input.events.{run}"].T
        path = tmp_path / "raw" / "sub-01" / "ses-01" / f"raw_eeg_{run}.npy"
        writers.write_raw_file(path, eeg_v_CT, [name for name in channels if name != "stim"], samples, codes, pulse=5)
    writers.write_pictures(tmp_path, n_train_concepts=6, pictures_per_concept=1, n_test=2, px=16)
    things = source(tmp_path)
    for ref in things.recordings():
        trials = cut(read_raw(things, ref), spec.model_copy(update={"channels": tuple(described["ch_names_out"])}))
        selected = golden[f"expected.selected_epochs.{ref.run}"]
        expected = golden[f"expected.epochs.{ref.run}"]
        step = selected.shape[1] // expected.shape[1]
        got = trials.eeg_uv_NCT[selected[:, ::step]]
        assert not trials.dropped
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_single_sample_and_a_long_pulse_are_one_event_each(tmp_path: Path) -> None:
    writers.write_pictures(tmp_path, **SMALL)
    eeg_v_CT = np.random.default_rng(0).normal(0, 1e-5, (2, 3000))
    samples, codes = np.array([0, 500, 900]), np.array([4, 1, 4])
    for pulse in (1, 5):
        path = tmp_path / "sub-01" / "ses-01" / "raw_eeg_test.npy"
        writers.write_raw_file(path, eeg_v_CT, ["Oz", "Pz"], samples, codes, pulse=pulse)
        things = source(tmp_path)
        events = read_raw(things, things.recordings()[0]).events
        assert events["sample"].tolist() == [0, 500, 900]
        assert events["picture"].tolist() == ["other0004_04s", "other0001_01s", "other0004_04s"]


def test_the_stim_channel_is_found_by_its_type(tmp_path: Path) -> None:
    writers.write_pictures(tmp_path, **SMALL)
    rng = np.random.default_rng(0)
    values_CT = rng.normal(0, 1e-5, (3, 2000))
    values_CT[0] = 0
    values_CT[0, 700] = 2
    path = tmp_path / "sub-01" / "ses-01" / "raw_eeg_test.npy"
    path.parent.mkdir(parents=True)
    content = {"raw_eeg_data": values_CT, "ch_names": ["STI", "Oz", "Pz"], "ch_types": ["stim", "eeg", "eeg"]}
    writers.save_as_numpy_1(path, {**content, "sfreq": 1000})
    things = source(tmp_path)
    recording = read_raw(things, things.recordings()[0])
    assert recording.raw.ch_names == ["Oz", "Pz"]
    np.testing.assert_array_equal(recording.raw.get_data(), values_CT[1:])
    assert recording.events["picture"].tolist() == ["other0002_02s"]


# Bad input


def one_raw(root: Path, **changed: Any) -> Path:
    """A recording of two channels with three events, one of them a catch trial."""
    writers.write_pictures(root, **SMALL)
    path = root / "sub-01" / "ses-01" / "raw_eeg_test.npy"
    eeg_v_CT = np.random.default_rng(0).normal(0, 1e-5, (2, 3000))
    writers.write_raw_file(path, eeg_v_CT, ["Oz", "Pz"], np.array([100, 500, 900]), np.array([4, 99999, 1]), **changed)
    return path


def stim_of(**at: float) -> np.ndarray:
    values_CT = np.zeros((3, 3000))
    for sample, code in at.items():
        values_CT[2, int(sample[1:])] = code
    return values_CT


@pytest.mark.parametrize(
    ("changed", "error", "complaint"),
    [
        ({"ch_types": None}, RecordingError, r"raw_eeg_test\.npy: needs the key 'ch_types', has \['ch_names', 'high"),
        ({"ch_names": ["Oz", "stim"]}, RecordingError, "must be as many, got 2, 3 and 3"),
        ({"ch_types": ["eeg", "eeg", "eeg"]}, RecordingError, r"eeg and one stim, got \{'eeg': 3\}"),
        ({"ch_types": ["mag", "eeg", "stim"]}, RecordingError, "eeg and one stim"),
        ({"ch_names": ["Oz", "Oz", "stim"]}, RecordingError, r"unique, got \['Oz'\] twice"),
        ({"sfreq": 0}, RecordingError, "sfreq must be above 0"),
        ({"raw_eeg_data": np.zeros(7)}, RecordingError, r"on 2 axes, got float64 \(7,\)"),
        ({"raw_eeg_data": np.zeros((3, 8), int)}, RecordingError, r"floating-point numbers on 2 axes, got int64"),
        ({"raw_eeg_data": [1.0, 2.0]}, RecordingError, "got list"),
        ({"raw_eeg_data": stim_of(s10=5)}, EventsError, r"codes must be 1 to 4 .* got 5 at sample 10 \(1 such\)"),
        ({"raw_eeg_data": stim_of(s10=-1)}, EventsError, r"whole numbers from 0 on, got -1\.0 at sample 10"),
        ({"raw_eeg_data": stim_of(s10=1.5)}, EventsError, r"whole numbers from 0 on, got 1\.5 at sample 10"),
        ({"raw_eeg_data": stim_of(s10=np.nan)}, EventsError, r"got nan at sample 10"),
        ({"raw_eeg_data": stim_of(s10=2, s11=3)}, EventsError, "return to 0 .* goes from 2 to 3 at sample 11"),
        ({"raw_eeg_data": stim_of(s0=2, s1=3)}, EventsError, "return to 0 .* goes from 2 to 3 at sample 1"),
    ],
)
def test_a_raw_file_that_contradicts_itself_is_named(
    tmp_path: Path, changed: dict[str, Any], error: type[SourceError], complaint: str
) -> None:
    one_raw(tmp_path, **changed)
    with pytest.raises(error, match=complaint):
        source(tmp_path).recordings()


def test_a_recording_without_pictures_is_left_out_and_reported(tmp_path: Path) -> None:
    one_raw(tmp_path, raw_eeg_data=stim_of(s10=99999))
    things = source(tmp_path)
    assert things.recordings() == []
    assert things.findings == [
        "sub-01_ses-01: has a test file only.",
        "sub-01_ses-01_run-test: 1 of 1 events are catch trials (code 99999) and no trials of a picture.",
        "sub-01_ses-01_run-test: left out, shows no picture.",
    ]


def test_a_truncated_and_a_hostile_file_are_refused(tmp_path: Path) -> None:
    path = one_raw(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(SourceError, match=r"raw_eeg_test\.npy: truncated or altered"):
        source(tmp_path).recordings()

    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    writers.save_as_numpy_1(path, {"raw_eeg_data": Attack()})
    with pytest.raises(SourceError, match=r"raw_eeg_test\.npy: refused, its pickle asks for 'posix\.mkdir'"):
        source(tmp_path).recordings()
    assert not (tmp_path / "ran").exists()


def test_copies_are_found_by_content(tmp_path: Path) -> None:
    writers.write_raw(tmp_path, **SMALL)
    folder = tmp_path / "raw_eeg" / "sub-01"
    shutil.copy(folder / "ses-01" / "raw_eeg_test.npy", folder / "ses-02" / "raw_eeg_test.npy")
    # One bit differs, far from beginning, middle and end: no copy.
    changed = bytearray((folder / "ses-01" / "raw_eeg_training.npy").read_bytes())
    changed[len(changed) // 4] ^= 1
    (folder / "ses-03").mkdir()
    (folder / "ses-03" / "raw_eeg_training.npy").write_bytes(changed)
    things = source(tmp_path)
    assert [ref.key for ref in things.recordings()] == [
        "sub-01_ses-01_run-test",
        "sub-01_ses-01_run-training",
        "sub-01_ses-02_run-training",
        "sub-01_ses-03_run-training",
    ]
    assert "sub-01_ses-02_run-test: left out, byte-identical copy of sub-01_ses-01_run-test." in things.findings
    assert "sub-01_ses-03: has a training file only." in things.findings


def test_subjects_are_chosen_and_a_missing_one_is_named(tmp_path: Path) -> None:
    writers.write_gifford(tmp_path, subjects=("01", "02", "10"), **SMALL)
    assert {ref.subject for ref in source(tmp_path, "gifford", subjects=("02", "10")).recordings()} == {"02", "10"}
    with pytest.raises(RecordingError, match=r"found no subject \['03'\], only \['01', '02', '10'\]"):
        source(tmp_path, "gifford", subjects=("02", "03")).recordings()
    with pytest.raises(RecordingError, match=r"layout 'ubp', needs sub-\*/train\.pt or sub-\*/test\.pt in .* none"):
        source(tmp_path, "ubp").recordings()
    with pytest.raises(SourceError, match="must name a local folder"):
        open_source(ThingsEeg2Data(), "s3://bucket/things")


def test_one_run_in_two_folders_is_refused(tmp_path: Path) -> None:
    writers.write_ubp(tmp_path, **SMALL)
    shutil.copytree(tmp_path / "Preprocessed_data_250Hz_whiten", tmp_path / "Preprocessed_data_250Hz_other")
    with pytest.raises(DuplicateError, match="are both sub-01_ses-all_run-training"):
        source(tmp_path, "ubp").recordings()


def rewritten(root: Path, layout: str, **changed: Any) -> Source:
    """A source whose first file has other entries; None takes one out."""
    CUT[layout](root, **SMALL)
    things = source(root, layout)
    path = Path(things.recordings()[0].location)
    assert path.stem.startswith(("test", "preprocessed_eeg_test"))
    if layout == "ubp":
        content = torch.load(path, weights_only=False)
    else:
        content = np.load(path, allow_pickle=True)
        content = content if isinstance(content, dict) else content.item()
    content.update(changed)
    content = {key: value for key, value in content.items() if value is not None}
    if layout == "ubp":
        torch.save(content, path, pickle_protocol=5)
    elif layout == "gifford":
        writers.save_as_numpy_1(path, content)
    else:
        path.write_bytes(pickle.dumps(content, protocol=4))
    return things


NOISE = np.random.default_rng(0).standard_normal
FIT_63 = NOISE((4, 6, 63, 25))


@pytest.mark.parametrize(
    ("layout", "changed", "complaint"),
    [
        ("gifford", {"times": None}, r"preprocessed_eeg_test\.npy: needs the key 'times', has \['ch_names', 'prepro"),
        ("nice", {"preprocessed_eeg_data": None}, "needs the key 'preprocessed_eeg_data'"),
        ("ubp", {"ch_names": None}, r"test\.pt: needs the key 'ch_names'"),
        ("enigma", {"times": None}, "needs the key 'times'"),
        ("gifford", {"ch_names": POSTERIOR[:5]}, "a name for each of its 17 channels, ch_names has 5"),
        ("nice", {"ch_names": ["Oz"] * 63}, r"unique, got \['Oz'\] twice"),
        ("nice", {"preprocessed_eeg_data": FIT_63[:3]}, "must have the 4 test pictures of image_metadata.npy, got 3"),
        ("nice", {"preprocessed_eeg_data": FIT_63[0]}, r"on 4 axes, got float64 \(6, 63, 25\)"),
        ("nice", {"preprocessed_eeg_data": FIT_63[:, :0]}, r"on 4 axes, got float64 \(4, 0, 63, 25\)"),
        ("ubp", {"eeg": FIT_63.astype(complex)}, "eeg must be floating-point numbers on 4 axes, got complex"),
        ("ubp", {"img": np.array(["a/b.jpg"])}, r"for each of the \(4, 6\) trials, got \(1,\)"),
        ("enigma", {"preprocessed_eeg_data": FIT_63[0]}, "must have a row for each of its 6 trials, has "),
        ("gifford", {"times": np.arange(39) / 100}, r"a second for each of 40 samples, got \(39,\)"),
        ("gifford", {"times": np.zeros(40)}, "rise in equal steps"),
        ("gifford", {"times": np.arange(40.0) ** 2}, "rise in equal steps"),
        ("nice", {"times": np.arange(30) / 250 - 0.1}, "got 30 from -0.1 s, 5 of them from 0 s on"),
        ("ubp", {"eeg": (1e-5 * FIT_63).astype(np.float16)}, r"median absolute value .* it looks like volt"),
        ("nice", {"preprocessed_eeg_data": 1e4 * FIT_63}, r"median absolute value of 0\.01 to 100, got"),
    ],
)
def test_a_cut_file_that_contradicts_itself_is_named(
    tmp_path: Path, layout: str, changed: dict[str, Any], complaint: str
) -> None:
    things = rewritten(tmp_path, layout, **changed)
    with pytest.raises(RecordingError, match=complaint):
        things.read(things.recordings()[0])


def test_what_lies_beside_the_trials_must_fit_them(tmp_path: Path) -> None:
    writers.write_neurobridge(tmp_path / "n", **SMALL)
    things = source(tmp_path / "n", "neurobridge")
    ref = things.recordings()[0]
    array = np.load(ref.location)
    np.save(ref.location, array[:, 0])
    with pytest.raises(RecordingError, match=r"on 5 axes, got float32 \(4, 6, 63, 25\)"):
        things.read(ref)
    (tmp_path / "n/preprocessed_eeg/info.json").write_text('{"ch_names": []}')
    with pytest.raises(RecordingError, match=r"info\.json: must describe the trials .*KeyError: 'times'"):
        things.read(ref)

    writers.write_enigma(tmp_path / "e", subjects=("01", "02"), **SMALL)
    things = source(tmp_path / "e", "enigma")
    folder = tmp_path / "e" / "things_eeg2"
    # As many rows, in another person's order.
    shutil.copy(folder / "sub-02" / "experiment_metadata.parquet", folder / "sub-01" / "experiment_metadata.parquet")
    with pytest.raises(RecordingError, match=r"must be about subject 01, has rows of \['02'\]"):
        things.read(things.recordings()[0])
    (folder / "sub-01" / "experiment_metadata.parquet").unlink()
    with pytest.raises(RecordingError, match=r"experiment_metadata\.parquet: must be a table"):
        things.read(things.recordings()[0])


# Pictures


def test_a_picture_that_is_missing_or_broken_is_named_when_it_is_opened(tmp_path: Path) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    things = source(tmp_path, "gifford")
    paths = {Path(file).stem: images.folder / "training_images" / concept / file for concept, file in images.train}
    paths["thing0001_01s"].unlink()
    paths["thing0001_02s"].write_bytes(paths["thing0002_01s"].read_bytes()[:400])
    paths["thing0002_01s"].write_bytes(b"no picture")
    Image.new("L", (8001, 8000)).save(paths["thing0002_02s"])
    opened = {picture.picture: picture.images for picture in things.pictures()}
    for name, complaint in (
        ("thing0001_01s", r"picture 'thing0001_01s' does not exist: '.*00001_thing0001/thing0001_01s\.jpg'"),
        ("thing0001_02s", r"picture 'thing0001_02s': .* does not decode"),
        ("thing0002_01s", r"picture 'thing0002_01s': .* does not decode"),
        ("thing0002_02s", r"at most 64000000 pixels, says it has 8001 x 8000"),
    ):
        with pytest.raises(PictureError, match=complaint):
            opened[name]()
    assert opened["thing0003_01s"]()[0].mode == "RGB"


def test_pictures_are_listed_without_their_folders(tmp_path: Path) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    shutil.rmtree(images.folder / "training_images")
    pictures = source(tmp_path, "gifford").pictures()
    assert len(pictures) == 10
    with pytest.raises(PictureError, match=r"does not exist: '.*training_images/00001_thing0001/thing0001_01s\.jpg'"):
        next(picture for picture in pictures if picture.partition == "train").images()


def test_of_two_image_folders_the_one_beside_the_metadata_is_used(tmp_path: Path) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    # Sorted before the image set, and of another size.
    writers.write_pictures(tmp_path / "a_copy", metadata=False, **{**SMALL, "px": 8})
    opened = [picture.images()[0].size for picture in source(tmp_path, "gifford").pictures()]
    assert set(opened) == {(16, 16)}
    shutil.rmtree(images.folder / "test_images")
    pictures = source(tmp_path, "gifford").pictures()
    assert {(p.partition, p.images()[0].size) for p in pictures} == {("train", (16, 16)), ("test", (8, 8))}


def test_grey_pictures_come_as_rgb(tmp_path: Path) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    Image.new("L", (9, 7), 100).save(images.folder / "test_images" / "/".join(images.test[0]))
    picture = source(tmp_path, "gifford").pictures()[0].images()[0]
    assert (picture.mode, picture.size) == ("RGB", (9, 7))


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"train_img_files": None}, r"needs the key 'train_img_files', has \['test_img_concepts', 'test_img_files'"),
        ({"train_img_files": ["a.jpg"]}, "train needs a concept for each file, got 6, 1"),
        ({"test_img_concepts": [], "test_img_files": []}, "test needs a concept for each file, got 0, 0"),
        ({"test_img_files": ["a.jpg", "b.jpg", "c.jpg", "a.png"]}, r"unique, 'a' is both 'test/00001_o.*' and 'test/0"),
        ({"test_img_files": ["a.jpg", "b.jpg", "c.jpg", "thing0001_01s.jpg"]}, "'thing0001_01s' is both 'train/"),
        ({"test_img_concepts": ["a", "b", "c", "00009_thing0002"]}, "one part, 'thing0002' is in both"),
        ({"test_img_concepts": ["a", "b", "c", ".."]}, r"'\.\./other0004_04s\.jpg' is no folder and file name"),
        ({"test_img_files": ["a.jpg", "b.jpg", "c.jpg", "/etc/passwd"]}, "is no folder and file name"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(
    tmp_path: Path, changed: dict[str, Any], complaint: str
) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    path = images.folder / "image_metadata.npy"
    content = {**np.load(path, allow_pickle=True).item(), **changed}
    np.save(path, {key: value for key, value in content.items() if value is not None})  # type: ignore[arg-type]
    with pytest.raises(PictureError, match=complaint):
        source(tmp_path, "gifford").pictures()


def test_image_metadata_must_be_there_once(tmp_path: Path) -> None:
    images = writers.write_gifford(tmp_path, **SMALL)
    shutil.copytree(images.folder, tmp_path / "again")
    with pytest.raises(PictureError, match=r"needs one image_metadata\.npy in .*found \['again/image_metadata\.npy', "):
        source(tmp_path, "gifford").pictures()
    shutil.rmtree(tmp_path / "again")
    (images.folder / "image_metadata.npy").unlink()
    with pytest.raises(PictureError, match="found none"):
        source(tmp_path, "gifford").pictures()


def test_what_is_declared(tmp_path: Path) -> None:
    writers.write_gifford(tmp_path, **SMALL)
    fact = source(tmp_path, "gifford").fact
    assert (fact.licence, fact.design, fact.truth) == ("CC-BY-4.0", "rapid", "picture")
    assert "NeuroImage 264, 119754" in fact.citation
    table = pd.DataFrame([picture.partition for picture in source(tmp_path, "gifford").pictures()])
    assert table[0].value_counts().to_dict() == {"train": 6, "test": 4}
