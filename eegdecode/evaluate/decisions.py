"""How one run answered every query, by the ids of picture and subject; written beside summary.json, read by compare.

Shape letters: Q query, G gallery, N test trial.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from eegdecode import storage
from eegdecode.config import Section
from eegdecode.evaluate.retrieval import gallery_digest, own_hits

NAME = "decisions.json"


class Decisions(Section):
    """Answers to the queries of a retrieval, one entry a query; JSON of `decisions.json`."""

    schema_version: Literal[1] = 1
    run_id: str
    gallery_digest: str
    """SHA-256 of the sorted ids of the candidates."""
    test_digest: str
    """SHA-256 of the sorted ids of the test trials."""
    picture: tuple[str, ...]
    """Shown in each query."""
    subject: tuple[str, ...]
    concept: tuple[str, ...]
    """Of the picture shown."""
    named: tuple[str, ...]
    """The candidate that came first; of equal ones the first in the gallery."""
    top1: tuple[float, ...]
    """1 where the right candidate came first; the expected share where scores tie."""
    top5: tuple[float, ...]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        sizes = {len(getattr(self, name)) for name in ("picture", "subject", "concept", "named", "top1", "top5")}
        if len(sizes) != 1 or not self.picture:
            raise ValueError(
                f"decisions need one picture, subject, concept, name, top1 and top5 per query, got {sizes}."
            )
        return self


def digest_of(ids: Iterable[str]) -> str:
    """Return the SHA-256 of ids, whatever their order; an id that comes twice counts twice."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def decisions(
    scores_QG: NDArray[Any],
    gallery: Sequence[str],
    shown_Q: NDArray[Any],
    subject_Q: NDArray[Any],
    concept_Q: NDArray[Any],
    *,
    run_id: str,
    trial_N: Iterable[str],
    n_way: int = 0,
) -> Decisions:
    """Return whether each query was answered rightly.

    Parameters
    ----------
    trial_N
        Ids of the test trials the queries were averaged from.
    n_way
        Size of the galleries that are scored; 0 for all candidates.
    """
    return Decisions(
        run_id=run_id,
        gallery_digest=gallery_digest(gallery),
        test_digest=digest_of(trial_N),
        picture=tuple(np.asarray(shown_Q).tolist()),
        subject=tuple(np.asarray(subject_Q).tolist()),
        concept=tuple(np.asarray(concept_Q).tolist()),
        named=tuple(np.asarray(gallery)[np.asarray(scores_QG).argmax(axis=1)].tolist()),
        top1=tuple(own_hits(scores_QG, gallery, shown_Q, 1, n_way).tolist()),
        top5=tuple(own_hits(scores_QG, gallery, shown_Q, 5, n_way).tolist()),
    )


def write_decisions(folder_uri: str, found: Decisions) -> None:
    """Write `decisions.json` into the folder of a report."""
    storage.write_bytes(storage.join(folder_uri, NAME), (found.model_dump_json() + "\n").encode())


def load_decisions(folder_uri: str) -> Decisions:
    """Read `decisions.json` of a folder.

    Raises
    ------
    ValueError
        None there, or not one of this schema.
    """
    where = storage.join(folder_uri, NAME)
    if not storage.exists(where):
        raise ValueError(f"{folder_uri} must hold {NAME}, which a retrieval leaves there: evaluate that run again.")
    try:
        return Decisions.model_validate_json(storage.read_bytes(where))
    except ValueError as error:
        raise ValueError(f"{where} must be decisions of schema 1: {error}") from None
