"""Runs of few categories beside one another: AUC and accuracy, paired by the run or person left out.

As `compare` does for retrieval, scores of different questions are refused, by the name of what differs.

Shape letters: N trial.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from eegdecode import metrics, storage
from eegdecode.batch import SourceFact
from eegdecode.config import Protocol, Section
from eegdecode.evaluate import compare_categories_page
from eegdecode.evaluate.category_decisions import CategoryDecisions, DivisionDecisions, load_category_decisions
from eegdecode.evaluate.compare import (
    SAME_SCORE,
    RunFacts,
    protocol_facts,
    refuse_difference,
    refuse_twice,
    run_facts,
    run_names,
)
from eegdecode.evaluate.contrast import ClassScore, ContrastScore
from eegdecode.evaluate.report import Report, load_report
from eegdecode.evaluate.statistics import PairedTest, paired_tests

NOT_COMPARED = ("permutations", "control_window_s")
"""Fields of a protocol that change how finely a p is known, or a control, not what the score means."""


class ComparedCategories(RunFacts):
    """One run of a comparison."""

    classes: ClassScore
    """Of the first division."""


class ComparedDivision(Section):
    """What all runs reached in one division of the trials."""

    split_by: Literal["concept", "picture", "run", "subject"]
    test_digest: str
    contrasts: dict[str, ContrastScore]
    """Run to its AUC; empty without a contrast."""
    auc: tuple[PairedTest, ...]
    """Paired by what is left out, Holm over this family; empty without a contrast."""
    accuracy: tuple[PairedTest, ...]
    """Of naming the category, the same way."""


class CategoryComparison(Section):
    """What several runs of categories reached on one question; its JSON is `compare.json`."""

    schema_version: Literal[1] = 1
    kind: Literal["categories"] = "categories"
    protocol: Protocol
    source: SourceFact
    runs: tuple[ComparedCategories, ...]
    """In the order they were given."""
    divisions: tuple[ComparedDivision, ...]
    seed: int


Found = Mapping[str, tuple[Report, CategoryDecisions]]


def compare_categories(found: Found, *, against: str | None = None, seed: int = 0) -> CategoryComparison:
    """Compare runs of categories two by two, in every division they have.

    Parameters
    ----------
    found, against
        As for `compare`.

    Raises
    ------
    ValueError
        Fewer than two runs, decisions that are not the report's, or two runs that differ in protocol, source,
        categories or test trials.
    """
    if len(found) < 2:
        raise ValueError(f"a comparison needs at least 2 runs, got {list(found)}.")
    for uri, (report, answers) in found.items():
        _refuse_strangers(uri, report, answers)
    first, *others = found
    for uri in others:
        refuse_difference(first, _facts(*found[first]), uri, _facts(*found[uri]))
    names = run_names({uri: report for uri, (report, _) in found.items()})
    if against is not None:
        against = names.get(against, against)
    report = found[first][0]
    return CategoryComparison(
        protocol=report.protocol,
        source=report.data.source,
        runs=tuple(_run(names[uri], uri, report) for uri, (report, _) in found.items()),
        divisions=tuple(
            _division(found, names, place, against, seed) for place in range(len(found[first][1].divisions))
        ),
        seed=seed,
    )


def of_categories(folder_uris: Sequence[str]) -> bool:
    """Return whether the reports of folders are of categories.

    Raises
    ------
    ValueError
        Some are and some are retrieval.
    """
    kinds = {uri: load_report(uri).retrieval is None for uri in folder_uris}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"runs must all be of categories or all be retrieval, got categories in {[u for u in kinds if kinds[u]]} "
            f"and retrieval in {[u for u in kinds if not kinds[u]]}."
        )
    return all(kinds.values())


def load_category_runs(folder_uris: Sequence[str]) -> dict[str, tuple[Report, CategoryDecisions]]:
    """Read the reports of folders that hold summary.json and decisions.json."""
    refuse_twice(folder_uris)
    return {uri: (load_report(uri), load_category_decisions(uri)) for uri in folder_uris}


def write_category_comparison(folder_uri: str, comparison: CategoryComparison) -> None:
    """Write `compare.html` and `compare.json`."""
    html = compare_categories_page.render(comparison.model_dump(mode="json"))
    storage.write_bytes(storage.join(folder_uri, "compare.html"), html.encode())
    text = comparison.model_dump_json(indent=2) + "\n"
    storage.write_bytes(storage.join(folder_uri, "compare.json"), text.encode())


def aucs(decisions: DivisionDecisions) -> dict[str, float]:
    """Return the AUC of every fold; empty without a contrast."""
    if decisions.labels is None:
        return {}
    fold_N = np.array(decisions.fold)
    rows_N = np.array([odds is not None for odds in decisions.log_odds])
    odds_N = np.array([np.nan if odds is None else odds for odds in decisions.log_odds])
    positive_N = np.char.startswith(np.array(decisions.shown), decisions.labels[1])
    parts = {str(fold): rows_N & (fold_N == fold) for fold in np.unique(fold_N)}
    return {fold: float(metrics.roc_auc(odds_N[at], positive_N[at])) for fold, at in parts.items()}


def accuracies(decisions: DivisionDecisions) -> dict[str, float]:
    """Return the share of trials of every fold whose category is named."""
    fold_N, right_N = np.array(decisions.fold), np.array(decisions.named) == np.array(decisions.shown)
    return {str(fold): float(right_N[fold_N == fold].mean()) for fold in np.unique(fold_N)}


def _run(name: str, uri: str, report: Report) -> ComparedCategories:
    assert report.classes is not None  # _refuse_strangers
    return ComparedCategories(**run_facts(name, uri, report), classes=report.classes)


def _division(found: Found, names: Mapping[str, str], place: int, against: str | None, seed: int) -> ComparedDivision:
    parts = {names[uri]: answers.divisions[place] for uri, (_, answers) in found.items()}
    contrasts = {names[uri]: _contrasts(report)[place] for uri, (report, _) in found.items() if report.contrast}
    one = next(iter(parts.values()))

    def tests(scores: dict[str, dict[str, float]]) -> tuple[PairedTest, ...]:
        return paired_tests(scores, unit=f"{one.split_by}s", against=against, seed=seed)

    return ComparedDivision(
        split_by=one.split_by,
        test_digest=one.test_digest,
        contrasts=contrasts,
        auc=tests({name: aucs(part) for name, part in parts.items()}) if one.labels else (),
        accuracy=tests({name: accuracies(part) for name, part in parts.items()}),
    )


def _contrasts(report: Report) -> tuple[ContrastScore, ...]:
    return (*((report.contrast,) if report.contrast else ()), *report.more_contrasts)


def _facts(report: Report, answers: CategoryDecisions) -> dict[str, Any]:
    """Return what runs must agree in, by name."""
    facts = protocol_facts(report, NOT_COMPARED) | {"data.source.name": report.data.source.name}
    facts["classes"] = report.classes.classes if report.classes else ()
    return facts | {f"test_digest ({part.split_by})": part.test_digest for part in answers.divisions}


def _refuse_strangers(uri: str, report: Report, answers: CategoryDecisions) -> None:
    """Refuse decisions that are not of the report beside them."""
    if report.classes is None:
        raise ValueError(f"only runs of categories are compared here, and {uri} ({report.recipe}) has no classes.")
    pairs = [(accuracies(answers.divisions[0]), report.classes.per_fold)]
    pairs += [(aucs(part), c.per_fold) for part, c in zip(answers.divisions, _contrasts(report), strict=False)]
    same = all(
        ours.keys() == theirs.keys() and all(abs(ours[fold] - theirs[fold]) <= SAME_SCORE for fold in ours)
        for ours, theirs in pairs
    )
    if answers.run_id != report.run_id or not same:
        raise ValueError(
            f"decisions.json of {uri} must be of the report beside it, and its scores or its run {answers.run_id} are "
            f"not those of {report.run_id}. Evaluate that run again."
        )
