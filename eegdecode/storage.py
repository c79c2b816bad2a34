"""Files and objects behind one set of functions: plain paths, ``file:///abs`` and ``s3://bucket/key``.

S3 goes through boto3 and is set up the way boto3 users expect: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``,
``AWS_REGION``, ``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID`` and so on, or a role of the machine. Import creates nothing.
"""

import errno
import hashlib
import io
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import S3TransferRetriesExceededError, TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

_CHUNK_BYTES = 1 << 20
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MISSING_BUCKET = ("NoSuchBucket",)
_MISSING_KEY = ("NoSuchKey", "404", "NotFound")
_REFUSED = ("403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
# Whole shards travel in parallel parts; small objects in one request.
_TRANSFER = TransferConfig(multipart_threshold=16 << 20, multipart_chunksize=16 << 20, max_concurrency=8)

_clients: dict[tuple[str | int | None, ...], Any] = {}
_clients_lock = threading.Lock()


class StorageError(OSError):
    """Something could not be read or written; the message names it and says what to do."""


class MissingError(StorageError):
    """The file or object does not exist."""


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
        with _explained(uri):
            return path.stat().st_size if path.is_file() else None
    bucket, key = _bucket_and_key(uri)
    with _explained(uri):
        try:
            return int(_client().head_object(Bucket=bucket, Key=key)["ContentLength"])
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_KEY and _bucket_exists(bucket):
                return None
            raise


def read_bytes(uri: str) -> bytes:
    """Return the whole content of a file or object."""
    path = local_path(uri)
    with _explained(uri):
        if path is not None:
            return path.read_bytes()
        bucket, key = _bucket_and_key(uri)
        content = io.BytesIO()
        # Unlike get_object, this also tries again when the answer is cut in the middle.
        _client().download_fileobj(bucket, key, content, Config=_TRANSFER)
        return content.getvalue()


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file or object; nobody ever sees part of it."""
    path = local_path(uri)
    if path is not None:
        with new_file(uri) as temporary, _explained(uri):
            temporary.write_bytes(data)
        return
    bucket, key = _bucket_and_key(uri)
    with _explained(uri):
        _client().put_object(Bucket=bucket, Key=key, Body=data)


def upload(path: str | Path, uri: str) -> None:
    """Copy a local file to ``uri``; nobody ever sees part of it."""
    target = local_path(uri)
    if target is not None:
        with new_file(uri) as temporary, _explained(uri):
            shutil.copyfile(path, temporary)
        return
    bucket, key = _bucket_and_key(uri)
    with _explained(uri):
        _client().upload_file(str(path), bucket, key, Config=_TRANSFER)


def download(uri: str, path: str | Path, sha256: str | None = None) -> Path:
    """Copy a file or object to a local file, which appears whole or not at all.

    Raises
    ------
    StorageError
        If it cannot be read, or its sha256 is not the one asked for.
    """
    path = Path(path)
    source = local_path(uri)
    with new_file(str(path)) as temporary, _explained(uri, written=str(path)):
        if source is not None:
            shutil.copyfile(source, temporary)
        else:
            bucket, key = _bucket_and_key(uri)
            _client().download_file(bucket, key, str(temporary), Config=_TRANSFER)
        if sha256 is not None and (got := file_sha256(temporary)) != sha256:
            raise StorageError(
                f"{uri} must have sha256 {sha256[:12]}…, got {got[:12]}…: it was cut or altered. Publish it again."
            )
    return path


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """Give a local path to write to; it becomes ``uri`` when the block ends and vanishes when the block fails.

    A file is written beside its target, flushed to disk and renamed; an object is written locally and uploaded.
    """
    target = local_path(uri)
    with _explained(uri):
        folder = target.parent if target is not None else Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        name = target.name if target is not None else uri.rstrip("/").rsplit("/", 1)[-1]
        temporary = folder / f".{name}.{uuid.uuid4().hex}.part"
        temporary.touch(exist_ok=False)
    try:
        with _explained(uri):
            yield temporary
            if target is None:
                upload(temporary, uri)
            else:
                _flush(temporary)
                temporary.replace(target)
                _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


def list_uris(prefix: str) -> list[str]:
    """Return the addresses of everything below a folder or key prefix, sorted; empty if there is nothing."""
    folder = local_path(prefix)
    with _explained(prefix):
        if folder is not None:
            # `.….part` is what a killed writer left behind.
            files = [path for path in folder.rglob("*") if path.is_file() and not path.match(".*.part")]
            return sorted(join(prefix, file.relative_to(folder).as_posix()) for file in files)
        bucket, key = _bucket_and_key(prefix, may_be_bucket=True)
        below = f"{key.rstrip('/')}/" if key else ""
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below)
        return sorted(f"s3://{bucket}/{item['Key']}" for page in pages for item in page.get("Contents", ()))


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
            with _explained(uri):
                # Renamed first, so that no reader finds half of it.
                doomed = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".deleted", dir=folder.parent))
                folder.rename(doomed / folder.name)
                shutil.rmtree(doomed)
        return
    bucket, _ = _bucket_and_key(uri)
    uris = list_uris(uri)
    with _explained(uri):
        for start in range(0, len(uris), 1000):
            keys = [{"Key": _bucket_and_key(found)[1]} for found in uris[start : start + 1000]]
            answer = _client().delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            for fault in answer.get("Errors", ()):
                raise StorageError(
                    f"s3://{bucket}/{fault['Key']} could not be deleted: {fault.get('Message', fault['Code'])}."
                )


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


def _bucket_and_key(uri: str, may_be_bucket: bool = False) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket or not (key or may_be_bucket):
        raise ValueError(f"an object address must be s3://bucket/key, got {uri}.")
    return bucket, key


def _client() -> Any:
    """Return the S3 client of this process for the endpoint and identity the environment names now."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
    secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    # The process is part of the key: connections must not be shared with a forked child.
    key = (os.getpid(), *(os.environ.get(name) for name in (*names, *secrets)))
    with _clients_lock:
        if key not in _clients:
            config = Config(
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
            )
            # boto3 reads AWS_DEFAULT_REGION only; every other AWS tool reads AWS_REGION too.
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            _clients[key] = boto3.session.Session(region_name=region).client("s3", config=config)
        return _clients[key]


def _endpoint() -> str:
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or "the default endpoint of AWS"


def _no_bucket(bucket: str) -> str:
    return f"bucket '{bucket}' does not exist at {_endpoint()}. Create it, or correct the address or AWS_ENDPOINT_URL."


def _bucket_exists(bucket: str) -> bool:
    # HEAD answers a bare 404 for an object; a bucket that is missing must not look like an object that is.
    try:
        _client().head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] in (*_MISSING_KEY, *_MISSING_BUCKET):
            return False
        raise
    return True


@contextmanager
def _explained(uri: str, written: str = "") -> Iterator[None]:
    """Turn what boto3 and the operating system raise into one sentence that names the thing."""
    try:
        yield
    except StorageError:
        raise
    except (BotoCoreError, Boto3Error, ClientError, S3TransferRetriesExceededError) as error:
        raise _s3_error(uri, error) from error
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


def _s3_error(uri: str, error: BaseException) -> StorageError:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    # boto3's transfers wrap the answer of the server; the answer is what says something.
    inner: BaseException | None = error
    while inner is not None and not isinstance(inner, ClientError | BotoCoreError):
        inner = inner.__cause__ or inner.__context__
    where = _endpoint()
    if isinstance(inner, ClientError):
        code, said = inner.response["Error"].get("Code", ""), inner.response["Error"].get("Message", "")
        if code in _MISSING_BUCKET or (code in _MISSING_KEY and not _bucket_exists(bucket)):
            return StorageError(_no_bucket(bucket))
        if code in _MISSING_KEY:
            return MissingError(f"object '{key}' does not exist in bucket '{bucket}' at {where}.")
        if code in _REFUSED:
            return StorageError(
                f"{where} refused the credentials for bucket '{bucket}', key '{key}' ({code}: {said}). "
                "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and their rights."
            )
        return StorageError(f"{where} answered {code} for bucket '{bucket}', key '{key}': {said}")
    if isinstance(inner, NoCredentialsError | PartialCredentialsError | ProfileNotFound):
        return StorageError(
            f"no usable credentials for s3://{bucket}/{key}: {inner} "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
        )
    if isinstance(inner, ConnectionError | HTTPClientError):
        return StorageError(
            f"{where} cannot be reached for s3://{bucket}/{key}: {inner} Check AWS_ENDPOINT_URL and the network."
        )
    return StorageError(f"s3://{bucket}/{key} at {where} failed: {inner or error}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
