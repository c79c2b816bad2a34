"""Covariances of trials beside their evoked responses, seen from their mean, and one linear map of that.

The features are those of xDAWN covariances in the tangent space (Rivet et al. 2009, IEEE Trans. Biomed. Eng. 56, 2035;
Barachant et al. 2013, Neurocomputing 112, 172), as pyriemann has them. There the evoked responses are those of classes.
A target here is a vector, so they are those one deviation below and above the mean along the direction in which the
targets of the training trials vary most: with two pictures shown equally often, the mean responses to either.
A covariance does not know the sign of a response; the samples of the trial do, and can stand beside it.

Shape letters: B batch, N trial, C chan, T time, F filter, R row of a response, M row of a covariance, D embedding, E
target, X feature.
"""

import torch
from torch import nn

FILTERS = 2
"""Spatial filters for each evoked response."""
MEAN_STEPS, MEAN_TOLERANCE = 50, 1e-9
"""When the mean of covariances is found: after so many steps, or where one moves it by less."""


class CovarianceTangent(nn.Module):
    """Fixed features, fitted once on training trials (`fit_features`), and a linear map that is learnt.

    Until they are fitted the filters are electrodes and the responses sines.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        On the features.
    filtered
        Whether responses and trials go through `FILTERS` xDAWN filters for each response, or stay electrodes.
    samples
        Whether the samples of a trial, white over electrodes, are features too: as much of them as of covariances.
    """

    filter_FC: torch.Tensor
    response_RT: torch.Tensor
    root_MM: torch.Tensor
    white_CC: torch.Tensor
    mean_X: torch.Tensor
    scale_X: torch.Tensor

    def __init__(
        self, n_chans: int, n_times: int, embed_dim: int, dropout: float, filtered: bool, samples: bool = False
    ) -> None:
        super().__init__()
        self.filtered, self.samples = filtered, samples
        n_responses = 2 * (min(FILTERS, n_chans) if filtered else n_chans)
        n_filters = n_responses if filtered else n_chans
        n_rows = n_responses + n_filters
        n_features = n_rows * (n_rows + 1) // 2 + samples * n_chans * n_times
        phase_RT = torch.outer(torch.arange(1.0, n_responses + 1), torch.linspace(0.0, torch.pi, n_times))
        # In double precision: a logarithm of small eigenvalues is taken, and a bundle must give the same features.
        for name, value in {
            "filter_FC": torch.eye(n_chans)[torch.arange(n_filters) % n_chans],
            "response_RT": phase_RT.sin(),
            "root_MM": torch.eye(n_rows),
            "white_CC": torch.eye(n_chans),
            "mean_X": torch.zeros(n_features),
            "scale_X": torch.ones(n_features),
        }.items():
            self.register_buffer(name, value.double())
        self.dropout = nn.Dropout(dropout)
        self.map = nn.Linear(n_features, embed_dim)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.map(self.dropout(self.features(eeg_BCT)))
        return z_BD

    def features(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the features (B, X), float32; over the training trials the variance of each kind is 1 on average."""
        with torch.autocast(eeg_BCT.device.type, enabled=False):
            return ((torch.cat(self._kinds(eeg_BCT.double()), dim=1) - self.mean_X) / self.scale_X).float()

    def fit_features(self, eeg_NCT: torch.Tensor, target_NE: torch.Tensor) -> None:
        """Fit filters, responses and the mean covariance on training trials; no gradient does.

        Raises
        ------
        ValueError
            Not one target a trial, or targets that are all alike.
        """
        if len(eeg_NCT) != len(target_NE):
            raise ValueError(f"one target per trial is needed, got {len(target_NE)} for {len(eeg_NCT)} trials.")
        with torch.no_grad():
            eeg_NCT = eeg_NCT.double()
            score_N = _main_direction(target_NE.double())
            mean_CT = eeg_NCT.mean(dim=0)
            slope_CT = torch.einsum("n,nct->ct", score_N, eeg_NCT) / len(eeg_NCT)
            all_CC = shrunk_covariance(eeg_NCT.transpose(0, 1).flatten(1)[None])[0]
            filters, responses = [], []
            for response_CT in (mean_CT - slope_CT, mean_CT + slope_CT):
                if self.filtered:
                    filters.append(_filters(shrunk_covariance(response_CT[None])[0], all_CC))
                responses.append(filters[-1] @ response_CT if self.filtered else response_CT)
            if self.filtered:
                self.filter_FC.copy_(torch.cat(filters))
            self.response_RT.copy_(torch.cat(responses))
            self.root_MM.copy_(_power(riemannian_mean(self._covariance(eeg_NCT)), -0.5))
            self.white_CC.copy_(_power(all_CC, -0.5))
            kinds = self._kinds(eeg_NCT)
            self.mean_X.copy_(torch.cat(kinds, dim=1).mean(dim=0))
            # One number for all of a kind: a distance in its space means the same in every direction.
            scales = [x_NX.var(dim=0, correction=0).mean().sqrt().expand(x_NX.shape[1]) for x_NX in kinds]
            self.scale_X.copy_(torch.cat(scales))

    def _kinds(self, eeg_BCT: torch.Tensor) -> list[torch.Tensor]:
        tangent_BX = tangent(self._covariance(eeg_BCT), self.root_MM)
        return [tangent_BX, (self.white_CC @ eeg_BCT).flatten(1)] if self.samples else [tangent_BX]

    def _covariance(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        response_BRT = self.response_RT.expand(len(eeg_BCT), -1, -1)
        return shrunk_covariance(torch.cat([response_BRT, self.filter_FC @ eeg_BCT], dim=1))


def riemann(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> CovarianceTangent:
    """Return the map of xDAWN covariances."""
    return CovarianceTangent(n_chans, n_times, embed_dim, dropout, filtered=True)


def riemann_erp(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> CovarianceTangent:
    """Return the map of covariances of electrodes, without filters: for few electrodes."""
    return CovarianceTangent(n_chans, n_times, embed_dim, dropout, filtered=False)


def riemann_samples(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> CovarianceTangent:
    """Return the map of xDAWN covariances and samples: where what differs is the size of a response."""
    return CovarianceTangent(n_chans, n_times, embed_dim, dropout, filtered=True, samples=True)


def shrunk_covariance(x_BMT: torch.Tensor) -> torch.Tensor:
    """Return covariances (B, M, M) over time, shrunk by oracle approximation (Chen et al. 2010, eq. 23).

    As in scikit-learn, without the terms of order 1/M in the intensity.
    """
    n_rows, n_times = x_BMT.shape[1:]
    centred_BMT = x_BMT - x_BMT.mean(dim=2, keepdim=True)
    covariance_BMM = centred_BMT @ centred_BMT.transpose(1, 2) / n_times
    size_B = covariance_BMM.square().mean(dim=(1, 2))
    mean_B = covariance_BMM.diagonal(dim1=1, dim2=2).mean(dim=1)
    below_B = (n_times + 1) * (size_B - mean_B.square() / n_rows)
    ratio_B = (size_B + mean_B.square()) / torch.where(below_B > 0, below_B, 1.0)
    share_B = torch.where(below_B > 0, ratio_B.clamp(max=1.0), 1.0)[:, None, None]
    identity_MM = torch.eye(n_rows, dtype=x_BMT.dtype, device=x_BMT.device)
    shrunk_BMM: torch.Tensor = (1 - share_B) * covariance_BMM + share_B * mean_B[:, None, None] * identity_MM
    return shrunk_BMM


def tangent(covariance_BMM: torch.Tensor, root_MM: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of covariances (B, M, M) at a mean, as vectors as long as they are far from it.

    Parameters
    ----------
    root_MM
        Inverse square root of the mean.
    """
    values_BM, vectors_BMM = torch.linalg.eigh(root_MM @ covariance_BMM @ root_MM)
    log_BMM = (vectors_BMM * values_BM.log()[:, None]) @ vectors_BMM.transpose(1, 2)
    row_X, column_X = torch.triu_indices(*root_MM.shape, device=root_MM.device)
    # What is off the diagonal is there twice.
    weight_X = torch.where(row_X == column_X, 1.0, 2**0.5).to(log_BMM)
    vector_BX: torch.Tensor = log_BMM[:, row_X, column_X] * weight_X
    return vector_BX


def riemannian_mean(covariance_NMM: torch.Tensor) -> torch.Tensor:
    """Return the matrix with the least sum of squared affine-invariant distances (Moakher 2005), by gradient steps."""
    mean_MM, step, before = covariance_NMM.mean(dim=0), 1.0, float("inf")
    for _ in range(MEAN_STEPS):
        root_MM, inverse_MM = _power(mean_MM, 0.5), _power(mean_MM, -0.5)
        values_NM, vectors_NMM = torch.linalg.eigh(inverse_MM @ covariance_NMM @ inverse_MM)
        towards_MM = ((vectors_NMM * values_NM.log()[:, None]) @ vectors_NMM.transpose(1, 2)).mean(dim=0)
        mean_MM = root_MM @ torch.linalg.matrix_exp(step * towards_MM) @ root_MM
        length = float(torch.linalg.matrix_norm(towards_MM))
        if length <= MEAN_TOLERANCE or step <= MEAN_TOLERANCE:
            break
        if step * length < before:
            step, before = 0.95 * step, step * length
        else:
            step = 0.5 * step
    return mean_MM


def _power(matrix_MM: torch.Tensor, exponent: float) -> torch.Tensor:
    values_M, vectors_MM = torch.linalg.eigh(matrix_MM)
    power_MM: torch.Tensor = (vectors_MM * values_M**exponent) @ vectors_MM.T
    return power_MM


def _filters(evoked_CC: torch.Tensor, all_CC: torch.Tensor) -> torch.Tensor:
    """Return the filters (F, C) of unit length that raise the evoked response the most over everything else."""
    inverse_CC = torch.linalg.inv(torch.linalg.cholesky(all_CC))
    _, vectors_CC = torch.linalg.eigh(inverse_CC @ evoked_CC @ inverse_CC.T)
    best_FC = (inverse_CC.T @ vectors_CC).T.flip(0)[:FILTERS]
    unit_FC: torch.Tensor = best_FC / best_FC.norm(dim=1, keepdim=True)
    return unit_FC


def _main_direction(target_NE: torch.Tensor) -> torch.Tensor:
    """Return where each target lies along their first principal direction, of mean 0 and deviation 1."""
    centred_NE = target_NE - target_NE.mean(dim=0)
    score_N = torch.linalg.svd(centred_NE, full_matrices=False)[0][:, 0]
    spread = score_N.std(correction=0)
    if not bool((centred_NE.abs().max() > 0) & (spread > 0)):
        raise ValueError("encoder 'riemann' needs targets that differ between training trials, got one and the same.")
    scored: torch.Tensor = score_N / spread
    return scored
