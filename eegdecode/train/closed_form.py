"""Linear maps in closed form. Shape letters: N row, D feature, E output, A alpha."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALPHAS = tuple(float(a) for a in np.logspace(-4, 3, 15))


@dataclass(frozen=True)
class Ridge:
    """``y = x @ weight_DE + bias_E``, with the penalty that was chosen."""

    weight_DE: NDArray[np.float64]
    bias_E: NDArray[np.float64]
    alpha: float


def ridge_loo(x_ND: NDArray[np.floating], y_NE: NDArray[np.floating], alphas: tuple[float, ...] = ALPHAS) -> Ridge:
    """Fit ridge regression with the penalty of the least leave-one-out error, exactly and from one decomposition.

    Both sides are centred; `alpha` is in units of the mean eigenvalue of ``x.T @ x``, so that it does not depend on
    the number of rows or the scale of x. Leave-one-out residuals follow from the hat matrix (Allen 1974).

    Raises
    ------
    ValueError
        Fewer than two rows, rows that do not match, or values that are not finite.
    """
    x, y = np.asarray(x_ND, np.float64), np.asarray(y_NE, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"ridge needs at least two rows of x and as many of y, got {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("ridge needs finite x and y.")
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    u_NK, s_K, vt_KD = np.linalg.svd(x - x_mean, full_matrices=False)
    uy_KE = u_NK.T @ (y - y_mean)
    power = float(np.mean(s_K**2)) or 1.0
    errors = []
    for alpha in alphas:
        shrink_K = s_K**2 / (s_K**2 + alpha * power)
        # The mean is a fitted parameter too: 1/N of leverage each.
        leverage_N = np.einsum("nk,k,nk->n", u_NK, shrink_K, u_NK) + 1 / len(x)
        residual_NE = (y - y_mean) - u_NK @ (shrink_K[:, None] * uy_KE)
        errors.append(float(np.mean((residual_NE / np.maximum(1 - leverage_N, 1e-9)[:, None]) ** 2)))
    best = alphas[int(np.argmin(errors))]
    weight_DE = vt_KD.T @ ((s_K / (s_K**2 + best * power))[:, None] * uy_KE)
    return Ridge(weight_DE, y_mean - x_mean @ weight_DE, best)


@dataclass(frozen=True)
class Canonical:
    """Maps of both sides to where they agree best: ``(x - x_mean) @ x_map_DR`` and ``(y - y_mean) @ y_map_ER``."""

    x_mean_D: NDArray[np.float64]
    x_map_DR: NDArray[np.float64]
    y_map_ER: NDArray[np.float64]
    correlation_R: NDArray[np.float64]


def canonical(
    x_ND: NDArray[np.floating],
    y_NE: NDArray[np.floating],
    rank: int,
    x_penalty: float = 0.03,
    y_penalty: float = 0.1,
) -> Canonical:
    """Return regularised canonical correlations (Hotelling 1936; Vinod 1976) from moments.

    Penalties are added to the covariances in units of their mean eigenvalue. Directions in which one side hardly varies
    are then not blown up, which is what decides where single trials are mostly noise.

    Raises
    ------
    ValueError
        Rows that do not match, or a rank above what either side has.
    """
    x, y = np.asarray(x_ND, np.float32), np.asarray(y_NE, np.float64)
    if len(x) != len(y) or not 1 <= rank <= min(x.shape[1], y.shape[1]):
        raise ValueError(
            f"canonical correlations need as many rows of x as of y and a rank of 1 to {min(x.shape[1], y.shape[1])}, "
            f"got {x.shape}, {y.shape} and rank {rank}."
        )
    x_mean = x.mean(axis=0, dtype=np.float64)
    x = x - x_mean.astype(np.float32)
    y = y - y.mean(axis=0)
    x_half, y_half = (
        _inverse_root(a.T.astype(np.float64) @ a / len(a), penalty) for a, penalty in ((x, x_penalty), (y, y_penalty))
    )
    u, correlation, vt = np.linalg.svd(x_half.T @ (x.T @ y / len(x)) @ y_half, full_matrices=False)
    return Canonical(x_mean, x_half @ u[:, :rank], y_half @ vt[:rank].T, correlation[:rank])


def _inverse_root(covariance: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    half: NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, 0) + penalty * values.mean())
    return half
