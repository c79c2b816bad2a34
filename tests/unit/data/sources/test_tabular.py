import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eegdecode.config import Epochs, MneData
from eegdecode.data.epochs import cut
from eegdecode.data.sources import (
    DuplicateError,
    EventsError,
    PictureError,
    RecordingError,
    Source,
    open_source,
)

FIXTURES = {
    # file: (electrodes, rate, seconds)
    "edf/test.edf": (138, 512.0, 6.0),
    "bdf/test.bdf": (72, 2048.0, 1.0),
    "brainvision/test.vhdr": (26, 1000.0, 7.9),
    "fif/test_bin_raw.fif": (32, 1000.0, 7.9),
    "eeglab/eeglab_data.set": (32, 128.0, 238.3125),
    "eeglab/sub-S1_ses-01_task-Experiment_run-01_eeg.set": (15, 256.0, 60.0),
}


def copy(shared: Path, name: str, root: Path) -> Path:
    """Copy a fixture with the files that belong to it."""
    origin = shared / "data" / "formats" / name
    for path in origin.parent.glob(f"{origin.stem}.*"):
        target = root / path.name
        shutil.copyfile(path, target)
    return root / origin.name


def events(path: Path, onsets: list[float], **columns: list[str]) -> Path:
    """Write an events table beside a recording; pictures are made as needed."""
    columns.setdefault("picture", [f"cat/cat_{k % 2}.png" for k in range(len(onsets))])
    for name in columns["picture"]:
        picture = path.parent / "pictures" / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 10, 10)).save(picture)
    table = path.with_name(f"{path.stem}_events.tsv")
    pd.DataFrame({"onset": onsets, **columns}).to_csv(table, sep="\t", index=False)
    return table


def small(root: Path, name: str = "sub-01_ses-01_run-01", seed: int = 0) -> Path:
    """Write four seconds of three electrodes as FIF."""
    eeg = np.random.default_rng(seed).normal(0, 2e-5, (3, 800))
    raw = mne.io.RawArray(eeg, mne.create_info(["O1", "Oz", "O2"], 200.0, "eeg"), verbose="ERROR")
    path = root / f"{name}_raw.fif"
    raw.save(path, verbose="ERROR")
    return path


def read_all(root: Path) -> None:
    source = opened(root)
    refs = source.recordings()
    source.pictures()
    for ref in refs:
        source.read(ref)


def opened(root: Path) -> Source:
    return open_source(MneData(), str(root))


@pytest.mark.parametrize("name", sorted(FIXTURES))
def test_every_container_is_read_and_cut(shared: Path, tmp_path: Path, name: str) -> None:
    path = copy(shared, name, tmp_path)
    n_chans, sfreq_hz, seconds = FIXTURES[name]
    events(path, [0.25, 0.6])
    source = opened(tmp_path)
    (ref,) = source.recordings()
    recording = source.read(ref)
    assert recording.raw.n_times / sfreq_hz == pytest.approx(seconds)
    assert recording.events["sample"].tolist() == [round(0.25 * sfreq_hz), round(0.6 * sfreq_hz)]
    spec = Epochs(tmin_s=-0.1, tmax_s=0.2, baseline_s=(None, 0.0), sfreq_hz=sfreq_hz)
    trials = cut(recording, spec)
    assert trials.eeg_uv_NCT.shape[:2] == (2, n_chans)
    onset = round(0.6 * sfreq_hz)
    first = onset + round(-0.1 * sfreq_hz)
    eeg_uv = recording.raw.get_data("eeg")[:, first : onset + round(0.2 * sfreq_hz) + 1] * 1e6
    expected = eeg_uv - eeg_uv[:, : onset - first + 1].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(trials.eeg_uv_NCT[1], expected, atol=1e-3 + 1e-6 * np.abs(eeg_uv).max())


def test_all_containers_are_covered(shared: Path) -> None:
    found = {
        str(p.relative_to(shared / "data" / "formats"))
        for p in (shared / "data" / "formats").rglob("*")
        if p.suffix in (".edf", ".bdf", ".vhdr", ".set", ".fif")
    }
    assert found == set(FIXTURES)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(
    ("name", "victim"),
    [
        ("edf/test.edf", "test.edf"),
        ("bdf/test.bdf", "test.bdf"),
        ("brainvision/test.vhdr", "test.vhdr"),
        ("brainvision/test.vhdr", "test.eeg"),
        ("fif/test_bin_raw.fif", "test_bin_raw.fif"),
        ("eeglab/eeglab_data.set", "eeglab_data.set"),
        ("eeglab/eeglab_data.set", "eeglab_data.fdt"),
    ],
)
def test_cut_files_are_refused_by_name(shared: Path, tmp_path: Path, name: str, victim: str, kept: float) -> None:
    path = copy(shared, name, tmp_path)
    events(path, [0.1])
    whole = (tmp_path / victim).read_bytes()
    (tmp_path / victim).write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(RecordingError, match=f"{path.stem}.*(truncated|is empty|has no samples)"):
        read_all(tmp_path)


def test_names_give_subject_session_run_and_folders_give_concepts(tmp_path: Path) -> None:
    events(small(tmp_path, "sub-07_ses-02_run-03"), [1.0, 0.5], picture=["cat/a.png", "b.png"])
    source = opened(tmp_path)
    (ref,) = source.recordings()
    assert (ref.key, ref.subject, ref.session, ref.run) == ("sub-07_ses-02_run-03", "sub-07", "ses-02", "run-03")
    # The order of presentation is that of time, whatever the order of the rows.
    assert source.read(ref).events["picture"].tolist() == ["b.png", "cat/a.png"]
    assert [(p.picture, p.concept, p.partition) for p in source.pictures()] == [
        ("b.png", "b", "any"),
        ("cat/a.png", "cat", "any"),
    ]
    assert source.pictures()[0].images()[0].getpixel((0, 0)) == (200, 10, 10)


def test_columns_win_over_names_and_runs_share_a_file(tmp_path: Path) -> None:
    events(
        small(tmp_path),
        [0.5, 1.0, 1.5],
        picture=["a.png", "b.png", "a.png"],
        concept=["x", "y", "x"],
        run=["run-01", "run-01", "run-02"],
        partition=["train", "test", "train"],
    )
    source = opened(tmp_path)
    refs = source.recordings()
    assert [ref.key for ref in refs] == ["sub-01_ses-01_run-01", "sub-01_ses-01_run-02"]
    assert [len(source.read(ref).events) for ref in refs] == [2, 1]
    assert [(p.concept, p.partition) for p in source.pictures()] == [("x", "train"), ("y", "test")]


@pytest.mark.parametrize(
    ("columns", "onsets", "error", "words"),
    [
        ({}, [0.5, 9.0], EventsError, r"row 3: onset must lie in .* \(4 s\), got 9 s"),
        ({}, [0.5, -1.0], EventsError, "row 3: onset must be a number"),
        ({}, [0.5, float("nan")], EventsError, "row 3: onset must be a number"),
        ({}, [0.5, 0.5], DuplicateError, "row 3: a trial is known by its recording and onset"),
        ({"concept": ["a", ""]}, [0.5, 1.0], EventsError, "row 3: concept must not be empty"),
        ({"partition": ["train", "dev"]}, [0.5, 1.0], EventsError, "row 3: partition must be"),
        (
            {"picture": ["a.png", "a.png"], "concept": ["a", "b"]},
            [0.5, 1.0],
            EventsError,
            "row 3: picture 'a.png' must have one concept",
        ),
    ],
)
def test_impossible_rows_are_named(
    tmp_path: Path, columns: dict[str, list[str]], onsets: list[float], error: type[ValueError], words: str
) -> None:
    table = events(small(tmp_path), onsets, **columns)
    with pytest.raises(error, match=f"{table.name} {words}"):
        read_all(tmp_path)


def test_missing_tables_columns_and_rows_are_named(tmp_path: Path) -> None:
    path = small(tmp_path)
    with pytest.raises(EventsError, match=r"needs one events table, .*_raw_events.tsv or .*_raw_events.csv"):
        opened(tmp_path).recordings()
    table = path.with_name(f"{path.stem}_events.csv")
    for text, words in (
        ("onset,image\n1,a.png\n", "needs the column 'picture', has \\['onset', 'image'\\]"),
        ("picture\na.png\n", "needs the column 'onset'"),
        ("onset,picture\n", "has no rows"),
        ("", "must be a table with a header"),
        ("onset,picture\n1,gone.png\n", "row 2: picture 'gone.png' does not exist"),
        ("onset,picture\n1,../secret.png\n", "row 2: picture must name a file below pictures/"),
        ("onset,picture\n1,\n", "row 2: picture must name a file below pictures/"),
    ):
        table.write_text(text)
        with pytest.raises(PictureError if "row 2: picture" in words else EventsError, match=words):
            opened(tmp_path).recordings()


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    events(small(tmp_path), [0.5], picture=["cat/a.png"])
    whole = (tmp_path / "pictures/cat/a.png").read_bytes()
    for content in (b"no picture", whole[: len(whole) // 2]):
        (tmp_path / "pictures/cat/a.png").write_bytes(content)
        with pytest.raises(PictureError, match=r"picture 'cat/a.png': .* does not decode"):
            opened(tmp_path).pictures()[0].images()


def test_the_same_recording_twice_is_refused(tmp_path: Path) -> None:
    path = small(tmp_path)
    events(path, [0.5])
    copied = tmp_path / "sub-02_ses-01_run-01_raw.fif"
    shutil.copyfile(path, copied)
    events(copied, [0.5])
    with pytest.raises(DuplicateError, match=r"'sub-02_.*' has the same content as 'sub-01_"):
        opened(tmp_path).recordings()


def test_two_files_with_one_key_are_refused(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for folder, seed in ((tmp_path, 0), (tmp_path / "more", 1)):
        events(small(folder, seed=seed), [0.5])
    shutil.copytree(tmp_path / "more" / "pictures", tmp_path / "pictures", dirs_exist_ok=True)
    with pytest.raises(DuplicateError, match="recording 'sub-01_ses-01_run-01' must be there once"):
        opened(tmp_path).recordings()


def test_no_recordings_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="needs recordings"):
        opened(tmp_path).recordings()
