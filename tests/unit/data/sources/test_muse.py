import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eegdecode.config import MuseData
from eegdecode.data.sources import EventsError, PictureError, RecordingError, SourceError, open_source
from eegdecode.data.sources.muse import SFREQ_HZ, MuseSource, draw_grating

N_SAMPLES = 6000


def frame(seed: int = 0, n_markers: int = 24, task: str = "n170") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    eeg = np.round(rng.normal(0, 20, (N_SAMPLES, 5)), 3)
    columns = ["TP9", "AF7", "AF8", "TP10", "Right AUX"]
    table = pd.DataFrame(eeg, columns=columns)
    # Time stamps that run backwards must not matter.
    table.insert(0, "timestamps", rng.permutation(N_SAMPLES) / SFREQ_HZ)
    marker = np.zeros(N_SAMPLES)
    at = 100 + 200 * np.arange(n_markers)
    marker[at] = 1 + np.arange(n_markers) % 2
    table["Marker0"] = marker
    if task == "gratings":
        table.loc[at + 90, "Marker0"] = marker[at] + 2
        table["Marker1"] = (table["Marker0"] > 0).astype(float)
        table["Marker2"] = 0.0
        table.loc[at, "Marker2"] = 45.0 * (np.arange(n_markers) % 4)
    return table


def write(root: Path, key: str, table: pd.DataFrame, task: str = "n170", mtime: int = 0) -> Path:
    path = root / "muse" / task / f"{key}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(table.to_csv(index=False).encode(), mtime=mtime))
    return path


def source(root: Path, task: str = "n170") -> MuseSource:
    return MuseSource(MuseData(task=task), str(root))  # type: ignore[arg-type]


def test_real_n170_has_fourteen_usable_runs_found_by_content(shared: Path) -> None:
    n170 = open_source(MuseData(task="n170"), str(shared / "data"))
    refs = n170.recordings()
    assert len(refs) == 14
    assert {ref.subject for ref in refs} == {"sub-01", "sub-02", "sub-03", "sub-10", "sub-11"}
    shown = {ref.key: Counter(n170.read(ref).events["picture"]) for ref in refs}
    assert sum(shown.values(), Counter()) == {"house": 1308, "face": 1269}
    assert sum(shown["sub-10_ses-01_run-02"].values()) == 28
    left_out = {line.split(":")[0]: line for line in n170.findings}
    assert sorted(left_out) == [
        "sub-03_ses-02_run-02",
        "sub-03_ses-03_run-02",
        "sub-10_ses-01_run-01",
        "sub-10_ses-02_run-01",
        "sub-10_ses-03_run-01",
    ]
    assert "byte-identical copy of sub-03_ses-01_run-02" in left_out["sub-03_ses-02_run-02"]
    assert "TP9 is at the rail in 24% of the samples" in left_out["sub-03_ses-03_run-02"]
    assert all("nearly empty: 1 markers" in left_out[f"sub-10_ses-0{k}_run-01"] for k in (1, 2, 3))
    assert n170.fact.truth == "class"
    pictures = n170.pictures()
    assert [(p.picture, p.concept, p.partition, len(p.images())) for p in pictures] == [
        ("face", "face", "any", 12),
        ("house", "house", "any", 12),
    ]
    assert {image.size for p in pictures for image in p.images()} == {(400, 400)}


def test_real_gratings_are_eight_balanced_pictures_in_one_order(shared: Path) -> None:
    gratings = open_source(MuseData(task="gratings"), str(shared / "data"))
    runs = [gratings.read(ref) for ref in gratings.recordings()]
    assert [run.raw.ch_names for run in runs] == [["TP9", "AF7", "AF8", "TP10", "POz"]] * 3
    orders = [run.events["picture"].tolist() for run in runs]
    assert orders[0] == orders[1] == orders[2]
    pictures = gratings.pictures()
    assert Counter(orders[0]) == {p.picture: 10 for p in pictures}
    assert [p.picture for p in pictures][::4] == ["sf0.1_ori000", "sf4.1_ori000"]
    assert gratings.findings == []
    assert gratings.fact.truth == "picture"


def test_rows_are_the_clock_and_values_are_volt(tmp_path: Path) -> None:
    table = frame()
    write(tmp_path, "sub-01_ses-01_run-01", table)
    muse = source(tmp_path)
    run = muse.read(muse.recordings()[0])
    assert run.raw.info["sfreq"] == SFREQ_HZ
    assert run.raw.ch_names == ["TP9", "AF7", "AF8", "TP10"]
    np.testing.assert_allclose(run.raw.get_data(), table[run.raw.ch_names].to_numpy().T * 1e-6, rtol=1e-12)
    assert run.events["sample"].tolist() == (100 + 200 * np.arange(24)).tolist()
    assert run.events["picture"].tolist() == ["house", "face"] * 12


def test_offsets_of_gratings_are_no_events(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "stimuli").mkdir()
    (tmp_path / "stimuli" / "gratings.json").write_bytes((shared / "data/stimuli/gratings.json").read_bytes())
    write(tmp_path, "sub-01_ses-01_run-01", frame(task="gratings"), "gratings")
    muse = source(tmp_path, "gratings")
    ref = muse.recordings()[0]
    shown = muse.read(ref).events["picture"].tolist()
    assert shown[:4] == ["sf0.1_ori000", "sf4.1_ori045", "sf0.1_ori090", "sf4.1_ori135"]
    assert len(shown) == 24
    odd = frame(task="gratings")
    odd.loc[100, "Marker2"] = 30.0
    write(tmp_path, "sub-01_ses-01_run-01", odd, "gratings")
    with pytest.raises(EventsError, match=r"sample 100 must be those of a condition .* got \(1, 30\)"):
        muse.read(ref)


def test_copies_and_unusable_runs_are_found_without_a_list(tmp_path: Path) -> None:
    write(tmp_path, "sub-01_ses-01_run-01", frame(1))
    write(tmp_path, "sub-02_ses-01_run-01", frame(1), mtime=7)  # other gzip bytes, same content
    write(tmp_path, "sub-02_ses-01_run-02", frame(2, n_markers=19))
    rails = frame(3)
    rails.loc[: N_SAMPLES // 50, "AF7"] = 999.512
    write(tmp_path, "sub-02_ses-01_run-03", rails)
    muse = source(tmp_path)
    assert [ref.key for ref in muse.recordings()] == ["sub-01_ses-01_run-01"]
    assert [line.split(" (")[0] for line in muse.findings] == [
        "sub-02_ses-01_run-01: left out, byte-identical copy of sub-01_ses-01_run-01",
        "sub-02_ses-01_run-02: left out, nearly empty: 19 markers",
        "sub-02_ses-01_run-03: left out, saturated: AF7 is at the rail in 2% of the samples",
    ]
    again = list(muse.findings)
    muse.recordings()
    assert muse.findings == again


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "unreadable or truncated gzip"),
        (lambda path: path.write_bytes(b"no gzip"), "unreadable or truncated gzip"),
        (lambda path: path.write_bytes(gzip.compress(b"")), "is empty"),
        (lambda path: path.write_bytes(gzip.compress(b"TP9,AF7,AF8,TP10,Marker0\n")), "has no samples"),
        (lambda path: path.write_bytes(gzip.compress(b"TP9,AF7,AF8\n1,2,3\n")), "columns .*TP10"),
        (lambda path: path.write_bytes(gzip.compress(b"TP9,AF7,AF8,TP10,Marker0\n1,2,3,x,0\n")), "numeric columns"),
        (lambda path: path.write_bytes(gzip.compress(b"TP9,AF7,AF8,TP10,Marker0\n1,2,3\n")), "Marker0 is empty"),
        (lambda path: path.rename(path.with_name("first.csv.gz")), "must be named sub-"),
    ],
)
def test_bad_files_are_one_error_that_names_them(tmp_path: Path, spoil: object, words: str) -> None:
    spoil(write(tmp_path, "sub-01_ses-01_run-01", frame()))  # type: ignore[operator]
    with pytest.raises(RecordingError, match=words):
        source(tmp_path).recordings()


def test_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"needs muse/n170/\*.csv.gz"):
        source(tmp_path).recordings()
    with pytest.raises(SourceError, match="no folder"):
        open_source(MuseData(task="n170"), str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match=r"compute.data_uri must name a local folder"):
        open_source(MuseData(task="n170"), "")
    with pytest.raises(SourceError, match=r"local folder .* got 's3://bucket/data'"):
        open_source(MuseData(task="n170"), "s3://bucket/data")
    with pytest.raises(PictureError, match="needs photographs"):
        source(tmp_path).pictures()[0].images()
    with pytest.raises(PictureError, match=r"gratings.json: must describe"):
        source(tmp_path, "gratings").pictures()


def test_gratings_are_drawn_as_described() -> None:
    coarse, fine = np.asarray(draw_grating(0.1, 0)), np.asarray(draw_grating(4.1, 0))
    assert coarse.shape == (224, 224, 3)
    # Vertical bars: all rows alike away from the fixation square; brightest in the middle, darkest 5 degrees out.
    np.testing.assert_array_equal(coarse[0], coarse[-1])
    assert coarse[0, 111, 0] >= 254
    assert coarse[0, 0, 0] <= 1
    # 4.1 cycles per degree over 10 degrees: 41 cycles, none of them aliased away.
    spectrum = np.abs(np.fft.rfft(fine[0, :, 0] - 127.5))
    assert spectrum.argmax() == 41
    np.testing.assert_array_equal(np.asarray(draw_grating(4.1, 90))[:, 0], fine[0])
    # 45 degrees is a slash: grey is constant from lower left to upper right.
    slash = np.asarray(draw_grating(0.1, 45))[:, :, 0].astype(int)
    assert np.ptp(np.diag(np.fliplr(slash))[:100]) <= 1
    assert np.ptp(np.diag(slash)[:100]) > 100
    assert tuple(coarse[112, 112]) == (255, 128, 128)
