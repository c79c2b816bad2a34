"""The state a run needs to go on as if it had never stopped: engine, progress, best weights.

Private to the run and shaped by the engine; what is shared is a bundle. A state is a folder `step-<n>`, written under
another name and renamed when every rank has finished; `latest` beside it names it and is written last. Ranks may
share the folder, or each have its own whose files are merged afterwards (Ray Train's checkpoints): file names do not
collide.

Nothing random is kept: the order of trials and all draws of a step are functions of (seed, step, rank).
"""

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from eegdecode import collectives
from eegdecode.train.engine import Engine

_KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Everything the loop needs to go on, beside the engine's own state.

    Attributes
    ----------
    step
        Finished updates.
    trials_seen
        Samples consumed by all ranks together; the position in the stream.
    best_val, best_step
        Highest validation score so far and where; None before the first.
    """

    step: int = 0
    trials_seen: int = 0
    best_val: float | None = None
    best_step: int | None = None

    def after(self, total_batch: int) -> "Progress":
        """Return the progress one update later."""
        return Progress(self.step + 1, self.trials_seen + total_batch, self.best_val, self.best_step)

    def judged(self, val_score: float) -> "Progress":
        """Return the progress with this step as the best one, if it scores above all before it."""
        if self.best_val is not None and val_score <= self.best_val:
            return self
        return Progress(self.step, self.trials_seen, val_score, self.step)


Weights = dict[str, torch.Tensor]


def save(folder: Path, engine: Engine, progress: Progress, best: Weights | None) -> Path:
    """Write the state of this step under `folder` and return its folder; every rank must call it."""
    final = folder / f"step-{progress.step:08d}"
    draft = folder / f".{final.name}.part"
    for leftover in (draft, final):  # of a run that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    collectives.barrier()
    draft.mkdir(parents=True, exist_ok=True)
    engine.save(draft)
    if collectives.rank() == 0:
        if best is not None:
            save_file(best, draft / "best.safetensors")
        facts = {
            "progress": asdict(progress),
            "has_best": best is not None,
            "engine": engine.kind,
            "zero_stage": engine.zero_stage,
            "world_size": collectives.world_size(),
        }
        (draft / "progress.json").write_text(json.dumps(facts))
    collectives.barrier()
    if draft.exists():
        with contextlib.suppress(FileNotFoundError):  # a rank that shares the folder was first
            draft.rename(final)
    collectives.barrier()
    pointer = folder / f".latest.{collectives.rank()}"
    pointer.write_text(final.name)
    os.replace(pointer, folder / "latest")
    for old in sorted(folder.glob("step-*"))[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """Return the newest finished state under `folder`; None without one."""
    pointer = folder / "latest"
    if not pointer.is_file():
        return None
    state = folder / pointer.read_text().strip()
    return state if state.is_dir() else None


def load(folder: Path, engine: Engine) -> tuple[Progress, Weights | None]:
    """Put a saved state into the engine; every rank must call it.

    Parameters
    ----------
    folder
        A state, or a folder whose `latest` names one; it must hold the files of every rank.
    engine
        Built as it was for the run that saved.

    Raises
    ------
    ValueError
        No finished state there, or one of another engine, ZeRO stage or number of ranks.
    """
    state = latest(folder) or folder
    facts_file = state / "progress.json"
    if not facts_file.is_file():
        raise ValueError(f"{folder} must hold a finished state (progress.json), got none: the run saved nothing there.")
    facts = json.loads(facts_file.read_text())
    saved = (facts["engine"], facts["zero_stage"])
    if saved != (engine.kind, engine.zero_stage):
        raise ValueError(
            f"{state} was saved by engine {saved[0]} with ZeRO stage {saved[1]} and must be resumed by the same, got "
            f"{engine.kind} with stage {engine.zero_stage}. Set compute.engine and compute.zero_stage as they were."
        )
    world = collectives.world_size()
    if engine.zero_stage > 0 and facts["world_size"] != world:
        raise ValueError(
            f"{state} was saved by {facts['world_size']} ranks with ZeRO stage {engine.zero_stage} and must be resumed "
            f"by as many, got {world}. Set compute.workers as it was, or train with compute.zero_stage=0."
        )
    engine.load(state)
    best = load_file(state / "best.safetensors") if facts["has_best"] else None
    return Progress(**facts["progress"]), best
