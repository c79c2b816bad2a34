"""The main job, small: cluster, MLflow, the five jobs through Ray's job API, serving, the report. Nothing is faked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eegdecode import bundle
from eegdecode.evaluate.decisions import load_decisions
from eegdecode.evaluate.report import load_report

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.ray
SMALL = {
    "data.source.n_train_concepts": 24,
    "data.source.pictures_per_concept": 3,
    "data.source.n_test_concepts": 10,
    "data.source.test_repetitions": 6,
    "data.source.n_subjects": 1,
    "protocol.n_val": 4,
    "protocol.permutations": 99,
    "loss.contrastive_batch": 32,
    "schedule.steps": 40,
    "schedule.validate_every": 10,
    "search.steps": 20,
    "drawer.steps": 20,
    "drawer.batch": 8,
    "drawer.px": 16,
    "drawer.sampler_steps": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main") / "run"
    changes = [f"--set={name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "eegdecode.runtime.demo", *changes, f"--set=compute.runs_uri={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


def test_summary_holds_every_section_with_chance_and_interval(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    retrieval = summary["retrieval"]
    assert retrieval["n_way"] == 10
    assert retrieval["chance_top1"] == pytest.approx(0.1)
    low, high = retrieval["ci95_top1"]
    assert 0 <= low <= retrieval["top1"] <= high <= 1
    assert abs(retrieval["shuffled_top1"] - 0.1) < 0.05
    assert retrieval["ideal_observer_top1"] >= retrieval["top1"]
    assert [point["repetitions"] for point in retrieval["repetition_curve"]] == [1, 2, 4, 6]
    assert "validation has 12 queries over 4 concepts" in summary["calibration"]["reason"]
    (ceiling,) = summary["ceiling"]["per_subject"].values()
    assert (ceiling["n_conditions"], ceiling["n_repetitions"]) == (10, 6)
    assert ceiling["lower"] < ceiling["upper"]  # ten pictures say too little for more
    assert summary["search"]["trials"] == 4
    assert {"schedule.lr", "loss.temperature"} <= summary["search"]["best"].keys()
    assert {"two_way", "two_way_random", "two_way_oracle", "pixcorr", "ssim"} <= summary["reconstruction"].keys()
    stages = {"start", "prepare", "search", "train", "evaluate", "reconstruct", "serve"}
    assert stages <= summary["seconds"].keys()


def test_decisions_beside_the_summary_are_its_own(folder: Path) -> None:
    retrieval, answers = load_report(str(folder)).retrieval, load_decisions(str(folder))
    assert retrieval is not None
    assert len(set(answers.picture)) == len(answers.picture) == 10
    assert all((n == p) == (hit == 1) for n, p, hit in zip(answers.named, answers.picture, answers.top1, strict=True))
    assert np.mean(answers.top1) == pytest.approx(retrieval.top1)


def test_served_pictures_are_the_batch_jobs(folder: Path) -> None:
    serving = load_report(str(folder)).serving
    assert serving is not None
    assert serving.requests > 0
    assert serving.errors == 0
    assert serving.equal_to_batch_job is True


def test_the_bundle_that_make_serve_takes_is_there(folder: Path) -> None:
    made = bundle.load(str(folder / "bundle"))
    report = load_report(str(folder))
    assert made.fact.manifest_digest == report.manifest_digest
    assert report.retrieval is not None
    assert f"top-1, 10-way: {report.retrieval.top1:.4g}, chance 0.1" in (folder / "bundle" / "README.md").read_text()


def test_report_is_one_file_that_needs_nothing_else(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert 'src="http' not in page


def test_bundle_carries_the_configuration_that_the_search_chose(folder: Path) -> None:
    (uri,) = folder.glob("demo-*/bundles/concepts")
    made = bundle.load(str(uri))
    best = json.loads((folder / "search.json").read_text())["best_per_fold"]["concepts"]
    assert made.experiment.schedule.lr == best["schedule.lr"]
    assert made.fact.fold.val
    assert set(made.gallery.concepts) == set(made.fact.fold.test)
    assert made.fact.val_score is not None


def test_mlflow_kept_a_parent_and_a_child_for_every_configuration(folder: Path) -> None:
    import sqlite3

    rows = sqlite3.connect(folder / "mlflow" / "mlflow.db").execute(
        "select run_uuid, value from tags where key = 'mlflow.parentRunId'"
    )
    parents = [parent for _, parent in rows]
    counts = np.unique(parents, return_counts=True)[1]
    assert sorted(counts) == [2, 4]  # training: fold and drawer; search: four points


def test_mlflow_has_the_scores_and_the_report_in_the_run_of_the_training(folder: Path) -> None:
    import sqlite3

    retrieval = load_report(str(folder)).retrieval
    assert retrieval is not None
    database = sqlite3.connect(folder / "mlflow" / "mlflow.db")
    kept = dict(database.execute("select key, value from latest_metrics where key like 'test_%'"))
    assert kept["test_top1"] == pytest.approx(retrieval.top1)
    assert kept["test_top1_chance"] == pytest.approx(0.1)
    assert (kept["test_top1_low"], kept["test_top1_high"]) == pytest.approx(retrieval.ci95_top1)
    (name,) = {path.parent.parent.name for path in (folder / "mlflow" / "artifacts").glob("*/*/artifacts/report.html")}
    runs = database.execute("select name from runs where run_uuid = ?", (name,))
    assert [row[0].split()[0] for row in runs] == ["train"]


def test_a_changed_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    (uri,) = folder.glob("demo-*/bundles/concepts")
    copy = tmp_path / "copy"
    shutil.copytree(uri, copy)
    data = bytearray((copy / "decoder.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "decoder.safetensors").write_bytes(data)
    with pytest.raises((ValueError, OSError), match=r"decoder\.safetensors"):
        bundle.load(str(copy))
    (copy / "bundle.json").unlink()
    with pytest.raises(ValueError, match=r"holds no bundle\.json"):
        bundle.load(str(copy))
