"""Planted faults are found and named, clean files yield nothing, bad files are refused in one sentence."""

import csv
import json
import pickle
import re
import subprocess
import sys
from itertools import product
from math import log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eegdecode.evaluate import audit_scores
from eegdecode.evaluate.audit import Audit, audit, write_audit
from eegdecode.evaluate.transductive import transductive_assignment, transductive_sinkhorn

ROOT = Path(__file__).resolve().parents[3]
N = 60
PICTURES = [f"pic-{i:03d}" for i in range(N)]
CONCEPTS = [f"con-{i // 2:03d}" for i in range(N)]
Row = dict[str, Any]


def noisy(seed: int = 0, noise: float = 1.0) -> np.ndarray:
    return 2.2 * np.eye(N) + noise * np.random.default_rng(seed).normal(size=(N, N))


def table(path: Path, rows: list[Row]) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def matrix(folder: Path, scores_QG: np.ndarray, name: str = "scores.npy") -> str:
    np.save(folder / name, scores_QG)
    return str(folder / name)


def ids(folder: Path, gallery: list[str] | None = None, n_subjects: int = 1, name: str = "ids.csv") -> str:
    gallery = PICTURES if gallery is None else gallery
    concept = dict(zip(PICTURES, CONCEPTS, strict=True))
    rows: list[Row] = []
    for i in range(N * n_subjects):
        rows.append({"axis": "query", "index": i, "picture": PICTURES[i % N], "concept": CONCEPTS[i % N],
                     "subject": f"sub-{i // N}"})  # fmt: skip
    for i, picture in enumerate(gallery):
        rows.append({"axis": "gallery", "index": i, "picture": picture, "concept": concept[picture], "subject": ""})
    # The order of the table decides nothing.
    return table(folder / name, [rows[i] for i in np.random.default_rng(5).permutation(len(rows))])


def answers(folder: Path, first: np.ndarray, name: str = "answers.csv") -> str:
    rows = [{"query": q, "candidate": PICTURES[g], "subject": "sub-0"} for q, g in zip(PICTURES, first, strict=True)]
    return table(folder / name, rows)


def trials(parts: dict[str, list[tuple[str, str, str, str, str, str]]]) -> list[Row]:
    names = ("subject", "session", "run", "picture", "concept", "repetition")
    return [{"split": split} | dict(zip(names, row, strict=True)) for split, rows in parts.items() for row in rows]


def clean_split() -> list[Row]:
    """Own runs, concepts and pictures on each side, two concepts a run."""
    parts: dict[str, list[tuple[str, str, str, str, str, str]]] = {}
    for s, split in enumerate(("train", "val", "test")):
        parts[split] = [
            ("sub-01", "ses-1", f"run-{2 * s + r}", f"p{s}-{c}-{i}", f"c{s}-{c}", str(k))
            for r, c, i, k in product(range(2), range(3), range(2), range(2))
            if k == r
        ]
    return trials(parts)


def course(best: int = 9) -> list[Row]:
    test = [0.1 + 0.03 * i - 0.04 * max(0, i - best) for i in range(10)]
    return [
        {"epoch": i, "train": round(0.2 + 0.05 * i, 3), "val": round(0.1 + 0.03 * i, 3), "test": round(test[i], 3)}
        for i in range(10)
    ]


def kinds(found: Audit) -> list[tuple[str, str]]:
    return [(finding.kind, finding.severity) for finding in found.findings]


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_clean_files_yield_nothing(tmp_path: Path, suffix: str) -> None:
    scores_QG = noisy()
    found = audit(
        scores=matrix(tmp_path, scores_QG),
        ids=ids(tmp_path, name=f"ids.{suffix}"),
        predictions=answers(tmp_path, scores_QG.argmax(1), f"answers.{suffix}"),
        split=table(tmp_path / f"split.{suffix}", clean_split()),
        steps=table(tmp_path / f"steps.{suffix}", course()),
        reported=float((scores_QG.argmax(1) == np.arange(N)).mean()),
    )
    assert found.findings == ()
    greedy = (scores_QG.argmax(1) == np.arange(N)).mean()
    by_name = {(r.name, r.source.rsplit("/")[-1]): r for r in found.readings}
    top1 = by_name["picture, greedy top-1", "matrix"]
    assert top1.value == pytest.approx(greedy)
    assert (top1.chance, top1.n_way, top1.n_queries) == (pytest.approx(1 / N), N, N)
    assert by_name["answers, greedy top-1", f"answers.{suffix}"].value == pytest.approx(greedy)
    concept = by_name["concept, greedy top-1", "matrix"]
    assert concept.value == pytest.approx((scores_QG.argmax(1) // 2 == np.arange(N) // 2).mean())
    assert concept.chance == pytest.approx(2 / N)
    assert all(r.ci95[0] <= r.value <= r.ci95[1] for r in (*found.readings, *found.transductive))
    assert all(0 < r.chance < 1 for r in (*found.readings, *found.transductive))
    assert all(score.name.startswith("transductive_") for score in found.transductive)
    assert found.gallery is not None
    assert (found.gallery.kind, found.gallery.n_duplicates) == ("the pictures shown", 0)
    assert all(overlap.n == 0 for overlap in found.overlaps)
    assert {overlap.of for overlap in found.overlaps} == {"concept", "picture", "repetition", "run", "trial"}


def test_assignment_is_seen_from_answers_alone(tmp_path: Path) -> None:
    scores_QG = noisy(noise=1.2)
    assigned = transductive_assignment(scores_QG)
    reported = float((assigned == np.arange(N)).mean())
    found = audit(predictions=answers(tmp_path, assigned))
    assert kinds(found) == [("assignment", "changes the score")]
    assert "60 of 60 first answers are different candidates" in found.findings[0].says
    assert "consistent with one-to-one assignment (Hungarian)" in found.findings[0].says
    (sign,) = found.one_to_one
    assert sign.log10_p is not None
    assert sign.log10_p < -6
    assert sign.p == pytest.approx(1 / 10_000)
    # Such answers have no inductive score.
    assert found.readings == ()
    assert [score.name for score in found.transductive] == ["transductive_answers_top1"]
    assert found.transductive[0].value == pytest.approx(reported)
    claimed = audit(predictions=answers(tmp_path, assigned), reported=reported)
    assert kinds(claimed)[-1] == ("reported", "changes the score")
    # With the matrix it is named, and so is the claim.
    found = audit(
        scores=matrix(tmp_path, scores_QG),
        ids=ids(tmp_path),
        predictions=answers(tmp_path, assigned),
        reported=reported,
    )
    says = " ".join(finding.says for finding in found.findings)
    greedy = int((scores_QG.argmax(1) == assigned).sum())
    assert f"Hungarian) assignment of the matrix in 60 of 60 queries, its best candidates in {greedy}" in says
    value = next(s.value for s in found.transductive if s.name == "transductive_hungarian_top1")
    assert value == pytest.approx(reported)


def test_a_claim_is_traced_to_the_transductive_reading(tmp_path: Path) -> None:
    scores_QG = noisy()
    reported = float((transductive_assignment(scores_QG) == np.arange(N)).mean())
    given = {"scores": matrix(tmp_path, scores_QG), "ids": ids(tmp_path)}
    found = audit(**given, reported=round(reported, 3))
    assert kinds(found) == [("reported", "changes the score")]
    greedy = (scores_QG.argmax(1) == np.arange(N)).mean()
    says = found.findings[0].says
    assert re.search(r"is transductive_\w+_top\d, which is not inductive; picture, greedy top-1 \(matrix\) is ", says)
    assert says.endswith(f"{100 * greedy:.1f} %.")
    assert "transductive_hungarian_top1" in says + " ".join(found.findings[0].examples)
    assert kinds(audit(**given, reported=0.9999)) == [("reported", "notice")]


def test_one_to_one_probability_is_the_count_over_all_answers() -> None:
    for n_queries, n_wrong, n_way in ((4, 2, 4), (4, 3, 4), (3, 3, 5), (4, 2, 6), (3, 1, 3), (5, 0, 5)):
        right = list(range(n_queries - n_wrong))
        others = [[g for g in range(n_way) if g != q] for q in range(n_queries - n_wrong, n_queries)]
        every = list(product(*others))
        differ = sum(len({*right, *wrong}) == n_queries for wrong in every)
        got = audit_scores._log10_all_distinct(n_queries, n_wrong, n_way)
        assert got == (pytest.approx(log10(differ / len(every))) if differ else -np.inf)


def test_independent_ranking_is_rarely_suspected(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    p = []
    for _ in range(60):
        first = rng.integers(N, size=N)
        first[:20] = np.arange(20)
        found = audit(predictions=answers(tmp_path, first))
        assert found.findings == ()
        p.append(found.one_to_one[0].p)
    assert 0.3 < np.mean(p) < 0.8
    # A perfect decoder answers one to one by itself.
    assert audit(predictions=answers(tmp_path, np.arange(N))).findings == ()


def test_declared_assignment_is_scored_under_its_name(tmp_path: Path) -> None:
    scores_QG = noisy(noise=1.2)
    assigned = transductive_assignment(scores_QG)
    order = (-scores_QG).argsort(1)[:, :6]
    rows = [
        {"query": f"q{q}", "shown": PICTURES[q], "candidate": PICTURES[g], "rank": r + 1,
         "assignment": PICTURES[assigned[q]]}
        for q in range(N) for r, g in enumerate(order[q])
    ]  # fmt: skip
    found = audit(predictions=table(tmp_path / "a.csv", rows))
    assert [s.name for s in found.transductive] == ["transductive_declared_assignment_top1"]
    assert found.transductive[0].value == pytest.approx((assigned == np.arange(N)).mean())
    assert kinds(found) == [("assignment", "notice")]
    top5 = next(r for r in found.readings if r.name == "answers, greedy top-5")
    assert top5.value == pytest.approx((order[:, :5] == np.arange(N)[:, None]).any(1).mean())


def test_scores_may_stand_for_ranks_and_subjects_are_apart(tmp_path: Path) -> None:
    rows = [
        {"query": PICTURES[q], "subject": s, "candidate": PICTURES[g], "score": -abs(g - q * (s == "a") - 0.1)}
        for s in "ab" for q in range(20) for g in range(20)
    ]  # fmt: skip
    found = audit(predictions=table(tmp_path / "a.csv", [r for r in rows if r["score"] > -18]))
    top1 = found.readings[0]
    # Subject a is always right; b always names the first picture.
    assert top1.value == pytest.approx((1 + 1 / 20) / 2)
    assert (top1.n_queries, top1.n_way) == (40, 20)


def test_gallery_kinds_and_duplicates(tmp_path: Path) -> None:
    scores_QG = noisy()
    # The last candidate is the first again.
    twice = [*PICTURES[:-1], PICTURES[0]]
    found = audit(scores=matrix(tmp_path, scores_QG), ids=ids(tmp_path, twice))
    assert found.gallery is not None
    assert found.gallery.kind == "some of the pictures shown"
    assert {finding.says.split(" ")[0] for finding in found.findings} == {"1", "The"}
    assert any("'pic-000' is a candidate 2 times" in finding.examples for finding in found.findings)
    same = scores_QG.copy()
    same[:, 7] = same[:, 3]
    found = audit(scores=matrix(tmp_path, same), ids=ids(tmp_path))
    assert kinds(found) == [("gallery", "changes the score")]
    assert "'pic-003' and 'pic-007' (columns 3, 7) score alike everywhere" in found.findings[0].examples
    centres = sorted(set(CONCEPTS))
    rows = [{"axis": "query", "index": i, "picture": PICTURES[i], "concept": CONCEPTS[i]} for i in range(N)]
    rows += [{"axis": "gallery", "index": i, "picture": "", "concept": c} for i, c in enumerate(centres)]
    found = audit(scores=matrix(tmp_path, scores_QG[:, ::2]), ids=table(tmp_path / "c.csv", rows))
    assert found.gallery is not None
    assert (found.gallery.kind, found.gallery.n_candidates) == ("class centres", 30)
    assert [r.name for r in found.readings] == ["concept, greedy top-1", "concept, greedy top-5"]
    assert found.findings == ()
    others = [{**row, "picture": f"other-{i}"} if row["axis"] == "gallery" else row for i, row in enumerate(rows)]
    found = audit(scores=matrix(tmp_path, scores_QG[:, ::2]), ids=table(tmp_path / "c.csv", others))
    assert found.gallery is not None
    assert found.gallery.kind == "other pictures"


@pytest.mark.parametrize("how", ["sinkhorn", "z-score"])
def test_columns_normalised_over_queries_are_seen(tmp_path: Path, how: str) -> None:
    scores_QG = noisy()
    if how == "sinkhorn":
        changed = transductive_sinkhorn(scores_QG / 10)
    else:
        changed = (scores_QG - scores_QG.mean(0)) / scores_QG.std(0)
    found = audit(scores=matrix(tmp_path, changed), ids=ids(tmp_path))
    assert kinds(found)[0] == ("test set statistics", "changes the score")
    assert ("Sinkhorn" if how == "sinkhorn" else "standardising over the test queries") in found.findings[0].says
    assert found.readings == ()
    value = next(score.value for score in found.transductive if score.name == "transductive_picture_top1")
    assert value == pytest.approx((changed.argmax(1) == np.arange(N)).mean())


def test_selection_on_test_is_measured(tmp_path: Path) -> None:
    steps = table(tmp_path / "steps.csv", course(best=6))
    found = audit(steps=steps, n_queries=200, n_way=200)
    assert kinds(found) == [("selection", "notice")]
    chosen = found.selection
    assert chosen is not None
    assert chosen.best_step == 6
    assert chosen.validation_step == 9
    assert chosen.best.value == pytest.approx(0.28)
    assert chosen.gain_over_last == pytest.approx(0.28 - 0.25)
    assert chosen.gain_over_validation == pytest.approx(0.28 - 0.25)
    # 56 of 200, exact binomial.
    assert chosen.best.ci95 == pytest.approx((0.219, 0.348), abs=0.001)
    assert chosen.best.chance == 1 / 200
    claimed = audit(steps=steps, n_queries=200, n_way=200, reported=0.28)
    assert kinds(claimed) == [("selection", "changes the score")]
    assert "The reported score is that of the best of 10 test scores, 28.0 %: +3.0 points over the last step" in (
        claimed.findings[0].says
    )
    assert audit(steps=steps, n_queries=200, n_way=200, reported=0.25).findings == ()
    with pytest.raises(ValueError, match="say --n-queries and --n-way"):
        audit(steps=steps)


OVERLAPS: dict[str, tuple[tuple[str, str, str, str, str, str], dict[str, str]]] = {
    # What is added to test, against ("sub-01", "ses-1", "run-0", "p0-0-0", "c0-0", "0") of train; what is found.
    "concept": (("sub-01", "ses-1", "run-9", "new", "c0-0", "0"), {"concept": "c0-0"}),
    "picture": (("sub-02", "ses-1", "run-9", "p0-0-0", "c0-0", "7"), {"concept": "c0-0", "picture": "p0-0-0"}),
    "repetition": (
        ("sub-01", "ses-2", "run-9", "p0-0-0", "c0-0", "7"),
        {"concept": "c0-0", "picture": "p0-0-0", "repetition": "sub-01 p0-0-0: repetitions 7 in test; 0, 1 in train"},
    ),
    "run": (("sub-01", "ses-1", "run-0", "new", "new", "0"), {"run": "sub-01 ses-1 run-0"}),
    "trial": (
        ("sub-01", "ses-1", "run-0", "p0-0-0", "c0-0", "0"),
        {"concept": "c0-0", "picture": "p0-0-0", "repetition": "sub-01 p0-0-0", "run": "sub-01 ses-1 run-0",
         "trial": "sub-01 ses-1 run-0 p0-0-0 0"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", OVERLAPS)
def test_overlap_is_counted_and_named(tmp_path: Path, planted: str) -> None:
    row, expected = OVERLAPS[planted]
    rows = clean_split() + trials({"test": [row]})
    found = audit(split=table(tmp_path / "split.csv", rows))
    shared = {overlap.of: overlap for overlap in found.overlaps if overlap.n}
    assert shared.keys() == expected.keys()
    for what, start in expected.items():
        assert shared[what].between == ("test", "train")
        assert shared[what].n == 1
        assert any(start in example for example in shared[what].examples)
    assert len(found.findings) == len(expected)
    grave = {f.severity for f in found.findings}
    assert grave == ({"notice"} if planted == "run" else grave | {"changes the score"})


def test_overlap_between_train_and_val_is_a_notice_and_missing_columns_are_told(tmp_path: Path) -> None:
    rows = [{"split": s, "picture": p, "concept": c} for s, p, c in
            (("train", "a", "x"), ("val", "b", "x"), ("test", "c", "y"), ("test", "c", "z"))]  # fmt: skip
    found = audit(split=table(tmp_path / "split.csv", rows))
    assert kinds(found) == [("overlap", "notice"), ("overlap", "notice")]
    assert "1 concept is in train and in val" in found.findings[0].says
    assert found.findings[1].examples == ("c: y, z",)
    assert {line.split(": ")[1].split(" ")[0] for line in found.not_checked} == {"repetitions", "runs", "trials"}


def test_block_design_split_at_random_is_named(tmp_path: Path) -> None:
    rows = trials(
        {
            split: [
                ("sub-01", "ses-1", f"run-{c}", f"{split}-{c}-{i}", f"c{c}", "0") for c in range(4) for i in range(3)
            ]
            for split in ("train", "test")
        }
    )
    found = audit(split=table(tmp_path / "split.csv", rows))
    assert ("block design", "changes the score") in kinds(found)
    assert any("telling the run tells the concept" in finding.says for finding in found.findings)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no files": ({}, "needs scores, predictions, a split or steps"),
    "matrix alone": ({"scores": b""}, "come together"),
    "no such file": ({"predictions": None}, r"predictions\.csv: can not be read"),
    "not utf-8": ({"predictions": b"query,candidate\n\xff,b\n"}, "must be UTF-8 text, byte 16 is not"),
    "no column": ({"predictions": b"query,answer\na,b\n"}, r"column 'candidate', row 0 \(the header\): is missing"),
    "no rows": ({"predictions": b"query,candidate\n"}, r"\.csv, row 1: a table needs at least one row"),
    "empty": ({"predictions": b""}, "the file is empty"),
    "short row": ({"predictions": b"query,candidate\na,b\nc\n"}, r"column 'candidate', row 2: must have 2 cells"),
    "empty cell": ({"predictions": b"query,candidate\na,b\nc,\n"}, r"column 'candidate', row 2: must not be empty"),
    "twice": ({"predictions": b"query,candidate\na,b\na,c\n"}, r"column 'query', row 2: query 'a' has several"),
    "tied": ({"predictions": b"query,candidate,score\na,b,1\na,c,1\n"}, r"column 'score', row 2: query 'a' has two"),
    "named twice": ({"predictions": b"query,candidate,rank\na,b,1\na,b,2\n"}, r"column 'candidate', row 2: .* twice"),
    "bad rank": ({"predictions": b"query,candidate,rank\na,b,first\n"}, r"column 'rank', row 1: must be a whole"),
    "nan score": ({"predictions": b"query,candidate,score\na,b,nan\n"}, r"column 'score', row 1: must be a finite"),
    "truth unknown": ({"predictions": b"query,candidate\nq1,b\nq2,c\n"}, r"column 'query', row 1: 'q1' is no"),
    "bad json": ({"predictions": b"[1"}, "must be JSON"),
    "json object": ({"predictions": b'{"a": 1}'}, "must be a list of objects"),
    "nested json": ({"predictions": b'[{"query": "a", "candidate": ["b"]}]'}, r"column 'candidate', row 1: must be"),
    "percent": ({"steps": b"step,test\n1,63.2\n"}, r"column 'test', row 1: .* got 63\.2; divide percent by 100"),
    "back in time": ({"steps": b"step,test\n2,0.1\n1,0.2\n"}, r"column 'step', row 2: must be above the row before"),
    "one split": ({"split": b"split,picture\ntest,a\n"}, r"column 'split', row 1: must name at least two splits"),
    "no unit": ({"split": b"split,subject\ntest,a\ntrain,b\n"}, "needs a column picture, concept or run"),
    "empty picture": ({"split": b"split,picture\ntest,a\ntrain,\n"}, r"column 'picture', row 2: must not be empty"),
    "reported": ({"split": b"split,picture\ntest,a\ntrain,b\n", "reported": 63.2}, "divide percent by 100"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_one_sentence(tmp_path: Path, fault: str) -> None:
    given, said = BAD[fault]
    options: dict[str, Any] = {}
    for name, content in given.items():
        if isinstance(content, float):
            options[name] = content
            continue
        options[name] = str(tmp_path / f"{name}.csv")
        if content is not None:
            Path(options[name]).write_bytes(content)
    if "steps" in options:
        options |= {"n_queries": 200, "n_way": 200}
    with pytest.raises(ValueError, match=said) as refused:
        audit(**options)
    assert "\n" not in str(refused.value)


def test_bad_matrix_and_ids_are_named(tmp_path: Path) -> None:
    good_ids = ids(tmp_path)
    hidden = tmp_path / "hidden.npy"
    np.save(hidden, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    raw = tmp_path / "raw.npy"
    raw.write_bytes(pickle.dumps(noisy()))
    whole = tmp_path / "whole.npy"
    np.save(whole, np.ones((3, 3), int))
    bad = noisy()
    bad[4, 9] = np.nan
    for path, said in (
        (str(hidden), "without pickled objects"),
        (str(raw), "without pickled objects"),
        (str(whole), "must be floats"),
        (matrix(tmp_path, bad, "nan.npy"), r"column 9, row 4 \(both from 0\): must be finite, got nan"),
        (matrix(tmp_path, noisy()[:, :59]), r"column 'index', row \d+: must be below the 59 of the matrix, got 59"),
    ):
        with pytest.raises(ValueError, match=said):
            audit(scores=path, ids=good_ids)
    scores = matrix(tmp_path, noisy())
    rows = list(csv.DictReader(Path(good_ids).read_text().splitlines()))
    for change, said in (
        (rows[1:], r"column 'index': (query|gallery) \d+ of the matrix has no row"),
        ([*rows, rows[0]], r"column 'index', row 121: (query|gallery) \d+ is described twice"),
        ([{**rows[0], "axis": "image"}, *rows[1:]], "column 'axis', row 1: must be query or gallery, got 'image'"),
        (
            [{**rows[0], "picture": "", "concept": ""}, *rows[1:]],
            "column 'picture', row 1: needs a picture or a concept",
        ),
        ([{**rows[0], "picture": ""}, *rows[1:]], "column 'picture', row 1: must be given for all of the"),
    ):
        with pytest.raises(ValueError, match=said):
            audit(scores=scores, ids=table(tmp_path / "bad.csv", change))
    rows = [{"query": q, "shown": q, "candidate": c} for q, c in (("pic-000", "nowhere"), ("pic-001", "pic-001"))]
    strange = table(tmp_path / "p.csv", rows)
    with pytest.raises(ValueError, match=r"column 'candidate', row 1: 'nowhere' is no candidate of the matrix"):
        audit(scores=scores, ids=good_ids, predictions=strange)


def test_subjects_are_assigned_one_by_one(tmp_path: Path) -> None:
    both = np.concatenate([noisy(1, 1.2), noisy(2, 1.2)])
    found = audit(scores=matrix(tmp_path, both), ids=ids(tmp_path, n_subjects=2))
    assert found.findings == ()
    assert found.gallery is not None
    assert found.gallery.queries_per_candidate == 2
    hungarian = next(s for s in found.transductive if s.name == "transductive_hungarian_top1")
    each = [(transductive_assignment(noisy(s, 1.2)) == np.arange(N)).mean() for s in (1, 2)]
    assert hungarian.value == pytest.approx(np.mean(each))
    assert found.one_to_one[0].n_queries == 2 * N


def test_page_is_one_file_and_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    rows = trials(
        {s: [("sub-01", "1", f"r{s}", evil, evil, "0"), ("sub-01", "1", f"r{s}", f"p{s}", f"c{s}", "0")]
         for s in ("train", "test")}
    )  # fmt: skip
    found = audit(
        split=table(tmp_path / "split.csv", rows),
        scores=matrix(tmp_path, noisy()),
        ids=ids(tmp_path),
        steps=table(tmp_path / "steps.csv", course(6)),
        reported=0.28,
    )
    write_audit(str(tmp_path / "out"), found)
    assert Audit.model_validate_json((tmp_path / "out" / "audit.json").read_bytes()) == found
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert not re.findall(r"(?:src|href)=|url\(|@import|https?://", page)
    for score in (*found.readings, *found.transductive):
        assert f"<td>{score.name}" in page
    for finding in found.findings:
        assert finding.says.split("'")[0] in page


def test_the_job_runs_without_ray_and_torch(tmp_path: Path) -> None:
    source = (ROOT / "jobs" / "audit.py").read_text()
    assert len(source.splitlines()) <= 40
    scores, table_ids = matrix(tmp_path, noisy()), ids(tmp_path)
    code = (
        "import sys, runpy\nrunpy.run_path('jobs/audit.py', run_name='__main__')\n"
        "assert not {'ray', 'torch', 'mlflow', 'mne'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    out = str(tmp_path / "out")
    run = subprocess.run(
        [*command, "--scores", scores, "--ids", table_ids, "--out", out, "--reported", "0.9999"],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "notice: The reported 100.0 % is none of the readings" in run.stdout
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["findings"][0]["kind"] == "reported"
    wrong = subprocess.run(
        [*command, "--scores", scores, "--out", out],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "a matrix and its ids come together" in wrong.stderr
