"""Decoders of other people on a person whom they never saw: as the EEG is, and mapped to theirs; transfer.json."""

import json
from dataclasses import replace

from eegdecode import storage
from eegdecode.config import Experiment, Section
from eegdecode.evaluate.retrieval import RetrievalScore
from eegdecode.runtime import places
from eegdecode.runtime.progress import say
from eegdecode.runtime.ranked import Ranked, answers_of, score_of
from eegdecode.runtime.tested import open_tested
from eegdecode.train.transfer import ALPHA, fit_transfer


class PersonTransfer(Section):
    """Of one person, by a decoder of the others."""

    subject: str
    n_pictures: int
    """That the map was fitted on, seen by this person and the others, none of them tested."""
    plain: RetrievalScore
    mapped: RetrievalScore


class TransferReport(Section):
    """Every person left out of a run."""

    schema_version: int = 1
    run_id: str
    alpha: float
    people: tuple[PersonTransfer, ...]


def transfer(experiment: Experiment) -> TransferReport:
    """Score every fold's bundle on the person it left out, without and with the map; write transfer.json.

    Raises
    ------
    ValueError
        A protocol that leaves nobody out, bundles that are not there, or what `fit_transfer` refuses.
    """
    protocol = experiment.protocol
    if protocol.split_by != "subject_concept":
        raise ValueError(
            f"a transfer needs decoders of other people: set protocol.split_by='subject_concept' and train, got "
            f"'{protocol.split_by}'."
        )
    shards = places.open_set(experiment)
    people = []
    for fold in (fold for fold in shards.folds if fold.by == protocol.split_by):
        tested = open_tested(experiment, shards, fold)
        found = fit_transfer(shards, fold, protocol.seed)
        plain, mapped = (
            score_of(*answers_of([Ranked(experiment, shards, one)], protocol.test_repetitions), protocol)
            for one in (tested, replace(tested, eeg_uv_NCT=found(tested.eeg_uv_NCT)))
        )
        people.append(PersonTransfer(subject=found.subject, n_pictures=found.n_pictures, plain=plain, mapped=mapped))
        say(
            f"transfer: {found.subject}: top-1 {plain.top1:.4f}, mapped {mapped.top1:.4f} "
            f"(chance {plain.chance_top1:.4f}), {found.n_pictures} pictures"
        )
    report = TransferReport(run_id=experiment.run_id, alpha=ALPHA, people=tuple(people))
    where = storage.join(places.report(experiment), "transfer.json")
    storage.write_bytes(where, (json.dumps(report.model_dump(mode="json"), indent=1) + "\n").encode())
    say(f"transfer: {where}")
    return report
