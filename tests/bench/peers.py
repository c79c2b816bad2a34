"""A peer's reader as a child process of the benchmark: `python peers.py mosaic|litdata WORKERS FOLDER`.

It runs in `.venv-bench`. FOLDER holds the trials as eeg.npy and target.npy; the child writes them there in the peer's
own format, checks that a shuffled pass brings every trial once and whole, and says so with its versions. Then it
answers each line `epoch` on stdin with the samples and seconds of one pass in batches. One JSON line an answer.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256


def mosaic(folder: Path, workers: int) -> Iterable[dict[str, Any]]:
    from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

    eeg_uv_NCT, target_ND = _arrays(folder)
    out = str(folder / f"mosaic-{workers}")
    # With type and shape fixed a field is its bare bytes: their shortest encoding, read by one np.frombuffer.
    shape_CT = ",".join(map(str, eeg_uv_NCT.shape[1:]))
    columns = {"eeg": f"ndarray:float16:{shape_CT}", "target": f"ndarray:float32:{target_ND.shape[1]}"}
    with MDSWriter(out=out, columns=columns) as writer:
        for eeg_uv_CT, target_D in zip(eeg_uv_NCT, target_ND, strict=True):
            writer.write({"eeg": eeg_uv_CT, "target": target_D})
    dataset = StreamingDataset(local=out, shuffle=True, batch_size=BATCH)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)


def litdata(folder: Path, workers: int) -> Iterable[dict[str, Any]]:
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    out = str(folder / f"litdata-{workers}")
    optimize(
        fn=partial(_trial, folder),
        inputs=list(range(len(_arrays(folder)[0]))),
        output_dir=out,
        num_workers=1,
        chunk_bytes="64MB",
        keep_data_ordered=True,
        verbose=False,
    )
    # NumPy leaves, windows of 256 (the default) and a local path, which is mapped: the fastest of what was tried.
    dataset = StreamingDataset(out, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)


PEERS = {"mosaic": (mosaic, "mosaicml-streaming"), "litdata": (litdata, "litdata")}


def check(batches: Iterable[dict[str, Any]], folder: Path) -> None:
    """Every trial comes once, whole, and in another order than it was written."""
    eeg_uv_NCT, target_ND = _arrays(folder)
    row_of = {target_D.tobytes(): row for row, target_D in enumerate(target_ND)}
    order: list[int] = []
    for batch in batches:
        rows = [row_of[target_D.numpy().tobytes()] for target_D in batch["target"]]
        if not np.array_equal(batch["eeg"].numpy(), eeg_uv_NCT[rows]):
            raise ValueError("a trial came back altered.")
        order += rows
    if sorted(order) != list(range(len(eeg_uv_NCT))) or order == sorted(order):
        raise ValueError(f"a shuffled pass must bring each of {len(eeg_uv_NCT)} trials once, got {len(order)}.")


def _trial(folder: Path, row: int) -> dict[str, np.ndarray]:
    eeg_uv_NCT, target_ND = _arrays(folder)
    return {"eeg": eeg_uv_NCT[row].copy(), "target": target_ND[row].copy()}


def _arrays(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / "eeg.npy", mmap_mode="r"), np.load(folder / "target.npy", mmap_mode="r")


def main() -> None:
    # What the libraries print goes to stderr; stdout is for answers alone.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    opened, package = PEERS[sys.argv[1]]
    folder = Path(sys.argv[3])
    batches = opened(folder, int(sys.argv[2]))
    check(batches, folder)
    versions = {name: importlib.metadata.version(name) for name in (package, "torch", "numpy")}
    print(json.dumps(versions), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() != "epoch":
            raise ValueError(f"a line must be 'epoch', got {line!r}.")
        start = time.perf_counter()
        samples = sum(len(batch["eeg"]) for batch in batches)
        print(json.dumps({"samples": samples, "seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
