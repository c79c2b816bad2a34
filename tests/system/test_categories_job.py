"""Real recordings of two categories on a real cluster: two recipes prepared, trained, scored and compared."""

import json
from pathlib import Path

import pytest

from eegdecode.evaluate.contrast import ContrastScore
from eegdecode.evaluate.report import load_report
from eegdecode.recipes import RECIPES
from eegdecode.runtime import cluster
from eegdecode.runtime.category_baselines import LDA
from tests.system.driver import run_python, run_stages

pytestmark = pytest.mark.ray

STAGES = """
from eegdecode.runtime.evaluate import evaluate
from eegdecode.runtime.prepare import prepare
from eegdecode.runtime.train import train

for experiment in experiments:
    for stage in (prepare, train, evaluate):
        stage(experiment)
"""


def test_two_decoders_of_gratings_beside_classifiers_and_one_another(
    ray_cluster: cluster.ClusterAddress, shared: Path, tmp_path: Path
) -> None:
    runs = {name: tmp_path / name for name in ("muse_gratings", "muse_gratings_riemann_samples")}
    experiments = [
        RECIPES[name]().override(
            {
                "targets.tower": "gabor",
                # Labels permuted by position would be 200 trainings of every fold.
                "protocol.permute": "trials",
                "protocol.permutations": 99,
                "drawer.steps": 10,
                "drawer.px": 16,
                "drawer.space": "pixels",
                "compute.data_uri": str(shared / "data"),
                "compute.runs_uri": str(where),
                "compute.workers": 1,
            }
        )
        for name, where in runs.items()
    ]
    run_stages(ray_cluster, STAGES, *experiments)
    scores = {name: contrast_of(where) for name, where in runs.items()}
    linear, samples = (score.auc for score in scores.values())
    # Known of these recordings: LDA as their README has it, and covariances with samples above it.
    assert {round(score.baseline_auc or 0, 3) for score in scores.values()} == {0.959}
    assert linear > 0.9
    assert samples == pytest.approx(0.979, abs=0.002)
    for score in scores.values():
        assert score.control_auc == pytest.approx(0.5, abs=0.1)
        assert score.p_permutation == pytest.approx(0.01)

    run_python("jobs/compare.py", *map(str, runs.values()), "--out", str(tmp_path / "compared"))
    compared = json.loads((tmp_path / "compared" / "compare.json").read_text())
    (division,) = compared["divisions"]
    assert {name: score["auc"] for name, score in division["contrasts"].items()} == {
        name: score.auc for name, score in scores.items()
    }
    (paired,) = division["auc"]
    assert (paired["unit"], paired["n_pairs"]) == ("runs", 3)
    assert abs(paired["mean_difference"]) == pytest.approx(abs(samples - linear))


def contrast_of(where: Path) -> ContrastScore:
    report = load_report(str(where))
    assert report.contrast is not None
    assert not report.more_contrasts
    (baselines,) = report.baselines
    assert baselines.scores[LDA].auc == report.contrast.baseline_auc
    return report.contrast
