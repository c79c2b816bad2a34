"""The only place that talks to torch.distributed.

The convention, everywhere: a rank's objective is its own loss, and the engine AVERAGES gradients over ranks (plain
torch through `average_gradients`, DeepSpeed by itself). The backward passes here therefore add the gradients of all
ranks, so that the averaged gradient is exactly that of the mean of the ranks' losses. A loss that every rank computes
over the gathered batch gives then the gradient of one process on the whole batch.

Without an initialised process group all of it is the world of one process. Shape letters: B rows of this rank, G rows
of all ranks, D features.
"""

import os
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size() if _initialised() else 1


def local_world_size() -> int:
    """Return the number of processes of this run on this node, as its launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def gather(x_BD: torch.Tensor) -> torch.Tensor:
    """Return the rows of all ranks in rank order (G, D), with exact gradient.

    Every rank must bring the same number of rows.
    """
    if world_size() == 1:
        return x_BD
    out: torch.Tensor = _Gather.apply(x_BD)  # type: ignore[no-untyped-call]
    return out


def gather_ids(ids_B: torch.Tensor) -> torch.Tensor:
    """Return the integers of all ranks in rank order (G), without gradient."""
    return ids_B if world_size() == 1 else _all_gather(ids_B)


def total(x: torch.Tensor) -> torch.Tensor:
    """Return the sum over ranks, with exact gradient."""
    if world_size() == 1:
        return x
    out: torch.Tensor = _Total.apply(x)  # type: ignore[no-untyped-call]
    return out


def mean(scalars: dict[str, float]) -> dict[str, float]:
    """Return each number averaged over the ranks; all ranks must bring the same names."""
    if world_size() == 1:
        return dict(scalars)
    names = sorted(scalars)
    values = torch.tensor([scalars[name] for name in names], dtype=torch.float64, device=_device())
    dist.all_reduce(values)
    averaged: list[float] = (values / world_size()).tolist()
    return dict(zip(names, averaged, strict=True))


def all_true(flag: bool) -> bool:
    """Return whether the flag holds on every rank, so that all ranks stop together or none does."""
    if world_size() == 1:
        return flag
    value = torch.tensor([float(flag)], device=_device())
    dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return bool(value.item())


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Average gradients over the ranks in place, in one message per dtype."""
    if world_size() == 1:
        return
    parameters = [p for p in parameters if p.requires_grad]
    for p in parameters:
        if p.grad is None:  # the others may have one: a message must have the same length everywhere
            p.grad = torch.zeros_like(p)
    for dtype in sorted({p.dtype for p in parameters}, key=str):
        grads = [p.grad for p in parameters if p.dtype == dtype and p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= world_size()
        for g, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))


def broadcast(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors in place with those of rank 0."""
    if world_size() == 1:
        return
    for tensor in tensors:
        data = tensor.detach()
        held = data if data.is_contiguous() else data.contiguous()
        dist.broadcast(held, src=0)
        if held is not data:
            data.copy_(held)


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()


def start_group(device: torch.device) -> None:
    """Make sure that a process group exists: the launcher's, or one of this process alone.

    A Ray Train worker comes with a group. Under a launcher (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set) the
    group is made from the environment. Otherwise this process is the whole world and needs no port.
    """
    if not dist.is_available():
        raise RuntimeError(
            "This torch was built without torch.distributed. Use compute.engine='torch' with one worker."
        )
    if _initialised():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]


def join_group(rendezvous: str, rank: int, world_size: int, timeout_s: float = 120) -> None:
    """Join a gloo group that meets at a file; for several processes on one machine without a launcher."""
    store = dist.FileStore(rendezvous, world_size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s))


def leave_group() -> None:
    """End this process's group, if there is one.

    DeepSpeed keeps groups of the first world it meets; where it is loaded, the group is ended through it, so that it
    forgets them and can be used in the next group of this process.
    """
    if not _initialised():
        return
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and deepspeed.comm.is_initialized():
        deepspeed.comm.destroy_process_group()
    else:
        dist.destroy_process_group()


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _all_gather(x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    """Rows of all ranks; backward adds what every rank asks of our rows."""

    @staticmethod
    def forward(ctx: Any, x_BD: torch.Tensor) -> torch.Tensor:
        ctx.rows = x_BD.shape[0]
        return _all_gather(x_BD)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        grad_GD = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad_GD)
        return grad_GD.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)


class _Total(torch.autograd.Function):
    """Sum over ranks; its backward is the same sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        out = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        out = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out)
        return out
