"""A shard set of ten million trials without its shards: manifest, table and targets, as a large lab would have them.

Run as a program it opens the set, orders it and resumes in the middle, and prints seconds and megabytes as JSON.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from eegdecode.batch import FileFact, Manifest, ShardFact
from eegdecode.config import Protocol
from eegdecode.config import Stream as Spec
from eegdecode.data.shardset import open_shards
from eegdecode.data.stream import Stream
from tests.writers.shard_set import SOURCE

N, PER_SHARD, N_PICTURES, N_CONCEPTS, N_SUBJECTS, N_RUNS = 10_000_000, 2000, 16_540, 1654, 50, 20


def _sha256(k: int) -> str:
    return hashlib.sha256(str(k).encode()).hexdigest()


def _fact(name: str, k: int, n: int) -> ShardFact:
    files = [FileFact(name=f"{name}{end}", size_bytes=70_000_000, sha256=_sha256(k)) for end in (".tar", ".index.npz")]
    return ShardFact(tar=files[0], index=files[1], n_samples=n)


def write(folder: Path) -> None:
    """Write manifest and table."""
    trial = np.arange(N)
    row = trial % N_PICTURES
    # Subjects one after the other, as recordings are packed.
    subject, run = trial // (N // N_SUBJECTS), trial // (N // N_SUBJECTS // N_RUNS) % N_RUNS

    def named(codes: np.ndarray, prefix: str, n: int) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), [f"{prefix}{k:05d}" for k in range(n)])

    text = pc.cast(pa.array(trial), pa.string())
    table = pa.table(
        {
            "trial": trial,
            "key": pc.binary_join_element_wise("sub-01_ses-01_run-01_", text, ""),
            "recording": named(subject * N_RUNS + run, "rec-", N_SUBJECTS * N_RUNS),
            "subject": named(subject, "", N_SUBJECTS),
            "session": named(run // 5, "", 4),
            "run": named(run, "", N_RUNS),
            "position": trial,
            "picture": named(row, "picture-", N_PICTURES),
            "picture_row": row,
            "concept": named(row % N_CONCEPTS, "concept-", N_CONCEPTS),
            "partition": pa.DictionaryArray.from_arrays(
                pa.array((row % N_CONCEPTS < 200).astype(np.int32)), ["train", "test"]
            ),
            "repetition": trial // N_PICTURES,
        }
    )
    folder.mkdir()
    parquet.write_table(table, folder / "table.parquet", compression="zstd")
    content = (folder / "table.parquet").read_bytes()
    manifest = Manifest(
        source=SOURCE,
        sfreq_hz=250.0,
        tmin_s=0.0,
        n_times=250,
        channels=tuple(f"E{c}" for c in range(63)),
        trials=tuple(_fact(f"trials-{k:06d}", k, PER_SHARD) for k in range(N // PER_SHARD)),
        pictures=(_fact("pictures-000000", 0, N_PICTURES),),
        table=FileFact(name="table.parquet", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()),
        n_trials=N,
        n_pictures=N_PICTURES,
        config_digest="0",
    )
    (folder / "manifest.json").write_text(manifest.sealed().model_dump_json())


def measure(uri: str) -> dict[str, float]:
    """Open, divide, order and resume."""
    before_mb = _peak_mb()
    start = time.perf_counter()
    opened = open_shards(uri, protocol=Protocol(n_val=100))
    stream = Stream(opened, opened.trials_of(opened.folds[0], "train"), 1024, 0, 1, 4, Spec(partitions=64))
    resumed = stream.trials_at(123 * stream.n + 1024 * 4567)
    seconds = time.perf_counter() - start
    assert len(set(resumed.tolist())) == 256
    return {"seconds": seconds, "peak_mb": _peak_mb(), "imports_mb": before_mb, "train_trials": stream.n}


def _peak_mb() -> float:
    # Not getrusage: what it gives begins with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
