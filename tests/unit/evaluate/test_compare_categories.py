"""Runs of categories against each other: decisions that come back, pairs by person, and what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol
from eegdecode.evaluate.category_decisions import (
    CategoryDecisions,
    division_decisions,
    load_category_decisions,
    write_category_decisions,
)
from eegdecode.evaluate.compare_categories import CategoryComparison, accuracies, aucs, compare_categories
from eegdecode.evaluate.contrast import class_report, contrast_report
from eegdecode.evaluate.decisions import load_decisions
from eegdecode.evaluate.report import DataFact, Report, write_report

ROOT = Path(__file__).resolve().parents[3]
PEOPLE = [f"sub-{k}" for k in range(6)]
CONCEPTS = ("face", "house", "scrambled")
N = 6 * 45
LABELS = ("house", "face")


def made(recipe: str, strength: float, seed: int, **changes: Any) -> tuple[Report, CategoryDecisions]:
    """A run on three categories, of which the contrast is about two, left out by run and by person."""
    shown_N = np.tile(CONCEPTS, N // 3)
    person_N = np.repeat(PEOPLE, 45)
    run_N = np.char.add(person_N, np.where(np.arange(N) % 45 < 24, "-a", "-b"))
    position_N, trial_N = np.arange(N) % 45, np.array([f"t{k:03d}" for k in range(N)])
    picture_N = np.char.add(shown_N, "-1")
    protocol = Protocol(**({"split_by": "run", "also_split_by": ("subject",), "permute": "trials"} | changes))
    rows = np.flatnonzero(shown_N != "scrambled")
    contrasts, classes, divisions = [], [], []
    for by, fold_N in (("run", run_N), ("subject", person_N)):
        rng = np.random.default_rng([seed, len(by)])
        scores_NG = rng.normal(size=(N, 3)) + strength * (shown_N[:, None] == np.array(CONCEPTS))
        odds_N = (scores_NG[:, 0] - scores_NG[:, 1])[rows]
        settings: dict[str, Any] = {"split_by": by, "permute": "trials", "n_permutations": 20, "seed": 0}
        of_two = (shown_N[rows] == "face", fold_N[rows], run_N[rows], position_N[rows])
        contrasts.append(contrast_report(odds_N, *of_two, labels=LABELS, **settings))
        named_N = np.array(CONCEPTS)[scores_NG.argmax(axis=1)]
        classes.append(class_report(named_N, shown_N, fold_N, run_N, position_N, classes=CONCEPTS, **settings))
        told = (trial_N, picture_N, shown_N, fold_N)
        divisions.append(
            division_decisions(scores_NG, CONCEPTS, *told, split_by=by, labels=LABELS, log_odds=(rows, odds_N))
        )
    target = TargetFact(tower="gabor", layer="", revision="", preprocessing="", dim=4)
    source = SourceFact(name="muse_n170", licence="none", citation="none", design="event", truth="class")
    data = DataFact(
        source=source, target=target, channels=("E1",), sfreq_hz=64, tmin_s=0, n_times=1, n_trials=N, n_pictures=3
    )
    report = Report(
        recipe=recipe,
        run_id=f"{recipe}-{seed}",
        manifest_digest="ab" * 32,
        protocol=protocol,
        data=data,
        command="",
        date="2026-11-25",
        contrast=contrasts[0],
        more_contrasts=(contrasts[1],),
        classes=classes[0],
    )
    return report, CategoryDecisions(run_id=report.run_id, divisions=tuple(divisions))


def test_decisions_come_back_and_give_the_scores_of_the_report(tmp_path: Path) -> None:
    report, answers = made("good", 1.0, 0)
    write_category_decisions(str(tmp_path), answers)
    assert load_category_decisions(str(tmp_path)) == answers
    by_run, by_person = answers.divisions
    assert report.contrast is not None
    assert report.classes is not None
    assert aucs(by_run) == pytest.approx(report.contrast.per_fold)
    assert aucs(by_person) == pytest.approx(report.more_contrasts[0].per_fold)
    assert accuracies(by_run) == pytest.approx(report.classes.per_fold)
    assert by_run.log_odds.count(None) == N // 3
    assert by_run.test_digest == by_person.test_digest
    with pytest.raises(ValueError, match="must be decisions of schema 1"):
        load_decisions(str(tmp_path))
    with pytest.raises(ValueError, match=r"must hold decisions\.json"):
        load_category_decisions(str(tmp_path / "none"))


def test_runs_are_paired_by_what_is_left_out_with_holm() -> None:
    runs = {"a": made("good", 1.5, 0), "b": made("lesser", 0.5, 1), "c": made("least", 0.2, 2)}
    found = compare_categories(runs)
    assert [division.split_by for division in found.divisions] == ["run", "subject"]
    for division, unit, n in zip(found.divisions, ("runs", "subjects"), (12, 6), strict=True):
        for tests in (division.auc, division.accuracy):
            assert [(t.first, t.second) for t in tests] == [("good", "lesser"), ("good", "least"), ("lesser", "least")]
            assert {(t.unit, t.n_pairs) for t in tests} == {(unit, n)}
            assert min(t.p_holm for t in tests) == pytest.approx(min(1, 3 * min(t.p for t in tests)))
    test = found.divisions[1].auc[0]
    first, second = (runs[name][0].more_contrasts[0].per_fold for name in "ab")
    difference = [first[who] - second[who] for who in PEOPLE]
    assert test.mean_difference == pytest.approx(np.mean(difference))
    assert test.p == pytest.approx(stats.wilcoxon(difference, method="exact").pvalue)
    one = compare_categories(runs, against="lesser")
    assert [(t.first, t.second) for t in one.divisions[0].auc] == [("good", "lesser"), ("least", "lesser")]


@pytest.mark.parametrize(
    ("change", "field"), [({"n_val": 4}, r"protocol\.n_val"), ({"also_split_by": ()}, r"protocol\.also_split_by")]
)
def test_another_protocol_is_refused_but_not_another_control(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"agree in {field} .* different questions"):
        compare_categories({"a": made("good", 1.0, 0), "b": made("lesser", 0.5, 1, **change)})
    alike = made("lesser", 0.5, 1, permutations=50, control_window_s=(-0.2, 0.0))
    assert len(compare_categories({"a": made("good", 1.0, 0), "b": alike}).runs) == 2


def test_other_trials_and_decisions_of_another_report_are_refused() -> None:
    good, (report, answers) = made("good", 1.0, 0), made("lesser", 0.5, 1)
    by_run, by_person = answers.divisions
    elsewhere = answers.model_copy(update={"divisions": (by_run, by_person.model_copy(update={"test_digest": "0"}))})
    with pytest.raises(ValueError, match=r"agree in test_digest \(subject\)"):
        compare_categories({"a": good, "b": (report, elsewhere)})
    with pytest.raises(ValueError, match="must be of the report beside it"):
        compare_categories({"a": good, "b": (report, good[1].model_copy(update={"run_id": report.run_id}))})
    with pytest.raises(ValueError, match="at least 2 runs"):
        compare_categories({"a": good})


def test_the_job_writes_a_page_and_a_json_that_reads_back(tmp_path: Path) -> None:
    runs = {"good": made("good", 1.5, 0), "lesser": made("lesser", 0.3, 1)}
    for name, (report, answers) in runs.items():
        write_report(str(tmp_path / name), report)
        write_category_decisions(str(tmp_path / name), answers)
    command = [sys.executable, "jobs/compare.py", str(tmp_path / "good"), str(tmp_path / "lesser")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], cwd=ROOT, env={"PYTHONPATH": "."}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("good is highest with AUC ")
    found = CategoryComparison.model_validate_json((tmp_path / "out" / "compare.json").read_text())
    assert found.divisions == compare_categories({str(tmp_path / name): run for name, run in runs.items()}).divisions
    page = (tmp_path / "out" / "compare.html").read_text()
    for text in ("Leave one run out", "Leave one subject out", "Differences in AUC, paired by subjects", "p, Holm"):
        assert text in page
    score = runs["good"][0].contrast
    assert score is not None
    assert f"{score.auc:.3f} ± {score.sd:.3f}" in page
    assert "<script" not in page
