"""Scores of few categories (faces against houses, eight gratings): decoder, baseline and control in every division.

Shape letters: N trial, G gallery, C chan, T time, R permutation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import ray
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from eegdecode import metrics
from eegdecode.batch import Fold
from eegdecode.bundle import Bundle, Gallery
from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet, test_trials
from eegdecode.data.splits import group_of
from eegdecode.evaluate.baselines import ContrastBaselines, lda_classes
from eegdecode.evaluate.category_decisions import DivisionDecisions, division_decisions
from eegdecode.evaluate.contrast import ClassScore, ContrastScore, class_report, contrast_report
from eegdecode.evaluate.retrieval import score_matrix
from eegdecode.evaluate.statistics import permuted_labels
from eegdecode.models.options import subject_rows
from eegdecode.runtime import places
from eegdecode.runtime.category_baselines import LDA, TwoCategories, contrast_baselines
from eegdecode.runtime.progress import gather
from eegdecode.runtime.search import tuned_for
from eegdecode.runtime.tested import open_tested
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold, embedded_targets
from eegdecode.train.loop import fit

REFITS = 200
REFITS_PER_TASK = 10


Division = Literal["concept", "picture", "run", "subject"]


@dataclass(frozen=True)
class CategoryScores:
    """What one division of the trials gave."""

    contrast: ContrastScore | None
    baselines: ContrastBaselines | None
    """Of the contrast."""
    classes: ClassScore
    decisions: DivisionDecisions


@dataclass(frozen=True)
class _Decided:
    """Out-of-fold decisions of a division, one row a trial."""

    table: pd.DataFrame
    eeg_uv_NCT: NDArray[np.float32]
    by: Division
    fold_N: NDArray[np.str_]
    run_N: NDArray[np.str_]
    scores_NG: NDArray[np.float64]
    gallery: Gallery


def category_scores(experiment: Experiment, shards: ShardSet) -> list[CategoryScores]:
    """Score every division (runs, subjects), beside shrinkage LDA and the window before the picture."""
    control = experiment.control()
    control_shards = places.open_set(control) if control else None
    found = []
    for by in (experiment.protocol.split_by, *experiment.protocol.also_split_by):
        ours = _decide(experiment, shards, [f for f in shards.folds if f.by == by])
        null_R = _refitted(experiment, by) if experiment.protocol.permute == "positions" else None
        contrast = _contrast(experiment, ours, None if null_R is None else null_R[:, 0])
        baselines = None if contrast is None else _baselines(experiment, shards, ours, contrast)
        if contrast is not None and baselines is not None:
            contrast = contrast.beside(baseline=baselines.scores[LDA], baseline_name=LDA)
        if control is not None and control_shards is not None and contrast is not None:
            before = _decide(control, control_shards, [f for f in control_shards.folds if f.by == by])
            contrast = contrast.beside(control=_contrast(control, before, None))
        classes = _classes(experiment, ours, None if null_R is None else null_R[:, 1])
        found.append(CategoryScores(contrast, baselines, classes, _decisions(experiment, ours)))
    return found


def _decide(experiment: Experiment, shards: ShardSet, folds: Sequence[Fold]) -> _Decided:
    """Let each fold's bundle decide its own test trials, one by one."""
    by = folds[0].by
    assert by != "subject_concept"  # new concepts are ranked, see evaluate
    tested = [open_tested(experiment, shards, fold) for fold in folds]
    parts = [
        candidate_scores(t.bundle, t.reconstructor.embed(t.eeg_uv_NCT, subject=t.table["subject"].tolist()))
        for t in tested
    ]
    galleries = {t.bundle.gallery.pictures for t in tested}
    if len(galleries) != 1:
        raise ValueError("every fold must rank the same candidates: a category is missing from the test part of one.")
    table = pd.concat([t.table for t in tested], ignore_index=True)
    return _Decided(
        table=table,
        eeg_uv_NCT=np.concatenate([t.eeg_uv_NCT for t in tested]),
        by=by,
        fold_N=np.concatenate([np.full(len(t.table), t.fold.name) for t in tested]),
        run_N=group_of(table, "run").astype(str),
        scores_NG=np.concatenate(parts),
        gallery=tested[0].bundle.gallery,
    )


def candidate_scores(made: Bundle, z_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the decoder's own log odds of the candidates: cosine over temperature."""
    scale = float(torch.exp(made.decoder.logit_scale.detach()))
    cosine_NG = score_matrix(z_ND, made.gallery.target_PD, made.experiment.loss.normalise)
    return scale * cosine_NG.astype(np.float64)


def _contrast(experiment: Experiment, decided: _Decided, null_R: NDArray[np.float64] | None) -> ContrastScore | None:
    labels, protocol = experiment.protocol.contrast, experiment.protocol
    if labels is None:
        return None
    rows, positive_N = two_categories(decided.table, labels)
    return contrast_report(
        log_odds(decided.scores_NG, decided.gallery.concepts, labels)[rows],
        positive_N,
        decided.fold_N[rows],
        decided.run_N[rows],
        decided.table["position"].to_numpy()[rows],
        labels=labels,
        split_by=decided.by,
        permute=protocol.permute,
        n_permutations=protocol.permutations,
        seed=protocol.seed,
        picture_N=decided.table["picture"].to_numpy(str)[rows],
        null_R=null_R,
    )


def _decisions(experiment: Experiment, decided: _Decided) -> DivisionDecisions:
    labels, concepts, table = experiment.protocol.contrast, decided.gallery.concepts, decided.table
    odds = None
    if labels is not None:
        rows, _ = two_categories(table, labels)
        odds = (rows, log_odds(decided.scores_NG, concepts, labels)[rows])
    return division_decisions(
        decided.scores_NG,
        concepts,
        table["key"].to_numpy(str),
        table["picture"].to_numpy(str),
        table["concept"].to_numpy(str),
        decided.fold_N,
        split_by=decided.by,
        labels=labels,
        log_odds=odds,
    )


def _baselines(
    experiment: Experiment, shards: ShardSet, decided: _Decided, decoder: ContrastScore
) -> ContrastBaselines:
    manifest = shards.manifest
    rows, positive_N = two_categories(decided.table, decoder.labels)
    trials = TwoCategories(
        eeg_uv_NCT=decided.eeg_uv_NCT[rows],
        sfreq_hz=manifest.sfreq_hz,
        tmin_s=manifest.tmin_s,
        positive_N=positive_N,
        fold_N=decided.fold_N[rows],
        run_N=decided.run_N[rows],
        position_N=decided.table["position"].to_numpy()[rows],
        labels=decoder.labels,
        split_by=decided.by,
    )
    return contrast_baselines(trials, experiment.protocol, decoder)


def _classes(experiment: Experiment, decided: _Decided, null_R: NDArray[np.float64] | None) -> ClassScore:
    protocol = experiment.protocol
    if protocol.permute == "pictures":
        raise ValueError("protocol.permute must be 'trials' or 'positions' where folds are runs or subjects.")
    names = np.array(decided.gallery.concepts)
    shown_N = decided.table["concept"].to_numpy(str)
    position_N = decided.table["position"].to_numpy()
    lda = lda_classes(
        decided.eeg_uv_NCT,
        shown_N,
        decided.fold_N,
        decided.run_N,
        position_N,
        split_by=decided.by,
        permute=protocol.permute,
        seed=protocol.seed,
    )
    return class_report(
        names[decided.scores_NG.argmax(axis=1)],
        shown_N,
        decided.fold_N,
        decided.run_N,
        position_N,
        classes=tuple(sorted(set(names.tolist()))),
        split_by=decided.by,
        permute=protocol.permute,
        n_permutations=protocol.permutations,
        seed=protocol.seed,
        null_R=null_R,
        baseline=lda,
    )


def two_categories(table: pd.DataFrame, labels: tuple[str, str]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows of the two categories and whether each is of the second."""
    concept_N = table["concept"].astype(str)
    low, high = (concept_N.str.startswith(label).to_numpy() for label in labels)
    if not low.any() or not high.any() or (low & high).any():
        raise ValueError(f"protocol.contrast must name two disjoint groups of concepts by their start, got {labels}.")
    rows = np.flatnonzero(low | high)
    return rows, high[rows]


def log_odds(scores_NG: NDArray[np.float64], concepts: Sequence[str], labels: tuple[str, str]) -> NDArray[np.float64]:
    """Return the log odds of the second category against the first."""
    concept_G = np.array(concepts)
    low, high = (logsumexp(scores_NG[:, np.char.startswith(concept_G, label)], axis=1) for label in labels)
    difference_N: NDArray[np.float64] = high - low
    return difference_N


def _refitted(experiment: Experiment, by: str) -> NDArray[np.float64]:
    """Return (R, 2): AUC and accuracy of decoders trained and tested on pictures permuted by position."""
    described = experiment.model_dump_json()
    futures = [
        _refit.remote(described, by, start, min(REFITS, start + REFITS_PER_TASK))
        for start in range(0, REFITS, REFITS_PER_TASK)
    ]
    return np.concatenate(gather(futures, f"evaluate: null of permuted {by}s", "tasks"))


@ray.remote(num_cpus=1)
def _refit(described: str, by: str, first: int, last: int) -> NDArray[np.float64]:
    experiment = Experiment.model_validate_json(described).override({"compute.engine": "torch", "compute.workers": 1})
    shards = places.open_set(experiment, verify=False)
    table, labels = shards.table, experiment.protocol.contrast
    run_N, position_N = group_of(table, "run").astype(str), table["position"].to_numpy()
    rows = []
    for r in range(first, last):
        rng = np.random.default_rng([experiment.protocol.seed, r])
        permuted_N = permuted_labels(shards.picture_row, run_N, position_N, experiment.protocol.permute, rng)
        relabelled = table.assign(concept=[shards.picture_concepts[row] for row in permuted_N])
        scores_NG, fold_N = _refitted_scores(experiment, shards, by, permuted_N)
        concept_G = [shards.picture_concepts[row] for row in _candidates(shards)]
        named_N = np.array(concept_G)[scores_NG.argmax(axis=1)]
        shown_N = relabelled["concept"].to_numpy(str)
        folds = [fold_N == name for name in np.unique(fold_N)]
        accuracy = np.mean([np.mean(named_N[at] == shown_N[at]) for at in folds])
        auc = float("nan")
        if labels is not None:
            chosen, positive_N = two_categories(relabelled, labels)
            odds_N = log_odds(scores_NG, concept_G, labels)
            second_N = np.zeros(len(table), bool)
            second_N[chosen] = positive_N
            either_N = np.isin(np.arange(len(table)), chosen)
            auc = float(np.mean([metrics.roc_auc(odds_N[at & either_N], second_N[at & either_N]) for at in folds]))
        rows.append((auc, accuracy))
    return np.array(rows)


def _refitted_scores(
    experiment: Experiment, shards: ShardSet, by: str, picture_row_N: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Train every fold on the pictures it is told and return the scores of its test trials, and each trial's fold."""
    tuned = tuned_for(experiment)
    candidate_GD = shards.target_PD[_candidates(shards)]
    scores_NG = np.empty((len(shards.table), len(candidate_GD)))
    fold_N = np.empty(len(shards.table), dtype=object)
    for fold in (f for f in shards.folds if f.by == by):
        changed = experiment.override(tuned.get(fold.name, {}))
        run = build_fold(changed, shards, fold, 0, 1, told=picture_row_N)
        fit(
            build_engine(run.task, changed.schedule, changed.compute, changed.loss.contrastive_batch),
            run.stream,
            changed.schedule,
        )
        decoder = run.task.decoder.eval()
        test_N = test_trials(shards, fold)
        row_N = subject_rows(run.subjects, shards.table["subject"].iloc[test_N])
        with torch.no_grad():
            z_ND = decoder(torch.from_numpy(shards.gather(test_N)).float(), row_N).numpy()
        cosine_NG = score_matrix(z_ND, embedded_targets(decoder, candidate_GD), changed.loss.normalise)
        scores_NG[test_N] = float(torch.exp(decoder.logit_scale.detach())) * cosine_NG
        fold_N[test_N] = fold.name
    return scores_NG, fold_N.astype(str)


def _candidates(shards: ShardSet) -> NDArray[np.int64]:
    """Return the picture rows that were shown at all."""
    rows: NDArray[np.int64] = np.unique(shards.picture_row)
    return rows
