"""Recordings to a published shard set, on all cores of the cluster: one Ray task per recording, memory bounded by it.

What a recording gave is noted beside the shards when it is finished, so that a job that was killed goes on where it
stopped and publishes the same bytes. Targets are a job of their own, `eegdecode.runtime.targets`.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray
from PIL import Image

from eegdecode import storage
from eegdecode.analyse.quality import RecordingSummary, choose_pictures, merge, summarise
from eegdecode.analyse.quality_page import write_quality
from eegdecode.batch import Dropped, Fold, Manifest, ShardFact
from eegdecode.config import Experiment, Section
from eegdecode.data.epochs import cut
from eegdecode.data.shards import PackedPicture, publish, write_picture_shard, write_trial_shard
from eegdecode.data.shardset import MANIFEST_NAME, read_manifest
from eegdecode.data.sources import CutRecording, Picture, RecordingRef, Source, open_source
from eegdecode.data.splits import make_folds, part_of
from eegdecode.data.trials import Trials, clamped
from eegdecode.data.whiten import NoiseSum, noise_sum, whitened
from eegdecode.runtime import places, targets
from eegdecode.runtime.progress import gather, say

PICTURES_PER_SHARD = 250
QUALITY_PAGE = "quality.html"

F64 = npt.NDArray[np.float64]


class CutFact(Section):
    """What one recording left behind, beside its rows of the trial table."""

    shards: tuple[ShardFact, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    channels: tuple[str, ...]
    sfreq_hz: float
    tmin_s: float
    n_times: int
    unit: Literal["uV", "whitened", "scaled"]


@dataclass(frozen=True)
class _Cut:
    fact: CutFact
    table: pd.DataFrame


@dataclass(frozen=True)
class _Known:
    """What a task must know of a picture."""

    row: int
    concept: str
    partition: str


def prepare(experiment: Experiment) -> Manifest:
    """Prepare an experiment's shard set and targets, and those of its control where it has one.

    A set that is there is taken as it is, unless files of the source changed since; then it is prepared again.

    Returns
    -------
    Manifest
        Of the experiment's own set.
    """
    control = experiment.control()
    for each in (control, experiment) if control is not None else (experiment,):
        manifest = _prepare(each)
        targets.embed(each)
    return manifest


def _prepare(experiment: Experiment) -> Manifest:
    """Return the published manifest of an experiment's set, after making the set unless it is there.

    Raises
    ------
    ValueError
        Recordings that disagree in electrodes or rate, a picture without a trial partition, or bad input, named.
    """
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    refs, pictures = source.recordings(), source.pictures()
    uri, source_digest = places.shards(experiment), digest_of(source, refs, pictures, experiment)
    for finding in source.findings:
        say(f"prepare: {finding}")
    there = _published(uri)
    if there is not None and there.source_digest != source_digest:
        say(f"prepare: files of the source changed since {uri} was prepared; it is prepared again")
        storage.delete_prefix(uri)
    elif there is not None:
        say(f"prepare: {there.n_trials} trials are there already, in {uri}")
        return there
    try:
        return _pack(experiment, source, refs, pictures, uri, source_digest)
    except storage.MissingError:
        # Another job that made the same set cleared away its parts when it published.
        there = _published(uri)
        if there is None or there.source_digest != source_digest:
            raise
        say(f"prepare: another job published the same {there.n_trials} trials first, in {uri}")
        return there


def _published(uri: str) -> Manifest | None:
    return read_manifest(uri) if storage.exists(storage.join(uri, MANIFEST_NAME)) else None


def _pack(
    experiment: Experiment,
    source: Source,
    refs: list[RecordingRef],
    pictures: list[Picture],
    uri: str,
    source_digest: str,
) -> Manifest:
    """Read, cut and pack everything an experiment needs, and publish its manifest last."""
    described = experiment.model_dump_json()
    starts = range(0, len(pictures), PICTURES_PER_SHARD)
    packed: list[tuple[ShardFact, list[str]]] = gather(
        [
            _pack_pictures.remote(described, uri, source_digest, k, s, s + PICTURES_PER_SHARD)
            for k, s in enumerate(starts)
        ],
        "prepare: pack pictures",
        "shards",
    )
    concept = {p.picture: (p.concept, p.partition) for p in pictures}
    picture_ids = [picture for _, ids in packed for picture in ids]
    known = ray.put({p: _Known(row, *concept[p]) for row, p in enumerate(picture_ids) if p in concept})
    noise = ray.put(_noise_weights(experiment, described, uri, source_digest, refs, known))
    cuts: list[_Cut] = gather(
        [_cut_recording.remote(described, uri, source_digest, ref, known, noise) for ref in refs],
        "prepare: cut and pack",
        "recordings",
    )
    table = _trial_table(refs, cuts)
    folds = make_folds(table, experiment.protocol)  # here, so that what cannot be divided is never published
    first = cuts[0].fact
    notes = [note for part in cuts for note in part.fact.notes]
    manifest = Manifest(
        source=source.fact,
        unit=first.unit,
        sfreq_hz=first.sfreq_hz,
        tmin_s=first.tmin_s,
        n_times=first.n_times,
        channels=first.channels,
        trials=tuple(shard for part in cuts for shard in part.fact.shards),
        pictures=tuple(shard for shard, _ in packed),
        table={"name": "table.parquet", "size_bytes": 0, "sha256": ""},
        n_trials=len(table),
        n_pictures=len(picture_ids),
        dropped=tuple(d for part in cuts for d in part.fact.dropped),
        findings=tuple(dict.fromkeys([*source.findings, *notes])),
        config_digest=experiment.digest("data"),
        source_digest=source_digest,
    )
    _look_at(uri, source_digest, refs, manifest, table, folds, {p.picture: p for p in pictures})
    published = publish(uri, manifest, table)
    storage.delete_prefix(storage.join(uri, places.PARTS))
    say(
        f"prepare: {published.n_trials} trials, {len(published.dropped)} dropped, {published.n_pictures} pictures "
        f"in {uri}; look at {storage.join(uri, QUALITY_PAGE)}"
    )
    return published


def _look_at(
    uri: str,
    source_digest: str,
    refs: list[RecordingRef],
    manifest: Manifest,
    table: pd.DataFrame,
    folds: tuple[Fold, ...],
    pictures: dict[str, Picture],
) -> None:
    """Write the quality page, and its figures as JSON, from what the tasks summed up."""
    parts = (part_uri(uri, source_digest, f"{ref.key}.summary.npz") for ref in refs)
    summary = merge(RecordingSummary.from_bytes(storage.read_bytes(part)) for part in parts)
    counts = {}
    for fold in folds:
        part_N = part_of(table, fold)
        counts[fold.name] = {name: int((part_N == part).sum()) for part, name in enumerate(("train", "val", "test"))}
    page = write_quality(
        summary,
        source=manifest.source,
        dropped=manifest.dropped,
        findings=manifest.findings,
        folds=counts,
        pictures=[
            (example, _mean_image(pictures[example.picture], pictures[example.picture].images()))
            for example in summary.examples()
        ],
    )
    storage.write_bytes(storage.join(uri, QUALITY_PAGE), page.encode())
    storage.write_bytes(storage.join(uri, "quality.json"), json.dumps(summary.facts(), indent=1).encode())


def digest_of(source: Source, refs: list[RecordingRef], pictures: list[Picture], experiment: Experiment) -> str:
    """Return the sha256 of what a source names, and of size and time of every file below its folder."""
    folder = Path(experiment.compute.data_uri.removeprefix("file://")) if experiment.compute.data_uri else None
    files = sorted((str(f.relative_to(folder)), f.stat()) for f in folder.rglob("*") if f.is_file()) if folder else []
    told = {
        "source": source.fact.model_dump(),
        "recordings": [(ref.key, ref.subject, ref.session, ref.run) for ref in refs],
        "pictures": [(p.picture, p.concept, p.partition) for p in pictures],
        "files": [(name, status.st_size, int(status.st_mtime)) for name, status in files],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def part_uri(uri: str, source_digest: str, name: str) -> str:
    """Return where a finished part of an unpublished set is noted."""
    return storage.join(uri, places.PARTS, source_digest[:12], name)


@ray.remote(num_cpus=1)
def _pack_pictures(
    described: str, uri: str, source_digest: str, shard: int, start: int, stop: int
) -> tuple[ShardFact, list[str]]:
    """Pack one shard of pictures; a class of several images also gets a row for each of them."""
    part = part_uri(uri, source_digest, f"pictures-{shard:06d}.json")
    if storage.exists(part):
        kept = json.loads(storage.read_bytes(part))
        return ShardFact.model_validate(kept["shard"]), kept["ids"]
    experiment = Experiment.model_validate_json(described)
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    rows: list[PackedPicture] = []
    for picture in source.pictures()[start:stop]:
        images = picture.images()
        rows.append(PackedPicture(picture.picture, picture.concept, _mean_image(picture, images)))
        if len(images) > 1:
            rows += [
                PackedPicture(f"{picture.picture}/{k:02d}", picture.concept, image, picture.picture)
                for k, image in enumerate(images)
            ]
    fact = write_picture_shard(uri, f"pictures-{shard:06d}", rows)
    ids = [row.picture for row in rows]
    storage.write_bytes(part, json.dumps({"shard": fact.model_dump(mode="json"), "ids": ids}).encode())
    return fact, ids


def _mean_image(picture: Picture, images: list[Image.Image]) -> Image.Image:
    if len(images) == 1:
        return images[0].convert("RGB")
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"picture '{picture.picture}': its images must be of one size, got {sorted(sizes)}.")
    mean = np.mean([np.asarray(image.convert("RGB"), np.float32) for image in images], axis=0)
    return Image.fromarray(np.rint(mean).astype(np.uint8))


def _noise_weights(
    experiment: Experiment,
    described: str,
    uri: str,
    source_digest: str,
    refs: list[RecordingRef],
    known: "ray.ObjectRef[dict[str, _Known]]",
) -> dict[tuple[str, str], F64]:
    """Return the noise normalisation of each (subject, session), from its training trials alone; empty without it.

    Raises
    ------
    ValueError
        A session without training trials.
    """
    if experiment.data.epochs.mvnn == "none":
        return {}
    sums: list[dict[tuple[str, str], NoiseSum]] = gather(
        [_noise_of.remote(described, uri, source_digest, ref, known) for ref in refs],
        "prepare: noise of training trials",
        "recordings",
    )
    total: dict[tuple[str, str], NoiseSum] = {}
    for part in sums:
        for session, found in part.items():
            total[session] = total[session] + found if session in total else found
    return {session: found.weight() for session, found in total.items()}


@ray.remote(num_cpus=1)
def _noise_of(
    described: str, uri: str, source_digest: str, ref: RecordingRef, known: dict[str, _Known]
) -> dict[tuple[str, str], NoiseSum]:
    """Return a recording's part of the noise covariance of its sessions."""
    experiment = Experiment.model_validate_json(described)
    part = part_uri(uri, source_digest, f"{ref.key}.noise.npz")
    if storage.exists(part):
        with np.load(io.BytesIO(storage.read_bytes(part))) as kept:
            names = json.loads(str(kept["sessions"]))
            return {
                (subject, session): NoiseSum(kept["sum_SCC"][s], int(kept["n_S"][s]))
                for s, (subject, session) in enumerate(names)
            }
    trials = trials_of(experiment, ref)
    dim = experiment.data.epochs.mvnn
    assert dim != "none"
    sums = training_noise(trials, {picture: known[picture].partition for picture in set(trials.table["picture"])}, dim)
    file = io.BytesIO()
    n_chans = len(trials.channels)
    np.savez(
        file,
        sessions=np.array(json.dumps(list(sums))),
        sum_SCC=np.array([found.sum_CC for found in sums.values()]).reshape(-1, n_chans, n_chans),
        n_S=np.array([found.n for found in sums.values()], np.int64),
    )
    storage.write_bytes(part, file.getvalue())
    return sums


def training_noise(
    trials: Trials, partition: Mapping[str, str], dim: Literal["time", "epochs"]
) -> dict[tuple[str, str], NoiseSum]:
    """Return what a recording gives to the noise normalisation of each (subject, session): training trials alone.

    Parameters
    ----------
    partition
        Of each picture shown, as the source gives it.

    Raises
    ------
    ValueError
        Pictures without a partition of the source's own.
    """
    table = trials.table
    unknown = sorted({str(partition[picture]) for picture in table["picture"]} - {"train", "test", "val"})
    if unknown:
        raise ValueError(
            f"{table['recording'].iloc[0]}: data.epochs.mvnn needs pictures with a partition of the source's own, so "
            f"that only training trials are used, got '{unknown[0]}'. Set data.epochs.mvnn='none'; encoder.whiten is "
            "fitted in each fold."
        )
    sums: dict[tuple[str, str], NoiseSum] = {}
    shown_N = table["picture"].to_numpy(str)
    for session, rows in _sessions(table):
        train = rows[[partition[picture] == "train" for picture in shown_N[rows]]]
        if len(train):
            sums[session] = noise_sum(trials.eeg_uv_NCT[train], shown_N[train], dim)
    return sums


def trials_of(experiment: Experiment, ref: RecordingRef) -> Trials:
    """Return the trials of one recording, cut as the experiment says."""
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    recording = source.read(ref)
    trials = cut(recording, experiment.data.epochs)
    history = recording.history if isinstance(recording, CutRecording) else ()
    return replace(trials, notes=(*history, *trials.notes))


@ray.remote(num_cpus=1)
def _cut_recording(
    described: str,
    uri: str,
    source_digest: str,
    ref: RecordingRef,
    known: dict[str, _Known],
    noise: dict[tuple[str, str], F64],
) -> _Cut:
    """Read, cut and pack one recording."""
    part = part_uri(uri, source_digest, f"{ref.key}.json")
    rows_part = part_uri(uri, source_digest, f"{ref.key}.parquet")
    if storage.exists(part):
        fact = CutFact.model_validate_json(storage.read_bytes(part))
        return _Cut(fact, pd.read_parquet(io.BytesIO(storage.read_bytes(rows_part))))
    experiment = Experiment.model_validate_json(described)
    trials = trials_of(experiment, ref)
    table = trials.table.copy()
    unknown = sorted(set(table["picture"]) - set(known))
    if unknown:
        raise ValueError(f"{ref.key}: event names picture '{unknown[0]}', which the source has no file for.")
    pictures = [known[p] for p in table["picture"]]
    table["concept"] = [p.concept for p in pictures]
    table["partition"] = [p.partition for p in pictures]
    table["picture_row"] = [p.row for p in pictures]
    table["key"] = [f"{ref.key}_{event:05d}" for event in table["event"]]
    eeg_NCT: npt.NDArray[np.float32] = trials.eeg_uv_NCT
    unit: Literal["uV", "whitened", "scaled"] = trials.unit
    if experiment.data.epochs.mvnn != "none":
        eeg_NCT, unit = _whitened(trials, noise, experiment.data.epochs.clamp, ref), "whitened"
    step = experiment.data.trials_per_shard
    shards = tuple(
        write_trial_shard(
            uri, f"trials-{ref.key}-{k:03d}", eeg_NCT[start : start + step], table.iloc[start : start + step]
        )
        for k, start in enumerate(range(0, len(table), step))
    )
    fact = CutFact(
        shards=shards,
        dropped=tuple(trials.dropped),
        notes=trials.notes,
        channels=trials.channels,
        sfreq_hz=trials.sfreq_hz,
        tmin_s=trials.tmin_s,
        n_times=trials.eeg_uv_NCT.shape[2],
        unit=unit,
    )
    tracked = choose_pictures({picture: found.partition for picture, found in known.items()})
    summary = summarise(
        eeg_NCT,
        table,
        recording=ref.key,
        subject=ref.subject,
        channels=trials.channels,
        sfreq_hz=trials.sfreq_hz,
        tmin_s=trials.tmin_s,
        tracked=tracked,
        unit=unit,
    )
    storage.write_bytes(part_uri(uri, source_digest, f"{ref.key}.summary.npz"), summary.to_bytes())
    rows = io.BytesIO()
    table.to_parquet(rows, engine="pyarrow", index=False)
    storage.write_bytes(rows_part, rows.getvalue())
    storage.write_bytes(part, fact.model_dump_json().encode())
    return _Cut(fact, table)


def _whitened(
    trials: Trials, noise: dict[tuple[str, str], F64], clamp: float | None, ref: RecordingRef
) -> npt.NDArray[np.float32]:
    """Apply each session's noise normalisation to all its trials."""
    eeg_NCT = np.empty_like(trials.eeg_uv_NCT)
    for session, rows in _sessions(trials.table):
        weight_CC = noise.get(session)
        if weight_CC is None:
            raise ValueError(
                f"{ref.key}: data.epochs.mvnn needs training trials in every session, and session '{session[1]}' of "
                f"subject '{session[0]}' has none. Leave the session out, or set data.epochs.mvnn='none'."
            )
        eeg_NCT[rows] = whitened(trials.eeg_uv_NCT[rows], weight_CC)
    return clamped(eeg_NCT, clamp) if clamp is not None else eeg_NCT


def _sessions(table: pd.DataFrame) -> list[tuple[tuple[str, str], npt.NDArray[np.int64]]]:
    """Return the rows of each (subject, session) of a table."""
    names = pd.MultiIndex.from_frame(table[["subject", "session"]].astype(str))
    return [(session, np.flatnonzero(names == session)) for session in names.unique().tolist()]


def _trial_table(refs: list[RecordingRef], cuts: list[_Cut]) -> pd.DataFrame:
    """Join the recordings' tables in their order; the row is the trial's number."""
    if not cuts:
        raise ValueError("the source names no usable recording; see the findings above.")
    shape = (cuts[0].fact.channels, cuts[0].fact.sfreq_hz, cuts[0].fact.n_times, cuts[0].fact.unit)
    for ref, part in zip(refs, cuts, strict=True):
        fact = part.fact
        if (fact.channels, fact.sfreq_hz, fact.n_times, fact.unit) != shape:
            raise ValueError(
                f"{ref.key}: electrodes, rate, length and unit must be those of {refs[0].key} {shape[1:]}, got "
                f"{(fact.sfreq_hz, fact.n_times, fact.unit)} and electrodes {fact.channels}. Choose "
                "data.epochs.channels."
            )
    table = pd.concat([part.table for part in cuts], ignore_index=True)
    if table.empty:
        raise ValueError(f"no trial was left after {sum(len(p.fact.dropped) for p in cuts)} were dropped.")
    doubled = table["key"][table["key"].duplicated()]
    if len(doubled):
        raise ValueError(f"trial key '{doubled.iloc[0]}' occurs twice; keys must be unique.")
    table["trial"] = np.arange(len(table))
    table["repetition"] = table.groupby(["subject", "picture"]).cumcount()
    return table
