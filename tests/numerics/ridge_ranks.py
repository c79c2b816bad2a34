"""What the ridge tests run: a linear decoder fitted from a published set, as one of any number of ranks.

Run as `python tests/numerics/ridge_ranks.py <rank> <world> <folder>` it is a rank, and leaves its weights there.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from eegdecode import collectives
from eegdecode.config import Experiment
from eegdecode.data import shards
from eegdecode.train.fold import build_fold
from tests.writers import shard_set

CHANS, TIMES, PICTURES, TRIALS = 3, 8, 60, 190
DIMS = {"": 5, "text": 4}
ALPHAS = (0.0, 3.0, 30.0, 300.0, 3000.0)
BATCHES = (8, 24, 104)
"""One that the trials are many of, one that they are no multiple of, one that takes most of them."""
Numbers = dict[str, torch.Tensor]


def write(folder: Path) -> None:
    """Publish trials with an offset, of unlike scale, and two targets that are noisy linear maps of them."""
    rng = np.random.default_rng(4)
    row = np.concatenate([np.arange(PICTURES), rng.integers(0, PICTURES, TRIALS - PICTURES)])
    code = rng.normal(size=(PICTURES, 6))
    scale = 10.0 ** rng.uniform(-1, 1, CHANS * TIMES)
    x = (code[row] @ rng.normal(size=(6, CHANS * TIMES)) + 2 * rng.normal(size=(TRIALS, CHANS * TIMES))) * scale + 40
    table = shard_set.trial_table(
        TRIALS,
        row,
        subject=np.array(["01", "02"])[np.arange(TRIALS) % 2],
        partition=np.where(row < 50, "train", "test"),
    )
    pictures = [shards.PackedPicture(f"p{k}", f"c{k}", Image.new("RGB", (4, 4))) for k in range(PICTURES)]
    uri = str(folder / "eeg")
    made = shard_set.write_set(uri, x.reshape(TRIALS, CHANS, TIMES), table, (100, 90), pictures)
    manifest = shards.publish(uri, made, table)
    for name, dim in DIMS.items():
        target = code @ rng.normal(size=(6, dim)) + 5
        ids = [p.picture for p in pictures]
        shard_set.publish_targets(str(folder / f"target-{name}"), manifest, ids, target.astype(np.float32))


def experiment(average: int, batch: int, alphas: tuple[float, ...], n_val: int, centre: bool = True) -> Experiment:
    return Experiment(recipe="ridge").override(
        {
            "targets.also": {"text": "gabor"},
            "targets.centre": centre,
            "encoder.name": "linear",
            "encoder.start": "ridge",
            "encoder.alphas": alphas,
            "encoder.whiten": "none",
            "stream.average": average,
            "loss.contrastive_batch": batch,
            "loss.terms": [{"name": "mse"}, {"name": "mse", "target": "text"}],
            "schedule.steps": 0,
            "protocol.n_val": n_val,
            "protocol.selection": "validation" if n_val else "last",
        }
    )


CASES = {
    "validation": (1, ALPHAS, 12, True),
    "generalised": (1, ALPHAS, 0, True),
    "one penalty": (1, (30.0,), 0, True),
    "averaged": (0, ALPHAS, 12, True),
    "uncentred": (0, ALPHAS, 12, False),
}
"""Repetitions averaged, penalties, validation concepts, targets centred."""


def opened(folder: Path, case: str, batch: int) -> tuple[Experiment, shards.ShardSet]:
    average, alphas, n_val, centre = CASES[case]
    described = experiment(average, batch, alphas, n_val, centre)
    targets = {name: str(folder / f"target-{name}") for name in DIMS}
    return described, shards.open_shards(str(folder / "eeg"), targets=targets, protocol=described.protocol)


def fitted(folder: Path, case: str, batch: int) -> Numbers:
    """Return the weights of the decoder that this rank, with the others, fits."""
    described, found = opened(folder, case, batch)
    run = build_fold(described, found, found.folds[0], collectives.rank(), collectives.world_size())
    return {name: value.detach().clone() for name, value in run.task.decoder.state_dict().items()}


def of_covariances(folder: Path) -> Numbers:
    """Return the decoder whose features are statistics of training trials, too."""
    described = experiment(1, 24, (30.0,), 0).override(
        {"targets.also": {}, "loss.terms": [{"name": "mse"}], "encoder.name": "riemann"}
    )
    targets = {"": str(folder / "target-")}
    found = shards.open_shards(str(folder / "eeg"), targets=targets, protocol=described.protocol)
    run = build_fold(described, found, found.folds[0], collectives.rank(), collectives.world_size())
    return {name: value.detach().clone() for name, value in run.task.decoder.state_dict().items()}


def all_cases(folder: Path) -> dict[str, Numbers]:
    linear = {f"{case} {batch}": fitted(folder, case, batch) for case in CASES for batch in BATCHES}
    return linear | {"riemann": of_covariances(folder)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, world, where = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    collectives.join_group(str(where / f"rendezvous-{world}"), rank, world)
    torch.save(all_cases(where), where / f"found-{rank}-of-{world}.pt")
    collectives.leave_group()
