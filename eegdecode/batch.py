"""What travels between the rooms: trial batches, folds and the manifest of a shard set.

Shape letters: B batch, C chan, T time, D embedding, P picture.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from pydantic import model_validator

from eegdecode.config import Section

SCHEMA_VERSION = 2
"""2: targets are sets of their own, and folds are made when a set is opened."""


@dataclass(frozen=True)
class TrialBatch:
    """Trials of one rank, in the order of the stream.

    Attributes
    ----------
    eeg_uv_BCT
        In the manifest's unit (microvolt, unless it says otherwise). Float16 as stored: it is widened on the device
        that computes, which halves what travels there; float32 where repetitions were averaged.
    target_BD
        Float32, the main target of each trial as the tower made it (not normalised).
    trial_B, picture_B
        Int64: row in the trial table (the first that was averaged), row in the picture set. Equal pictures are
        positives of each other.
    pass_B
        Int64: which pass over the data a trial belongs to.
    also
        Further targets by name, as `targets.also` names them.
    subject_B
        Int64: row of each trial's subject in the decoder's table of subjects; None where it has none.
    """

    eeg_uv_BCT: torch.Tensor
    target_BD: torch.Tensor
    trial_B: torch.Tensor
    picture_B: torch.Tensor
    pass_B: torch.Tensor
    also: Mapping[str, torch.Tensor] = field(default_factory=dict)
    subject_B: torch.Tensor | None = None

    def __post_init__(self) -> None:
        n = self.eeg_uv_BCT.shape[0]
        of_subjects = () if self.subject_B is None else (self.subject_B,)
        others = (self.target_BD, self.trial_B, self.picture_B, self.pass_B, *of_subjects, *self.also.values())
        if self.eeg_uv_BCT.ndim != 3 or any(len(other) != n for other in others):
            raise ValueError(
                "A batch needs eeg (B, C, T) and one target, trial, picture and pass for each, got "
                f"{tuple(self.eeg_uv_BCT.shape)} and {[len(other) for other in others]}."
            )

    def to(self, device: torch.device | str) -> "TrialBatch":
        """Return the batch on another device."""
        return self._each(lambda x_B: x_B.to(device, non_blocking=True))

    def where(self, chosen_B: torch.Tensor) -> "TrialBatch":
        """Return the samples that a mask chooses."""
        return self._each(lambda x_B: x_B[chosen_B.to(x_B.device)])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "TrialBatch":
        return TrialBatch(
            change(self.eeg_uv_BCT),
            change(self.target_BD),
            change(self.trial_B),
            change(self.picture_B),
            change(self.pass_B),
            {name: change(target) for name, target in self.also.items()},
            None if self.subject_B is None else change(self.subject_B),
        )


class Fold(Section):
    """One train/val/test division of whole groups. Overlap is refused."""

    name: str
    by: Literal["concept", "picture", "run", "subject", "subject_concept"]
    """Column of the trial table the groups are values of (`run` means subject_session_run; `subject_concept` a concept
    as shown to a subject)."""
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = sorted(set(getattr(self, a)) & set(getattr(self, b)))
            if shared:
                raise ValueError(
                    f"fold '{self.name}': {self.by} {shared[:3]} in both {a} and {b}; a group belongs to one part."
                )
        for part in ("train", "test"):
            if not getattr(self, part):
                raise ValueError(f"fold '{self.name}': {part} has no {self.by}; nothing could be learnt or scored.")
        return self


class FileFact(Section):
    """A file of the set and what it must hash to."""

    name: str
    size_bytes: int
    sha256: str


class ShardFact(Section):
    """One tar of samples with its index."""

    tar: FileFact
    index: FileFact
    n_samples: int


class TargetFact(Section):
    """What made the targets: tower, layer and preprocessing, and of which view of a picture."""

    tower: str
    layer: str
    revision: str
    preprocessing: str
    dim: int
    """Numbers per picture."""
    shape: tuple[int, ...]
    """As the tower makes them; their product is `dim`."""
    view: str = ""
    """What was done to a picture before the tower saw it; empty for the picture as it is."""

    @model_validator(mode="before")
    @classmethod
    def _flat_unless_said(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and "dim" in tree and "shape" not in tree:
            return {**tree, "shape": (tree["dim"],)}
        return tree

    @model_validator(mode="after")
    def _dim_of_shape(self) -> Self:
        if self.dim < 1 or self.dim != math.prod(self.shape):
            raise ValueError(f"target dim must be the product of its shape {self.shape}, got {self.dim}.")
        return self


class Dropped(Section):
    """A trial that is not in the set, and why."""

    recording: str
    event: int
    reason: str


class SourceFact(Section):
    """What a data source declares about itself."""

    name: str
    licence: str
    citation: str
    design: Literal["rapid", "block", "event"]
    truth: Literal["picture", "class"]
    """Whether the very picture of a trial is known, or only its class."""


class Signed(Section):
    """A table of contents with the digest of itself."""

    digest: str = ""

    @property
    def all_shards(self) -> tuple[ShardFact, ...]:
        """Every shard that is listed."""
        raise NotImplementedError

    def sealed(self) -> Self:
        """Return the manifest with its digest filled in."""
        return self.model_copy(update={"digest": self._hash()})

    def _hash(self) -> str:
        tree: dict[str, Any] = self.model_dump(mode="json", exclude={"digest"})
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Raise ValueError if the digest is not that of the content."""
        if self.digest != self._hash():
            raise ValueError(
                f"manifest digest must be that of its content, got {self.digest[:12]} for content {self._hash()[:12]}: "
                "the manifest was altered or cut. Prepare the set again."
            )


class Manifest(Signed):
    """The signed table of contents of a shard set of trials and pictures; published last."""

    schema_version: int = SCHEMA_VERSION
    source: SourceFact
    unit: Literal["uV", "whitened", "scaled"] = "uV"
    sfreq_hz: float
    tmin_s: float
    n_times: int
    channels: tuple[str, ...]
    trials: tuple[ShardFact, ...]
    pictures: tuple[ShardFact, ...]
    table: FileFact
    """Parquet, one row a trial: trial, key, recording, subject, session, run, position, event, picture, picture_row,
    concept, partition, repetition."""
    n_trials: int
    n_pictures: int
    dropped: tuple[Dropped, ...] = ()
    findings: tuple[str, ...] = ()
    """What the reader found and decided: duplicate recordings left out, runs with one marker."""
    config_digest: str
    """Experiment.digest('data') of the run that prepared the set."""
    source_digest: str = ""
    """Of the recordings and pictures that the source named: they may change under one configuration."""

    @property
    def all_shards(self) -> tuple[ShardFact, ...]:
        """Those of trials, then those of pictures."""
        return (*self.trials, *self.pictures)

    @property
    def pictures_digest(self) -> str:
        """Digest of the pictures, their order and their content: what a target set is tied to."""
        return hashlib.sha256("".join(shard.tar.sha256 for shard in self.pictures).encode()).hexdigest()


class TargetManifest(Signed):
    """The signed table of contents of one tower's targets for the pictures of shard sets; published last."""

    schema_version: int = SCHEMA_VERSION
    spec: str
    """As `targets.tower` gave it."""
    target: TargetFact
    pictures_digest: str
    """`Manifest.pictures_digest` of the pictures that were embedded."""
    shards: tuple[ShardFact, ...]
    n_pictures: int

    @property
    def all_shards(self) -> tuple[ShardFact, ...]:
        """Those of targets."""
        return self.shards
