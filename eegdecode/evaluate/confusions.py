"""Which pictures were taken for which others."""

from collections import Counter

from eegdecode.config import Section
from eegdecode.evaluate.decisions import Decisions


class Confusion(Section):
    """What one picture was taken for, over all queries that showed it."""

    shown: str
    concept: str
    n_queries: int
    n_right: int
    """Queries in which it came first itself."""
    taken_for: tuple[tuple[str, int], ...]
    """Other candidates that came first and how often, most often first."""


def top_confusions(answers: Decisions, n_pictures: int = 8, n_others: int = 3) -> tuple[Confusion, ...]:
    """Return the pictures most often taken for one and the same other; where counts are equal, by id."""
    named: dict[str, list[str]] = {}
    for shown, name in zip(answers.picture, answers.named, strict=True):
        named.setdefault(shown, []).append(name)
    concept = dict(zip(answers.picture, answers.concept, strict=True))
    found = []
    for shown, names in named.items():
        wrong = Counter(name for name in names if name != shown)
        if wrong:
            order = sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))
            found.append(
                Confusion(
                    shown=shown,
                    concept=concept[shown],
                    n_queries=len(names),
                    n_right=names.count(shown),
                    taken_for=tuple(order[:n_others]),
                )
            )
    found.sort(key=lambda one: (-one.taken_for[0][1], one.n_right, one.shown))
    return tuple(found[:n_pictures])
