"""Targets of a shard set's pictures, on all cores or GPUs of the cluster: one set for each tower, each picture once.

A shard of targets that was finished is not made again after a crash.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from eegdecode import storage
from eegdecode.batch import Manifest, ShardFact, TargetFact, TargetManifest
from eegdecode.config import Experiment
from eegdecode.data.shards import publish_targets, write_target_shard
from eegdecode.data.shardset import MANIFEST_NAME, read_manifest, read_signed
from eegdecode.runtime import places
from eegdecode.runtime.progress import Progress, say
from eegdecode.targets import open_tower

RESTARTS = 2
"""Of an actor that dies, before the job gives up."""


def embed(experiment: Experiment) -> list[TargetManifest]:
    """Make every target set of an experiment that is not there, and return their manifests.

    Raises
    ------
    ValueError
        No shard set is prepared, a tower or its weights are not there, or a picture does not decode.
    """
    manifest = read_manifest(places.shards(experiment))
    return [_embed(experiment, manifest, tower) for tower in places.towers(experiment).values()]


def _embed(experiment: Experiment, pictures: Manifest, tower: str) -> TargetManifest:
    uri = places.targets(experiment, tower)
    fact = open_tower(tower, experiment.compute.weights_uri).fact
    if storage.exists(storage.join(uri, MANIFEST_NAME)):
        there = read_signed(uri, TargetManifest)
        why = outdated(there, pictures, fact)
        if not why:
            say(f"targets: {tower} is there for {there.n_pictures} pictures")
            return there
        say(f"targets: {tower} was made {why}; it is made again")
        storage.delete_prefix(uri)
    part = storage.join(uri, places.PARTS, part_name(pictures, fact))
    found = {k: _finished(part, k) for k in range(len(pictures.pictures))}
    todo = [k for k, shard in found.items() if shard is None]
    progress = Progress(f"targets: {tower}", pictures.n_pictures, "pictures")
    progress.add(sum(shard.n_samples for shard in found.values() if shard is not None))
    for k, shard in _made(experiment, tower, uri, part, todo):
        found[k] = shard
        progress.add(shard.n_samples)
    progress.close()
    made = TargetManifest(
        spec=tower,
        target=fact,
        pictures_digest=pictures.pictures_digest,
        shards=tuple(shard for shard in found.values() if shard is not None),
        n_pictures=pictures.n_pictures,
    )
    published = publish_targets(uri, made, pictures)
    storage.delete_prefix(storage.join(uri, places.PARTS))
    return published


def outdated(there: TargetManifest, pictures: Manifest, fact: TargetFact) -> str:
    """Return how targets that are there differ from those that would be made; empty if they do not."""
    if there.pictures_digest != pictures.pictures_digest:
        return "for other pictures"
    wanted, got = fact.model_dump(), there.target.model_dump()
    differing = [f"{name} '{got[name]}' and not '{wanted[name]}'" for name in wanted if wanted[name] != got[name]]
    return f"with {', '.join(differing)}" if differing else ""


def part_name(pictures: Manifest, fact: TargetFact) -> str:
    """Return the folder of finished shards: those of another tower or other pictures stay apart."""
    return hashlib.sha256(f"{pictures.pictures_digest} {fact.model_dump_json()}".encode()).hexdigest()[:12]


def _made(experiment: Experiment, tower: str, uri: str, part: str, todo: list[int]) -> Iterator[tuple[int, ShardFact]]:
    """Yield shards as they are finished, by as many actors as there are GPUs or else cores."""
    if not todo:
        return
    gpus = experiment.compute.gpus_per_worker
    room = ray.cluster_resources().get("GPU", 0) / gpus if gpus else ray.cluster_resources().get("CPU", 1)
    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    described = experiment.model_dump_json()
    embedder: Any = _Embedder
    actors = [
        embedder.options(**options).remote(described, tower, uri, part)
        for _ in range(max(1, min(len(todo), int(room))))
    ]
    pool = ray.util.ActorPool(actors)
    try:
        yield from pool.map_unordered(lambda actor, k: actor.embed.remote(k), todo)
    finally:
        for actor in actors:
            ray.kill(actor)


@ray.remote
class _Embedder:
    """Holds a tower, and embeds shards of pictures with it."""

    def __init__(self, described: str, tower: str, uri: str, part: str) -> None:
        experiment = Experiment.model_validate_json(described)
        self._tower = open_tower(tower, experiment.compute.weights_uri)
        self._pictures = places.open_pictures(experiment)
        self._uri, self._part = uri, part

    def embed(self, k: int) -> tuple[int, ShardFact]:
        """Embed one shard of pictures; a class has the mean of its images' targets."""
        pictures = self._pictures
        facts = pictures.picture_facts(k)
        ids = [fact["picture"] for fact in facts]
        images_of = [fact.get("image_of") for fact in facts]
        concepts = [fact["concept"] for fact in facts]
        z = self._tower.embed(pictures.picture_images(pictures.picture_rows(k)), concepts)
        target_PD: NDArray[np.float32] = z.reshape(len(ids), -1)
        for p, picture in enumerate(ids):
            images = [i for i, of in enumerate(images_of) if of == picture]
            if images:
                target_PD[p] = target_PD[images].mean(axis=0)
        fact = write_target_shard(self._uri, f"targets-{k:06d}", ids, target_PD)
        storage.write_bytes(storage.join(self._part, f"{k:06d}.json"), fact.model_dump_json().encode())
        return k, fact


def _finished(part: str, k: int) -> ShardFact | None:
    """Return the shard that an earlier job finished, if it did."""
    uri = storage.join(part, f"{k:06d}.json")
    return ShardFact.model_validate_json(storage.read_bytes(uri)) if storage.exists(uri) else None
