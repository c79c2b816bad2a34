"""The stream against a plain read and copy of the same bytes, three other libraries, and plain reads from S3.

8,000 trials of 63x250 float16 with targets of 1,024 float32 in four shards, page cache warm, batches of 256. Every
library reads the same trials, shuffled, from its own format, in each round with and without worker processes.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import numpy as np
import trial_set
import webdataset
from rounds import interleaved, ratio
from torch.utils.data import DataLoader

from eegdecode import storage
from eegdecode.data.tarindex import index_tar

ROOT = Path(__file__).resolve().parents[2]
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
N_TRIALS, CHANS, TIMES, DIM = 8000, 63, 250, 1024
STEPS = -(-N_TRIALS // trial_set.BATCH)
ROUNDS, S3_ROUNDS, PASSES = 5, 5, 5
BUCKET, GET_THREADS = "bench", 4


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        eeg_uv_NCT, target_ND = _trials(folder)
        ours = folder / "ours"
        ours.mkdir()
        needed = trial_set.publish(ours, eeg_uv_NCT, target_ND)
        yield from _against_readers(folder, ours, eeg_uv_NCT, target_ND)
        yield from _first_batch(ours)
        yield from _index(ours)
        yield from _s3(folder, ours, needed)


def _trials(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    eeg_uv_NCT = np.empty((N_TRIALS, CHANS, TIMES), np.float16)
    for trial in range(N_TRIALS):
        eeg_uv_NCT[trial] = 10 * rng.standard_normal((CHANS, TIMES), np.float32)
    target_ND = rng.standard_normal((N_TRIALS, DIM), np.float32)
    np.save(folder / "eeg.npy", eeg_uv_NCT)
    np.save(folder / "target.npy", target_ND)
    return eeg_uv_NCT, target_ND


def _against_readers(
    folder: Path, ours: Path, eeg_uv_NCT: np.ndarray, target_ND: np.ndarray
) -> Iterator[dict[str, Any]]:
    tars = sorted((ours / "eeg").glob("trials-*.tar"))
    _, stream = trial_set.opened(str(ours))
    buffer = bytearray(max(tar.stat().st_size for tar in tars))
    copy_NCT, copy_ND = np.zeros_like(eeg_uv_NCT[: trial_set.PER_SHARD]), np.zeros_like(target_ND)
    wds = _webdataset_tars(folder, eeg_uv_NCT, target_ND)
    workers = DataLoader(_webdataset(wds), batch_size=None, num_workers=2, persistent_workers=True)
    sides: dict[str, Callable[[], float]] = {
        "raw": lambda: _rate(lambda: _raw(tars, buffer), PASSES),
        "memcpy": lambda: _rate(lambda: _memcpy(eeg_uv_NCT, target_ND, copy_NCT, copy_ND), PASSES),
        # Our passes follow each other without a seam.
        "stream": lambda: _rate(lambda: trial_set.read(stream, STEPS * PASSES)),
        "webdataset": lambda: _rate(lambda: sum(len(eeg) for eeg, _ in _webdataset(wds))),
        "webdataset_workers": lambda: _rate(lambda: sum(len(eeg) for eeg, _ in workers)),
    }
    with contextlib.ExitStack() as stack:
        peers = _peers(stack, folder)
        sides |= {name: peer.rate for name, peer in peers.items()}
        rates = interleaved(sides, ROUNDS)
    for side in ("raw", "memcpy", "webdataset", "webdataset_workers"):
        yield {"bench": f"stream.vs_{side}"} | ratio(rates["stream"], rates[side]) | _samples_s(rates, side)
    for name in sorted({peer.name for peer in peers.values()}):
        # Each is given its better setting of the two.
        side = max((s for s in peers if peers[s].name == name), key=lambda s: statistics.median(rates[s]))
        others = {s: round(statistics.median(rates[s])) for s in peers if peers[s].name == name}
        facts = {"setting": side, "settings_samples_s": others, "peer_versions": peers[side].versions}
        yield {"bench": f"stream.vs_{name}"} | ratio(rates["stream"], rates[side]) | _samples_s(rates, side) | facts
    yield {
        "bench": "stream.samples_s",
        "value": round(statistics.median(rates["stream"])),
        "unit": "samples/s",
    }


def _samples_s(rates: dict[str, list[float]], side: str) -> dict[str, Any]:
    medians = {"ours": round(statistics.median(rates["stream"])), "theirs": round(statistics.median(rates[side]))}
    return {"unit": "samples/s ratio", "samples_s": medians, "rounds": len(rates[side])}


def _rate(read: Callable[[], int], passes: int = 1) -> float:
    start = time.perf_counter()
    samples = sum(read() for _ in range(passes))
    return samples / (time.perf_counter() - start)


def _raw(tars: list[Path], buffer: bytearray) -> int:
    """Shard after shard into the same memory: no pages to make, nothing to find."""
    view = memoryview(buffer)
    for tar in tars:
        size = tar.stat().st_size
        with tar.open("rb", buffering=0) as file:
            done = 0
            while done < size:
                done += file.readinto(view[done:size])
    return N_TRIALS


def _memcpy(eeg_uv_NCT: np.ndarray, target_ND: np.ndarray, copy_NCT: np.ndarray, copy_ND: np.ndarray) -> int:
    for start in range(0, N_TRIALS, len(copy_NCT)):
        np.copyto(copy_NCT, eeg_uv_NCT[start : start + len(copy_NCT)])
    np.copyto(copy_ND, target_ND)
    return N_TRIALS


def _webdataset_tars(folder: Path, eeg_uv_NCT: np.ndarray, target_ND: np.ndarray) -> list[str]:
    tars = [str(folder / f"wds-{start:06d}.tar") for start in range(0, N_TRIALS, trial_set.PER_SHARD)]
    for shard, tar in enumerate(tars):
        with webdataset.TarWriter(tar) as writer:
            for row in range(shard * trial_set.PER_SHARD, (shard + 1) * trial_set.PER_SHARD):
                writer.write({"__key__": f"{row:06d}", "eeg.npy": eeg_uv_NCT[row], "target.npy": target_ND[row]})
    return tars


def _webdataset(tars: list[str]) -> webdataset.WebDataset:
    data = webdataset.WebDataset(tars, shardshuffle=len(tars), workersplitter=webdataset.split_by_worker)
    return data.shuffle(1000).decode().to_tuple("eeg.npy", "target.npy").batched(trial_set.BATCH)


class _Peer:
    """A library of `.venv-bench`, read by a process of its own that waits for its turn."""

    def __init__(self, name: str, workers: int, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}-{workers}.log"
        command = [PEERS_PYTHON, Path(__file__).with_name("peers.py"), name, str(workers), folder]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONWARNINGS": "ignore"},
            )
        self.versions = self._answer()

    def rate(self) -> float:
        """Samples a second of one pass, by the child's own clock."""
        assert self._process.stdin is not None
        print("epoch", file=self._process.stdin, flush=True)
        answer = self._answer()
        return float(answer["samples"] / answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise RuntimeError(f"{self.name} ended: {said[-1] if said else 'it said nothing'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _peers(stack: contextlib.ExitStack, folder: Path) -> dict[str, _Peer]:
    peers: dict[str, _Peer] = {}
    if not PEERS_PYTHON.exists():
        _leave_out("stream.vs_mosaic and stream.vs_litdata", f"{PEERS_PYTHON.parents[1]} is not installed")
        return peers
    for name in ("mosaic", "litdata"):
        try:
            both = {f"{name}, num_workers={n}": stack.enter_context(_Peer(name, n, folder)) for n in (0, 2)}
        except RuntimeError as error:
            _leave_out(f"stream.vs_{name}", str(error))
            continue
        peers |= both
    return peers


def _leave_out(figures: str, reason: str) -> None:
    print(f"left out: {figures}, because {reason}.", file=sys.stderr, flush=True)


def _first_batch(ours: Path) -> Iterator[dict[str, Any]]:
    runs = []
    for _ in range(ROUNDS):
        command = [sys.executable, Path(__file__).with_name("trial_set.py"), ours, str(time.monotonic())]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    facts = {"unit": "s", "rounds": ROUNDS, "what": "a fresh process opens and checks the set and takes a batch"}
    for bench, key in (("first_batch_s", "first_batch_s"), ("first_batch_with_imports_s", "with_imports_s")):
        yield {"bench": f"stream.{bench}", "value": round(statistics.median(r[key] for r in runs), 3)} | facts


def _index(ours: Path) -> Iterator[dict[str, Any]]:
    tars = sorted((ours / "eeg").glob("trials-*.tar"))

    def index() -> int:
        return sum(len(index_tar(tar).keys) for tar in tars)

    rates = [_rate(index) for _ in range(ROUNDS + 1)][1:]
    yield {
        "bench": "stream.index_samples_s",
        "value": round(statistics.median(rates)),
        "unit": "samples/s",
        "range": [round(min(rates)), round(max(rates))],
        "rounds": ROUNDS,
    }


def _s3(folder: Path, ours: Path, needed: list[Path]) -> Iterator[dict[str, Any]]:
    s3server = _s3server()
    try:
        server = s3server.start(folder / "s3")
    except RuntimeError as error:
        _leave_out("stream.s3_vs_boto3 and stream.s3_boto3_threads", str(error))
        return
    before = dict(os.environ)
    try:
        os.environ |= server.environment
        yield from _against_boto3(folder, ours, [str(path.relative_to(ours)) for path in needed])
    finally:
        os.environ.clear()
        os.environ |= before
        server.stop()


def _s3server() -> Any:
    path = ROOT / "tests" / "system" / "s3server.py"
    spec = importlib.util.spec_from_file_location("s3server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules["s3server"] = module
    spec.loader.exec_module(module)
    return module


def _against_boto3(folder: Path, ours: Path, needed: list[str]) -> Iterator[dict[str, Any]]:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    uri = f"s3://{BUCKET}/set"
    for path in sorted(path for path in ours.rglob("*") if path.is_file()):
        storage.upload(path, storage.join(uri, str(path.relative_to(ours))))
    cache = folder / "cache"
    fetched_mb = []

    def stream_cold() -> float:
        start = time.perf_counter()
        _, stream = trial_set.opened(uri, cache_dir=str(cache))
        trial_set.read(stream, STEPS)
        seconds = time.perf_counter() - start
        fetched_mb.append(sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6)
        shutil.rmtree(cache)
        return N_TRIALS / seconds

    def get(name: str) -> int:
        return len(client.get_object(Bucket=BUCKET, Key=f"set/{name}")["Body"].read())

    def boto() -> float:
        return _rate(lambda: N_TRIALS * bool(sum(map(get, needed))))

    def boto_threads() -> float:
        with ThreadPoolExecutor(GET_THREADS) as pool:
            return _rate(lambda: N_TRIALS * bool(sum(pool.map(get, needed))))

    rates = interleaved({"stream": stream_cold, "boto3": boto, "boto3_threads": boto_threads}, S3_ROUNDS)
    needed_mb = sum((ours / name).stat().st_size for name in needed) / 1e6
    mb = {"fetched_mb": {"ours": round(fetched_mb[-1]), "theirs": round(needed_mb)}}
    threads = {"boto3": 1, "boto3_threads": GET_THREADS}
    for bench, side in (("s3_vs_boto3", "boto3"), ("s3_boto3_threads", "boto3_threads")):
        facts = {"boto3_threads": threads[side], "server": "OpenStack Swift with s3api, on the same cores"}
        yield {"bench": f"stream.{bench}"} | ratio(rates["stream"], rates[side]) | _samples_s(rates, side) | mb | facts
