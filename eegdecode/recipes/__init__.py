"""Named complete experiments, and the command line that picks and changes one.

A recipe is a function that returns everything; a variant changes a copy of another. One file per family. No torch, no
ray. The published ones say in their docstrings what the paper and its code leave open and what was chosen.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from eegdecode.config import Experiment
from eegdecode.recipes.atm import atm, atm_published
from eegdecode.recipes.block_design import distill, distill_wavelet, neuroimagen, neuroimagen_label
from eegdecode.recipes.demo import canonical, canonical_photographs, demo
from eegdecode.recipes.first import bids, eegcvpr40, things_eeg2
from eegdecode.recipes.muse import (
    muse_gratings,
    muse_gratings_riemann,
    muse_gratings_riemann_erp,
    muse_gratings_riemann_samples,
    muse_n170,
    muse_n170_riemann,
    muse_n170_riemann_erp,
    muse_n170_riemann_samples,
)
from eegdecode.recipes.neurobridge import neurobridge, samga
from eegdecode.recipes.nice import nice, nice_ga, nice_learnt_temperature, nice_sa
from eegdecode.recipes.perceptogram import perceptogram
from eegdecode.recipes.ubp import ubp, ubp_fixed_blur

RECIPES: dict[str, Callable[[], Experiment]] = {
    recipe.__name__: recipe
    for recipe in (
        demo,
        canonical,
        canonical_photographs,
        things_eeg2,
        bids,
        eegcvpr40,
        muse_gratings,
        muse_n170,
        muse_gratings_riemann,
        muse_n170_riemann,
        muse_gratings_riemann_erp,
        muse_n170_riemann_erp,
        muse_gratings_riemann_samples,
        muse_n170_riemann_samples,
        nice,
        nice_sa,
        nice_ga,
        nice_learnt_temperature,
        atm,
        atm_published,
        ubp,
        ubp_fixed_blur,
        neurobridge,
        samga,
        distill,
        distill_wavelet,
        neuroimagen,
        neuroimagen_label,
        perceptogram,
    )
}
"""Name to recipe."""


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


def command_line(experiment: Experiment) -> str:
    """Return the options that `from_command_line` makes this experiment of; a tracking server is no part of it."""
    base, given = (_leaves(e.model_dump(mode="json")) for e in (RECIPES[experiment.recipe](), experiment))
    changed = [name for name in given if given[name] != base.get(name) and name != "compute.tracking_uri"]
    options = [f"--set {shlex.quote(f'{name}={json.dumps(given[name])}')}" for name in changed]
    return " ".join([f"--recipe {experiment.recipe}", *options])


def _leaves(tree: dict[str, Any], path: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= _leaves(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
    return leaves


def _change(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set needs SECTION.FIELD=VALUE, got '{text}'.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
