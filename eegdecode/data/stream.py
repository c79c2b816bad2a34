"""Trial batches for training, in the order of `eegdecode.data.order`: the same on any number of ranks.

A rank reads the trials of its own partitions and no others. One integer, the trials seen by all ranks together, is all
that a restart needs beside the seed, also on another number of ranks.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch

from eegdecode import collectives
from eegdecode.batch import TrialBatch
from eegdecode.config import Stream as Spec
from eegdecode.data.order import Order, key_of, permuted
from eegdecode.data.shardset import ShardSet, Untested

Residency = Literal["auto", "disk", "ram", "device"]
ROOM = 0.6
"""Share of the free memory that resident trials may take."""
_LOAD_TRIALS = 4096
_AHEAD_STEPS = 32
_BLOCK = 16
"""Batches whose samples are worked out together."""
_THREADS = 2
"""That read ahead, a batch each."""

I64 = npt.NDArray[np.int64]


class Stream:
    """The trials of one part of a fold, in the order of the stream.

    Parameters
    ----------
    trials
        Int64, the part's trials, ascending: of `ShardSet.trials_of`, which gives none of the test part.
    batch
        Samples per step on all ranks together; a multiple of the partitions.
    rank, world
        Which rank this is of how many; ``world`` divides the partitions.
    residency
        Where trials are gathered from; `auto` is `device` on a GPU that has room for this rank's trials, else `disk`.
    device
        Where batches are wanted; they come from there with `device` residency, and from the CPU else.
    subject_row_N
        Row of the subject of every trial of the set in a decoder's table of subjects; None where it has none.

    Attributes
    ----------
    n
        Samples of a pass: trials, or pictures of a subject where repetitions are averaged.
    residency
        What was chosen.
    """

    def __init__(
        self,
        shards: ShardSet,
        trials: Untested,
        batch: int,
        seed: int,
        rank: int,
        world: int,
        spec: Spec | None = None,
        residency: Residency = "disk",
        device: torch.device | str = "cpu",
        subject_row_N: I64 | None = None,
    ) -> None:
        spec = spec or Spec()
        parts = spec.partitions
        if len(trials) == 0:
            raise ValueError("this part of the fold has no trials; nothing can be streamed.")
        if batch < 1 or batch % parts:
            low = batch - batch % parts
            raise ValueError(
                f"the global batch must be a multiple of stream.partitions, got {batch} over {parts}. "
                f"Nearest valid values: {low or parts}, {low + parts}."
            )
        if world < 1 or parts % world:
            raise ValueError(f"the number of ranks must divide stream.partitions={parts}, got {world}.")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0 to {world - 1}, got {rank}.")
        self._shards, self._batch, self._seed = shards, batch, seed
        self._subject_row_N = subject_row_N
        self._samples = Samples(shards, np.asarray(trials, np.int64), spec.average, seed)
        self.n = self._samples.n
        cell = -(-self.n // max(1, len(shards.manifest.trials))) if spec.shuffle_shards else 0
        self._order = Order(self.n, parts, seed, cell, spec.shuffle_shards)
        self._own = range(rank * parts // world, (rank + 1) * parts // world)
        self.device = torch.device(device)
        self.residency = residency if residency != "auto" else self._choose()
        self._resident: _Resident | None = None

    def starting_at(self, trials_seen: int) -> Generator[TrialBatch, None, None]:
        """Yield this rank's batches for ever, after the first ``trials_seen`` samples of all ranks together.

        Batches are read ahead by threads, which end when the iterator is closed or dropped, as does fetching ahead.
        """
        if trials_seen < 0:
            raise ValueError(f"trials_seen must be at least 0, got {trials_seen}.")
        if self.residency != "disk" and self._resident is None:
            where = self.device if self.residency == "device" else torch.device("cpu")
            self._resident = _Resident(self._shards, self._samples.trials_of(self._order.owned(self._own)), where)
        # Some batches' samples at a time, kept until both threads are past them.
        items = lru_cache(maxsize=4)(lambda block: self._items_of(trials_seen + block * _BLOCK * self._batch, _BLOCK))

        def read(k: int) -> TrialBatch:
            self._prefetch(trials_seen, k)
            item_SB, pass_SB = items(k // _BLOCK)
            gather = self._resident.gather if self._resident else self._shards.gather
            return self._batch_of(item_SB[k % _BLOCK], pass_SB[k % _BLOCK], gather)

        return _ahead(read, self._shards.stop_prefetch)

    def once(self) -> Iterator[TrialBatch]:
        """Yield the whole part in ascending order, the last batch short; the same on every rank, so that all agree."""
        for start in range(0, self.n, self._batch):
            items = np.arange(start, min(start + self._batch, self.n))
            yield self._batch_of(items, np.zeros_like(items), self._shards.gather)

    def items_at(self, position: int) -> tuple[I64, I64]:
        """Return this rank's samples of the global batch that begins at a position, and the pass of each.

        They come partition by partition, ascending in each, so that the ranks' parts one after the other are what one
        rank would have, and trials of one shard are read together.
        """
        item_SB, pass_SB = self._items_of(position, 1)
        return item_SB[0], pass_SB[0]

    def _items_of(self, position: int, steps: int) -> tuple[I64, I64]:
        """Return what `items_at` does for some batches in a row, (steps, samples): much cheaper than one by one."""
        parts = self._order.partitions
        start_S11 = position + self._batch * np.arange(steps)[:, None, None]
        partition_P1 = np.arange(self._own.start, self._own.stop)[:, None]
        place_SPR = start_S11 + (partition_P1 - start_S11) % parts + parts * np.arange(self._batch // parts)
        item_SPR, pass_SPR = (found.reshape(place_SPR.shape) for found in self._order.items_at(place_SPR.ravel()))
        rows_SPR = np.argsort(item_SPR, axis=2, kind="stable")
        item_SPR, pass_SPR = (np.take_along_axis(found, rows_SPR, 2) for found in (item_SPR, pass_SPR))
        return item_SPR.reshape(steps, -1), pass_SPR.reshape(steps, -1)

    def trials_at(self, position: int) -> I64:
        """Return this rank's trials of the global batch that begins at a position of the endless sequence."""
        trials_BR, _ = self._samples.members(*self.items_at(position))
        return trials_BR[:, 0]

    def _prefetch(self, trials_seen: int, k: int) -> None:
        """Have shards fetched before they are needed: all of this rank's at the start, or a window's at a time."""
        if self._resident is not None or (k and not self._order.cells) or k % _AHEAD_STEPS:
            return
        if not self._order.cells:
            wanted = self._samples.trials_of(self._order.owned(self._own))
        else:
            first, steps = (k + _AHEAD_STEPS, _AHEAD_STEPS) if k else (0, 2 * _AHEAD_STEPS)
            wanted = self._samples.trials_of(self._items_of(trials_seen + first * self._batch, steps)[0].ravel())
        shards = self._shards.shard_of(wanted)
        self._shards.prefetch(dict.fromkeys(shards.tolist()))

    def _batch_of(
        self, items: I64, pass_B: I64, gather: Callable[[I64], npt.NDArray[np.float16] | torch.Tensor]
    ) -> TrialBatch:
        trials_BR, own_BR = self._samples.members(items, pass_B)
        eeg = torch.as_tensor(gather(trials_BR[own_BR] if own_BR is not None else trials_BR[:, 0]))
        if own_BR is not None:
            eeg = _averaged(eeg, own_BR)
        row_B = self._shards.picture_row[trials_BR[:, 0]].astype(np.int64)
        wanted = {name: torch.from_numpy(found.target_PD[row_B]) for name, found in self._shards.targets.items()}
        batch = TrialBatch(
            eeg_uv_BCT=eeg,
            target_BD=wanted.pop(""),
            trial_B=torch.from_numpy(trials_BR[:, 0]),
            picture_B=torch.from_numpy(row_B),
            pass_B=torch.from_numpy(pass_B),
            also=wanted,
            subject_B=None if self._subject_row_N is None else torch.from_numpy(self._subject_row_N[trials_BR[:, 0]]),
        )
        return batch.to(self.device) if self.residency == "device" else batch

    def _choose(self) -> Residency:
        """Choose `device` where a GPU has room for this rank's trials."""
        if self.device.type != "cuda":
            return "disk"
        free, _ = torch.cuda.mem_get_info(self.device)
        shape = len(self._shards.manifest.channels) * self._shards.manifest.n_times
        needed = 2 * shape * len(self._samples.trials_of(self._order.owned(self._own)))
        return "device" if needed <= ROOM * free else "disk"


class Samples:
    """What one training sample is: a trial, or several repetitions of a picture in a subject that are averaged.

    Attributes
    ----------
    n
        Number of samples.
    """

    def __init__(self, shards: ShardSet, trials: I64, average: int, seed: int) -> None:
        self._trials, self._average, self._seed = trials, average, seed
        self.n = len(trials)
        if average == 1:
            return
        subject = shards.columns(["subject"])["subject"].cat.codes.to_numpy(np.int64)
        groups = subject[trials] * shards.manifest.n_pictures
        _, code_N, count_G = np.unique(groups + shards.picture_row[trials], return_inverse=True, return_counts=True)
        self._trials = trials[np.argsort(code_N, kind="stable")]
        self._start_G, self._count_G = np.cumsum([0, *count_G[:-1]]), count_G
        self.n = len(count_G)

    def members(self, items: I64, pass_B: I64) -> tuple[I64, npt.NDArray[np.bool_] | None]:
        """Return the trials (B, R) of samples, and which of them count; None where a sample is a trial.

        Which repetitions are averaged is a function of (seed, pass, sample).
        """
        if self._average == 1:
            return self._trials[items][:, None], None
        count_B = self._count_G[items]
        taken_B = np.minimum(count_B, self._average) if self._average else count_B
        n_places = int(taken_B.max(initial=1))
        place_BR = np.tile(np.arange(n_places), (len(items), 1))
        own_BR = place_BR < taken_B[:, None]
        row_BR = np.zeros_like(place_BR)
        # Each sample's repetitions in an order of their own: the first of a permutation of them.
        key = key_of(self._seed, np.repeat(items, taken_B), np.repeat(pass_B, taken_B))
        row_BR[own_BR] = permuted(place_BR[own_BR], np.repeat(count_B, taken_B), key)
        return self._trials[self._start_G[items][:, None] + row_BR], own_BR

    def trials_of(self, items: I64) -> I64:
        """Return all trials that samples may be made of."""
        if self._average == 1:
            return self._trials[items]
        spread = np.repeat(self._start_G[items], self._count_G[items])
        offset = np.arange(len(spread)) - np.repeat(np.cumsum([0, *self._count_G[items][:-1]]), self._count_G[items])
        found: I64 = self._trials[spread + offset]
        return found


def _averaged(eeg_NCT: torch.Tensor, own_BR: npt.NDArray[np.bool_]) -> torch.Tensor:
    """Average the trials of each sample in float32."""
    n, own = len(own_BR), torch.from_numpy(np.repeat(np.arange(len(own_BR)), own_BR.sum(axis=1)))
    total = torch.zeros((n, *eeg_NCT.shape[1:]), dtype=torch.float32, device=eeg_NCT.device)
    total.index_add_(0, own.to(eeg_NCT.device), eeg_NCT.float())
    return total / torch.from_numpy(own_BR.sum(axis=1)).to(total).reshape(-1, 1, 1)


class _Resident:
    """Trials copied to memory once, shard after shard, and gathered there."""

    def __init__(self, shards: ShardSet, trials: I64, device: torch.device) -> None:
        self._trials = np.unique(trials)
        shape = (len(self._trials), len(shards.manifest.channels), shards.manifest.n_times)
        needed, free = 2 * int(np.prod(shape)), _free_bytes(device)
        if needed > free:
            raise ValueError(
                f"compute.residency: this rank's {shape[0]} trials take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
                f"are free on {device}. Choose residency 'disk', or more workers."
            )
        self._eeg_NCT = torch.empty(shape, dtype=torch.float16, device=device)
        for start in range(0, shape[0], _LOAD_TRIALS):
            part = shards.gather(self._trials[start : start + _LOAD_TRIALS])
            self._eeg_NCT[start : start + len(part)] = torch.from_numpy(part)

    def gather(self, trials: I64) -> torch.Tensor:
        row = torch.from_numpy(np.searchsorted(self._trials, trials))
        return self._eeg_NCT[row.to(self._eeg_NCT.device)]


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return ROOM * torch.cuda.mem_get_info(device)[0]
    # Of a node's memory each of its ranks may take its share.
    return ROOM * float(psutil.virtual_memory().available) / collectives.local_world_size()


def _ahead(read: Callable[[int], TrialBatch], ended: Callable[[], None]) -> Generator[TrialBatch, None, None]:
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="stream")
    try:
        coming = deque(pool.submit(read, k) for k in range(_THREADS + 1))
        for k in itertools.count(_THREADS + 1):
            batch = coming.popleft().result()
            coming.append(pool.submit(read, k))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ended()
