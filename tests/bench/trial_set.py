"""The set that `bench_stream.py` reads, written and opened with the project's own functions; nothing else knows how.

`python trial_set.py URI STARTED` is a fresh process that opens a set and takes one batch.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from eegdecode.batch import Fold
from eegdecode.data import shards
from eegdecode.data.stream import Stream
from tests.writers import shard_set

IMPORTED_S = time.monotonic()
PER_SHARD, BATCH = 2000, 256


def publish(folder: Path, eeg_uv_NCT: np.ndarray, target_ND: np.ndarray) -> list[Path]:
    """Write a set in which every trial has a picture of its own; return the files that its stream reads whole.

    The last trial is the test part, which a fold must have.
    """
    uri, n = str(folder / "eeg"), len(eeg_uv_NCT)
    rows = np.arange(n)
    run = np.array([f"{row // PER_SHARD:02d}" for row in rows], dtype=object)
    run[-1] = "99"
    table = shard_set.trial_table(n, rows, run=run)
    image = Image.new("RGB", (8, 8))
    pictures = [shards.PackedPicture(f"p{row}", f"c{row}", image) for row in rows]
    per_shard = [PER_SHARD] * (n // PER_SHARD)
    manifest = shard_set.write_set(uri, eeg_uv_NCT, table, per_shard, pictures, PER_SHARD)
    shards.publish(uri, manifest, table)
    shard_set.publish_targets(str(folder / "targets"), manifest, [p.picture for p in pictures], target_ND)
    targets = sorted((folder / "targets").glob("*.tar"))
    return [*(folder / "eeg" / fact.tar.name for fact in manifest.trials), *targets]


def opened(uri: str, cache_dir: str | None = None) -> tuple[shards.ShardSet, Any]:
    """Return an opened set, checked as a training run checks it, and the stream over its training part."""
    trials = shards.open_shards(f"{uri}/eeg", cache_dir=cache_dir, targets={"": f"{uri}/targets"})
    runs = tuple(f"01_01_{shard:02d}" for shard in range(len(trials.manifest.trials)))
    fold = Fold(name="all", by="run", train=runs, val=(), test=("01_01_99",))
    return trials, Stream(trials, trials.trials_of(fold, "train"), BATCH, seed=0, rank=0, world=1)


def read(stream: Any, steps: int) -> int:
    """Take batches of a stream from its beginning; return the number of trials."""
    batches = stream.starting_at(0)
    n = sum(len(next(batches).target_BD) for _ in range(steps))
    batches.close()
    return n


def main() -> None:
    uri, started_s = sys.argv[1], float(sys.argv[2])
    _, stream = opened(uri)
    read(stream, 1)
    now_s = time.monotonic()
    print(json.dumps({"first_batch_s": now_s - IMPORTED_S, "with_imports_s": now_s - started_s}))


if __name__ == "__main__":
    main()
