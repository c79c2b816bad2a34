"""Linear maps in closed form, from arrays or from moments of a stream.

Shape letters: N row, D feature, E output, K eigenvector, R direction.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from eegdecode import collectives

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
    """Maps of both sides to where they agree best: ``(x - x_mean) @ x_map_DR`` and ``(y - y_mean) @ y_map_ER``.

    The first direction has unit variance on both sides, and one of correlation r a deviation of r over that of the
    first: each is as long as what it tells of the other side, which is what a cosine between them has to weigh it by.
    """

    x_mean_D: NDArray[np.float64]
    x_map_DR: NDArray[np.float64]
    y_map_ER: NDArray[np.float64]
    correlation_R: NDArray[np.float64]


def canonical(
    x_ND: NDArray[np.floating],
    y_NE: NDArray[np.floating],
    rank: int,
    x_penalty: float = 0.03,
    y_penalty: float = 0.3,
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
    kept = correlation[:rank]
    length_R = kept / max(float(kept[0]), 1e-12)
    return Canonical(x_mean, x_half @ u[:, :rank] * length_R, y_half @ vt[:rank].T * length_R, kept)


def _inverse_root(covariance: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    half: NDArray[np.float64] = vectors / np.sqrt(np.maximum(values, 0) + penalty * values.mean())
    return half


@dataclass(frozen=True)
class TargetMoments:
    """Of one target, about the means: ``y_mean_E``, ``xy_DE = x.T @ y`` and ``yy_E``, its sums of squares."""

    y_mean_E: NDArray[np.float64]
    xy_DE: NDArray[np.float64]
    yy_E: NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """All that ridge regression needs to know of n rows of x and of any number of targets.

    Attributes
    ----------
    xx_DD
        ``x.T @ x`` about the mean of x.
    """

    n: int
    x_mean_D: NDArray[np.float64]
    xx_DD: NDArray[np.float64]
    targets: dict[str, TargetMoments]


BLOCK_ROWS = 2048
"""Rows that `accumulate` collects before it touches the moments: an update costs as much for one row as for many."""


def accumulate(batches: Iterable[tuple[NDArray[np.floating], Mapping[str, NDArray[np.floating]]]]) -> Moments:
    """Return the moments of a stream of (x_ND, {target: y_NE}) in one pass, in float64.

    Rows are centred before they are multiplied and means are corrected afterwards (Chan, Golub and LeVeque, 1983), so a
    large offset costs no digits. Result and cost do not depend on the size of the batches.

    Raises
    ------
    ValueError
        No rows, rows that do not match, targets that change from batch to batch, or values that are not finite.
    """
    found: Moments | None = None
    held: list[tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]] = []
    n_held = 0

    def absorb() -> Moments:
        x_ND = np.concatenate([x for x, _ in held])
        block = _moments_of(x_ND, {name: np.concatenate([y[name] for _, y in held]) for name in held[0][1]})
        return block if found is None else _added(found, block, into_first=True)

    for x_ND, y in batches:
        x = np.asarray(x_ND, np.float64)
        targets = {name: np.asarray(y_NE, np.float64) for name, y_NE in y.items()}
        _check_rows(x, targets, held[0] if held else None)
        held.append((x, targets))
        n_held += len(x)
        if n_held >= BLOCK_ROWS:
            found, held, n_held = absorb(), [], 0
    if n_held:
        found = absorb()
    if found is None:
        raise ValueError("Moments need at least one row, and the stream gave none.")
    return found


def merge(a: Moments, b: Moments) -> Moments:
    """Return the moments of the rows of both, as two workers saw them."""
    return _added(a, b, into_first=False)


def of_all_ranks(moments: Moments, device: torch.device | str = "cpu") -> Moments:
    """Return the moments of the rows of all ranks, the same on every rank; each brings those of its own.

    Each rank moves its moments to the common mean before they are added up, as in `merge`.

    Parameters
    ----------
    device
        Where tensors must lie to be sent.
    """

    def total(array: NDArray[np.float64]) -> NDArray[np.float64]:
        summed: NDArray[np.float64] = collectives.total(torch.from_numpy(array).to(device)).cpu().numpy()
        return summed

    n = round(float(total(np.array([moments.n], np.float64))[0]))
    x_mean_D = total(moments.n * moments.x_mean_D) / n
    x_step_D = moments.x_mean_D - x_mean_D
    targets = {}
    for name in sorted(moments.targets):
        own = moments.targets[name]
        y_mean_E = total(moments.n * own.y_mean_E) / n
        y_step_E = own.y_mean_E - y_mean_E
        xy_DE = total(own.xy_DE + moments.n * np.outer(x_step_D, y_step_E))
        targets[name] = TargetMoments(y_mean_E, xy_DE, total(own.yy_E + moments.n * y_step_E**2))
    xx_DD = total(moments.xx_DD + moments.n * np.outer(x_step_D, x_step_D))
    return Moments(n, x_mean_D, xx_DD, targets)


class RidgePath:
    """Ridge regression of any penalty from moments, from one eigendecomposition for all targets.

    The penalty is added to the diagonal of ``x.T @ x``, as scikit-learn's `alpha` is. It does not bear on the mean.

    Parameters
    ----------
    standardise
        Penalise features at unit deviation (with n - 1), as Perceptogram does (Fei et al., 2024). The weights that
        come out apply to x as it is either way.

    Raises
    ------
    ValueError
        Fewer than two rows.
    """

    def __init__(self, moments: Moments, standardise: bool = False) -> None:
        if moments.n < 2:
            raise ValueError(f"ridge needs at least two rows, got {moments.n}.")
        self.moments = moments
        deviation_D = np.sqrt(np.diag(moments.xx_DD) / (moments.n - 1)) if standardise else np.ones(len(moments.xx_DD))
        self.unit_D = np.where(
            deviation_D > 0, deviation_D, 1.0
        )  # one that never varies gets no weight whatever its unit
        power_K, self._axes_DK = np.linalg.eigh(moments.xx_DD / np.outer(self.unit_D, self.unit_D))
        power_K = np.maximum(power_K, 0)
        # Below this an eigenvalue is rounding: without a penalty its direction is left out, as in a pseudo-inverse.
        self._power_K = np.where(power_K > power_K.max() * len(power_K) * np.finfo(np.float64).eps, power_K, 0)
        self._rotated: dict[str, NDArray[np.float64]] = {}

    def fit(self, target: str, alpha: float) -> Ridge:
        """Return the map to one target."""
        y_mean_E = self._of(target).y_mean_E
        weight_DE = self._axes_DK @ (self._gain_K(alpha)[:, None] * self._rotated_KE(target)) / self.unit_D[:, None]
        return Ridge(weight_DE, y_mean_E - self.moments.x_mean_D @ weight_DE, alpha)

    def fit_by_gcv(self, target: str, alphas: tuple[float, ...]) -> Ridge:
        """Return the map whose penalty has the least generalised cross-validation error (Golub et al., 1979).

        Leave-one-out needs every row; this is its rotation-invariant form, exact from moments.
        """
        n, share_KE = self.moments.n, self._rotated_KE(target) ** 2
        errors = []
        for alpha in alphas:
            gain_K = self._gain_K(alpha)
            residual = self._of(target).yy_E.sum() - ((2 * gain_K - gain_K**2 * self._power_K) @ share_KE).sum()
            freedom = n - 1 - float(gain_K @ self._power_K)  # the mean is fitted too
            errors.append(residual / freedom**2 if freedom > 0.5 else np.inf)
        return self.fit(target, _least(alphas, errors))

    def fit_by_validation(self, target: str, validation: Moments, alphas: tuple[float, ...]) -> Ridge:
        """Return the map whose penalty has the least squared error on the rows of other moments."""
        other = validation.targets[target]
        rotated_KE = self._rotated_KE(target)
        axes_DK = self._axes_DK / self.unit_D[:, None]
        among_KK = rotated_KE @ rotated_KE.T * (axes_DK.T @ validation.xx_DD @ axes_DK)
        across_K = np.einsum("ke,ke->k", rotated_KE, axes_DK.T @ other.xy_DE)
        shift_K = (validation.x_mean_D - self.moments.x_mean_D) @ axes_DK
        errors = []
        for alpha in alphas:
            gain_K = self._gain_K(alpha)
            offset_E = other.y_mean_E - self._of(target).y_mean_E - (shift_K * gain_K) @ rotated_KE
            within = float(other.yy_E.sum() - 2 * gain_K @ across_K + gain_K @ among_KK @ gain_K)
            errors.append(within + validation.n * float(offset_E @ offset_E))
        return self.fit(target, _least(alphas, errors))

    def _of(self, target: str) -> TargetMoments:
        if target not in self.moments.targets:
            raise ValueError(f"target must be one of {sorted(self.moments.targets)}, got '{target}'.")
        return self.moments.targets[target]

    def _rotated_KE(self, target: str) -> NDArray[np.float64]:
        if target not in self._rotated:
            self._rotated[target] = self._axes_DK.T @ (self._of(target).xy_DE / self.unit_D[:, None])
        return self._rotated[target]

    def _gain_K(self, alpha: float) -> NDArray[np.float64]:
        if alpha < 0:
            raise ValueError(f"alpha must not be below 0, got {alpha}.")
        total_K = self._power_K + alpha
        return np.divide(1.0, total_K, out=np.zeros_like(total_K), where=total_K > 0)


def inductive_output_scaling(ridge: Ridge, spread_of: Moments, target: str) -> Ridge:
    """Return the map with each output's deviation restored to that of the target, for trials one at a time.

    Ridge shrinks; what is drawn from its output needs the target's spread. Perceptogram (Fei et al., 2024) takes the
    shrinkage from the test predictions, see `transductive_output_scaling`; here it is that of the predictions for the
    rows of the moments, and becomes a part of the map. Means stay: the moments' predicted mean goes to their mean.

    Parameters
    ----------
    spread_of
        Moments of training rows, or better of validation rows: a map is less shrunk on rows it was fitted to.
    """
    moments = spread_of.targets[target]
    predicted_E = np.einsum("de,df,fe->e", ridge.weight_DE, spread_of.xx_DD, ridge.weight_DE, optimize=True)
    gain_E = np.sqrt(np.divide(moments.yy_E, predicted_E, out=np.ones_like(predicted_E), where=predicted_E > 0))
    weight_DE = ridge.weight_DE * gain_E
    return Ridge(weight_DE, moments.y_mean_E - spread_of.x_mean_D @ weight_DE, ridge.alpha)


def transductive_output_scaling(
    predicted_NE: NDArray[np.floating], training: Moments, target: str
) -> NDArray[np.float64]:
    """Return test predictions with their own mean and deviation replaced by the training targets', as published.

    Perceptogram's form (Fei et al., 2024): it looks at the whole test set at once and does not exist for one trial.

    Raises
    ------
    ValueError
        Fewer than two rows.
    """
    if len(predicted_NE) < 2:
        raise ValueError(f"Transductive scaling needs the predictions of a test set, got {len(predicted_NE)} row(s).")
    moments = training.targets[target]
    deviation_E = predicted_NE.std(axis=0, dtype=np.float64)
    unit_NE = (predicted_NE - predicted_NE.mean(axis=0, dtype=np.float64)) / np.where(deviation_E > 0, deviation_E, 1.0)
    out: NDArray[np.float64] = unit_NE * np.sqrt(moments.yy_E / training.n) + moments.y_mean_E
    return out


def _least(alphas: tuple[float, ...], errors: list[float]) -> float:
    if not alphas:
        raise ValueError("alphas must name at least one penalty.")
    return alphas[int(np.argmin(errors))]


def _moments_of(x_ND: NDArray[np.float64], y: dict[str, NDArray[np.float64]]) -> Moments:
    x_mean_D = x_ND.mean(axis=0)
    x_ND = x_ND - x_mean_D
    targets = {}
    for name, y_NE in y.items():
        y_mean_E = y_NE.mean(axis=0)
        y_NE = y_NE - y_mean_E
        targets[name] = TargetMoments(y_mean_E, x_ND.T @ y_NE, np.einsum("ne,ne->e", y_NE, y_NE))
    return Moments(len(x_ND), x_mean_D, x_ND.T @ x_ND, targets)


def _added(a: Moments, b: Moments, into_first: bool) -> Moments:
    """Add moments; `into_first` reuses the large arrays of `a`, which the caller gives up."""
    if a.targets.keys() != b.targets.keys() or a.xx_DD.shape != b.xx_DD.shape:
        raise ValueError(
            f"Moments to be added must be of one x and the same targets, got {a.xx_DD.shape} with "
            f"{sorted(a.targets)} and {b.xx_DD.shape} with {sorted(b.targets)}."
        )
    n = a.n + b.n
    shift_D = b.x_mean_D - a.x_mean_D
    between = a.n * b.n / n

    def add(first: NDArray[np.float64], second: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.add(first, second, out=first if into_first else None)
        out += means
        return out

    targets = {}
    for name, one in a.targets.items():
        other = b.targets[name]
        step_E = other.y_mean_E - one.y_mean_E
        targets[name] = TargetMoments(
            one.y_mean_E + step_E * (b.n / n),
            add(one.xy_DE, other.xy_DE, between * np.outer(shift_D, step_E)),
            one.yy_E + other.yy_E + between * step_E**2,
        )
    xx_DD = add(a.xx_DD, b.xx_DD, between * np.outer(shift_D, shift_D))
    return Moments(n, a.x_mean_D + shift_D * (b.n / n), xx_DD, targets)


def _check_rows(
    x: NDArray[np.float64],
    y: dict[str, NDArray[np.float64]],
    before: tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]] | None,
) -> None:
    if x.ndim != 2 or not y or any(a.ndim != 2 or len(a) != len(x) for a in y.values()):
        shapes = {name: a.shape for name, a in y.items()}
        raise ValueError(f"A batch needs x (N, D) and at least one target (N, E), got {x.shape} and {shapes}.")
    if before is not None and (y.keys() != before[1].keys() or x.shape[1] != before[0].shape[1]):
        raise ValueError(
            f"All batches must have the same x and targets, got {x.shape[1]} with {sorted(y)} after "
            f"{before[0].shape[1]} with {sorted(before[1])}."
        )
    for name, a in {"x": x, **y}.items():
        if not np.isfinite(a).all():
            raise ValueError(f"ridge needs finite values, and '{name}' has NaN or infinity.")
