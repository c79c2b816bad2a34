"""What an audit can say: findings, readings with chance and interval, and what of a gallery, split or course it saw."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from eegdecode.config import Section
from eegdecode.evaluate.retrieval import RetrievalScore
from eegdecode.evaluate.statistics import Interval
from eegdecode.evaluate.transductive import TransductiveScore

Share = Annotated[float, Field(ge=0, le=1)]
N_EXAMPLES = 5
SAME_SCORE = 6e-4
"""Scores printed to a tenth of a per cent are taken as equal within this."""


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


class Found:
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
        """Note the columns of a file that nobody looks at."""
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
