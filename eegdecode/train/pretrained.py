"""Start an encoder from another training's bundle, unless that has learnt from what this fold selects or scores on."""

from collections.abc import Collection

import numpy as np
from torch import nn

from eegdecode.batch import Fold
from eegdecode.bundle import Bundle
from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet
from eegdecode.data.splits import TEST, VAL
from eegdecode.models.options import take_over


def start_pretrained(encoder: nn.Module, made: Bundle, experiment: Experiment, shards: ShardSet, fold: Fold) -> None:
    """Give an encoder the weights of a bundle's; what belongs to one data set stays as it is, see `take_over`.

    Parameters
    ----------
    encoder
        As `experiment` describes it.
    made
        What `encoder.pretrained` names.
    fold
        Which is trained on.

    Raises
    ------
    ValueError
        Another encoder, or a bundle that knows more than this fold may.
    """
    where, ours, theirs = experiment.encoder.pretrained, experiment.encoder, made.experiment.encoder
    for what, wanted, got in (
        ("encoder", ours.name, theirs.name),
        ("sampling rate in Hz", shards.manifest.sfreq_hz, made.fact.sfreq_hz),
    ):
        if wanted != got:
            raise ValueError(f"encoder.pretrained: {where} must have the {what} of this run, {wanted}, got {got}.")
    if theirs.pretrained:
        raise ValueError(
            f"encoder.pretrained: {where} itself started from {theirs.pretrained}, and what that had learnt is not "
            "known here. Start from that one, or train on both data sets together."
        )
    _check_concepts(made, shards, fold, where)
    if made.experiment.data.source.kind == experiment.data.source.kind and fold.by != "concept":
        _check_groups(made.fact.fold, fold, where)
    take_over(encoder, made.decoder.encoder.state_dict())


def _check_concepts(made: Bundle, shards: ShardSet, fold: Fold, where: str) -> None:
    """Refuse concepts that are new here by protocol and not to the bundle; they are compared by name."""
    if fold.by not in ("concept", "subject_concept"):
        return
    known = made.fact.concepts
    if not known:
        raise ValueError(f"encoder.pretrained: {where} does not say what it has learnt: train it again.")
    part_N = shards.part_of(fold)

    def held(*parts: int) -> set[str]:
        rows = np.unique(shards.picture_row[np.isin(part_N, parts)])
        return {shards.picture_concepts[row] for row in rows.tolist()}

    _refuse(set(known["train"]) & held(VAL, TEST), "learnt concepts that this fold validates or tests on", where)
    _refuse(set(known["val"]) & held(TEST), "was selected on concepts that this fold tests on", where)


def _check_groups(theirs: Fold, ours: Fold, where: str) -> None:
    """Refuse what a bundle of perhaps the same recordings has learnt beyond this fold's training part."""
    if theirs.by != ours.by:
        raise ValueError(
            f"encoder.pretrained: {where} is of the same kind of recordings, divided by {theirs.by}, and this fold "
            f"divides them by {ours.by}: it may have learnt from what is scored. Train it with this protocol."
        )
    _refuse(set(theirs.train) - set(ours.train), f"learnt from a {ours.by} that this fold does not train on", where)
    _refuse(set(theirs.val) & set(ours.test), f"was selected on a {ours.by} that this fold tests on", where)


def _refuse(wrong: Collection[str], why: str, where: str) -> None:
    if wrong:
        raise ValueError(
            f"encoder.pretrained: {where} {why}: {sorted(wrong)[:3]} ({len(wrong)} such). Pretrain without them."
        )
