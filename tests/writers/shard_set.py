"""Small shard sets, written and published as the preparation does."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from eegdecode.batch import FileFact, Manifest, ShardFact, SourceFact, TargetFact, TargetManifest
from eegdecode.data import shards

SOURCE = SourceFact(name="test", licence="CC0", citation="", design="rapid", truth="picture")


def trial_table(n: int, picture_row: np.ndarray, **columns: object) -> pd.DataFrame:
    """One row a trial of one subject; picture and concept are named after their row. Columns given win."""
    plain: dict[str, object] = {
        "key": [f"t{t:06d}" for t in range(n)],
        "recording": "r",
        "subject": "01",
        "session": "01",
        "run": "01",
        "position": np.arange(n),
        "picture": [f"p{row}" for row in picture_row],
        "picture_row": picture_row,
        "concept": [f"c{row}" for row in picture_row],
        "partition": "any",
        "repetition": 0,
    }
    return pd.DataFrame(plain | columns)


def fact_of(table: pd.DataFrame, trials: Sequence[ShardFact], pictures: Sequence[ShardFact], shape_CT: tuple[int, int]):
    """A manifest that is ready to publish."""
    n_chans, n_times = shape_CT
    return Manifest(
        source=SOURCE,
        sfreq_hz=100.0,
        tmin_s=-0.1,
        n_times=n_times,
        channels=tuple(f"E{c}" for c in range(n_chans)),
        trials=tuple(trials),
        pictures=tuple(pictures),
        table=FileFact(name="", size_bytes=0, sha256=""),
        n_trials=len(table),
        n_pictures=sum(shard.n_samples for shard in pictures),
        config_digest="0",
    )


def write_set(
    uri: str,
    eeg_uv_NCT: np.ndarray,
    table: pd.DataFrame,
    per_shard: Sequence[int],
    pictures: Sequence[shards.PackedPicture],
    pictures_per_shard: int = 4,
) -> Manifest:
    """Write all shards of a set and return the manifest, which is not published yet."""
    starts = np.cumsum([0, *per_shard])
    trials = [
        shards.write_trial_shard(uri, f"trials-{k}", eeg_uv_NCT[a:b], table.iloc[a:b])
        for k, (a, b) in enumerate(pairwise(starts))
    ]
    step = pictures_per_shard
    shown = [
        shards.write_picture_shard(uri, f"pictures-{k // step}", pictures[k : k + step])
        for k in range(0, len(pictures), step)
    ]
    return fact_of(table, trials, shown, eeg_uv_NCT.shape[1:])


def publish_targets(
    uri: str,
    manifest: Manifest,
    pictures: Sequence[str],
    target_PD: np.ndarray,
    spec: str = "test",
    fact: TargetFact | None = None,
) -> TargetManifest:
    """Write and publish the targets of a set's pictures, a shard for each of theirs."""
    facts, start = [], 0
    for k, shard in enumerate(manifest.pictures):
        part = slice(start, start + shard.n_samples)
        facts.append(shards.write_target_shard(uri, f"targets-{k}", pictures[part], target_PD[part]))
        start += shard.n_samples
    made = TargetManifest(
        spec=spec,
        target=fact or TargetFact(tower="test", layer="", revision="", preprocessing="", dim=target_PD.shape[1]),
        pictures_digest=manifest.pictures_digest,
        shards=tuple(facts),
        n_pictures=len(target_PD),
    )
    return shards.publish_targets(uri, made, manifest)
