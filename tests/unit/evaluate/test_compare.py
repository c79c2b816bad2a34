"""Comparisons of runs: pairs by id, values by simple means, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol
from eegdecode.evaluate import compare_page
from eegdecode.evaluate.compare import Comparison, compare, load_runs, write_comparison
from eegdecode.evaluate.decisions import Decisions, decisions, digest_of, load_decisions, write_decisions
from eegdecode.evaluate.report import DataFact, Report, write_report
from eegdecode.evaluate.retrieval import repetition_point, retrieval_report, score_matrix

N = 40
PICTURES = [f"pic-{i:02d}" for i in range(N)]


def made(
    recipe: str, noise: float, *, protocol: dict[str, Any] | None = None, order: Any = None, gallery: int = N
) -> tuple[Report, Decisions]:
    """A run of two subjects over 40 pictures, 20 concepts, that differs from others in noise alone."""
    rng = np.random.default_rng(len(recipe))
    target_GD = np.random.default_rng(0).normal(size=(N, 24))
    z_QD = np.concatenate([target_GD + noise * rng.normal(size=target_GD.shape) for _ in range(2)])
    shown_Q, subject_Q = np.array(PICTURES * 2), np.array(["s1"] * N + ["s2"] * N)
    rows = np.arange(2 * N) if order is None else order
    keep = np.isin(shown_Q[rows], PICTURES[:gallery])
    rows = rows[keep]
    concept_Q = np.array([f"c{int(p[-2:]) // 2:02d}" for p in shown_Q[rows]])
    scores_QG = score_matrix(z_QD[rows], target_GD[:gallery])
    names, told = PICTURES[:gallery], (shown_Q[rows], subject_Q[rows], concept_Q)
    score = retrieval_report(scores_QG, names, *told, n_permutations=99, seed=1)
    score = score.with_(repetition_curve=(repetition_point(1, scores_QG, names, *told, seed=1),))
    run_id = f"{recipe}-{noise}"
    report = Report(
        recipe=recipe,
        run_id=run_id,
        manifest_digest="ab" * 32,
        protocol=Protocol(**(protocol or {})),
        command="make demo",
        date="2026-11-25",
        data=DataFact(
            source=SourceFact(name="synthetic", licence="none", citation="none", design="rapid", truth="picture"),
            target=TargetFact(tower="gabor", layer="energies", revision="1", preprocessing="none", dim=24),
            channels=("E1",),
            sfreq_hz=100.0,
            tmin_s=0.0,
            n_times=10,
            n_trials=80,
            n_pictures=N,
        ),
        retrieval=score,
    )
    return report, decisions(
        scores_QG, names, *told, run_id=run_id, trial_N=list(map("".join, zip(*told[:2], strict=True)))
    )


def test_decisions_are_the_hits_of_the_report_and_come_back(tmp_path: Path) -> None:
    scores_QG = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 1.0, 0.0]])
    found = decisions(
        scores_QG, ["a", "b", "c"], np.array(["a", "c", "b"]), np.array(["s"] * 3), np.array(["x", "y", "z"]),
        run_id="r-1", trial_N=["t2", "t1"],
    )  # fmt: skip
    assert found.named == ("a", "b", "a")
    assert found.top1 == (1.0, 0.0, 0.5)
    assert found.top5 == (1.0, 1.0, 1.0)
    assert found.test_digest == digest_of(["t1", "t2"]) != digest_of(["t1", "t1", "t2"])
    write_decisions(str(tmp_path), found)
    assert load_decisions(str(tmp_path)) == found
    with pytest.raises(ValueError, match=r"must hold decisions\.json"):
        load_decisions(str(tmp_path / "none"))


def test_differences_are_paired_by_id_whatever_the_order_of_rows() -> None:
    order = np.random.default_rng(5).permutation(2 * N)
    good, bad = made("good", 2.0), made("lesser", 5.0)
    straight = compare({"a": good, "b": bad})
    shuffled = compare({"a": good, "b": made("lesser", 5.0, order=order)})
    assert good[1].picture != made("lesser", 5.0, order=order)[1].picture
    (test,), (again,) = straight.concepts, shuffled.concepts
    assert test == again
    hit_SQ = [np.array(answers.top1).reshape(2, N // 2, 2).mean(axis=(0, 2)) for _, answers in (good, bad)]
    difference_U = np.round(hit_SQ[0] - hit_SQ[1], 12)
    assert test.n_pairs == N // 2
    assert test.mean_difference == pytest.approx(straight.runs[0].score.top1 - straight.runs[1].score.top1)
    assert test.mean_difference == pytest.approx(difference_U.mean())
    kept_U = difference_U[difference_U != 0]
    assert test.p == pytest.approx(stats.wilcoxon(kept_U, method="asymptotic").pvalue)
    low, high = test.ci95_difference
    assert 0 < low < test.mean_difference < high
    (people,) = straight.subjects
    assert people.n_pairs == 2
    assert people.smallest_p == pytest.approx(0.5)


def test_holm_counts_every_pair_and_against_makes_the_family_smaller() -> None:
    runs = {"a": made("good", 2.0), "b": made("lesser", 4.0), "c": made("least so", 8.0)}
    every = compare(runs)
    assert [(t.first, t.second) for t in every.concepts] == [
        ("good", "lesser"), ("good", "least so"), ("lesser", "least so")
    ]  # fmt: skip
    least = min(every.concepts, key=lambda t: t.p)
    assert least.p_holm == pytest.approx(min(1, 3 * least.p))
    for against in ("c", "least so"):
        fewer = compare(runs, against=against)
        assert [(t.first, t.second) for t in fewer.concepts] == [("good", "least so"), ("lesser", "least so")]
        assert min(fewer.concepts, key=lambda t: t.p).p_holm == pytest.approx(2 * min(t.p for t in fewer.concepts))


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"protocol": {"test_repetitions": 1}}, r"protocol\.test_repetitions"),
        ({"protocol": {"gallery": "concept"}}, r"protocol\.gallery"),
        ({"protocol": {"seed": 3}}, r"protocol\.seed"),
        ({"gallery": 38}, r"retrieval\.n_way"),
    ],
)
def test_runs_under_another_protocol_are_refused(other: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"agree in {field} .* different questions"):
        compare({"a": made("good", 2.0), "b": made("lesser", 5.0, **other)})


@pytest.mark.parametrize("field", ["gallery_digest", "test_digest"])
def test_another_gallery_or_test_part_of_the_same_size_is_refused(field: str) -> None:
    report, answers = made("lesser", 5.0)
    changed = answers.model_copy(update={field: digest_of(["other"])})
    with pytest.raises(ValueError, match=f"agree in {field} "):
        compare({"a": made("good", 2.0), "b": (report, changed)})


def test_averaged_queries_against_single_trials_are_refused_though_the_protocol_says_the_same() -> None:
    report, answers = made("lesser", 5.0)
    assert report.retrieval is not None
    averaged = report.with_section(retrieval=report.retrieval.with_(repetitions=12.0))
    with pytest.raises(ValueError, match=r"agree in retrieval\.repetitions .* got 1\.0 in a and 12\.0 in b"):
        compare({"a": made("good", 2.0), "b": (averaged, answers)})


def test_more_permutations_do_not_make_another_question() -> None:
    found = compare({"a": made("good", 2.0), "b": made("lesser", 5.0, protocol={"permutations": 50})})
    assert len(found.concepts) == 1


def test_decisions_of_another_report_and_one_run_twice_are_refused() -> None:
    good, bad = made("good", 2.0), made("lesser", 5.0)
    with pytest.raises(ValueError, match="must be of the report beside it"):
        compare({"a": good, "b": (bad[0], good[1])})
    with pytest.raises(ValueError, match="two places hold the report of one run"):
        compare({"a": good, "b": good})
    with pytest.raises(ValueError, match="at least 2 runs"):
        compare({"a": good})
    with pytest.raises(ValueError, match="only retrieval"):
        compare({"a": good, "b": (bad[0].with_section(retrieval=None), bad[1])})
    with pytest.raises(ValueError, match="given once"):
        load_runs(["a", "a"])


def test_runs_of_one_recipe_are_told_apart_by_their_ids() -> None:
    found = compare({"a": made("good", 2.0), "b": made("good", 5.0)})
    assert [run.name for run in found.runs] == ["good-2.0", "good-5.0"]


def test_folders_become_a_page_and_a_json_that_reads_back(tmp_path: Path) -> None:
    for name, noise in (("good", 2.0), ("lesser", 5.0)):
        report, answers = made(name, noise)
        write_report(str(tmp_path / name), report)
        write_decisions(str(tmp_path / name), answers)
    found = compare(load_runs([str(tmp_path / "good"), str(tmp_path / "lesser")]))
    write_comparison(str(tmp_path / "out"), found)
    assert Comparison.model_validate_json((tmp_path / "out" / "compare.json").read_text()) == found
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["schema_version"] == 1
    page = (tmp_path / "out" / "compare.html").read_text()
    for text in ("<h2>Scores</h2>", "paired by concept", "paired by subject", "permutation p", "p, Holm"):
        assert text in page
    assert page.count("data:image/png;base64,") == 2
    assert "<script" not in page
    assert 'src="http' not in page
    assert compare_page.headline(found.model_dump(mode="json")).startswith("good is highest with top-1 ")
