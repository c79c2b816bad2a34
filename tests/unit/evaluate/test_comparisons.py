"""Intervals over two axes, paired tests and permutation in groups, each against a slower or known way."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from eegdecode.evaluate.statistics import holm, paired_tests, permutation_in_groups, two_way_interval


def test_two_way_interval_is_the_slow_loop() -> None:
    rng = np.random.default_rng(0)
    n_SU = rng.integers(0, 4, size=(5, 12)).astype(float)
    hits_SU = np.minimum(rng.integers(0, 4, size=(5, 12)), n_SU)
    low, high = two_way_interval(hits_SU, n_SU, seed=3, n_resamples=400)
    rng = np.random.default_rng(3)
    weight_RS, weight_RU = rng.multinomial(5, [1 / 5] * 5, size=400), rng.multinomial(12, [1 / 12] * 12, size=400)
    values = []
    for weight_S, weight_U in zip(weight_RS, weight_RU, strict=True):
        subjects = np.repeat(np.arange(5), weight_S)
        shares = [np.sum(hits_SU[s] * weight_U) / np.sum(n_SU[s] * weight_U) for s in subjects]
        values.append(np.mean(shares))
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_two_way_interval_covers_new_people_and_concepts_where_concepts_alone_do_not() -> None:
    rng = np.random.default_rng(1)
    covered = np.zeros(2)
    ones_SU = np.ones((12, 60))
    for i in range(150):
        level_SU = 0.4 + 0.12 * rng.normal(size=(12, 1)) + 0.12 * rng.normal(size=(1, 60))
        hits_SU = (rng.random((12, 60)) < np.clip(level_SU, 0, 1)).astype(float)
        low, high = two_way_interval(hits_SU, ones_SU, seed=i, n_resamples=500)
        covered[0] += low <= 0.4 <= high
        concept_RU = rng.integers(60, size=(500, 60))
        low, high = np.quantile(hits_SU.mean(axis=0)[concept_RU].mean(axis=1), [0.025, 0.975])
        covered[1] += low <= 0.4 <= high
    assert covered[0] / 150 >= 0.9
    assert covered[1] / 150 <= 0.75


def test_two_way_interval_without_any_hit_is_not_empty_and_bad_tables_are_refused() -> None:
    low, high = two_way_interval(np.zeros((3, 50)), np.ones((3, 50)), seed=0)
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 50)))
    with pytest.raises(ValueError, match="at least 2 subjects"):
        two_way_interval(np.zeros((1, 50)), np.ones((1, 50)), seed=0)
    with pytest.raises(ValueError, match="every subject must have a query"):
        two_way_interval(np.zeros((2, 3)), np.array([[1.0, 1, 1], [0, 0, 0]]), seed=0)


def test_holm_is_the_definition() -> None:
    # Holm's own way: p sorted, times m, m - 1, ...; never falling, never above 1.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(np.array([1.2]))


def by_signs(difference_N: np.ndarray) -> float:
    """Two-sided p of the signed-rank sum by writing down every assignment of signs."""
    difference_N = difference_N[difference_N != 0]
    rank_N = stats.rankdata(np.abs(difference_N))
    centre = rank_N.sum() / 2
    away = abs(rank_N[difference_N > 0].sum() - centre)
    sums = np.array([np.dot(rank_N, signs) for signs in product((0, 1), repeat=len(rank_N))])
    return float(np.mean(np.abs(sums - centre) >= away - 1e-9))


def recipes(first: list[float], second: list[float]) -> dict[str, dict[str, float]]:
    names = [f"sub-{i:02d}" for i in range(len(first))]
    return {"a": dict(zip(names, first, strict=True)), "b": dict(zip(names[::-1], second[::-1], strict=True))}


def test_signed_rank_is_the_count_over_all_signs() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(0.5, 0.1, 10)
    b = a - 0.05 - 0.06 * rng.normal(size=10)
    (test,) = paired_tests(recipes(a.tolist(), b.tolist()), seed=0)
    assert test.method == "exact"
    assert test.p == pytest.approx(by_signs(a - b))
    # Ten subjects can not give less than 2 of 1024.
    assert test.smallest_p == pytest.approx(2 / 1024)
    assert test.mean_difference == pytest.approx((a - b).mean())
    assert test.ci95_difference[0] < test.mean_difference < test.ci95_difference[1]
    tied = np.array([0.1, 0.1, 0.1, -0.1, 0.2, 0.2, -0.3, 0.4, 0.0])
    (test,) = paired_tests(recipes(tied.tolist(), [0.0] * 9), seed=0)
    assert (test.method, test.n_equal) == ("all signs", 1)
    assert test.p == pytest.approx(by_signs(tied))
    assert test.smallest_p == pytest.approx(2 / 2**8)
    many = rng.normal(0.2, 1, 60)
    (test,) = paired_tests(recipes(many.tolist(), [0.0] * 60), seed=0)
    assert test.method == "normal approximation"
    assert test.p == pytest.approx(stats.wilcoxon(many, method="exact").pvalue, abs=0.01)


def test_a_family_is_corrected_and_says_what_it_could_reach() -> None:
    rng = np.random.default_rng(3)
    names = [f"sub-{i}" for i in range(6)]
    base = rng.random(6)
    scores = {
        recipe: dict(zip(names, base + shift + 0.001 * rng.random(6), strict=True))
        for recipe, shift in {"x": 0.3, "y": 0.2, "z": 0.0}.items()
    }
    tests = paired_tests(scores, seed=0)
    assert [(t.first, t.second) for t in tests] == [("x", "y"), ("x", "z"), ("y", "z")]
    assert all(t.p == pytest.approx(2 / 2**6) and t.p_holm == pytest.approx(6 / 2**6) for t in tests)
    assert all(t.smallest_p_holm == pytest.approx(6 / 2**6) for t in tests)
    assert [(t.first, t.second) for t in paired_tests(scores, against="z", seed=0)] == [("x", "z"), ("y", "z")]
    same = paired_tests({"x": scores["x"], "w": scores["x"]}, seed=0)[0]
    assert (same.p, same.method, same.ci95_difference) == (1, "no difference", (0, 0))
    with pytest.raises(ValueError, match="'sub-9' is in only one of x and y"):
        paired_tests({"x": scores["x"], "y": scores["y"] | {"sub-9": 0.1}}, seed=0)
    with pytest.raises(ValueError, match="finite, got nan for y, 'sub-3'"):
        paired_tests({"x": scores["x"], "y": scores["y"] | {"sub-3": np.nan}}, seed=0)


def test_permutation_keeps_groups_and_knows_its_smallest_p() -> None:
    group_N = np.array(["b1", "b2", "b1", "b2", "b1", "b3", "b3"])
    labels_N = np.array(["x", "y", "y", "x", "x", "z", "z"])
    seen = []

    def score(labels_RN: np.ndarray) -> np.ndarray:
        seen.extend(labels_RN)
        return (labels_RN == labels_N).mean(axis=1)

    test = permutation_in_groups(score, labels_N, group_N, n_permutations=600, seed=0)
    for row_N in seen:
        for group in np.unique(group_N):
            assert sorted(row_N[group_N == group]) == sorted(labels_N[group_N == group])
    # 3 arrangements of xxy, 2 of xy, 1 of zz: one in six is the observed one.
    assert len({tuple(row) for row in seen}) == 6
    assert test.smallest_p == pytest.approx(1 / 6)
    assert test.p == pytest.approx(1 / 6, abs=0.05)
    slow = permutation_in_groups(
        lambda row_N: np.float64((row_N == labels_N).mean()),
        labels_N,
        group_N,
        n_permutations=600,
        seed=0,
        vectorised=False,
    )
    assert slow == test


def test_a_group_of_one_label_leaves_nothing_to_test() -> None:
    block_N = np.repeat(np.arange(10), 20)
    test = permutation_in_groups(
        lambda labels_RN: (labels_RN == block_N).mean(axis=1), block_N, block_N, n_permutations=50, seed=0
    )
    assert (test.value, test.chance, test.p, test.smallest_p) == (1, 1, 1, 1)


def test_p_in_groups_is_uniform_without_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(4)
    group_N = np.repeat(np.arange(8), 12)
    p = []
    for i in range(150):
        x_N = rng.normal(size=96) + 3 * rng.normal(size=8)[group_N]
        # Labels follow the groups, so a test that ignores them would be fooled.
        labels_N = rng.random(96) < np.linspace(0.2, 0.8, 8)[group_N]
        p.append(
            permutation_in_groups(
                lambda labels_RN, x_N=x_N: labels_RN @ x_N, labels_N, group_N, n_permutations=199, seed=i
            ).p
        )
    for a in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(p) <= a) - a) <= 3.5 * np.sqrt(a * (1 - a) / 150)
    strong = permutation_in_groups(
        lambda labels_RN: labels_RN @ (x_N + 2 * labels_N), labels_N, group_N, n_permutations=199, seed=0
    )
    assert strong.p == strong.smallest_p == pytest.approx(1 / 200)
