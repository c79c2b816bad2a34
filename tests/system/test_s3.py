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
from eegdecode.batch import FileFact, Fold, Manifest, SourceFact, TargetFact
from eegdecode.data import shards, stream
from eegdecode.storage import MissingError, StorageError

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


def publish_to(uri: str) -> Manifest:
    rng = np.random.default_rng(0)
    trial = np.arange(N)
    eeg_uv_NCT, target_PD = rng.normal(0, 20, (N, C, T)), rng.normal(0, 1, (5, D))
    table = pd.DataFrame(
        {
            "key": [f"t{t:03d}" for t in trial],
            "recording": "r",
            "subject": "01",
            "session": "01",
            "run": (trial % 4).astype(str),
            "position": trial,
            "picture": [f"p{t % 5}" for t in trial],
            "picture_row": trial % 5,
            "concept": [f"c{t % 5}" for t in trial],
            "repetition": trial // 5,
        }
    )
    facts = [
        shards.write_trial_shard(uri, f"t{a}", eeg_uv_NCT[a:b], target_PD[trial[a:b] % 5], table.iloc[a:b])
        for a, b in ((0, 25), (25, N))
    ]
    pictures = [(f"p{k}", f"c{k}", Image.new("RGB", (8, 8), (k, 0, 0))) for k in range(5)]
    manifest = Manifest(
        source=SourceFact(name="test", licence="CC0", citation="", design="rapid", truth="picture"),
        sfreq_hz=100.0,
        tmin_s=0.0,
        n_times=T,
        channels=("O1", "Oz", "O2", "POz"),
        target=TargetFact(tower="test", layer="", revision="", preprocessing="", dim=D),
        trials=tuple(facts),
        pictures=(shards.write_picture_shard(uri, "p", pictures, target_PD),),
        table=FileFact(name="", size_bytes=0, sha256=""),
        folds=(FOLD,),
        n_trials=N,
        n_pictures=5,
        config_digest="0",
    )
    return shards.publish(uri, manifest, table)


def test_objects_come_back_as_written(bucket: str, tmp_path: Path):
    uri = f"s3://{bucket}/deep/folder"
    # Above the size at which parts travel in parallel.
    large = np.random.default_rng(0).bytes((33 << 20) + 17)
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
    near, far = shards.open_shards(local), shards.open_shards(remote, cache_dir=str(cache))

    pd.testing.assert_frame_equal(near.table, far.table)
    np.testing.assert_array_equal(near.target_PD, far.target_PD)
    one = stream.open_stream(near, FOLD, "train", 8, 3, 0, 1).starting_at(0)
    parts = [stream.open_stream(far, FOLD, "train", 8, 3, rank, 2).starting_at(0) for rank in (0, 1)]
    for _ in range(10):
        whole, halves = next(one), [next(part) for part in parts]
        for name in ("eeg_uv_BCT", "target_BD", "trial_B", "picture_B"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
    for each in (one, *parts):
        each.close()

    # A second opening takes the copies: it works after the objects are gone, all but the manifest.
    for uri in storage.list_uris(remote):
        if not uri.endswith("manifest.json"):
            storage.delete_prefix(uri)
            boto3.client("s3", region_name="us-east-1").delete_object(Bucket=bucket, Key=uri.split("/", 3)[3])
    again = shards.open_shards(remote, cache_dir=str(cache))
    np.testing.assert_array_equal(again.gather(np.arange(N))[0], near.gather(np.arange(N))[0])


def test_a_spoilt_copy_is_fetched_again_and_a_spoilt_object_is_named(bucket: str, tmp_path: Path):
    remote, cache = f"s3://{bucket}/set", tmp_path / "cache"
    manifest = publish_to(remote)
    shards.open_shards(remote, cache_dir=str(cache))
    copy = cache / manifest.digest / "t25.tar"
    content = copy.read_bytes()
    for spoilt in (content[:-1], content[:3000] + b"X" + content[3001:]):
        copy.write_bytes(spoilt)
        shards.open_shards(remote, cache_dir=str(cache))
        assert copy.read_bytes() == content

    storage.write_bytes(f"{remote}/t25.tar", content[:3000] + b"X" + content[3001:])
    with pytest.raises(StorageError, match=r"t25\.tar must have sha256"):
        shards.open_shards(remote, cache_dir=str(tmp_path / "other"))
    assert not (tmp_path / "other" / manifest.digest / "t25.tar").exists()


def _open_and_sum(remote: str, cache: str, answers) -> None:
    opened = shards.open_shards(remote, cache_dir=cache)
    answers.put(float(opened.gather(np.arange(N))[0].astype(np.float64).sum()))


def test_processes_of_one_node_share_one_copy(bucket: str, tmp_path: Path):
    remote = f"s3://{bucket}/set"
    manifest = publish_to(remote)
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
    files = sorted(path.name for path in (tmp_path / manifest.digest).iterdir() if not path.name.startswith("."))
    assert files == sorted(["table.parquet", *(f"{n}{e}" for n in ("t0", "t25", "p") for e in (".tar", ".index.npz"))])
    assert not list((tmp_path / manifest.digest).glob(".*.part"))


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
