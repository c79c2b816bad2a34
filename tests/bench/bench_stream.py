"""The stream against a raw read of the same bytes and against the webdataset library, page cache warm."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import webdataset
from PIL import Image

from eegdecode.batch import FileFact, Fold, Manifest, SourceFact, TargetFact
from eegdecode.data import shards
from eegdecode.data.stream import open_stream

N_SHARDS, PER_SHARD, CHANS, TIMES, DIM, BATCH, ROUNDS = 4, 2000, 63, 250, 1024, 256, 7


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        opened = _published(folder)
        tars = sorted(str(p) for p in Path(folder).glob("trials-*.tar"))
        stream = open_stream(opened, opened.manifest.folds[0], "train", BATCH, 0, 0, 1)
        sides = {
            "raw": lambda: _raw(tars),
            "gather": lambda: _gather(opened, stream),
            "stream": lambda: _stream(stream),
            "webdataset": lambda: _webdataset(tars),
        }
        rates = _interleaved(sides)
    for name in ("gather", "stream"):
        yield {"bench": f"{name}.vs_raw", "ratio": round(rates[name] / rates["raw"], 3), "unit": "samples/s ratio"}
        ratio = rates[name] / rates["webdataset"]
        yield {"bench": f"{name}.vs_webdataset", "ratio": round(ratio, 1), "unit": "samples/s ratio"}
    for name, rate in rates.items():
        yield {"bench": f"stream.{name}_samples_s", "value": round(rate), "unit": "samples/s"}


def _interleaved(sides: dict[str, Callable[[], int]]) -> dict[str, float]:
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(ROUNDS + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            n = side()
            if round_:  # the first round warms up
                rates[name].append(n / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def _raw(tars: list[str]) -> int:
    for tar in tars:
        buffer = bytearray(Path(tar).stat().st_size)
        with open(tar, "rb", buffering=0) as file:
            file.readinto(buffer)
    return N_SHARDS * PER_SHARD


def _gather(opened: shards.ShardSet, stream: Any) -> int:
    steps = N_SHARDS * PER_SHARD // BATCH
    for k in range(steps):
        opened.gather(stream.trials_at(k * BATCH))
    return steps * BATCH


def _stream(stream: Any) -> int:
    steps = N_SHARDS * PER_SHARD // BATCH
    batches = stream.starting_at(0)
    for _ in range(steps):
        next(batches)
    batches.close()
    return steps * BATCH


def _webdataset(tars: list[str]) -> int:
    data = webdataset.WebDataset(tars[:1], shardshuffle=False).shuffle(1000).decode().to_tuple("eeg.npy", "target.npy")
    return sum(len(eeg) for eeg, _ in data.batched(BATCH))


def _published(folder: str) -> shards.ShardSet:
    rng = np.random.default_rng(0)
    eeg_uv_NCT = rng.normal(0, 10, (PER_SHARD, CHANS, TIMES)).astype(np.float16)
    target_ND = rng.normal(size=(PER_SHARD, DIM)).astype(np.float32)
    tables, facts = [], []
    for s in range(N_SHARDS):
        rows = np.arange(s * PER_SHARD, (s + 1) * PER_SHARD)
        table = pd.DataFrame(
            {
                "key": [f"trial_{row:06d}" for row in rows],
                "recording": "rec",
                "subject": "01",
                "session": "01",
                "run": f"{s:02d}",
                "position": rows,
                "event": rows,
                "picture": "p",
                "picture_row": 0,
                "concept": "c",
                "repetition": rows,
                "onset_s": rows * 0.2,
            }
        )
        tables.append(table)
        facts.append(shards.write_trial_shard(folder, f"trials-{s:06d}", eeg_uv_NCT, target_ND, table))
    picture = shards.write_picture_shard(
        folder, "pictures-000000", [("p", "c", Image.new("RGB", (8, 8)))], target_ND[:1]
    )
    runs = [f"01_01_{s:02d}" for s in range(N_SHARDS)]
    manifest = Manifest(
        source=SourceFact(name="bench", licence="none", citation="none", design="rapid", truth="picture"),
        sfreq_hz=250.0,
        tmin_s=0.0,
        n_times=TIMES,
        channels=tuple(f"E{c}" for c in range(CHANS)),
        target=TargetFact(tower="none", layer="none", revision="0", preprocessing="none", dim=DIM),
        trials=tuple(facts),
        pictures=(picture,),
        table=FileFact(name="table.parquet", size_bytes=0, sha256=""),
        folds=(Fold(name="all", by="run", train=tuple(runs[:-1]), val=(), test=(runs[-1],)),),
        n_trials=N_SHARDS * PER_SHARD,
        n_pictures=1,
        config_digest="bench",
    )
    table = pd.concat(tables, ignore_index=True)
    table["trial"] = np.arange(len(table))
    shards.publish(folder, manifest, table)
    return shards.open_shards(folder)
