from pathlib import Path

import mne
import numpy as np
import pytest
import torch

from eegdecode.config import EegCvpr40Data
from eegdecode.data.sources import CutRecording, EventsError, PictureError, RecordingError, SourceError, open_source
from eegdecode.data.sources.eegcvpr40 import CHANNELS, EegCvpr40Source
from tests.writers.eegcvpr40 import write_eegcvpr40

FILE = "eeg_55_95_std.pth"
SPLIT = "block_splits_by_image_all.pth"
BLOCK = "block design: the pictures of a class were shown together, so the time of a trial tells it."


def opened(root: Path, **config: object) -> EegCvpr40Source:
    source = open_source(EegCvpr40Data(**config), str(root))  # type: ignore[arg-type]
    assert isinstance(source, EegCvpr40Source)
    return source


def edit(root: Path, row: int, key: str, value: object) -> None:
    content = torch.load(root / FILE, weights_only=True)
    content["dataset"][row][key] = value
    torch.save(content, root / FILE)


def test_every_trial_has_its_own_picture_and_window(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path)
    source = opened(tmp_path)
    refs = source.recordings()
    assert [(ref.key, ref.subject, ref.session, ref.run) for ref in refs] == [
        ("sub-01", "01", "all", "all"),
        ("sub-02", "02", "all", "all"),
    ]
    assert source.findings == [BLOCK]
    for ref in refs:
        trials = source.read(ref)
        assert isinstance(trials, CutRecording)
        expected = shown[shown["subject"] == ref.subject]
        assert trials.eeg_NCT.shape == (18, 128, 440)
        assert trials.events["picture"].tolist() == expected["picture"].tolist()
        assert trials.events["row"].tolist() == expected.index.tolist()
        for n, eeg in enumerate(expected["eeg"]):
            np.testing.assert_array_equal(trials.eeg_NCT[n], eeg[:, 20:460].numpy())


def test_declared_facts_hold(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path)
    source = opened(tmp_path)
    trials = source.read(source.recordings()[0])
    assert (source.fact.name, source.fact.design, source.fact.truth) == ("eegcvpr40", "block", "picture")
    assert "ImageNet" in source.fact.licence
    assert "10.1109/TPAMI.2020.2995909" in source.fact.citation
    assert (trials.sfreq_hz, trials.tmin_s, trials.unit) == (1000.0, 0.02, "whitened")
    assert trials.channels == CHANNELS
    assert len(set(CHANNELS)) == 128
    # All of them are places of the 10-5 system.
    assert set(CHANNELS) <= set(mne.channels.make_standard_montage("colin27_1005").ch_names)
    assert trials.history[0] == "filtered 55 to 95 Hz by the authors"
    facts = {(p.picture, p.concept, p.partition) for p in source.pictures()}
    assert facts == set(shown[["picture", "concept", "part"]].itertuples(index=False, name=None))
    assert [p.picture for p in source.pictures()] == sorted(set(shown["picture"]))
    assert source.pictures()[0].images()[0].size == (32, 32)


def test_the_raw_file_is_in_microvolt(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path, file="eeg_signals_raw_with_mean_std.pth")
    source = opened(tmp_path, file="eeg_signals_raw_with_mean_std.pth")
    trials = source.read(source.recordings()[0])
    assert trials.unit == "uV"
    assert trials.history == ("samples 20 to 459 of the authors' segments; no baseline subtracted",)
    np.testing.assert_array_equal(trials.eeg_NCT[0], shown["eeg"][0][:, 20:460].numpy())


def test_trials_of_odd_length_and_copies_are_counted_and_named(tmp_path: Path) -> None:
    lengths = {0: 459, 3: 460, 5: 600, 7: 601, 20: 300}
    shown = write_eegcvpr40(tmp_path, lengths=lengths)
    edit(tmp_path, 30, "eeg", shown["eeg"][2].clone())
    source = opened(tmp_path)
    kept = [source.read(ref).events["row"].tolist() for ref in source.recordings()]
    assert source.findings == [
        BLOCK,
        "sub-01: 2 of 18 trials left out, not of 460 to 600 samples: trial 0 (459), trial 7 (601).",
        "sub-02: 1 of 18 trials left out, not of 460 to 600 samples: trial 20 (300).",
        "sub-02: 1 of 18 trials left out, copies: 30 of 2.",
    ]
    assert kept == [sorted({*range(18)} - {0, 7}), sorted({*range(18, 36)} - {20, 30})]
    assert source.read(source.recordings()[1]).events["picture"].tolist() == shown["picture"][kept[1]].tolist()


def test_a_split_of_one_person_counts_that_persons_trials(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path)
    single = "block_splits_by_image_single.pth"
    with pytest.raises(RecordingError, match=rf"{single}: is a split of one person.*\['01', '02'\]"):
        opened(tmp_path, split_file=single).recordings()
    source = opened(tmp_path, split_file=single, subjects=("02",))
    assert [ref.key for ref in source.recordings()] == ["sub-02"]
    assert {p.picture: p.partition for p in source.pictures()} == dict(
        zip(shown["picture"], shown["part"], strict=True)
    )
    with pytest.raises(RecordingError, match=r"has no trials of subject \['09'\]"):
        opened(tmp_path, subjects=("01", "09")).recordings()


def test_pictures_outside_the_split_and_missing_images_are_said(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path, images=False)
    content = torch.load(tmp_path / SPLIT, weights_only=True)
    content["splits"][1]["val"] = []
    torch.save(content, tmp_path / SPLIT)
    source = opened(tmp_path, split=1)
    source.recordings()
    loose = sorted(set(shown["picture"][shown["part"] == "val"]))
    assert source.findings[1] == f"3 pictures are in no part of split 1 of {SPLIT}: {', '.join(loose)}."
    assert source.findings[2].startswith("18 pictures are not in images/: n02106662_100, n02106662_101, ")
    assert source.findings[2].endswith(" and 13 more. ImageNet has them.")
    assert [p.partition for p in source.pictures() if p.picture in loose] == ["any"] * 3
    with pytest.raises(PictureError, match=r"picture 'n02106662_100' does not exist: '.*n02106662_100.JPEG'"):
        source.pictures()[0].images()


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("eeg", torch.zeros(127, 500), RecordingError, r"eeg must be a tensor .*\(128, times\), got \(127, 500\)"),
        ("eeg", [1.0], RecordingError, "eeg must be a tensor .* got list"),
        ("image", 99, RecordingError, "image must be a whole number 0 to 17, got '99'"),
        ("label", -1, RecordingError, "label must be a whole number 0 to 2, got '-1'"),
        ("subject", "1", RecordingError, "subject must be a whole number"),
        ("label", 2, EventsError, "picture 'n02106662_102' must have one label"),
        ("image", 15, RecordingError, "splits.0. must be by picture"),
    ],
)
def test_impossible_trials_are_named(
    tmp_path: Path, key: str, value: object, error: type[SourceError], words: str
) -> None:
    write_eegcvpr40(tmp_path)
    edit(tmp_path, 20, key, value)
    with pytest.raises(error, match=words) as raised:
        opened(tmp_path).recordings()
    assert "trial 20" in str(raised.value) or "trial 2:" in str(raised.value) or SPLIT in str(raised.value)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path)
    eeg = shown["eeg"][20].clone()
    eeg[4, 30] = float("nan")
    edit(tmp_path, 20, "eeg", eeg)
    source = opened(tmp_path)
    with pytest.raises(RecordingError, match="trial 20: Fz must be finite, got nan at sample 30"):
        source.read(source.recordings()[1])


def test_missing_cut_and_strange_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=FILE):
        opened(tmp_path).recordings()
    write_eegcvpr40(tmp_path)
    with pytest.raises(RecordingError, match=rf"{SPLIT}: needs splits\[7\] .* has 2 splits"):
        opened(tmp_path, split=7).recordings()
    whole = (tmp_path / FILE).read_bytes()
    for kept in (0, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / FILE).write_bytes(whole[:kept])
        with pytest.raises(SourceError, match=FILE):
            opened(tmp_path).recordings()
    for content, words in (
        ([], "must hold a dictionary, holds list"),
        ({"dataset": [{}], "labels": []}, "needs a list 'images'"),
        ({"dataset": [], "labels": [], "images": []}, "has no trials"),
        ({"dataset": [{"eeg": 1}], "labels": [], "images": []}, r"trial 0: .* lacks \['image', 'label', 'subject'\]"),
        (
            {"dataset": [{"eeg": 0, "image": 0, "label": 0, "subject": 1}], "labels": [], "images": ["../a"]},
            "names of ImageNet's files, got '../a'",
        ),
    ):
        torch.save(content, tmp_path / FILE)
        with pytest.raises(RecordingError, match=words):
            opened(tmp_path).recordings()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": [0], "val": [0], "test": [1]}, "row 0 in both train and val"),
        ({"train": [0], "val": [1]}, r"\['test'\] must be a list of rows"),
        ({"train": [0], "val": [1], "test": [36]}, "names row 36, the file has 36"),
        ({"train": [0], "val": [1], "test": [18]}, "'n02106662_100' is in both train and test"),
    ],
)
def test_splits_that_do_not_fit_are_refused(tmp_path: Path, split: dict[str, list[int]], words: str) -> None:
    write_eegcvpr40(tmp_path)
    torch.save({"splits": [split]}, tmp_path / SPLIT)
    with pytest.raises(RecordingError, match=f"{SPLIT}.*{words}"):
        opened(tmp_path).recordings()


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", [FILE, SPLIT])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_attack_is_refused_by_name_and_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    write_eegcvpr40(tmp_path)
    content = torch.load(tmp_path / name, weights_only=True)
    content["extra"] = Attack(tmp_path / "touched")
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SourceError, match=f"{name}: refused, its pickle asks for"):
        opened(tmp_path).recordings()
    assert not (tmp_path / "touched").exists()


def test_the_old_torch_format_is_read(tmp_path: Path) -> None:
    shown = write_eegcvpr40(tmp_path)
    content = torch.load(tmp_path / FILE, weights_only=True)
    torch.save(content, tmp_path / FILE, _use_new_zipfile_serialization=False)
    source = opened(tmp_path)
    trials = source.read(source.recordings()[0])
    np.testing.assert_array_equal(trials.eeg_NCT[5], shown["eeg"][5][:, 20:460].numpy())
