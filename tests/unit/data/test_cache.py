"""The node's cache on real files and real processes; where the files come from is a folder."""

import gc
import hashlib
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eegdecode import storage
from eegdecode.batch import FileFact
from eegdecode.data import cache as cache_module
from eegdecode.data.cache import Cache, CacheFullError, folder_for
from eegdecode.storage import MissingError, StorageError

SIZE = 10_000
Item = tuple[str, FileFact]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., Item]:
    """Write a file of which every byte is its name's first letter; return where it is and what it must be."""

    def write(name: str, size: int = SIZE) -> Item:
        path = tmp_path / "store" / name
        path.parent.mkdir(exist_ok=True)
        data = name[0].encode() * size
        path.write_bytes(data)
        return str(path), FileFact(name=name, size_bytes=size, sha256=hashlib.sha256(data).hexdigest())

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    """What is kept, by the names that were published."""
    return sorted(path.name.partition("-")[2] for path in folder.iterdir() if not path.name.startswith("."))


def temporaries(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def in_child(work: Callable[[], None]) -> multiprocessing.Process:
    process = fork.Process(target=work)
    process.start()
    return process


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.005)


def test_a_copy_is_as_published_and_needs_its_source_once(folder: Path, publish):
    uri, fact = publish("a.tar")
    path = Cache(folder).hold(uri, fact)
    assert path.read_bytes() == Path(uri).read_bytes()
    assert path.parent == folder
    assert path.name.endswith("a.tar")
    Path(uri).unlink()
    assert Cache(folder).hold(uri, fact) == path
    assert temporaries(folder) == []


def test_equal_files_of_two_sets_are_kept_once(folder: Path, publish, tmp_path: Path):
    uri, fact = publish("a.tar")
    shutil.copytree(tmp_path / "store", tmp_path / "other")
    cache = Cache(folder)
    assert cache.hold(uri, fact) == cache.hold(str(tmp_path / "other" / "a.tar"), fact)
    assert names(folder) == ["a.tar"]


@pytest.mark.parametrize("how", ["cut", "altered", "altered unnoticed"])
def test_a_spoilt_copy_is_fetched_again(folder: Path, publish, how: str):
    uri, fact = publish("a.tar")
    with Cache(folder).lease(uri, fact) as lease:
        path = lease.path
    status = path.stat()
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(SIZE - 1)
        else:
            file.write(b"X")
    if how == "altered unnoticed":
        # As a disk does it: nothing but the content tells.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert Cache(folder).hold(uri, fact).read_bytes() != Path(uri).read_bytes()
    verify = how == "altered unnoticed"
    assert Cache(folder).hold(uri, fact, verify=verify).read_bytes() == Path(uri).read_bytes()


@pytest.mark.parametrize("how", ["altered", "cut", "gone"])
def test_a_source_that_is_not_what_was_published_is_refused(folder: Path, publish, how: str):
    uri, fact = publish("a.tar")
    Path(uri).write_bytes(b"X" * (SIZE - (how == "cut")))
    said = {"altered": "must have sha256", "cut": f"must have {SIZE} bytes, got {SIZE - 1}", "gone": "does not exist"}
    if how == "gone":
        Path(uri).unlink()
    with pytest.raises(MissingError if how == "gone" else StorageError, match=said[how]) as caught:
        Cache(folder).lease(uri, fact)
    assert uri in str(caught.value)
    assert names(folder) == []
    assert temporaries(folder) == []


def test_the_least_recently_leased_goes_first(folder: Path, publish):
    cache = Cache(folder, limit_bytes=3 * SIZE)
    items = {name: publish(f"{name}.tar") for name in "abcd"}
    for name in "abca":
        cache.lease(*items[name]).close()
    cache.lease(*items["d"]).close()
    assert names(folder) == ["a.tar", "c.tar", "d.tar"]


def test_what_is_in_use_stays_and_a_full_cache_is_named(folder: Path, publish):
    cache, other = Cache(folder, limit_bytes=2 * SIZE), Cache(folder, limit_bytes=2 * SIZE)
    a, b, c = (publish(f"{name}.tar") for name in "abc")
    lease = cache.lease(*a)
    other.hold(*b)
    with pytest.raises(
        CacheFullError, match=rf"{folder} has no room for c\.tar \({SIZE} bytes\).*limit of {2 * SIZE} "
    ):
        cache.lease(*c)
    assert names(folder) == ["a.tar", "b.tar"]
    lease.close()
    lease.close()
    cache.lease(*c).close()
    assert names(folder) == ["b.tar", "c.tar"]
    other.close()
    cache.lease(*a).close()
    assert names(folder) == ["a.tar", "c.tar"]


def test_a_file_larger_than_the_limit_evicts_nothing(folder: Path, publish):
    cache = Cache(folder, limit_bytes=2 * SIZE)
    cache.lease(*publish("a.tar")).close()
    with pytest.raises(StorageError, match=r"no room for b\.tar.*Raise the limit"):
        cache.lease(*publish("b.tar", 2 * SIZE + 1))
    assert names(folder) == ["a.tar"]


def test_a_forgotten_lease_lets_go_and_an_evicted_map_stays_readable(folder: Path, publish):
    cache = Cache(folder, limit_bytes=SIZE)
    lease = cache.lease(*publish("a.tar"))
    with lease.path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    del lease
    gc.collect()
    cache.lease(*publish("b.tar")).close()
    assert names(folder) == ["b.tar"]
    assert mapped[:] == b"a" * SIZE


def test_a_lease_of_another_process_holds_until_that_one_is_killed(folder: Path, publish):
    a, b = publish("a.tar"), publish("b.tar")
    ready = fork.Event()

    def hold() -> None:
        lease = Cache(folder, SIZE).lease(*a)
        ready.set()
        time.sleep(60)
        lease.close()

    child = in_child(hold)
    assert ready.wait(30)
    with pytest.raises(StorageError, match="no room for b"):
        Cache(folder, SIZE).lease(*b)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    Cache(folder, SIZE).lease(*b).close()
    assert names(folder) == ["b.tar"]


def test_processes_and_threads_fetch_a_file_once(folder: Path, publish, monkeypatch, tmp_path: Path):
    items = [publish(f"{name}.tar", 1 << 20) for name in "abcd"]
    log = tmp_path / "log"
    fill = storage.fill

    def logged(path: Path, uri: str, *rest, **more) -> None:
        with log.open("a") as file:
            file.write(f"{uri}\n")
        time.sleep(0.05)  # long enough for the others to come
        fill(path, uri, *rest, **more)

    monkeypatch.setattr(storage, "fill", logged)

    def hold_all() -> None:
        cache = Cache(folder)
        cache.prefetch(items)
        assert all(cache.hold(uri, fact).read_bytes() == Path(uri).read_bytes() for uri, fact in items)
        cache.close()

    children = [in_child(hold_all) for _ in range(3)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert sorted(log.read_text().split()) == sorted(uri for uri, _ in items)


def test_what_a_killed_process_left_is_cleared(folder: Path, publish, monkeypatch):
    a, b = publish("a.tar"), publish("b.tar")

    def half(path: Path, *rest, **more) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(storage, "fill", half)
    child = in_child(lambda: Cache(folder).lease(*a).close())
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert len(temporaries(folder)) == 1
    monkeypatch.undo()
    # Another file's room is counted without it, and then it is gone.
    Cache(folder, limit_bytes=SIZE).lease(*b).close()
    assert temporaries(folder) == []
    assert Cache(folder).hold(*a).read_bytes() == b"a" * SIZE


def test_room_that_another_process_is_filling_is_waited_for(folder: Path, publish, monkeypatch):
    a, b = publish("a.tar"), publish("b.tar")
    begun, go_on = fork.Event(), fork.Event()
    fill = storage.fill

    def slow(*rest, **more) -> None:
        begun.set()
        assert go_on.wait(30)
        fill(*rest, **more)

    monkeypatch.setattr(storage, "fill", slow)
    child = in_child(lambda: Cache(folder, SIZE).lease(*a).close())
    assert begun.wait(30)
    monkeypatch.undo()
    cache = Cache(folder, SIZE)
    cache.prefetch([b])
    # It must not give up while the other's file is on its way.
    time.sleep(0.1)
    assert names(folder) == []
    go_on.set()
    wait_for(lambda: names(folder) == ["b.tar"])
    child.join(30)
    assert child.exitcode == 0
    cache.close()


def test_waiting_for_a_lock_ends(folder: Path, publish, monkeypatch):
    item = publish("a.tar")
    begun = fork.Event()

    def never(*rest, **more) -> None:
        begun.set()
        time.sleep(60)

    monkeypatch.setattr(storage, "fill", never)
    child = in_child(lambda: Cache(folder).lease(*item).close())
    assert begun.wait(30)
    monkeypatch.setattr(cache_module, "_WAIT_S", 0.1)
    with pytest.raises(StorageError, match=r"a\.tar.* has been locked by another process for 0\.1 s"):
        Cache(folder).lease(*item)
    child.kill()
    child.join()


def test_prefetching_goes_as_far_as_there_is_room_and_its_faults_wait_for_the_lease(folder: Path, publish):
    items = [publish(f"{name}.tar") for name in "abcd"]
    cache = Cache(folder, limit_bytes=2 * SIZE)
    cache.prefetch(items)
    wait_for(lambda: names(folder) == ["a.tar", "b.tar"])
    cache.close()
    assert names(folder) == ["a.tar", "b.tar"]

    gone = publish("g.tar")
    Path(gone[0]).unlink()
    cache = Cache(folder)
    cache.prefetch([gone, items[2]])
    wait_for(lambda: "c.tar" in names(folder))
    with pytest.raises(MissingError, match=r"g\.tar does not exist"):
        cache.hold(*gone)
    cache.close()


def test_a_full_disk_makes_room_and_is_named(tmp_path: Path, publish):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small disk needs the right to mount one; the limit on a file's size is tested without")
    try:
        cache = Cache(folder)
        cache.lease(*publish("a.tar", 600_000)).close()
        lease = cache.lease(*publish("b.tar", 600_000))
        assert names(folder) == ["b.tar"]
        with pytest.raises(CacheFullError, match=r"has no room for c\.tar .*its disk is full"):
            cache.lease(*publish("c.tar", 600_000))
        assert temporaries(folder) == []
        lease.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_refuses_a_file_is_named(folder: Path, publish):
    item, small = publish("a.tar", 2 << 20), publish("b.tar")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StorageError, match=r"no space left to write .*a\.tar.*Free some"):
            Cache(folder).lease(*item)
        assert temporaries(folder) == []
        Cache(folder).lease(*small).close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(folder) == ["b.tar"]


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".a"])
def test_only_plain_names_are_kept(folder: Path, name: str):
    with pytest.raises(ValueError, match="plain name"):
        Cache(folder).hold("/none", FileFact(name=name, size_bytes=1, sha256="0" * 64))
    assert not folder.exists()


def test_the_folder_of_its_own_is_this_users(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(cache_module.tempfile, "gettempdir", lambda: str(tmp_path))
    assert folder_for("/data/cache") == Path("/data/cache")
    folder = folder_for(None)
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"must belong to this user.*compute\.cache_dir"):
        folder_for("")


def test_a_copy_that_gets_its_name_while_others_count_is_counted_once(folder: Path, publish, monkeypatch):
    cache = Cache(folder, limit_bytes=2 * SIZE)
    a, b, c = (publish(f"{name}.tar") for name in "abc")
    named, counted = threading.Event(), threading.Event()
    give_name, left_behind = cache_module._named, cache_module._left_behind

    def late(temporary: Path, target: Path) -> None:
        if "a.tar" in target.name:
            assert counted.wait(30)
        give_name(temporary, target)
        named.set()

    def slow(temporary: Path) -> bool:
        # The file was listed; now it gets its name, and is gone from where it was.
        counted.set()
        assert named.wait(30)
        return left_behind(temporary)

    monkeypatch.setattr(cache_module, "_named", late)
    first = threading.Thread(target=lambda: cache.hold(*a))
    first.start()
    wait_for(lambda: bool(temporaries(folder)) and temporaries(folder)[0].stat().st_size == SIZE)
    monkeypatch.setattr(cache_module, "_left_behind", slow)
    copies, underway_bytes = Cache(folder)._contents()
    first.join(30)
    assert sum(size for _, size in copies) + underway_bytes == SIZE
    cache.hold(*b)
    with pytest.raises(CacheFullError):
        cache.lease(*c)


def test_what_was_to_be_fetched_ahead_can_be_dropped(folder: Path, publish, monkeypatch):
    cache, go_on = Cache(folder), threading.Event()
    items = [publish(f"{name}.tar") for name in "abcdefgh"]
    fill, begun = storage.fill, []

    def slow(path: Path, uri: str, *rest: object, **more: object) -> None:
        begun.append(uri)
        assert go_on.wait(30)
        fill(path, uri, *rest, **more)

    monkeypatch.setattr(storage, "fill", slow)
    cache.prefetch(items)
    wait_for(lambda: len(begun) == 4)
    cache.stop_prefetch()
    go_on.set()
    wait_for(lambda: len(names(folder)) == 4 and not temporaries(folder))
    assert sorted(begun) == [uri for uri, _ in items[:4]]
    # Asked for again, it begins again.
    cache.prefetch(items)
    wait_for(lambda: len(names(folder)) == 8)
    cache.close()


def test_after_another_start_of_the_machine_a_copy_is_hashed_again(folder: Path, publish, monkeypatch):
    """What was not flushed may be lost with the power, though name, size and time are right."""
    item = publish("a.tar")
    with Cache(folder).lease(*item) as lease:
        path, before = lease.path, lease.path.stat()
        content = path.read_bytes()
    path.write_bytes(bytes(SIZE))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with Cache(folder).lease(*item) as lease:
        assert lease.path.read_bytes() == bytes(SIZE)  # nothing tells, as long as the machine runs
    monkeypatch.setattr(cache_module, "_boot", lambda: "another")
    with Cache(folder).lease(*item) as lease:
        assert lease.path.read_bytes() == content
