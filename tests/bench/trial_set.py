"""The set that `bench_stream.py` reads, written and opened with the project's own functions; nothing else knows how.

`python trial_set.py URI STARTED` is a fresh process that opens a set and takes one batch.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from eegdecode.batch import FileFact, Fold, Manifest, SourceFact, TargetFact
from eegdecode.data import shards
from eegdecode.data.stream import open_stream

IMPORTED_S = time.monotonic()
PER_SHARD, BATCH = 2000, 256


def publish(folder: Path, eeg_uv_NCT: np.ndarray, target_ND: np.ndarray) -> list[Path]:
    """Write a set in which every trial has a picture of its own; return the files that its stream reads whole.

    The last trial is the test part, which a fold must have.
    """
    uri, n = str(folder), len(eeg_uv_NCT)
    rows = np.arange(n)
    run = np.array([f"{row // PER_SHARD:02d}" for row in rows], dtype=object)
    run[-1] = "99"
    table = pd.DataFrame(
        {
            "trial": rows,
            "key": [f"trial_{row:06d}" for row in rows],
            "recording": "rec",
            "subject": "01",
            "session": "01",
            "run": run,
            "position": rows,
            "event": rows,
            "picture": [f"picture_{row:06d}" for row in rows],
            "picture_row": rows,
            "concept": "concept",
            "repetition": 0,
            "onset_s": rows * 0.2,
        }
    )
    image = Image.new("RGB", (8, 8))
    pictures = [(picture, "concept", image) for picture in table["picture"]]
    trial_facts, picture_facts = [], []
    for start in range(0, n, PER_SHARD):
        of = slice(start, start + PER_SHARD)
        name = f"{start // PER_SHARD:06d}"
        trial_facts.append(
            shards.write_trial_shard(uri, f"trials-{name}", eeg_uv_NCT[of], target_ND[of], table.iloc[of])
        )
        picture_facts.append(shards.write_picture_shard(uri, f"pictures-{name}", pictures[of], target_ND[of]))
    runs = sorted({f"01_01_{value}" for value in run})
    manifest = Manifest(
        source=SourceFact(name="bench", licence="none", citation="none", design="rapid", truth="picture"),
        sfreq_hz=250.0,
        tmin_s=0.0,
        n_times=eeg_uv_NCT.shape[2],
        channels=tuple(f"E{c}" for c in range(eeg_uv_NCT.shape[1])),
        target=TargetFact(tower="none", layer="none", revision="0", preprocessing="none", dim=target_ND.shape[1]),
        trials=tuple(trial_facts),
        pictures=tuple(picture_facts),
        table=FileFact(name="table.parquet", size_bytes=0, sha256=""),
        folds=(Fold(name="all", by="run", train=tuple(runs[:-1]), val=(), test=(runs[-1],)),),
        n_trials=n,
        n_pictures=n,
        config_digest="bench",
    )
    shards.publish(uri, manifest, table)
    return [folder / fact.tar.name for fact in trial_facts]


def opened(uri: str, cache_dir: str | None = None) -> tuple[shards.ShardSet, Any]:
    """Return an opened set, checked as a training run checks it, and the stream over its training part."""
    trials = shards.open_shards(uri, cache_dir=cache_dir)
    return trials, open_stream(trials, trials.manifest.folds[0], "train", BATCH, seed=0, rank=0, world=1)


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
