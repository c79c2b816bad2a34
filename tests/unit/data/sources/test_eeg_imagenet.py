from pathlib import Path

import numpy as np
import pytest
import torch

from eegdecode.config import EegImageNetData
from eegdecode.data.sources import EventsError, PictureError, RecordingError, SourceError, open_source
from eegdecode.data.sources.eeg_imagenet import CHANNELS, EegImageNetSource
from tests.writers.eeg_imagenet import write_eeg_imagenet

FILE = "EEG-ImageNet_1.pth"
BLOCK = "block design: the pictures of a class were shown together, so the time of a trial tells it."


def opened(root: Path, **config: object) -> EegImageNetSource:
    source = open_source(EegImageNetData(**config), str(root))  # type: ignore[arg-type]
    assert isinstance(source, EegImageNetSource)
    return source


def edit(root: Path, row: int, key: str, value: object) -> None:
    content = torch.load(root / FILE, weights_only=True)
    content["dataset"][row][key] = value
    torch.save(content, root / FILE)


@pytest.mark.parametrize(("scale", "unit"), [(1e-6, "V"), (1.0, "µV")])
def test_every_trial_has_its_own_picture_and_is_in_microvolt(tmp_path: Path, scale: float, unit: str) -> None:
    shown = write_eeg_imagenet(tmp_path, scale=scale)
    source = opened(tmp_path)
    refs = source.recordings()
    assert [ref.key for ref in refs] == ["sub-00_part-1", "sub-01_part-1", "sub-08_part-2"]
    assert (refs[2].subject, refs[2].session, refs[2].run) == ("08", "all", "part-2")
    assert source.findings == [BLOCK]
    for ref in refs:
        trials = source.read(ref)
        expected = shown[shown["subject"] == ref.subject]
        assert trials.events["picture"].tolist() == expected["picture"].tolist()
        assert trials.history[0] == f"in {unit} by its size"
        for n, eeg_uv in enumerate(expected["eeg_uv"]):
            np.testing.assert_allclose(trials.eeg_NCT[n], eeg_uv[:, 40:440], rtol=1e-5)


def test_declared_facts_hold(tmp_path: Path) -> None:
    shown = write_eeg_imagenet(tmp_path)
    source = opened(tmp_path)
    trials = source.read(source.recordings()[0])
    assert (source.fact.name, source.fact.design, source.fact.truth) == ("eeg_imagenet", "block", "picture")
    assert "2406.07151" in source.fact.citation
    assert "ImageNet" in source.fact.licence
    assert (trials.sfreq_hz, trials.tmin_s, trials.unit) == (1000.0, 0.04, "uV")
    assert (len(set(CHANNELS)), trials.channels, trials.eeg_NCT.shape) == (62, CHANNELS, (12, 62, 400))
    facts = {(p.picture, p.concept) for p in source.pictures()}
    assert facts == set(shown[["picture", "concept"]].itertuples(index=False, name=None))
    assert source.pictures()[0].images()[0].size == (32, 32)


def test_granularity_and_subjects_choose_trials(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path)
    fine = opened(tmp_path, granularity="fine", subjects=("01",))
    (ref,) = fine.recordings()
    assert fine.read(ref).events["row"].tolist() == [12, 13, 14, 15]
    assert {p.concept for p in fine.pictures()} == {"n02106662"}
    assert len(opened(tmp_path, granularity="coarse").pictures()) == 8
    with pytest.raises(
        RecordingError, match=r"no trials of .* subjects \('05',\); there are subjects \['00', '01', '08'\]"
    ):
        opened(tmp_path, subjects=("05",)).recordings()


def test_thirty_pictures_of_a_class_are_trained_on(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path, subjects={1: (0, 1)}, pictures_per_class=33)
    source = opened(tmp_path)
    source.recordings()
    assert source.findings == [BLOCK]
    parts = {p.picture: p.partition for p in source.pictures()}
    assert {name for name, part in parts.items() if part == "test"} == {
        f"{wnid}_{1030 + n}" for wnid in ("n02106662", "n02124075", "n02281787") for n in range(3)
    }
    # The second person saw the first and the last picture of a class the other way round.
    content = torch.load(tmp_path / FILE, weights_only=True)
    trials = content["dataset"]
    trials[99]["image"], trials[131]["image"] = trials[131]["image"], trials[99]["image"]
    torch.save(content, tmp_path / FILE)
    source = opened(tmp_path)
    source.recordings()
    assert {p.picture: p.partition for p in source.pictures()} == parts
    assert source.findings[1].startswith("sub-01_part-1: 2 of 99 trials are in another part than in the authors' split")


def test_copies_and_missing_images_are_said(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path, images=False)
    eeg = torch.load(tmp_path / FILE, weights_only=True)["dataset"][3]["eeg_data"]
    edit(tmp_path, 14, "eeg_data", eeg.clone())
    source = opened(tmp_path)
    refs = source.recordings()
    assert source.findings[1] == "sub-01_part-1: 1 of 12 trials left out, copies: 14 of 3 (EEG-ImageNet_1.pth)."
    assert source.read(refs[1]).events["row"].tolist() == [12, 13, *range(15, 24)]
    assert source.findings[2].startswith("12 pictures are not in imageNet_images/: n02106662_1000, ")
    with pytest.raises(PictureError, match="picture 'n02106662_1000' does not exist"):
        source.pictures()[0].images()


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("eeg_data", torch.zeros(64, 501), RecordingError, r"trial 5: eeg_data must be .* got \(64, 501\)"),
        ("eeg_data", torch.zeros(62, 439), RecordingError, "trial 5: eeg_data must have at least 440 samples, has 439"),
        ("granularity", "rough", RecordingError, "trial 5: granularity must be coarse or fine, got 'rough'"),
        ("subject", 1.5, RecordingError, "trial 5: subject must be a whole number"),
        ("image", "../x.JPEG", RecordingError, "trial 5: image must be a name of ImageNet, got '../x.JPEG'"),
        ("label", "n1", EventsError, "trial 17: picture 'n02124075_1001' must have one label"),
    ],
)
def test_impossible_trials_are_named(
    tmp_path: Path, key: str, value: object, error: type[SourceError], words: str
) -> None:
    write_eeg_imagenet(tmp_path)
    edit(tmp_path, 5, key, value)
    with pytest.raises(error, match=f"{FILE} {words}"):
        opened(tmp_path).recordings() and opened(tmp_path).pictures()


def test_values_in_no_unit_are_refused(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path, scale=1e-3)
    source = opened(tmp_path)
    with pytest.raises(RecordingError, match="sub-00 must be EEG in volt or microvolt"):
        source.read(source.recordings()[0])


def test_missing_and_cut_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"needs EEG-ImageNet_1.pth or EEG-ImageNet_2.pth .* found neither"):
        opened(tmp_path)
    write_eeg_imagenet(tmp_path)
    (tmp_path / "EEG-ImageNet_2.pth").unlink()
    assert len(opened(tmp_path).recordings()) == 2
    whole = (tmp_path / FILE).read_bytes()
    for kept in (0, 100, len(whole) // 2, len(whole) - 10):
        (tmp_path / FILE).write_bytes(whole[:kept])
        with pytest.raises(SourceError, match=FILE):
            opened(tmp_path).recordings()


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.path,))


def test_an_attack_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    write_eeg_imagenet(tmp_path)
    edit(tmp_path, 5, "label", Attack(tmp_path / "touched"))
    with pytest.raises(SourceError, match=f"{FILE}: refused, its pickle asks for"):
        opened(tmp_path).recordings()
    assert not (tmp_path / "touched").exists()
