"""Named complete experiments, and the command line that picks and changes one.

A recipe is a function that returns everything; a variant changes a copy of another. No torch, no ray.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from eegdecode.config import (
    BidsData,
    Compute,
    Data,
    Drawer,
    EegCvpr40Data,
    Encoder,
    Epochs,
    Experiment,
    Loss,
    MuseData,
    Protocol,
    Schedule,
    Search,
    Stream,
    SyntheticData,
    Targets,
    ThingsEeg2Data,
)


def demo() -> Experiment:
    """Synthetic pictures and EEG, 200-way, on a laptop in minutes; needs no file and no weights."""
    return Experiment(
        recipe="demo",
        data=Data(source=SyntheticData(), epochs=Epochs(sfreq_hz=50.0, crop_s=(0.0, 0.4), reject_uv=250.0)),
        targets=Targets(project=14),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=100, lr=1e-5, validate_every=20, save_every=50),
        search=Search(lr=(1e-6, 1e-5), temperature=(0.1, 0.3), steps=60),
        compute=Compute(workers=2, runs_uri="runs/demo"),
    )


# Windows are whole samples at the headband's 256 Hz; 4 x 64 Hz, so that every fourth sample is kept.
_MUSE_EPOCHS = Epochs(
    tmin_s=-25 / 256,
    tmax_s=127 / 256,
    baseline_s=(None, -1 / 256),
    l_freq_hz=1.0,
    h_freq_hz=30.0,
    filter="butterworth4",
    sfreq_hz=64.0,
    reject_uv=100.0,
)


def muse_gratings() -> Experiment:
    """Eight exactly known gratings, five electrodes, one person; leave one run out.

    Trials come in the same order in every run, so the null permutes by position and trains again.
    """
    return Experiment(
        recipe="muse_gratings",
        data=Data(source=MuseData(task="gratings"), epochs=_MUSE_EPOCHS),
        targets=Targets(tower="timm:mobilenetv2_100"),
        encoder=Encoder(name="linear", dropout=0.8, whiten="channels"),
        loss=Loss(contrastive_batch=160, temperature=1.0, learn_temperature=False, normalise="target"),
        schedule=Schedule(steps=100, lr=3e-4, weight_decay=1.0, warmup_steps=10, validate_every=25, save_every=100),
        protocol=Protocol(
            split_by="run",
            n_val=1,
            contrast=("sf0.1", "sf4.1"),
            test_repetitions=0,
            selection="last",
            permute="positions",
            control_window_s=(-256 / 256, -13 / 256),
        ),
        drawer=Drawer(px=64, steps=400, batch=16, sampler_steps=12),
        search=Search(lr=(1e-4, 3e-4), temperature=(1.0, 2.0), steps=100),
        compute=Compute(runs_uri="runs/muse_gratings"),
    )


def muse_n170() -> Experiment:
    """Faces against houses, four electrodes, five people; leave one run out, and leave one subject out.

    Which picture of its category was shown is not logged: the score is about the category.
    """
    base = muse_gratings()
    protocol = base.protocol.model_copy(
        update={
            "also_split_by": ("subject",),
            "contrast": ("house", "face"),
            "permute": "trials",
            "control_window_s": (-128 / 256, -1 / 256),
        }
    )
    return base.model_copy(
        update={
            "recipe": "muse_n170",
            "data": Data(source=MuseData(task="n170"), epochs=_MUSE_EPOCHS.model_copy(update={"tmax_s": 203 / 256})),
            "loss": base.loss.model_copy(update={"contrastive_batch": 256}),
            "protocol": protocol,
            "compute": Compute(runs_uri="runs/muse_n170"),
        }
    )


def things_eeg2() -> Experiment:
    """THINGS-EEG2 from its raw files (`compute.data_uri`), 200 test concepts: a first decoder that needs no weights.

    Cut and noise normalisation are NICE's (Song et al. 2024): -0.2 to 1 s, 250 Hz, covariance of training trials per
    session. Training repetitions are averaged, as in most papers on these data.
    """
    return Experiment(
        recipe="things_eeg2",
        data=Data(
            source=ThingsEeg2Data(),
            epochs=Epochs(tmin_s=-0.2, tmax_s=1.0, sfreq_hz=250.0, crop_s=(0.0, 0.996), mvnn="epochs"),
        ),
        stream=Stream(average=0),
        targets=Targets(project=32),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=100, lr=1e-5, validate_every=20, save_every=50),
        protocol=Protocol(n_val=100),
        search=Search(lr=(1e-6, 1e-5), temperature=(0.1, 0.3), steps=60),
        compute=Compute(runs_uri="runs/things_eeg2"),
    )


def bids() -> Experiment:
    """Any BIDS-EEG folder (`compute.data_uri`) whose events name pictures; concepts by the source's own partition.

    Where pictures have no partition, divide by run or subject: ``--set protocol.split_by=run``.
    """
    base = things_eeg2()
    return base.model_copy(
        update={
            "recipe": "bids",
            "data": Data(source=BidsData(), epochs=Epochs(tmin_s=-0.2, tmax_s=0.8, sfreq_hz=100.0)),
            "protocol": Protocol(n_val=10),
            "encoder": base.encoder.model_copy(update={"whiten": "channels"}),
            "compute": Compute(runs_uri="runs/bids"),
        }
    )


def eegcvpr40() -> Experiment:
    """EEGCVPR40 (`compute.data_uri`) by the authors' split of pictures. A block design: its scores need the controls.

    The published window, samples 20 to 460 (Spampinato et al. 2017), of EEG that came filtered and standardised.
    """
    base = things_eeg2()
    return base.model_copy(
        update={
            "recipe": "eegcvpr40",
            "data": Data(source=EegCvpr40Data(), epochs=Epochs(baseline_s=None, sfreq_hz=125.0)),
            "protocol": Protocol(split_by="picture", n_val=1),
            "encoder": base.encoder.model_copy(update={"whiten": "channels"}),
            "compute": Compute(runs_uri="runs/eegcvpr40"),
        }
    )


RECIPES: dict[str, Callable[[], Experiment]] = {
    "demo": demo,
    "things_eeg2": things_eeg2,
    "bids": bids,
    "eegcvpr40": eegcvpr40,
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
