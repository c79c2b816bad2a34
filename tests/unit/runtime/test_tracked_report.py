"""What MLflow is told of a report: no score without its chance level and interval."""

import numpy as np

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol
from eegdecode.evaluate.report import DataFact, Report
from eegdecode.evaluate.retrieval import retrieval_report
from eegdecode.runtime.tracked_report import scalars


def test_scores_are_logged_with_chance_and_interval() -> None:
    names = [f"p{i}" for i in range(8)]
    scores_QG = np.eye(8)
    scores_QG[:2] = scores_QG[1::-1]
    score = retrieval_report(scores_QG, names, names, ["s1"] * 8, names, n_permutations=20, seed=0)
    source = SourceFact(name="synthetic", licence="none", citation="none", design="rapid", truth="picture")
    target = TargetFact(tower="gabor", layer="energies", revision="1", preprocessing="none", dim=8)
    data = DataFact(
        source=source, target=target, channels=("E1",), sfreq_hz=100.0, tmin_s=0.0, n_times=5, n_trials=8, n_pictures=8
    )
    report = Report(
        recipe="demo", run_id="demo-1", manifest_digest="ab", protocol=Protocol(), data=data, command="", date=""
    )
    assert scalars(report) == {}
    told = scalars(report.with_section(retrieval=score))
    assert (told["test_top1"], told["test_top1_chance"]) == (0.75, 0.125)
    assert (told["test_top1_low"], told["test_top1_high"]) == score.ci95_top1
    assert told["test_top5_chance"] == 0.625
    assert len(told) == 8
