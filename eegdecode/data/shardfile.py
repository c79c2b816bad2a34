"""The files of a shard set on this machine, and one shard of them, mapped: where its fields lie, how they are copied.

Shape letters: B batch, N samples of a shard, X bytes of a sample.
"""

import math
import mmap
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eegdecode import collectives, storage
from eegdecode.batch import FileFact, ShardFact
from eegdecode.data.cache import Cache, Lease, folder_for
from eegdecode.data.tarindex import BLOCK_BYTES, TarIndex

_KEPT_BATCHES, _KEPT_BATCH_BYTES = 8, 64 << 20
"""Batches whose memory is kept to be used again, and how large they may be: a whole test part is read once."""
_KEPT_SHARE = 0.8
"""Share of a node's cache that its processes may keep open between two reads, all together; the rest is for what
comes and goes, so that none of them waits for room that another one keeps."""


class Files:
    """The files of one published set on this machine: where they lie, or whole copies in the node's cache."""

    def __init__(self, uri: str, cache_dir: str | None, cache_bytes: int | None, verify: bool) -> None:
        self.uri = uri
        self._folder = storage.local_path(uri)
        self._verify = verify
        self._cache = None if self._folder else Cache(folder_for(cache_dir), cache_bytes)

    def open(self, fact: FileFact, small: bool = False) -> tuple[Path, Lease | None]:
        """Return where a checked file lies, with the lease that keeps a copy of it there.

        Raises
        ------
        ValueError
            If a local file is missing or is not what was published.
        StorageError
            The same of an object, or there is no room for its copy.
        """
        if self._cache is not None:
            lease = self._cache.lease(storage.join(self.uri, fact.name), fact)
            return lease.path, lease
        assert self._folder is not None
        path = self._folder / fact.name
        if not path.is_file():
            raise ValueError(f"{path} is missing from the shard set. Prepare the set again.")
        if path.stat().st_size != fact.size_bytes:
            raise ValueError(
                f"{path} was cut or altered: it must have {fact.size_bytes} bytes, got {path.stat().st_size}. "
                "Prepare the set again."
            )
        # The small files are always hashed: an index decides what is read from where.
        if (self._verify or small) and storage.file_sha256(path) != fact.sha256:
            raise ValueError(f"{path} was altered: its sha256 is not the one in the manifest. Prepare the set again.")
        return path, None

    @cached_property
    def kept_bytes(self) -> float:
        """What of the node's cache is this process's part, to keep open or to fetch ahead."""
        if self._cache is None:
            return float("inf")
        return _KEPT_SHARE * self._cache.room_bytes() / collectives.local_world_size()

    def prefetch(self, facts: Iterable[FileFact]) -> None:
        """Begin to fetch files, in this order, if they are not local: as many as this process may keep."""
        if self._cache is not None:
            wanted = list(facts)
            # More would evict what the others of this node fetched ahead, and they ours.
            n = bisect_right(list(accumulate(fact.size_bytes for fact in wanted)), self.kept_bytes)
            self._cache.prefetch((storage.join(self.uri, fact.name), fact) for fact in wanted[:n])

    def stop_prefetch(self) -> None:
        """Fetch nothing ahead any more until it is asked for again."""
        if self._cache is not None:
            self._cache.stop_prefetch()


class Memory:
    """Memory of batches that nobody looks at any more, used again: fresh memory costs as much as a copy into it."""

    def __init__(self) -> None:
        self._free: deque[mmap.mmap] = deque(maxlen=_KEPT_BATCHES)

    def array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of bytes, whose memory comes back when the last view of it is gone."""
        size = math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, size)
        if len(memory) != size:
            memory = mmap.mmap(-1, size)
        # Views of it have this array as their base and not the memory, so it outlives them all.
        array = np.frombuffer(memory, np.uint8)
        if size <= _KEPT_BATCH_BYTES:
            weakref.finalize(array, self._free.append, memory).atexit = False
        return array.reshape(shape)


class Array(NamedTuple):
    """What every sample of a shard holds under one name, as the manifest says."""

    field: str
    dtype: str
    shape: tuple[int, ...]


def index_of(files: Files, fact: ShardFact) -> TarIndex:
    """Return the index of a shard; the shard itself is not fetched."""
    path, lease = files.open(fact.index, small=True)
    index = TarIndex.from_bytes(fact.index.name, path.read_bytes())
    if lease is not None:
        lease.close()
    return index


class Shard:
    """A mapped tar and where its fields lie.

    Attributes
    ----------
    n, stride
        Samples, and bytes from one to the next where all are equally long and can be copied in one call; else 0.
    keys
        Name of each sample.
    """

    def __init__(self, files: Files, fact: ShardFact, array: Array | None = None) -> None:
        self.name = fact.tar.name
        index = index_of(files, fact)
        if (index.tar_sha256, index.tar_bytes) != (fact.tar.sha256, fact.tar.size_bytes):
            raise ValueError(
                f"index {fact.index.name} does not belong to its shard {self.name}: it was made for a tar with sha256 "
                f"{index.tar_sha256[:12]}…, the manifest says {fact.tar.sha256[:12]}…. Prepare the set again."
            )
        if len(index.keys) != fact.n_samples:
            raise ValueError(f"{self.name} must hold {fact.n_samples} samples, its index has {len(index.keys)}.")
        self.n, self.n_bytes, self.stride = fact.n_samples, fact.tar.size_bytes, 0
        self._index, self.keys = index, index.keys
        path, self._lease = files.open(fact.tar)
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        if array is not None:
            self._map(array)

    def close(self) -> None:
        """Let a cached copy be evicted; what is mapped stays readable until it is unmapped."""
        if self._lease is not None:
            self._lease.close()

    def take(self, samples: np.ndarray, out_BX: np.ndarray) -> None:
        """Copy samples, from their array's data on, into rows of ``stride`` bytes."""
        np.take(self._rows_NX, samples, axis=0, out=out_BX, mode="clip")

    def copy(self, samples: np.ndarray, out: np.ndarray) -> None:
        """Copy the array of samples into rows of another, one after the other."""
        flat = out.reshape(len(out), -1)
        for row, block in enumerate(self._block_N[samples].tolist()):
            flat[row] = self._windows[block]

    def _map(self, array: Array) -> None:
        """See to it that every sample has the array, and make the views it is copied from.

        Members begin at multiples of 512 bytes: there is one window for each of these, so they overlap, and a member is
        one window, whatever lies between.
        """
        column = self._index.column(array.field)
        fact = self._index.fields[column]
        if (fact.dtype, fact.shape) != (array.dtype, array.shape):
            raise ValueError(
                f"{self.name}: '{array.field}' must be {array.dtype} {array.shape} as the manifest says, got "
                f"{fact.dtype} {fact.shape}."
            )
        count, item = int(np.prod(array.shape)), np.dtype(array.dtype).itemsize
        if np.any(self._index.size_NF[:, column] != fact.header_bytes + count * item):
            raise ValueError(
                f"{self.name}: every '{array.field}' must be as long as its type and shape. Prepare the set again."
            )
        offset_N, n_bytes = self._index.offset_NF[:, column], len(self._bytes)
        n_windows = max(0, (n_bytes - fact.header_bytes - count * item) // BLOCK_BYTES + 1)
        self._windows: np.ndarray = np.ndarray(
            (n_windows, count), array.dtype, self._bytes.data, fact.header_bytes, (BLOCK_BYTES, item)
        )
        self._block_N = (offset_N // BLOCK_BYTES).astype(np.int32)
        steps = np.unique(np.diff(offset_N))
        first = int(offset_N[0]) + fact.header_bytes
        # What the last row has too much is the end mark of the tar.
        if len(steps) == 1 and first + self.n * int(steps[0]) <= n_bytes:
            self.stride = int(steps[0])
            self._rows_NX = self._bytes[first : first + self.n * self.stride].reshape(self.n, self.stride)

    def bytes_of(self, field: str, sample: int) -> bytes:
        """Return the content of one field of one sample."""
        column = self._index.column(field)
        start, size = int(self._index.offset_NF[sample, column]), int(self._index.size_NF[sample, column])
        return self._bytes[start : start + size].tobytes()
