import shutil
import sys
from pathlib import Path

import h5py
import mne
import numpy as np
import pandas as pd
import pytest

from eegdecode.config import AlljoinedData
from eegdecode.data.sources import (
    DuplicateError,
    EventsError,
    PictureError,
    Recording,
    RecordingError,
    Source,
    SourceError,
    open_source,
)
from eegdecode.data.sources.alljoined import CHANNELS_16
from eegdecode.data.sources.hdf_table import read_columns
from tests.writers.alljoined import CHANNELS_1, write_alljoined1, write_alljoined16, write_table
from tests.writers.bids import write_edf
from tests.writers.stimuli import draw, responses


def opened(root: Path, release: str = "1", **config: object) -> Source:
    return open_source(AlljoinedData(release=release, **config), str(root))  # type: ignore[arg-type]


def read_all(root: Path, release: str = "1") -> list[Recording]:
    source = opened(root, release)
    return [source.read(ref) for ref in source.recordings()]  # type: ignore[misc]


def check_signal(recording: Recording, response_uv_PCT: np.ndarray, order: list[str], names: tuple[str, ...]) -> None:
    """The signal behind each event is that of its picture."""
    eeg_uv_CT = recording.raw.get_data(picks=list(names)) * 1e6
    n = response_uv_PCT.shape[2]
    for row in recording.events.itertuples():
        np.testing.assert_allclose(
            eeg_uv_CT[:, row.sample : row.sample + n], response_uv_PCT[order.index(row.picture)], atol=0.1
        )


@pytest.mark.parametrize("first_samp", [0, 700])
def test_alljoined1_pairs_by_time_whatever_the_recorder_counted(tmp_path: Path, first_samp: int) -> None:
    shown = write_alljoined1(tmp_path, first_samp=first_samp)
    source = opened(tmp_path)
    refs = source.recordings()
    assert [(ref.key, ref.subject, ref.session, ref.run) for ref in refs] == [
        ("sub-01_ses-01", "01", "01", "01"),
        ("sub-01_ses-02", "01", "02", "01"),
        ("sub-02_ses-01", "02", "01", "01"),
    ]
    assert source.findings == []
    order = ["00007", "46002", "72999"]
    latent_PK = draw(["7", "46002", "72999"], [tmp_path / "other" / f"{name}.png" for name in order], 0)
    response_uv_PCT = 10 * responses(latent_PK, 64, 200, 512.0, 0)
    for ref in refs:
        recording = source.read(ref)
        assert isinstance(recording, Recording)
        expected = shown[shown["recording"] == ref.key]
        assert recording.events["sample"].tolist() == expected["sample"].tolist()
        assert recording.events["picture"].tolist() == expected["picture"].tolist()
        check_signal(recording, response_uv_PCT, order, tuple(CHANNELS_1))
    assert [(p.picture, p.concept, p.partition) for p in source.pictures()] == [(n, n, "any") for n in order]
    assert source.pictures()[1].images()[0].size == (32, 32)


def test_alljoined1_facts_hold(tmp_path: Path) -> None:
    write_alljoined1(tmp_path, sessions=[(1, 1)])
    source = opened(tmp_path)
    (recording,) = read_all(tmp_path)
    assert (source.fact.name, source.fact.design, source.fact.truth) == ("alljoined1", "rapid", "picture")
    assert "CC-BY-NC-ND-4.0" in source.fact.licence
    assert "2404.05553" in source.fact.citation
    assert len(mne.pick_types(recording.raw.info, eeg=True)) == 64
    assert recording.raw.info["sfreq"] == 512.0


def test_alljoined1_leaves_out_what_is_broken_copied_or_without_table(tmp_path: Path) -> None:
    write_alljoined1(tmp_path, sessions=[(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (4, 1)])
    (tmp_path / "05_125/subj02_session1.h5").unlink()
    (tmp_path / "05_125/subj03_session1.h5").unlink()
    shutil.copyfile(tmp_path / "raw/subj01_session1_eeg.fif", tmp_path / "raw/subj04_session1_eeg.fif")
    (tmp_path / "nsd_stimuli/7.png").unlink()
    source = opened(tmp_path)
    assert [ref.key for ref in source.recordings()] == ["sub-01_ses-01", "sub-01_ses-02"]
    assert source.findings == [
        "sub-02_ses-01: left out, has no table of trials (05_125/subj02_session1.h5).",
        "sub-02_ses-02: left out, known to be broken where it is published (subj02_session2_eeg.fif).",
        "sub-03_ses-01: left out, known to be broken where it is published (subj03_session1_eeg.fif).",
        "sub-04_ses-01: left out, byte-identical copy of sub-01_ses-01.",
        "1 pictures are not in nsd_stimuli.hdf5 or nsd_stimuli/: 00007. The Natural Scenes Dataset has them.",
    ]
    with pytest.raises(PictureError, match="picture '00007' does not exist"):
        source.pictures()[0].images()
    assert [ref.key for ref in opened(tmp_path, subjects=("04",)).recordings()] == ["sub-04_ses-01"]
    with pytest.raises(RecordingError, match=r"found no subject \['09'\]"):
        opened(tmp_path, subjects=("09",)).recordings()


def test_nsd_pictures_come_from_the_brick(tmp_path: Path) -> None:
    write_alljoined1(tmp_path, sessions=[(1, 1)])
    shutil.rmtree(tmp_path / "nsd_stimuli")
    with h5py.File(tmp_path / "nsd_stimuli.hdf5", "w") as file:
        bricks = file.create_dataset("imgBrick", (73000, 4, 4, 3), "u1", chunks=(1, 4, 4, 3))
        bricks[46002] = np.full((4, 4, 3), (9, 8, 7))
    source = opened(tmp_path)
    source.recordings()
    assert source.findings == []
    assert source.pictures()[1].images()[0].getpixel((1, 1)) == (9, 8, 7)
    (tmp_path / "nsd_stimuli.hdf5").write_bytes(b"no brick")
    with pytest.raises(PictureError, match=r"picture '46002': can not be read from nsd_stimuli.hdf5"):
        source.pictures()[1].images()


def test_tables_compressed_with_blosc_are_read(tmp_path: Path) -> None:
    shown = write_alljoined1(tmp_path, blosc=True)
    assert [r for run in read_all(tmp_path) for r in run.events["picture"]] == shown["picture"].tolist()


def test_without_blosc_its_installation_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An import of it fails as where it is not installed.
    monkeypatch.setitem(sys.modules, "blosc", None)
    write_alljoined1(tmp_path, sessions=[(1, 1)], blosc=True)
    with pytest.raises(EventsError, match=r"subj01_session1.h5 is compressed with blosc(.|\n)*pip install blosc"):
        opened(tmp_path).recordings()


COLUMNS = {"73k_id": np.arange(4, dtype=np.int32), "curr_time": np.array([1.0, 1.5, 2.0, 2.5])}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"73k_id": None}, EventsError, "needs the column '73k_id' of numbers"),
        ({"curr_time": None}, EventsError, "needs the column 'curr_time'"),
        ({"73k_id": np.array([b"a", b"b", b"c", b"d"])}, EventsError, "must be columns of numbers"),
        ({"73k_id": np.array([1, 2, 73000, 3], np.int32)}, EventsError, "row 2: 73k_id must be .* 72999, got 73000"),
        ({"73k_id": np.array([1, 2, -1, 3], np.int32)}, EventsError, "row 2: 73k_id must be a whole number"),
        ({"curr_time": np.array([1.0, np.nan, 2.0, 2.5])}, EventsError, "row 1: curr_time must be seconds"),
        (
            {"curr_time": np.array([1.0, 1.5, 2.0, 99.0])},
            EventsError,
            r"row 3: curr_time must lie in .* got 99 s \(1 such",
        ),
        ({"curr_time": np.array([1.0, 1.5, 2.0, 1.5])}, DuplicateError, "row 3: a trial is known by"),
    ],
)
def test_impossible_tables_are_named(
    tmp_path: Path, change: dict[str, np.ndarray | None], error: type[SourceError], words: str
) -> None:
    write_alljoined1(tmp_path, sessions=[(1, 1)])
    columns = {name: values for name, values in {**COLUMNS, **change}.items() if values is not None}
    write_table(tmp_path / "05_125/subj01_session1.h5", columns)
    with pytest.raises(error, match=f"subj01_session1.h5.*{words}"):
        read_all(tmp_path)


def test_cut_and_strange_files_of_alljoined1_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"needs raw/subjXX_sessionY_eeg.fif .* found none"):
        opened(tmp_path).recordings()
    write_alljoined1(tmp_path, sessions=[(1, 1)])
    table, raw = tmp_path / "05_125/subj01_session1.h5", tmp_path / "raw/subj01_session1_eeg.fif"
    for path in (table, raw):
        whole = path.read_bytes()
        for kept in (0.0, 0.3, 0.9):
            path.write_bytes(whole[: int(kept * len(whole))])
            with pytest.raises(SourceError, match=f"{path.name}.*(truncated|is empty|unreadable|no samples)"):
                read_all(tmp_path)
        path.write_bytes(whole)
    with h5py.File(table, "w") as file:
        file.create_group("a")
    with pytest.raises(EventsError, match=r"must hold one table as pandas writes it, holds \['a'\]"):
        read_columns(table, ("73k_id",))
    info = mne.create_info(3, 512.0, "eeg")
    mne.io.RawArray(np.random.default_rng(0).normal(0, 1e-5, (3, 5000)), info, verbose="ERROR").save(
        raw, overwrite=True, verbose="ERROR"
    )
    write_table(table, COLUMNS)
    with pytest.raises(RecordingError, match="must have 64 electrodes at 512 Hz, has 3 at 512 Hz"):
        read_all(tmp_path)
    raw.rename(raw.with_name("subj1_session1_eeg.fif"))
    with pytest.raises(RecordingError, match=r"subj1_session1_eeg.fif: must be named subjXX_sessionY_eeg.fif"):
        opened(tmp_path).recordings()


def test_alljoined16_pairs_annotations_with_pictures(tmp_path: Path) -> None:
    shown = write_alljoined16(tmp_path)
    source = opened(tmp_path, "1.6m")
    refs = source.recordings()
    assert [(ref.key, ref.subject, ref.session, ref.run) for ref in refs] == [
        ("sub-01_ses-01_run-01", "01", "01", "01"),
        ("sub-01_ses-01_run-05", "01", "01", "05"),
        ("sub-08_ses-01_run-01", "08", "01", "01"),
    ]
    order = ["00000", "00005", "16539", "16540", "16739", "16745"]
    latent_PK = draw([str(int(name)) for name in order], [tmp_path / "other" / f"{name}.png" for name in order], 0)
    response_uv_PCT = 10 * responses(latent_PK, 32, 50, 256.0, 0)
    for ref in refs:
        recording = source.read(ref)
        assert isinstance(recording, Recording)
        expected = shown[shown["recording"] == ref.key]
        assert recording.events["sample"].tolist() == expected["sample"].tolist()
        assert recording.events["picture"].tolist() == expected["picture"].tolist()
        assert tuple(recording.raw.ch_names) == CHANNELS_16
        check_signal(recording, response_uv_PCT, order, CHANNELS_16)
    assert source.findings == [
        "sub-08: 1 files are named 'Subject 19'; known, the folder is right.",
        "sub-01_ses-01_run-01: 1 deleted events left out: annotation 11 ('stim_test,16540,1,99').",
        "sub-01_ses-01_run-01: 2 events are not of pictures (1 behav, 1 oddball).",
        "sub-01_ses-01_run-05: 1 deleted events left out: annotation 11 ('stim_test,0,1,99').",
        "sub-01_ses-01_run-05: 2 events are not of pictures (1 behav, 1 oddball).",
        "sub-08_ses-01_run-01: 1 deleted events left out: annotation 11 ('stim_test,16540,1,99').",
        "sub-08_ses-01_run-01: 2 events are not of pictures (1 behav, 1 oddball).",
    ]
    # Catch trials are no pictures.
    assert [(p.picture, p.concept, p.partition) for p in source.pictures()] == [
        ("00000", "aardvark", "train"),
        ("00005", "aardvark", "train"),
        ("16539", "zucchini", "train"),
        ("16540", "airplane", "test"),
        ("16739", "wok", "test"),
    ]
    assert source.pictures()[0].images()[0].size == (32, 32)


def test_alljoined16_facts_hold(tmp_path: Path) -> None:
    write_alljoined16(tmp_path, blocks=[(2, 1, 1)], concepts=False)
    source = opened(tmp_path, "1.6m")
    (recording,) = read_all(tmp_path, "1.6m")
    assert (source.fact.name, source.fact.design, source.fact.truth) == ("alljoined_1.6m", "rapid", "picture")
    assert "non-commercial" in source.fact.licence
    assert "2508.18571" in source.fact.citation
    assert len(CHANNELS_16) == len(set(CHANNELS_16)) == 32
    assert (len(recording.raw.ch_names), recording.raw.info["sfreq"]) == (32, 256.0)
    source.recordings()
    assert source.findings[-1].startswith("concepts are not known, each picture is its own")
    assert [p.concept for p in source.pictures()][:2] == ["00000", "00005"]


def rewrite(root: Path, texts: list[str], onsets_s: list[float], names: list[str] | None = None) -> Path:
    """Write the file of the only block anew, with other annotations or channels."""
    path = next(root.glob("raw_eeg/*/*/*/*.edf"))
    names = names or list(CHANNELS_16)
    eeg_uv_CT = np.random.default_rng(1).normal(0, 10, (len(names), 256 * 6))
    write_edf(path, eeg_uv_CT, names, 256.0, mne.Annotations(onsets_s, [0.0] * len(onsets_s), texts))
    return path


def test_pictures_at_the_sample_of_another_are_left_out(tmp_path: Path) -> None:
    write_alljoined16(tmp_path, blocks=[(2, 1, 1)])
    rewrite(tmp_path, ["stim_test,16540,-1,1", "stim_test,16739,-1,2", "stim_test,16540,-1,3"], [1.0, 1.0, 1.5])
    source = opened(tmp_path, "1.6m")
    (ref,) = source.recordings()
    assert source.findings == [
        f"{ref.key}: 1 pictures left out, at the sample of the one before: annotation 1 ('16739')."
    ]
    assert source.read(ref).events["picture"].tolist() == ["16540", "16540"]
    rewrite(tmp_path, ["behav,1,-1,1"], [1.0])
    assert source.recordings() == []
    assert source.findings[-1] == f"{ref.key}: left out, shows no picture."


@pytest.mark.parametrize(
    ("text", "onset_s", "error", "words"),
    [
        ("stim_test,16540", 1.0, EventsError, "annotation 0: must be label,value,deleted,orig_index"),
        ("stim_test,x,-1,1", 1.0, EventsError, "got 'stim_test,x,-1,1'"),
        ("stim_test,16740,-1,1", 1.0, EventsError, "a picture from 0 to 16739"),
        ("stim_test,77,-1,1", 1.0, PictureError, "annotation 0: picture '00077' does not exist in stimuli/images"),
    ],
)
def test_impossible_annotations_are_named(
    tmp_path: Path, text: str, onset_s: float, error: type[SourceError], words: str
) -> None:
    write_alljoined16(tmp_path, blocks=[(2, 1, 1)])
    path = rewrite(tmp_path, [text], [onset_s])
    with pytest.raises(error, match=words) as raised:
        read_all(tmp_path, "1.6m")
    assert path.name in str(raised.value)


def test_an_event_past_the_end_is_named(tmp_path: Path) -> None:
    write_alljoined16(tmp_path, blocks=[(2, 1, 1)])
    path = rewrite(tmp_path, ["stim_test,16540,-1,1"], [5.5])
    # The same annotation, in as many bytes, at 9.5 s.
    content = path.read_bytes()
    assert content.count(b"+5.5\x15") == 1
    path.write_bytes(content.replace(b"+5.5\x15", b"+9.5\x15"))
    with pytest.raises(EventsError, match=r"annotation 0: onset must lie in the recording of 6 s, got 9.5 s \(1 such"):
        read_all(tmp_path, "1.6m")


def test_folders_and_names_that_do_not_fit_are_said(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"needs raw_eeg/sub-XX/session_YY/block_ZZ/\*.edf .* found none"):
        opened(tmp_path, "1.6m").recordings()
    write_alljoined16(tmp_path, blocks=[(1, 1, 1), (1, 2, 1)])
    first, second = sorted(tmp_path.glob("raw_eeg/*/*/*/*.edf"))
    (tmp_path / "raw_eeg/sub-01/session_02 old/block_01").mkdir(parents=True)
    (tmp_path / "raw_eeg/sub-01/session_03/block_01").mkdir(parents=True)
    shutil.copyfile(first, second)
    source = opened(tmp_path, "1.6m")
    assert [ref.key for ref in source.recordings()] == ["sub-01_ses-01_run-01"]
    assert "raw_eeg/sub-01/session_02 old/block_01: left out, is no sub-XX/session_YY/block_ZZ." in source.findings
    assert "sub-01_ses-03_run-01: left out, has no EDF file." in source.findings
    assert "sub-01_ses-02_run-01: left out, byte-identical copy of sub-01_ses-01_run-01." in source.findings
    with pytest.raises(RecordingError, match=r"found no subject \['08'\]|found none"):
        opened(tmp_path, "1.6m", subjects=("08",)).recordings()
    shutil.copyfile(first, second.with_name("Subject 1, Session 2, Block 1 again.edf"))
    with pytest.raises(DuplicateError, match="session_02/block_01: must hold one EDF file"):
        opened(tmp_path, "1.6m").recordings()
    second.unlink()
    second.with_name("Subject 1, Session 2, Block 1 again.edf").rename(
        second.with_name("Subject 7, Session 2, Block 1.edf")
    )
    with pytest.raises(RecordingError, match="must be named 'Subject 1, Session 2, Block 1"):
        opened(tmp_path, "1.6m").recordings()


def test_cut_and_strange_files_of_alljoined16_are_named(tmp_path: Path) -> None:
    write_alljoined16(tmp_path, blocks=[(2, 1, 1)])
    path = next(tmp_path.glob("raw_eeg/*/*/*/*.edf"))
    whole = path.read_bytes()
    for kept in (0.0, 0.05, 0.5, 0.95):
        path.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(RecordingError, match=r"(truncated|is empty)") as raised:
            read_all(tmp_path, "1.6m")
        assert path.name in str(raised.value)
    rewrite(tmp_path, ["stim_test,16540,-1,1"], [1.0], ["Oz", "O2"])
    with pytest.raises(RecordingError, match=r"must have the 32 electrodes .* lacks \['Cz', "):
        read_all(tmp_path, "1.6m")
    table = tmp_path / "preprocessed_eeg/sub-01/stim_order.parquet"
    pd.DataFrame({"image_path": ["a"]}).to_parquet(table)
    with pytest.raises(PictureError, match=r"stim_order.parquet: must be a table with image_path and category_name"):
        opened(tmp_path, "1.6m").pictures()
    shutil.rmtree(tmp_path / "stimuli")
    with pytest.raises(PictureError, match=r"needs stimuli/images/NNNNN.jpg .* found none"):
        opened(tmp_path, "1.6m").pictures()
