"""Bundles and test trials to scores and the first form of the report."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
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
from eegdecode.evaluate.confusions import Confusion, top_confusions
from eegdecode.evaluate.decisions import Decisions, decisions, write_decisions
from eegdecode.evaluate.report import DataFact, FoldTraining, Report, SearchFact, write_report
from eegdecode.evaluate.retrieval import (
    RetrievalScore,
    average_repetitions,
    centre_scores,
    repetition_point,
    retrieval_report,
    score_matrix,
)
from eegdecode.recipes import command_line
from eegdecode.runtime import places
from eegdecode.runtime.categories import category_scores
from eegdecode.runtime.certainty import certainty
from eegdecode.runtime.progress import Progress, say
from eegdecode.runtime.tested import Tested, open_tested
from eegdecode.runtime.tracked_report import track_report
from eegdecode.runtime.train import fold_facts
from eegdecode.train.fold import embedded_targets

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
    report = _facts(experiment, shards)
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
        report = report.with_section(retrieval=score, confusions=confusions, **certainty(experiment, shards, tested))
        if report.calibration is not None and report.calibration.result is not None:
            figures["reliability"] = plots.reliability(report.calibration.result)
    else:
        found = category_scores(experiment, shards)
        contrasts = [score.contrast for score in found if score.contrast is not None]
        report = report.with_section(
            contrast=contrasts[0] if contrasts else None,
            more_contrasts=tuple(contrasts[1:]),
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
    ranked = [_Ranked(experiment, shards, tested) for tested in folds]

    def scored(repetitions: int) -> tuple[NDArray[np.float32], _Queries]:
        parts = [one.scores(repetitions) for one in ranked]
        galleries = {queries.gallery for _, queries in parts}
        if len(galleries) != 1:
            raise ValueError("every fold must rank the same candidates: train all folds on one set, with one protocol.")
        return np.concatenate([scores_QG for scores_QG, _ in parts]), _Queries.joined([part for _, part in parts])

    scores_QG, queries = scored(protocol.test_repetitions)
    n_way = protocol.n_way
    score = retrieval_report(
        scores_QG,
        queries.gallery,
        queries.shown_Q,
        queries.subject_Q,
        queries.concept_Q,
        n_permutations=protocol.permutations,
        seed=protocol.seed,
        repetitions_Q=queries.repetitions_Q,
        fold_Q=queries.fold_Q if len(folds) > 1 else None,
        n_way=n_way,
    )
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
        some_QG, some = scored(k)
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


@dataclass(frozen=True)
class _Queries:
    """What was asked, and of which candidates.

    Attributes
    ----------
    gallery
        Labels of the candidates: pictures, or concepts where centres are ranked.
    shown_Q
        Label of the right candidate.
    """

    gallery: tuple[str, ...]
    shown_Q: NDArray[Any]
    subject_Q: NDArray[Any]
    concept_Q: NDArray[Any]
    fold_Q: NDArray[Any]
    repetitions_Q: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["_Queries"]) -> "_Queries":
        """Return the queries of several folds, which rank one gallery."""
        names = ("shown_Q", "subject_Q", "concept_Q", "fold_Q", "repetitions_Q")
        return cls(parts[0].gallery, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


class _Ranked:
    """Test trials of a fold ranked by its bundle, among the candidates that the protocol names."""

    def __init__(self, experiment: Experiment, shards: ShardSet, tested: Tested) -> None:
        self._experiment, self._tested = experiment, tested
        gallery, protocol = tested.bundle.gallery, experiment.protocol
        self._concept = dict(zip(gallery.pictures, gallery.concepts, strict=True))
        rows = np.zeros(0, np.int64)
        if protocol.gallery == "concept" and protocol.split_by == "picture":
            rows = np.unique(shards.picture_row[shards.trials_of(tested.fold, "train")]).astype(np.int64)
            rows = rows[[shards.picture_concepts[row] in set(gallery.concepts) for row in rows.tolist()]]
        elif protocol.n_way > len(gallery.pictures) and protocol.gallery == "picture":
            rows = self._distractors(shards)
        own = slice(0, 0 if protocol.gallery == "concept" and len(rows) else None)
        self._pictures = (*gallery.pictures[own], *(shards.picture_ids[row] for row in rows.tolist()))
        self._concepts = (*gallery.concepts[own], *(shards.picture_concepts[row] for row in rows.tolist()))
        more_PD = embedded_targets(tested.bundle.decoder, shards.target_PD[rows])
        self._target_PD = np.concatenate([gallery.target_PD[own], more_PD]) if len(rows) else gallery.target_PD

    def _distractors(self, shards: ShardSet) -> NDArray[np.int64]:
        """Return rows of training pictures, alike for all folds, that fill the gallery up to `n_way`."""
        protocol, gallery = self._experiment.protocol, self._tested.bundle.gallery
        table = shards.table
        training = np.unique(shards.picture_row[table["partition"].to_numpy(str) == "train"]).astype(np.int64)
        wanted = protocol.n_way - len(gallery.pictures)
        if wanted > len(training):
            raise ValueError(
                f"protocol.n_way must be at most {len(gallery.pictures) + len(training)}, the {len(gallery.pictures)} "
                f"test pictures and {len(training)} training pictures as distractors, got {protocol.n_way}."
            )
        drawn = np.random.default_rng([protocol.seed, protocol.n_way]).permutation(training)[:wanted]
        return np.sort(drawn)

    def scores(self, repetitions: int) -> tuple[NDArray[np.float32], _Queries]:
        """Return scores (Q, G) where so many repetitions are averaged, and what was asked."""
        tested, experiment = self._tested, self._experiment
        averaged = average_repetitions(
            tested.eeg_uv_NCT,
            tested.table["picture"].to_numpy(str),
            tested.table["subject"].to_numpy(str),
            repetitions,
            experiment.protocol.seed,
        )
        z_QD = tested.reconstructor.embed(averaged.eeg_uv_QCT, subject=averaged.subject_Q.tolist())
        normalise = experiment.loss.normalise
        concept_Q = np.array([self._concept[p] for p in averaged.picture_Q])
        if experiment.protocol.gallery == "concept":
            labels, scores_QG = centre_scores(
                z_QD, self._target_PD, self._pictures, self._concepts, averaged.picture_Q, concept_Q, normalise
            )
            shown_Q = concept_Q
        else:
            labels, shown_Q = self._pictures, averaged.picture_Q
            scores_QG = score_matrix(z_QD, self._target_PD, normalise)
        fold_Q = np.full(len(shown_Q), tested.fold.name)
        return scores_QG, _Queries(labels, shown_Q, averaged.subject_Q, concept_Q, fold_Q, averaged.repetitions_Q)


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
