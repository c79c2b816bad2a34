"""Preparing on a real cluster: killed and resumed, prepared again after files changed, normalised, and surveyed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from eegdecode import storage
from eegdecode.batch import TargetManifest
from eegdecode.config import Experiment
from eegdecode.data.epochs import cut
from eegdecode.data.shardset import read_manifest, read_signed
from eegdecode.data.sources import open_source
from eegdecode.data.whiten import fit_mvnn
from eegdecode.recipes import RECIPES
from eegdecode.runtime import cluster, places
from tests.writers import things_eeg2 as writers

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray

JOB = """
import sys
from eegdecode.config import Experiment
from eegdecode.runtime import cluster
from eegdecode.runtime.prepare import prepare

cluster.connect(sys.argv[1])
prepare(Experiment.model_validate_json(sys.argv[2]))
"""


def experiment(data: Path, runs: Path, **changes: object) -> Experiment:
    """Small THINGS-EEG2 recordings, cut at 50 Hz."""
    plain: dict[str, object] = {
        "data.source": {"kind": "things_eeg2"},
        "data.epochs.tmin_s": -0.05,
        "data.epochs.tmax_s": 0.3,
        "data.epochs.crop_s": None,
        "data.epochs.reject_uv": None,
        "data.trials_per_shard": 20,
        "protocol.n_val": 2,
        "compute.workers": 1,
        "compute.data_uri": str(data),
        "compute.runs_uri": str(runs),
    }
    return RECIPES["demo"]().override(plain | {name.replace("__", "."): value for name, value in changes.items()})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    writers.write_raw(folder, subjects=("01", "02"))
    return folder


def start(address: str, made: Experiment) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, address, made.model_dump_json()]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def prepared(address: str, made: Experiment) -> str:
    job = start(address, made)
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    return out


def both(address: str, made: Experiment) -> list[str]:
    """Two jobs at once, with one place to publish at."""
    jobs = [start(address, made) for _ in range(2)]
    outs = [job.communicate(timeout=400)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], "\n".join(outs)
    return outs


def content(uri: str) -> dict[str, bytes]:
    """Every file by name; `parts` may be left by the slower of two jobs and is no part of a set."""
    return {path.name: path.read_bytes() for path in Path(uri).iterdir() if path.is_file()}


def test_a_killed_job_and_two_at_once_publish_the_same_bytes(
    ray_cluster: cluster.ClusterAddress, recordings: Path, tmp_path: Path
) -> None:
    whole = experiment(recordings, tmp_path / "whole")
    both(ray_cluster.address, whole)
    broken = experiment(recordings, tmp_path / "broken")
    parts = Path(places.shards(broken)) / "parts"
    job = start(ray_cluster.address, broken)
    deadline = time.monotonic() + 200
    while not (done := list(parts.glob("*/sub-*.json"))) and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.005)
    os.kill(job.pid, signal.SIGKILL)
    job.wait(30)
    assert done
    assert not (Path(places.shards(broken)) / "manifest.json").exists()
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("*/sub-*.json")}
    cut_before = {path.name: path.stat().st_mtime_ns for path in Path(places.shards(broken)).glob("trials-*.tar")}

    out = prepared(ray_cluster.address, broken)
    assert "prepare: cut and pack" in out
    want, got = (content(places.shards(each)) for each in (whole, broken))
    assert sorted(got) == sorted(want)
    assert got == want, [name for name in got if got[name] != want[name]]
    kept = {name.removesuffix(".json") for name in finished}
    for name, written in cut_before.items():
        if any(name.startswith(f"trials-{key}-") for key in kept):
            assert (Path(places.shards(broken)) / name).stat().st_mtime_ns == written, f"{name} was made again"
    for tower in ("gabor",):
        assert content(places.targets(whole, tower)) == content(places.targets(broken, tower))
    assert "trials are there already" in prepared(ray_cluster.address, broken)


def test_noise_normalisation_comes_from_training_trials_of_the_session(
    ray_cluster: cluster.ClusterAddress, recordings: Path, tmp_path: Path
) -> None:
    made = experiment(recordings, tmp_path, data__epochs__mvnn="epochs", data__epochs__clamp=4.0)
    prepared(ray_cluster.address, made)
    shards = places.open_set(made)
    assert shards.manifest.unit == "whitened"
    plain = made.data.epochs.model_copy(update={"mvnn": "none", "clamp": None})
    source = open_source(made.data.source, str(recordings))
    parts = {ref: cut(source.read(ref), plain) for ref in source.recordings()}  # type: ignore[arg-type]
    partition = {p.picture: p.partition for p in source.pictures()}
    for ref, trials in parts.items():
        of_session = [t for r, t in parts.items() if (r.subject, r.session) == (ref.subject, ref.session)]
        conditions = [
            t.eeg_uv_NCT[t.table["picture"] == picture]
            for t in of_session
            for picture in sorted(set(t.table["picture"]))
            if partition[picture] == "train"
        ]
        white_CC = fit_mvnn(conditions, "epochs")
        want_NCT = np.clip(white_CC @ trials.eeg_uv_NCT, -4, 4)
        rows = np.flatnonzero(shards.table["recording"] == ref.key)
        np.testing.assert_allclose(shards.gather(rows), want_NCT, rtol=2e-3, atol=2e-3)


def test_targets_that_were_made_are_not_made_again(
    ray_cluster: cluster.ClusterAddress, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash: one shard is finished and noted, the other and the manifest are not there."""
    from eegdecode.runtime import prepare, targets

    monkeypatch.setattr(prepare, "PICTURES_PER_SHARD", 30)
    made = experiment(recordings, tmp_path)
    cluster.connect(ray_cluster.address)
    try:
        manifest = prepare.prepare(made)
        uri = Path(places.targets(made, "gabor"))
        want = content(str(uri))
        assert len([name for name in want if name.endswith(".tar")]) == 2
        there = read_signed(str(uri), TargetManifest)
        facts = there.shards
        parts = uri / "parts" / targets.part_name(manifest, there.target)
        parts.mkdir(parents=True)
        (parts / "000000.json").write_text(facts[0].model_dump_json())
        for name in ("manifest.json", "targets-000001.tar", "targets-000001.index.npz"):
            (uri / name).unlink()
        written = (uri / "targets-000000.tar").stat().st_mtime_ns
        targets.embed(made)
    finally:
        ray.shutdown()
    assert content(str(uri)) == want
    assert (uri / "targets-000000.tar").stat().st_mtime_ns == written


def test_changed_files_are_prepared_again(ray_cluster: cluster.ClusterAddress, tmp_path: Path) -> None:
    data = tmp_path / "data"
    writers.write_raw(data, sessions=1)
    made = experiment(data, tmp_path / "runs", protocol__n_val=1)
    prepared(ray_cluster.address, made)
    first = read_manifest(places.shards(made))
    writers.write_raw(data, sessions=1, noise_uv=3.0)
    os.utime(next(data.rglob("raw_eeg_test.npy")), (1, 1))
    assert "files of the source changed" in prepared(ray_cluster.address, made)
    assert read_manifest(places.shards(made)).digest != first.digest


def test_the_quality_page_lies_beside_the_manifest(
    ray_cluster: cluster.ClusterAddress, recordings: Path, tmp_path: Path
) -> None:
    made = experiment(recordings, tmp_path)
    prepared(ray_cluster.address, made)
    page = storage.read_bytes(f"{places.shards(made)}/quality.html").decode()
    facts = json.loads(storage.read_bytes(f"{places.shards(made)}/quality.json"))
    manifest = read_manifest(places.shards(made))
    assert facts["n_trials"] == manifest.n_trials
    assert facts["n_pictures"] == len(set(places.open_set(made).table["picture"]))
    assert "data:image/png;base64," in page
    assert "<script" not in page


def test_dry_run_says_what_is_found_and_what_is_missing(recordings: Path, tmp_path: Path) -> None:
    made = experiment(recordings, tmp_path, targets__also={"text": "timm:no_such_model_here"})
    command = [sys.executable, "jobs/prepare.py", "--experiment", made.model_dump_json(), "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = done.stdout[done.stdout.index("source: ") :].splitlines()
    assert lines[0].startswith("source: things_eeg2 (rapid design")
    assert lines[1] == "found: 8 recordings of 2 subjects, 42 pictures of 18 concepts"
    assert any(line.startswith("first recording: sub-01_ses-01_") for line in lines)
    assert any("will write: about" in line and places.shards(made) in line for line in lines)
    assert next(line for line in lines if line.startswith("missing: ")).startswith(
        "missing: tower timm:no_such_model_here"
    )
    assert list(tmp_path.iterdir()) == []
