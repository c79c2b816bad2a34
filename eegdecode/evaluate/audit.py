"""Read somebody else's numbers again: what kind of score is it, and what would be left of it under honest rules.

Takes a similarity matrix, a third party's answers, a description of a split or scores by step, in any combination, and
says what it found. A finding is a sign, not a proof: the sentence says what the files are consistent with. Nothing here
trains, and nothing needs Ray or torch.

Shape letters: Q query, G gallery, R draw of the null.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, log10
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import stats

from eegdecode import storage
from eegdecode.config import Section
from eegdecode.evaluate import audit_page
from eegdecode.evaluate.audit_files import (
    Ids,
    Prediction,
    Steps,
    Table,
    read_ids,
    read_matrix,
    read_predictions,
    read_split,
    read_steps,
)
from eegdecode.evaluate.retrieval import RetrievalScore, retrieval_report
from eegdecode.evaluate.statistics import Interval, Ints, permutation_p
from eegdecode.evaluate.transductive import (
    TransductiveScore,
    transductive_assignment,
    transductive_score,
    transductive_scores,
)

Share = Annotated[float, Field(ge=0, le=1)]
N_PERMUTATIONS = 1000
N_DRAWS = 9999
BEYOND_CHANCE = 1e-3
"""A sign is told as a finding below this probability."""
CHUNK = 2**22
"""Answers drawn at once, to bound memory."""
N_EXAMPLES = 5
SAME_SCORE = 6e-4
"""Scores printed to a tenth of a per cent are taken as equal within this."""
MARK = 1e-3
"""How nearly column sums must agree to be told as normalised over the queries."""


class Finding(Section):
    """One thing a reader must know before believing the number."""

    kind: Literal["assignment", "test set statistics", "selection", "overlap", "block design", "gallery", "reported"]
    severity: Literal["changes the score", "notice"]
    says: str
    n: int = 0
    examples: tuple[str, ...] = ()


class Reading(Section):
    """One inductive score of the files; transductive ones are another type and are kept apart."""

    name: str
    value: Share
    chance: Share
    ci95: Interval
    p: Share | None = None
    """By exchanging pictures; None where only a score was given."""
    n_way: int
    n_queries: int
    source: str


class GalleryFact(Section):
    """What was ranked."""

    kind: Literal["the pictures shown", "other pictures", "class centres", "some of the pictures shown", "not told"]
    n_candidates: int
    n_pictures: int
    n_concepts: int
    n_duplicates: int
    duplicates: tuple[str, ...] = ()
    n_never_shown: int
    queries_per_candidate: float


class OneToOne(Section):
    """How often the same candidate was the first answer to two queries of a subject."""

    source: str
    n_queries: int
    n_way: int
    n_right: int
    n_distinct: int
    expected_distinct: float
    """If every wrong answer fell on any other candidate alike and independently; uneven errors collide more."""
    p: Share
    """Of so many distinct answers under independent ranking, by draws."""
    log10_p: float | None = None
    """Exact, where no candidate was given twice."""
    says: str


class Selection(Section):
    """The test score at the last, the best and the validation-selected step of one training."""

    n_steps: int
    last: Reading
    best: Reading
    best_step: float
    validation: Reading | None = None
    validation_step: float | None = None
    gain_over_last: float
    gain_over_validation: float | None = None


class Overlap(Section):
    """What two splits share."""

    of: str
    between: tuple[str, str]
    n: int
    n_smaller: int
    """Of so many in the smaller of the two splits."""
    examples: tuple[str, ...] = ()


class Audit(Section):
    """Everything an audit found, whose JSON is `audit.json`."""

    schema_version: Literal[1] = 1
    files: dict[str, str]
    """File to sha256."""
    findings: tuple[Finding, ...]
    readings: tuple[Reading, ...] = ()
    transductive: tuple[TransductiveScore, ...] = ()
    gallery: GalleryFact | None = None
    one_to_one: tuple[OneToOne, ...] = ()
    selection: Selection | None = None
    overlaps: tuple[Overlap, ...] = ()
    reported: Share | None = None
    not_checked: tuple[str, ...] = ()
    """What the files could not answer."""
    seed: int


def audit(
    *,
    scores: str | None = None,
    ids: str | None = None,
    predictions: str | None = None,
    split: str | None = None,
    steps: str | None = None,
    reported: float | None = None,
    n_queries: int | None = None,
    n_way: int | None = None,
    seed: int = 0,
) -> Audit:
    """Audit the files given.

    Parameters
    ----------
    scores, ids
        Matrix (queries, gallery) as .npy, higher is better, and the table of its rows and columns; they come together.
    predictions, split, steps
        Tables; see `audit_files` for their columns.
    reported
        The score that was claimed, a share; it is looked for among all readings.
    n_queries, n_way
        Test queries and candidates behind the scores by step; taken from the other files where they are given.

    Raises
    ------
    ValueError
        Nothing to audit, a matrix without ids, scores by step without `n_queries` and `n_way`, or a bad file: the
        sentence names file, column and row.
    """
    given = {"scores": scores, "ids": ids, "predictions": predictions, "split": split, "steps": steps}
    if not (scores or predictions or split or steps):
        raise ValueError("an audit needs scores, predictions, a split or steps, got none of them.")
    if (scores is None) != (ids is None):
        raise ValueError("a matrix and its ids come together: give both --scores and --ids, or none.")
    if reported is not None and not 0 <= reported <= 1:
        raise ValueError(f"the reported score must be a share between 0 and 1, got {reported}; divide percent by 100.")
    found = _Found()
    matrix = None
    if scores is not None and ids is not None:
        scores_QG = read_matrix(scores)
        matrix = _Matrix(ids, scores_QG, read_ids(ids, (scores_QG.shape[0], scores_QG.shape[1])))
        _audit_matrix(matrix, found, seed)
    if predictions is not None:
        answers, unread = read_predictions(predictions)
        found.unread(predictions, unread)
        _audit_predictions(predictions, answers, matrix, found, seed)
    if split is not None:
        table = read_split(split)
        found.unread(split, table.unread)
        _audit_split(table, found)
    selection = None
    if steps is not None:
        course, unread = read_steps(steps)
        found.unread(steps, unread)
        scored: list[Reading | TransductiveScore] = [*found.readings, *found.transductive]
        for known in scored[:1]:
            n_queries, n_way = n_queries or known.n_queries, n_way or known.n_way
        if not n_queries or not n_way:
            raise ValueError(
                f"{steps}: a score without its chance and interval is none; say --n-queries and --n-way, or give the "
                "matrix or predictions."
            )
        selection = _audit_steps(course, n_queries, n_way, reported, found)
    if reported is not None:
        _audit_reported(reported, selection, found)
    return Audit(
        files={uri: hashlib.sha256(storage.read_bytes(uri)).hexdigest() for uri in given.values() if uri},
        findings=tuple(found.findings),
        readings=tuple(found.readings),
        transductive=tuple(found.transductive),
        gallery=found.gallery,
        one_to_one=tuple(found.one_to_one),
        selection=selection,
        overlaps=tuple(found.overlaps),
        reported=reported,
        not_checked=tuple(found.not_checked),
        seed=seed,
    )


def write_audit(folder_uri: str, found: Audit) -> None:
    """Write `audit.html`, then `audit.json`, each whole."""
    page = audit_page.render(found.model_dump(mode="json"))
    storage.write_bytes(storage.join(folder_uri, "audit.html"), page.encode())
    storage.write_bytes(storage.join(folder_uri, "audit.json"), (found.model_dump_json(indent=2) + "\n").encode())


class _Found:
    """What has been found so far."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.readings: list[Reading] = []
        self.transductive: list[TransductiveScore] = []
        self.one_to_one: list[OneToOne] = []
        self.overlaps: list[Overlap] = []
        self.not_checked: list[str] = []
        self.gallery: GalleryFact | None = None

    def unread(self, uri: str, columns: Sequence[str]) -> None:
        if columns:
            self.not_checked.append(f"{uri}: columns {', '.join(columns)} are not known and were not read.")

    def read(self, what: str, score: RetrievalScore, source: str, top5: bool, suspect: str = "") -> None:
        """Keep a score; where its source bears the marks of using the whole test set, under a transductive name."""
        values: list[tuple[str, float, float, Interval, float | None]] = [
            ("top1", score.top1, score.chance_top1, score.ci95_top1, score.p_permutation)
        ]
        if top5:
            values.append(("top5", score.top5, score.chance_top5, score.ci95_top5, None))
        for rank, value, chance, ci95, p in values:
            if suspect:
                self.transductive.append(
                    TransductiveScore(
                        name=f"transductive_{what}_{rank}",
                        value=value,
                        chance=chance,
                        ci95=ci95,
                        n_way=score.n_way,
                        n_queries=score.n_queries,
                        n_subjects=score.n_subjects,
                        uses=f"{source}: {suspect}",
                    )
                )
                continue
            self.readings.append(
                Reading(
                    name=f"{what}, greedy {rank.replace('top', 'top-')}",
                    value=value,
                    chance=chance,
                    ci95=ci95,
                    p=p,
                    n_way=score.n_way,
                    n_queries=score.n_queries,
                    source=source,
                )
            )


@dataclass(frozen=True)
class _Matrix:
    uri: str
    scores_QG: NDArray[np.float64]
    ids: Ids

    @property
    def subject_Q(self) -> NDArray[np.str_]:
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


def _audit_matrix(matrix: _Matrix, found: _Found, seed: int) -> None:
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


def _gallery(matrix: _Matrix, found: _Found) -> GalleryFact:
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


def _marks(scores_QG: NDArray[np.float64], subject_Q: NDArray[np.str_], found: _Found) -> str:
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


def _audit_predictions(
    uri: str, answers: Sequence[Prediction], matrix: _Matrix | None, found: _Found, seed: int
) -> None:
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


def _compare(uri: str, answers: Sequence[Prediction], matrix: _Matrix, found: _Found) -> bool:
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
    found: _Found,
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


def _audit_split(table: Table, found: _Found) -> None:
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


def _audit_steps(course: Steps, n_queries: int, n_way: int, reported: float | None, found: _Found) -> Selection:
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


def _audit_reported(reported: float, selection: Selection | None, found: _Found) -> None:
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
