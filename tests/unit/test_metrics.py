"""Retrieval scores against brute force; ties land on chance."""

import itertools

import numpy as np
import pytest

from eegdecode import metrics


def test_top_k_counts_a_hand_made_case() -> None:
    scores = np.array([[0.9, 0.1, 0.5], [0.2, 0.3, 0.1], [0.0, 0.5, 0.4]])
    assert metrics.top_k_hits(scores, np.array([0, 0, 0]), 1).tolist() == [1, 0, 0]
    assert metrics.top_k_hits(scores, np.array([0, 0, 0]), 2).tolist() == [1, 1, 0]
    assert metrics.top_k(scores, np.array([0, 0, 0]), 3) == 1


def test_ties_are_worth_their_exact_expectation() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (12, 5)).astype(float)
    relevant = rng.random((12, 5)) < 0.4
    relevant[:, 0] |= ~relevant.any(axis=1)
    for k in (1, 2, 3):
        found = []
        for order in itertools.permutations(range(5)):  # a tie is broken by the place in `order`
            place = np.argsort(np.lexsort((np.broadcast_to(order, scores.shape), -scores), axis=1), axis=1)
            found.append((relevant & (place < k)).any(axis=1))
        assert metrics.top_k_hits(scores, relevant, k) == pytest.approx(np.mean(found, axis=0))


def test_constant_scores_land_on_chance() -> None:
    scores, target = np.zeros((6, 200)), np.arange(6)
    assert metrics.top_k(scores, target, 1) == pytest.approx(metrics.chance_top_k(200, 1)) == pytest.approx(0.005)
    assert metrics.top_k(scores, target, 5) == pytest.approx(0.025)
    assert metrics.n_way_hits(scores, target, 10).mean() == pytest.approx(0.1)
    assert metrics.mean_average_precision(scores, target) == pytest.approx(1 / 200)
    assert metrics.roc_auc(np.ones(10), np.arange(10) < 3) == 0.5


def test_average_precision_agrees_with_sklearn_on_ties() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(1)
    scores = rng.integers(0, 8, (30, 40)) / 8
    relevant = rng.random((30, 40)) < 0.2
    relevant[:, 3] = True
    relevant[:, 4] = False
    expected = [average_precision_score(r, s) for r, s in zip(relevant, scores, strict=True)]
    assert metrics.average_precision(scores, relevant) == pytest.approx(expected)
    for r, s in zip(relevant, scores, strict=True):
        assert metrics.roc_auc(s, r) == pytest.approx(roc_auc_score(r, s))


@pytest.mark.parametrize(("n", "r", "k"), [(7, 1, 2), (7, 3, 2), (6, 5, 3)])
def test_chance_levels_are_the_mean_over_all_orders(n: int, r: int, k: int) -> None:
    hits, precisions = [], []
    for places in itertools.combinations(range(n), r):
        relevant = np.isin(np.arange(n), places)[None]
        scores = -np.arange(n, dtype=float)[None]
        hits.append(metrics.top_k(scores, relevant, k))
        precisions.append(metrics.mean_average_precision(scores, relevant))
    assert metrics.chance_top_k(n, k, r) == pytest.approx(np.mean(hits))
    assert metrics.chance_average_precision(n, r) == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize(
    ("scores", "relevant", "says"),
    [
        ([[0.1, np.nan]], [0], "finite"),
        ([[0.1, 0.2]], [2], "below 2"),
        ([[0.1, 0.2]], [[False, False]], "query 0 has no relevant"),
        ([0.1, 0.2], [0], "queries, candidates"),
    ],
)
def test_bad_scores_are_refused(scores: list[float], relevant: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        metrics.top_k(scores, relevant, 1)


def test_roc_auc_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="both classes, got 3 positive and 0 negative"):
        metrics.roc_auc([1.0, 2.0, 3.0], [True, True, True])
