"""What the two-rank tests run: small trainings, the same in one process and as one of two ranks.

Run as `python tests/numerics/ranks.py <rank> <folder>` it is a rank, and leaves its numbers in the folder.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from eegdecode import collectives
from eegdecode.batch import TrialBatch
from eegdecode.config import Compute, Loss, Schedule
from eegdecode.models.decoder import build_decoder
from eegdecode.models.options import PLAIN, EncoderOptions, WithOptions
from eegdecode.train.engine import Engine, build_engine
from eegdecode.train.loop import Report, fit
from eegdecode.train.task import DecodingTask

CHANS, TIMES, DIM, BATCH, STEPS = 4, 90, 8, 8, 6
RUNS: dict[str, dict[str, Any]] = {
    "torch": {"engine": "torch"},
    "zero0": {"engine": "deepspeed", "zero_stage": 0},
    "zero1": {"engine": "deepspeed", "zero_stage": 1},
    "zero2": {"engine": "deepspeed", "zero_stage": 2},
}
PEOPLE = EncoderOptions("linear", n_subjects=3)
Numbers = dict[str, torch.Tensor]


class Slices:
    """This rank's rows of fixed global batches; pictures repeat within a batch.

    Parameters
    ----------
    people
        Whether the decoder is told whose trials they are; then some ranks have no trial of a subject, and some trials
        are of nobody it knows.
    """

    def __init__(self, people: bool = False) -> None:
        generator = torch.Generator().manual_seed(5)
        n = BATCH * STEPS
        self.eeg = torch.randn(n, CHANS, TIMES, generator=generator) * 3 + 1
        self.picture = torch.randint(0, 6, (n,), generator=generator)
        self.target = torch.randn(6, DIM, generator=generator)[self.picture]
        self.subject = torch.randint(-1, 3, (n,), generator=generator) if people else None

    def starting_at(self, trials_seen: int) -> Iterator[TrialBatch]:
        micro = BATCH // collectives.world_size()
        for start in range(trials_seen, len(self.eeg), BATCH):
            low = start + micro * collectives.rank()
            rows = torch.arange(low, low + micro)
            subject = None if self.subject is None else self.subject[rows]
            none = torch.zeros_like(rows)
            yield TrialBatch(self.eeg[rows], self.target[rows], rows, self.picture[rows], none, subject_B=subject)


def schedule(steps: int = STEPS) -> Schedule:
    return Schedule(steps=steps, lr=3e-3, warmup_steps=2, grad_clip=0.5, save_every=3, validate_every=100, seed=7)


def build(how: dict[str, Any], dropout: float = 0.0, name: str = "nice", options: EncoderOptions = PLAIN) -> Engine:
    torch.manual_seed(11 + collectives.rank())  # the engine must give all ranks the weights of rank 0
    decoder = build_decoder(name, CHANS, TIMES, DIM, dropout, temperature=0.1, learn_temperature=True, options=options)
    return build_engine(DecodingTask(decoder, Loss()), schedule(), Compute(**how), BATCH)


def train(engine: Engine, save_dir: Path | None = None, resume_from: Path | None = None) -> Numbers:
    """Train to the end; the loss of each step and the final weights."""
    losses: list[float] = []
    fit(
        engine,
        Slices(isinstance(engine.module.decoder.encoder, WithOptions)),
        schedule(),
        Report(scalars=lambda progress, scalars: losses.append(scalars["loss"])),
        save_dir=save_dir,
        resume_from=resume_from,
        log_every=1,
    )
    return {"losses": torch.tensor(losses, dtype=torch.float64)} | engine.weights()


def gradient(engine: Engine) -> Numbers:
    """Averaged gradients of the first batch: AdamW and clipping would hide a wrong factor in the weights."""
    engine.begin(0)
    loss, _ = engine(next(Slices().starting_at(0)))
    engine.backward(loss)
    found = {}
    for name, p in engine.module.named_parameters():
        grad = p.grad
        if engine.kind == "deepspeed":
            from deepspeed.utils import safe_get_full_grad

            grad = safe_get_full_grad(p)
        assert grad is not None, name
        found[name] = grad.detach().clone()
    return found


def as_one_of_two(rank: int, folder: Path) -> None:
    collectives.join_group(str(folder / "rendezvous"), rank, 2)
    found: dict[str, Numbers] = {}
    found["gradient torch"] = gradient(build(RUNS["torch"]))
    exact_gather, exact_total = collectives.gather, collectives.total
    collectives.gather = lambda x_BD: exact_gather(x_BD) * 0.5 + exact_gather(x_BD).detach() * 0.5
    found["gradient halved"] = gradient(build(RUNS["torch"]))
    collectives.gather = exact_gather
    collectives.total = lambda x: x * 2
    found["gradient local norm"] = gradient(build(RUNS["torch"]))
    collectives.total = exact_total
    for name, how in RUNS.items():
        engine = build(how)
        found[name] = train(engine, save_dir=folder / name)
        if name in ("torch", "zero1"):
            found[f"{name} resumed"] = train(build(how), resume_from=folder / name / "step-00000003")
        if name != "torch":
            found[f"gradient {name}"] = gradient(build(how))
    found["people"] = train(build(RUNS["torch"], options=PEOPLE), save_dir=folder / "people")
    found["people zero1"] = train(build(RUNS["zero1"], options=PEOPLE))
    found["people resumed"] = train(
        build(RUNS["torch"], options=PEOPLE), resume_from=folder / "people" / "step-00000003"
    )
    found["dropout"] = train(build(RUNS["torch"], 0.5, "mlp"), save_dir=folder / "dropout")
    found["dropout resumed"] = train(build(RUNS["torch"], 0.5, "mlp"), resume_from=folder / "dropout" / "step-00000003")
    torch.save(found, folder / f"found-{rank}.pt")
    collectives.leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    as_one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
