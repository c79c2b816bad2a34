"""Classifiers beside the decoder of two categories: each against the plain way, and what the report says of them."""

import re
from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Protocol
from eegdecode.evaluate.baselines import ContrastBaselines, baselines_beside, classifier_contrast, lda_decider
from eegdecode.evaluate.contrast import ContrastScore, contrast_report
from eegdecode.evaluate.covariance_baselines import RIEMANN, riemann_decisions
from eegdecode.evaluate.page import p_value
from eegdecode.evaluate.report import DataFact, Report, render
from eegdecode.runtime.category_baselines import LDA, MEAN_POWER, TIME_LOCKED, TwoCategories, baseline_contrast
from eegdecode.runtime.tracked_report import scalars

PEOPLE = [f"sub-{k}" for k in range(6)]
XDAWN = next(iter(RIEMANN))


def trials() -> TwoCategories:
    """Trials of six people whose positive category has a response of its own, and a little more power."""
    rng = np.random.default_rng(2)
    positive_N, who_N = np.tile([False, True], 90), np.repeat(PEOPLE, 30)
    eeg_NCT = rng.normal(size=(180, 4, 40))
    eeg_NCT[positive_N] *= 1.1
    eeg_NCT[positive_N] += 0.3 * np.outer([1.0, 2.0, 0.5, -1.0], np.sin(np.arange(40) / 4))
    return TwoCategories(
        eeg_uv_NCT=eeg_NCT.astype(np.float32),
        sfreq_hz=100.0,
        tmin_s=-0.1,
        positive_N=positive_N,
        fold_N=who_N,
        run_N=who_N,
        position_N=np.tile(np.arange(30), 6),
        labels=("house", "face"),
        split_by="subject",
    )


def protocol(permute: str = "trials") -> Protocol:
    return Protocol(split_by="subject", n_val=1, contrast=("house", "face"), permute=permute, permutations=60)


@pytest.mark.parametrize(("name", "permute"), [(TIME_LOCKED, "trials"), (MEAN_POWER, "positions")])
def test_logistic_regressions_are_scikit_learns_person_by_person(name: str, permute: str) -> None:
    asked = trials()
    eeg_NCT = asked.eeg_uv_NCT.astype(np.float64)
    feature_NF = {
        TIME_LOCKED: eeg_NCT[:, :, 10:].reshape(180, 4, 6, 5).mean(axis=3).reshape(180, -1),
        MEAN_POWER: np.log((eeg_NCT**2).mean(axis=2)),
    }[name]
    wanted = {}
    for who in PEOPLE:
        test_N = asked.fold_N == who
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        model.fit(feature_NF[~test_N], asked.positive_N[~test_N])
        wanted[who] = roc_auc_score(asked.positive_N[test_N], model.decision_function(feature_NF[test_N]))
    score = baseline_contrast(name, asked, protocol(permute))
    assert score.per_fold == pytest.approx(wanted, abs=0.005)  # float32 means may swap two trials
    assert (score.null, score.n_permutations) == {
        "trials": ("fixed decisions", 60), "positions": ("refitted", 200)
    }[permute]  # fmt: skip
    assert score.p_permutation < 0.05


def test_a_classifier_of_covariances_is_its_own() -> None:
    asked = trials()
    given = (asked.positive_N, asked.fold_N, asked.run_N, asked.position_N)
    settings = {"labels": asked.labels, "split_by": "subject", "permute": "trials", "seed": 0, "n_permutations": 60}
    decide = partial(riemann_decisions, RIEMANN[XDAWN], asked.eeg_uv_NCT, fold_N=asked.fold_N)
    plain = classifier_contrast(decide, *given, **settings, refitted=False)
    assert baseline_contrast(XDAWN, asked, protocol()) == plain


def beside() -> tuple[ContrastScore, ContrastBaselines]:
    asked = trials()
    settings = {"labels": asked.labels, "split_by": "subject", "permute": "trials", "seed": 0}
    groups = (asked.positive_N, asked.fold_N, asked.run_N, asked.position_N)
    noise_N = np.random.default_rng(4).normal(size=180)
    decoder = contrast_report(1.5 * asked.positive_N + noise_N, *groups, **settings, n_permutations=60)
    decide = lda_decider(asked.eeg_uv_NCT, asked.fold_N)
    lda = classifier_contrast(decide, *groups, **settings, n_permutations=20)
    scores = {LDA: lda} | {name: baseline_contrast(name, asked, protocol()) for name in (XDAWN, MEAN_POWER)}
    return decoder, baselines_beside(decoder, scores, seed=0)


def test_the_decoder_is_tested_against_each_over_people_and_the_page_says_so() -> None:
    decoder, found = beside()
    assert [(test.first, test.second, test.unit) for test in found.against_decoder] == [
        (name, "decoder", "subjects") for name in (LDA, XDAWN, MEAN_POWER)
    ]
    p = []
    for test in found.against_decoder:
        difference = [found.scores[test.first].per_fold[who] - decoder.per_fold[who] for who in PEOPLE]
        assert test.mean_difference == pytest.approx(np.mean(difference))
        p.append(stats.wilcoxon(difference, method="exact").pvalue)
        assert test.p == pytest.approx(p[-1])
    assert min(test.p_holm for test in found.against_decoder) == pytest.approx(min(1, 3 * min(p)))
    target = TargetFact(tower="gabor", layer="", revision="", preprocessing="", dim=4)
    source = SourceFact(name="muse_n170", licence="none", citation="none", design="event", truth="class")
    data = DataFact(
        source=source, target=target, channels=("E1",), sfreq_hz=100, tmin_s=0, n_times=1, n_trials=1, n_pictures=1
    )
    facts = {"recipe": "n170", "run_id": "r", "manifest_digest": "ab", "command": "", "date": ""}
    report = Report(**facts, protocol=protocol(), data=data, contrast=decoder, baselines=(found,))
    assert Report.model_validate_json(report.model_dump_json()) == report
    page = render(report, {})
    for test in found.against_decoder:
        low, high = test.ci95_difference
        row = page[page.index(f"<td>{test.first}</td>") :].split("</tr>")[0]
        assert f"{found.scores[test.first].auc:.3f} ± " in row
        assert f"{-test.mean_difference:+.3f}" in row
        assert f"{-high:+.3f} to {-low:+.3f}" in row
        assert row.endswith(f"<td class=n>{p_value(test.p_holm)}</td>")
    told = scalars(report)
    assert told["test_auc_shrinkage_LDA"] == found.scores[LDA].auc
    assert told["test_auc_logistic_regression_mean_power_chance"] == 0.5
    assert all(re.fullmatch(r"[\w./ -]+", name) for name in told)
