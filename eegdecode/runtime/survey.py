"""What a preparation would do, said before it is done: `jobs/prepare.py --dry-run`."""

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.data.shardset import MANIFEST_NAME, read_manifest
from eegdecode.data.sources import Picture, RecordingRef, open_source
from eegdecode.runtime import places
from eegdecode.runtime.prepare import digest_of, part_uri, trials_of
from eegdecode.runtime.progress import Progress
from eegdecode.targets import open_tower


def survey(experiment: Experiment) -> str:
    """Return what a preparation finds, what it will write, how large, and what is missing; nothing is written."""
    source = open_source(experiment.data.source, experiment.compute.data_uri)
    refs, pictures = source.recordings(), source.pictures()
    uri = places.shards(experiment)
    fact = source.fact
    subjects = sorted({ref.subject for ref in refs})
    lines = [
        f"source: {fact.name} ({fact.design} design, {fact.licence})",
        f"found: {len(refs)} recordings of {len(subjects)} subjects, {len(pictures)} pictures of "
        f"{len({p.concept for p in pictures})} concepts",
        *(f"found: {finding}" for finding in source.findings),
    ]
    if not refs:
        return "\n".join([*lines, "missing: a usable recording"])
    first = trials_of(experiment, refs[0])
    n, n_chans, n_times = first.eeg_uv_NCT.shape
    size = n * len(refs) * (n_chans * n_times * 2 + 2048)
    dropped = f", {len(first.dropped)} dropped" if first.dropped else ""
    lines += [
        f"first recording: {refs[0].key}, {n} trials of {n_chans} electrodes x {n_times} samples at "
        f"{first.sfreq_hz:g} Hz from {first.tmin_s:g} s, in {first.unit}{dropped}",
        *(f"note: {note}" for note in first.notes),
        f"will write: about {n * len(refs)} trials, {size / 1e9:.2f} GB if all recordings are like it, to {uri}",
        *(f"will write: targets of {t} to {places.targets(experiment, t)}" for t in places.towers(experiment).values()),
    ]
    missing = [f"missing: {problem}" for problem in _problems(experiment, pictures)]
    return "\n".join([*lines, *_state(uri, refs, digest_of(source, refs, pictures, experiment)), *missing])


def _problems(experiment: Experiment, pictures: list[Picture]) -> list[str]:
    """Return what cannot be opened: pictures, each with its reason, and towers."""
    found: list[str] = []
    progress = Progress("dry run: open pictures", len(pictures), "pictures")
    for picture in pictures:
        try:
            for image in picture.images():
                image.close()
        except ValueError as error:
            found.append(str(error))
        progress.add()
    progress.close()
    for tower in places.towers(experiment).values():
        try:
            open_tower(tower, experiment.compute.weights_uri)
        except (ValueError, OSError, RuntimeError) as error:  # timm says RuntimeError of an unknown model
            found.append(f"tower {tower}: {error}")
    return found


def _state(uri: str, refs: list[RecordingRef], source_digest: str) -> list[str]:
    if storage.exists(storage.join(uri, MANIFEST_NAME)):
        same = read_manifest(uri).source_digest == source_digest
        return ["state: prepared already" if same else "state: prepared from other files; will be prepared again"]
    done = [ref for ref in refs if storage.exists(part_uri(uri, source_digest, f"{ref.key}.json"))]
    return [f"state: {len(done)} of {len(refs)} recordings are finished"] if done else []
