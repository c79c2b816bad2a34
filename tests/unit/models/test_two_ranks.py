"""BatchNorm and losses: two ranks with half of the rows each give values and gradients of one process with all.

Run as `python tests/unit/models/test_two_ranks.py <rank> <folder>` it is a rank, and leaves its numbers in the folder.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eegdecode import collectives, losses
from eegdecode.models.norm import BatchNorm

ROWS, DIM = 12, 5
SCALE, BIAS = torch.tensor([1.0]), torch.tensor([-2.0])
Numbers = dict[str, torch.Tensor]


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    z, target = (torch.randn(ROWS, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    return z, target, torch.randint(0, 5, (ROWS,), generator=generator)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "info_nce": lambda z, t, p: losses.info_nce(z, t, SCALE, p),
    "siglip": lambda z, t, p: losses.siglip(z, t, SCALE, BIAS, p),
    "mse": lambda z, t, p: losses.mse(z, t),
    "cosine": lambda z, t, p: losses.cosine(z, t),
    "mmd": lambda z, t, p: losses.mmd(z, t + 1),
    "mmd_unbiased": lambda z, t, p: losses.mmd(z, t + 1, unbiased=True),
    "triplet": lambda z, t, p: losses.triplet(z, p, 0.5),
    "triplet_semi_hard": lambda z, t, p: losses.triplet(z, p, 0.5, "semi_hard"),
    "ce_hard": lambda z, t, p: losses.cross_entropy(z, p),
    "ce_soft": lambda z, t, p: losses.cross_entropy(z, t.softmax(1)),
}


def numbers() -> Numbers:
    """All values and gradients for this rank's rows. A weight shared by the ranks has the average of its gradients."""
    share = ROWS // collectives.world_size()
    mine = slice(collectives.rank() * share, (collectives.rank() + 1) * share)
    z_all, target_all, picture_all = inputs()
    found: Numbers = {}
    for name, loss in LOSSES.items():
        weight = torch.nn.Parameter(torch.eye(DIM, dtype=torch.float64))
        value = loss(z_all[mine] @ weight, target_all[mine], picture_all[mine])
        torch.autograd.backward(value)
        collectives.average_gradients([weight])
        assert weight.grad is not None
        found |= {f"{name} value": value.detach(), f"{name} gradient": weight.grad}
    norm = BatchNorm(DIM).double()
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    eeg = torch.stack([z_all, target_all], dim=2)[mine].requires_grad_()
    output = norm(eeg)
    torch.autograd.backward((output * torch.stack([target_all, z_all], dim=2)[mine]).sum() * collectives.world_size())
    collectives.average_gradients(norm.parameters())
    # The backward adds up what every rank asks, and the engine's average is over weights: rows come times the world.
    assert eeg.grad is not None
    found["norm rows"] = collectives.gather(torch.cat([output, eeg.grad / collectives.world_size()], dim=2).detach())
    found |= {f"norm {name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return found | {f"norm {name}": buffer for name, buffer in norm.named_buffers()}


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        for rank in range(2)
    ]
    alone = numbers()
    said = [rank.communicate(timeout=300)[1].decode()[-2000:] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    for rank in range(2):
        found = torch.load(tmp_path / f"found-{rank}.pt", weights_only=True)
        assert set(found) == set(alone)
        for name, value in found.items():
            torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    assert len(alone) == 2 * len(LOSSES) + 5
    assert all(float(alone[f"{name} gradient"].abs().max()) > 1e-4 for name in LOSSES)


def test_the_losses_of_the_table_are_all_here() -> None:
    assert set(LOSSES) == set(losses.LOSSES)


def test_alone_it_is_the_batchnorm_of_torch() -> None:
    ours, theirs = BatchNorm(DIM), torch.nn.BatchNorm1d(DIM)
    x = torch.randn(ROWS, DIM, 7) * 3 + 1
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    with pytest.raises(RuntimeError):
        ours(x[:, :-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    collectives.join_group(str(Path(sys.argv[2]) / "rendezvous"), int(sys.argv[1]), 2)
    torch.save(numbers(), Path(sys.argv[2]) / f"found-{sys.argv[1]}.pt")
    collectives.leave_group()
