from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.covariance import ledoit_wolf

from eegdecode.data.whiten import fit_front, fit_mvnn, inverse_square_root


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
