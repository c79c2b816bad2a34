"""The main job on one machine: start a cluster, submit the five jobs, serve the bundle, write the report.

make demo
make demo RECIPE=muse_gratings DATA=../shared/data
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eegdecode import recipes
from eegdecode.config import Experiment
from eegdecode.evaluate.page import headline
from eegdecode.evaluate.report import load_report, write_report
from eegdecode.runtime import cluster, tracking
from eegdecode.runtime.progress import say
from eegdecode.runtime.try_served import served_bundle, try_served

JOBS = ("prepare", "search", "train", "evaluate", "reconstruct")
MARKER = ".eegdecode-demo"


class Clock:
    """Seconds per stage, and one line when a stage begins and ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        say(f"== {name}")
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        say(f"== {name}: {self.seconds[name]:.0f} s")


def main() -> None:
    """Run every stage and say where the report is."""
    experiment = recipes.from_command_line(__doc__)
    folder = Path(experiment.compute.runs_uri).resolve()
    _clear(folder)
    experiment = with_weights(experiment.override({"compute.runs_uri": str(folder)}))
    clock = Clock()
    with ExitStack() as stack:
        with clock.stage("start"):
            uri = stack.enter_context(tracking.start_server(folder / "mlflow"))
            here = stack.enter_context(cluster.one_machine(os.cpu_count() or 1, folder / "cluster"))
        experiment = experiment.override({"compute.tracking_uri": uri})
        for job in JOBS:
            with clock.stage(job):
                cluster.submit(here, f"jobs/{job}.py", ["--experiment", experiment.model_dump_json()])
        with clock.stage("serve"):
            serving = try_served(experiment, here)
    report = load_report(str(folder)).with_section(serving=serving, seconds=clock.seconds)
    write_report(str(folder), report)
    (folder / "bundle").symlink_to(Path(served_bundle(experiment)).relative_to(folder))  # what `make serve` serves
    say(headline(report.model_dump(mode="json")))
    say(f"report: {folder / 'report.html'}\nsummary: {folder / 'summary.json'}")


def with_weights(experiment: Experiment) -> Experiment:
    """Fill in what the data folder offers: tower and autoencoder weights lie beside the recordings."""
    data = Path(experiment.compute.data_uri) if experiment.compute.data_uri else None
    if data is None:
        return experiment
    changes: dict[str, object] = {"compute.data_uri": str(data.resolve())}
    if not experiment.compute.weights_uri and (data / "weights").is_dir():
        changes["compute.weights_uri"] = str((data / "weights").resolve())
        if any((data / "weights").glob("taef2_*.safetensors")):
            changes["drawer.space"] = "taef2"
    return experiment.override(changes)


def _clear(folder: Path) -> None:
    """Empty the folder of an earlier demo; refuse a folder that is not one."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        sys.stderr.write(f"{folder} is not empty and not of an earlier demo; choose another compute.runs_uri.\n")
        raise SystemExit(2)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


if __name__ == "__main__":
    main()
