"""Intervals cover, nulls are null, and labels are permuted as they should be."""

import time

import numpy as np
import pytest
from scipy import stats

from eegdecode import metrics
from eegdecode.evaluate.contrast import class_report, contrast_report, refitted_null
from eegdecode.evaluate.statistics import (
    auc_interval,
    auc_rows,
    bootstrap_interval,
    label_hits,
    pairing_null,
    permutation_p,
    permuted_labels,
)


def share(values_U: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda weight_RU: weight_RU @ values_U / weight_RU.sum(axis=1)


def test_permutation_p_counts_the_observed_one_and_is_never_zero() -> None:
    null_R = np.arange(9, dtype=float)
    assert permutation_p(100.0, null_R) == pytest.approx(1 / 10)
    assert permutation_p(8.0, null_R) == pytest.approx(2 / 10)
    assert permutation_p(-1.0, null_R) == 1.0
    with pytest.raises(ValueError, match="finite"):
        permutation_p(np.nan, null_R)


@pytest.mark.parametrize("true_share", [0.1, 0.4])
def test_interval_covers_the_truth_in_about_95_of_100_experiments(true_share: float) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(300):
        values_U = (rng.random(150) < true_share).astype(float)
        low, high = bootstrap_interval(share(values_U), 150, seed=i, n_resamples=600)
        covered += low <= true_share <= high
    assert 0.91 <= covered / 300 <= 0.985


def test_interval_agrees_with_scipy_and_is_seeded() -> None:
    values_U = np.random.default_rng(1).exponential(size=60)
    low, high = bootstrap_interval(share(values_U), 60, seed=3, n_resamples=20_000)
    other = stats.bootstrap((values_U,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(4))
    assert (low, high) == pytest.approx(tuple(other.confidence_interval), abs=0.02)
    assert bootstrap_interval(share(values_U), 60, seed=3, n_resamples=20_000) == (low, high)


def test_interval_without_any_hit_is_not_empty() -> None:
    low, high = bootstrap_interval(share(np.zeros(200)), 200, seed=0)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 200))
    with pytest.raises(ValueError, match="at least 2 units"):
        bootstrap_interval(share(np.ones(1)), 1, seed=0)


def test_hits_of_the_shown_label_are_the_metric_also_under_ties() -> None:
    rng = np.random.default_rng(2)
    scores_QG = rng.integers(0, 6, size=(40, 12)).astype(float)
    label_G = np.array([0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 6, 7])
    shown_Q = rng.integers(0, 8, size=40)
    for k in (1, 3, 5):
        own_Q = label_hits(scores_QG, label_G, 8, k)[np.arange(40), shown_Q]
        relevant_QG = label_G[None] == shown_Q[:, None]
        np.testing.assert_allclose(own_Q, metrics.top_k_hits(scores_QG, relevant_QG, k), atol=1e-12)


def test_pairing_null_is_the_slow_loop_and_is_fast() -> None:
    rng = np.random.default_rng(3)
    scores_QG = rng.normal(size=(60, 20)) + 1.0 * np.eye(20)[np.tile(np.arange(20), 3)]
    shown_Q = np.tile(np.arange(20), 3)
    weight_Q = rng.random(60)
    hits_QL = label_hits(scores_QG, np.arange(20), 20, 1)
    null_R = pairing_null(hits_QL, shown_Q, weight_Q, 50, seed=7)
    order_RL = np.random.default_rng(7).permuted(np.tile(np.arange(20), (50, 1)), axis=1)
    slow_R = [sum(w * hits_QL[q, order_L[t]] for q, (t, w) in enumerate(zip(shown_Q, weight_Q, strict=True)))
              for order_L in order_RL]  # fmt: skip
    np.testing.assert_allclose(null_R, slow_R)
    scores_QG = rng.normal(size=(200, 200))
    start = time.perf_counter()
    pairing_null(label_hits(scores_QG, np.arange(200), 200, 1), np.arange(200), np.full(200, 1 / 200), 1000, 0)
    assert time.perf_counter() - start < 2


def test_p_of_retrieval_is_uniform_where_nothing_is_decoded() -> None:
    rng = np.random.default_rng(4)
    p = []
    for i in range(200):
        hits_QL = label_hits(rng.normal(size=(40, 40)), np.arange(40), 40, 5)
        own = float(np.trace(hits_QL) / 40)
        p.append(permutation_p(own, pairing_null(hits_QL, np.arange(40), np.full(40, 1 / 40), 199, i)))
    # Valid: P(p <= a) <= a, to the precision of 200 draws; and not all piled up at 1.
    for a in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= a) <= a + 3 * np.sqrt(a * (1 - a) / 200)
    assert np.mean(np.array(p) <= 0.5) > 0.25


def test_permuted_by_trial_keeps_each_runs_labels() -> None:
    rng = np.random.default_rng(0)
    run_N = np.repeat(["a", "b"], 50)
    labels_N = np.array([0] * 40 + [1] * 10 + [0] * 5 + [1] * 45)
    permuted_N = permuted_labels(labels_N, run_N, np.tile(np.arange(50), 2), "trials", rng)
    assert permuted_N[:50].sum() == 10
    assert permuted_N[50:].sum() == 45
    assert (permuted_N != labels_N).any()


def test_permuted_by_position_is_the_same_in_every_run_even_where_trials_are_missing() -> None:
    rng = np.random.default_rng(0)
    label_of_position = rng.integers(0, 4, 30)
    position_N = np.concatenate([np.arange(30), np.delete(np.arange(30), [3, 17]), np.arange(30)])
    run_N = np.repeat(["a", "b", "c"], [30, 28, 30])
    permuted_N = permuted_labels(label_of_position[position_N], run_N, position_N, "positions", rng)
    np.testing.assert_array_equal(permuted_N[:30][position_N], permuted_N)
    assert sorted(permuted_N[:30]) == sorted(label_of_position)
    with pytest.raises(ValueError, match="one label per position, got more than one at position 0"):
        permuted_labels(np.array([0, 1]), np.array(["a", "b"]), np.array([0, 0]), "positions", rng)


def test_permuted_by_picture_moves_whole_pictures() -> None:
    picture_N = np.repeat(np.arange(10), 7)
    face_N = picture_N < 5
    permuted_N = permuted_labels(
        face_N, picture_N, picture_N, "pictures", np.random.default_rng(1), picture_N=picture_N
    )
    assert all(len(set(permuted_N[picture_N == i])) == 1 for i in range(10))
    assert permuted_N.sum() == face_N.sum()


def test_auc_rows_are_the_metric() -> None:
    rng = np.random.default_rng(5)
    decision_N = rng.integers(0, 9, 80).astype(float)
    positive_RN = rng.random((6, 80)) < 0.4
    got_R = auc_rows(stats.rankdata(decision_N), positive_RN)
    np.testing.assert_allclose(got_R, [metrics.roc_auc(decision_N, row) for row in positive_RN])
    assert np.isnan(auc_rows(stats.rankdata(decision_N), np.ones((1, 80), bool))).all()


def test_auc_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(6)
    truth, covered = stats.norm.cdf(0.5 / np.sqrt(2)), 0
    for i in range(80):
        positives = [rng.random(50) < 0.5 for _ in range(6)]
        decisions = [rng.normal(size=50) + 0.5 * positive for positive in positives]
        low, high = auc_interval(decisions, positives, seed=i, n_resamples=300)
        covered += low <= truth <= high
    # Drawing folds and then trials is wide on purpose: it may cover more than 95 %, not less.
    assert covered / 80 >= 0.9


def runs_of_one_order(n_runs: int = 4, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """EEG that holds nothing but its place in the run, labels in one order in every run."""
    rng = np.random.default_rng(8)
    positive_N = np.tile(rng.permutation(np.arange(n) % 2 == 0), n_runs)
    position_N, run_N = np.tile(np.arange(n), n_runs), np.repeat(np.arange(n_runs).astype(str), n)
    drift_N = np.tile(rng.normal(size=n), n_runs)
    return positive_N, position_N, run_N, drift_N


def test_only_a_refitted_null_sees_through_labels_in_one_order() -> None:
    positive_N, position_N, run_N, drift_N = runs_of_one_order()

    def decide(truth_N: np.ndarray) -> np.ndarray:
        """Left-out run: the label that the nearest place had in the other runs."""
        nearest_N = [np.flatnonzero((run_N != run) & (drift_N == drift))[0] for run, drift in zip(run_N, drift_N)]  # noqa: B905
        return truth_N[nearest_N].astype(float)

    kwargs = {"labels": ("no", "yes"), "split_by": "run", "permute": "positions", "n_permutations": 60, "seed": 0}
    fooled = contrast_report(decide(positive_N), positive_N, run_N, run_N, position_N, **kwargs)  # type: ignore[arg-type]
    assert fooled.auc == 1
    assert fooled.p_permutation < 0.05
    assert fooled.null == "fixed decisions"
    null_R = refitted_null(
        decide, positive_N, run_N, run_N, position_N, permute="positions", n_permutations=60, seed=0
    )  # fmt: skip
    honest = contrast_report(decide(positive_N), positive_N, run_N, run_N, position_N, null_R=null_R, **kwargs)  # type: ignore[arg-type]
    assert honest.p_permutation == 1
    assert honest.null == "refitted"


def test_contrast_is_the_mean_over_folds_and_refuses_a_fold_of_one_category() -> None:
    rng = np.random.default_rng(9)
    fold_N = np.repeat(["f1", "f2", "f3"], [30, 50, 100])
    positive_N = rng.random(180) < 0.5
    decision_N = rng.normal(size=180) + 0.8 * positive_N
    position_N = np.arange(180)
    kwargs = {"labels": ("house", "face"), "split_by": "run", "permute": "trials", "n_permutations": 300, "seed": 1}
    score = contrast_report(decision_N, positive_N, fold_N, fold_N, position_N, **kwargs)  # type: ignore[arg-type]
    each = {f: metrics.roc_auc(decision_N[fold_N == f], positive_N[fold_N == f]) for f in ("f1", "f2", "f3")}
    assert score.per_fold == pytest.approx(each)
    assert score.auc == pytest.approx(np.mean(list(each.values())))
    assert score.sd == pytest.approx(np.std(list(each.values())))
    assert score.weighted_auc == pytest.approx(np.average(list(each.values()), weights=[30, 50, 100]))
    assert score.ci95[0] < score.auc < score.ci95[1]
    assert score.p_permutation == pytest.approx(1 / 301)
    with pytest.raises(ValueError, match="fold 'f1' must have trials of both house and face"):
        contrast_report(decision_N, positive_N | (fold_N == "f1"), fold_N, fold_N, position_N, **kwargs)  # type: ignore[arg-type]


def test_class_report_counts_and_sits_on_chance_for_a_guesser() -> None:
    rng = np.random.default_rng(10)
    classes = tuple("abcdefgh")
    shown_N, run_N = np.tile(np.repeat(classes, 10), 3), np.repeat(["1", "2", "3"], 80)
    named_N = rng.choice(classes, 240)
    kwargs = {"classes": classes, "split_by": "run", "permute": "trials", "n_permutations": 200, "seed": 0}
    score = class_report(named_N, shown_N, run_N, run_N, np.tile(np.arange(80), 3), **kwargs)  # type: ignore[arg-type]
    assert score.chance == 1 / 8
    assert score.ci95[0] < 1 / 8 < score.ci95[1]
    assert score.p_permutation > 0.05
    assert score.accuracy == pytest.approx(np.mean(named_N == shown_N))
    assert np.array(score.confusion).sum() == 240
    assert np.trace(score.confusion) == np.sum(named_N == shown_N)
    with pytest.raises(ValueError, match="class 'z' must be one of"):
        class_report(np.full(240, "z"), shown_N, run_N, run_N, run_N, **kwargs)  # type: ignore[arg-type]
