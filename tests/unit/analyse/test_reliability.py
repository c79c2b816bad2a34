"""Split-half reliability agrees with all trials held at once, is 0 for noise, and as expected for a known signal."""

import numpy as np
import pytest
from scipy import stats

from eegdecode.analyse import reliability
from eegdecode.analyse.reliability import ALL, MIN_PICTURES, Halves, split_half
from eegdecode.metrics import spearman_brown

TIMES_S = np.array([0.0, 0.1, 0.2, 0.5])


def halves_of(eeg_PRCT: np.ndarray, first: int = 0) -> Halves:
    """All repetitions of every picture at once, the plain way."""
    names = tuple(f"p{first + i:03d}" for i in range(len(eeg_PRCT)))
    sums = np.stack([eeg_PRCT[:, 0::2].sum(axis=1), eeg_PRCT[:, 1::2].sum(axis=1)], axis=1).astype(np.float32)
    counts = np.tile([len(eeg_PRCT[0, 0::2]), len(eeg_PRCT[0, 1::2])], (len(eeg_PRCT), 1))
    return Halves(names, sums, counts)


def trials(n_pictures: int, n_repetitions: int, signal: float, seed: int, n_chans: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (n_chans, len(TIMES_S))
    response = signal * rng.standard_normal((n_pictures, 1, *shape))
    return response + rng.standard_normal((n_pictures, n_repetitions, *shape)) + 40.0


def test_agrees_with_corrcoef_within_each_subject() -> None:
    data = {"01": trials(30, 5, 0.6, 0), "02": trials(12, 4, 0.9, 1)}
    found = split_half({s: halves_of(x) for s, x in data.items()}, {"frontal": [0], "occipital": [1, 2]}, TIMES_S)
    assert found is not None
    r_SCT = np.array(
        [
            [
                [
                    np.corrcoef(x[:, 0::2, c, t].mean(axis=1), x[:, 1::2, c, t].mean(axis=1))[0, 1]
                    for t in range(len(TIMES_S))
                ]
                for c in range(3)
            ]
            for x in data.values()
        ]
    )
    r_CT = r_SCT.mean(axis=0)
    np.testing.assert_allclose(found.value_CT, 2 * r_CT / (1 + np.abs(r_CT)), atol=1e-5)
    assert found.regions == ("frontal", "occipital", ALL)
    occipital_T = r_CT[1:].mean(axis=0)
    np.testing.assert_allclose(found.curve_RT[1], 2 * occipital_T / (1 + np.abs(occipital_T)), atol=1e-5)
    inside = occipital_T[1:3].mean()
    assert found.window_s == (0.1, 0.2)
    assert found.window_R[1] == pytest.approx(2 * inside / (1 + abs(inside)), abs=1e-5)
    assert found.pictures_of == {"01": 30, "02": 12}
    assert found.repetitions == (5,) * 30 + (4,) * 12
    assert (found.low_RT < found.curve_RT).all()
    assert (found.curve_RT < found.high_RT).all()


def test_interval_is_that_of_pictures_drawn_with_replacement() -> None:
    x_PRCT = trials(60, 4, 0.7, 3, n_chans=1)
    found = split_half({"01": halves_of(x_PRCT)}, {"other": [0]}, TIMES_S, seed=1)
    assert found is not None
    first_P, second_P = x_PRCT[:, 0::2, 0, 0].mean(axis=1), x_PRCT[:, 1::2, 0, 0].mean(axis=1)
    drawn = stats.bootstrap(
        (first_P, second_P),
        lambda x, y: np.arctanh(np.corrcoef(x, y)[0, 1]),
        paired=True,
        vectorized=False,
        n_resamples=4000,
        rng=np.random.default_rng(9),
    )
    z = np.arctanh(np.corrcoef(first_P, second_P)[0, 1])
    half = stats.t.ppf(0.975, 59) * drawn.standard_error
    assert found.regions == (ALL,)
    assert found.low_RT[0, 0] == pytest.approx(float(spearman_brown(np.tanh(z - half))), abs=0.03)
    assert found.high_RT[0, 0] == pytest.approx(float(spearman_brown(np.tanh(z + half))), abs=0.03)


def test_a_resample_is_correlated_as_if_its_pictures_were_written_out() -> None:
    rng = np.random.default_rng(2)
    x_PK, y_PK = rng.standard_normal((2, 9, 6)).astype(np.float32)
    drawn_BP = rng.integers(0, 9, (4, 9))
    weight_BP = np.stack([np.bincount(rows, minlength=9) for rows in drawn_BP]).astype(np.float32)
    expected_BK = [[np.corrcoef(x_PK[rows, k], y_PK[rows, k])[0, 1] for k in range(6)] for rows in drawn_BP]
    np.testing.assert_allclose(reliability._correlations(x_PK, y_PK, weight_BP), expected_BK, atol=1e-5)


@pytest.mark.parametrize(("n_pictures", "signal"), [(8, 1.0), (40, 0.5)])
def test_interval_of_an_average_covers_the_truth_in_most_experiments(n_pictures: int, signal: float) -> None:
    covered = 0
    for seed in range(60):
        x_PRCT = trials(n_pictures, 4, signal, 300 + seed, n_chans=20)
        found = split_half({"01": halves_of(x_PRCT)}, {"other": range(20)}, TIMES_S)
        assert found is not None
        covered += found.window_low_R[0] <= signal**2 / (signal**2 + 1 / 4) <= found.window_high_R[0]
    assert covered / 60 >= 0.85


def test_noise_is_0_and_its_interval_covers_0_in_most_experiments() -> None:
    values, covered, cells = [], 0, []
    for seed in range(60):
        found = split_half({"01": halves_of(trials(40, 4, 0.0, 100 + seed))}, {"other": [0, 1, 2]}, TIMES_S)
        assert found is not None
        values.append(found.window_R[0])
        covered += found.window_low_R[0] <= 0 <= found.window_high_R[0]
        cells.append(np.abs(found.value_CT) > found.limit)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)
    assert covered / 60 >= 0.85
    assert np.mean(cells) == pytest.approx(0.05, abs=0.025)


def test_known_signal_gives_the_reliability_of_all_its_repetitions() -> None:
    signal, n = 0.8, 6
    found = split_half({"01": halves_of(trials(200, n, signal, 5, n_chans=20))}, {"other": range(20)}, TIMES_S)
    assert found is not None
    expected = signal**2 / (signal**2 + 1 / n)
    assert found.window_R[0] == pytest.approx(expected, abs=0.02)
    assert found.window_low_R[0] < expected < found.window_high_R[0]


def test_repetitions_of_two_people_are_no_repetitions() -> None:
    """Each saw every picture once: a shared response must not make it reliable."""
    x_PRCT = trials(30, 2, 2.0, 6)
    assert split_half({"01": halves_of(x_PRCT[:, :1]), "02": halves_of(x_PRCT[:, 1:])}, {"other": [0]}, TIMES_S) is None
    few = halves_of(x_PRCT[: MIN_PICTURES - 1])
    assert split_half({"01": few}, {"other": [0]}, TIMES_S) is None
    both = split_half({"01": few, "02": halves_of(x_PRCT)}, {"other": [0, 1, 2]}, TIMES_S)
    assert both is not None
    assert both.pictures_of == {"02": 30}


def test_odd_and_even_go_on_over_recordings() -> None:
    x_PRCT = trials(10, 7, 0.5, 7)
    whole = halves_of(x_PRCT)
    parts = [x_PRCT[:, :3], x_PRCT[:, 3:4], x_PRCT[:, 4:]]
    joined = halves_of(parts[0]) + halves_of(parts[1]) + halves_of(parts[2])
    np.testing.assert_array_equal(joined.count_P2, whole.count_P2)
    np.testing.assert_allclose(joined.sum_P2CT, whole.sum_P2CT, rtol=1e-6)
    right = halves_of(parts[0]) + (halves_of(parts[1]) + halves_of(parts[2]))
    np.testing.assert_allclose(right.sum_P2CT, whole.sum_P2CT, rtol=1e-6)
    others = halves_of(x_PRCT[:4, :1], first=8) + whole
    assert others.pictures == tuple(f"p{i:03d}" for i in range(12))
    assert others.count_P2.sum(axis=1).tolist() == [7] * 8 + [8] * 2 + [1] * 2
    np.testing.assert_array_equal(others.count_P2[8], [4, 4])


def test_spearman_brown() -> None:
    np.testing.assert_allclose(spearman_brown(np.array([0.0, 0.5, 1.0, -0.5, -1.0])), [0, 2 / 3, 1, -2 / 3, -1])


def test_an_electrode_that_does_not_vary_is_0() -> None:
    x_PRCT = trials(20, 2, 1.0, 8)
    x_PRCT[:, :, 1] = 3.0
    found = split_half({"01": halves_of(x_PRCT)}, {"other": [0, 1, 2]}, TIMES_S)
    assert found is not None
    np.testing.assert_array_equal(found.value_CT[1], 0)
    assert np.isfinite(found.low_RT).all()
