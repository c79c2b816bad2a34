"""What updates a task: DeepSpeed, or plain torch to hold it against. The only file that knows DeepSpeed.

Both engines do the same arithmetic: AdamW on float32 weights, gradients averaged over ranks (see `collectives`),
clipped by their global norm, a learning rate that is a function of the step alone. bfloat16 is autocast around the
forward pass in both; weights, optimiser and gradients' sums stay in float32, so the ZeRO stage does not change a
result.
"""

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from eegdecode import collectives
from eegdecode.config import Compute, Schedule

Logs = Mapping[str, torch.Tensor | float]


def learning_rate(schedule: Schedule, step: int) -> float:
    """Return the learning rate of the step that follows `step` finished ones.

    Linear warm-up over `warmup_steps`, then constant, or half a cosine that would reach 0 at `steps`.
    """
    if step < schedule.warmup_steps:
        return schedule.lr * (step + 1) / schedule.warmup_steps
    if schedule.decay == "constant":
        return schedule.lr
    done = (step - schedule.warmup_steps) / max(schedule.steps - schedule.warmup_steps, 1)
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of all random draws of one step on one rank (dropout, diffusion noise): no state to restore."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Engine(ABC):
    """A task with its optimiser on this rank.

    Attributes
    ----------
    module
        The task. Call the engine to train; call the module, or parts of it, to score.
    total_batch
        Samples a step takes on all ranks together.
    """

    kind: str
    zero_stage = 0

    def __init__(
        self, task: nn.Module, schedule: Schedule, device: torch.device, bfloat16: bool, total_batch: int
    ) -> None:
        self.module = task
        self.total_batch = total_batch
        self.device = device
        self.optimizer = _adamw(task, schedule)
        self._schedule = schedule
        self._forward = _Forward(task, device.type, bfloat16)

    def begin(self, step: int) -> float:
        """Set learning rate and random state for the step that follows `step` finished ones; return the rate."""
        lr = learning_rate(self._schedule, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        torch.manual_seed(step_seed(self._schedule.seed, step, collectives.rank()))
        return lr

    @abstractmethod
    def __call__(self, batch: Any) -> tuple[torch.Tensor, Logs]:
        """Return loss and logs of this rank's part of the batch, moved to the device where it has `.to`."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients, averaged over ranks by the time of `step`."""

    @abstractmethod
    def step(self) -> None:
        """Clip, update, forget the gradients."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write this rank's part of the state; every rank must call it, file names do not collide."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote, in a folder that holds the files of every rank."""

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the task's whole state on the CPU; every rank must call it."""
        return {name: value.detach().to("cpu", copy=True) for name, value in self.module.state_dict().items()}

    def set_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the module for use after training; the optimiser does not follow."""
        self.module.load_state_dict(state)


def build_engine(task: nn.Module, schedule: Schedule, compute: Compute, total_batch: int) -> Engine:
    """Return the engine that `compute` names, with the weights of rank 0 on every rank.

    Works in one process without a launcher, under torchrun, and in a Ray Train worker.

    Parameters
    ----------
    task
        A module whose forward takes a batch and returns (loss, logs).
    schedule
        Optimiser and its course. Weight decay spares parameters of one dimension: biases, norms, the logit scale.
    compute
        Engine, precision and ZeRO stage; `gpus_per_worker` above 0 asks for CUDA.
    total_batch
        Samples a step takes on all ranks together.

    Raises
    ------
    ValueError
        A batch that the ranks cannot share evenly, a GPU asked for where there is none, a parameter without dimensions.
    """
    world = collectives.world_size()
    if total_batch % world:
        raise ValueError(
            f"A batch of {total_batch} cannot be shared evenly by {world} ranks; choose a multiple of {world}."
        )
    for name, parameter in task.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"parameter '{name}' must have a dimension, DeepSpeed cannot send it otherwise: use shape [1]."
            )
    device = device_of(compute)
    bfloat16 = compute.precision == "bfloat16"
    task.to(device)
    task.train()
    if compute.engine == "torch":
        collectives.broadcast([*task.parameters(), *task.buffers()])
        return TorchEngine(task, schedule, device, bfloat16, total_batch)
    collectives.start_group(device)
    collectives.broadcast([*task.parameters(), *task.buffers()])
    return DeepSpeedEngine(task, schedule, device, bfloat16, total_batch, compute.zero_stage)


def deepspeed_config(
    schedule: Schedule, zero_stage: int, total_batch: int, world: int, n_weights: int
) -> dict[str, Any]:
    """Return DeepSpeed's configuration, derived from ours; nothing in it is decided twice."""
    bucket = min(n_weights + n_weights % 2, 500_000_000)  # the default has room for 5e8 whatever the model; even
    return {
        "train_batch_size": total_batch,
        "train_micro_batch_size_per_gpu": total_batch // world,
        "gradient_accumulation_steps": 1,  # accumulation would shrink the contrastive batch silently
        "gradient_clipping": schedule.grad_clip,
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 2**31,
    }


class TorchEngine(Engine):
    """Plain torch: every rank holds everything."""

    kind = "torch"

    def __call__(self, batch: Any) -> tuple[torch.Tensor, Logs]:
        """Return loss and logs."""
        out: tuple[torch.Tensor, Logs] = self._forward(_moved(batch, self.device))
        return out

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients and average them over ranks."""
        loss.backward()  # type: ignore[no-untyped-call]
        collectives.average_gradients(self.module.parameters())

    def step(self) -> None:
        """Clip, update, forget the gradients."""
        if self._schedule.grad_clip > 0:
            nn.utils.clip_grad_norm_(self.module.parameters(), self._schedule.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write `engine.pt` on rank 0; the other ranks hold the same."""
        if collectives.rank() == 0:
            state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(state, folder / "engine.pt")

    def load(self, folder: Path) -> None:
        """Read `engine.pt`, as tensors and plain values only."""
        state = torch.load(folder / "engine.pt", map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine(Engine):
    """DeepSpeed with ZeRO stage 0 to 3. Its checkpoints are pickles: private, read by the run that wrote them."""

    kind = "deepspeed"

    def __init__(
        self,
        task: nn.Module,
        schedule: Schedule,
        device: torch.device,
        bfloat16: bool,
        total_batch: int,
        zero_stage: int,
    ) -> None:
        super().__init__(task, schedule, device, bfloat16, total_batch)
        if device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # otherwise it takes a GPU that happens to be there
        os.environ.setdefault("LOCAL_RANK", "0")
        import deepspeed  # 13 s; plain torch does not pay for it

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # its import sets INFO
        # On a CPU it would compile a shared-memory all-reduce at start, and stop where there is no C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._deepspeed = deepspeed
        self.zero_stage = zero_stage
        n_weights = sum(p.numel() for p in task.parameters())
        self._engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self._forward,
            optimizer=self.optimizer,
            config=deepspeed_config(schedule, zero_stage, total_batch, collectives.world_size(), n_weights),
        )

    def __call__(self, batch: Any) -> tuple[torch.Tensor, Logs]:
        """Return loss and logs."""
        out: tuple[torch.Tensor, Logs] = self._engine(_moved(batch, self.device))
        return out

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients; DeepSpeed averages them over ranks."""
        self._engine.backward(loss)

    def step(self) -> None:
        """Clip, update, forget the gradients."""
        self._engine.step()

    def save(self, folder: Path) -> None:
        """Write this rank's files under `engine/`."""
        self._engine.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read the files of every rank under `engine/`."""
        where, _ = self._engine.load_checkpoint(str(folder), tag="engine")
        if where is None:
            raise ValueError(
                f"{folder} holds no DeepSpeed state that can be read; it must hold the files of every rank."
            )

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of the task's whole state on the CPU; every rank must call it."""
        with self._whole(modifier_rank=None):
            return super().weights()

    def set_weights(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put weights into the module for use after training; the optimiser does not follow."""
        with self._whole(modifier_rank=0):
            super().set_weights(state)

    def _whole(self, modifier_rank: int | None) -> Any:
        """Return a context in which ZeRO-3's scattered parameters are whole; nothing happens at other stages."""
        return self._deepspeed.zero.GatheredParameters(
            list(self.module.parameters()), modifier_rank=modifier_rank, enabled=self.zero_stage == 3
        )


class _Forward(nn.Module):
    """The task under the chosen precision; inside the engine, so that DeepSpeed sees float32 weights only."""

    def __init__(self, task: nn.Module, device_type: str, bfloat16: bool) -> None:
        super().__init__()
        self.task = task
        self._device_type, self._bfloat16 = device_type, bfloat16

    def forward(self, batch: Any) -> tuple[torch.Tensor, Logs]:
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._bfloat16):
            out: tuple[torch.Tensor, Logs] = self.task(batch)
        return out


def _adamw(task: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only."""
    trained = [p for p in task.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.lr, betas=schedule.betas)


def device_of(compute: Compute) -> torch.device:
    """Return the device this worker computes on.

    Raises
    ------
    ValueError
        A GPU asked for where there is none.
    """
    if compute.gpus_per_worker == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(
            f"compute.gpus_per_worker is {compute.gpus_per_worker} but this worker sees no GPU. "
            "Set it to 0 to run on the CPU."
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _moved(batch: Any, device: torch.device) -> Any:
    return batch.to(device) if hasattr(batch, "to") else batch
