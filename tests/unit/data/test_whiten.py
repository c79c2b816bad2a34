from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.covariance import ledoit_wolf
from sklearn.preprocessing import StandardScaler

from eegdecode.data.whiten import NoiseSum, fit_front, fit_mvnn, inverse_square_root, noise_sum, whitened


def trials(n: int = 700, n_chans: int = 5, n_times: int = 20) -> np.ndarray:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(n_chans, n_chans))
    offset = rng.normal(0, 30, (n_chans, 1))
    return (np.einsum("cd,ndt->nct", mixing, rng.normal(0, 10, (n, n_chans, n_times))) + offset).astype(np.float32)


def test_channels_is_zca_with_the_ledoit_wolf_covariance_of_all_samples() -> None:
    eeg = trials()  # more trials than one block
    weight, bias = fit_front(eeg, "channels")
    samples = eeg.transpose(0, 2, 1).reshape(-1, 5).astype(np.float64)
    sigma, _ = ledoit_wolf(samples)
    expected = inverse_square_root(sigma)
    np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-7)
    white = samples @ weight.T.astype(np.float64) + bias
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(5), atol=0.02)
    np.testing.assert_array_equal(weight, weight.T)


def test_few_samples_are_shrunk_as_scikit_learn_does() -> None:
    eeg = trials(n=2, n_times=4)
    weight, _ = fit_front(eeg, "channels")
    sigma, shrinkage = ledoit_wolf(eeg.transpose(0, 2, 1).reshape(-1, 5).astype(np.float64))
    assert 0.05 < shrinkage < 1
    np.testing.assert_allclose(weight, inverse_square_root(sigma), rtol=1e-5, atol=1e-7)


def test_scale_removes_mean_and_scale_of_each_electrode() -> None:
    eeg = trials()
    weight, bias = fit_front(eeg, "scale")
    out = np.einsum("cd,ndt->nct", weight, eeg) + bias[:, None]
    np.testing.assert_allclose(out.mean(axis=(0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(out.std(axis=(0, 2)), 1, rtol=1e-4)
    assert np.count_nonzero(weight - np.diag(np.diag(weight))) == 0


def test_none_changes_nothing() -> None:
    weight, bias = fit_front(trials(), "none")
    np.testing.assert_array_equal(weight, np.eye(5, dtype=np.float32))
    np.testing.assert_array_equal(bias, np.zeros(5, dtype=np.float32))
    assert weight.dtype == bias.dtype == np.float32


def test_an_electrode_without_variance_and_no_trials_are_refused() -> None:
    eeg = trials()
    eeg[:, 3] = 7.0
    with pytest.raises(ValueError, match="every electrode must vary"):
        fit_front(eeg, "scale")
    with pytest.raises(ValueError, match="got none"):
        fit_front(eeg[:0], "channels")
    with pytest.raises(ValueError, match="positive definite"):
        inverse_square_root(np.ones((2, 2)))


def published_noise(eeg_NCT: np.ndarray, condition_N: np.ndarray, dim: str) -> np.ndarray:
    """One covariance after the other, by scikit-learn; the average over conditions."""
    sigmas = []
    for condition in np.unique(condition_N):
        eeg_RCT = eeg_NCT[condition_N == condition].astype(np.float64)
        if dim == "time" and len(eeg_RCT) < 2:
            continue
        each = []
        for x_NC in eeg_RCT.transpose((2, 0, 1) if dim == "time" else (0, 2, 1)):
            scaler = StandardScaler()
            sigma = ledoit_wolf(scaler.fit_transform(x_NC))[0]
            each.append(sigma * np.outer(scaler.scale_, scaler.scale_))
        sigmas.append(np.mean(each, axis=0))
    return np.asarray(np.mean(sigmas, axis=0))


def repeated(seed: int, n_conditions: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Trials in an order of presentation, 1 to 4 of a condition."""
    rng = np.random.default_rng(seed)
    condition = rng.permutation(np.repeat(np.arange(n_conditions), 1 + np.arange(n_conditions) % 4))
    return trials(len(condition))[rng.permutation(len(condition))], np.array([f"p{c}" for c in condition])


@pytest.mark.parametrize("dim", ["time", "epochs"])
def test_noise_is_scikit_learns_covariance_one_after_the_other(dim: str) -> None:
    eeg, condition = repeated(0)
    eeg[:2, 1] = 3.0  # an electrode that held still for two trials
    found = noise_sum(eeg, condition, dim)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.mean(), published_noise(eeg, condition, dim), rtol=1e-10, atol=1e-10)
    assert (found.n, found.n_single) == ((6, 3) if dim == "time" else (9, 0))
    white = whitened(eeg, found.weight())
    np.testing.assert_allclose(white, np.einsum("cd,ndt->nct", found.weight(), eeg), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", ["time", "epochs"])
def test_parts_of_a_session_add_up_to_the_whole(dim: str) -> None:
    one, two = repeated(1), repeated(2)
    there = np.array([f"other-{c}" for c in two[1]])  # a repetition is one within a recording
    parts = noise_sum(*one, dim) + noise_sum(two[0], there, dim)  # type: ignore[arg-type]
    whole = noise_sum(np.concatenate([one[0], two[0]]), np.concatenate([one[1], there]), dim)  # type: ignore[arg-type]
    np.testing.assert_allclose(parts.sum_CC, whole.sum_CC, rtol=1e-12)
    assert (parts.n, parts.n_single) == (whole.n, whole.n_single)
    np.testing.assert_allclose(parts.weight(), whole.weight(), rtol=1e-9)


def test_the_order_of_trials_does_not_matter_and_their_condition_does() -> None:
    eeg, condition = repeated(3)
    eeg += np.array([200.0 * int(name[1:]) for name in condition], np.float32)[:, None, None]
    order = np.random.default_rng(0).permutation(len(eeg))
    weight = noise_sum(eeg, condition, "time").weight()
    np.testing.assert_allclose(noise_sum(eeg[order], condition[order], "time").weight(), weight, rtol=1e-9)
    assert np.abs(noise_sum(eeg, condition[order], "time").weight() - weight).max() > 0.1 * np.abs(weight).max()


def test_trials_that_are_not_given_change_nothing_and_are_whitened_the_same() -> None:
    eeg, condition = repeated(4)
    training = condition < "p6"
    weight = noise_sum(eeg[training], condition[training], "epochs").weight()
    other = eeg.copy()
    other[~training] *= 50.0
    again = noise_sum(other[training], condition[training], "epochs").weight()
    np.testing.assert_array_equal(again, weight)
    np.testing.assert_allclose(whitened(other, again)[~training], 50 * whitened(eeg, weight)[~training], rtol=1e-5)
    with_all = noise_sum(other, condition, "epochs").weight()
    assert np.abs(with_all).max() < 0.5 * np.abs(weight).max()


def test_whitening_is_the_same_in_blocks_and_at_once() -> None:
    eeg = trials(1100)  # three blocks
    weight = np.random.default_rng(0).normal(size=(5, 5))
    white = whitened(eeg, weight)
    np.testing.assert_allclose(white, np.einsum("cd,ndt->nct", weight, eeg.astype(np.float64)), rtol=1e-5, atol=1e-4)
    assert white.dtype == np.float32


def test_noise_without_repetitions_is_refused_where_it_needs_them() -> None:
    eeg = trials(4)
    single = noise_sum(eeg, ["a", "b", "c", "d"], "time")
    assert (single.n, single.n_single) == (0, 4)
    with pytest.raises(ValueError, match=r"needs a training picture with repetitions .* all 4 have a single one"):
        single.weight()
    both = single + noise_sum(eeg, ["a", "a", "b", "b"], "time")
    assert (both.n, both.n_single) == (2, 4)
    assert noise_sum(eeg, ["a", "b", "c", "d"], "epochs").weight().shape == (5, 5)
    with pytest.raises(ValueError, match=r"got none\. data\.epochs\.mvnn"):
        noise_sum(eeg[:0], [], "epochs").weight()
    with pytest.raises(ValueError, match="one condition per trial is needed, got 2 for 4"):
        noise_sum(eeg, ["a", "b"], "time")
    with pytest.raises(ValueError, match="same electrodes, got 5 and 2"):
        single + NoiseSum(np.eye(2), 1)


@pytest.mark.parametrize("dim", ["time", "epochs"])
@pytest.mark.parametrize("session", ["ses0", "ses1"])
def test_golden_mvnn_nice(shared: Path, dim: str, session: str) -> None:
    case = load_file(shared / "golden" / f"mvnn_nice_{dim}.safetensors")
    weight = fit_mvnn(list(case[f"input.train.{session}"]), dim)  # type: ignore[arg-type]
    want = case[f"expected.inv_sqrt.{session}"]
    assert np.abs(weight - want).max() <= 1e-5 * np.abs(want).max()
    for part in ("train", "test"):
        white = np.einsum("cd,krdt->krct", weight, case[f"input.{part}.{session}"].astype(np.float64))
        want = case[f"expected.{part}.{session}"]
        assert np.abs(white - want).max() <= 1e-5 * np.abs(want).max()
