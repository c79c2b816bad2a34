import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eegdecode import storage
from eegdecode.storage import MissingError, StorageError, TakenError


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """Two megabytes; named before `small_disk`, so that its limit does not concern it."""
    path = tmp_path / "large"
    path.write_bytes(bytes(2 << 20))
    return path


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one megabyte; without the right to mount one, a limit on the size of a file."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_files_come_back_as_written(tmp_path: Path, form: str):
    uri = form.format(tmp_path / "a set")
    storage.write_bytes(storage.join(uri, "x", "one.bin"), b"one")
    source = tmp_path / "source"
    source.write_bytes(b"two" * 1000)
    storage.upload(source, storage.join(uri, "two.bin"))

    assert storage.read_bytes(storage.join(uri, "x/one.bin")) == b"one"
    assert storage.size_bytes(storage.join(uri, "two.bin")) == 3000
    assert storage.list_uris(uri) == [storage.join(uri, "two.bin"), storage.join(uri, "x/one.bin")]
    got = storage.download(storage.join(uri, "two.bin"), tmp_path / "deep" / "copy")
    assert got.read_bytes() == source.read_bytes()
    storage.delete_prefix(uri)
    assert not storage.exists(storage.join(uri, "two.bin"))
    assert storage.list_uris(uri) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "source"]


def test_join_keeps_scheme_and_root():
    assert storage.join("s3://bucket/set/", "/a", "b.tar") == "s3://bucket/set/a/b.tar"
    assert storage.join("/", "a") == "/a"


def test_failed_write_leaves_old_content_and_no_temporary(tmp_path: Path):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def fail() -> None:
        with storage.new_file(str(target)) as temporary:
            temporary.write_bytes(b"half of the new")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_killed_writer_leaves_nothing_readable(tmp_path: Path):
    code = (
        "import os, signal, sys\nfrom eegdecode import storage\n"
        "with storage.new_file(sys.argv[1]) as t:\n"
        "    t.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "set" / "file"
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -9
    assert not storage.exists(str(target))
    assert storage.list_uris(str(tmp_path / "set")) == []


def test_full_disk_is_named_and_leaves_nothing(small_disk: Path):
    target = small_disk / "big.tar"
    with pytest.raises(StorageError, match=r"no space left to write .*big\.tar.*Free some"):
        storage.write_bytes(str(target), bytes(2 << 20))
    assert list(small_disk.iterdir()) == []
    storage.write_bytes(str(target), b"small")
    assert target.read_bytes() == b"small"


def test_full_disk_of_a_download_names_the_local_file(large_file: Path, small_disk: Path):
    with pytest.raises(StorageError, match=r"no space left to write .*small/copy"):
        storage.download(str(large_file), small_disk / "copy")
    assert list(small_disk.iterdir()) == []


def test_what_is_written_once_is_never_replaced(tmp_path: Path):
    uri = (tmp_path / "set" / "manifest.json").as_uri()
    storage.write_bytes(uri, b"one", if_absent=True)
    storage.write_bytes(uri, b"one", if_absent=True)
    with pytest.raises(TakenError, match=r"manifest\.json holds other content and must not be replaced\. Choose"):
        storage.write_bytes(uri, b"two", if_absent=True)
    assert storage.read_bytes(uri) == b"one"
    storage.write_bytes(uri, b"two")
    assert storage.read_bytes(uri) == b"two"
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["manifest.json"]


def test_of_two_jobs_that_publish_to_one_place_one_wins(tmp_path: Path):
    """Fifty races of two processes, and a reader that looks on: it sees nothing, or the whole of one."""
    context = multiprocessing.get_context("fork")
    answers, start, n_races = context.Queue(), context.Barrier(3), 50
    contents = {name: name.encode() * (256 << 10) for name in "ab"}

    def publish(name: str) -> None:
        said: list[str] = []
        for k in range(n_races):
            start.wait(30)
            try:
                storage.write_bytes(str(tmp_path / "set" / str(k)), contents[name], if_absent=True)
                said.append("")
            except TakenError as error:
                said.append(str(error))
        answers.put((name, said))

    writers = [context.Process(target=publish, args=(name,)) for name in contents]
    for writer in writers:
        writer.start()
    seen = []
    for k in range(n_races):
        start.wait(30)
        path = tmp_path / "set" / str(k)
        until = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < until
        seen.append(path.read_bytes())
    said = dict(answers.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    for k in range(n_races):
        path = tmp_path / "set" / str(k)
        (winner,) = [name for name in contents if said[name][k] == ""]
        (refusal,) = [words[k] for name, words in said.items() if name != winner]
        assert refusal == (
            f"{path} holds other content and must not be replaced. Choose another place, or delete that one first."
        )
        assert seen[k] == path.read_bytes() == contents[winner]
    assert sorted(os.listdir(tmp_path / "set")) == sorted(str(k) for k in range(n_races))


def test_of_two_jobs_that_publish_the_same_both_succeed(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)

    def publish() -> None:
        for k in range(50):
            start.wait(30)
            storage.write_bytes(str(tmp_path / str(k)), b"same" * 1000, if_absent=True)

    writers = [context.Process(target=publish) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"same" * 1000}
    assert len(list(tmp_path.iterdir())) == 50


@pytest.mark.parametrize(("size", "said"), [(4, "must have 4 bytes, got 3"), (2, "must have 2 bytes, got 3")])
def test_filling_refuses_another_size(tmp_path: Path, size: int, said: str):
    (tmp_path / "a").write_bytes(b"abc")
    target = tmp_path / "b"
    target.write_bytes(bytes(10))
    storage.fill(target, str(tmp_path / "a"), size_bytes=3)
    assert target.read_bytes() == b"abc"
    with pytest.raises(StorageError, match=said):
        storage.fill(target, str(tmp_path / "a"), size_bytes=size)


def test_download_refuses_other_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(StorageError, match=r"must have sha256 0000.*cut or altered"):
        storage.download(str(tmp_path / "a"), tmp_path / "b", sha256="0" * 64)
    assert not (tmp_path / "b").exists()


def test_missing_file_and_unusable_paths_are_named(tmp_path: Path):
    with pytest.raises(MissingError, match=r"nothing here.*does not exist"):
        storage.read_bytes(str(tmp_path / "nothing here"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")


def test_other_schemes_and_dangerous_deletions_are_refused():
    with pytest.raises(ValueError, match="path, file:///… or s3://"):
        storage.read_bytes("gs://bucket/key")
    with pytest.raises(ValueError, match="below the root"):
        storage.delete_prefix("/")
    with pytest.raises(ValueError, match="s3://bucket/key"):
        storage.delete_prefix("s3://bucket")


def test_no_credentials_and_no_server_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    with pytest.raises(StorageError, match=r"no usable credentials for s3://bucket/key.*AWS_ACCESS_KEY_ID"):
        storage.read_bytes("s3://bucket/key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setattr(storage, "_WAIT_S", 0.001)
    said = r"http://127\.0\.0\.1:1 cannot be reached for s3://bucket/key, tried 6 times: .*Check AWS_ENDPOINT_URL"
    with pytest.raises(StorageError, match=said):
        storage.write_bytes("s3://bucket/key", b"")


def test_endpoint_profile_and_tries_come_from_the_configuration_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        "[profile lab]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:2\nmax_attempts = 3\n"
        "aws_access_key_id = a\naws_secret_access_key = b\ns3 =\n  addressing_style = path\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setattr(storage, "_WAIT_S", 0.001)
    said = r"http://127\.0\.0\.1:2 cannot be reached for s3://bucket/key, tried 3 times: .*http://127\.0\.0\.1:2/bucket/key"
    with pytest.raises(StorageError, match=said):
        storage.read_bytes("s3://bucket/key")
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(StorageError, match=r"no usable credentials for s3://bucket/key: .*none.*AWS_PROFILE"):
        storage.read_bytes("s3://bucket/key")


def test_waits_grow_and_end():
    waits = [storage._pause_s(0.2, attempt) for attempt in range(1, 30)]
    assert all(0.1 * 2**k <= wait <= 0.2 * 2**k for k, wait in enumerate(waits[:6]))
    assert max(waits) <= storage._LONGEST_WAIT_S
