"""Read somebody else's numbers again: what kind of score is it, and what would be left of it under honest rules.

Takes a similarity matrix, a third party's answers, a description of a split or scores by step, in any combination, and
says what it found. A finding is a sign, not a proof: the sentence says what the files are consistent with. Nothing here
trains, and nothing needs Ray or torch.
"""

import hashlib

from eegdecode import storage
from eegdecode.evaluate import audit_page
from eegdecode.evaluate.audit_design import audit_reported, audit_split, audit_steps
from eegdecode.evaluate.audit_facts import Audit, Found, Reading
from eegdecode.evaluate.audit_files import read_ids, read_matrix, read_predictions, read_split, read_steps
from eegdecode.evaluate.audit_scores import Matrix, audit_matrix, audit_predictions
from eegdecode.evaluate.transductive import TransductiveScore


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
    found = Found()
    matrix = None
    if scores is not None and ids is not None:
        scores_QG = read_matrix(scores)
        matrix = Matrix(ids, scores_QG, read_ids(ids, (scores_QG.shape[0], scores_QG.shape[1])))
        audit_matrix(matrix, found, seed)
    if predictions is not None:
        answers, unread = read_predictions(predictions)
        found.unread(predictions, unread)
        audit_predictions(predictions, answers, matrix, found, seed)
    if split is not None:
        table = read_split(split)
        found.unread(split, table.unread)
        audit_split(table, found)
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
        selection = audit_steps(course, n_queries, n_way, reported, found)
    if reported is not None:
        audit_reported(reported, selection, found)
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
