"""The audit on published similarity matrices: their own scores, no suspicion of greedy answers, assignment seen."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegdecode.evaluate.audit import audit


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def files(folder: Path, scores_QG: np.ndarray, first_Q: np.ndarray) -> dict[str, str]:
    n = len(scores_QG)
    np.save(folder / "scores.npy", scores_QG)
    rows = [{"axis": axis, "index": i, "picture": f"p{i}"} for axis in ("query", "gallery") for i in range(n)]
    answers = [{"query": f"p{q}", "candidate": f"p{g}"} for q, g in enumerate(first_Q.tolist())]
    return {
        "scores": str(folder / "scores.npy"),
        "ids": write(folder / "ids.csv", rows),
        "predictions": write(folder / "answers.csv", answers),
    }


def test_square_matrix(golden: Callable[[str], Any], tmp_path: Path) -> None:
    case = golden("retrieval_square")
    scores_QG, facts = case["input.similarity"].numpy(), case.facts["scalars"]
    honest = audit(**files(tmp_path, scores_QG, scores_QG.argmax(1)))
    assert honest.findings == ()
    by_name = {score.name: score.value for score in (*honest.readings, *honest.transductive)}
    assert by_name["picture, greedy top-1"] == pytest.approx(facts["top1_count"] / 200)
    assert by_name["picture, greedy top-5"] == pytest.approx(facts["top5_count"] / 200)
    assert by_name["answers, greedy top-1"] == pytest.approx(facts["top1_count"] / 200)
    assert by_name["transductive_hungarian_top1"] == pytest.approx(facts["hungarian_top1_count"] / 200)
    assigned = case["expected.hungarian_assignment"].numpy()
    found = audit(**files(tmp_path, scores_QG, assigned), reported=facts["hungarian_top1_count"] / 200)
    assert [finding.kind for finding in found.findings] == ["assignment", "assignment", "reported"]
    assert {score.name for score in found.readings} == {"picture, greedy top-1", "picture, greedy top-5"}


@pytest.mark.parametrize("rule", ["row_zscore", "softmax", "none"])
def test_strong_ensembles_are_not_suspected_for_being_strong(
    rule: str, golden: Callable[[str], Any], tmp_path: Path
) -> None:
    """Up to 57 of 60 right, so nearly all answers differ by themselves."""
    scores_QG = golden("retrieval_ensemble")[f"expected.{rule}"].numpy()
    assert audit(**files(tmp_path, scores_QG, scores_QG.argmax(1))).findings == ()


def test_csls_leaves_no_mark_but_sinkhorn_does(golden: Callable[[str], Any], tmp_path: Path) -> None:
    case = golden("retrieval_transductive")
    kinds = {}
    for name in ("cosine", "csls.k10", "sinkhorn"):
        scores_QG = case[f"expected.{name}"].numpy()
        kinds[name] = [finding.kind for finding in audit(**files(tmp_path, scores_QG, scores_QG.argmax(1))).findings]
    # Column sums give Sinkhorn away, and so do its best candidates, in the matrix and in the answers.
    assert kinds == {"cosine": [], "csls.k10": [], "sinkhorn": ["test set statistics", "assignment", "assignment"]}
