"""What travels between the rooms: trial batches, folds and the manifest of a shard set.

Shape letters: B batch, C chan, T time, D embedding, P picture.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import model_validator

from eegdecode.config import Section

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TrialBatch:
    """Trials of one rank, in the order of the stream.

    Attributes
    ----------
    eeg_uv_BCT
        Float32, microvolt.
    target_BD
        Float32, one target per trial as the tower made it (not normalised).
    trial_B, picture_B
        Int64: row in the trial table, row in the picture set. Equal pictures are positives of each other.
    """

    eeg_uv_BCT: torch.Tensor
    target_BD: torch.Tensor
    trial_B: torch.Tensor
    picture_B: torch.Tensor

    def __post_init__(self) -> None:
        n = self.eeg_uv_BCT.shape[0]
        if self.eeg_uv_BCT.ndim != 3 or not (len(self.target_BD) == len(self.trial_B) == len(self.picture_B) == n):
            raise ValueError(
                "A batch needs eeg (B, C, T) and one target, trial and picture for each, got "
                f"{tuple(self.eeg_uv_BCT.shape)}, {len(self.target_BD)}, {len(self.trial_B)}, {len(self.picture_B)}."
            )

    def to(self, device: torch.device | str) -> "TrialBatch":
        """Return the batch on another device."""
        return TrialBatch(
            self.eeg_uv_BCT.to(device), self.target_BD.to(device), self.trial_B.to(device), self.picture_B.to(device)
        )


class Fold(Section):
    """One train/val/test division of whole groups. Overlap is refused."""

    name: str
    by: Literal["concept", "run", "subject"]
    """Column of the trial table the groups are values of (`run` means subject_session_run)."""
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


class Manifest(Section):
    """The signed table of contents of a shard set; published last."""

    schema_version: int = SCHEMA_VERSION
    source: SourceFact
    unit: Literal["uV"] = "uV"
    sfreq_hz: float
    tmin_s: float
    n_times: int
    channels: tuple[str, ...]
    target: TargetFact
    trials: tuple[ShardFact, ...]
    pictures: tuple[ShardFact, ...]
    table: FileFact
    """Parquet, one row a trial: trial, key, recording, subject, session, run, position, event, picture, picture_row,
    concept, repetition."""
    folds: tuple[Fold, ...]
    n_trials: int
    n_pictures: int
    dropped: tuple[Dropped, ...] = ()
    findings: tuple[str, ...] = ()
    """What the reader found and decided: duplicate recordings left out, runs with one marker."""
    config_digest: str
    """Experiment.digest('data', 'targets', 'protocol') of the run that prepared the set."""
    digest: str = ""

    def sealed(self) -> "Manifest":
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
