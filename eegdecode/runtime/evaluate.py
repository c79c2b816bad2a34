"""Bundles and test trials to scores and the first form of the report."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eegdecode import __version__, hub, storage
from eegdecode.batch import Fold
from eegdecode.config import Experiment, SyntheticData
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate import plots
from eegdecode.evaluate.category_decisions import CategoryDecisions, write_category_decisions
from eegdecode.evaluate.confusions import Confusion, top_confusions
from eegdecode.evaluate.decisions import Decisions, decisions, write_decisions
from eegdecode.evaluate.report import DataFact, FoldTraining, Report, SearchFact, write_report
from eegdecode.evaluate.retrieval import RetrievalScore, repetition_point
from eegdecode.evaluate.scaling import load_scaling
from eegdecode.recipes import command_line
from eegdecode.runtime import places
from eegdecode.runtime.categories import category_scores
from eegdecode.runtime.certainty import certainty
from eegdecode.runtime.confounds import confounds
from eegdecode.runtime.progress import Progress, say
from eegdecode.runtime.ranked import Ranked, answers_of, score_of
from eegdecode.runtime.tested import Tested, open_tested
from eegdecode.runtime.tracked_report import track_report
from eegdecode.runtime.train import fold_facts

PACKAGES = ("torch", "ray", "deepspeed", "mne", "diffusers")


def evaluate(experiment: Experiment) -> Report:
    """Score every fold's bundle on its test trials and write summary.json and report.html.

    Raises
    ------
    ValueError
        A bundle that was trained on another shard set than the one that is there.
    """
    shards = places.open_set(experiment)
    folds = shards.folds
    report = _facts(experiment, shards).with_section(confounds=confounds(experiment, shards))
    figures: dict[str, bytes] = {"training": plots.training_curves(_curves(experiment, folds), "validation mAP")}
    if experiment.protocol.split_by in ("concept", "picture", "subject_concept"):
        ranked = [fold for fold in folds if fold.by == experiment.protocol.split_by]
        tested = [open_tested(experiment, shards, fold) for fold in ranked]
        score, scores_QG, answers = _retrieval(experiment, shards, tested)
        write_decisions(places.report(experiment), answers)
        figures |= {"similarity": plots.similarity_matrix(scores_QG), "retrieval_bars": plots.retrieval_bars(score)}
        if score.repetition_curve:
            figures["repetition_curve"] = plots.repetition_curve(score)
        # A centre is no picture that could be shown.
        confusions = top_confusions(answers) if experiment.protocol.gallery == "picture" else ()
        if confusions:
            figures["confusions"] = plots.confusion_sheet(confusions, _images(shards, confusions))
        report = report.with_section(
            retrieval=score,
            confusions=confusions,
            scaling=load_scaling(places.report(experiment), experiment.run_id),
            **certainty(experiment, shards, tested),
        )
        if report.calibration is not None and report.calibration.result is not None:
            figures["reliability"] = plots.reliability(report.calibration.result)
    else:
        found = category_scores(experiment, shards)
        decided = tuple(score.decisions for score in found)
        write_category_decisions(
            places.report(experiment), CategoryDecisions(run_id=experiment.run_id, divisions=decided)
        )
        contrasts = [score.contrast for score in found if score.contrast is not None]
        report = report.with_section(
            contrast=contrasts[0] if contrasts else None,
            more_contrasts=tuple(contrasts[1:]),
            baselines=tuple(score.baselines for score in found if score.baselines is not None),
            classes=found[0].classes,
        )
        for name, contrast in zip(("contrast", "contrast_2", "contrast_3"), contrasts, strict=False):
            figures[name] = plots.fold_dots(contrast)
        figures["confusion"] = plots.confusion(found[0].classes)
    write_report(places.report(experiment), report, figures)
    track_report(experiment, report)
    for fold in folds:
        hub.write_card(places.bundle(experiment, fold.name), scores=_card_scores(report, fold.name))
    say(f"evaluate: {places.report(experiment)}/report.html")
    return report


def _retrieval(
    experiment: Experiment, shards: ShardSet, folds: Sequence[Tested]
) -> tuple[RetrievalScore, NDArray[np.float32], Decisions]:
    """Rank every fold's queries with its own bundle, and score them together; the gallery is the same in all folds."""
    protocol = experiment.protocol
    table = pd.concat([tested.table for tested in folds], ignore_index=True)
    eeg_uv_NCT = np.concatenate([tested.eeg_uv_NCT for tested in folds])
    ranked = [Ranked(experiment, shards, tested) for tested in folds]
    scores_QG, queries = answers_of(ranked, protocol.test_repetitions)
    score, n_way = score_of(scores_QG, queries, protocol), protocol.n_way
    # The ideal observer ranks the test pictures themselves.
    ideal = isinstance(experiment.data.source, SyntheticData) and not n_way and protocol.gallery == "picture"
    if ideal:
        best = _ideal(experiment, shards, eeg_uv_NCT, table, protocol.test_repetitions)
        score = score.with_(ideal_observer_top1=best.top1, ideal_observer_top5=best.top5)
    most = int(table.groupby(["subject", "picture"]).size().min())
    points = []
    counts = sorted({2**i for i in range(most.bit_length())} | {most})
    progress = Progress("evaluate: repetition curve", len(counts), "points")
    for k in counts:
        some_QG, some = answers_of(ranked, k)
        points.append(
            repetition_point(
                k,
                some_QG,
                some.gallery,
                some.shown_Q,
                some.subject_Q,
                some.concept_Q,
                seed=protocol.seed,
                ideal_observer_top1=_ideal(experiment, shards, eeg_uv_NCT, table, k).top1 if ideal else None,
                n_way=n_way,
            )
        )
        progress.add()
    progress.close()
    first = queries.subject_Q == queries.subject_Q[0]
    row = {label: i for i, label in enumerate(queries.gallery)}
    order = np.argsort([row[label] for label in queries.shown_Q[first]], kind="stable")
    answers = decisions(
        scores_QG,
        queries.gallery,
        queries.shown_Q,
        queries.subject_Q,
        queries.concept_Q,
        run_id=experiment.run_id,
        trial_N=table["key"].astype(str) + "|" + table["picture"].astype(str),
        n_way=n_way,
    )
    return score.with_(repetition_curve=tuple(points)), scores_QG[first][order], answers


def _ideal(
    experiment: Experiment, shards: ShardSet, eeg_uv_NCT: NDArray[np.float32], table: pd.DataFrame, repetitions: int
) -> Any:
    """Return what the best possible observer reaches on these very trials; it knows the simulator's parameters."""
    from eegdecode.data.sources.synthetic import open_synthetic
    from eegdecode.evaluate.ideal_observer import ideal_scores

    assert isinstance(experiment.data.source, SyntheticData)
    return ideal_scores(
        open_synthetic(experiment.data.source, experiment.compute.data_uri),
        experiment.data.epochs,
        eeg_uv_NCT,
        table,
        shards.manifest.channels,
        repetitions,
    )


def _images(shards: ShardSet, confusions: tuple[Confusion, ...]) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures that a sheet of confusions shows, by id."""
    row_of = {picture: row for row, picture in enumerate(shards.picture_ids)}
    names = sorted({name for one in confusions for name in (one.shown, *(other for other, _ in one.taken_for))})
    images = shards.picture_images([row_of[name] for name in names])
    return {name: np.asarray(image, np.uint8) for name, image in zip(names, images, strict=True)}


def _facts(experiment: Experiment, shards: ShardSet) -> Report:
    manifest = shards.manifest
    dropped: dict[str, int] = {}
    for trial in manifest.dropped:
        dropped[trial.reason] = dropped.get(trial.reason, 0) + 1
    training = []
    for fold in shards.folds:
        facts = fold_facts(experiment, fold.name)
        training.append(FoldTraining(**{key: value for key, value in facts.items() if key != "curve"}))
    return Report(
        recipe=experiment.recipe,
        run_id=experiment.run_id,
        manifest_digest=manifest.digest,
        protocol=experiment.protocol,
        command=f"python -m eegdecode.runtime.demo {command_line(experiment)}",
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        data=DataFact(
            source=manifest.source,
            target=shards.target.manifest.target,
            channels=manifest.channels,
            sfreq_hz=manifest.sfreq_hz,
            tmin_s=manifest.tmin_s,
            n_times=manifest.n_times,
            n_trials=manifest.n_trials,
            n_pictures=manifest.n_pictures,
            dropped=dropped,
            findings=manifest.findings,
        ),
        versions={"eegdecode": __version__} | {name: version(name) for name in PACKAGES},
        training=tuple(training),
        search=_search(experiment),
    )


def _card_scores(report: Report, fold: str) -> dict[str, tuple[float, float]]:
    """Return what the card of a fold's bundle says: scores of that very bundle, each with its chance."""
    scores: dict[str, tuple[float, float]] = {}
    if report.retrieval is not None:
        found = report.retrieval
        scores[f"top-1, {found.n_way}-way"] = (found.top1, found.chance_top1)
        scores[f"top-5, {found.n_way}-way"] = (found.top5, found.chance_top5)
    for contrast in (*((report.contrast,) if report.contrast else ()), *report.more_contrasts):
        if fold in contrast.per_fold:
            scores[f"ROC AUC, {' against '.join(contrast.labels)}"] = (contrast.per_fold[fold], contrast.chance)
    if report.classes is not None and fold in report.classes.per_fold:
        scores[f"accuracy, {report.classes.n_way} classes"] = (report.classes.per_fold[fold], report.classes.chance)
    return scores


def _commit() -> str | None:
    """Return the commit of the code that runs, if it lies in a checkout."""
    if shutil.which("git") is None:
        return None
    say_of = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    told = subprocess.run([*say_of, "--exclude=*"], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None


def _search(experiment: Experiment) -> SearchFact | None:
    where = places.search(experiment)
    if not storage.exists(where):
        return None
    found = json.loads(storage.read_bytes(where))
    return SearchFact(trials=found["trials"], best=found["best"], metric=found["metric"], table=tuple(found["table"]))


def _curves(experiment: Experiment, folds: tuple[Fold, ...]) -> list[plots.Curve]:
    curves = []
    for fold in folds:
        facts = fold_facts(experiment, fold.name)
        curves.append(plots.Curve(fold=fold.name, kept_step=facts["kept_step"], **facts["curve"]))
    return curves
