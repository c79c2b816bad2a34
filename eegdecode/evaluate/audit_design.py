"""Audit of a split and of scores by step: what is on both sides, and what choosing the step did to the score."""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from eegdecode.evaluate.audit_facts import N_EXAMPLES, SAME_SCORE, Finding, Found, Overlap, Reading, Selection
from eegdecode.evaluate.audit_files import Steps, Table
from eegdecode.evaluate.transductive import TransductiveScore


def audit_split(table: Table, found: Found) -> None:
    """Note which concepts, pictures, repetitions, runs and trials are on more than one side of a split."""
    splits = sorted(set(table["split"]))
    rows = {name: [i for i, split in enumerate(table["split"]) if split == name] for name in splits}
    whole = {"run": ("subject", "session", "run"), "repetition": ("subject", "picture")}
    trial = ("subject", "session", "run", "picture", "repetition")
    keys: dict[str, list[tuple[str, ...]]] = {}
    for what in ("concept", "picture", "repetition", "run", "trial"):
        columns = {"trial": trial}.get(what) or whole.get(what, (what,))
        needed = {"trial": trial, "repetition": ("picture", "subject")}.get(what, (what,))
        absent = [name for name in needed if name not in table]
        if absent:
            found.not_checked.append(f"{table.uri}: {what}s on both sides, column '{absent[0]}' is missing.")
            continue
        if what == "run" and ("subject" not in table or "session" not in table):
            found.not_checked.append(f"{table.uri}: runs are told apart by name only, subject or session is missing.")
        present = [name for name in columns if name in table]
        keys[what] = list(zip(*(table[name] for name in present), strict=True))
    blocks = _classes_per_run(table)
    for one, other in combinations(splits, 2):
        for what, key in keys.items():
            sides = [{key[i] for i in rows[name]} for name in (one, other)]
            both = sorted(sides[0] & sides[1])
            examples = tuple(_example(what, shared, table, rows, one, other) for shared in both[:N_EXAMPLES])
            found.overlaps.append(
                Overlap(of=what, between=(one, other), n=len(both), n_smaller=min(map(len, sides)), examples=examples)
            )
            if both:
                found.findings.append(_overlap_finding(found.overlaps[-1], blocks))
    if "picture" in table and "concept" in table:
        concepts: dict[str, set[str]] = {}
        for picture, concept in zip(table["picture"], table["concept"], strict=True):
            concepts.setdefault(picture, set()).add(concept)
        several = sorted(picture for picture, names in concepts.items() if len(names) > 1)
        if several:
            found.findings.append(
                Finding(
                    kind="overlap",
                    severity="notice",
                    says=f"{len(several)} pictures have more than one concept, so concepts may overlap unnoticed.",
                    n=len(several),
                    examples=tuple(f"{p}: {', '.join(sorted(concepts[p]))}" for p in several[:N_EXAMPLES]),
                )
            )


def _classes_per_run(table: Table) -> float | None:
    """Mean number of concepts in a run, None where it can not be told."""
    if "run" not in table or "concept" not in table:
        return None
    concepts: dict[tuple[str, ...], set[str]] = {}
    trials: Counter[tuple[str, ...]] = Counter()
    names = [name for name in ("subject", "session", "run") if name in table]
    for run, concept in zip(zip(*(table[name] for name in names), strict=True), table["concept"], strict=True):
        concepts.setdefault(run, set()).add(concept)
        trials[run] += 1
    # Runs of one trial hold one concept by necessity.
    several = [len(concepts[run]) for run in concepts if trials[run] > 1]
    return float(np.mean(several)) if several else None


def _example(
    what: str, shared: tuple[str, ...], table: Table, rows: Mapping[str, list[int]], one: str, other: str
) -> str:
    text = " ".join(shared)
    if what != "repetition" or "repetition" not in table:
        return text
    sides = []
    for name in (one, other):
        seen = [table["repetition"][i] for i in rows[name] if (table["subject"][i], table["picture"][i]) == shared]
        sides.append(f"{', '.join(seen[:8])} in {name}")
    return f"{text}: repetitions {'; '.join(sides)}"


def _overlap_finding(overlap: Overlap, classes_per_run: float | None) -> Finding:
    one, other = overlap.between
    blocked = overlap.of == "run" and classes_per_run == 1
    meaning = {
        "concept": "the score is not about new concepts",
        "picture": "the score is not about new pictures",
        "repetition": "other looks of the same person at the same picture were trained on",
        "trial": "the very same trials are on both sides",
        "run": "every run holds one concept, so telling the run tells the concept (block design)"
        if blocked
        else "what a run shares, such as slow drift, is on both sides",
    }[overlap.of]
    grave = "test" in (one, other) and (overlap.of != "run" or blocked)
    one_of, many = {
        "repetition": ("picture shown to one person again is", "pictures shown to one person again are"),
    }.get(overlap.of, (f"{overlap.of} is", f"{overlap.of}s are"))
    return Finding(
        kind="block design" if blocked else "overlap",
        severity="changes the score" if grave else "notice",
        says=f"{overlap.n} {one_of if overlap.n == 1 else many} in {one} and in {other} (of {overlap.n_smaller} in the "
        f"smaller): {meaning}.",
        n=overlap.n,
        examples=overlap.examples,
    )


def audit_steps(course: Steps, n_queries: int, n_way: int, reported: float | None, found: Found) -> Selection:
    """Return the last, the best and the validation-selected test score, and note which of them was reported."""
    test = np.array(course.test)

    def reading(name: str, at: int) -> Reading:
        interval = stats.binomtest(round(float(test[at]) * n_queries), n_queries).proportion_ci()
        return Reading(
            name=name,
            value=float(test[at]),
            chance=1 / n_way,
            ci95=(float(interval.low), float(interval.high)),
            n_way=n_way,
            n_queries=n_queries,
            source="steps",
        )

    best, last = int(test.argmax()), len(test) - 1
    kept = None if course.val is None else int(np.argmax(course.val))
    selection = Selection(
        n_steps=len(test),
        last=reading("test score at the last step", last),
        best=reading("test score at the step that is best on test", best),
        best_step=course.step[best],
        validation=None if kept is None else reading("test score at the step that is best on validation", kept),
        validation_step=None if kept is None else course.step[kept],
        gain_over_last=float(test[best] - test[last]),
        gain_over_validation=None if kept is None else float(test[best] - test[kept]),
    )
    if kept is None:
        found.not_checked.append("selection by validation: the scores by step have no column 'val'.")
    honest = {"last": test[last]} | ({} if kept is None else {"validation-selected": test[kept]})
    claims_best = reported is not None and abs(reported - test[best]) <= SAME_SCORE
    if test[best] > max(honest.values()) + 1e-12 and (reported is None or claims_best):
        gains = ", ".join(
            f"{100 * (test[best] - value):+.1f} points over the {name} step" for name, value in honest.items()
        )
        claimed = "The reported score is that of" if claims_best else "Selection on test would report"
        found.findings.append(
            Finding(
                kind="selection",
                severity="changes the score" if claims_best else "notice",
                says=f"{claimed} the best of {len(test)} test scores, {100 * test[best]:.1f} %: {gains}.",
                n=len(test),
            )
        )
    return selection


def audit_reported(reported: float, selection: Selection | None, found: Found) -> None:
    """Look for the claimed score among the readings; the main one of each file comes first in it."""

    def same(value: float) -> bool:
        return abs(value - reported) <= SAME_SCORE

    by_source: dict[str, Reading] = {}
    for reading in found.readings:
        by_source.setdefault(reading.source, reading)
    main = [*by_source.values()]
    steps = [] if selection is None else [selection.last, *((selection.validation,) if selection.validation else ())]
    if any(same(reading.value) for reading in main + steps) or (selection is not None and same(selection.best.value)):
        return
    also: list[Reading | TransductiveScore] = [score for score in found.transductive if same(score.value)]
    grave = bool(also)
    also += [reading for reading in found.readings if same(reading.value)]
    percent = f"The reported {100 * reported:.1f} % is"
    beside = "".join(f"; {reading.name} ({reading.source}) is {100 * reading.value:.1f} %" for reading in main)
    if grave:
        says = f"{percent} {also[0].name}, which is not inductive{beside}."
    elif also:
        says = f"{percent} {also[0].name}{beside}."
    else:
        says = f"{percent} none of the readings of these files{beside}."
    severity: Literal["changes the score", "notice"] = "changes the score" if grave else "notice"
    found.findings.append(
        Finding(kind="reported", severity=severity, says=says, examples=tuple(score.name for score in also[1:]))
    )
