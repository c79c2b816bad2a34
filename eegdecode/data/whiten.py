"""Linear maps over electrodes, fitted on training trials: the front of a decoder, and the field's noise normalisation.

Shape letters: N trial, R repetition, C chan, T time.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_TRIALS_AT_ONCE = 512


def fit_front(eeg_uv_NCT: npt.NDArray[np.floating], kind: Literal["none", "scale", "channels"]) -> tuple[F32, F32]:
    """Fit the fixed linear front ``weight_CC @ eeg_uv_CT + bias_C`` on training trials.

    `none` changes nothing; `scale` removes each electrode's mean and divides by its standard deviation; `channels`
    removes the mean and whitens over electrodes (ZCA), with the covariance of Ledoit and Wolf (2004) over all samples.

    Raises
    ------
    ValueError
        No trials, or an electrode that does not vary.
    """
    n, n_chans = eeg_uv_NCT.shape[0], eeg_uv_NCT.shape[1]
    if kind == "none":
        return np.eye(n_chans, dtype=np.float32), np.zeros(n_chans, dtype=np.float32)
    if n == 0:
        raise ValueError("the front is fitted on training trials, got none.")
    mean_C = _blockwise_mean(eeg_uv_NCT)
    covariance_CC = _ledoit_wolf(eeg_uv_NCT, mean_C, shrink=kind == "channels")
    variance_C = np.diag(covariance_CC)
    if not np.isfinite(variance_C).all() or (variance_C <= 0).any():
        chan = int(np.flatnonzero(~(np.isfinite(variance_C) & (variance_C > 0)))[0])
        raise ValueError(
            f"every electrode must vary over the training trials, got variance {variance_C[chan]} in {chan}."
        )
    weight_CC = np.diag(variance_C**-0.5) if kind == "scale" else inverse_square_root(covariance_CC)
    return weight_CC.astype(np.float32), (-weight_CC @ mean_C).astype(np.float32)


def fit_mvnn(eeg_by_condition: Sequence[npt.NDArray[np.floating]], dim: Literal["time", "epochs"]) -> F64:
    """Return the whitening of multivariate noise normalisation: ``weight_CC @ eeg_CT``.

    The covariance over electrodes is that of the repetitions at each time (`time`), or of the times in each trial
    (`epochs`), averaged over times or trials and then over conditions. Guggenmos et al. 2018, NeuroImage 173, 434; with
    the shrinkage that NICE-EEG (commit a7709d81) uses: Ledoit-Wolf on standardised electrodes. Give training conditions
    only.

    Parameters
    ----------
    eeg_by_condition
        For each condition an array (R, C, T).
    """
    if not len(eeg_by_condition):
        raise ValueError("noise normalisation needs at least one condition, got none.")
    sigmas = []
    for eeg_RCT in eeg_by_condition:
        if dim == "time":
            observations = [eeg_RCT[:, :, t] for t in range(eeg_RCT.shape[2])]
        else:
            observations = [eeg_RCT[r].T for r in range(eeg_RCT.shape[0])]
        sigmas.append(np.mean([_standardised_ledoit_wolf(x_NC) for x_NC in observations], axis=0))
    return inverse_square_root(np.mean(sigmas, axis=0))


def inverse_square_root(sigma_CC: F64) -> F64:
    """Return the symmetric inverse square root of a covariance.

    Raises
    ------
    ValueError
        A covariance that is not positive definite.
    """
    values_C, vectors_CC = np.linalg.eigh(sigma_CC)
    if values_C[0] <= 0:
        raise ValueError(
            f"a covariance must be positive definite to whiten, got a smallest eigenvalue of {values_C[0]:.3g}; "
            "two electrodes may be copies, or an average reference took away a dimension."
        )
    root: F64 = (vectors_CC * values_C**-0.5) @ vectors_CC.T
    return root


def _blocks(eeg_uv_NCT: npt.NDArray[np.floating]) -> list[slice]:
    return [slice(i, i + _TRIALS_AT_ONCE) for i in range(0, len(eeg_uv_NCT), _TRIALS_AT_ONCE)]


def _blockwise_mean(eeg_uv_NCT: npt.NDArray[np.floating]) -> F64:
    total_C = np.zeros(eeg_uv_NCT.shape[1])
    for block in _blocks(eeg_uv_NCT):
        total_C += eeg_uv_NCT[block].sum(axis=(0, 2), dtype=np.float64)
    mean_C: F64 = total_C / (eeg_uv_NCT.shape[0] * eeg_uv_NCT.shape[2])
    return mean_C


def _ledoit_wolf(eeg_uv_NCT: npt.NDArray[np.floating], mean_C: F64, shrink: bool) -> F64:
    # In blocks of trials, because the whole set in float64 would not fit beside itself. The fourth moment that the
    # shrinkage needs is the sum over samples of |x|^4, so no array of squares is made either.
    n_chans = len(mean_C)
    scatter_CC, fourth = np.zeros((n_chans, n_chans)), 0.0
    for block in _blocks(eeg_uv_NCT):
        x_CS = eeg_uv_NCT[block].astype(np.float64).transpose(1, 0, 2).reshape(n_chans, -1) - mean_C[:, None]
        scatter_CC += x_CS @ x_CS.T
        fourth += float(((x_CS**2).sum(axis=0) ** 2).sum())
    n_samples = eeg_uv_NCT.shape[0] * eeg_uv_NCT.shape[2]
    covariance_CC = scatter_CC / n_samples
    return ledoit_wolf_shrunk(covariance_CC, fourth / n_samples, n_samples) if shrink else covariance_CC


def ledoit_wolf_shrunk(covariance_CC: F64, fourth: float, n: int) -> F64:
    """Shrink a covariance of n samples towards a multiple of the identity (Ledoit and Wolf 2004).

    Parameters
    ----------
    fourth
        Mean over samples of the fourth power of the centred sample's length.
    """
    p = len(covariance_CC)
    mu = np.trace(covariance_CC) / p
    distance = float(((covariance_CC - mu * np.eye(p)) ** 2).sum())
    noise = min((fourth - float((covariance_CC**2).sum())) / n, distance)
    shrinkage = noise / distance if noise > 0 else 0.0
    shrunk: F64 = (1 - shrinkage) * covariance_CC + shrinkage * mu * np.eye(p)
    return shrunk


def _standardised_ledoit_wolf(x_NC: npt.NDArray[np.floating]) -> F64:
    centred_NC = x_NC.astype(np.float64) - x_NC.mean(axis=0, dtype=np.float64)
    sd_C = np.sqrt((centred_NC**2).mean(axis=0))
    sd_C[sd_C == 0] = 1.0
    z_NC = centred_NC / sd_C
    n = len(z_NC)
    sigma_CC = ledoit_wolf_shrunk(z_NC.T @ z_NC / n, float(((z_NC**2).sum(axis=1) ** 2).sum()) / n, n)
    unscaled: F64 = sigma_CC * np.outer(sd_C, sd_C)
    return unscaled
