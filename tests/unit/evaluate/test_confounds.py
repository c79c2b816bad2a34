"""Drift without any response to pictures: power names the class, and the null within blocks sees through it."""

import numpy as np
import pytest

from eegdecode.evaluate.confounds import confound_control, confound_report, mean_power

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


def random_folds(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(n) % 4)


def test_one_class_per_block_power_is_far_above_chance_and_nothing_is_left_within_blocks() -> None:
    eeg_NCT, label_N, block_N = block_drift(1, N_CLASSES, seed=0)
    report = confound_report(eeg_NCT, label_N, block_N, random_folds(len(label_N), 1), n_permutations=20, seed=0)
    score = report.mean_power
    assert score.accuracy > 0.9
    assert score.ci95[0] > 4 * score.chance == pytest.approx(4 / 6)
    assert score.p == pytest.approx(1 / 21)
    # Exchanging within such blocks changes nothing: the blocks alone give all of it.
    assert score.block_chance == pytest.approx(score.accuracy)
    assert score.p_within_blocks == score.smallest_p_within_blocks == 1
    assert report.classes_per_block == (1, 1.0, 1)
    assert report.blocks_in_several_folds == N_CLASSES
    assert len(report.findings) == 3
    assert "Every block holds one class" in report.findings[0]


def test_two_classes_per_block_power_is_above_chance_but_on_what_blocks_give() -> None:
    p = []
    for seed in range(6):
        eeg_NCT, label_N, block_N = block_drift(2, 12, seed=seed)
        score = confound_control(
            "power",
            mean_power,
            eeg_NCT,
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
        settings = {"n_permutations": 2, "seed": 0}
        mixed = confound_report(eeg_NCT, label_N, block_N, random_folds(len(label_N), seed), **settings)  # type: ignore[arg-type]
        report = confound_report(eeg_NCT, label_N, block_N, block_N // 6, **settings)  # type: ignore[arg-type]
        assert (mixed.blocks_in_several_folds, report.blocks_in_several_folds) == (24, 0)
        inside.append(mixed.mean_power.accuracy)
        outside.append(report.mean_power.accuracy)
    # 24 blocks are few: one data set alone may lie some way off.
    assert abs(np.mean(outside) - 1 / 6) < 3 * np.std(outside) / np.sqrt(8) + 0.01
    assert np.mean(inside) > np.mean(outside) + 0.1


def test_clean_data_yield_no_finding() -> None:
    eeg_NCT, label_N, block_N = block_drift(N_CLASSES, 12, seed=3)
    report = confound_report(
        eeg_NCT, label_N, block_N, block_N // 3, blank_NCT=eeg_NCT[:, :, :10], n_permutations=30, seed=0
    )
    assert report.findings == ()
    assert report.mean_power.p > 0.05
    assert report.mean_power.ci95[0] <= report.mean_power.chance <= report.mean_power.ci95[1]


def test_a_response_to_the_class_is_seen_within_blocks_and_not_before_the_picture() -> None:
    eeg_NCT, label_N, block_N = block_drift(3, 12, seed=4, response=0.3)
    blank_NCT = block_drift(3, 12, seed=5, drift=0.0)[0]
    report = confound_report(
        eeg_NCT, label_N, block_N, random_folds(len(label_N), 0), blank_NCT=blank_NCT, n_permutations=40, seed=0
    )
    assert report.mean_power.p_within_blocks == pytest.approx(1 / 41)
    assert report.mean_power.accuracy > report.mean_power.block_chance + 0.05
    assert report.blank is not None
    assert report.blank.ci95[0] <= report.blank.chance <= report.blank.ci95[1]
    # Drift that is there before the picture is told as such.
    drifting = confound_report(
        eeg_NCT,
        label_N,
        block_N,
        random_folds(len(label_N), 0),
        blank_NCT=eeg_NCT[:, :, :15],
        n_permutations=20,
        seed=0,
    )
    assert any("window before the picture alone names" in finding for finding in drifting.findings)


def test_bad_divisions_are_named() -> None:
    eeg_NCT, label_N, block_N = block_drift(1, N_CLASSES, seed=0)
    fold_N = np.where(block_N == 2, 9, random_folds(len(label_N), 0))
    with pytest.raises(ValueError, match="'2' has none when fold '9' is left out"):
        confound_report(eeg_NCT, label_N, block_N, fold_N, n_permutations=2, seed=0)
    with pytest.raises(ValueError, match="at least 2 blocks"):
        confound_report(eeg_NCT, label_N, block_N * 0, random_folds(len(label_N), 0), seed=0)
    eeg_NCT[17, 2, 3] = np.inf
    with pytest.raises(ValueError, match="trial 17 is not"):
        confound_report(eeg_NCT, label_N, block_N, random_folds(len(label_N), 0), seed=0)
