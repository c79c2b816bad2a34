"""The files an audit reads: a matrix, and tables as CSV or as a JSON list of objects; never a pickle.

A file is read whole or refused with one sentence that names file, column and row; rows count from 1 below the header.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from eegdecode import storage

IDS = (("axis", "index"), ("picture", "concept", "subject"))
PREDICTIONS = (("query", "candidate"), ("rank", "score", "assignment", "shown", "subject"))
SPLIT = (("split",), ("subject", "session", "run", "picture", "concept", "repetition"))
STEPS = ((), ("step", "epoch", "train", "val", "test"))


@dataclass(frozen=True)
class Table:
    """Columns of text, blanks stripped.

    Attributes
    ----------
    unread
        Columns of the file that an audit has no use for.
    """

    uri: str
    columns: Mapping[str, tuple[str, ...]]
    unread: tuple[str, ...]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> tuple[str, ...]:
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def where(self, column: str, row: int) -> str:
        """Return how an error names a cell; rows are given from 0 and told from 1."""
        return f"{self.uri}, column '{column}', row {row + 1}"

    def filled(self, column: str) -> tuple[str, ...]:
        """Return a column none of whose cells is empty."""
        for row, text in enumerate(self[column]):
            if not text:
                raise ValueError(f"{self.where(column, row)}: must not be empty.")
        return self[column]

    def whole(self, column: str) -> list[int]:
        """Return a column of whole numbers of at least 0."""
        found = []
        for row, text in enumerate(self[column]):
            if not text.isascii() or not text.isdigit():
                raise ValueError(f"{self.where(column, row)}: must be a whole number of at least 0, got '{text}'.")
            found.append(int(text))
        return found

    def numbers(self, column: str) -> list[float]:
        """Return a column of finite numbers."""
        found = []
        for row, text in enumerate(self[column]):
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise ValueError(f"{self.where(column, row)}: must be a finite number, got '{text}'.")
            found.append(number)
        return found

    def shares(self, column: str) -> list[float]:
        """Return a column of numbers between 0 and 1."""
        found = self.numbers(column)
        for row, number in enumerate(found):
            if not 0 <= number <= 1:
                raise ValueError(
                    f"{self.where(column, row)}: must be a share between 0 and 1, got {number}; divide percent by 100."
                )
        return found


@dataclass(frozen=True)
class Ids:
    """What the rows and columns of a matrix are; an empty text where it is not told."""

    query_picture: tuple[str, ...]
    query_concept: tuple[str, ...]
    query_subject: tuple[str, ...]
    gallery_picture: tuple[str, ...]
    gallery_concept: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What a third party answered to one query, best first."""

    query: str
    subject: str
    shown: str
    ranked: tuple[str, ...]
    assignment: str
    rows: tuple[int, ...]
    """Rows of the file that name them, from 0."""


@dataclass(frozen=True)
class Steps:
    """Course of one training; `val` is None where it was not kept."""

    step: tuple[float, ...]
    val: tuple[float, ...] | None
    test: tuple[float, ...]


def read_matrix(uri: str) -> NDArray[np.float64]:
    """Read scores (queries, gallery) from a .npy file of floats.

    Raises
    ------
    ValueError
        No such file, pickled objects, another type or number of dimensions, a score that is not finite.
    """
    raw = _bytes(uri)
    try:
        scores = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{uri}: must be a .npy file of plain floats, without pickled objects: {error}") from None
    if not isinstance(scores, np.ndarray) or scores.dtype.kind != "f" or scores.ndim != 2 or not scores.size:
        got = f"{scores.dtype} {scores.shape}" if isinstance(scores, np.ndarray) else "an archive"
        raise ValueError(f"{uri}: must be floats (queries, gallery), got {got}.")
    if not np.isfinite(scores).all():
        q, g = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"{uri}, column {g}, row {q} (both from 0): must be finite, got {scores[q, g]}.")
    return np.asarray(scores, np.float64)


def read_ids(uri: str, shape: tuple[int, int]) -> Ids:
    """Read what the rows and columns of a matrix are.

    Columns: ``axis`` (query or gallery), ``index`` (row or column of the matrix, from 0), and ``picture``, ``concept``,
    ``subject``. A gallery of class centres leaves ``picture`` empty.

    Raises
    ------
    ValueError
        Every row and column must be described once, by a picture or a concept.
    """
    table = _table(uri, *IDS)
    index = table.whole("index")
    parts: dict[str, dict[int, int]] = {"query": {}, "gallery": {}}
    for row, axis in enumerate(table["axis"]):
        if axis not in parts:
            raise ValueError(f"{table.where('axis', row)}: must be query or gallery, got '{axis}'.")
        size = shape[0] if axis == "query" else shape[1]
        if index[row] >= size:
            raise ValueError(f"{table.where('index', row)}: must be below the {size} of the matrix, got {index[row]}.")
        if index[row] in parts[axis]:
            raise ValueError(f"{table.where('index', row)}: {axis} {index[row]} is described twice.")
        parts[axis][index[row]] = row
    for axis, size in (("query", shape[0]), ("gallery", shape[1])):
        missing = sorted(set(range(size)) - set(parts[axis]))
        if missing:
            raise ValueError(
                f"{uri}, column 'index': {axis} {missing[0]} of the matrix has no row ({len(missing)} such)."
            )

    def column(axis: str, name: str) -> tuple[str, ...]:
        if name not in table:
            return ("",) * len(parts[axis])
        return tuple(table[name][parts[axis][i]] for i in range(len(parts[axis])))

    ids = Ids(
        column("query", "picture"),
        column("query", "concept"),
        column("query", "subject"),
        column("gallery", "picture"),
        column("gallery", "concept"),
    )
    for axis, pictures, concepts in (
        ("query", ids.query_picture, ids.query_concept),
        ("gallery", ids.gallery_picture, ids.gallery_concept),
    ):
        for i, (picture, concept) in enumerate(zip(pictures, concepts, strict=True)):
            if not picture and not concept:
                raise ValueError(
                    f"{table.where('picture', parts[axis][i])}: needs a picture or a concept, got neither."
                )
        subjects = ids.query_subject if axis == "query" else ()
        for name, values in (("picture", pictures), ("concept", concepts), ("subject", subjects)):
            # Class centres have no picture; half of them having one is a mistake in the file.
            empty = [i for i, value in enumerate(values) if not value]
            if empty and len(empty) < len(values):
                raise ValueError(
                    f"{table.where(name, parts[axis][empty[0]])}: must be given for all of the {axis} or for none."
                )
    return ids


def read_predictions(uri: str) -> tuple[tuple[Prediction, ...], tuple[str, ...]]:
    """Read a third party's answers: one row for each query and candidate named.

    Columns: ``query``, ``candidate``; ``rank`` (1 is best) or ``score`` (higher is better) where several candidates are
    named; ``shown`` (the right candidate; the query id where the column is missing); ``subject``; ``assignment`` (the
    candidate a one-to-one assignment gave).

    Returns
    -------
    Predictions in the order of the file, and columns that were not read.
    """
    table = _table(uri, *PREDICTIONS)
    query, candidate = table.filled("query"), table.filled("candidate")
    rows: dict[tuple[str, str], list[int]] = {}
    subject = table["subject"] if "subject" in table else ("",) * len(table)
    for row, key in enumerate(zip(subject, query, strict=True)):
        rows.setdefault(key, []).append(row)
    by: list[float] | None = None
    column = next((name for name in ("rank", "score") if name in table), "")
    if column == "rank":
        by = [float(rank) for rank in table.whole("rank")]
    elif column == "score":
        by = [-score for score in table.numbers("score")]
    found = []
    for (person, name), mine in rows.items():
        if len(mine) > 1 and by is None:
            raise ValueError(
                f"{table.where('query', mine[1])}: query '{name}' has several candidates, so a column 'rank' or "
                "'score' must say which is best."
            )
        order = sorted(mine, key=lambda row: 0.0 if by is None else by[row])
        for before, after in pairwise(order):
            if by is not None and by[before] == by[after]:
                raise ValueError(
                    f"{table.where(column, after)}: query '{name}' has two candidates of the same {column}; give ranks "
                    "that decide."
                )
        ranked = tuple(candidate[row] for row in order)
        if len(set(ranked)) < len(ranked):
            twice = next(row for i, row in enumerate(order) if candidate[row] in ranked[:i])
            raise ValueError(f"{table.where('candidate', twice)}: query '{name}' names '{candidate[twice]}' twice.")
        told = {}
        for fact in ("shown", "assignment"):
            values = {table[fact][row] for row in mine} - {""} if fact in table else set()
            if len(values) > 1:
                raise ValueError(f"{table.where(fact, mine[1])}: query '{name}' must have one {fact}, got several.")
            told[fact] = next(iter(values), "")
        if "shown" in table and not told["shown"]:
            raise ValueError(f"{table.where('shown', mine[0])}: must not be empty.")
        found.append(Prediction(name, person, told["shown"] or name, ranked, told["assignment"], tuple(order)))
    given = sum(bool(p.assignment) for p in found)
    if 0 < given < len(found):
        bare = next(p for p in found if not p.assignment)
        row = rows[bare.subject, bare.query][0]
        raise ValueError(f"{table.where('assignment', row)}: must be given for every query or for none.")
    named = {c for p in found for c in p.ranked}
    if "shown" not in table and not named & set(query):
        raise ValueError(
            f"{uri}, column 'query', row 1: '{query[0]}' is no candidate of any query, so the right answers are not "
            "known. Give them in a column 'shown'."
        )
    return tuple(found), table.unread


def read_split(uri: str) -> Table:
    """Read which trial, picture or concept is in which split; see `SPLIT` for the columns."""
    table = _table(uri, *SPLIT)
    table.filled("split")
    known = [name for name in SPLIT[1] if name in table]
    if not {"picture", "concept", "run"} & set(known):
        raise ValueError(
            f"{uri}, row 1: needs a column picture, concept or run beside split, got {list(table.columns)}."
        )
    for name in known:
        table.filled(name)
    if len(set(table["split"])) < 2:
        raise ValueError(
            f"{uri}, column 'split', row 1: must name at least two splits, got '{table['split'][0]}' only."
        )
    return table


def read_steps(uri: str) -> tuple[Steps, tuple[str, ...]]:
    """Read scores by step (or epoch number); columns ``step`` or ``epoch``, ``test``, and ``val``, ``train``."""
    table = _table(uri, *STEPS)
    by = next((name for name in ("step", "epoch") if name in table), None)
    if by is None or "test" not in table:
        raise ValueError(f"{uri}, row 1: needs columns step (or epoch) and test, got {list(table.columns)}.")
    step = table.numbers(by)
    for row in range(1, len(step)):
        if step[row] <= step[row - 1]:
            raise ValueError(f"{table.where(by, row)}: must be above the row before, got {step[row]:g}.")
    val = tuple(table.shares("val")) if "val" in table else None
    return Steps(tuple(step), val, tuple(table.shares("test"))), table.unread


def _table(uri: str, required: Sequence[str], optional: Sequence[str]) -> Table:
    try:
        text = _bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: must be UTF-8 text, byte {error.start} is not.") from None
    header, rows = _json_rows(uri, text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(uri, text)
    names = [name.strip().lower() for name in header]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{uri}, column '{name}', row 0 (the header): is there twice.")
    for name in required:
        if name not in names:
            raise ValueError(f"{uri}, column '{name}', row 0 (the header): is missing, the columns are {names}.")
    if not rows:
        raise ValueError(f"{uri}, row 1: a table needs at least one row, got none.")
    wanted = [*required, *optional]
    columns = {name: tuple(row[i].strip() for row in rows) for i, name in enumerate(names) if name in wanted}
    if not columns:
        raise ValueError(f"{uri}, row 0 (the header): needs some of the columns {wanted}, got {names}.")
    return Table(uri, columns, tuple(name for name in names if name not in wanted))


def _csv_rows(uri: str, text: str) -> tuple[list[str], list[list[str]]]:
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(f"{uri}: must be comma-separated text: {error}.") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ValueError(f"{uri}, row 0 (the header): the file is empty.")
    header, rows = lines[0], lines[1:]
    for at, row in enumerate(rows):
        if len(row) != len(header):
            column = header[min(len(row), len(header) - 1)]
            raise ValueError(
                f"{uri}, column '{column}', row {at + 1}: must have {len(header)} cells like the header, got "
                f"{len(row)}."
            )
    return header, rows


def _json_rows(uri: str, text: str) -> tuple[list[str], list[list[str]]]:
    try:
        listed = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{uri}: must be JSON: {error}.") from None
    if not isinstance(listed, list):
        raise ValueError(f"{uri}: must be a list of objects, one a row, got {type(listed).__name__}.")
    header: list[str] = []
    for at, row in enumerate(listed):
        if not isinstance(row, dict):
            raise ValueError(f"{uri}, row {at + 1}: must be an object, got {type(row).__name__}.")
        header.extend(name for name in row if name not in header)
    rows = []
    for at, row in enumerate(listed):
        cells = []
        for name in header:
            value = row.get(name, "")
            if isinstance(value, dict | list | bool):
                raise ValueError(f"{uri}, column '{name}', row {at + 1}: must be text or a number, got {value!r:.40}.")
            cells.append("" if value is None else str(value))
        rows.append(cells)
    return header, rows


def _bytes(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except OSError as error:
        raise ValueError(f"{uri}: can not be read: {error}") from None
