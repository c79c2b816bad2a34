"""The one training loop: for decoders, and for the diffusion model that draws."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from eegdecode import collectives
from eegdecode.config import Schedule
from eegdecode.train import resume
from eegdecode.train.engine import Engine
from eegdecode.train.resume import Progress


class Batches(Protocol):
    """Where batches come from: this rank's part of each global batch, in an order that can be re-entered."""

    def starting_at(self, trials_seen: int) -> Iterator[Any]:
        """Return the batches after the first `trials_seen` samples of all ranks."""


def _ignore(progress: Progress, what: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Report:
    """Where the loop tells what happens; called on every rank, alike.

    Attributes
    ----------
    scalars
        Logs of a training step averaged over ranks, with `lr`.
    validated
        What `validate` returned; called before the state of the same step is saved.
    saved
        Folder with this rank's part of the state.
    """

    scalars: Callable[[Progress, dict[str, float]], None] = _ignore
    validated: Callable[[Progress, dict[str, float]], None] = _ignore
    saved: Callable[[Progress, Path], None] = _ignore


class StreamEndedError(ValueError):
    """The stream had fewer batches than the schedule has steps."""


def fit(
    engine: Engine,
    stream: Batches,
    schedule: Schedule,
    report: Report | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    save_dir: Path | None = None,
    resume_from: Path | None = None,
    log_every: int = 10,
) -> Progress:
    """Train to the last step of the schedule and return the progress; the kept weights are then in `engine.module`.

    Parameters
    ----------
    engine, stream, schedule
        What is trained, on what, for how long and how often it is validated and saved.
    report
        Told of logs, validations and saved states.
    validate
        Takes the task in eval mode and returns scores, with `val_score` (higher is better). The weights of the best
        step are kept; without it, those of the last. Every rank calls it and must score the same trials.
    save_dir
        Local folder for resume states; none are saved without it.
    resume_from
        Folder of a saved state, see `resume.load`.
    log_every
        Steps between two reports of scalars.

    Raises
    ------
    ValueError
        A loss that is not finite (before the weights are touched), a validation without `val_score`, a stream that
        ends.
    """
    report = report or Report()
    progress, best = resume.load(resume_from, engine) if resume_from else (Progress(), None)
    if validate and schedule.steps == 0:  # the start is the model: it is judged, nothing is trained
        scores = _scores(engine.module, validate)
        progress = progress.judged(scores["val_score"])
        report.validated(progress, scores)
        return progress
    batches = stream.starting_at(progress.trials_seen)
    for batch in itertools.islice(batches, schedule.steps - progress.step):
        lr = engine.begin(progress.step)
        loss, logs = engine(batch)
        _stop_unless_finite(loss, progress)
        engine.backward(loss)
        engine.step()
        progress = progress.after(engine.total_batch)
        last = progress.step == schedule.steps
        if last or progress.step % log_every == 0:
            report.scalars(progress, collectives.mean({name: float(v) for name, v in logs.items()} | {"lr": lr}))
        if validate and (last or progress.step % schedule.validate_every == 0):
            scores = _scores(engine.module, validate)
            progress = progress.judged(scores["val_score"])
            best = engine.weights() if progress.best_step == progress.step else best
            report.validated(progress, scores)
        if save_dir and (last or progress.step % schedule.save_every == 0):
            report.saved(progress, resume.save(save_dir, engine, progress, best))
    if progress.step < schedule.steps:
        raise StreamEndedError(f"The stream must last for {schedule.steps} steps, it ended after {progress.step}.")
    if best is not None:
        engine.set_weights(best)
    return progress


def _scores(task: nn.Module, validate: Callable[[nn.Module], Mapping[str, float]]) -> dict[str, float]:
    """Return the validation scores, the same on every rank so that all keep the same step."""
    task.eval()
    with torch.no_grad():
        scores = collectives.mean({name: float(value) for name, value in validate(task).items()})
    task.train()
    if "val_score" not in scores:
        raise ValueError(f"validate must return 'val_score', got {sorted(scores)}.")
    return scores


def _stop_unless_finite(loss: torch.Tensor, progress: Progress) -> None:
    """Raise on every rank if the loss of any rank is NaN or infinite."""
    if not collectives.all_true(bool(torch.isfinite(loss))):
        raise ValueError(
            f"The loss of step {progress.step + 1} must be finite, got {loss.item()} on this rank, after "
            f"{progress.trials_seen} trials; the weights were left as they were. Lower schedule.lr, or look for NaN in "
            "the trials or targets."
        )
