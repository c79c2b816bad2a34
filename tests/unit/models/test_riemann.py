"""The features of encoder `riemann`, against pyriemann's on the same trials."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pyriemann.estimation import ERPCovariances, XdawnCovariances
from pyriemann.geometry.mean import mean_riemann
from pyriemann.tangentspace import TangentSpace
from sklearn.covariance import oas

from eegdecode.models.riemann import (
    CovarianceTangent,
    riemann,
    riemann_erp,
    riemann_samples,
    riemannian_mean,
    shrunk_covariance,
    tangent,
)

CHANS, TIMES, DIM = 4, 60, 3


def two_pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials of two pictures shown equally often, which picture, and its target."""
    rng = np.random.default_rng(0)
    second_N = np.arange(80) % 2
    eeg_NCT = rng.normal(size=(80, CHANS, TIMES)) * np.array([1.0, 4.0, 2.0, 3.0])[:, None] + 5
    eeg_NCT += np.where(second_N, 1, -1)[:, None, None] * rng.normal(size=(CHANS, TIMES))
    return eeg_NCT, second_N, rng.normal(size=(2, 7))[second_N]


def fitted(
    eeg_NCT: np.ndarray, target_NE: np.ndarray, make: Callable[..., CovarianceTangent] = riemann
) -> CovarianceTangent:
    torch.manual_seed(0)
    encoder = make(CHANS, TIMES, DIM, 0.0)
    encoder.fit_features(torch.from_numpy(eeg_NCT), torch.from_numpy(target_NE))
    return encoder.eval()


def test_with_two_pictures_the_features_are_those_of_pyriemann() -> None:
    eeg_NCT, second_N, target_NE = two_pictures()
    encoder = fitted(eeg_NCT[:60], target_NE[:60])
    wanted = XdawnCovariances(nfilter=2, estimator="oas", xdawn_estimator="oas")
    wanted_NMM = wanted.fit_transform(eeg_NCT[:60], second_N[:60])
    # A principal direction has no sign, and neither has a filter: find which of theirs is which of ours.
    cosine_FF = encoder.filter_FC.numpy() @ wanted.Xd_.filters_.T
    same_F = max(([0, 1, 2, 3], [2, 3, 0, 1]), key=lambda order: np.abs(cosine_FF[np.arange(4), order]).sum())
    sign_F = np.sign(cosine_FF[np.arange(4), same_F])
    assert np.abs(cosine_FF[np.arange(4), same_F]) == pytest.approx(np.ones(4), abs=1e-9)
    order_M = [*same_F, *(4 + f for f in same_F)]
    turn_MM = np.concatenate([sign_F, sign_F])[:, None] * np.eye(8)[order_M]
    space = TangentSpace().fit(turn_MM @ wanted_NMM @ turn_MM.T)
    tangent_NX = space.transform(turn_MM @ wanted.transform(eeg_NCT) @ turn_MM.T)
    fit_NX = tangent_NX[:60]
    wanted_NX = (tangent_NX - fit_NX.mean(axis=0)) / np.sqrt(fit_NX.var(axis=0).mean())
    assert wanted_NX.shape == (80, 36)
    # Double precision inside; what leaves is float32.
    np.testing.assert_allclose(encoder.features(torch.from_numpy(eeg_NCT)).numpy(), wanted_NX, rtol=0, atol=2e-6)
    covariance_NMM = encoder._covariance(torch.from_numpy(eeg_NCT))
    exact_NX = tangent(covariance_NMM, encoder.root_MM).numpy()
    np.testing.assert_allclose(exact_NX, tangent_NX, rtol=0, atol=1e-6)


def test_without_filters_they_are_those_of_its_erp_covariances() -> None:
    eeg_NCT, second_N, target_NE = two_pictures()
    encoder = fitted(eeg_NCT[:60], target_NE[:60], riemann_erp)
    wanted = ERPCovariances(estimator="oas").fit(eeg_NCT[:60], second_N[:60])
    first = np.allclose(encoder.response_RT[:CHANS], wanted.P_[:CHANS], atol=1e-9)
    order_M = [*range(12)] if first else [4, 5, 6, 7, 0, 1, 2, 3, 8, 9, 10, 11]
    space = TangentSpace().fit(wanted.transform(eeg_NCT[:60])[:, order_M][:, :, order_M])
    wanted_NX = space.transform(wanted.transform(eeg_NCT)[:, order_M][:, :, order_M])
    exact_NX = tangent(encoder._covariance(torch.from_numpy(eeg_NCT)), encoder.root_MM).numpy()
    assert exact_NX.shape == (80, 78)
    np.testing.assert_allclose(exact_NX, wanted_NX, rtol=0, atol=1e-6)


def test_samples_stand_beside_the_covariances_white_over_electrodes() -> None:
    eeg_NCT, _, target_NE = two_pictures()
    eeg = torch.from_numpy(eeg_NCT)
    without_NX = fitted(eeg_NCT, target_NE).features(eeg)
    found_NX = fitted(eeg_NCT, target_NE, riemann_samples).features(eeg)
    torch.testing.assert_close(found_NX[:, :36], without_NX, rtol=0, atol=0)
    flat_CN = np.concatenate(list(eeg_NCT), axis=1)
    values_C, vectors_CC = np.linalg.eigh(oas(flat_CN.T)[0])
    white_NX = ((vectors_CC / np.sqrt(values_C)) @ vectors_CC.T @ eeg_NCT).reshape(80, -1)
    white_NX -= white_NX.mean(axis=0)
    np.testing.assert_allclose(found_NX[:, 36:], white_NX / np.sqrt(white_NX.var(axis=0).mean()), rtol=0, atol=2e-6)


def test_shrinkage_and_mean_are_those_of_the_libraries() -> None:
    x_NMT = np.random.default_rng(1).normal(size=(9, 5, 12)) * np.arange(1.0, 6.0)[:, None] + 3
    found_NMM = shrunk_covariance(torch.from_numpy(x_NMT))
    np.testing.assert_allclose(found_NMM.numpy(), [oas(x.T)[0] for x in x_NMT], rtol=1e-12)
    np.testing.assert_allclose(riemannian_mean(found_NMM).numpy(), mean_riemann(found_NMM.numpy()), atol=1e-8)


def test_of_many_targets_the_main_direction_counts() -> None:
    """Eight pictures in two groups: what tells the groups apart decides, not what tells pictures of a group apart."""
    eeg_NCT, second_N, target_NE = two_pictures()
    wanted = fitted(eeg_NCT, target_NE)
    rng = np.random.default_rng(2)
    picture_N = second_N + 2 * (np.arange(80) // 2 % 4)
    among_PE = 1e-6 * rng.normal(size=(8, 7))
    found = fitted(eeg_NCT, target_NE + among_PE[picture_N])
    eeg = torch.from_numpy(eeg_NCT)
    torch.testing.assert_close(found.features(eeg), wanted.features(eeg), rtol=0, atol=1e-3)


def test_what_cannot_be_fitted_is_refused() -> None:
    eeg_NCT, _, target_NE = two_pictures()
    with pytest.raises(ValueError, match="one target per trial is needed, got 79 for 80 trials"):
        fitted(eeg_NCT, target_NE[1:])
    with pytest.raises(ValueError, match="needs targets that differ"):
        fitted(eeg_NCT, np.ones((80, 7)))
