"""Speed as ratios of both sides in one run: `make bench`, or `make bench ONLY=stream` for a group.

`recipes` measures scores and takes an hour; it runs only where it is asked for.

Each figure is one JSON line in runs/bench.jsonl. Rounds are interleaved and medians are taken, because the machine is
shared; no figure is asserted. What could not be measured is said on stderr and has no line.
"""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import bench_encoders
import bench_prepare
import bench_recipes
import bench_stream

GROUPS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "stream": bench_stream.run,
    "prepare": bench_prepare.run,
    "encoders": bench_encoders.run,
    "recipes": bench_recipes.run,
}
PACKAGES = ("torch", "numpy", "webdataset", "boto3", "mne")
OUT = Path("runs/bench.jsonl")


def main(chosen: list[str]) -> None:
    unknown = sorted(set(chosen) - set(GROUPS))
    if unknown:
        raise SystemExit(f"ONLY must be one of {', '.join(GROUPS)}, got {unknown[0]}.")
    OUT.parent.mkdir(exist_ok=True)
    facts = {
        "device": f"{len(os.sched_getaffinity(0))} cores, {_processor()}",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "command": "make bench" + (f" ONLY={chosen[0]}" if chosen else ""),
    }
    with OUT.open("a") as file:
        for name in chosen or [group for group in GROUPS if group != "recipes"]:
            for figure in GROUPS[name]():
                line = json.dumps(figure | facts)
                file.write(line + "\n")
                print(json.dumps(figure), flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main(sys.argv[1:])
