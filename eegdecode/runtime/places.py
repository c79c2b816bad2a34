"""Where the parts of a run lie: everything below `compute.runs_uri`, named by what made it."""

from eegdecode import storage
from eegdecode.config import Experiment


def shards(experiment: Experiment) -> str:
    """Return where the shard set lies; named by the digest of what decides its content."""
    digest = experiment.digest("data", "targets", "protocol")
    return storage.join(experiment.compute.runs_uri, f"shards-{digest[:12]}")


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
