import json
import shutil
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest

from eegdecode.config import BidsData, Epochs
from eegdecode.data.epochs import cut
from eegdecode.data.sources import (
    DuplicateError,
    EventsError,
    PictureError,
    Recording,
    RecordingError,
    SourceError,
    open_source,
)
from eegdecode.data.sources.bids import BidsSource
from tests.writers.bids import CHANNELS, THINGS_CHANNELS, write_bids, write_edf, write_things_eeg1
from tests.writers.stimuli import draw, responses

KEY = "sub-01_ses-01_task-view_run-01"


def opened(root: Path, **config: object) -> BidsSource:
    source = open_source(BidsData(**config), str(root))  # type: ignore[arg-type]
    assert isinstance(source, BidsSource)
    return source


def read_all(root: Path, **config: object) -> list[Recording]:
    source = opened(root, **config)
    refs = source.recordings()
    source.pictures()
    return [source.read(ref) for ref in refs]


def small(root: Path, **options: object) -> pd.DataFrame:
    """Write one run of 8 trials and 2 key presses."""
    options = {"n_train_concepts": 2, "n_test_concepts": 2, "pictures_per_concept": 1, **options}
    return write_bids(root, subjects=("01",), runs=("01",), **options)  # type: ignore[arg-type]


def table(root: Path) -> Path:
    return next(root.glob(f"sub-01/*/eeg/{KEY}_events.tsv"))


def edit(root: Path, row: int, column: str, value: object) -> None:
    """Change a cell; rows are counted as an editor does, the header being 1."""
    events = pd.read_csv(table(root), sep="\t", dtype=object, keep_default_na=False, encoding="utf-8-sig")
    events.loc[row - 2, column] = value
    events.to_csv(table(root), sep="\t", index=False)


def test_events_tsv_names_pictures_at_samples(tmp_path: Path) -> None:
    shown = write_bids(tmp_path, noise_uv=0.01)
    source = opened(tmp_path)
    refs = source.recordings()
    assert [ref.key for ref in refs] == sorted(set(shown["recording"]))
    assert (refs[0].subject, refs[0].session, refs[0].run) == ("01", "01", "task-view_run-01")
    files = [tmp_path / "other" / p.picture for p in source.pictures()]
    order = [f"{c}{k}/{c}{k}_{n}.png" for c, m in (("train", 4), ("test", 3)) for k in range(m) for n in range(2)]
    latent_PK = draw([name.split("/")[0] for name in order], [tmp_path / "other" / name for name in order], 0)
    response_uv_PCT = 10 * responses(latent_PK, len(CHANNELS), 125, 250.0, 0)
    assert [p.picture for p in source.pictures()] == sorted(order)
    assert all(p.images()[0].tobytes() == _rgb(file) for p, file in zip(source.pictures(), files, strict=True))
    for ref in refs:
        recording = source.read(ref)
        expected = shown[shown["recording"] == ref.key]
        assert recording.events["sample"].tolist() == expected["sample"].tolist()
        assert recording.events["picture"].tolist() == expected["picture"].tolist()
        # The signal behind each event is that of its picture; EDF has 16 bit over 2 mV.
        eeg_uv_CT = recording.raw.get_data() * 1e6
        for row in recording.events.itertuples():
            np.testing.assert_allclose(
                eeg_uv_CT[:, row.sample : row.sample + 125], response_uv_PCT[order.index(row.picture)], atol=0.1
            )


def _rgb(path: Path) -> bytes:
    from PIL import Image

    return Image.open(path).convert("RGB").tobytes()


def test_facts_come_from_the_description(tmp_path: Path) -> None:
    shown = write_bids(tmp_path)
    source = opened(tmp_path)
    assert source.fact.model_dump() == {
        "name": "bids:Pictures",
        "licence": "CC0",
        "citation": "Cite the paper.; 10.18112/openneuro.ds999999.v1.0.0",
        "design": "event",
        "truth": "picture",
    }
    facts = {(p.picture, p.concept, p.partition) for p in source.pictures()}
    assert facts == set(shown[["picture", "concept", "partition"]].itertuples(index=False, name=None))
    source.recordings()
    # 28 pictures, a key press after every fifth.
    assert source.findings[0] == f"{KEY}: 6 of 34 events name no picture in column 'stim_file' (6 response)."
    assert len(source.findings) == 4
    raw = source.read(source.recordings()[0]).raw
    assert (tuple(raw.ch_names), raw.info["sfreq"]) == (CHANNELS, 250.0)


@pytest.mark.parametrize(
    ("name", "n_chans", "sfreq_hz"),
    [
        ("edf/test.edf", 138, 512.0),
        ("bdf/test.bdf", 72, 2048.0),
        ("brainvision/test.vhdr", 26, 1000.0),
        ("eeglab/sub-S1_ses-01_task-Experiment_run-01_eeg.set", 15, 256.0),
    ],
)
def test_real_containers_are_read(shared: Path, tmp_path: Path, name: str, n_chans: int, sfreq_hz: float) -> None:
    origin = shared / "data" / "formats" / name
    (tmp_path / "dataset_description.json").write_text("{}")
    key = "sub-S1_ses-01_task-view_run-01"
    folder = tmp_path / "sub-S1" / "ses-01" / "eeg"
    folder.mkdir(parents=True)
    # The header of a BrainVision file names the two others.
    for path in origin.parent.glob(f"{origin.stem}.*"):
        shutil.copyfile(path, folder / (f"{key}_eeg{origin.suffix}" if path == origin else path.name))
    draw(["cat", "dog"], [tmp_path / "stimuli/cat.png", tmp_path / "stimuli/dog.png"], 0)
    onsets_s = [0.25, 0.6]
    events = pd.DataFrame({"onset": onsets_s, "duration": 0.1, "stim_file": ["cat.png", "dog.png"]})
    events.to_csv(folder / f"{key}_events.tsv", sep="\t", index=False)
    (recording,) = read_all(tmp_path)
    assert recording.events["sample"].tolist() == [round(onset * sfreq_hz) for onset in onsets_s]
    assert recording.events["picture"].tolist() == ["cat.png", "dog.png"]
    assert len(mne.pick_types(recording.raw.info, eeg=True, exclude=())) == n_chans
    original = mne.io.read_raw(origin, preload=True, verbose="ERROR")
    np.testing.assert_array_equal(recording.raw.get_data("eeg"), original.get_data("eeg"))


def test_without_acknowledgement_authors_and_name_are_cited(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "dataset_description.json").write_text(
        json.dumps({"Name": "N", "Authors": ["A", "B"], "ReferencesAndLinks": ["link"]})
    )
    fact = opened(tmp_path).fact
    assert (fact.citation, fact.licence) == ("A, B; N; link", "not stated in dataset_description.json")


def test_things_eeg1_counts_milliseconds_and_has_validation_pictures(tmp_path: Path) -> None:
    shown = write_things_eeg1(tmp_path)
    source = opened(tmp_path)
    assert source.fact.name == "things_eeg1"
    assert (source.fact.licence, source.fact.design, source.fact.truth) == ("CC0", "rapid", "picture")
    assert "Grootswagers" in source.fact.citation
    assert "ds003825" in source.fact.citation
    refs = source.recordings()
    assert [(ref.key, ref.subject, ref.session) for ref in refs] == [
        ("sub-01_task-rsvp", "01", "01"),
        ("sub-02_task-rsvp", "02", "01"),
    ]
    for ref in refs:
        recording = source.read(ref)
        expected = shown[shown["recording"] == ref.key]
        assert recording.events["sample"].tolist() == expected["sample"].tolist()
        assert recording.events["picture"].tolist() == expected["picture"].tolist()
        assert (tuple(recording.raw.ch_names), recording.raw.info["sfreq"]) == (THINGS_CHANNELS, 1000.0)
    facts = {(p.picture, p.concept, p.partition) for p in source.pictures()}
    assert facts == set(shown[["picture", "concept", "partition"]].itertuples(index=False, name=None))
    assert source.findings == [
        "sub-01: participants.tsv says to exclude this person; it is read. Name the others in data.source.subjects."
    ]
    assert [ref.subject for ref in opened(tmp_path, subjects=("02",)).recordings()] == ["02"]
    # No trial of the badger is taken for a bad stretch.
    trials = cut(source.read(refs[1]), Epochs(tmin_s=-0.05, tmax_s=0.1, sfreq_hz=1000.0))
    assert len(trials.table) == 10
    assert trials.dropped == []


def test_trial_types_that_begin_with_bad_are_no_bad_stretches(tmp_path: Path) -> None:
    small(tmp_path)
    edit(tmp_path, 2, "trial_type", "badminton")
    edit(tmp_path, 4, "trial_type", "BAD_motion")
    (recording,) = read_all(tmp_path)
    assert list(recording.raw.annotations.description) == ["BAD_motion"]
    assert len(cut(recording, Epochs(tmin_s=-0.1, tmax_s=0.2, sfreq_hz=250.0)).dropped) == 1


@pytest.mark.parametrize(("unit", "factor"), [("s", 1 / 250), ("ms", 4.0), ("sample", 1.0)])
def test_onsets_count_in_the_unit_that_is_configured(tmp_path: Path, unit: str, factor: float) -> None:
    shown = small(tmp_path)
    events = pd.read_csv(table(tmp_path), sep="\t", encoding="utf-8-sig", keep_default_na=False)
    events["onset"] = np.rint(events["onset"] * 250) * factor
    events.to_csv(table(tmp_path), sep="\t", index=False)
    (recording,) = read_all(tmp_path, onset_unit=unit)
    assert recording.events["sample"].tolist() == shown["sample"].tolist()


def test_columns_are_chosen_and_ids_are_found_by_stem(tmp_path: Path) -> None:
    small(tmp_path)
    events = pd.read_csv(table(tmp_path), sep="\t", encoding="utf-8-sig", keep_default_na=False)
    events["image"] = [Path(name).stem if name != "n/a" else "" for name in events["stim_file"]]
    events["kind"] = [name[:4] for name in events["trial_type"]]
    events = events.drop(columns=["stim_file", "partition"])
    events.to_csv(table(tmp_path), sep="\t", index=False)
    source = opened(tmp_path, picture_column="image", concept_column="kind")
    assert {(p.picture, p.concept, p.partition) for p in source.pictures()} == {
        (f"{c}{k}/{c}{k}_0.png", c[:4], "any") for c in ("train", "test") for k in range(2)
    }
    shutil.copyfile(tmp_path / "stimuli/test0/test0_0.png", tmp_path / "stimuli/test0_0.png")
    with pytest.raises(PictureError, match=r"picture 'test0_0' must be one file, stimuli/ has \['stimuli/test0/"):
        opened(tmp_path, picture_column="image").recordings()


@pytest.mark.parametrize(
    ("row", "column", "value", "error", "words"),
    [
        (4, "onset", 99.0, EventsError, r"row 4: onset must lie in .*_eeg.edf .* got 99 s .* data.source.onset_unit"),
        (4, "onset", -1.0, EventsError, "row 4: onset must be a number from 0 on, got '-1.0'"),
        (4, "onset", "n/a", EventsError, "row 4: onset must be a number"),
        (4, "stim_file", "cat/gone.png", PictureError, "row 4: picture 'cat/gone.png' does not exist"),
        (4, "stim_file", "../secret.png", PictureError, "row 4: picture must name a file of the dataset"),
        (4, "stim_file", "C:\\secret.png", PictureError, "row 4: picture must name a file of the dataset"),
        (4, "partition", "dev", EventsError, "row 4: partition must be train, val, test or any, got 'dev'"),
        (4, "partition", "val", EventsError, "must have one concept and one partition"),
    ],
)
def test_impossible_rows_are_named(
    tmp_path: Path, row: int, column: str, value: object, error: type[SourceError], words: str
) -> None:
    small(tmp_path)
    edit(tmp_path, row, column, value)
    with pytest.raises(error, match=f"{table(tmp_path).name} .*{words}"):
        read_all(tmp_path)


def test_two_pictures_at_one_sample_are_refused(tmp_path: Path) -> None:
    small(tmp_path)
    events = pd.read_csv(table(tmp_path), sep="\t", encoding="utf-8-sig")
    rows = events.index[events["stim_file"].notna()]
    edit(tmp_path, int(rows[2]) + 2, "onset", events["onset"][rows[1]])
    with pytest.raises(DuplicateError, match=rf"row {rows[2] + 2}: a trial is known by its recording and onset"):
        read_all(tmp_path)


def test_missing_tables_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"has no dataset_description.json"):
        opened(tmp_path)
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(RecordingError, match=r"dataset_description.json: must be a JSON file"):
        opened(tmp_path)
    (tmp_path / "dataset_description.json").write_text("{}")
    with pytest.raises(RecordingError, match=r"needs recordings .* found none"):
        opened(tmp_path).recordings()
    small(tmp_path)
    with pytest.raises(RecordingError, match=r"found no subject \['07'\], only \['01'\]"):
        opened(tmp_path, subjects=("07",)).recordings()
    with pytest.raises(EventsError, match=r"needs the column 'image', has \['onset', .*picture_column"):
        opened(tmp_path, picture_column="image").recordings()
    with pytest.raises(RecordingError, match="recordings of task 'rest'"):
        opened(tmp_path, task="rest").recordings()
    table(tmp_path).unlink()
    with pytest.raises(EventsError, match=f"needs an events table, {KEY}_events.tsv"):
        opened(tmp_path).recordings()


def test_cut_recordings_and_wrong_rates_are_refused(tmp_path: Path) -> None:
    small(tmp_path)
    edf = next(tmp_path.glob("sub-01/*/eeg/*.edf"))
    whole = edf.read_bytes()
    for kept in (0.1, 0.7):
        edf.write_bytes(whole[: int(kept * len(whole))])
        with pytest.raises(RecordingError, match=f"{edf.name}.*truncated"):
            read_all(tmp_path)
    edf.write_bytes(b"")
    with pytest.raises(RecordingError, match=f"{edf.name}: is empty"):
        read_all(tmp_path)
    edf.write_bytes(whole)
    sidecar = edf.with_suffix(".json")
    sidecar.write_text(json.dumps({"TaskName": "view", "SamplingFrequency": 500}))
    with pytest.raises(RecordingError, match=f"must be the SamplingFrequency of {sidecar.name}, got 250 Hz and 500 Hz"):
        read_all(tmp_path)


def test_cut_brainvision_is_refused(tmp_path: Path) -> None:
    write_things_eeg1(tmp_path, subjects=("02",))
    data = next(tmp_path.glob("sub-02/eeg/*.eeg"))
    data.write_bytes(data.read_bytes()[:-5])
    with pytest.raises(RecordingError, match="truncated"):
        read_all(tmp_path)


def test_copies_are_found_by_content_and_runs_without_pictures_left_out(tmp_path: Path) -> None:
    write_bids(tmp_path, subjects=("01", "02"))
    first, second = (next(tmp_path.glob(f"sub-0{k}/*/eeg/*run-01_eeg.edf")) for k in (1, 2))
    shutil.copyfile(first, second)
    blank = next(tmp_path.glob("sub-02/*/eeg/*run-02_events.tsv"))
    blank.write_text("onset\tduration\tstim_file\n1.0\t0.1\tn/a\n")
    source = opened(tmp_path)
    assert [ref.key for ref in source.recordings()] == [KEY, KEY.replace("run-01", "run-02")]
    assert f"sub-02_ses-01_task-view_run-01: left out, byte-identical copy of {KEY}." in source.findings
    assert "sub-02_ses-01_task-view_run-02: left out, shows no picture." in source.findings
    again = list(source.findings)
    source.recordings()
    assert source.findings == again


def test_links_without_content_are_said(tmp_path: Path) -> None:
    write_bids(tmp_path, subjects=("01",))
    edf = next(tmp_path.glob("sub-01/*/eeg/*run-02_eeg.edf"))
    edf.unlink()
    edf.symlink_to("../../../.git/annex/objects/gone")
    source = opened(tmp_path)
    assert len(source.recordings()) == 1
    assert source.findings[0].startswith(f"1 recordings are links without content ({edf.name})")


def test_events_and_channels_are_inherited(tmp_path: Path) -> None:
    small(tmp_path)
    table(tmp_path).rename(tmp_path / "task-view_events.tsv")
    assert len(read_all(tmp_path)[0].events) == 8
    channels = next(tmp_path.glob("sub-01/*/eeg/*_channels.tsv"))
    frame = pd.read_csv(channels, sep="\t", encoding="utf-8-sig")
    frame.loc[0, "type"] = "EOG"
    frame.to_csv(channels, sep="\t", index=False)
    raw = read_all(tmp_path)[0].raw
    assert mne.pick_types(raw.info, eeg=True, eog=False).tolist() == list(range(1, 8))


def test_an_edf_of_another_writer_keeps_its_annotations_out(tmp_path: Path) -> None:
    shown = small(tmp_path)
    edf = next(tmp_path.glob("sub-01/*/eeg/*.edf"))
    eeg_uv_CT = np.random.default_rng(0).normal(0, 10, (8, 250 * 20))
    write_edf(edf, eeg_uv_CT, CHANNELS, 250.0, mne.Annotations([0.5, 3.0], [0.0, 0.0], ["bad luck", "cat"]))
    (recording,) = read_all(tmp_path)
    assert recording.events["picture"].tolist() == shown["picture"].tolist()
    assert len(recording.raw.annotations) == 0
