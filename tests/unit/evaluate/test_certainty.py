"""Calibration on galleries of one size, the ceiling of test trials, and the reasons where there is none."""

import numpy as np
import pytest

from eegdecode.evaluate import plots
from eegdecode.evaluate.certainty import Part, calibration_fact, ceiling_fact, small_galleries
from eegdecode.evaluate.retrieval import score_matrix

DIM = 16


def part(prefix: str, n_concepts: int, per_concept: int, repetitions: int, noise: float, seed: int) -> Part:
    """EEG that is the target with noise, as (N, DIM, 1)."""
    rng = np.random.default_rng(seed)
    n = n_concepts * per_concept
    pictures = tuple(f"{prefix}{i:03d}" for i in range(n))
    target_PD = rng.normal(size=(n, DIM)).astype(np.float32)
    eeg_NCT = np.repeat(target_PD, repetitions, axis=0) + noise * rng.normal(size=(n * repetitions, DIM))
    return Part(
        eeg_uv_NCT=eeg_NCT.astype(np.float32)[:, :, None],
        picture_N=np.repeat(np.array(pictures), repetitions),
        subject_N=np.array(["s1"] * n * repetitions),
        pictures=pictures,
        concepts=tuple(f"{prefix}c{i // per_concept:02d}" for i in range(n)),
        target_PD=target_PD,
    )


def cosine(eeg_uv_QCT: np.ndarray, subject_Q: np.ndarray, target_PD: np.ndarray) -> np.ndarray:
    assert subject_Q.tolist() == ["s1"] * len(eeg_uv_QCT)
    return score_matrix(eeg_uv_QCT[:, :, 0], target_PD)


def test_galleries_share_no_picture_and_hold_one_of_a_concept() -> None:
    pictures = [f"p{i:02d}" for i in range(33)]
    concepts = [f"c{i // 3:02d}" for i in range(33)]
    found = small_galleries(pictures, concepts, 5, seed=2)
    assert len(found) == 6  # 11 concepts give two galleries of 5 in each of 3 turns; one picture a turn is left out
    drawn = [picture for gallery in found for picture in gallery]
    assert len(set(drawn)) == len(drawn) == 30
    of = dict(zip(pictures, concepts, strict=True))
    assert all(len({of[picture] for picture in gallery}) == 5 for gallery in found)
    assert found == small_galleries(pictures[::-1], concepts[::-1], 5, seed=2)


def test_calibration_ranks_galleries_of_one_size_with_as_many_repetitions() -> None:
    val, test = part("v", 20, 10, 2, 2.0, 1), part("t", 100, 1, 6, 2.0, 2)
    fact = calibration_fact(val, test, cosine, test_repetitions=0, seed=0)
    assert fact.repetitions == 2
    found = fact.result
    assert found is not None
    assert (found.temperature.n_way, found.coverage.n_way) == (20, 20)
    assert (found.temperature.n_queries, found.calibrated.n_queries) == (200, 100)
    assert found.calibrated.chance == pytest.approx(1 / 20)
    assert found.calibrated.ece < found.uncalibrated.ece
    low, high = found.coverage.ci95
    assert low - 0.05 <= 0.9 <= high + 0.05
    assert plots.reliability(found).startswith(b"\x89PNG")


def test_repetitions_of_the_protocol_bound_those_of_the_calibration() -> None:
    val, test = part("v", 20, 2, 4, 2.0, 1), part("t", 40, 1, 6, 2.0, 2)
    assert calibration_fact(val, test, cosine, test_repetitions=1, seed=0).repetitions == 1
    assert calibration_fact(val, test, cosine, test_repetitions=0, seed=0).repetitions == 4


def test_no_calibration_says_why() -> None:
    test = part("t", 40, 1, 4, 2.0, 2)
    fact = calibration_fact(None, test, cosine, test_repetitions=0, seed=0, reason="nothing was held out.")
    assert (fact.result, fact.reason) == (None, "nothing was held out.")
    few = calibration_fact(part("v", 5, 1, 4, 2.0, 1), test, cosine, test_repetitions=0, seed=0)
    assert few.result is None
    assert "validation has 5 queries over 5 concepts" in few.reason
    with pytest.raises(ValueError, match="in validation and test"):
        calibration_fact(test, test, cosine, test_repetitions=0, seed=0)


def test_ceiling_is_the_correlation_of_halves_after_the_picture() -> None:
    rng = np.random.default_rng(0)
    n_pictures, n_repetitions = 200, 8
    signal_PC = rng.normal(size=(n_pictures, 2))
    eeg_NCT = np.zeros((n_pictures * n_repetitions, 3, 30), np.float32)
    # At 100 Hz from -0.1 s: 10 samples before the picture that carry noise alone, then bins of 5 samples; E3 is silent.
    eeg_NCT[:, :2, :] = np.repeat(signal_PC, n_repetitions, axis=0)[:, :, None]
    eeg_NCT[:, :2, :] += 2 * np.repeat(rng.normal(size=(len(eeg_NCT), 2, 6)), 5, axis=2)
    eeg_NCT[:, :2, :10] = 50 * rng.normal(size=(len(eeg_NCT), 2, 10))
    picture_N = np.repeat([f"p{i}" for i in range(n_pictures)], n_repetitions)
    subject_N = np.array(["s1"] * len(eeg_NCT))
    fact = ceiling_fact(eeg_NCT, picture_N, subject_N, sfreq_hz=100, tmin_s=-0.1, seed=0)
    found = fact.per_subject["s1"]
    assert (found.n_conditions, found.n_repetitions) == (n_pictures, n_repetitions)
    # Signal variance 1, noise variance 4 in a repetition: a half of four has 1 / (1 + 1), all eight 1 / (1 + 0.5).
    assert found.lower == pytest.approx(0.5, abs=0.06)
    assert found.corrected == pytest.approx(2 / 3, abs=0.06)
    once = ceiling_fact(eeg_NCT[::8], picture_N[::8], subject_N[::8], sfreq_hz=100, tmin_s=-0.1, seed=0)
    assert once.per_subject == {}
    assert "200 pictures and 1 of the one shown least" in once.reason
