"""Files and objects behind one set of functions: plain paths, ``file:///abs`` and ``s3://bucket/key``.

S3 goes through boto3 and is set up the way boto3 users expect: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID``, ``AWS_MAX_ATTEMPTS`` and so on, their counterparts in boto3's
configuration file (the addressing style too), or a role of the machine. Import creates nothing.

Faults that may pass are tried again after a growing, jittered wait, and nothing waits for ever: a connection has
`_CONNECT_S`, an answer `_READ_S` from one byte to the next, a request `_PART_S` in all (for each `_PUT_BYTES` that it
sends), and each of them `_ATTEMPTS` tries. Every object written here carries the sha256 of its content and is held
against it when it is read.
"""

import errno
import hashlib
import itertools
import os
import queue
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import unquote, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError

_CONNECT_S = 10.0
_READ_S = 60.0
_PART_S = 300.0
# Beyond that, for a request that checks by itself and would write where it no longer may.
_GRACE_S = 5.0
# Tries and waits are ours and boto3's own are off: it does not try again when a body is cut, and two loops multiply.
_ATTEMPTS = 6
_WAIT_S = 0.2
_SLOW_DOWN_S = 1.0
_LONGEST_WAIT_S = 20.0
# Whole shards travel in parallel parts; what is smaller in one request. The store refuses upload parts below 5 MiB.
_GET_BYTES = 64 << 20
_PUT_BYTES = 16 << 20
_MOST_PARTS = 10_000
_THREADS = 8
_CHUNK_BYTES = 1 << 20

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISSING_BUCKET = ("NoSuchBucket",)
_MISSING_KEY = ("NoSuchKey", "404", "NotFound")
# An answer whose body was cut has its status for a code.
_CHANGED = ("PreconditionFailed", "412")
_NO_RANGE = ("InvalidRange", "416")
_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken")
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired")
# Rights and tokens are renewed while a job runs, so these are tried again. 400 is what AWS answers to a HEAD, which has
# no body to say more in, when a token has expired.
_DENIED = ("400", "401", "403", "AccessDenied", "RequestTimeTooSkewed", *_EXPIRED)
_SLOW_DOWN = ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException")
_PASSING = ("InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "ConditionalRequestConflict")
_LOST = (ConnectionError, HTTPClientError, IncompleteReadError, ResponseStreamingError, ResponseParserError, HTTPError)
_SHA256 = "sha256"
_LATER = "Run it again when the store is well; AWS_MAX_ATTEMPTS sets how often a request is tried."

T = TypeVar("T")


class _S3(NamedTuple):
    client: Any
    attempts: int


_clients: dict[tuple[object, ...], _S3] = {}
_clients_lock = threading.Lock()


class StorageError(OSError):
    """Something could not be read or written; the message names it and says what to do."""


class MissingError(StorageError):
    """The file or object does not exist."""


class TakenError(StorageError):
    """Other content is already where something was to be written once."""


class _CutError(Exception):
    """An answer ended early or came too slowly; the message completes "the endpoint …"."""


class _ChangedError(Exception):
    """An object is not what its first answer promised; the message completes "the object …"."""


def join(uri: str, *parts: str) -> str:
    """Return the address of something below ``uri``.

    Examples
    --------
    >>> join("s3://bucket/set/", "shard.tar")
    's3://bucket/set/shard.tar'
    """
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """Return whether there is a file or object at ``uri``."""
    return size_bytes(uri) is not None


def size_bytes(uri: str) -> int | None:
    """Return the size of a file or object, None if there is none."""
    path = local_path(uri)
    if path is not None:
        with explained(uri):
            return path.stat().st_size if path.is_file() else None
    bucket, key = _bucket_and_key(uri)

    def head(client: Any) -> int | None:
        try:
            return int(_said(client.head_object(Bucket=bucket, Key=key), "ContentLength"))
        except ClientError as error:
            if _code(error) in _MISSING_KEY and _bucket_exists(bucket):
                return None
            raise

    return _tried(uri, head)


def read_bytes(uri: str) -> bytes:
    """Return the whole content of a file or object."""
    path = local_path(uri)
    with explained(uri, written=f"a copy of {uri} in {tempfile.gettempdir()}"):
        if path is not None:
            return path.read_bytes()
        with tempfile.TemporaryFile() as file:
            _get(uri, file.fileno(), None, None)
            return file.read()


def write_bytes(uri: str, data: bytes, if_absent: bool = False) -> None:
    """Write a whole file or object; nobody ever sees part of it.

    Parameters
    ----------
    if_absent
        Write only where nothing is, so that of several writers one wins. Content that is there and equal is accepted.
        As safe against two at once as the object store's ``If-None-Match: *``.

    Raises
    ------
    TakenError
        If other content is there and was not to be replaced.
    """
    try:
        _write(uri, data, if_absent)
    except TakenError:
        # Equal when another writer had the same, and when the answer to our own first try was lost.
        if read_bytes(uri) != data:
            raise


def _write(uri: str, data: bytes, if_absent: bool) -> None:
    path = local_path(uri)
    if path is not None:
        with explained(uri), _temporary(path.parent, path.name) as temporary:
            temporary.write_bytes(data)
            settle(temporary, path, if_absent)
        return
    bucket, key = _bucket_and_key(uri)
    facts = {"Metadata": {_SHA256: hashlib.sha256(data).hexdigest()}}
    once = {"IfNoneMatch": "*"} if if_absent else {}
    _tried(uri, lambda client: client.put_object(Bucket=bucket, Key=key, Body=data, **facts, **once), len(data))


def upload(path: str | Path, uri: str) -> None:
    """Copy a local file to ``uri``; nobody ever sees part of it."""
    target = local_path(uri)
    if target is not None:
        with new_file(uri) as temporary, explained(uri):
            shutil.copyfile(path, temporary)
        return
    with explained(str(path)), Path(path).open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _PUT_BYTES:
            _put_parts(uri, file.fileno(), size, file_sha256(path))
        else:
            _write(uri, os.pread(file.fileno(), size, 0), if_absent=False)


def download(uri: str, path: str | Path, sha256: str | None = None) -> Path:
    """Copy a file or object to a local file, which appears whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be read, or its sha256 is not the one asked for.
    """
    path = Path(path)
    with new_file(str(path)) as temporary:
        fill(temporary, uri, sha256, written=str(path))
    return path


def fill(
    path: Path, uri: str, sha256: str | None = None, size_bytes: int | None = None, written: str | None = None
) -> None:
    """Copy a file or object over a local file that is there; unlike `download`, a failure leaves part of it.

    Parameters
    ----------
    sha256, size_bytes
        What the content must have, where the caller knows it.
    written
        What messages call the local file.

    Raises
    ------
    StorageError
        If it cannot be read or is not what it must be.
    """
    source = local_path(uri)
    with explained(uri, written=written or str(path)), path.open("r+b", buffering=0) as file:
        if source is None:
            _get(uri, file.fileno(), sha256, size_bytes)
            return
        with source.open("rb") as opened:
            shutil.copyfileobj(opened, file, _CHUNK_BYTES)
        file.truncate()
        _check_size(uri, os.fstat(file.fileno()).st_size, size_bytes)
    if sha256 is not None and (got := file_sha256(path)) != sha256:
        raise _altered(uri, sha256, got)


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """Give a local path to write to; it becomes ``uri`` when the block ends and vanishes when the block fails.

    A file is written beside its target, flushed to disk and renamed; an object is written locally and uploaded.
    """
    target = local_path(uri)
    folder, name = (target.parent, target.name) if target else (Path(tempfile.gettempdir()), uri.rsplit("/", 1)[-1])
    with explained(uri), _temporary(folder, name) as temporary:
        yield temporary
        if target is None:
            upload(temporary, uri)
        else:
            settle(temporary, target)


def settle(temporary: Path, target: Path, if_absent: bool = False) -> None:
    """Give a written file its name, in a way that survives a loss of power."""
    _flush(temporary)
    if if_absent:
        try:
            # Unlike a rename, a link never replaces.
            os.link(temporary, target)
        except FileExistsError as error:
            raise TakenError(
                f"{target} holds other content and must not be replaced. Choose another place, or delete that one "
                "first."
            ) from error
    else:
        temporary.replace(target)
    _flush(target.parent)


def list_uris(prefix: str) -> list[str]:
    """Return the addresses of everything below a folder or key prefix, sorted; empty if there is nothing."""
    folder = local_path(prefix)
    with explained(prefix):
        if folder is not None:
            # `.….part` is what a killed writer left behind.
            files = [path for path in folder.rglob("*") if path.is_file() and not path.match(".*.part")]
            return sorted(join(prefix, file.relative_to(folder).as_posix()) for file in files)
    bucket, key = _bucket_and_key(prefix, may_be_bucket=True)
    below = f"{key.rstrip('/')}/" if key else ""

    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = _tried(prefix, partial(_page, bucket=bucket, below=below, more=more))
        found += [f"s3://{bucket}/{item['Key']}" for item in page.get("Contents", ())]
        if not page.get("IsTruncated"):
            return sorted(found)
        following = {"ContinuationToken": page.get("NextContinuationToken", "")}
        if following in ({"ContinuationToken": ""}, more):
            raise StorageError(f"{_endpoint()} lists {prefix} without end: after one page comes the same. {_LATER}")
        more = following


def _page(client: Any, bucket: str, below: str, more: dict[str, str]) -> dict[str, Any]:
    try:
        page: dict[str, Any] = client.list_objects_v2(Bucket=bucket, Prefix=below, **more)
    except ClientError as error:
        # A listing is never missing; a caller who asks for an object must not take it for that.
        if _code(error) in _MISSING_KEY:
            raise _CutError(f"answered {_code(error)} to a listing") from error
        raise
    _said(page, "IsTruncated")  # an answer without a body would be an empty listing
    return page


def delete_prefix(uri: str) -> None:
    """Delete everything below a folder or key prefix.

    Raises
    ------
    ValueError
        For a whole bucket or the root of the file system.
    """
    folder = local_path(uri)
    if folder is not None:
        if folder.resolve() == Path(folder.resolve().anchor):
            raise ValueError(f"delete_prefix needs a folder below the root, got {uri}.")
        if folder.is_dir():
            with explained(uri):
                # Renamed first, so that no reader finds half of it.
                doomed = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".deleted", dir=folder.parent))
                folder.rename(doomed / folder.name)
                shutil.rmtree(doomed)
        return
    bucket, _ = _bucket_and_key(uri)
    uris = list_uris(uri)
    for start in range(0, len(uris), 1000):
        keys = [{"Key": _bucket_and_key(found)[1]} for found in uris[start : start + 1000]]

        def delete(client: Any, keys: list[dict[str, str]] = keys) -> None:
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": keys})
            for fault in answer.get("Errors", ()):
                said = {"Code": fault["Code"], "Message": f"{fault['Key']}: {fault.get('Message', '')}"}
                raise ClientError({"Error": said}, "DeleteObjects")
            deleted = {item.get("Key") for item in answer.get("Deleted", ())}
            left = [item["Key"] for item in keys if item["Key"] not in deleted]
            if left:
                raise _CutError(f"did not say that it deleted '{left[0]}' and {len(left) - 1} more")

        _tried(uri, delete)


def local_path(uri: str) -> Path | None:
    """Return the path of a plain path or ``file://`` address, None for ``s3://``.

    Raises
    ------
    ValueError
        For any other scheme.
    """
    if "://" not in uri:
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path:
            raise ValueError(f"a file address must be file:///absolute/path, got {uri}.")
        return Path(unquote(parts.path))
    if parts.scheme == "s3":
        return None
    raise ValueError(f"an address must be a path, file:///… or s3://bucket/key, got {uri}.")


def file_sha256(path: str | Path) -> str:
    """Return the sha256 of a local file, read in pieces."""
    with Path(path).open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def explained(uri: str, written: str = "") -> Iterator[None]:
    """Turn what the operating system raises into one sentence that names the thing."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageError(
                f"no space left to write {written or uri}: {error.strerror}. Free some and run it again."
            ) from error
        if isinstance(error, FileNotFoundError):
            raise MissingError(f"{error.filename or uri} does not exist.") from error
        if isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError | PermissionError):
            raise StorageError(f"{error.filename or uri} cannot be used: {error.strerror}.") from error
        raise


def _get(uri: str, file: int, sha256: str | None, size: int | None) -> None:
    """Write an object to an open file, again from the start if it changed on the way or came altered."""
    for attempt in itertools.count(1):
        try:
            return _get_once(uri, file, sha256, size)
        except _ChangedError as error:
            if attempt >= _s3().attempts:
                raise StorageError(
                    f"{uri} {error}, {_times(attempt)}. End what else writes there, check the network, or publish it "
                    "again."
                ) from error
        time.sleep(_pause_s(_WAIT_S, attempt))


class _Answer(NamedTuple):
    size: int
    etag: str | None
    sha256: str | None


def _get_once(uri: str, file: int, sha256: str | None, size: int | None) -> None:
    first = _tried(uri, lambda client: _get_part(client, uri, file, 0, None))
    _check_size(uri, first.size, size)
    if sha256 is not None and first.sha256 not in (None, sha256):
        # Another object than the one asked for: trying again would not help.
        raise _altered(uri, sha256, str(first.sha256))
    asked = sha256 or first.sha256
    digest = hashlib.sha256()
    starts = range(_GET_BYTES, first.size, _GET_BYTES)
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = [
            pool.submit(_tried, uri, partial(_get_part, uri=uri, file=file, start=start, etag=first.etag))
            for start in starts
        ]
        try:
            for start, part in zip((0, *starts), (None, *parts), strict=True):
                if part is not None:
                    part.result()
                if asked is not None:
                    # In order, while later parts are still on their way.
                    end = min(start + _GET_BYTES, first.size)
                    for at in range(start, end, _CHUNK_BYTES):
                        digest.update(os.pread(file, min(_CHUNK_BYTES, end - at), at))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if asked is not None and digest.hexdigest() != asked:
        raise _ChangedError(f"must have sha256 {asked[:12]}…, got {digest.hexdigest()[:12]}…")
    os.ftruncate(file, first.size)


def _get_part(client: Any, uri: str, file: int, start: int, etag: str | None) -> _Answer:
    """Write one part of an object to its place; `etag` says of which version it must be."""
    bucket, key = _bucket_and_key(uri)
    until = time.monotonic() + _PART_S
    same = {} if etag is None else {"IfMatch": etag}
    try:
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + _GET_BYTES - 1}", **same)
    except ClientError as error:
        if _code(error) in _CHANGED or (_code(error) in _NO_RANGE and start > 0):
            raise _ChangedError("changed while it was read") from error
        if _code(error) not in _NO_RANGE:
            raise
        answer = client.get_object(Bucket=bucket, Key=key)  # it is empty
    if etag not in (None, answer.get("ETag")):
        raise _ChangedError("changed while it was read")
    covers, _, size = answer.get("ContentRange", "").partition("/")
    length, at = int(_said(answer, "ContentLength")), start
    # An answer in full is an empty object's, or of a store that knows no ranges.
    if start or answer["ResponseMetadata"]["HTTPStatusCode"] == 206:
        end = min(start + _GET_BYTES, int(size)) if size.isdecimal() else 0
        if covers != f"bytes {start}-{end - 1}" or length != end - start:
            raise _CutError(f"sent '{covers}/{size}' in {length} bytes for the part that begins at byte {start}")
    with answer["Body"] as body:
        # As it comes: to wait for whole pieces would let a trickle outlast any limit.
        while chunk := body.read1(_CHUNK_BYTES):
            # Before it is written: the file may be another's by the time a given-up request gets here.
            if time.monotonic() > until:
                raise _CutError(f"sent {at - start} of {length} bytes in {_PART_S:g} s")
            left = memoryview(chunk)
            while left:
                written = os.pwrite(file, left, at)
                left, at = left[written:], at + written
    if at - start != length:
        raise _CutError(f"sent {at - start} of {length} bytes")
    return _Answer(int(size) if size else length, answer.get("ETag"), answer.get("Metadata", {}).get(_SHA256))


def _put_parts(uri: str, file: int, size: int, sha256: str) -> None:
    bucket, key = _bucket_and_key(uri)
    place = {"Bucket": bucket, "Key": key}
    part_bytes = max(_PUT_BYTES, -(-size // _MOST_PARTS))
    upload_id = _tried(
        uri, lambda client: _said(client.create_multipart_upload(**place, Metadata={_SHA256: sha256}), "UploadId")
    )

    def put(client: Any, k: int) -> dict[str, Any]:
        data = os.pread(file, part_bytes, k * part_bytes)
        answer = client.upload_part(**place, UploadId=upload_id, PartNumber=k + 1, Body=data)
        return {"PartNumber": k + 1, "ETag": _said(answer, "ETag")}

    def complete(client: Any, parts: list[dict[str, Any]]) -> None:
        try:
            client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts})
        except ClientError as error:
            # An earlier try may have gone through and its answer been lost.
            if (
                _code(error) not in ("NoSuchUpload", "404")
                or client.head_object(**place).get("Metadata", {}).get(_SHA256) != sha256
            ):
                raise

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            count = -(-size // part_bytes)
            sent = [pool.submit(_tried, uri, partial(put, k=k), part_bytes) for k in range(count)]
            try:
                parts = [part.result() for part in sent]
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        _tried(uri, partial(complete, parts=parts))
    except BaseException:
        # Parts of an upload that never ends are stored, and paid for.
        with suppress(StorageError):
            _tried(uri, lambda client: client.abort_multipart_upload(**place, UploadId=upload_id))
        raise


def _said(answer: dict[str, Any], name: str) -> Any:
    """Return a part of an answer; Python takes one that is cut in its head for one that has no more headers."""
    if name not in answer:
        raise _CutError(f"sent no {name}")
    return answer[name]


def _check_size(uri: str, got: int, asked: int | None) -> None:
    if asked not in (None, got):
        raise StorageError(f"{uri} must have {asked} bytes, got {got}: it was cut or altered. Publish it again.")


def _altered(uri: str, asked: str, got: str) -> StorageError:
    return StorageError(
        f"{uri} must have sha256 {asked[:12]}…, got {got[:12]}…: it was cut or altered. Publish it again."
    )


def _bucket_and_key(uri: str, may_be_bucket: bool = False) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not (key or may_be_bucket):
        raise ValueError(f"an object address must be s3://bucket/key, got {uri}.")
    return bucket, key


def _s3() -> _S3:
    """Return the S3 client of this process for the endpoint and identity the environment names now."""
    named = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    # The process is part of the key: connections must not be shared with a forked child.
    key = (os.getpid(), *named)
    with _clients_lock:
        if key not in _clients:
            core = botocore.session.Session()
            config = Config(
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                max_pool_connections=8 * _THREADS,
                tcp_keepalive=True,
            )
            # boto3 reads AWS_DEFAULT_REGION only; every other AWS tool reads AWS_REGION too.
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            session = boto3.session.Session(region_name=region, botocore_session=core)
            attempts = core.get_config_variable("max_attempts") or _ATTEMPTS
            _clients[key] = _S3(session.client("s3", config=config), int(attempts))
        return _clients[key]


def _tried(uri: str, call: Callable[[Any], T], sent_bytes: int = 0) -> T:
    """Return what `call` makes of the S3 client in one request, tried again while the fault may pass.

    Parameters
    ----------
    sent_bytes
        How long the request is; a long one may take longer.

    Raises
    ------
    StorageError
        In the end, with how often it was tried.
    """
    for attempt in itertools.count(1):
        attempts = 1
        try:
            client, attempts = _s3()
            return _within(_PART_S * max(1, sent_bytes / _PUT_BYTES), partial(call, client))
        except (BotoCoreError, ClientError, ResponseParserError, HTTPError, _CutError) as error:
            scale = _patience_s(error)
            if scale is None or attempt >= attempts:
                raise _s3_error(uri, error, attempt) from error
        time.sleep(_pause_s(scale, attempt))
    raise AssertionError("the last try returns or raises")


def _within(limit_s: float, call: Callable[[], T]) -> T:
    """Return what a call returns, or give it up: a byte a minute is within boto3's time-out for as long as it likes."""
    answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as error:
            answers.put((False, error))

    # A daemon, as it cannot be ended and must not keep the process.
    threading.Thread(target=run, daemon=True, name="s3-request").start()
    try:
        returned, answer = answers.get(timeout=limit_s + _GRACE_S)
    except queue.Empty as error:
        raise _CutError(f"did not finish its answer in {limit_s:g} s") from error
    if returned:
        return cast(T, answer)
    raise answer


def _patience_s(error: BaseException) -> float | None:
    """Return how long to wait before the second try, None if none would help."""
    if not isinstance(error, ClientError):
        return _WAIT_S if isinstance(error, (*_LOST, _CutError)) else None
    code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _SLOW_DOWN or status in (429, 503):
        return _SLOW_DOWN_S
    return _WAIT_S if code in (*_PASSING, *_DENIED) or status >= 500 else None


def _pause_s(scale_s: float, attempt: int) -> float:
    # Half of it by chance, so that many clients do not come back together; not from a generator someone seeded.
    return float(min(scale_s * 2 ** (attempt - 1), _LONGEST_WAIT_S) * random.SystemRandom().uniform(0.5, 1))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _endpoint() -> str:
    try:
        return str(_s3().client.meta.endpoint_url)
    except BotoCoreError:
        return "the object store"


def _bucket_exists(bucket: str) -> bool:
    # HEAD answers a bare 404 for an object; a bucket that is missing must not look like an object that is.
    def head(client: Any) -> bool:
        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) in (*_MISSING_KEY, *_MISSING_BUCKET):
                return False
            raise
        return True

    return _tried(f"s3://{bucket}", head)


def _s3_error(uri: str, error: BaseException, attempts: int) -> StorageError:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    where, tried = _endpoint(), _times(attempts)
    if isinstance(error, ClientError):
        code, said = _code(error), error.response.get("Error", {}).get("Message", "")
        if code in _MISSING_BUCKET or (code in _MISSING_KEY and not _bucket_exists(bucket)):
            return StorageError(
                f"bucket '{bucket}' does not exist at {where}. Create it, or correct the address or AWS_ENDPOINT_URL."
            )
        if code in _MISSING_KEY:
            return MissingError(f"object '{key}' does not exist in bucket '{bucket}' at {where}.")
        if code in _CHANGED:
            return TakenError(
                f"{uri} holds other content and must not be replaced. Choose another place, or delete that one first."
            )
        if code in _EXPIRED:
            return StorageError(
                f"{where} says that the credentials for bucket '{bucket}', key '{key}' have expired ({code}: {said}), "
                f"{tried}. Get new ones: AWS_SESSION_TOKEN and its keys, or sign in to AWS_PROFILE again."
            )
        if code in (*_WRONG_KEYS, *_DENIED):
            return StorageError(
                f"{where} refused the credentials for bucket '{bucket}', key '{key}' ({code}: {said}), {tried}. "
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and their rights."
            )
        return StorageError(f"{where} answered {code} for {uri}, {tried}: {said} {_LATER}")
    if isinstance(error, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return StorageError(
            f"no usable credentials for {uri}: {error} Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if isinstance(error, ReadTimeoutError | BodyTimeoutError):
        return StorageError(f"{where} sent nothing for {_READ_S:g} s for {uri}, {tried}. {_LATER}")
    if isinstance(error, _CutError):
        return StorageError(f"{where} {error} for {uri}, {tried}. {_LATER}")
    if isinstance(error, HTTPError | ResponseStreamingError | IncompleteReadError | ResponseParserError):
        return StorageError(f"{where} broke off its answer for {uri}, {tried}: {error} {_LATER}")
    if isinstance(error, ConnectionError | HTTPClientError):
        return StorageError(
            f"{where} cannot be reached for {uri}, {tried}: {error} Check AWS_ENDPOINT_URL and the network."
        )
    return StorageError(f"{uri} at {where} failed: {error}")


def _times(attempts: int) -> str:
    return "tried once" if attempts == 1 else f"tried {attempts} times"


@contextmanager
def _temporary(folder: Path, name: str) -> Iterator[Path]:
    """Give an empty file beside a target; it is gone when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{uuid.uuid4().hex}.part"
    temporary.touch(exist_ok=False)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
