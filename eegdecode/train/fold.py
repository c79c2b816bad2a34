"""What the training of one fold is built of: front, decoder, streams, validation, and the bundle at its end.

Shape letters: N trial, Q query, C chan, T time, D embedding, P picture.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from eegdecode import metrics
from eegdecode.batch import Fold, TrialBatch
from eegdecode.bundle import Bundle, BundleFact, Gallery
from eegdecode.config import Experiment
from eegdecode.data.augment import augment
from eegdecode.data.shardset import ShardSet
from eegdecode.data.splits import group_of
from eegdecode.data.stream import Stream, open_stream
from eegdecode.data.whiten import fit_front
from eegdecode.diffusion.drawer import Drawer
from eegdecode.models.decoder import Decoder, build_decoder
from eegdecode.models.linear import LinearMap
from eegdecode.train.closed_form import canonical, ridge_loo
from eegdecode.train.engine import device_of
from eegdecode.train.task import ContrastiveTask

FRONT_TRIALS = 20_000
"""Trials the front is fitted on at most: its covariance is long settled by then."""
Scores = Mapping[str, float]
_NEW = ("concept", "picture")
"""Divisions whose test pictures were not shown in training."""


@dataclass(frozen=True)
class FoldRun:
    """One fold, ready to be fitted."""

    fold: Fold
    """With the validation groups moved to training where the last step is kept."""
    task: ContrastiveTask
    stream: Stream
    validation: "Validation | None"
    n_train: int
    n_val: int


@dataclass(frozen=True)
class Validation:
    """Ranks validation pictures by their averaged EEG; the score by which steps and configurations are chosen.

    Attributes
    ----------
    eeg_uv_QCT
        Mean over the repetitions of a picture in a subject (or run).
    target_PD, right_Q
        Candidates, and the row of each query's own.
    """

    eeg_uv_QCT: torch.Tensor
    target_PD: torch.Tensor
    right_Q: NDArray[np.int64]

    def __call__(self, task: nn.Module) -> Scores:
        """Return `val_score` (mean average precision) and `val_top1`."""
        decoder = task.decoder
        assert isinstance(decoder, Decoder)
        device = decoder.target_centre_D.device
        z_QD = functional.normalize(decoder(self.eeg_uv_QCT.to(device)), dim=1)
        candidate_PD = functional.normalize(decoder.embed_target(self.target_PD.to(device)), dim=1)
        scores_QP = (z_QD @ candidate_PD.T).float().cpu().numpy()
        relevant_QP = np.arange(len(self.target_PD))[None] == self.right_Q[:, None]
        return {
            "val_score": float(metrics.mean_average_precision(scores_QP, relevant_QP)),
            "val_top1": float(metrics.top_k(scores_QP, self.right_Q, 1)),
        }


def build_fold(
    experiment: Experiment, shards: ShardSet, fold: Fold, rank: int, world: int, search: bool = False
) -> FoldRun:
    """Return the task, stream and validation of a fold; nothing in them comes from its test part.

    Parameters
    ----------
    search
        Whether configurations are compared: the validation groups then stay out of training whatever step is kept.
    """
    keep_last = experiment.protocol.selection == "last"
    if keep_last and not search:
        fold = fold.model_copy(update={"train": (*fold.train, *fold.val), "val": ()})
    train_N = shards.trials_of(fold, "train")
    val_N = shards.trials_of(fold, "val")
    facts, target = shards.manifest, shards.target.manifest.target
    torch.manual_seed(experiment.schedule.seed)  # first weights belong to the science of a run
    decoder = build_decoder(
        experiment.encoder.name,
        n_chans=len(facts.channels),
        n_times=facts.n_times,
        target_dim=target.dim,
        dropout=experiment.encoder.dropout,
        temperature=experiment.loss.temperature,
        learn_temperature=experiment.loss.learn_temperature,
        project=experiment.targets.project,
    )
    some = np.random.default_rng(experiment.schedule.seed).permutation(train_N)[:FRONT_TRIALS]
    decoder.set_front(*fit_front(shards.gather(np.sort(some)), experiment.encoder.whiten))
    if experiment.targets.centre:
        rows = np.unique(shards.picture_row[train_N])
        decoder.target_centre_D.copy_(torch.from_numpy(shards.target_PD[rows].mean(axis=0, dtype=np.float64)))
    if experiment.encoder.start == "canonical":
        _start_canonical(decoder, shards, train_N)
    stream = open_stream(
        shards,
        fold,
        "train",
        experiment.loss.contrastive_batch,
        experiment.schedule.seed,
        rank,
        world,
        experiment.stream,
        experiment.compute.residency,
        device_of(experiment.compute),
    )
    return FoldRun(
        fold=fold,
        task=ContrastiveTask(decoder, experiment.loss, _augmentation(experiment, facts.sfreq_hz)),
        stream=stream,
        validation=_validation(shards, fold, val_N) if len(val_N) else None,
        n_train=len(train_N),
        n_val=len(val_N),
    )


def _augmentation(experiment: Experiment, sfreq_hz: float) -> Callable[[TrialBatch], torch.Tensor] | None:
    spec, seed = experiment.stream.augment, experiment.schedule.seed
    if not spec.any:
        return None
    return lambda batch: augment(batch.eeg_uv_BCT, seed, batch.pass_B, batch.trial_B, sfreq_hz, spec)


def drawn_rows(shards: ShardSet, folds: tuple[Fold, ...]) -> NDArray[np.int64]:
    """Return the picture rows a drawer may learn from: none of a concept that a fold tests or validates on."""
    held = {by: {name for fold in folds if fold.by == by for name in (*fold.test, *fold.val)} for by in _NEW}
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
    eeg_uv_QCT, rows_Q = _averaged(shards, run.fold, shards.trials_of(run.fold, "val" if run.n_val else "train"))
    weight_DD, bias_D = _bridge(decoder, eeg_uv_QCT, shards.target_PD[rows_Q])
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


def _start_canonical(decoder: Decoder, shards: ShardSet, train_N: NDArray[np.int64]) -> None:
    """Set a linear encoder and the target's map to the canonical directions of the training trials."""
    eeg_uv_NCT, target_ND = shards.gather(train_N), shards.target_PD[shards.picture_row[train_N]]
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


def _validation(shards: ShardSet, fold: Fold, trials_N: NDArray[np.int64]) -> Validation:
    eeg_uv_QCT, rows_Q = _averaged(shards, fold, trials_N)
    rows, right_Q = np.unique(rows_Q, return_inverse=True)
    return Validation(torch.from_numpy(eeg_uv_QCT), torch.from_numpy(shards.target_PD[rows]), right_Q.astype(np.int64))


def _averaged(
    shards: ShardSet, fold: Fold, trials_N: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return EEG averaged over a picture's repetitions in one subject (one run where runs are split), and its row."""
    table = shards.table.iloc[trials_N]
    new = fold.by in _NEW
    who = table["subject"].astype(str) if new else pd.Series(group_of(table, "run"), table.index)
    means, rows = [], []
    for _, members in table.groupby([who, "picture_row"]):
        means.append(shards.gather(members.index.to_numpy(np.int64)).mean(axis=0, dtype=np.float32))
        rows.append(int(members["picture_row"].iloc[0]))
    return np.stack(means), np.array(rows, np.int64)


def _bridge(
    decoder: Decoder, eeg_uv_QCT: NDArray[np.float32], target_QD: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit unit-norm embedding -> target by ridge, then restore the spread that shrinkage took.

    The gain is one number for all dimensions, from the rows the map was fitted on: an inductive form of the output
    scaling of Perceptogram (Fei et al. 2024), which takes it from the test predictions.
    """
    with torch.no_grad():
        z_QD = functional.normalize(decoder(torch.from_numpy(eeg_uv_QCT)), dim=1).numpy()
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

    def __init__(self, stream: Stream, picture_row_N: NDArray[np.int64], target_PD: NDArray[np.float32]) -> None:
        self._stream = stream
        self._row_N = torch.from_numpy(np.asarray(picture_row_N, np.int64))
        self._target_PD = torch.from_numpy(target_PD)

    def starting_at(self, trials_seen: int) -> Iterator[TrialBatch]:
        """Yield the stream's batches with the other pictures' targets."""
        for batch in self._stream.starting_at(trials_seen):
            row_B = self._row_N[batch.trial_B]
            yield TrialBatch(batch.eeg_uv_BCT, self._target_PD[row_B], batch.trial_B, row_B, batch.pass_B)
