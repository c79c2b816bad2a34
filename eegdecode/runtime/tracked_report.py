"""A report in MLflow: its scores, each with chance and interval, and its files, in the run of its training."""

import re
import tempfile
from pathlib import Path

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.evaluate import scaling
from eegdecode.evaluate.decisions import NAME
from eegdecode.evaluate.report import Report
from eegdecode.runtime import places, tracking

FILES = ("summary.json", "report.html", NAME, scaling.NAME)
NOT_IN_NAMES = r"\W+"
"""MLflow refuses brackets and commas in the name of a metric."""


def track_report(experiment: Experiment, report: Report) -> None:
    """Log a written report to the run `train <run id>`; with an empty tracking URI nothing is logged."""
    if not experiment.compute.tracking_uri:
        return
    tracker = _tracker(experiment)
    tracker.log_metrics(scalars(report), 0)
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            where = storage.join(places.report(experiment), file)
            if storage.exists(where):
                local = Path(folder) / file
                local.write_bytes(storage.read_bytes(where))
                tracker.log_artifact(local)
    tracker.finish("FINISHED")


def track_scaling(experiment: Experiment, found: scaling.Scaling) -> None:
    """Log the points of a curve to the same run, at the step that is their number of training concepts."""
    if not experiment.compute.tracking_uri:
        return
    tracker = _tracker(experiment)
    for point in found.points:
        low, high = point.score.ci95_top1
        values = (point.score.top1, point.score.chance_top1, low, high)
        ends = ("", "_chance", "_low", "_high")
        tracker.log_metrics({f"scaling_top1{end}": v for end, v in zip(ends, values, strict=True)}, point.n_concepts)
    tracker.finish("FINISHED")


def _tracker(experiment: Experiment) -> tracking.Tracker:
    name, tags = f"train {experiment.run_id}", {"run_id": experiment.run_id}
    uri = experiment.compute.tracking_uri
    return tracking.tracker(tracking.find_or_create_run(uri, "eegdecode", name, tags))


def scalars(report: Report) -> dict[str, float]:
    """Return the scores of a report by name, none without its chance level and interval."""
    found: dict[str, tuple[float, float, tuple[float, float]]] = {}
    if report.retrieval is not None:
        score = report.retrieval
        found["top1"] = (score.top1, score.chance_top1, score.ci95_top1)
        found["top5"] = (score.top5, score.chance_top5, score.ci95_top5)
    if report.contrast is not None:
        found["auc"] = (report.contrast.auc, report.contrast.chance, report.contrast.ci95)
    for name, baseline in (report.baselines[0].scores if report.baselines else {}).items():  # those of `contrast`
        found[f"auc_{re.sub(NOT_IN_NAMES, '_', name)}"] = (baseline.auc, baseline.chance, baseline.ci95)
    if report.classes is not None:
        found["accuracy"] = (report.classes.accuracy, report.classes.chance, report.classes.ci95)
    if report.calibration is not None and report.calibration.result is not None:
        error, sets = report.calibration.result.calibrated, report.calibration.result.coverage
        found["calibration_error"] = (error.ece, error.ece_if_calibrated, error.ci95)
        found["coverage"] = (sets.coverage, sets.chance, sets.ci95)
    if report.confounds is not None and report.confounds.result is not None:
        controls = report.confounds.result
        for name, control in (("mean_power", controls.mean_power), ("time_locked", controls.time_locked)):
            if control is not None:
                found[f"confound_{name}"] = (control.accuracy, control.chance, control.ci95)
    return {
        f"test_{name}{end}": value
        for name, (score, chance, (low, high)) in found.items()
        for end, value in (("", score), ("_chance", chance), ("_low", low), ("_high", high))
    }
