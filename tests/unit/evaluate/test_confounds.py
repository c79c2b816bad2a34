"""Drift without any response to pictures: power names the class, and the null within blocks sees through it."""

from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eegdecode.evaluate.confounds import (
    ConfoundScore,
    Division,
    confound_control,
    confound_report,
    left_out,
    log_power,
    time_locked,
)

N_CLASSES = 6


def block_drift(
    classes_per_block: int, n_blocks: int, seed: int, response: float = 0.0, drift: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials whose power drifts from block to block; `response` adds power that belongs to the class."""
    rng = np.random.default_rng(seed)
    block_N = np.repeat(np.arange(n_blocks), 36)
    # Blocks go round the classes, so that every class comes in several blocks.
    label_N = (block_N + np.tile(np.arange(36) % classes_per_block, n_blocks)) % N_CLASSES
    gain_UC = np.exp(drift * rng.normal(size=(n_blocks, 8)))
    class_KC = np.exp(response * rng.normal(size=(N_CLASSES, 8)))
    eeg_NCT = rng.normal(size=(len(block_N), 8, 40)) * (gain_UC[block_N] * class_KC[label_N])[:, :, None]
    return eeg_NCT, label_N, block_N


def random_folds(n: int, seed: int) -> tuple[Division, ...]:
    return left_out(np.random.default_rng(seed).permutation(np.arange(n) % 4))


def test_one_class_per_block_power_is_far_above_chance_and_nothing_is_left_within_blocks() -> None:
    eeg_NCT, label_N, block_N = block_drift(1, N_CLASSES, seed=0)
    report = confound_report(
        log_power(eeg_NCT), label_N, block_N, random_folds(len(label_N), 1), n_permutations=20, seed=0
    )
    score = report.mean_power
    assert score.accuracy > 0.9
    assert score.ci95[0] > 4 * score.chance == pytest.approx(4 / 6)
    assert score.p == pytest.approx(1 / 21)
    # Exchanging within such blocks changes nothing: the blocks alone give all of it.
    assert score.block_chance == pytest.approx(score.accuracy)
    assert score.p_within_blocks == score.smallest_p_within_blocks == 1
    assert report.classes_per_block == (1, 1.0, 1)
    assert report.blocks_on_both_sides == N_CLASSES
    assert len(report.findings) == 3
    assert "Every block holds one class" in report.findings[0]


def test_two_classes_per_block_power_is_above_chance_but_on_what_blocks_give() -> None:
    p = []
    for seed in range(6):
        eeg_NCT, label_N, block_N = block_drift(2, 12, seed=seed)
        score = confound_control(
            "power",
            log_power(eeg_NCT),
            label_N,
            block_N,
            random_folds(len(label_N), seed),
            n_permutations=24,
            seed=seed,
        )
        assert score.accuracy > 2 * score.chance
        assert score.p == pytest.approx(1 / 25)
        assert score.block_null_ci95[0] - 0.02 <= score.accuracy <= score.block_null_ci95[1] + 0.02
        p.append(score.p_within_blocks)
    assert min(p) > 1 / 25
    assert 0.2 < np.mean(p) < 0.9


def test_left_out_blocks_bring_power_back_to_chance() -> None:
    inside, outside = [], []
    for seed in range(8):
        eeg_NCT, label_N, block_N = block_drift(2, 24, seed=seed)
        few = partial(confound_report, log_power(eeg_NCT), label_N, block_N, n_permutations=2, seed=0)
        mixed, report = few(random_folds(len(label_N), seed)), few(left_out(block_N // 6))
        assert (mixed.blocks_on_both_sides, report.blocks_on_both_sides) == (24, 0)
        inside.append(mixed.mean_power.accuracy)
        outside.append(report.mean_power.accuracy)
    # 24 blocks are few: one data set alone may lie some way off.
    assert abs(np.mean(outside) - 1 / 6) < 3 * np.std(outside) / np.sqrt(8) + 0.01
    assert np.mean(inside) > np.mean(outside) + 0.1


def test_clean_data_yield_no_finding() -> None:
    eeg_NCT, label_N, block_N = block_drift(N_CLASSES, 12, seed=3)
    report = confound_report(
        log_power(eeg_NCT),
        label_N,
        block_N,
        left_out(block_N // 3),
        blank_NC=log_power(eeg_NCT[:, :, :10]),
        n_permutations=30,
        seed=0,
    )
    assert report.findings == ()
    assert report.mean_power.p > 0.05
    assert report.mean_power.ci95[0] <= report.mean_power.chance <= report.mean_power.ci95[1]


def test_a_response_to_the_class_is_seen_within_blocks_and_not_before_the_picture() -> None:
    eeg_NCT, label_N, block_N = block_drift(3, 12, seed=4, response=0.3)
    blank_NC = log_power(block_drift(3, 12, seed=5, drift=0.0)[0])
    told = (log_power(eeg_NCT), label_N, block_N, random_folds(len(label_N), 0))
    report = confound_report(*told, blank_NC=blank_NC, n_permutations=40, seed=0)
    assert report.mean_power.p_within_blocks == pytest.approx(1 / 41)
    assert report.mean_power.accuracy > report.mean_power.block_chance + 0.05
    assert report.blank is not None
    assert report.blank.ci95[0] <= report.blank.chance <= report.blank.ci95[1]
    # Drift that is there before the picture is told as such.
    drifting = confound_report(*told, blank_NC=log_power(eeg_NCT[:, :, :15]), n_permutations=20, seed=0)
    assert any("power before the picture alone names" in finding for finding in drifting.findings)


def test_time_locked_samples_tell_a_response_and_not_the_drift_of_power() -> None:
    eeg_NCT, label_N, block_N = block_drift(1, N_CLASSES, seed=6)
    folds = random_folds(len(label_N), 2)

    def controls(eeg_NCT: np.ndarray) -> tuple[ConfoundScore, ConfoundScore]:
        locked_NF = time_locked(eeg_NCT, 100.0, -0.1)
        report = confound_report(
            log_power(eeg_NCT), label_N, block_N, folds, locked_NF=locked_NF, n_permutations=40, seed=0
        )
        assert report.time_locked is not None
        return report.mean_power, report.time_locked

    power, locked = controls(eeg_NCT)
    assert power.accuracy > 0.9
    assert abs(locked.accuracy - 1 / 6) < 3 * np.sqrt(1 / 6 * 5 / 6 / len(label_N))
    # A wave of each class that averages to nothing over the trial, in EEG whose power does not drift.
    rng = np.random.default_rng(7)
    wave_KCT = np.repeat(rng.normal(size=(N_CLASSES, 8, 4)), 10, axis=2)
    wave_KCT -= wave_KCT.mean(axis=2, keepdims=True)
    wave_KCT /= wave_KCT.std(axis=2, keepdims=True)
    power, locked = controls(rng.normal(size=eeg_NCT.shape) + 0.5 * wave_KCT[label_N])
    assert locked.accuracy > 0.9
    assert power.accuracy < 0.4


def test_a_control_is_the_plain_loop_over_divisions() -> None:
    """Train and test parts that leave some trials out, as a source's own split of pictures does."""
    eeg_NCT, label_N, block_N = block_drift(3, 12, seed=8, drift=0.2)
    part_N = np.random.default_rng(3).integers(3, size=len(label_N))
    who_N = block_N % 2
    divisions = [
        Division(
            str(who), np.flatnonzero((part_N == 0) & (who_N == who)), np.flatnonzero((part_N == 2) & (who_N == who))
        )
        for who in (0, 1)
    ]
    locked_NF = time_locked(eeg_NCT, 50.0, -0.2)
    by_hand_NF = np.stack([eeg_NCT[:, :, k : k + 2].mean(axis=2) for k in range(10, 39, 2)], axis=2)
    np.testing.assert_allclose(locked_NF, by_hand_NF.reshape(len(label_N), -1))
    score = confound_control("power", log_power(eeg_NCT), label_N, block_N, divisions, n_permutations=5, seed=0)
    power_NC = np.log((eeg_NCT**2).mean(axis=2))
    hits = []
    for d in divisions:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        hits += (
            model.fit(power_NC[d.train_N], label_N[d.train_N]).predict(power_NC[d.test_N]) == label_N[d.test_N]
        ).tolist()
    assert score.accuracy == pytest.approx(np.mean(hits))
    assert (score.n_trials, score.n_blocks, score.n_classes) == (len(hits), 12, N_CLASSES)


def test_bad_divisions_are_named() -> None:
    eeg_NCT, label_N, block_N = block_drift(1, N_CLASSES, seed=0)
    folds, power_NC = random_folds(len(label_N), 0), log_power(eeg_NCT)
    apart = left_out(np.where(block_N == 2, 9, np.arange(len(label_N)) % 4))
    with pytest.raises(ValueError, match="'2' has none in '9'"):
        confound_report(power_NC, label_N, block_N, apart, n_permutations=2, seed=0)
    with pytest.raises(ValueError, match="at least 2 blocks"):
        confound_report(power_NC, label_N, block_N * 0, folds, seed=0)
    with pytest.raises(ValueError, match="at least 1 division"):
        confound_report(power_NC, label_N, block_N, (), seed=0)
    eeg_NCT[17, 2, 3] = np.inf
    with pytest.raises(ValueError, match="trial 17 is not"):
        confound_report(log_power(eeg_NCT), label_N, block_N, folds, seed=0)
