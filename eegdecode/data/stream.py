"""Trial batches in an order that is arithmetic: a function of (seed, pass), the same on any number of ranks.

The order of pass ``p`` is a permutation of the part's trials. The passes follow each other without a seam: global
batch ``k`` covers positions ``[k*batch, (k+1)*batch)`` of the endless sequence, so every trial comes exactly once a
pass, no batch is short, and a batch may end one pass and begin the next. Rank ``r`` of ``world`` takes the r-th equal
slice of each batch. Hence one integer, the trials seen, is all that a restart needs, also on another number of ranks.
"""

import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from eegdecode.batch import Fold, TrialBatch
from eegdecode.data.shardset import ShardSet

_ROUNDS = 8

_Words = npt.NDArray[np.uint64]


def permuted(position: np.ndarray, n: int, seed: int, pass_: int | np.ndarray) -> np.ndarray:
    """Return which of ``n`` items stands at each position of a pass, without making the whole order.

    A Feistel network: a position is split into two digits of bases ``a*b >= n``, and each round adds a hash of one to
    the other, which could be undone, so no two positions meet; what lands at n or above goes round again (Black and
    Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002). NumPy's own shuffles may change with its version.

    Parameters
    ----------
    position, pass_
        Int64 in [0, n), and the pass of each (or of all).
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    x: _Words = np.array(position, dtype=np.uint64)
    key = _mixed(
        _mixed(np.array([seed % 2**64], np.uint64)) + np.broadcast_to(np.asarray(pass_), x.shape).astype(np.uint64)
    )
    todo: np.ndarray = np.arange(len(x))
    while len(todo):
        left: _Words = x[todo] // np.uint64(b)
        right: _Words = x[todo] % np.uint64(b)
        for round_ in range(0, _ROUNDS, 2):
            left = (left + _hashed(right, key[todo], round_) % np.uint64(a)) % np.uint64(a)
            right = (right + _hashed(left, key[todo], round_ + 1) % np.uint64(b)) % np.uint64(b)
        x[todo] = left * np.uint64(b) + right
        todo = todo[x[todo] >= n]
    order: np.ndarray = x.astype(np.int64)
    return order


class Stream:
    """The trials of one part of a fold, in the order of the stream.

    Attributes
    ----------
    trials
        Int64, the part's trials, ascending.
    """

    def __init__(self, shards: ShardSet, trials: np.ndarray, batch: int, seed: int, rank: int, world: int) -> None:
        if len(trials) == 0:
            raise ValueError("this part of the fold has no trials; nothing can be streamed.")
        if batch < 1 or world < 1 or batch % world:
            low = batch - batch % max(world, 1)
            raise ValueError(
                f"the global batch must be a multiple of the number of ranks, got {batch} over {world}. "
                f"Nearest valid values: {low}, {low + world}."
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0 to {world - 1}, got {rank}.")
        self.trials = np.asarray(trials, np.int64)
        self._shards = shards
        self._batch, self._seed, self._rank, self._micro = batch, seed, rank, batch // world

    def starting_at(self, trials_seen: int) -> Generator[TrialBatch, None, None]:
        """Yield this rank's batches for ever, after the first ``trials_seen`` trials of all ranks together.

        One batch is read ahead by a thread, which ends when the iterator is closed or dropped.
        """
        if trials_seen < 0:
            raise ValueError(f"trials_seen must be at least 0, got {trials_seen}.")
        return _ahead(lambda k: self._read(self.trials_at(trials_seen + k * self._batch)))

    def once(self) -> Iterator[TrialBatch]:
        """Yield the whole part in ascending order, the last batch short; the same on every rank, so that all agree."""
        for start in range(0, len(self.trials), self._batch):
            yield self._read(self.trials[start : start + self._batch])

    def trials_at(self, position: int) -> np.ndarray:
        """Return this rank's trials of the global batch that begins at a position of the endless sequence."""
        first = position + self._rank * self._micro
        pass_, place = np.divmod(np.arange(first, first + self._micro, dtype=np.int64), len(self.trials))
        trials: np.ndarray = self.trials[permuted(place, len(self.trials), self._seed, pass_)]
        return trials

    def _read(self, trials: np.ndarray) -> TrialBatch:
        eeg_uv_BCT, target_BD = self._shards.gather(trials)
        return TrialBatch(
            # torch widens float16 many times faster than NumPy.
            eeg_uv_BCT=torch.from_numpy(eeg_uv_BCT).float(),
            target_BD=torch.from_numpy(target_BD),
            trial_B=torch.from_numpy(trials),
            picture_B=torch.from_numpy(self._shards.picture_row[trials]),
        )


def open_stream(
    shards: ShardSet, fold: Fold, part: Literal["train", "val"], batch: int, seed: int, rank: int, world: int
) -> Stream:
    """Return the stream of a part.

    Parameters
    ----------
    batch
        Trials per step on all ranks together; a multiple of ``world``.
    """
    return Stream(shards, shards.trials_of(fold, part), batch, seed, rank, world)


def _ahead(read: Callable[[int], TrialBatch]) -> Generator[TrialBatch, None, None]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
    try:
        coming = pool.submit(read, 0)
        k = 0
        while True:
            batch = coming.result()
            k += 1
            coming = pool.submit(read, k)
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _hashed(half: _Words, key: _Words, round_: int) -> _Words:
    return _mixed(half + key * np.uint64(2 * round_ + 3))


def _mixed(x: _Words) -> _Words:
    """Mix 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
