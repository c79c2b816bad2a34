"""Two ranks of a node train from a store that fails a thousand times: no trial is lost or doubled, and the run ends."""

import contextlib
import multiprocessing
import queue
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from PIL import Image

from eegdecode import storage
from eegdecode.batch import Fold, Manifest
from eegdecode.config import Stream as Spec
from eegdecode.data import shards, stream
from eegdecode.data.cache import Cache
from eegdecode.data.shardset import read_manifest
from tests.system import faulty_proxy
from tests.writers import shard_set

pytestmark = [pytest.mark.s3, pytest.mark.timeout(300)]

C, T, D, N_PICTURES = 4, 25, 8, 20
PER_SHARD = np.random.default_rng(0).integers(8, 21, 48).tolist()
N = sum(PER_SHARD)
FOLD = Fold(name="runs", by="run", train=("01_01_0", "01_01_1", "01_01_2"), val=("01_01_3",), test=("01_01_4",))
TRAIN = np.flatnonzero(np.arange(N) % 5 < 3)
SPEC = Spec(partitions=2, shuffle_shards=3)
BATCH, SEED, RANKS = 16, 3, 2
# About one pass; the passes end in the middle of a batch.
STEPS = len(TRAIN) // BATCH
FIELDS = ("eeg_uv_BCT", "target_BD", "trial_B", "picture_B", "pass_B")
FAULTS = 1000
# A store that does not get well by itself would never end this.
MOST_ROUNDS = 60
# Most are answered by the proxy alone, which keeps the run short.
SHARE = {
    "500": 0.15, "503": 0.1, "403": 0.06, "expired": 0.06, "reset": 0.1, "lost": 0.02, "cut head": 0.02, "cut": 0.02,
    "shortened": 0.02, "overlong": 0.02, "wrong bytes": 0.005, "replaced": 0.01, "slow": 0.01,
    "silent": 0.003, "stalled": 0.003, "trickled": 0.003, "trickled head": 0.003,
}  # fmt: skip
# Short waits, and long enough for a store whose cores do other work; a tar comes in one part or two.
WAITS = {
    "_WAIT_S": 0.002,
    "_SLOW_DOWN_S": 0.004,
    "_READ_S": 1.5,
    "_PART_S": 3.0,
    "_GRACE_S": 0.4,
    "_GET_BYTES": 1 << 15,
}
ATTEMPTS, MOST_IN_A_ROW = 8, 4


def publish_to(uri: str) -> Manifest:
    """A set whose every trial, picture and target says which it is, and its targets at ``uri``-targets."""
    trial = np.arange(N)
    eeg_uv_NCT = np.random.default_rng(1).normal(0, 20, (N, C, T))
    eeg_uv_NCT[:, 0] = trial[:, None]
    target_PD = np.tile(np.arange(N_PICTURES, dtype=np.float32)[:, None], D)
    table = shard_set.trial_table(N, trial % N_PICTURES, run=(trial % 5).astype(str))
    ids = [f"p{k}" for k in range(N_PICTURES)]
    pictures = [shards.PackedPicture(name, name, Image.new("RGB", (8, 8), (k, 0, 0))) for k, name in enumerate(ids)]
    manifest = shards.publish(uri, shard_set.write_set(uri, eeg_uv_NCT, table, PER_SHARD, pictures), table)
    shard_set.publish_targets(f"{uri}-targets", manifest, ids, target_PD)
    return manifest


def open_set(uri: str, cache_dir: str | None = None, cache_bytes: int | None = None) -> shards.ShardSet:
    return shards.open_shards(uri, cache_dir, targets={"": f"{uri}-targets"}, cache_bytes=cache_bytes)


def rounds(opened: shards.ShardSet, rank: int) -> Iterator[dict[str, np.ndarray]]:
    """What a rank trains on, some steps at a time, and some of the pictures that belong to it."""
    with contextlib.closing(
        stream.Stream(opened, opened.trials_of(FOLD, "train"), BATCH, SEED, rank, RANKS, SPEC).starting_at(0)
    ) as batches:
        while True:
            taken = [next(batches) for _ in range(STEPS)]
            got = {name: np.concatenate([getattr(batch, name).numpy() for batch in taken]) for name in FIELDS}
            row_P = np.unique(got["picture_B"])[:3]
            yield got | {"image_PHWC": np.stack([np.asarray(image) for image in opened.picture_images(row_P)])}


def run_rank(rank: int, uri: str, cache_dir: str, cache_bytes: int, orders: Any, answers: Any) -> None:
    """Stream in a process of its own, a round for each order."""
    for name, value in WAITS.items():
        setattr(storage, name, value)
    # Steps are small here; a window is to be fetched ahead, not the set.
    stream._AHEAD_STEPS = 4
    try:
        streamed = rounds(open_set(uri, cache_dir, cache_bytes), rank)
        while orders.get():
            answers.put((rank, next(streamed)))
        streamed.close()
    except Exception as error:
        answers.put((rank, f"{type(error).__name__}: {error}\n{traceback.format_exc()}"))


@dataclass
class Run:
    """What came of a run: rounds by rank, and by rank what ended it if anything did."""

    got: tuple[list[dict[str, np.ndarray]], ...]
    errors: dict[int, str]


def run(uri: str, cache_dir: Path, cache_bytes: int, enough: Callable[[int], bool]) -> Run:
    """Let the ranks stream side by side until it is enough or one of them fails; all of them end."""
    context = multiprocessing.get_context("spawn")
    answers, orders = context.Queue(), [context.Queue() for _ in range(RANKS)]
    ranks = [
        context.Process(target=run_rank, args=(rank, uri, str(cache_dir), cache_bytes, orders[rank], answers))
        for rank in range(RANKS)
    ]
    result = Run(tuple([] for _ in ranks), {})
    for process in ranks:
        process.start()
    try:
        for n_rounds in range(MOST_ROUNDS):
            if result.errors or enough(n_rounds):
                break
            for order in orders:
                order.put(True)
            for _ in ranks:
                rank, answer = answers.get(timeout=120)
                if isinstance(answer, str):
                    result.errors[rank] = answer
                else:
                    result.got[rank].append(answer)
        for order in orders:
            order.put(False)
        for process in ranks:
            process.join(60)
            assert process.exitcode == 0
        with pytest.raises(queue.Empty):
            answers.get(timeout=0.1)
    finally:
        for process in ranks:
            process.kill()
    return result


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """Give what the files of a cache took together, looked up again and again."""
    seen: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            sizes: dict[str, int] = {}
            # Nobody evicts or reserves while this counts. A copy may get its name meanwhile, and counts once.
            with contextlib.suppress(FileNotFoundError), Cache(folder)._alone():
                for path in folder.iterdir():
                    if not path.name.endswith((".used", ".fetched", ".lock")):
                        with contextlib.suppress(FileNotFoundError):
                            sizes[path.name.removeprefix(".").removesuffix(".part")] = path.stat().st_size
            seen.append(sum(sizes.values()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join(30)


@dataclass
class Place:
    """Where the set is published and what leads there; the same set on a local disk."""

    bucket: str
    endpoint: str
    uri: str
    local: str
    limit: int
    publishing: Any


@pytest.fixture(scope="module")
def published(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One set for all tests here, published through faults; the environment and waits of this process reach it."""
    direct, bucket = s3["AWS_ENDPOINT_URL"], f"thousand-{uuid.uuid4().hex[:12]}"
    local = str(tmp_path_factory.mktemp("sets") / "set")
    size = sum(fact.tar.size_bytes for fact in publish_to(local).trials)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**s3, "AWS_MAX_ATTEMPTS": str(ATTEMPTS), "LOCAL_WORLD_SIZE": str(RANKS)}.items():
            patch.setenv(name, value)
        for name, value in WAITS.items():
            patch.setattr(storage, name, value)
        boto3.client("s3", region_name=s3["AWS_REGION"]).create_bucket(Bucket=bucket)
        plan = plan_of({kind: share / 4 for kind, share in SHARE.items()}, bucket, direct)
        with faulty_proxy.proxied(direct, plan) as endpoint, patch.context() as through:
            through.setenv("AWS_ENDPOINT_URL", endpoint)
            uri = f"s3://{bucket}/set"
            assert publish_to(uri).digest == read_manifest(local).digest
        # Less than half the set has room, and all of it is read each pass.
        yield Place(bucket, direct, uri, local, int(0.4 * size), plan)


def plan_of(share: dict[str, float], bucket: str, endpoint: str) -> faulty_proxy.Plan:
    replaced = faulty_proxy.replacer(bucket, endpoint, lambda content: bytes(len(content)))
    return faulty_proxy.Plan(7, share, MOST_IN_A_ROW, stall_s=5, slow_s=0.02, replaced=replaced)


def kept(cache: Path) -> list[str]:
    """What is in a cache beside the files that are locked."""
    return [path.name for path in cache.iterdir() if not path.name.endswith((".used", ".fetched", ".lock"))]


def test_a_thousand_faults_lose_no_trial_and_double_none(
    published: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    cache = tmp_path / "cache"
    plan = plan_of(SHARE, published.bucket, published.endpoint)
    with faulty_proxy.proxied(published.endpoint, plan) as endpoint, watched(cache) as seen:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

        def enough(n_rounds: int) -> bool:
            return n_rounds >= 3 and plan.injected.total() >= FAULTS and set(plan.injected) == set(SHARE)

        result = run(published.uri, cache, published.limit, enough)
    assert result.errors == {}
    assert plan.injected.total() >= FAULTS
    assert set(plan.injected) == set(SHARE)
    assert published.publishing.injected.total() > 20

    for rank, own in enumerate(result.got):
        with contextlib.closing(rounds(open_set(published.local), rank)) as near:
            for far, want in zip(own, near, strict=False):
                for name, values in want.items():
                    np.testing.assert_array_equal(far[name], values, err_msg=name)
    got = {name: np.concatenate([part[name] for own in result.got for part in own]) for name in FIELDS}
    np.testing.assert_array_equal(got["eeg_uv_BCT"][:, 0], np.tile(got["trial_B"][:, None], T))
    np.testing.assert_array_equal(got["picture_B"], got["trial_B"] % N_PICTURES)
    np.testing.assert_array_equal(got["target_BD"], np.tile(got["picture_B"][:, None], D))
    for part in result.got[0]:
        np.testing.assert_array_equal(part["image_PHWC"][:, 0, 0, 0], np.unique(part["picture_B"])[:3])
    whole, begun = divmod(len(result.got[0]) * STEPS * BATCH, len(TRAIN))
    assert whole >= 2
    for n_pass in range(whole):
        np.testing.assert_array_equal(np.sort(got["trial_B"][got["pass_B"] == n_pass]), TRAIN)
    last = got["trial_B"][got["pass_B"] == whole].tolist()
    assert len(last) == len(set(last) & set(TRAIN.tolist())) == begun

    assert published.limit // 2 < max(seen) <= published.limit
    assert [name for name in kept(cache) if name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["cut", "wrong bytes"])
def test_a_fault_that_never_stops_ends_the_run_and_names_the_object(
    published: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
):
    # Of the second half of the trials, which rank 1 owns.
    broken = f"trials-{len(PER_SHARD) * 3 // 4}.tar"

    class Broken(faulty_proxy.Plan):
        def next(self, method, path, headers):
            return super().next(method, path, headers) if path.endswith(f"/{broken}") else None

    plan, cache = Broken(7, {kind: 1.0}, most_in_a_row=10**9), tmp_path / "cache"
    with faulty_proxy.proxied(published.endpoint, plan) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        result = run(published.uri, cache, published.limit, lambda n_rounds: n_rounds == 2)
    assert list(result.errors) == [1]
    said = result.errors[1].splitlines()[0]
    assert said.startswith("StorageError: ")
    assert f"{published.uri}/{broken}" in said
    assert f"tried {ATTEMPTS} times" in said
    # Tried when it was fetched ahead and when it was needed, and then no more.
    assert plan.injected.total() <= 4 * ATTEMPTS
    assert [name for name in kept(cache) if name.startswith(".") or broken in name] == []
