"""What the training of one fold is built of: front, decoder, streams, validation, and the bundle at its end.

Shape letters: N trial, Q query, C chan, T time, D embedding, K concept, P picture.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from eegdecode import hub
from eegdecode.batch import Fold, TrialBatch
from eegdecode.bundle import Bundle, BundleFact, Gallery
from eegdecode.config import CONCEPT, FEATURES, Experiment
from eegdecode.data.augment import augment
from eegdecode.data.electrodes import positions_of
from eegdecode.data.shardset import ShardSet, Untested
from eegdecode.data.splits import TEST, VAL, group_of
from eegdecode.data.stream import Stream
from eegdecode.data.whiten import fit_front
from eegdecode.diffusion.drawer import Drawer
from eegdecode.models.decoder import Decoder, decoder_of
from eegdecode.models.linear import LinearMap
from eegdecode.models.options import options_of, subject_rows
from eegdecode.models.riemann import CovarianceTangent
from eegdecode.train.closed_form import canonical, ridge_loo
from eegdecode.train.engine import device_of
from eegdecode.train.levels import BlurLevels
from eegdecode.train.pretrained import start_pretrained
from eegdecode.train.ridge import first_pass, start_ridge
from eegdecode.train.task import DecodingTask
from eegdecode.train.validation import NEW, Validation, picture_means, validation_of

FRONT_TRIALS = 20_000
"""Trials the front is fitted on at most: its covariance is long settled by then."""


@dataclass(frozen=True)
class FoldRun:
    """One fold, ready to be fitted."""

    fold: Fold
    """With the validation groups moved to training where the last step is kept."""
    task: DecodingTask
    stream: "Stream | Relabelled"
    validation: Validation | None
    n_train: int
    n_val: int
    subjects: tuple[str, ...] = ()
    """The decoder's table of subjects, those of the training trials; empty where its encoder has none."""
    positions_C3: NDArray[np.float64] | None = None
    """Of the electrodes, for an encoder behind virtual ones."""


def build_fold(
    experiment: Experiment,
    shards: ShardSet,
    fold: Fold,
    rank: int,
    world: int,
    search: bool = False,
    told: NDArray[np.int64] | None = None,
    start: bool = True,
) -> FoldRun:
    """Return the task, stream and validation of a fold; nothing in them comes from its test part.

    Parameters
    ----------
    rank, world
        Which rank this is of how many share the stream. A closed form is fitted by all of them together.
    search
        Whether configurations are compared: the validation groups then stay out of training whatever step is kept.
    told
        Picture row that every trial of the set is said to have shown, for the null: nothing here then sees another.
    start
        Whether `encoder.start` and `encoder.pretrained` are followed, and what is fixed in an encoder is fitted; not
        where fitted weights are loaded.

    Raises
    ------
    ValueError
        A picture or concept of the test part in another, targets that losses or towers do not fit, electrodes without a
        place, or pretrained weights that know more than the fold may.
    """
    shards.check_apart(fold)
    keep_last = experiment.protocol.selection == "last"
    if keep_last and not search:
        fold = fold.model_copy(update={"train": (*fold.train, *fold.val), "val": ()})
    train_N = shards.trials_of(fold, "train")
    val_N = shards.trials_of(fold, "val")
    facts = shards.manifest
    row_N = shards.picture_row if told is None else np.asarray(told, np.int64)
    train_rows = np.unique(row_N[train_N])
    concepts, concept_P = _concepts(shards, train_rows)
    subjects = _subjects(shards, train_N) if experiment.encoder.subject_layer != "none" else ()
    positions_C3 = positions_of(facts.channels) if experiment.encoder.virtual_chans else None
    torch.manual_seed(experiment.schedule.seed)  # first weights belong to the science of a run
    decoder = decoder_of(
        experiment,
        len(facts.channels),
        facts.n_times,
        shards.target.manifest.target.dim,
        _heads(experiment, shards, len(concepts)),
        options_of(experiment.encoder, subjects, positions_C3, facts.sfreq_hz),
    )
    if experiment.encoder.whiten != "none":
        decoder.set_front(*fit_front(shards.gather(_some(experiment, train_N)), experiment.encoder.whiten))
    if experiment.targets.centre:
        decoder.target_centre_D.copy_(torch.from_numpy(shards.target_PD[train_rows].mean(axis=0, dtype=np.float64)))
    if isinstance(decoder.encoder, CovarianceTangent) and start:
        _fit_features(decoder, decoder.encoder, shards, _some(experiment, train_N), row_N)

    if start and experiment.encoder.pretrained:
        start_pretrained(decoder.encoder, hub.load(experiment.encoder.pretrained), experiment, shards, fold)
    subject_row_N = _subject_row_N(shards, subjects)

    def opened(part: Literal["train", "val"], rank: int, world: int) -> "Stream | Relabelled":
        stream = Stream(
            shards,
            shards.trials_of(fold, part),
            experiment.loss.contrastive_batch,
            experiment.schedule.seed,
            rank,
            world,
            experiment.stream,
            experiment.compute.residency,
            device_of(experiment.compute),
            subject_row_N,
        )
        return stream if told is None else Relabelled(stream, row_N, shards)

    stream = opened("train", rank, world)
    if start and experiment.encoder.start == "canonical":
        _start_canonical(decoder, shards, train_N, row_N)
    if start and experiment.encoder.start == "ridge":
        held = first_pass(opened("val", 0, 1)) if len(val_N) else None
        start_ridge(
            decoder,
            first_pass(stream),
            held,
            experiment.encoder.alphas,
            world,
            device_of(experiment.compute),
            scale_embedding=not experiment.targets.centre,
        )
    _check_concepts(experiment, shards, train_rows, concepts, concept_P)
    levels = experiment.targets.levels
    asked = any(term.name in _OF_CONCEPTS or term.target == CONCEPT for term in experiment.loss.terms)
    return FoldRun(
        fold=fold,
        task=DecodingTask(
            decoder,
            experiment.loss,
            torch.from_numpy(concept_P) if asked else None,
            BlurLevels(levels, facts.n_pictures) if levels else None,
            _augmentation(experiment, facts.sfreq_hz),
        ),
        stream=stream,
        validation=validation_of(shards, fold, val_N, subjects) if len(val_N) else None,
        n_train=len(train_N),
        n_val=len(val_N),
        subjects=subjects,
        positions_C3=positions_C3,
    )


_OF_CONCEPTS = ("triplet", "triplet_semi_hard", "ce_hard")
"""Terms that need to know a trial's concept."""


def _concepts(shards: ShardSet, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the concepts of training pictures, sorted, and each picture's place among them, -1 for others."""
    known = shards.picture_concepts
    names = tuple(sorted({known[row] for row in rows.tolist()}))
    place = {name: k for k, name in enumerate(names)}
    return names, np.array([place.get(name, -1) for name in known], np.int64)


def _subjects(shards: ShardSet, trials_N: Untested) -> tuple[str, ...]:
    """Return the subjects of trials, sorted."""
    subject_N = shards.columns(["subject"])["subject"].cat
    return tuple(sorted(subject_N.categories[np.unique(subject_N.codes.to_numpy()[trials_N])].astype(str)))


def _subject_row_N(shards: ShardSet, subjects: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the row of every trial's subject in a table of subjects, -1 for others; None where there is no table."""
    subject_N = shards.columns(["subject"])["subject"]
    rows = subject_rows(subjects, subject_N.cat.categories)
    return None if rows is None else rows.numpy()[subject_N.cat.codes.to_numpy()]


def _heads(experiment: Experiment, shards: ShardSet, n_concepts: int) -> dict[str, int]:
    """Return the lengths of targets that need a head: those of a term that the embedding is not as long as."""
    targets, linear = experiment.targets, experiment.encoder.start == "ridge"
    dims = {name: found.manifest.target.dim for name, found in shards.targets.items()}
    embed_dim = targets.project or dims[""]
    if targets.levels and {dims[targets.levels.low], dims[targets.levels.high]} != {dims[""]}:
        raise ValueError(f"targets.levels needs three targets of one length, got {dims}.")
    named = {term.target for term in experiment.loss.terms if term.target not in ("", FEATURES)}
    wanted = {name: n_concepts if name == CONCEPT else dims[name] for name in named | (set(targets.also) & set(dims))}
    return {
        name: dim
        for name, dim in sorted(wanted.items())
        if linear or (name in named and (name == CONCEPT or dim != embed_dim))
    }


def _check_concepts(
    experiment: Experiment,
    shards: ShardSet,
    rows: NDArray[np.int64],
    concepts: tuple[str, ...],
    concept_P: NDArray[np.int64],
) -> None:
    """Refuse hard labels on the main target unless its columns are the training concepts in sorted order."""
    if not any(term.name == "ce_hard" and not term.target for term in experiment.loss.terms):
        return
    target_PD = shards.target_PD[rows]
    if target_PD.shape[1] != len(concepts):
        raise ValueError(
            f"loss.terms: 'ce_hard' on the main target needs one column for each of {len(concepts)} training concepts, "
            f"got {target_PD.shape[1]}. Name target '{CONCEPT}' for a class head, or give the teacher these classes."
        )
    of_row = concept_P[rows]
    best_K = np.array([target_PD[of_row == k].mean(axis=0).argmax() for k in range(len(concepts))])
    right = int((best_K == np.arange(len(concepts))).sum())
    if 2 * right <= len(concepts):
        raise ValueError(
            "loss.terms: 'ce_hard' on the main target needs its columns to be the training concepts in sorted order "
            f"({', '.join(concepts[:3])}, ...), and the mean target of only {right} of {len(concepts)} concepts is "
            "largest in its own column. Sort the teacher's classes as the concepts are."
        )


def _augmentation(experiment: Experiment, sfreq_hz: float) -> Callable[[TrialBatch], torch.Tensor] | None:
    spec, seed = experiment.stream.augment, experiment.schedule.seed
    if not spec.any:
        return None
    return lambda batch: augment(batch.eeg_uv_BCT, seed, batch.pass_B, batch.trial_B, sfreq_hz, spec)


def drawn_rows(shards: ShardSet, folds: tuple[Fold, ...]) -> NDArray[np.int64]:
    """Return the picture rows a drawer may learn from: none of a concept that a fold tests or validates on."""
    held = {by: {name for fold in folds if fold.by == by for name in (*fold.test, *fold.val)} for by in NEW}
    for fold in folds:
        if fold.by == "subject_concept":
            rows_N = shards.picture_row[np.isin(shards.part_of(fold), (VAL, TEST))]
            held["concept"] |= {shards.picture_concepts[row] for row in np.unique(rows_N).tolist()}
    # A class of several images has a row for each, named after it.
    rows = [
        row
        for row, (picture, concept) in enumerate(zip(shards.picture_ids, shards.picture_concepts, strict=True))
        if concept not in held["concept"] and picture not in held["picture"]
    ]
    return np.array(rows, np.int64)


def make_bundle(
    experiment: Experiment,
    shards: ShardSet,
    run: FoldRun,
    step: int,
    val_score: float | None,
    drawer: Drawer | None,
) -> Bundle:
    """Return the bundle of a fitted fold: its decoder, the bridge to the target's space, and the gallery it ranks."""
    facts = shards.manifest
    decoder = run.task.decoder.cpu().eval()
    part: Literal["train", "val"] = "val" if run.n_val else "train"
    eeg_uv_QCT, rows_Q, subject_Q = picture_means(shards, run.fold, shards.trials_of(run.fold, part))
    with torch.no_grad():
        z_QD = functional.normalize(decoder(torch.from_numpy(eeg_uv_QCT), subject_rows(run.subjects, subject_Q)), dim=1)
    weight_DD, bias_D = _bridge(z_QD.numpy(), shards.target_PD[rows_Q])
    # The pictures of the test part by id: which candidates there are is protocol, not something learnt.
    shown = _gallery_rows(shards, run.fold)
    return Bundle(
        experiment=experiment,
        fact=BundleFact(
            manifest_digest=facts.digest,
            targets_digest=shards.target.manifest.digest,
            fold=run.fold,
            channels=facts.channels,
            sfreq_hz=facts.sfreq_hz,
            tmin_s=facts.tmin_s,
            n_times=facts.n_times,
            unit=facts.unit,
            target=shards.target.manifest.target,
            heads={name: _length(head) for name, head in decoder.heads.items()},
            subjects=run.subjects,
            concepts={part: _concepts_of(shards, run.fold, part) for part in ("train", "val")},
            positions=() if run.positions_C3 is None else tuple(map(tuple, run.positions_C3.tolist())),
            step=step,
            val_score=val_score,
        ),
        decoder=decoder,
        bridge_weight_ED=weight_DD,
        bridge_bias_D=bias_D,
        gallery=Gallery(
            pictures=tuple(shards.picture_ids[row] for row in shown),
            concepts=tuple(shards.picture_concepts[row] for row in shown),
            target_PD=embedded_targets(decoder, shards.target_PD[shown]),
        ),
        drawer=drawer,
    )


def _concepts_of(shards: ShardSet, fold: Fold, part: Literal["train", "val"]) -> tuple[str, ...]:
    rows = np.unique(shards.picture_row[shards.trials_of(fold, part)])
    return tuple(sorted({shards.picture_concepts[row] for row in rows.tolist()}))


def _length(head: nn.Module) -> int:
    linear = head.map if isinstance(head, LinearMap) else head
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def _some(experiment: Experiment, train_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the training trials that statistics are taken of: the same on every rank."""
    return np.sort(np.random.default_rng(experiment.schedule.seed).permutation(train_N)[:FRONT_TRIALS])


def _fit_features(
    decoder: Decoder,
    encoder: CovarianceTangent,
    shards: ShardSet,
    trials_N: NDArray[np.int64],
    row_N: NDArray[np.int64],
) -> None:
    """Fit the features of an encoder that has fixed ones, on what it sees of training trials."""
    with torch.no_grad():
        eeg_NCT = decoder.front(torch.from_numpy(shards.gather(trials_N)))
    encoder.fit_features(eeg_NCT, torch.from_numpy(shards.target_PD[row_N[trials_N]]))


def _start_canonical(decoder: Decoder, shards: ShardSet, train_N: NDArray[np.int64], row_N: NDArray[np.int64]) -> None:
    """Set a linear encoder and the target's map to the canonical directions of the training trials."""
    eeg_uv_NCT, target_ND = shards.gather(train_N), shards.target_PD[row_N[train_N]]
    front_CC, bias_C = decoder.front_weight_CC.numpy(), decoder.front_bias_C.numpy()
    white_NF = np.concatenate(
        [
            (front_CC @ eeg_uv_NCT[k : k + 512].astype(np.float32) + bias_C[:, None]).reshape(
                -1, front_CC.shape[0] * eeg_uv_NCT.shape[2]
            )
            for k in range(0, len(eeg_uv_NCT), 512)
        ]
    )
    assert isinstance(decoder.encoder, LinearMap)
    assert isinstance(decoder.target_map, nn.Linear)
    found = canonical(white_NF, target_ND, rank=decoder.target_map.out_features)
    with torch.no_grad():
        decoder.encoder.map.weight.copy_(torch.from_numpy(found.x_map_DR.T))
        decoder.encoder.map.bias.copy_(torch.from_numpy(-found.x_mean_D @ found.x_map_DR))
        decoder.target_map.weight.copy_(torch.from_numpy(found.y_map_ER.T))


def embedded_targets(decoder: Decoder, target_PD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return targets as the decoder's embeddings are compared with them."""
    with torch.no_grad():
        embedded: NDArray[np.float32] = decoder.embed_target(torch.from_numpy(target_PD)).numpy()
    return embedded


def _bridge(
    z_QD: NDArray[np.float32], target_QD: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit unit-norm embedding -> target by ridge, then restore the spread that shrinkage took.

    The gain is one number for all dimensions, from the rows the map was fitted on: an inductive form of the output
    scaling of Perceptogram (Fei et al. 2024), which takes it from the test predictions.
    """
    fit = ridge_loo(z_QD, target_QD)
    mean_D = target_QD.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.mean((z_QD @ fit.weight_DE + fit.bias_E - mean_D) ** 2))
    gain = float(np.sqrt(np.mean((target_QD - mean_D) ** 2)) / spread) if spread > 0 else 1.0
    gain = min(gain, MAX_GAIN)
    bias_D = mean_D + gain * (fit.bias_E - mean_D)
    return (gain * fit.weight_DE).astype(np.float32), bias_D.astype(np.float32)


MAX_GAIN = 3.0
"""A map that explains next to nothing must not be blown up to full spread."""


def _gallery_rows(shards: ShardSet, fold: Fold) -> NDArray[np.int64]:
    if fold.by == "subject_concept":  # all test pictures, also those this subject has no trial of: one gallery
        tested_N = shards.table["partition"].to_numpy(str) == "test"
        return np.unique(shards.picture_row[tested_N]).astype(np.int64)
    groups = group_of(shards.table, fold.by)
    rows: NDArray[np.int64] = np.unique(shards.picture_row[np.isin(groups, fold.test)])
    return rows


class Relabelled:
    """A stream whose trials are told they showed other pictures: what a decoder of the null is trained on.

    Parameters
    ----------
    picture_row_N
        Picture row for every trial of the set.
    """

    def __init__(self, stream: Stream, picture_row_N: NDArray[np.int64], shards: ShardSet) -> None:
        self._stream = stream
        self._row_N = torch.from_numpy(np.asarray(picture_row_N, np.int64))
        self._target_PD = {name: torch.from_numpy(found.target_PD) for name, found in shards.targets.items()}

    def starting_at(self, trials_seen: int) -> Generator[TrialBatch, None, None]:
        """Yield the stream's batches with the other pictures' targets."""
        with closing(self._stream.starting_at(trials_seen)) as batches:
            for batch in batches:
                row_B = self._row_N[batch.trial_B.cpu()]
                also = {name: target_PD[row_B] for name, target_PD in self._target_PD.items()}
                told = replace(batch, target_BD=also.pop(""), picture_B=row_B, also=also)
                yield told.to(batch.eeg_uv_BCT.device)
