"""Three datasets in their own layouts go all the way on a real cluster: prepared, searched, trained, scored, drawn."""

import json
from pathlib import Path

import pytest

from eegdecode import bundle
from eegdecode.config import Experiment
from eegdecode.data.shardset import read_manifest
from eegdecode.evaluate.report import load_report
from eegdecode.recipes import RECIPES
from eegdecode.runtime import cluster, places
from tests.system.driver import run_stages
from tests.writers import bids, eegcvpr40, things_eeg2

pytestmark = pytest.mark.ray

# What the five jobs run, and the curve over training concepts.
STAGES = """
from eegdecode.runtime.evaluate import evaluate
from eegdecode.runtime.prepare import prepare
from eegdecode.runtime.reconstruct import reconstruct
from eegdecode.runtime.scaling import scaling
from eegdecode.runtime.search import search
from eegdecode.runtime.train import train

for experiment in experiments:
    for stage in (prepare, search, train, evaluate, reconstruct):
        stage(experiment)
    if experiment.protocol.split_by == "concept":
        scaling(experiment, (0.5, 1.0))
"""

SMALL: dict[str, object] = {
    "targets.tower": "gabor",
    "loss.contrastive_batch": 32,
    "schedule.steps": 20,
    "schedule.validate_every": 10,
    "schedule.save_every": 20,
    "schedule.warmup_steps": 2,
    "search.steps": 10,
    "search.temperature": (0.1,),
    "protocol.permutations": 99,
    "drawer.steps": 10,
    "drawer.batch": 8,
    "drawer.px": 16,
    "drawer.sampler_steps": 2,
    "drawer.space": "pixels",
    "compute.workers": 1,
}


def through_all_stages(
    here: cluster.ClusterAddress, recipe: str, data: Path, runs: Path, changes: dict[str, object]
) -> Experiment:
    experiment = RECIPES[recipe]().override(
        SMALL | changes | {"compute.data_uri": str(data), "compute.runs_uri": str(runs)}
    )
    run_stages(here, STAGES, experiment)
    return experiment


def test_things_eeg2_raw(ray_cluster: cluster.ClusterAddress, tmp_path: Path) -> None:
    things_eeg2.write_raw(tmp_path / "data", n_train_concepts=12, noise_uv=3.0)
    changes = {"data.epochs.tmin_s": -0.1, "data.epochs.tmax_s": 0.3, "data.epochs.crop_s": (0.0, 0.3)}
    experiment = through_all_stages(
        ray_cluster, "things_eeg2", tmp_path / "data", tmp_path / "runs", changes | {"protocol.n_val": 3}
    )
    manifest = read_manifest(places.shards(experiment))
    assert (manifest.source.design, manifest.unit) == ("rapid", "whitened")
    report = load_report(str(tmp_path / "runs"))
    assert report.retrieval is not None
    assert report.retrieval.n_way == 10
    low, high = report.retrieval.ci95_top1
    # A strong response to ten pictures: above chance even with twenty steps.
    assert report.retrieval.chance_top1 == pytest.approx(0.1)
    assert low <= report.retrieval.top1 <= high
    assert report.retrieval.top1 > 0.2
    assert report.scaling is not None
    half, whole = report.scaling.points
    assert (half.train_share, whole.score.top1) == (0.5, report.retrieval.top1)
    assert whole.n_concepts == 9
    assert half.n_concepts in (4, 5)
    assert half.run_id != whole.run_id == experiment.run_id
    assert "Score against training data" in (tmp_path / "runs" / "report.html").read_text()
    assert report.reconstruction is not None
    made = bundle.load(places.bundle(experiment, "concepts"))
    assert made.fact.channels == manifest.channels


def test_eegcvpr40_is_scored_on_its_own_test_pictures_and_called_a_block_design(
    ray_cluster: cluster.ClusterAddress, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    eegcvpr40.write_eegcvpr40(tmp_path / "data", n_classes=4, pictures_per_class=10, signal=2.0)
    experiment = through_all_stages(ray_cluster, "eegcvpr40", tmp_path / "data", tmp_path / "runs", {})
    manifest = read_manifest(places.shards(experiment))
    assert (manifest.source.design, manifest.unit, len(manifest.channels)) == ("block", "whitened", 128)
    assert manifest.findings
    shards = places.open_set(experiment)
    (fold,) = shards.folds
    assert (fold.by, len(fold.test), len(fold.val)) == ("picture", 4, 4)
    page = (tmp_path / "runs" / "report.html").read_text()
    assert "block" in page
    quality = (Path(places.shards(experiment)) / "quality.html").read_text()
    assert "Block design: pictures of one class were shown together" in quality


def test_bids(ray_cluster: cluster.ClusterAddress, tmp_path: Path) -> None:
    bids.write_bids(tmp_path / "data", n_train_concepts=10, n_test_concepts=6, noise_uv=3.0)
    experiment = through_all_stages(
        ray_cluster, "bids", tmp_path / "data", tmp_path / "runs", {"protocol.n_val": 2, "data.epochs.tmax_s": 0.4}
    )
    report = load_report(str(tmp_path / "runs"))
    assert report.retrieval is not None
    assert report.retrieval.chance_top1 == pytest.approx(1 / report.retrieval.n_way)
    assert json.loads((tmp_path / "runs" / "summary.json").read_text())["data"]["n_trials"] == len(
        places.open_set(experiment).table
    )
