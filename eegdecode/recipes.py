"""Named complete experiments, and the command line that picks and changes one.

A recipe is a function that returns everything; a variant changes a copy of another. No torch, no ray.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from eegdecode.config import (
    Compute,
    Data,
    Encoder,
    Epochs,
    Experiment,
    MuseData,
    SyntheticData,
    Targets,
)


def demo() -> Experiment:
    """Synthetic pictures and EEG, 200-way, on a laptop in minutes; needs no file and no weights."""
    return Experiment(
        recipe="demo",
        data=Data(source=SyntheticData(), epochs=Epochs(reject_uv=250.0)),
        compute=Compute(workers=2, runs_uri="runs/demo"),
    )


def muse_gratings() -> Experiment:
    """Eight exactly known gratings, five electrodes, one person; leave one run out."""
    return Experiment(
        recipe="muse_gratings",
        data=Data(
            source=MuseData(task="gratings"),
            epochs=Epochs(
                tmin_s=-0.1,
                tmax_s=0.5,
                baseline_s=(-0.1, 0.0),
                l_freq_hz=1.0,
                h_freq_hz=30.0,
                filter="butterworth4",
                sfreq_hz=64.0,
                reject_uv=100.0,
            ),
        ),
        targets=Targets(tower="timm:mobilenetv2_100"),
        encoder=Encoder(name="linear", dropout=0.0, whiten="channels"),
        compute=Compute(runs_uri="runs/muse_gratings"),
    )


def muse_n170() -> Experiment:
    """Faces against houses, four electrodes, five people; leave one run out and leave one subject out."""
    base = muse_gratings()
    return base.model_copy(update={"recipe": "muse_n170"})


RECIPES: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "muse_gratings": muse_gratings,
    "muse_n170": muse_n170,
}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options every job has: which recipe, what is changed, and whether it is only printed."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--recipe", choices=sorted(RECIPES), default="demo", help="a complete experiment by name")
    options.add_argument(
        "--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", dest="changes", help="change one field"
    )
    options.add_argument("--experiment", help="a complete experiment as JSON, in place of --recipe")
    options.add_argument("--dry-run", action="store_true", help="print the resolved experiment and stop")
    return options


def resolve(arguments: argparse.Namespace) -> Experiment:
    """Turn parsed options into an Experiment; with --dry-run print it and exit.

    Raises
    ------
    SystemExit
        A change that names no field or a value that a field does not admit: the reason, exit code 2.
    """
    try:
        base = (
            Experiment.model_validate_json(arguments.experiment)
            if arguments.experiment
            else RECIPES[arguments.recipe]()
        )
        experiment = base.override(dict(_change(text) for text in arguments.changes))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None
    if arguments.dry_run:
        sys.stdout.write(experiment.model_dump_json(indent=2) + f"\nrun id: {experiment.run_id}\n")
        raise SystemExit(0)
    return experiment


def from_command_line(description: str | None, argv: Sequence[str] | None = None) -> Experiment:
    """Parse a job's command line to the Experiment it asks for."""
    return resolve(parser(description).parse_args(argv))


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set needs SECTION.FIELD=VALUE, got '{text}'.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
