"""Score against the share of the training concepts that was learnt from."""

from typing import Annotated, Literal

from pydantic import Field

from eegdecode import storage
from eegdecode.config import Section
from eegdecode.evaluate.retrieval import RetrievalScore

NAME = "scaling.json"


class ScalingPoint(Section):
    """One training on a share of the concepts."""

    train_share: Annotated[float, Field(gt=0, le=1)]
    n_concepts: int
    """Learnt from, in all folds together."""
    n_trials: int
    """Learnt from, mean over folds."""
    run_id: str
    score: RetrievalScore


class Scaling(Section):
    """A curve of score against data; its JSON is `scaling.json`."""

    schema_version: Literal[1] = 1
    run_id: str
    """Of the run on all concepts."""
    steps: int
    """Optimiser steps of every training, whatever its share."""
    points: tuple[ScalingPoint, ...]
    """From the smallest share to all."""


def write_scaling(folder_uri: str, found: Scaling) -> None:
    """Write `scaling.json` into the folder of a report."""
    storage.write_bytes(storage.join(folder_uri, NAME), (found.model_dump_json(indent=1) + "\n").encode())


def load_scaling(folder_uri: str, run_id: str) -> Scaling | None:
    """Read `scaling.json` of a folder; None where there is none, or that of another run.

    Raises
    ------
    ValueError
        One that is not of this schema.
    """
    where = storage.join(folder_uri, NAME)
    if not storage.exists(where):
        return None
    try:
        found = Scaling.model_validate_json(storage.read_bytes(where))
    except ValueError as error:
        raise ValueError(f"{where} must be a scaling curve of schema 1: {error}") from None
    return found if found.run_id == run_id else None
