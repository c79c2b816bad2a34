"""The noise ceiling against its formula on simulated responses; curves against the slow way; fits that cover."""

import numpy as np
import pytest

from eegdecode.evaluate.ceiling import divisions, noise_ceiling, repetition_curve, scaling_fit
from eegdecode.evaluate.retrieval import Averaged, score_matrix
from eegdecode.metrics import spearman_brown


def test_ceiling_is_the_share_of_variance_that_repeats() -> None:
    """Signal of variance 1 and noise of variance 4: halves of 10 repetitions agree by 1 / (1 + 4 / 10)."""
    rng = np.random.default_rng(0)
    response_PRX = rng.normal(size=(400, 1, 6)) + 2 * rng.normal(size=(400, 20, 6))
    found = noise_ceiling(response_PRX, n_divisions=30, seed=0, n_resamples=300)
    assert found.lower == pytest.approx(1 / 1.4, abs=0.02)
    assert found.corrected == pytest.approx(1 / 1.2, abs=0.02)
    # Half 1 against the mean of all 20: covariance 1 + 4 / 20 over the root of both variances.
    assert found.upper == pytest.approx(1.2 / np.sqrt(1.2 * 1.4), abs=0.02)
    assert found.ci95_lower[0] < found.lower < found.ci95_lower[1]
    assert found.ci95_corrected[0] < found.corrected < found.ci95_corrected[1]
    assert found.lower < found.corrected < found.upper
    assert noise_ceiling(response_PRX, n_divisions=30, seed=0, n_resamples=300) == found


def test_ceiling_of_noise_is_chance() -> None:
    covered = 0
    for i in range(40):
        response_PRX = np.random.default_rng(i).normal(size=(60, 9, 2))
        found = noise_ceiling(response_PRX, n_divisions=20, seed=i, n_resamples=200)
        covered += found.ci95_corrected[0] <= found.chance <= found.ci95_corrected[1]
        assert abs(found.lower) < 0.35
    assert covered >= 35


def test_halves_share_nothing_and_an_odd_one_is_left_out() -> None:
    half_IH, other_IH = divisions(7, 50, seed=1)
    assert half_IH.shape == other_IH.shape == (50, 3)
    for half, other in zip(half_IH, other_IH, strict=True):
        assert len(set(half) | set(other)) == 6
    assert len({tuple(sorted(h)) for h in half_IH.tolist()}) > 10
    np.testing.assert_allclose(spearman_brown(np.array([0.5, -0.5, 0.0])), [2 / 3, -2 / 3, 0])
    # Seven repetitions of which three make a half: 7/3 times as long.
    assert spearman_brown(np.array(0.4), 7 / 3) == pytest.approx(7 / 3 * 0.4 / (1 + 4 / 3 * 0.4))


def test_bad_responses_are_named() -> None:
    with pytest.raises(ValueError, match="at least 3 conditions"):
        noise_ceiling(np.ones((2, 4, 1)), seed=0)
    silent = np.random.default_rng(0).normal(size=(5, 4, 3, 2))
    silent[:, :, 1] = 0
    with pytest.raises(ValueError, match=r"those at \[1, 0\] never do"):
        noise_ceiling(silent, seed=0)
    silent[3, 2, 1, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite, got \[3, 2, 1, 0\]"):
        noise_ceiling(silent, seed=0)


def test_curve_rises_with_repetitions_and_its_ends_are_known() -> None:
    rng = np.random.default_rng(2)
    gallery_GD = rng.normal(size=(30, 24)).astype(np.float32)
    names = [f"p{i:02d}" for i in range(30)]
    picture_N = np.repeat(names, 12)
    eeg_NCT = gallery_GD[np.repeat(np.arange(30), 12)] + 6 * rng.normal(size=(360, 24)).astype(np.float32)
    subject_N = np.full(360, "s")

    def score(averaged: Averaged) -> np.ndarray:
        return score_matrix(averaged.eeg_uv_QCT, gallery_GD)

    curve = repetition_curve(score, eeg_NCT, picture_N, subject_N, names, lambda picture: picture, seed=0)
    assert [p.repetitions for p in curve.points] == [1, 2, 4, 8, 12]
    assert curve.chance_top1 == pytest.approx(1 / 30)
    hit_N = score_matrix(eeg_NCT, gallery_GD).argmax(1) == np.repeat(np.arange(30), 12)
    assert curve.points[0].top1 == pytest.approx(hit_N.mean())
    every = score_matrix(eeg_NCT.reshape(30, 12, 24).mean(1), gallery_GD).argmax(1) == np.arange(30)
    assert curve.points[-1].top1 == pytest.approx(every.mean())
    tops = [p.top1 for p in curve.points]
    assert tops[0] < tops[2] < tops[4]
    again = repetition_curve(score, eeg_NCT, picture_N, subject_N, names, lambda picture: picture, counts=(4,), seed=0)
    assert again.points[0] == curve.points[2]


def test_scaling_is_least_squares_and_its_interval_covers() -> None:
    rng = np.random.default_rng(3)
    sizes = np.array([500, 1000, 2000, 4000, 8000, 16000])
    covered = at_point = 0
    for _ in range(300):
        fit = scaling_fit(sizes, 0.1 + 0.03 * np.log2(sizes) + 0.01 * rng.normal(size=6))
        covered += fit.ci95_per_doubling[0] <= 0.03 <= fit.ci95_per_doubling[1]
        low, high = fit.predict(3000)[1]
        at_point += low <= 0.1 + 0.03 * np.log2(3000) <= high
    assert 0.91 <= covered / 300 <= 0.985
    assert 0.91 <= at_point / 300 <= 0.985
    y = 0.1 + 0.03 * np.log2(sizes) + 0.01 * rng.normal(size=6)
    fit = scaling_fit(sizes, y)
    design = np.stack([np.ones(6), np.log2(sizes)], axis=1)
    assert (fit.at_one, fit.per_doubling) == pytest.approx(tuple(np.linalg.lstsq(design, y, rcond=None)[0]))
    assert fit.predict(1)[0] == pytest.approx(fit.at_one)
    with pytest.raises(ValueError, match="3 different sizes"):
        scaling_fit([1, 2, 2], [0.1, 0.2, 0.2])
