"""The order of trials as arithmetic: a function of (seed, pass) that is never stored, the same on any number of ranks.

All ranks together draw from one endless sequence of positions 0, 1, 2, ...; pass ``n`` is the positions from ``n*N`` to
``(n+1)*N``, and the passes follow each other without a seam: every trial comes exactly once a pass, no batch is short,
and a batch may end one pass and begin the next. Position ``g`` belongs to partition ``g % P``, so that a batch of a
multiple of P holds equally many trials of each, and a rank that owns some partitions needs only their trials.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROUNDS = 8

_Words = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """Which of ``n`` items stands at each position.

    Partition ``p`` owns the items ``p*q`` to ``(p+1)*q`` with ``q = n // partitions``. The ``n % partitions`` items
    that are left over go to other partitions each pass: to those that have one position more in it.

    Attributes
    ----------
    n, partitions, seed
        Items, equal parts of them, and what the order depends on beside the pass.
    cell, cells
        Items are mixed within ``cells`` cells of ``cell`` neighbouring items at a time, the cells in mixed order; 0
        mixes a whole partition.
    """

    n: int
    partitions: int
    seed: int
    cell: int = 0
    cells: int = 0

    def items_at(self, position: I64) -> tuple[I64, I64]:
        """Return the item at each position of the endless sequence, and its pass."""
        q = self.n // self.partitions
        pass_, partition = position // self.n, position % self.partitions
        before = self._positions_before(partition, pass_)
        place = position // self.partitions - before
        count = self._positions_before(partition, pass_ + 1) - before
        key = key_of(self.seed, pass_, partition)
        local = self._mixed_within(place, count, key)
        left_over = self.n - self.n % self.partitions + (partition - pass_ * self.n) % self.partitions
        return np.where(local < q, partition * q + local, left_over), pass_

    def owned(self, partitions: range) -> I64:
        """Return all items that some partitions can meet, ascending: their own, and those left over."""
        q = self.n // self.partitions
        own = np.arange(partitions.start * q, partitions.stop * q)
        return np.concatenate([own, np.arange(self.n - self.n % self.partitions, self.n)]).astype(np.int64)

    def _positions_before(self, partition: I64, pass_: I64) -> I64:
        """Count a partition's positions before a pass: those below ``pass_ * n`` that leave its rest."""
        return -((partition - pass_ * self.n) // self.partitions)

    def _mixed_within(self, place: I64, count: I64, key: _Words) -> I64:
        if not self.cell or not self.cells:
            return permuted(place, count, key)
        window, whole = self.cell * self.cells, count // self.cell
        first = place // window * window
        slot = first + permuted(place - first, np.minimum(window, count - first), _keyed(key, first))
        # Cells change places; what is left after the last whole one stays at the end.
        inside = slot < whole * self.cell
        moved = permuted(np.where(inside, slot // self.cell, 0), np.maximum(whole, 1), _keyed(key, np.full(1, -1)))
        return np.where(inside, moved * self.cell + slot % self.cell, slot)


def permuted(position: I64, n: I64, key: _Words) -> I64:
    """Return which of ``n`` items stands at each position, without making the whole order.

    A Feistel network: a position is split into two digits of bases ``a*b >= n``, and each round adds a hash of one to
    the other, which could be undone, so no two positions meet; what lands at n or above goes round again (Black and
    Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002). NumPy's own shuffles may change with its version.

    Parameters
    ----------
    position, n, key
        Int64 in [0, n), the number of items, and what the order depends on: each may differ from place to place.
    """
    x: _Words = np.array(position, dtype=np.uint64)
    n_X: _Words = np.broadcast_to(np.asarray(n), x.shape).astype(np.uint64)
    key = np.broadcast_to(key, x.shape)
    a = np.ceil(np.sqrt(n_X.astype(np.float64))).astype(np.uint64)
    b = (n_X + a - np.uint64(1)) // np.maximum(a, np.uint64(1))
    todo = np.arange(len(x))
    while len(todo):
        a_, b_, key_ = a[todo], b[todo], key[todo]
        left: _Words = x[todo] // b_
        right: _Words = x[todo] % b_
        for round_ in range(0, _ROUNDS, 2):
            left = (left + _hashed(right, key_, round_) % a_) % a_
            right = (right + _hashed(left, key_, round_ + 1) % b_) % b_
        x[todo] = left * b_ + right
        todo = todo[x[todo] >= n_X[todo]]
    return x.astype(np.int64)


def key_of(seed: int, *numbers: I64) -> _Words:
    """Return a key for `permuted` that depends on a seed and, place by place, on further numbers."""
    key = _mixed(np.array([seed % 2**64], np.uint64))
    for number in numbers:
        key = _keyed(key, number)
    return key


def _hashed(half: _Words, key: _Words, round_: int) -> _Words:
    return _mixed(half + key * np.uint64(2 * round_ + 3))


def _keyed(key: _Words, number: I64) -> _Words:
    return _mixed(key + np.asarray(number).astype(np.uint64))


def _mixed(x: _Words) -> _Words:
    """Mix 64 bits: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
