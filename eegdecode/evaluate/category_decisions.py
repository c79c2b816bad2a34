"""How a run of categories decided every trial, by the ids of trial and picture; in decisions.json, read by compare.

Shape letters: N trial, G gallery.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from eegdecode import storage
from eegdecode.config import Section
from eegdecode.evaluate.decisions import NAME, digest_of


class DivisionDecisions(Section):
    """Out-of-fold decisions of one division, one entry a trial."""

    split_by: Literal["concept", "picture", "run", "subject"]
    labels: tuple[str, str] | None
    """The two categories of the contrast, each the start of a concept's name."""
    test_digest: str
    """SHA-256 of the sorted ids of the test trials."""
    trial: tuple[str, ...]
    fold: tuple[str, ...]
    """Whose decoder has not seen the trial: that of the run or subject left out."""
    shown: tuple[str, ...]
    """Concept of the picture."""
    named: tuple[str, ...]
    """Concept of the candidate that came first; of equal ones the first in the gallery."""
    log_odds: tuple[float | None, ...]
    """Of the second category against the first; None for a trial of neither, or without a contrast."""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        sizes = {len(getattr(self, name)) for name in ("trial", "fold", "shown", "named", "log_odds")}
        if len(sizes) != 1 or not self.trial:
            raise ValueError(f"decisions need one trial, fold, shown, named and log_odds per trial, got {sizes}.")
        return self


class CategoryDecisions(Section):
    """Decisions of a run of categories in each of its divisions; JSON of `decisions.json`."""

    schema_version: Literal[1] = 1
    kind: Literal["categories"] = "categories"
    run_id: str
    divisions: tuple[DivisionDecisions, ...]


def division_decisions(
    scores_NG: NDArray[Any],
    concepts: Sequence[str],
    trial_N: NDArray[Any],
    picture_N: NDArray[Any],
    shown_N: NDArray[Any],
    fold_N: NDArray[Any],
    *,
    split_by: Literal["concept", "picture", "run", "subject"],
    labels: tuple[str, str] | None = None,
    log_odds: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None,
) -> DivisionDecisions:
    """Return what was decided on every trial.

    Parameters
    ----------
    concepts
        Of the candidates, G of them.
    log_odds
        Rows of the trials that the contrast is about, and the decision on each.
    """
    odds: list[float | None] = [None] * len(trial_N)
    if log_odds is not None:
        for row, value in zip(log_odds[0].tolist(), log_odds[1].tolist(), strict=True):
            odds[row] = value
    return DivisionDecisions(
        split_by=split_by,
        labels=labels,
        test_digest=digest_of(f"{trial}|{picture}" for trial, picture in zip(trial_N, picture_N, strict=True)),
        trial=tuple(map(str, trial_N)),
        fold=tuple(map(str, fold_N)),
        shown=tuple(map(str, shown_N)),
        named=tuple(np.asarray(concepts)[np.asarray(scores_NG).argmax(axis=1)].tolist()),
        log_odds=tuple(odds),
    )


def write_category_decisions(folder_uri: str, found: CategoryDecisions) -> None:
    """Write `decisions.json` into the folder of a report."""
    storage.write_bytes(storage.join(folder_uri, NAME), (found.model_dump_json() + "\n").encode())


def load_category_decisions(folder_uri: str) -> CategoryDecisions:
    """Read `decisions.json` of a folder.

    Raises
    ------
    ValueError
        None there, or not one of categories.
    """
    where = storage.join(folder_uri, NAME)
    if not storage.exists(where):
        raise ValueError(
            f"{folder_uri} must hold {NAME}, which every evaluation leaves there: evaluate that run again."
        )
    try:
        return CategoryDecisions.model_validate_json(storage.read_bytes(where))
    except ValueError as error:
        raise ValueError(f"{where} must be decisions of categories, schema 1: {error}") from None
