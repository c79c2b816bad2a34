"""Temperature, calibration error and conformal sets on data whose truth is known."""

import numpy as np
import pytest
from scipy import special

from eegdecode.evaluate.calibration import (
    calibrate,
    calibration_error,
    conformal_sets,
    conformal_threshold,
    fit_temperature,
    probabilities,
)


def drawn(n: int, n_way: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose right candidate is drawn by softmax(score / temperature)."""
    rng = np.random.default_rng(seed)
    scores_QG = rng.normal(size=(n, n_way))
    # The largest of score / temperature + Gumbel noise is a draw from the softmax.
    return scores_QG, (scores_QG / temperature + rng.gumbel(size=scores_QG.shape)).argmax(1)


def test_temperature_is_found_again_and_is_the_best_of_a_grid() -> None:
    scores_QG, target_Q = drawn(6000, 50, 0.25, 0)
    found = fit_temperature(scores_QG, target_Q)
    assert found.value == pytest.approx(0.25, rel=0.05)
    assert not found.at_bound
    own = [
        -np.log(special.softmax(scores_QG / t, axis=1)[np.arange(6000), target_Q]).mean()
        for t in np.geomspace(0.1, 1, 60)
    ]
    assert found.cross_entropy <= min(own) + 1e-9
    assert found.cross_entropy < found.cross_entropy_chance == pytest.approx(np.log(50))
    # Scores ten thousand times as large have a temperature ten thousand times as large.
    assert fit_temperature(1e4 * scores_QG, target_Q).value == pytest.approx(1e4 * found.value, rel=1e-4)


def test_scores_that_tell_nothing_or_everything_say_so() -> None:
    rng = np.random.default_rng(1)
    scores_QG = rng.normal(size=(500, 20))
    wrong = fit_temperature(scores_QG, scores_QG.argmin(1))
    assert wrong.at_bound
    assert wrong.cross_entropy == pytest.approx(np.log(20), abs=1e-3)
    assert fit_temperature(scores_QG, scores_QG.argmax(1)).at_bound
    with pytest.raises(ValueError, match="all are equal"):
        fit_temperature(np.ones((3, 4)), np.zeros(3, int))


def test_calibration_error_is_the_slow_sum_and_sees_overconfidence() -> None:
    scores_QG, target_Q = drawn(900, 10, 0.5, 2)
    concept_Q = np.arange(900).astype(str)
    p_QG = probabilities(scores_QG, 0.1)
    found = calibration_error(p_QG, target_Q, concept_Q, seed=0)
    confidence, right = p_QG.max(1), p_QG.argmax(1) == target_Q
    order = np.argsort(confidence)
    slow = sum(len(b) / 900 * abs(right[b].mean() - confidence[b].mean()) for b in np.array_split(order, 15))
    assert found.ece == pytest.approx(slow)
    assert [b.n for b in found.reliability] == [60] * 15
    assert found.reliability[3].accuracy == pytest.approx(right[order[180:240]].mean())
    assert found.ece > found.ece_if_calibrated_ci95[1]
    assert found.p == pytest.approx(1 / 1001)
    assert found.ci95[0] < found.ece < found.ci95[1]
    honest = calibration_error(probabilities(scores_QG, 0.5), target_Q, concept_Q, seed=0)
    assert honest.p > 0.02
    assert honest.ece < found.ece / 3
    assert honest.chance == pytest.approx(0.1)


def test_error_of_a_calibrated_decoder_lies_where_it_says() -> None:
    p = []
    for i in range(120):
        scores_QG, target_Q = drawn(200, 20, 0.5, 100 + i)
        found = calibration_error(
            probabilities(scores_QG, 0.5), target_Q, np.arange(200).astype(str), seed=i, n_simulations=200
        )
        p.append(found.p)
    assert np.mean(np.array(p) <= 0.1) <= 0.1 + 3 * np.sqrt(0.09 / 120)
    assert 0.35 < np.mean(p) < 0.65


def test_equal_confidences_share_a_bin_so_rows_may_come_in_any_order() -> None:
    target_Q = np.array([0] * 30 + [1] * 70)
    p_QG = np.tile([0.6, 0.4], (100, 1))
    concept_Q = np.arange(100).astype(str)
    found = calibration_error(p_QG, target_Q, concept_Q, seed=0)
    assert found.ece == pytest.approx(0.3)
    assert len(found.reliability) == 1
    # A decoder that says nothing is right by chance and knows it.
    flat = calibration_error(np.full((100, 2), 0.5), target_Q, concept_Q, seed=0)
    assert (flat.ece, flat.accuracy) == (0, 0.5)


def test_sets_cover_as_promised_over_many_experiments() -> None:
    held, sizes = [], []
    for i in range(200):
        scores_QG, target_Q = drawn(160, 30, 0.3, 1000 + i)
        p_QG = probabilities(scores_QG, 0.3)
        threshold = conformal_threshold(p_QG[:60], target_Q[:60], 0.8)
        sets = conformal_sets(p_QG[60:], threshold)
        assert sets.any(axis=1).all()
        held.append(sets[np.arange(100), target_Q[60:]].mean())
        sizes.append(sets.sum(1).mean())
    # Split conformal lies between the coverage asked for and 1 / (n + 1) above; so is the mean of 200 trials of 100.
    assert 0.8 - 0.012 <= np.mean(held) <= 0.8 + 1 / 61 + 0.02
    assert np.mean(sizes) < 15
    with pytest.raises(ValueError, match="at least 9 validation queries, got 8"):
        conformal_threshold(p_QG[:8], target_Q[:8], 0.9)


def test_nine_of_ten_by_hand() -> None:
    """Nine validation queries and a coverage of 0.9: the least of all nine probabilities decides."""
    own = np.array([0.9, 0.2, 0.8, 0.5, 0.7, 0.6, 0.4, 0.95, 0.3])
    p_QG = np.stack([own, 1 - own], axis=1)
    assert conformal_threshold(p_QG, np.zeros(9, int), 0.9) == 0.2
    assert conformal_threshold(p_QG, np.zeros(9, int), 0.5) == 0.6
    np.testing.assert_array_equal(
        conformal_sets(np.array([[0.7, 0.2, 0.1], [0.15, 0.15, 0.1]]), 0.2), [[1, 1, 0], [1, 1, 0]]
    )


def test_the_whole_way_and_what_it_refuses() -> None:
    scores_QG, target_Q = drawn(700, 40, 0.2, 5)
    concept_Q = np.array([f"c{i // 2}" for i in range(700)])
    val, test = slice(0, 300), slice(300, 700)
    found = calibrate(
        scores_QG[val], target_Q[val], concept_Q[val], scores_QG[test], target_Q[test], concept_Q[test], seed=0
    )
    assert found.temperature.value == pytest.approx(0.2, rel=0.15)
    assert found.calibrated.ece < found.uncalibrated.ece
    assert found.coverage.ci95[0] <= 0.9 <= found.coverage.ci95[1]
    assert found.coverage.chance == pytest.approx(found.coverage.mean_size / 40)
    assert found.coverage.coverage > found.coverage.chance + 0.2
    with pytest.raises(ValueError, match=r"'c149' is in validation and test \(1 such\)"):
        calibrate(
            scores_QG[val], target_Q[val], concept_Q[val], scores_QG[298:], target_Q[298:], concept_Q[298:], seed=0
        )
    with pytest.raises(ValueError, match="one size, because a probability is a share of its gallery: got 40 and 39"):
        calibrate(
            scores_QG[val],
            target_Q[val],
            concept_Q[val],
            scores_QG[test, :39],
            np.minimum(target_Q[test], 38),
            concept_Q[test],
            seed=0,
        )
