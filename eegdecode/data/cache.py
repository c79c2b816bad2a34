"""Whole files of an object store on the disk of a node: fetched once for all its processes, checked, bounded.

A copy is named after its content, so sets that share a file share the copy. Beside each lie two small files to lock,
which the operating system unlocks when a process dies: who fetches the copy locks one alone; who uses it shares the
other, and who evicts it must have that one alone. A temporary file that nobody is fetching was left by a dead process.
"""

import errno
import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import accumulate
from pathlib import Path
from types import TracebackType

from eegdecode import storage
from eegdecode.batch import FileFact
from eegdecode.storage import StorageError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,180}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COPY = re.compile(r"[0-9a-f]{32}-.+")
_STAMP_BYTES = 128
_THREADS = 4
# How long to wait for another process that fetches the same file, or is about to make room.
_WAIT_S = 3600.0
# How long to wait for a copy to be let go of while nothing is being fetched.
_FULL_S = 0.5
_LOOK_AGAIN_S = 0.01


def folder_for(cache_dir: str | None) -> Path:
    """Return the folder a configuration names, or one of this user's own among the temporary files.

    Raises
    ------
    ValueError
        If that one is there and is another user's.
    """
    if cache_dir:
        return Path(cache_dir)
    folder = Path(tempfile.gettempdir()) / f"eegdecode-cache-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder} must belong to this user and does not. Name another with compute.cache_dir.")
    return folder


class CacheFullError(StorageError):
    """What is in the cache is in use and leaves no room; who holds leases can close some and ask again."""


class Lease:
    """A copy that nobody evicts until this is closed, garbage-collected, or its process ends."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._let_go = weakref.finalize(self, os.close, lock)

    def close(self) -> None:
        """Let the copy be evicted; a file that is mapped stays readable until it is unmapped."""
        self._let_go()

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Cache:
    """Copies of whole files in one folder, which all processes of a node share.

    Parameters
    ----------
    folder
        On a local disk. Made when the first file comes.
    limit_bytes
        What the copies may take together; the least recently leased go first. None leaves it to the disk.

    Notes
    -----
    For any number of threads; a forked child opens its own.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._held: dict[Path, Lease] = {}
        self._underway: set[Path] = set()
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def hold(self, uri: str, fact: FileFact, verify: bool = False) -> Path:
        """Return a copy of a file, fetched if need be and kept for as long as this cache is open.

        For a set that is read from beginning to end; `lease` is for files that come and go.
        See `lease` for the parameters and what is raised.
        """
        lease = self.lease(uri, fact, verify)
        with self._lock:
            self._held[lease.path] = lease
        return lease.path

    def lease(self, uri: str, fact: FileFact, verify: bool = False) -> Lease:
        """Return a copy of a file, fetched if need be and kept until the lease is closed.

        Parameters
        ----------
        uri, fact
            Where the file is, and what it must be.
        verify
            Whether a copy that is here is hashed again even if it has not been touched since it was.

        Raises
        ------
        StorageError
            If the file cannot be fetched or is not what the fact says, or there is no room for it.
        """
        path = self._path(fact)
        with storage.explained(uri, written=str(path)):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Shared before it is fetched, so that it cannot be evicted in between.
            used = _locked(_use_lock(path), fcntl.LOCK_SH)
            try:
                if not _is_here(path, used, fact, verify):
                    self._fetch(path, used, uri, fact, verify)
                now_ns = time.time_ns()
                os.utime(used, ns=(now_ns, now_ns))
            except BaseException:
                os.close(used)
                raise
        return Lease(path, used)

    def prefetch(self, items: Iterable[tuple[str, FileFact]]) -> None:
        """Begin to fetch files in the background, in this order, as many as the limit has room for at once.

        What goes wrong is raised by the `lease` that asks for the file.
        """
        wanted = list(items)
        if self.limit_bytes is not None:
            # More would evict what was fetched first, before anyone used it.
            wanted = wanted[: bisect_right(list(accumulate(fact.size_bytes for _, fact in wanted)), self.limit_bytes)]
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="prefetch")
            for uri, fact in wanted:
                path = self._path(fact)
                if path not in self._underway:
                    self._underway.add(path)
                    self._pool.submit(self._prefetch_one, path, uri, fact)

    def stop_prefetch(self) -> None:
        """Drop what was to be fetched ahead and has not begun, without waiting for what has: a process can end."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                # What is being fetched takes itself out; asked for again, it waits for that one.
                self._underway.clear()

    def room_bytes(self) -> int:
        """Return what the copies may take together: the limit, or what they have and the disk has left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        on_disk = shutil.disk_usage(self.folder).free + sum(size for _, size in self._contents()[0])
        return on_disk if self.limit_bytes is None else min(on_disk, self.limit_bytes)

    def close(self) -> None:
        """Stop fetching ahead and let go of everything that was held."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._underway.clear()
            leases = list(self._held.values())
            self._held.clear()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        for lease in leases:
            lease.close()

    def _prefetch_one(self, path: Path, uri: str, fact: FileFact) -> None:
        try:
            with suppress(StorageError):
                self.lease(uri, fact).close()
        finally:
            with self._lock:
                self._underway.discard(path)

    def _path(self, fact: FileFact) -> Path:
        if not _NAME.fullmatch(fact.name) or not _SHA256.fullmatch(fact.sha256):
            raise ValueError(
                f"a file to keep must have a plain name and a sha256 of 64 digits, got '{fact.name}', '{fact.sha256}'."
            )
        return self.folder / f"{fact.sha256[:32]}-{fact.name}"

    def _fetch(self, path: Path, used: int, uri: str, fact: FileFact, verify: bool) -> None:
        """Put a file in its place, unless another process does while this one waits for it."""
        temporary = _temporary(path)
        fetching = _locked(_fetch_lock(path), fcntl.LOCK_EX)
        try:
            if _is_here(path, used, fact, verify):
                return
            for old in (path, temporary):
                old.unlink(missing_ok=True)
            self._reserve(temporary, fact)
            storage.fill(temporary, uri, fact.sha256, fact.size_bytes, written=str(path))
            _named(temporary, path)
            _stamp(path, used)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(fetching)

    def _reserve(self, temporary: Path, fact: FileFact) -> None:
        """Make room for a file and take it: the temporary file has the file's size before its content comes."""
        limit = float("inf") if self.limit_bytes is None else self.limit_bytes
        asked = busy = time.monotonic()
        while fact.size_bytes <= limit:
            with self._alone():
                copies, underway_bytes = self._contents()
                while True:
                    used = underway_bytes + sum(size for _, size in copies)
                    if used + fact.size_bytes <= limit and _allocated(temporary, fact.size_bytes):
                        return
                    evicted = next((copy for copy in copies if _evicted(copy[0])), None)
                    if evicted is None:
                        break
                    copies.remove(evicted)
            # What is being fetched now, or just was, cannot be evicted yet, but may be soon.
            now = time.monotonic()
            busy = now if underway_bytes else busy
            if now > busy + _FULL_S or now > asked + _WAIT_S:
                break
            time.sleep(_LOOK_AGAIN_S)
        raise self._full(fact)

    def _contents(self) -> tuple[list[tuple[Path, int]], int]:
        """Return the copies with their bytes, least recently leased first, and the bytes being fetched."""
        # What gets its name between the two looks is seen by both, and what gets it during the first by the second.
        underway = {}
        for path in list(self.folder.glob(".*.part")):
            with suppress(FileNotFoundError):
                if not _left_behind(path):
                    underway[_copy_of(path)] = path.stat().st_size
        copies = []
        for path in list(self.folder.iterdir()):
            with suppress(FileNotFoundError):
                if _COPY.fullmatch(path.name):
                    copies.append((_last_use_s(path), path, path.stat().st_size))
                    underway.pop(path, None)
        return [(path, size) for _, path, size in sorted(copies)], sum(underway.values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one who counts and evicts in this folder."""
        lock = _locked(self.folder / ".room.lock", fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(lock)

    def _full(self, fact: FileFact) -> CacheFullError:
        full = "its disk" if self.limit_bytes is None else f"its disk or its limit of {self.limit_bytes} bytes"
        return CacheFullError(
            f"the cache {self.folder} has no room for {fact.name} ({fact.size_bytes} bytes): {full} is full, and what "
            "is in it is in use. Raise the limit, or name a folder on a larger disk (compute.cache_dir)."
        )


def _use_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.used")


def _fetch_lock(path: Path) -> Path:
    return path.with_name(f".{path.name}.fetched")


def _temporary(path: Path) -> Path:
    # One name for all processes: only the holder of the fetch lock writes there.
    return path.with_name(f".{path.name}.part")


def _copy_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name.removeprefix(".").removesuffix(".part"))


def _locked(lock: Path, kind: int) -> int:
    """Return an open and locked file; closing it unlocks it."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + _WAIT_S
    try:
        while not _try_lock(file, kind):
            if time.monotonic() > until:
                raise StorageError(
                    f"{lock} has been locked by another process for {_WAIT_S:g} s. End that one, or name another "
                    "folder (compute.cache_dir)."
                )
            time.sleep(_LOOK_AGAIN_S)
    except BaseException:
        os.close(file)
        raise
    return file


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_here(path: Path, used: int, fact: FileFact, verify: bool) -> bool:
    """Return whether the copy is what it must be; hashed unless nobody touched it since it last was."""
    try:
        if path.stat().st_size != fact.size_bytes:
            return False
        if not verify and os.pread(used, _STAMP_BYTES, 0) == _identity(path):
            return True
        if storage.file_sha256(path) != fact.sha256:
            return False
    except FileNotFoundError:
        return False
    _stamp(path, used)
    return True


def _stamp(path: Path, used: int) -> None:
    """Note in the use lock which file was found to be right."""
    os.pwrite(used, _identity(path), 0)


def _named(temporary: Path, path: Path) -> None:
    """Give a copy its name, unflushed: after a loss of power it is hashed again, as a stamp is of one boot."""
    temporary.replace(path)


def _identity(path: Path) -> bytes:
    status = path.stat()
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {_boot()}".encode().ljust(_STAMP_BYTES)


@cache
def _boot() -> str:
    """Return what names this start of the machine; where nothing does, no stamp outlives this process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return uuid.uuid4().hex


def _allocated(temporary: Path, size_bytes: int) -> bool:
    """Take the space of a file on the disk; return False, and take none, if there is not enough."""
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if size_bytes:
            os.posix_fallocate(file, 0, size_bytes)
    except OSError as error:
        os.truncate(file, 0)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return False
        raise
    finally:
        os.close(file)
    return True


def _evicted(path: Path) -> bool:
    """Remove a copy unless it is in use; return whether it was removed."""
    file = os.open(_use_lock(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(file, fcntl.LOCK_EX):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


def _left_behind(temporary: Path) -> bool:
    """Remove a temporary file whose process is dead; return whether it was one."""
    file = os.open(_fetch_lock(_copy_of(temporary)), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(file, fcntl.LOCK_EX):
            return False
        temporary.unlink(missing_ok=True)
        return True
    finally:
        os.close(file)


def _last_use_s(path: Path) -> float:
    try:
        return _use_lock(path).stat().st_mtime
    except FileNotFoundError:
        return 0.0
