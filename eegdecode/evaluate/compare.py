"""Many runs beside one another, where that means anything: same protocol, same candidates, same test trials.

Scores of different questions are refused, by the name of what differs: an average of 80 looks against single trials, or
200 candidates against 1,000, is no comparison of decoders. Pairs are made by the ids of subject and picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from eegdecode import storage
from eegdecode.batch import SourceFact
from eegdecode.config import Protocol, Section
from eegdecode.evaluate import compare_page
from eegdecode.evaluate.decisions import Decisions, load_decisions
from eegdecode.evaluate.report import Report, load_report
from eegdecode.evaluate.retrieval import RetrievalScore, check_comparable
from eegdecode.evaluate.statistics import PairedTest, paired_tests

SAME_SCORE = 1e-6
NOT_COMPARED = ("permutations",)
"""Fields of a protocol that change how finely a p is known, not what the score means."""


class RunFacts(Section):
    """Which run of a comparison it is."""

    name: str
    """Its recipe; with the run id where two runs have one recipe."""
    recipe: str
    run_id: str
    uri: str
    manifest_digest: str
    commit: str | None
    date: str


class ComparedRun(RunFacts):
    """One run of a comparison, its score with all that judges it."""

    score: RetrievalScore


class Comparison(Section):
    """What several runs reached on one question; its JSON is `compare.json`."""

    schema_version: Literal[1] = 1
    protocol: Protocol
    source: SourceFact
    gallery_digest: str
    test_digest: str
    runs: tuple[ComparedRun, ...]
    """In the order they were given."""
    concepts: tuple[PairedTest, ...]
    """Top-1, paired by concept (mean over subjects), Holm over this family; holds for these subjects."""
    subjects: tuple[PairedTest, ...] = ()
    """Top-1, paired by subject, Holm over this family; empty for one subject."""
    seed: int


def compare(found: Mapping[str, tuple[Report, Decisions]], *, against: str | None = None, seed: int = 0) -> Comparison:
    """Compare retrieval runs two by two.

    Parameters
    ----------
    found
        Where a run's report lies to the report and its decisions.
    against
        One of these places, or the name of its recipe: all others are tested against it only.

    Raises
    ------
    ValueError
        Fewer than two runs, a run without retrieval, decisions that are not the report's, or two runs that differ in
        protocol, repetitions averaged, gallery or test trials.
    """
    if len(found) < 2:
        raise ValueError(f"a comparison needs at least 2 runs, got {list(found)}.")
    scores = {uri: _score(uri, report, answers) for uri, (report, answers) in found.items()}
    first, *others = found
    for uri in others:
        refuse_difference(first, _facts(*found[first], scores[first]), uri, _facts(*found[uri], scores[uri]))
        check_comparable(scores[first], scores[uri])
    names = run_names({uri: report for uri, (report, _) in found.items()})
    if against is not None:
        against = names.get(against, against)
    concepts = {names[uri]: _by_concept(answers) for uri, (_, answers) in found.items()}
    subjects = {names[uri]: _by_subject(answers) for uri, (_, answers) in found.items()}
    report, answers = found[first]
    return Comparison(
        protocol=report.protocol,
        source=report.data.source,
        gallery_digest=answers.gallery_digest,
        test_digest=answers.test_digest,
        runs=tuple(
            ComparedRun(**run_facts(names[uri], uri, report), score=scores[uri]) for uri, (report, _) in found.items()
        ),
        concepts=paired_tests(concepts, unit="concepts", against=against, seed=seed),
        subjects=(
            paired_tests(subjects, unit="subjects", against=against, seed=seed)
            if len(next(iter(subjects.values()))) > 1
            else ()
        ),
        seed=seed,
    )


def load_runs(folder_uris: Sequence[str]) -> dict[str, tuple[Report, Decisions]]:
    """Read the reports of folders that hold summary.json and decisions.json."""
    refuse_twice(folder_uris)
    return {uri: (load_report(uri), load_decisions(uri)) for uri in folder_uris}


def run_facts(name: str, uri: str, report: Report) -> dict[str, Any]:
    """Return the fields of `RunFacts`."""
    of_report = ("recipe", "run_id", "manifest_digest", "commit", "date")
    return {"name": name, "uri": uri} | {field: getattr(report, field) for field in of_report}


def refuse_twice(folder_uris: Sequence[str]) -> None:
    """Refuse a run that is named twice."""
    twice = sorted({uri for uri in folder_uris if list(folder_uris).count(uri) > 1})
    if twice:
        raise ValueError(f"a run must be given once, got {twice[0]} several times.")


def write_comparison(folder_uri: str, comparison: Comparison) -> None:
    """Write `compare.html` and `compare.json`."""
    html = compare_page.render(comparison.model_dump(mode="json"), [(run.name, run.score) for run in comparison.runs])
    storage.write_bytes(storage.join(folder_uri, "compare.html"), html.encode())
    text = comparison.model_dump_json(indent=2) + "\n"
    storage.write_bytes(storage.join(folder_uri, "compare.json"), text.encode())


def _score(uri: str, report: Report, answers: Decisions) -> RetrievalScore:
    score = report.retrieval
    if score is None:
        raise ValueError(f"only retrieval is compared here, and {uri} ({report.recipe}) has none.")
    mean = float(np.mean(list(_by_subject(answers).values())))
    if answers.run_id != report.run_id or abs(mean - score.top1) > SAME_SCORE or len(answers.top1) != score.n_queries:
        raise ValueError(
            f"decisions.json of {uri} must be of the report beside it: run {answers.run_id}, top-1 {mean:.4f} of "
            f"{len(answers.top1)} queries against run {report.run_id}, {score.top1:.4f} of {score.n_queries}. "
            "Evaluate that run again."
        )
    return score


def protocol_facts(report: Report, but: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a run's protocol by name, but those that do not change what a score means."""
    return {f"protocol.{name}": getattr(report.protocol, name) for name in Protocol.model_fields if name not in but}


def refuse_difference(uri: str, facts: Mapping[str, Any], other_uri: str, other: Mapping[str, Any]) -> None:
    """Refuse two runs that answered different questions, naming the first fact that differs."""
    for name in {**facts, **other}:
        ours, theirs = facts.get(name), other.get(name)
        if ours != theirs:
            raise ValueError(
                f"runs must agree in {name} to be compared, got {ours} in {uri} and {theirs} in {other_uri}: "
                f"their scores answer different questions. {_WAY_OUT.get(name, 'Score both under one protocol.')}"
            )


def _facts(report: Report, answers: Decisions, score: RetrievalScore) -> dict[str, Any]:
    """Return what runs must agree in, by name."""
    return protocol_facts(report, NOT_COMPARED) | {
        "data.source.name": report.data.source.name,
        "retrieval.repetitions": score.repetitions,
        "retrieval.n_way": score.n_way,
        "gallery_digest": answers.gallery_digest,
        "test_digest": answers.test_digest,
    }


_WAY_OUT = {
    "gallery_digest": "The candidates are not the same pictures; rank both against one gallery.",
    "test_digest": "The test trials are not the same; score both on one test part of the shard set.",
    "protocol.test_repetitions": "Averaged and single trials are not compared; score both with the same number.",
    "retrieval.repetitions": "The queries average different numbers of trials; set protocol.test_repetitions.",
}


def run_names(reports: Mapping[str, Report]) -> dict[str, str]:
    """Return a name for each run: its recipe, or its id where two have one recipe."""
    recipes = [report.recipe for report in reports.values()]
    names = {
        uri: report.recipe if recipes.count(report.recipe) == 1 else report.run_id for uri, report in reports.items()
    }
    if len(set(names.values())) != len(names):
        raise ValueError(f"runs must differ, got {sorted(names.values())}: two places hold the report of one run.")
    return names


def _by_subject(answers: Decisions) -> dict[str, float]:
    hit_Q, subject_Q = np.array(answers.top1), np.array(answers.subject)
    return {str(s): float(hit_Q[subject_Q == s].mean()) for s in np.unique(subject_Q)}


def _by_concept(answers: Decisions) -> dict[str, float]:
    """Mean over subjects of the mean over queries of a concept."""
    hits: dict[str, dict[str, list[float]]] = {}
    for concept, subject, hit in zip(answers.concept, answers.subject, answers.top1, strict=True):
        hits.setdefault(concept, {}).setdefault(subject, []).append(hit)
    return {c: float(np.mean([np.mean(of_one) for of_one in by.values()])) for c, by in sorted(hits.items())}
