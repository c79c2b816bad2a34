"""Where the parts of a run lie: everything below `compute.runs_uri`, named by what made it."""

import hashlib

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.data.shardset import ShardSet, open_shards

PARTS = "parts"
"""Below a set while it is being made: what of it is finished."""


def shards(experiment: Experiment) -> str:
    """Return where the shard set lies; named by the digest of what decides its content."""
    return storage.join(experiment.compute.runs_uri, f"shards-{experiment.digest('data')[:12]}")


def towers(experiment: Experiment) -> dict[str, str]:
    """Return the towers of an experiment by the names of their target sets; the main one has the name ""."""
    return {"": experiment.targets.tower, **experiment.targets.also}


def targets(experiment: Experiment, tower: str) -> str:
    """Return where a tower's targets of the source's pictures lie: one set for all ways to cut the EEG."""
    told = f"{experiment.data.source.model_dump_json()} {tower}"
    return storage.join(experiment.compute.runs_uri, f"targets-{hashlib.sha256(told.encode()).hexdigest()[:12]}")


def open_set(experiment: Experiment, verify: bool = True) -> ShardSet:
    """Open the experiment's shard set with its targets and folds; see `open_shards`.

    Raises
    ------
    ValueError
        Targets that another tower, layer, option or view made than the experiment names.
    """
    compute = experiment.compute
    found = open_shards(
        shards(experiment),
        compute.cache_dir,
        verify,
        {name: targets(experiment, tower) for name, tower in towers(experiment).items()},
        experiment.protocol,
        None if compute.cache_gb is None else int(compute.cache_gb * 1e9),
    )
    for name, tower in towers(experiment).items():
        made = found.targets[name].manifest.spec
        if made != tower:
            raise ValueError(
                f"{targets(experiment, tower)} must hold targets of '{tower}', got those of '{made}'. Delete them, and "
                "run jobs/targets.py again."
            )
    return found


def open_pictures(experiment: Experiment) -> ShardSet:
    """Open the experiment's shard set for its pictures alone."""
    return open_shards(shards(experiment), experiment.compute.cache_dir, verify=False)


def run(experiment: Experiment) -> str:
    """Return where one training leaves everything."""
    return storage.join(experiment.compute.runs_uri, experiment.run_id)


def bundle(experiment: Experiment, fold: str) -> str:
    """Return where the bundle of one fold lies."""
    return storage.join(run(experiment), "bundles", fold)


def search(experiment: Experiment) -> str:
    """Return where the search leaves what it found."""
    return storage.join(experiment.compute.runs_uri, "search.json")


def report(experiment: Experiment) -> str:
    """Return where `summary.json` and `report.html` lie."""
    return experiment.compute.runs_uri
