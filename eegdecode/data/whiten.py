"""Linear maps over electrodes, fitted on training trials: the front of a decoder, and the field's noise normalisation.

Shape letters: N trial, R repetition, C chan, T time; of covariances B set, N sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, eq=False)
class NoiseSum:
    """Noise covariances of conditions, summed; the parts that the recordings of a session give are added.

    Attributes
    ----------
    sum_CC
        Sum over conditions of their covariance over electrodes.
    n
        Conditions in the sum.
    n_single
        Conditions left out because a single repetition has no covariance over repetitions.
    """

    sum_CC: F64
    n: int
    n_single: int = 0

    def __add__(self, other: "NoiseSum") -> "NoiseSum":
        """Return the sum over the conditions of both."""
        if self.sum_CC.shape != other.sum_CC.shape:
            raise ValueError(
                f"noise is added over the same electrodes, got {len(self.sum_CC)} and {len(other.sum_CC)} of them."
            )
        return NoiseSum(self.sum_CC + other.sum_CC, self.n + other.n, self.n_single + other.n_single)

    def mean(self) -> F64:
        """Return the covariance, averaged over conditions.

        Raises
        ------
        ValueError
            No condition in the sum.
        """
        if self.n == 0:
            single = f", all {self.n_single} have a single one" if self.n_single else ""
            raise ValueError(
                "noise normalisation needs a training picture with repetitions in one recording, got none"
                f"{single}. data.epochs.mvnn='epochs' does with one repetition; 'none' leaves it out."
            )
        mean_CC: F64 = self.sum_CC / self.n
        return mean_CC

    def weight(self) -> F64:
        """Return the whitening ``weight_CC @ eeg_CT``.

        Raises
        ------
        ValueError
            No condition in the sum, or a covariance that is not positive definite.
        """
        return inverse_square_root(self.mean())


def noise_sum(
    eeg_NCT: npt.NDArray[np.floating], condition_N: npt.ArrayLike, dim: Literal["time", "epochs"]
) -> NoiseSum:
    """Return what one recording gives to the multivariate noise normalisation of its session.

    Give training trials only: what is given here decides how all trials of the session are whitened, so a test trial
    among them would be a leak. The caller chooses them.

    The covariance over electrodes is that of the repetitions at each time (`time`), or of the times in each trial
    (`epochs`), averaged over times or trials. Guggenmos et al. 2018, NeuroImage 173, 434; with the shrinkage that
    NICE-EEG (commit a7709d81) uses: Ledoit-Wolf on standardised electrodes.

    Parameters
    ----------
    condition_N
        Condition (picture) of each trial; trials that share it are its repetitions.

    Raises
    ------
    ValueError
        Not one condition a trial.
    """
    code_N = np.unique(np.asarray(condition_N), return_inverse=True)[1].ravel()
    if len(code_N) != len(eeg_NCT):
        raise ValueError(f"one condition per trial is needed, got {len(code_N)} for {len(eeg_NCT)} trials.")
    n_chans = eeg_NCT.shape[1]
    sum_CC, n, n_single = np.zeros((n_chans, n_chans)), 0, 0
    by_condition_N = np.argsort(code_N, kind="stable")
    starts = np.flatnonzero(np.diff(code_N[by_condition_N], prepend=-1))
    for rows in np.split(by_condition_N, starts[1:]) if len(starts) else []:
        if dim == "time" and len(rows) < 2:
            n_single += 1
            continue
        eeg_RCT = eeg_NCT[rows].astype(np.float64)
        sum_CC += _mean_ledoit_wolf(eeg_RCT.transpose((2, 0, 1) if dim == "time" else (0, 2, 1)))
        n += 1
    return NoiseSum(sum_CC, n, n_single)


def fit_mvnn(eeg_by_condition: Sequence[npt.NDArray[np.floating]], dim: Literal["time", "epochs"]) -> F64:
    """Return the whitening of multivariate noise normalisation, ``weight_CC @ eeg_CT``, of trials sorted by condition.

    Give training conditions only. `noise_sum` says how it is computed.

    Parameters
    ----------
    eeg_by_condition
        For each condition an array (R, C, T).
    """
    if not len(eeg_by_condition):
        raise ValueError("noise normalisation needs at least one condition, got none.")
    condition_N = np.repeat(np.arange(len(eeg_by_condition)), [len(eeg_RCT) for eeg_RCT in eeg_by_condition])
    return noise_sum(np.concatenate(eeg_by_condition), condition_N, dim).weight()


def whitened(eeg_NCT: npt.NDArray[np.floating], weight_CC: F64) -> F32:
    """Return ``weight_CC @ eeg_CT`` of every trial, in float32; in blocks, so that no float64 copy of all is made."""
    white_NCT = np.empty((len(eeg_NCT), len(weight_CC), eeg_NCT.shape[2]), np.float32)
    for block in _blocks(eeg_NCT):
        white_NCT[block] = weight_CC @ eeg_NCT[block]
    return white_NCT


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
    shrinkage = _shrinkage(np.array(fourth), np.array((covariance_CC**2).sum()), np.array(distance), n)
    shrunk: F64 = (1 - shrinkage) * covariance_CC + shrinkage * mu * np.eye(p)
    return shrunk


def _shrinkage(fourth: F64, size: F64, distance: F64, n: int) -> F64:
    """Return the intensity of Ledoit and Wolf, of one covariance or of many.

    Parameters
    ----------
    size, distance
        Squared Frobenius norms of the covariance, and of its difference from the multiple of the identity.
    """
    noise = np.minimum((fourth - size) / n, distance)
    intensity: F64 = np.where(noise > 0, noise, 0) / np.where(distance > 0, distance, 1)
    return intensity


def _mean_ledoit_wolf(x_BNC: F64) -> F64:
    """Return the average over B of covariances of N samples, each shrunk on standardised electrodes.

    The B covariances are not formed. Their norms come from the smaller of the two Gram matrices, and their weighted sum
    is one product: a session of THINGS-EEG2 has two million pairs of repetitions.
    """
    n_sets, n, n_chans = x_BNC.shape
    centred_BNC = x_BNC - x_BNC.mean(axis=1, keepdims=True)
    sd_BC = np.sqrt((centred_BNC**2).mean(axis=1))
    sd_BC[sd_BC == 0] = 1.0
    z_BNC = centred_BNC / sd_BC[:, None]
    z_BCN = z_BNC.transpose(0, 2, 1)
    gram = z_BNC @ z_BCN if n < n_chans else z_BCN @ z_BNC
    size_B = (gram**2).sum(axis=(1, 2)) / n**2
    length_BN = (z_BNC**2).sum(axis=2)
    mu_B = length_BN.mean(axis=1) / n_chans
    shrinkage_B = _shrinkage((length_BN**2).mean(axis=1), size_B, size_B - n_chans * mu_B**2, n)
    weighted_SC = (centred_BNC * np.sqrt((1 - shrinkage_B) / n)[:, None, None]).reshape(-1, n_chans)
    total_CC = weighted_SC.T @ weighted_SC + np.diag((shrinkage_B * mu_B) @ sd_BC**2)
    mean_CC: F64 = total_CC / n_sets
    return mean_CC
