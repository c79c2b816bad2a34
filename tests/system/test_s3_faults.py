"""A store that fails in every way, on purpose: what passes is got over, what stays is named, and everything ends."""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from eegdecode import storage
from eegdecode.storage import MissingError, StorageError, TakenError
from tests.system import faulty_proxy

pytestmark = [pytest.mark.s3, pytest.mark.timeout(60)]

PART_BYTES = 1 << 16
# For faults that are noticed by waiting; with all others nobody has to be in a hurry.
READ_S, PART_S = 0.3, 0.6
WAITED_FOR = ("silent", "stalled", "trickled", "trickled head")


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, the environment that leads to it, and a client that waits little and reads small parts."""
    for name, value in {**s3, "AWS_MAX_ATTEMPTS": "3"}.items():
        monkeypatch.setenv(name, value)
    for name, value in {"_WAIT_S": 0.01, "_SLOW_DOWN_S": 0.02, "_GET_BYTES": PART_BYTES}.items():
        monkeypatch.setattr(storage, name, value)
    name = f"faults-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name=s3["AWS_REGION"]).create_bucket(Bucket=name)
    return name


@pytest.fixture
def spoilt(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Put a proxy with a plan before the server, and time-outs that suit it; gives the plan."""
    with contextlib.ExitStack() as stack:

        def spoil(share: dict[str, float], most_in_a_row: int = 1000, in_time: float = 1.0, **more):
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3" if most_in_a_row > 8 else "8")
            if set(share) & set(WAITED_FOR):
                hurry(monkeypatch, in_time)
            plan = faulty_proxy.Plan(0, share, most_in_a_row, stall_s=30, **more)
            monkeypatch.setenv(
                "AWS_ENDPOINT_URL", stack.enter_context(faulty_proxy.proxied(s3["AWS_ENDPOINT_URL"], plan))
            )
            return plan

        yield spoil


def hurry(monkeypatch: pytest.MonkeyPatch, in_time: float = 1.0) -> None:
    for name, value in {"_READ_S": READ_S, "_PART_S": PART_S, "_GRACE_S": 0.2}.items():
        monkeypatch.setattr(storage, name, value * in_time)


CONTENT = np.random.default_rng(0).bytes(3 * PART_BYTES + 17)
OTHER = np.random.default_rng(1).bytes(3 * PART_BYTES + 17)


AT = r"http://127\.0\.0\.1:\d+"
# What is left standing, and what the user is told when it does.
READING = {
    "500": rf"{AT} answered InternalError for s3://.*/a\.bin, tried 3 times: We encountered .*Run it again when",
    "503": rf"{AT} answered SlowDown for s3://.*/a\.bin, tried 3 times: Please reduce your request rate\..*AWS_MAX_ATT",
    "403": r"refused the credentials for bucket '.*', key 'a\.bin' \(AccessDenied: Access Denied\), tried 3 times",
    "expired": r"have expired \(ExpiredToken: The provided token has expired\.\), tried 3 times\. Get new ones",
    "reset": rf"{AT} cannot be reached for s3://.*/a\.bin, tried 3 times: .*Check AWS_ENDPOINT_URL",
    "lost": rf"{AT} cannot be reached for s3://.*/a\.bin, tried 3 times: ",
    "silent": rf"{AT} sent nothing for 0\.3 s for s3://.*/a\.bin, tried 3 times\. Run it again",
    "cut head": rf"{AT} .* for s3://.*/a\.bin, tried 3 times",
    "trickled head": rf"{AT} did not finish its answer in 0\.6 s for s3://.*/a\.bin, tried 3 times",
    "cut": rf"{AT} .* for s3://.*/a\.bin, tried 3 times",
    "stalled": rf"{AT} sent nothing for 0\.3 s for s3://.*/a\.bin, tried 3 times",
    "trickled": rf"{AT} sent \d+ of {PART_BYTES} bytes in 0\.6 s for s3://.*/a\.bin, tried 3 times",
    "shortened": rf"{AT} sent 'bytes 0-65535/196625' in 32768 bytes for the part that begins at byte 0 for",
    "overlong": rf"{AT} sent '.*' in {PART_BYTES + 17} bytes for the part that begins at byte 0 for",
    "wrong bytes": r"s3://.*/a\.bin must have sha256 [0-9a-f]{12}…, got [0-9a-f]{12}…, tried 3 times\. End",
    "replaced": r"s3://.*/a\.bin changed while it was read, tried 3 times\. End what else writes there",
}


@pytest.mark.parametrize("kind", READING)
def test_a_read_gets_over_a_passing_fault_and_names_a_lasting_one(
    bucket: str, s3: dict[str, str], spoilt: Callable, tmp_path: Path, kind: str
):
    uri = f"s3://{bucket}/a.bin"
    storage.write_bytes(uri, CONTENT)
    more = {"replaced": faulty_proxy.replacer(bucket, s3["AWS_ENDPOINT_URL"], lambda _: OTHER)}
    plan = spoilt({kind: 1.0}, most_in_a_row=1, **more)
    assert storage.download(uri, tmp_path / "passing").read_bytes() == CONTENT
    assert plan.injected[kind] > 0

    plan = spoilt({kind: 1.0}, **more)
    with pytest.raises(StorageError, match=READING[kind]) as caught:
        storage.download(uri, tmp_path / "lasting")
    assert not isinstance(caught.value, MissingError | TakenError)
    assert plan.injected[kind] >= 3
    assert [path.name for path in tmp_path.iterdir()] == ["passing"]


@pytest.mark.parametrize("kind", [kind for kind in READING if kind not in ("replaced", "wrong bytes")])
def test_every_call_ends_when_the_store_does_not_recover(
    bucket: str, spoilt: Callable, monkeypatch: pytest.MonkeyPatch, kind: str
):
    uri = f"s3://{bucket}/set/a.bin"
    storage.write_bytes(uri, CONTENT)
    calls = {
        "GET": [lambda: storage.read_bytes(uri), lambda: storage.list_uris(f"s3://{bucket}/set")],
        "": [
            lambda: storage.exists(uri),
            lambda: storage.write_bytes(uri, CONTENT, if_absent=True),
            lambda: storage.delete_prefix(f"s3://{bucket}/set"),
        ],
    }
    of_get = kind in (*faulty_proxy.OF_CONTENT, *faulty_proxy.OF_OBJECTS)
    of_objects = kind in faulty_proxy.OF_OBJECTS
    spoilt({kind: 1.0})
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    ended = 0
    for call in [*calls["GET"][: 1 if of_objects else 2], *(() if of_get else calls[""])]:
        with pytest.raises(StorageError, match=rf"127\.0\.0\.1:\d+.* s3://{bucket}|bucket '{bucket}'|expired"):
            call()
        ended += 1
    assert ended == (1 if of_objects else 2 if of_get else 5)


def test_a_store_that_accepts_and_never_answers_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        hurry(monkeypatch)
        with pytest.raises(
            StorageError, match=rf"{endpoint} sent nothing for 0\.3 s for s3://{bucket}/a, tried 3 times"
        ):
            storage.read_bytes(f"s3://{bucket}/a")


def test_a_store_that_sends_something_else_is_named(bucket: str, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()

    def serve(server: socket.socket, answer: bytes) -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    html = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 12\r\nConnection: close\r\n\r\n<html>no</p>"
    for answer in (b"SSH-2.0-OpenSSH_9.9\r\n", b"\0" * 100_000, html):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.1)
            threading.Thread(target=serve, args=(server, answer), daemon=True).start()
            endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
            monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
            with pytest.raises(StorageError, match=rf"{endpoint} .* for s3://{bucket}/set, tried 3 times"):
                storage.list_uris(f"s3://{bucket}/set")
            ended.set()
            ended = threading.Event()


def test_credentials_that_are_refused_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    uri = f"s3://{bucket}/a"
    calls = (
        lambda: storage.read_bytes(uri),
        lambda: storage.exists(uri),
        lambda: storage.write_bytes(uri, b"a"),
        lambda: storage.list_uris(f"s3://{bucket}"),
        lambda: storage.delete_prefix(uri),
    )
    for name, value in (("AWS_ACCESS_KEY_ID", "test:nobody"), ("AWS_SECRET_ACCESS_KEY", "wrong")):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, value)
            for call in calls:
                said = (
                    rf"refused the credentials for bucket '{bucket}', key '.*' \(.*\), tried .*Check AWS_ACCESS_KEY_ID"
                )
                with pytest.raises(StorageError, match=said):
                    call()
    with monkeypatch.context() as none:
        for name in [name for name in os.environ if name.startswith("AWS_") and "ENDPOINT" not in name]:
            none.delenv(name)
        none.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        none.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        none.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for call in calls:
            with pytest.raises(StorageError, match=rf"no usable credentials for s3://{bucket}.*Set AWS_ACCESS_KEY_ID"):
                call()
        none.setenv("AWS_ACCESS_KEY_ID", "test:tester")
        with pytest.raises(
            StorageError, match=r"no usable credentials for .*Partial credentials.*missing: AWS_SECRET_ACCESS_KEY"
        ):
            calls[0]()
    assert storage.list_uris(f"s3://{bucket}") == []


def test_an_expired_token_is_named_where_an_answer_has_no_body(bucket: str, spoilt: Callable):
    spoilt({"expired": 1.0})
    with pytest.raises(
        StorageError, match=r"refused the credentials for bucket .* \(400: Bad Request\), tried 3 times"
    ):
        storage.exists(f"s3://{bucket}/a")


def test_a_listing_of_many_pages_is_whole_or_refused(
    bucket: str, s3: dict[str, str], spoilt: Callable, monkeypatch: pytest.MonkeyPatch
):
    uris = [f"s3://{bucket}/set/{k:02d}" for k in range(7)]
    for uri in uris:
        storage.write_bytes(uri, b"x")
    page = storage._page
    # A page of S3 has a thousand; the store is asked for two at a time.
    monkeypatch.setattr(
        storage, "_page", lambda client, **more: page(client, more=more.pop("more") | {"MaxKeys": 2}, **more)
    )
    assert storage.list_uris(f"s3://{bucket}/set") == uris
    for kind in ("404", "500", "cut", "lost"):
        plan = spoilt({kind: 1.0}, most_in_a_row=1)
        assert storage.list_uris(f"s3://{bucket}/set") == uris
        assert plan.injected[kind] >= 4, kind

    # From the third page on, for ever.
    class Late(faulty_proxy.Plan):
        def next(self, method, path, headers):
            return super().next(method, path, headers) if "continuation-token" in path else None

    monkeypatch.setattr(faulty_proxy, "Plan", Late)
    spoilt({"404": 1.0})
    said = rf"answered NoSuchKey to a listing for s3://{bucket}/set, tried 3 times"
    with pytest.raises(StorageError, match=said) as caught:
        storage.list_uris(f"s3://{bucket}/set")
    assert not isinstance(caught.value, MissingError)


def test_a_listing_that_repeats_itself_ends(bucket: str, monkeypatch: pytest.MonkeyPatch):
    for k in range(3):
        storage.write_bytes(f"s3://{bucket}/{k}", b"x")
    page = storage._page
    monkeypatch.setattr(storage, "_page", lambda client, **more: page(client, **more | {"more": {"MaxKeys": 1}}))
    with pytest.raises(StorageError, match="without end: after one page comes the same"):
        storage.list_uris(f"s3://{bucket}")


def test_an_object_without_a_sum_that_comes_short_is_refused(bucket: str, spoilt: Callable, tmp_path: Path):
    """Other writers leave no sha256: nothing but the length of each part tells."""
    boto3.client("s3", region_name="us-east-1").put_object(Bucket=bucket, Key="a.bin", Body=CONTENT)
    assert storage.read_bytes(f"s3://{bucket}/a.bin") == CONTENT
    spoilt({"shortened": 1.0})
    with pytest.raises(StorageError, match=r"in 32768 bytes for the part that begins at byte 0"):
        storage.read_bytes(f"s3://{bucket}/a.bin")


def test_a_read_that_starts_as_another_object_ends_is_one_of_both(bucket: str):
    """A writer that never rests: what is read is one of its versions, never a mixture."""
    uri, ended, written = f"s3://{bucket}/a.bin", threading.Event(), []
    versions = {bytes([k]) * (2 * PART_BYTES + k) for k in range(4)}
    storage.write_bytes(uri, min(versions))

    def write() -> None:
        while not ended.is_set():
            for version in versions:
                storage.write_bytes(uri, version)
                written.append(1)
                ended.wait(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    got = []
    try:
        for _ in range(10):
            with contextlib.suppress(StorageError):
                got.append(storage.read_bytes(uri))
    finally:
        ended.set()
        writer.join(30)
    assert got
    assert set(got) <= versions
    assert len(written) > 4


def test_of_two_jobs_that_publish_one_after_another_the_first_stays(bucket: str, spoilt: Callable):
    uri = f"s3://{bucket}/set/manifest.json"
    storage.write_bytes(uri, b"one", if_absent=True)
    with pytest.raises(TakenError, match=rf"{uri} holds other content and must not be replaced\. Choose another place"):
        storage.write_bytes(uri, b"two", if_absent=True)
    storage.write_bytes(uri, b"one", if_absent=True)
    assert storage.read_bytes(uri) == b"one"
    # The answer to our own first try was lost: the second finds what we wrote ourselves.
    plan = spoilt({"lost": 1.0}, most_in_a_row=1)
    storage.write_bytes(f"s3://{bucket}/set/other.json", b"three", if_absent=True)
    assert plan.injected["lost"] > 0
    with pytest.raises(TakenError, match="holds other content"):
        storage.write_bytes(f"s3://{bucket}/set/other.json", b"four", if_absent=True)
    assert storage.read_bytes(f"s3://{bucket}/set/other.json") == b"three"


def test_a_job_gets_through_a_bad_day(bucket: str, s3: dict[str, str], spoilt: Callable, tmp_path: Path, monkeypatch):
    """All faults at once, none more than twice in a row."""
    monkeypatch.setattr(storage, "_PUT_BYTES", 5 << 20)
    share = {kind: 0.03 for kind in faulty_proxy.KINDS if kind != "404"} | dict.fromkeys(WAITED_FOR, 0.01)
    replaced = faulty_proxy.replacer(bucket, s3["AWS_ENDPOINT_URL"], lambda _: OTHER)
    plan = spoilt(share, 2, in_time=3, replaced=replaced, slow_s=0.05)
    rng = np.random.default_rng(2)
    contents = {f"s3://{bucket}/set/{k:02d}": rng.bytes(int(rng.integers(1, 4 * PART_BYTES))) for k in range(12)}
    for uri, content in contents.items():
        storage.write_bytes(uri, content, if_absent=True)
    large = rng.bytes((5 << 20) + 3)
    (tmp_path / "large").write_bytes(large)
    storage.upload(tmp_path / "large", f"s3://{bucket}/set/large")
    assert storage.list_uris(f"s3://{bucket}/set") == sorted([*contents, f"s3://{bucket}/set/large"])
    for uri, content in contents.items():
        assert storage.size_bytes(uri) == len(content)
        assert storage.read_bytes(uri) == content
    # One wrong byte and all of it is read again: fewer parts.
    monkeypatch.setattr(storage, "_GET_BYTES", 1 << 20)
    assert storage.download(f"s3://{bucket}/set/large", tmp_path / "copy").read_bytes() == large
    storage.delete_prefix(f"s3://{bucket}/set")
    assert storage.list_uris(f"s3://{bucket}") == []
    assert sum(plan.injected.values()) > 20
    assert len(plan.injected) > 10
