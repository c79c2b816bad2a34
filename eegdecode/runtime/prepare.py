"""Recordings to a published shard set, on all cores of the cluster: one Ray task per recording."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import ray
from PIL import Image

from eegdecode import storage
from eegdecode.batch import Dropped, Manifest, ShardFact
from eegdecode.config import Experiment
from eegdecode.data.epochs import cut
from eegdecode.data.shards import publish, write_picture_shard, write_trial_shard
from eegdecode.data.sources import CutRecording, Picture, RecordingRef, open_source
from eegdecode.data.splits import make_folds
from eegdecode.runtime import places
from eegdecode.runtime.progress import gather, say
from eegdecode.targets import open_tower

PICTURES_PER_SHARD = 250


_Embedded = tuple[ShardFact, list[str], np.ndarray]


@dataclass(frozen=True)
class _Cut:
    """What one recording left behind."""

    shards: list[ShardFact]
    table: pd.DataFrame
    dropped: list[Dropped]
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    n_times: int


def prepare(experiment: Experiment) -> Manifest:
    """Prepare an experiment's shard set, and that of its control where it has one; return the former's manifest."""
    control = experiment.control()
    if control is not None:
        _prepare(control)
    return _prepare(experiment)


def _prepare(experiment: Experiment) -> Manifest:
    """Read, cut, embed and pack everything an experiment needs, and publish its manifest last.

    Raises
    ------
    ValueError
        Recordings that disagree in electrodes or rate, a picture without a trial partition, or bad input, named.
    """
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    refs, pictures = source.recordings(), source.pictures()
    for finding in source.findings:
        say(f"prepare: {finding}")
    uri = places.shards(experiment)
    storage.delete_prefix(uri)
    described = experiment.model_dump_json()
    tower = open_tower(experiment.targets.tower, experiment.compute.weights_uri)

    starts = range(0, len(pictures), PICTURES_PER_SHARD)
    picture_parts: list[_Embedded] = gather(
        [_embed.remote(described, uri, k, s) for k, s in enumerate(starts)], "prepare: embed pictures", "shards"
    )
    picture_ids = [p for _, ids, _ in picture_parts for p in ids]
    target_PD = np.concatenate([z for _, _, z in picture_parts])
    concept = {p.picture: p.concept for p in pictures}
    known = ray.put({p: (row, target_PD[row]) for row, p in enumerate(picture_ids)})

    cuts: list[_Cut] = gather(
        [_cut_recording.remote(described, uri, ref, known, concept) for ref in refs],
        "prepare: cut and pack",
        "recordings",
    )
    table = _trial_table(refs, cuts)
    partitions = {p.picture: p.partition for p in pictures}
    divisions = (experiment.protocol.split_by, *experiment.protocol.also_split_by)
    folds = tuple(
        fold
        for by in divisions
        for fold in make_folds(table, partitions, experiment.protocol.model_copy(update={"split_by": by}))
    )
    first = cuts[0]
    manifest = Manifest(
        source=source.fact,
        sfreq_hz=first.sfreq_hz,
        tmin_s=first.tmin_s,
        n_times=first.n_times,
        channels=first.channels,
        target=tower.fact,
        trials=tuple(shard for part in cuts for shard in part.shards),
        pictures=tuple(shard for shard, _, _ in picture_parts),
        table={"name": "table.parquet", "size_bytes": 0, "sha256": ""},
        folds=folds,
        n_trials=len(table),
        n_pictures=len(picture_ids),
        dropped=tuple(d for part in cuts for d in part.dropped),
        findings=tuple(source.findings),
        config_digest=experiment.digest("data", "targets", "protocol"),
    )
    published = publish(uri, manifest, table)
    say(
        f"prepare: {published.n_trials} trials, {len(published.dropped)} dropped, {published.n_pictures} pictures, "
        f"{len(folds)} folds in {uri}"
    )
    return published


@ray.remote(num_cpus=1)
def _embed(described: str, uri: str, shard: int, start: int) -> _Embedded:
    """Embed and pack one shard of pictures; a class of several images also gets a row for each of them."""
    experiment = Experiment.model_validate_json(described)
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    tower = open_tower(experiment.targets.tower, experiment.compute.weights_uri)
    rows: list[tuple[str, str, Image.Image]] = []
    targets: list[np.ndarray] = []
    for picture in source.pictures()[start : start + PICTURES_PER_SHARD]:
        images = picture.images()
        z_ND = tower.embed(images)
        rows.append((picture.picture, picture.concept, _mean_image(picture, images)))
        targets.append(z_ND.mean(axis=0))
        if len(images) > 1:
            rows += [(f"{picture.picture}/{k:02d}", picture.concept, image) for k, image in enumerate(images)]
            targets += list(z_ND)
    target_PD = np.stack(targets).astype(np.float32)
    fact = write_picture_shard(uri, f"pictures-{shard:06d}", rows, target_PD)
    return fact, [name for name, _, _ in rows], target_PD


def _mean_image(picture: Picture, images: list[Image.Image]) -> Image.Image:
    if len(images) == 1:
        return images[0].convert("RGB")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"picture '{picture.picture}': its images must be of one size, got {sorted(sizes)}.")
    mean = np.mean([np.asarray(image.convert("RGB"), np.float32) for image in images], axis=0)
    return Image.fromarray(np.rint(mean).astype(np.uint8))


@ray.remote(num_cpus=1)
def _cut_recording(
    described: str,
    uri: str,
    ref: RecordingRef,
    known: dict[str, tuple[int, np.ndarray]],
    concept: dict[str, str],
) -> _Cut:
    """Read, cut and pack one recording; memory is bounded by it."""
    experiment = Experiment.model_validate_json(described)
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    recording = source.read(ref)
    if isinstance(recording, CutRecording):
        raise ValueError(f"{ref.key}: trials that were cut before cannot be prepared yet, only continuous recordings.")
    trials = cut(recording, experiment.data.epochs)
    table = trials.table.copy()
    unknown = sorted(set(table["picture"]) - set(known))
    if unknown:
        raise ValueError(f"{ref.key}: event names picture '{unknown[0]}', which the source has no file for.")
    table["concept"] = [concept[p] for p in table["picture"]]
    table["picture_row"] = [known[p][0] for p in table["picture"]]
    table["key"] = [f"{ref.key}_{event:05d}" for event in table["event"]]
    target_ND = np.stack([known[p][1] for p in table["picture"]]) if len(table) else np.zeros((0, 0), np.float32)
    step = experiment.data.trials_per_shard
    shards = [
        write_trial_shard(
            uri,
            f"trials-{ref.key}-{k:03d}",
            trials.eeg_uv_NCT[start : start + step],
            target_ND[start : start + step],
            table.iloc[start : start + step],
        )
        for k, start in enumerate(range(0, len(table), step))
    ]
    n_times = trials.eeg_uv_NCT.shape[2]
    return _Cut(shards, table, trials.dropped, trials.channels, trials.sfreq_hz, trials.tmin_s, n_times)


def _trial_table(refs: list[RecordingRef], cuts: list[_Cut]) -> pd.DataFrame:
    """Join the recordings' tables in their order; the row is the trial's number."""
    if not cuts:
        raise ValueError("the source names no usable recording; see the findings above.")
    shape = (cuts[0].channels, cuts[0].sfreq_hz, cuts[0].n_times)
    for ref, part in zip(refs, cuts, strict=True):
        if (part.channels, part.sfreq_hz, part.n_times) != shape:
            raise ValueError(
                f"{ref.key}: electrodes, rate and length must be those of {refs[0].key} {shape[1:]}, got "
                f"{(part.sfreq_hz, part.n_times)} and electrodes {part.channels}. Choose data.epochs.channels."
            )
    table = pd.concat([part.table for part in cuts], ignore_index=True)
    if table.empty:
        raise ValueError(f"no trial was left after {sum(len(p.dropped) for p in cuts)} were dropped.")
    doubled = table["key"][table["key"].duplicated()]
    if len(doubled):
        raise ValueError(f"trial key '{doubled.iloc[0]}' occurs twice; keys must be unique.")
    table["trial"] = np.arange(len(table))
    table["repetition"] = table.groupby(["subject", "picture"]).cumcount()
    return table
