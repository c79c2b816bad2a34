"""Cutting a recording of 63 electrodes at 1000 Hz against a plain MNE script, and the memory that it takes.

Both sides read the same EDF, run as a process of their own, and are timed inside it after its imports.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recordings
from rounds import interleaved, ratio

MINUTES, LONG_MINUTES, ROUNDS = 5, 15, 3


def run() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        folder = Path(temporary)
        edf = recordings.write(folder / "recording", MINUTES)
        outs = {side: folder / side for side in ("ours", "mne")}
        answers: dict[str, list[dict[str, Any]]] = {side: [] for side in outs}

        def timed(side: str) -> float:
            answers[side].append(_process(side, edf.parent, outs[side]))
            return float(answers[side][-1]["seconds"])

        seconds = interleaved({"mne": lambda: timed("mne"), "ours": lambda: timed("ours")}, ROUNDS)
        recordings.check_equal(outs["ours"], outs["mne"])
        yield (
            {"bench": "prepare.vs_mne_script"}
            | ratio(seconds["mne"], seconds["ours"])
            | {
                "unit": "time ratio",
                "seconds": {side: round(statistics.median(s), 2) for side, s in seconds.items()},
                "rounds": ROUNDS,
                "trials": answers["ours"][-1]["trials"],
                "recording_mb": round(edf.stat().st_size / 1e6),
                "results": "equal to float16",
            }
        )
        for path in (edf.parent, *outs.values()):
            shutil.rmtree(path)

        edf = recordings.write(folder / "long", LONG_MINUTES)
        peaks = {side: _process(side, edf.parent, outs[side]) for side in ("ours", "mne")}
        yield {
            "bench": "prepare.peak_mb",
            "value": round(peaks["ours"]["peak_mb"]),
            "unit": "MB, peak of the process",
            "imported_mb": round(peaks["ours"]["imported_mb"]),
            "mne_script_mb": round(peaks["mne"]["peak_mb"]),
            "recording_mb": round(edf.stat().st_size / 1e6),
            "recording_minutes": LONG_MINUTES,
            "trials": peaks["ours"]["trials"],
        }


def _process(side: str, folder: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = [sys.executable, Path(recordings.__file__), side, folder, out]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
