"""When targets that are there are taken, and when they are made again."""

import shutil
from pathlib import Path

from eegdecode.batch import TargetManifest
from eegdecode.config import Compute, Experiment, Targets
from eegdecode.data.shardset import read_signed
from eegdecode.runtime import places, targets
from eegdecode.targets import open_tower
from tests.writers import shard_set
from tests.writers.synthetic_set import EPOCHS, SOURCE, SyntheticSet


def test_targets_of_the_same_tower_are_taken_and_others_are_not(tmp_path: Path) -> None:
    """Without a cluster, so that nothing can have been made again."""
    made = SyntheticSet(tmp_path / "made")
    experiment = Experiment(
        recipe="targets",
        data={"source": SOURCE, "epochs": EPOCHS},
        targets=Targets(tower="gabor"),
        compute=Compute(runs_uri=str(tmp_path / "runs")),
    )
    shutil.copytree(made.uri, places.shards(experiment))
    fact = open_tower("gabor", "").fact
    uri = places.targets(experiment, "gabor")
    written = shard_set.publish_targets(uri, made.manifest, made.ids, made.target("gabor"), "gabor", fact)
    assert targets.embed(experiment) == [written]
    there = read_signed(uri, TargetManifest)
    assert targets.outdated(there, made.manifest, fact) == ""
    newer = fact.model_copy(update={"revision": "another"})
    assert targets.outdated(there, made.manifest, newer) == f"with revision '{fact.revision}' and not 'another'"
    other = made.manifest.model_copy(update={"pictures": made.manifest.pictures[:1]})
    assert targets.outdated(there, other, fact) == "for other pictures"
    names = {targets.part_name(m, f) for m in (made.manifest, other) for f in (fact, newer)}
    assert len(names) == 4
