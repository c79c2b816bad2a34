"""Ridge from the stream on 1, 2 and 4 real ranks, in any batch size, is the closed form of all rows in memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eegdecode.data.stream import Stream
from eegdecode.train.ridge import first_pass
from tests.numerics import ridge_ranks
from tests.numerics.ridge_ranks import BATCHES, CASES, DIMS, Numbers

ROOT = Path(__file__).resolve().parents[2]
WORLDS = (1, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("ridge")
    ridge_ranks.write(where)
    return where


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, list[dict[str, Numbers]]]:
    """Every case as every world fits it, rank by rank."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = {
        world: [
            subprocess.Popen(
                [sys.executable, str(ROOT / "tests/numerics/ridge_ranks.py"), str(rank), str(world), str(folder)],
                env=environment,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            for rank in range(world)
        ]
        for world in WORLDS[1:]
    }
    got = {1: [ridge_ranks.all_cases(folder)]}
    for world, ranks in runs.items():
        said = [rank.communicate(timeout=300)[1].decode()[-2000:] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0] * world, said
        got[world] = [torch.load(folder / f"found-{rank}-of-{world}.pt", weights_only=True) for rank in range(world)]
    return got


def rows(folder: Path, case: str, part: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All samples of a part in memory: features in float64, and targets as they are compared."""
    described, shards = ridge_ranks.opened(folder, case, 8)
    fold = shards.folds[0]
    if described.protocol.selection == "last":
        fold = fold.model_copy(update={"train": (*fold.train, *fold.val), "val": ()})
    trials = shards.trials_of(fold, part)  # type: ignore[arg-type]
    eeg, row = shards.gather(trials).astype(np.float64), shards.picture_row[trials]
    if described.stream.average == 0:
        subject = shards.table["subject"].to_numpy()[trials]
        pairs = sorted(set(zip(subject, row, strict=True)))
        eeg = np.stack([eeg[(subject == s) & (row == r)].mean(axis=0) for s, r in pairs])
        row = np.array([r for _, r in pairs])
    train_rows = np.unique(shards.picture_row[shards.trials_of(fold, "train")])
    targets = {name: one.target_PD[row].astype(np.float64) for name, one in shards.targets.items()}
    if described.targets.centre:
        targets[""] -= shards.target_PD[train_rows].mean(axis=0, dtype=np.float64)
    return eeg.reshape(len(eeg), -1), targets


def by_rows(folder: Path, case: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias by solving for every penalty and looking at every row; nothing of the project's solver."""
    _, alphas, n_val, centre = CASES[case]
    x, targets = rows(folder, case, "train")
    y = targets[name]
    unit = x.std(axis=0, ddof=1)
    z = (x - x.mean(axis=0)) / unit
    maps, errors = [], []
    held = rows(folder, case, "val") if n_val else None
    for alpha in alphas:
        weight = np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ (y - y.mean(axis=0))) / unit[:, None]
        bias = y.mean(axis=0) - x.mean(axis=0) @ weight
        if held is not None:
            errors.append(np.sum((held[0] @ weight + bias - held[1][name]) ** 2))
        else:
            hat = z @ np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T)
            errors.append(np.sum((x @ weight + bias - y) ** 2) / (len(x) - 1 - np.trace(hat)) ** 2)
        maps.append((weight, bias))
    weight, bias = maps[int(np.argmin(errors))]
    if not name and centre:
        return weight, bias
    x, y = held[0] if held else x, held[1][name] if held else y
    predicted = x @ weight
    weight = weight * y.std(axis=0) / predicted.std(axis=0)
    return weight, y.mean(axis=0) - x.mean(axis=0) @ weight


def furthest(got: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(got.double().numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("world", WORLDS)
def test_any_number_of_ranks_and_any_batch_is_the_closed_form(
    world: int, case: str, found: dict[int, list[dict[str, Numbers]]], folder: Path
) -> None:
    for name in DIMS:
        weight, bias = by_rows(folder, case, name)
        where = f"heads.{name}.map" if name else "encoder.map"
        for batch in BATCHES:
            for rank in found[world]:
                state = rank[f"{case} {batch}"]
                assert furthest(state[f"{where}.weight"].T, weight) < 1e-6, (name, batch)
                assert furthest(state[f"{where}.bias"], bias) < 1e-6, (name, batch)


@pytest.mark.parametrize("world", WORLDS[1:])
def test_features_of_covariances_are_those_of_one_rank(world: int, found: dict[int, list[dict[str, Numbers]]]) -> None:
    alone = found[1][0]["riemann"]
    assert float(alone["encoder.map.weight"].abs().max()) > 0
    for rank in found[world]:
        for name, value in rank["riemann"].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-6, atol=1e-6)


def test_the_choice_of_the_penalty_can_be_wrong(folder: Path) -> None:
    """The chosen one is neither the least nor the largest, so that the tests above look at a choice."""
    x, targets = rows(folder, "validation", "train")
    held_x, held = rows(folder, "validation", "val")
    unit = x.std(axis=0, ddof=1)
    z, y = (x - x.mean(axis=0)) / unit, targets[""]
    errors = []
    for alpha in ridge_ranks.ALPHAS:
        weight = np.linalg.solve(z.T @ z + alpha * np.eye(z.shape[1]), z.T @ (y - y.mean(axis=0))) / unit[:, None]
        errors.append(np.sum((held_x @ weight + y.mean(axis=0) - x.mean(axis=0) @ weight - held[""]) ** 2))
    assert 0 < int(np.argmin(errors)) < len(errors) - 1


def test_the_ranks_together_bring_every_sample_once(folder: Path) -> None:
    described, shards = ridge_ranks.opened(folder, "validation", 24)
    trials = shards.trials_of(shards.folds[0], "train")
    for world in WORLDS:
        streams = [Stream(shards, trials, 24, 3, rank, world, described.stream) for rank in range(world)]
        taken = np.concatenate([batch.trial_B.numpy() for stream in streams for batch in first_pass(stream)])
        assert sorted(taken.tolist()) == trials.tolist()
