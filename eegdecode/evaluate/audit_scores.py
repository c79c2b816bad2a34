"""Audit of a similarity matrix and of a third party's answers: the gallery, each reading, signs of the whole test set.

Shape letters: Q query, G gallery, R draw of the null.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, log10
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eegdecode.evaluate.audit_facts import N_EXAMPLES, Finding, Found, GalleryFact, OneToOne
from eegdecode.evaluate.audit_files import Ids, Prediction
from eegdecode.evaluate.retrieval import retrieval_report
from eegdecode.evaluate.statistics import Ints, permutation_p
from eegdecode.evaluate.transductive import (
    transductive_assignment,
    transductive_score,
    transductive_scores,
)

N_PERMUTATIONS = 1000
N_DRAWS = 9999
BEYOND_CHANCE = 1e-3
"""A sign is told as a finding below this probability."""
CHUNK = 2**22
"""Answers drawn at once, to bound memory."""
MARK = 1e-3
"""How nearly column sums must agree to be told as normalised over the queries."""


@dataclass(frozen=True)
class Matrix:
    """A similarity matrix and what its rows and columns are; `uri` is that of the table that says so."""

    uri: str
    scores_QG: NDArray[np.float64]
    ids: Ids

    @property
    def subject_Q(self) -> NDArray[np.str_]:
        """Subject of each query; `all` where none is named."""
        return np.array([subject or "all" for subject in self.ids.query_subject])

    def labels(self) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
        """Return pictures of queries and candidates, None where a picture shown is no candidate."""
        ids = self.ids
        if ids.query_picture[0] and ids.gallery_picture[0] and set(ids.query_picture) <= set(ids.gallery_picture):
            return "picture", ids.query_picture, ids.gallery_picture
        return None

    def concepts(self) -> tuple[str, tuple[str, ...], tuple[str, ...]] | None:
        """Return concepts of queries and candidates, None where either is not told."""
        ids = self.ids
        if ids.query_concept[0] and ids.gallery_concept[0]:
            return "concept", ids.query_concept, ids.gallery_concept
        return None


def audit_matrix(matrix: Matrix, found: Found, seed: int) -> None:
    """Score a matrix under each reading, and note its gallery and its signs of normalisation over the queries."""
    ids, scores_QG, subject_Q = matrix.ids, matrix.scores_QG, matrix.subject_Q
    unit_Q = np.array(ids.query_concept if ids.query_concept[0] else ids.query_picture)
    unit = "concepts" if ids.query_concept[0] else "pictures"
    readings = [reading for reading in (matrix.labels(), matrix.concepts()) if reading is not None]
    if len(np.unique(unit_Q)) < 2:
        raise ValueError(
            f"{matrix.uri}, column '{unit[:-1]}', row 1: queries must be of at least 2 {unit}, all are one."
        )
    found.gallery = _gallery(matrix, found)
    if not readings:
        raise ValueError(
            f"{matrix.uri}, column 'concept', row 1: no query can be scored: its picture must be a candidate, or "
            "queries and candidates must both name their concept."
        )
    suspect = _marks(scores_QG, subject_Q, found)
    first = True
    for what, shown, labels in readings:
        missing = sorted(set(shown) - set(labels))
        if missing:
            found.not_checked.append(
                f"the {what} reading: '{missing[0]}' is no candidate ({len(missing)} of {len(set(shown))} missing)."
            )
            continue
        score = retrieval_report(
            scores_QG, labels, shown, subject_Q, unit_Q, n_permutations=N_PERMUTATIONS, seed=seed, unit=unit
        )
        if first and _one_to_one("matrix", _greedy(scores_QG), shown, labels, subject_Q, found, seed):
            suspect = suspect or "its best candidates are consistent with one-to-one assignment"
        found.read(what, score, "matrix", len(labels) >= 5, suspect)
        if first:
            found.transductive += transductive_scores(scores_QG, labels, shown, subject_Q, unit_Q, seed=seed)
        first = False


def _gallery(matrix: Matrix, found: Found) -> GalleryFact:
    ids, scores_QG = matrix.ids, matrix.scores_QG
    pictures, concepts = ids.gallery_picture, ids.gallery_concept
    shown = set(ids.query_picture) & set(pictures) - {""}
    kind: Literal["the pictures shown", "other pictures", "class centres", "some of the pictures shown", "not told"]
    if not pictures[0]:
        kind = "class centres"
    elif not ids.query_picture[0]:
        kind = "not told"
    elif not shown:
        kind = "other pictures"
    else:
        kind = "the pictures shown" if shown == set(ids.query_picture) else "some of the pictures shown"
    labels = pictures if pictures[0] else concepts
    twice = [label for label, n in Counter(labels).items() if n > 1]
    # Equal columns are one candidate under two names: both tie, and chance is not what it seems.
    by_bytes: dict[bytes, list[int]] = {}
    for g, column_Q in enumerate(np.ascontiguousarray(scores_QG.T)):
        by_bytes.setdefault(column_Q.tobytes(), []).append(g)
    equal = [columns for columns in by_bytes.values() if len(columns) > 1] if len(scores_QG) > 1 else []
    n_duplicates = max(len(labels) - len(set(labels)), sum(len(columns) - 1 for columns in equal))
    examples = [f"'{label}' is a candidate {labels.count(label)} times" for label in twice[:N_EXAMPLES]] + [
        f"'{labels[columns[0]]}' and '{labels[columns[1]]}' (columns {columns[0]}, {columns[1]}) score alike everywhere"
        for columns in equal[:N_EXAMPLES]
    ]
    if kind == "some of the pictures shown":
        absent = sorted(set(ids.query_picture) - shown)
        found.findings.append(
            Finding(
                kind="gallery",
                severity="changes the score",
                says=f"{len(absent)} of {len(set(ids.query_picture))} pictures shown are no candidates, so their "
                "queries can not be right.",
                n=len(absent),
                examples=tuple(absent[:N_EXAMPLES]),
            )
        )
    if n_duplicates:
        found.findings.append(
            Finding(
                kind="gallery",
                severity="changes the score",
                says=f"The gallery holds {n_duplicates} duplicates among {len(labels)} candidates: it is smaller than "
                "it seems.",
                n=n_duplicates,
                examples=tuple(examples[:N_EXAMPLES]),
            )
        )
    asked = set(ids.query_picture) if pictures[0] else set(ids.query_concept)
    return GalleryFact(
        kind=kind,
        n_candidates=len(labels),
        n_pictures=len(set(pictures) - {""}),
        n_concepts=len(set(concepts) - {""}),
        n_duplicates=n_duplicates,
        duplicates=tuple(examples[:N_EXAMPLES]),
        n_never_shown=len(set(labels) - asked),
        queries_per_candidate=len(scores_QG) / len(labels),
    )


def _marks(scores_QG: NDArray[np.float64], subject_Q: NDArray[np.str_], found: Found) -> str:
    """Look for what normalising over the queries leaves in the columns; return it in words, or nothing."""
    suspect = ""
    for subject in np.unique(subject_Q):
        x_QG = scores_QG[subject_Q == subject]
        if min(x_QG.shape) < 10:
            continue
        sum_G, deviation_G = x_QG.sum(axis=0), x_QG.std(axis=0)
        mean_spread = np.ptp(x_QG.mean(axis=0)) / max(float(x_QG.std()), 1e-300)
        whose = "" if subject == "all" else f" of subject '{subject}'"
        if x_QG.min() >= 0 and np.ptp(sum_G) <= MARK * sum_G.mean() and np.ptp(x_QG.sum(axis=1)) > 0:
            says = f"Columns of the matrix{whose} have equal sums: consistent with Sinkhorn normalisation over queries."
        elif mean_spread <= MARK and np.ptp(deviation_G) <= MARK * deviation_G.mean():
            says = (
                f"Columns of the matrix{whose} have equal mean and deviation: consistent with standardising over the "
                "test queries."
            )
        else:
            continue
        suspect = says
        found.findings.append(Finding(kind="test set statistics", severity="changes the score", says=says, n=len(x_QG)))
    found.not_checked.append(
        "CSLS, whitening by test queries and choices made outside the matrix leave no certain mark in it."
    )
    return suspect


def audit_predictions(uri: str, answers: Sequence[Prediction], matrix: Matrix | None, found: Found, seed: int) -> None:
    """Score the answers, and note signs that they were assigned one to one."""
    shown = [answer.shown for answer in answers]
    subject_Q = np.array([answer.subject or "all" for answer in answers])
    named = {candidate for answer in answers for candidate in answer.ranked}
    labels = sorted(named | set(shown) | {answer.assignment for answer in answers} - {""})
    if matrix is not None and matrix.ids.gallery_picture[0]:
        gallery = set(matrix.ids.gallery_picture)
        for answer in answers:
            cells = [*zip(answer.ranked, answer.rows, strict=True), (answer.shown, answer.rows[0])]
            for label, row in cells + ([(answer.assignment, answer.rows[0])] if answer.assignment else []):
                if label not in gallery:
                    column = (
                        "candidate" if label in answer.ranked else "shown" if label == answer.shown else "assignment"
                    )
                    raise ValueError(
                        f"{uri}, column '{column}', row {row + 1}: '{label}' is no candidate of the matrix."
                    )
        labels = sorted(gallery)
    elif any(len(answer.ranked) < len(labels) for answer in answers):
        found.not_checked.append(
            f"{uri}: candidates that were never named or shown are not known; the gallery is taken as the "
            f"{len(labels)} that were."
        )
    if len(set(shown)) < 2:
        raise ValueError(f"{uri}, column 'shown', row 1: queries must be of at least 2 pictures, all are '{shown[0]}'.")
    index = {label: g for g, label in enumerate(labels)}
    shortest = min(len(answer.ranked) for answer in answers)
    scores_QG = np.full((len(answers), len(labels)), -float(len(labels) + 1))
    for q, answer in enumerate(answers):
        for rank, candidate in enumerate(answer.ranked):
            scores_QG[q, index[candidate]] = -float(rank)
    score = retrieval_report(
        scores_QG, labels, shown, subject_Q, shown, n_permutations=N_PERMUTATIONS, seed=seed, unit="pictures"
    )
    if shortest < 5:
        found.not_checked.append(f"{uri}: top-5, some queries name only {shortest}.")
    first = np.array([index[answer.ranked[0]] for answer in answers])
    one_to_one = _one_to_one(uri, first, shown, labels, subject_Q, found, seed)
    assigned_more = matrix is not None and _compare(uri, answers, matrix, found)
    suspect = "consistent with one-to-one assignment" if one_to_one or assigned_more else ""
    found.read("answers", score, uri, shortest >= 5, suspect)
    if answers[0].assignment:
        assigned = np.array([index[answer.assignment] for answer in answers])
        target = np.array([index[label] for label in shown])
        found.transductive.append(
            transductive_score(
                "transductive_declared_assignment_top1",
                assigned == target,
                np.ones(len(answers), np.int64),
                len(labels),
                subject_Q,
                shown,
                seed=seed,
            )
        )
        moved = int((assigned != first).sum())
        if moved:
            found.findings.append(
                Finding(
                    kind="assignment",
                    severity="notice",
                    says=f"The answers come with an assignment that differs from the best candidate in {moved} of "
                    f"{len(answers)} queries; a score of it is transductive.",
                    n=moved,
                )
            )


def _compare(uri: str, answers: Sequence[Prediction], matrix: Matrix, found: Found) -> bool:
    """Say whether the answers are the best candidates of the matrix or those of an assignment."""
    ids = matrix.ids
    keys = list(zip(ids.query_subject, ids.query_picture, strict=True))
    row_of = {key: row for row, key in enumerate(keys)}
    rows = [row_of.get((answer.subject, answer.shown)) for answer in answers]
    if len(row_of) < len(keys) or None in rows or len(set(rows)) < len(rows) or not ids.gallery_picture[0]:
        found.not_checked.append(f"{uri}: its queries could not be matched one to one with rows of the matrix.")
        return False
    gallery = np.array(ids.gallery_picture)
    subject_Q = matrix.subject_Q
    if any(int((subject_Q == s).sum()) > len(gallery) for s in np.unique(subject_Q)):
        found.not_checked.append(f"{uri}: assignment, a subject has more queries than candidates.")
        return False
    greedy, assigned = gallery[_greedy(matrix.scores_QG)], np.empty(len(subject_Q), gallery.dtype)
    for subject in np.unique(subject_Q):
        mine = np.flatnonzero(subject_Q == subject)
        assigned[mine] = gallery[transductive_assignment(matrix.scores_QG[mine])]
    order = np.array([row for row in rows if row is not None])
    first = np.array([answer.ranked[0] for answer in answers])
    as_greedy, as_assigned = int((first == greedy[order]).sum()), int((first == assigned[order]).sum())
    if as_assigned > as_greedy:
        found.findings.append(
            Finding(
                kind="assignment",
                severity="changes the score",
                says=f"The answers are those of one-to-one (Hungarian) assignment of the matrix in {as_assigned} of "
                f"{len(answers)} queries, its best candidates in {as_greedy}.",
                n=as_assigned,
            )
        )
    return as_assigned > as_greedy


def _greedy(scores_QG: NDArray[np.float64]) -> Ints:
    return np.asarray(scores_QG.argmax(axis=1), np.int64)


def _one_to_one(
    source: str,
    first_Q: Ints,
    shown: Sequence[str],
    labels: Sequence[str],
    subject_Q: NDArray[np.str_],
    found: Found,
    seed: int,
) -> bool:
    """Return whether answers of a subject differ far more than independent errors would.

    Right answers differ by themselves where every query has its own picture, so they stay and only the wrong ones are
    drawn, alike over all other candidates: of all independent errors these collide least.
    """
    names, named = np.unique(np.asarray(labels), return_inverse=True)
    shown_Q = np.searchsorted(names, np.asarray(shown))
    first_Q = named[first_Q]
    subjects = [np.flatnonzero(subject_Q == s) for s in np.unique(subject_Q)]
    if len(names) < 2 or any(len(np.unique(shown_Q[rows])) < len(rows) for rows in subjects):
        found.not_checked.append(f"{source}: one-to-one answers, a subject was asked for one picture several times.")
        return False
    rng = np.random.default_rng(seed)
    distinct, log_p = 0, 0.0
    distinct_R = np.zeros(N_DRAWS, np.int64)
    n_right = 0
    for rows in subjects:
        wrong = first_Q[rows] != shown_Q[rows]
        n_wrong = int(wrong.sum())
        n_right += len(rows) - n_wrong
        here = len(np.unique(first_Q[rows]))
        distinct += here
        size = max(1, CHUNK // len(rows))
        for start in range(0, N_DRAWS, size):
            part = slice(start, min(start + size, N_DRAWS))
            drawn_RQ = np.tile(shown_Q[rows], (part.stop - start, 1))
            # A step of 1 to n - 1 from the right candidate reaches each other one alike.
            step_RQ = rng.integers(1, len(names), size=(len(drawn_RQ), n_wrong))
            drawn_RQ[:, wrong] = (shown_Q[rows][wrong] + step_RQ) % len(names)
            distinct_R[part] += 1 + (np.diff(np.sort(drawn_RQ, axis=1), axis=1) != 0).sum(axis=1)
        log_p += _log10_all_distinct(len(rows), n_wrong, len(names)) if here == len(rows) else -np.inf
    p = permutation_p(float(distinct), distinct_R.astype(np.float64))
    exact = float(log_p) if np.isfinite(log_p) and distinct == len(first_Q) else None
    chance = f"{p:.4f}" if exact is None else _power_of_ten(exact)
    beyond = (p if exact is None else min(p, 10**exact)) < BEYOND_CHANCE
    if beyond:
        says = (
            f"{distinct} of {len(first_Q)} first answers are different candidates where independent ranking with as "
            f"many right answers gives about {distinct_R.mean():.0f} (probability {chance}): consistent with "
            "one-to-one assignment (Hungarian) or another use of the whole test set."
        )
        found.findings.append(
            Finding(kind="assignment", severity="changes the score", says=f"{source}: {says}", n=distinct)
        )
    else:
        says = f"{distinct} of {len(first_Q)} first answers differ; independent ranking would do so (p {chance})."
    found.one_to_one.append(
        OneToOne(
            source=source,
            n_queries=len(first_Q),
            n_way=len(names),
            n_right=n_right,
            n_distinct=distinct,
            expected_distinct=float(distinct_R.mean()),
            p=p,
            log10_p=exact,
            says=says,
        )
    )
    return beyond


def _log10_all_distinct(n_queries: int, n_wrong: int, n_way: int) -> float:
    """Log10 of the probability that wrong answers, drawn from the other candidates, all differ from all answers.

    Counted exactly: ways to give `n_wrong` queries different candidates among those no right answer took, none its own
    (inclusion and exclusion over queries that get their own), of (n_way - 1) ** n_wrong.
    """
    free = n_way - (n_queries - n_wrong)
    ways, falling = 0, [1]
    # falling[j] = (free - n_wrong + j)! / (free - n_wrong)!, so the term of j own answers needs falling[n_wrong - j].
    for j in range(1, n_wrong + 1):
        falling.append(falling[-1] * (free - n_wrong + j))
    for j in range(n_wrong + 1):
        ways += (-1) ** j * comb(n_wrong, j) * falling[n_wrong - j]
    if ways <= 0:
        return float("-inf")
    return log10(ways) - n_wrong * log10(n_way - 1)


def _power_of_ten(log_p: float) -> str:
    return f"{10**log_p:.3f}" if log_p > -3 else f"10^{log_p:.0f}"
