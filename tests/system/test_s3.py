"""Shards published to and streamed from a real S3 server equal those on a local disk, and refusals are named."""

import multiprocessing
import uuid
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from eegdecode import storage
from eegdecode.batch import Fold, Manifest
from eegdecode.data import shards, stream
from eegdecode.storage import MissingError, StorageError
from tests.writers import shard_set
from tests.writers.shard_set import trial_table

pytestmark = pytest.mark.s3

C, T, D, N = 4, 25, 8, 60
FOLD = Fold(name="runs", by="run", train=("01_01_0", "01_01_1"), val=("01_01_2",), test=("01_01_3",))


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and the environment that leads to it."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", region_name=s3["AWS_REGION"]).create_bucket(Bucket=name)
    return name


IDS = [f"p{k}" for k in range(5)]


def publish_to(uri: str) -> Manifest:
    """A set at ``uri``, and its targets beside it at ``uri``-targets."""
    rng = np.random.default_rng(0)
    trial = np.arange(N)
    eeg_uv_NCT, target_PD = rng.normal(0, 20, (N, C, T)), rng.normal(0, 1, (5, D)).astype(np.float32)
    table = trial_table(N, trial % 5, run=(trial % 4).astype(str), repetition=trial // 5)
    pictures = [shards.PackedPicture(name, f"c{k}", Image.new("RGB", (8, 8), (k, 0, 0))) for k, name in enumerate(IDS)]
    manifest = shards.publish(uri, shard_set.write_set(uri, eeg_uv_NCT, table, (25, N - 25), pictures), table)
    shard_set.publish_targets(f"{uri}-targets", manifest, IDS, target_PD)
    return manifest


def open_set(uri: str, cache: str | None = None, **options: object) -> shards.ShardSet:
    return shards.open_shards(uri, cache, targets={"": f"{uri}-targets"}, **options)


def test_objects_come_back_as_written(bucket: str, tmp_path: Path):
    uri = f"s3://{bucket}/deep/folder"
    # Above the size at which parts travel in parallel.
    large = np.random.default_rng(0).bytes((65 << 20) + 17)
    (tmp_path / "large").write_bytes(large)
    storage.upload(tmp_path / "large", storage.join(uri, "large.bin"))
    storage.write_bytes(storage.join(uri, "small.bin"), b"small")
    storage.write_bytes(f"s3://{bucket}/deep/folder2/other.bin", b"not below")

    assert storage.read_bytes(storage.join(uri, "small.bin")) == b"small"
    assert storage.size_bytes(storage.join(uri, "large.bin")) == len(large)
    assert storage.download(storage.join(uri, "large.bin"), tmp_path / "copy").read_bytes() == large
    assert storage.list_uris(uri) == [f"{uri}/large.bin", f"{uri}/small.bin"]
    assert not storage.exists(storage.join(uri, "none.bin"))
    storage.delete_prefix(uri)
    assert storage.list_uris(f"s3://{bucket}") == [f"s3://{bucket}/deep/folder2/other.bin"]


def test_failed_write_uploads_nothing(bucket: str):
    def fail() -> None:
        with storage.new_file(f"s3://{bucket}/a.tar") as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert storage.list_uris(f"s3://{bucket}") == []


def test_streaming_from_s3_equals_local(bucket: str, tmp_path: Path):
    remote = f"s3://{bucket}/sets/one"
    local, cache = str(tmp_path / "local"), tmp_path / "cache"
    assert publish_to(remote).digest == publish_to(local).digest
    near, far = open_set(local), open_set(remote, str(cache))

    pd.testing.assert_frame_equal(near.table, far.table)
    np.testing.assert_array_equal(near.target_PD, far.target_PD)
    one = stream.Stream(near, near.trials_of(FOLD, "train"), 8, 3, 0, 1).starting_at(0)
    parts = [stream.Stream(far, far.trials_of(FOLD, "train"), 8, 3, rank, 2).starting_at(0) for rank in (0, 1)]
    for _ in range(10):
        whole, halves = next(one), [next(part) for part in parts]
        for name in ("eeg_uv_BCT", "target_BD", "trial_B", "picture_B"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    for each in (one, *parts):
        each.close()

    np.testing.assert_array_equal(far.gather(np.arange(N)), near.gather(np.arange(N)))

    # A second opening takes the copies: it works after the objects are gone, all but the manifests.
    for uri in (*storage.list_uris(remote), *storage.list_uris(f"{remote}-targets")):
        if not uri.endswith("manifest.json"):
            boto3.client("s3", region_name="us-east-1").delete_object(Bucket=bucket, Key=uri.split("/", 3)[3])
    again = open_set(remote, str(cache))
    np.testing.assert_array_equal(again.gather(np.arange(N)), near.gather(np.arange(N)))


def copy_of(cache: Path, name: str) -> Path:
    (found,) = cache.glob(f"*-{name}")
    return found


def test_a_spoilt_copy_is_fetched_again_and_a_spoilt_object_is_named(bucket: str, tmp_path: Path):
    remote, cache = f"s3://{bucket}/set", tmp_path / "cache"
    publish_to(remote)
    want = open_set(remote, str(cache)).gather(np.arange(N))
    content = copy_of(cache, "trials-1.tar").read_bytes()
    for spoilt in (content[:-1], content[:3000] + b"X" + content[3001:]):
        copy_of(cache, "trials-1.tar").write_bytes(spoilt)
        np.testing.assert_array_equal(open_set(remote, str(cache)).gather(np.arange(N)), want)
        assert copy_of(cache, "trials-1.tar").read_bytes() == content

    storage.write_bytes(f"{remote}/trials-1.tar", content[:3000] + b"X" + content[3001:])
    other = open_set(remote, str(tmp_path / "other"))
    other.gather(np.arange(25))
    with pytest.raises(StorageError, match=r"trials-1\.tar must have sha256"):
        other.gather(np.arange(N))
    assert not list((tmp_path / "other").glob("*-trials-1.tar"))


def test_a_cache_smaller_than_the_set_lets_go_of_what_was_used_least_recently(bucket: str, tmp_path: Path):
    remote = f"s3://{bucket}/set"
    publish_to(remote)
    want = open_set(remote, str(tmp_path / "large")).gather(np.arange(N))
    sizes = [copy_of(tmp_path / "large", f"trials-{k}.tar").stat().st_size for k in (0, 1)]
    small = tmp_path / "small"
    limit = max(sizes) + 40_000
    opened = open_set(remote, str(small), cache_bytes=limit)
    for trials in (np.arange(N), np.arange(25, N), np.arange(25), np.arange(N)[::-1]):
        np.testing.assert_array_equal(opened.gather(trials), want[trials])
        assert sum(path.stat().st_size for path in small.iterdir()) <= limit
    with pytest.raises(StorageError, match=r"has no room for trials-1\.tar"):
        open_set(remote, str(tmp_path / "none"), cache_bytes=sizes[1] - 1).gather(np.arange(25, N))


def _open_and_sum(remote: str, cache: str, answers) -> None:
    opened = open_set(remote, cache)
    answers.put(float(opened.gather(np.arange(N)).astype(np.float64).sum()))


def test_processes_of_one_node_share_one_copy(bucket: str, tmp_path: Path):
    remote = f"s3://{bucket}/set"
    publish_to(remote)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    # This process has used its own client; a forked child must make another.
    started = [context.Process(target=_open_and_sum, args=(remote, str(tmp_path), answers)) for _ in range(3)]
    for process in started:
        process.start()
    got = {answers.get(timeout=60) for _ in started}
    for process in started:
        process.join(30)
        assert process.exitcode == 0
    assert len(got) == 1
    files = sorted(path.name.split("-", 1)[1] for path in tmp_path.iterdir() if not path.name.startswith("."))
    shard_files = [f"{name}{end}" for name in ("trials-0", "trials-1") for end in (".index.npz", ".tar")]
    target_files = [f"targets-{k}{end}" for k in (0, 1) for end in (".index.npz", ".tar")]
    assert files == sorted(["table.parquet", *shard_files, *target_files])
    assert not list(tmp_path.glob(".*.part"))


def test_refusals_of_the_server_are_named(
    bucket: str, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    endpoint = s3["AWS_ENDPOINT_URL"]
    for what in (
        lambda: storage.read_bytes("s3://no-such-bucket/a"),
        lambda: storage.write_bytes("s3://no-such-bucket/a", b""),
        lambda: storage.exists("s3://no-such-bucket/a"),
        lambda: storage.download("s3://no-such-bucket/a", tmp_path / "a"),
        lambda: storage.list_uris("s3://no-such-bucket/a"),
        lambda: publish_to("s3://no-such-bucket/a"),
        lambda: shards.open_shards("s3://no-such-bucket/a", cache_dir=str(tmp_path)),
    ):
        with pytest.raises(StorageError, match=rf"bucket 'no-such-bucket' does not exist at {endpoint}"):
            what()
    with pytest.raises(MissingError, match=rf"object 'none' does not exist in bucket '{bucket}'"):
        storage.read_bytes(f"s3://{bucket}/none")
    with pytest.raises(ValueError, match=r"no shard set is published at .*Prepare it first"):
        shards.open_shards(f"s3://{bucket}/none", cache_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []

    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        with monkeypatch.context() as wrong:
            wrong.setenv(name, "wrong")
            for what in (
                lambda: storage.read_bytes(f"s3://{bucket}/a"),
                lambda: storage.write_bytes(f"s3://{bucket}/a", b""),
                lambda: publish_to(f"s3://{bucket}/set"),
            ):
                with pytest.raises(StorageError, match=r"refused the credentials for bucket .*Check AWS_ACCESS_KEY_ID"):
                    what()
    assert storage.list_uris(f"s3://{bucket}") == []
