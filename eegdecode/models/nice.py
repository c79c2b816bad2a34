"""NICE's temporal-spatial convolution, computed in a reduced form with the same values and gradients.

Published form (Song et al., ICLR 2024; eeyhsong/NICE-EEG@a7709d8, MIT): conv over time (25 taps) -> average pool
(51, stride 5) -> BatchNorm -> ELU -> conv over electrodes -> BatchNorm -> ELU -> Dropout -> 1x1 conv -> tokens ->
projection.

Nothing stands between the first convolution and the pool, and both are linear. So the pool moves to the input as a
moving average without parameters, and the 25 taps then step by 5 samples: a matrix product over windows. A train-mode
BatchNorm right after a linear layer needs only the moments of the windows: the variance of filter w is w' Cov w, with
one 25 x 25 covariance per batch. The bias of a convolution before a BatchNorm cancels exactly, so its gradient is
zero: both such biases are kept as buffers, for the sake of published weights, and no optimiser walks them at random.

BatchNorm statistics are those of the batch of ALL ranks, so that the number of workers does not change the loss.

Shape letters: B batch, C chan, T time, W window (token), K tap, F filter, E token feature, D embedding, R rows.
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from eegdecode import collectives
from eegdecode.models.eegproject import ProjectionHead

TAPS, POOL, STRIDE, FILTERS = 25, 51, 5, 40
MIN_TIMES = TAPS + POOL - 1
_EPS, _MOMENTUM = 1e-5, 0.1  # torch's BatchNorm defaults, which the published model uses


class _Norm(nn.Module):
    """Parameters and running statistics of one BatchNorm; the moments come from whoever knows them cheaply."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features).normal_(1.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(n_features))
        self.register_buffer("running_mean", torch.zeros(n_features))
        self.register_buffer("running_var", torch.ones(n_features))

    def update(self, mean_F: torch.Tensor, var_F: torch.Tensor, n: int) -> None:
        """Move the running statistics; the stored variance is the unbiased one, as in torch."""
        with torch.no_grad():
            self.running_mean.lerp_(mean_F.detach().to(self.running_mean), _MOMENTUM)
            self.running_var.lerp_(var_F.detach().to(self.running_var) * (n / max(n - 1, 1)), _MOMENTUM)


class _TemporalFilters(_Norm):
    """25 taps on every window of the averaged input, with the first BatchNorm folded in."""

    taps_bias_F: torch.Tensor

    def __init__(self) -> None:
        super().__init__(FILTERS)
        self.taps_FK = nn.Parameter(torch.empty(FILTERS, TAPS).normal_(0.0, 0.02))
        self.register_buffer("taps_bias_F", torch.zeros(FILTERS))

    def forward(self, u_RK: torch.Tensor) -> torch.Tensor:
        """Return the normalised filter outputs (R, F) of windows that this call may overwrite."""
        taps_KF = self.taps_FK.T
        if not self.training:
            scale_F = self.weight * torch.rsqrt(self.running_var + _EPS)
            offset_F = (self.taps_bias_F - self.running_mean) * scale_F + self.bias
            return torch.addmm(offset_F, u_RK, taps_KF * scale_F)
        n = u_RK.shape[0] * collectives.world_size()
        with torch.autocast(u_RK.device.type, enabled=False):  # moments in full precision
            mean_K = collectives.total(u_RK.sum(dim=0)) / n
            centred_RK = u_RK.sub_(mean_K)
            cov_KK = collectives.total(centred_RK.T @ centred_RK) / n
            var_F = (self.taps_FK @ cov_KK * self.taps_FK).sum(dim=1)
            self.update(self.taps_FK @ mean_K + self.taps_bias_F, var_F, n)
            scaled_KF = taps_KF * (self.weight * torch.rsqrt(var_F + _EPS))
        return torch.addmm(self.bias, centred_RK, scaled_KF)


class _SpatialFilters(_Norm):
    """A linear map over electrodes and temporal filters, then the second BatchNorm over the rows of all ranks."""

    map_bias_F: torch.Tensor

    def __init__(self, n_chans: int) -> None:
        super().__init__(FILTERS)
        self.map_FFC = nn.Parameter(torch.empty(FILTERS, FILTERS, n_chans).normal_(0.0, 0.02))  # out, in, electrode
        self.register_buffer("map_bias_F", torch.zeros(FILTERS))

    def forward(self, h_RX: torch.Tensor) -> torch.Tensor:
        """Return the normalised outputs (R, F) of rows that hold (electrode, filter)."""
        y_RF = h_RX @ self.map_FFC.permute(2, 1, 0).reshape(-1, FILTERS)
        with torch.autocast(y_RF.device.type, enabled=False):
            y_RF = y_RF.to(self.weight.dtype)
            if not self.training:
                scale_F = self.weight * torch.rsqrt(self.running_var + _EPS)
                return (y_RF + (self.map_bias_F - self.running_mean)) * scale_F + self.bias
            n = y_RF.shape[0] * collectives.world_size()
            mean_F = collectives.total(y_RF.sum(dim=0)) / n
            centred_RF = y_RF - mean_F
            var_F = collectives.total(centred_RF.square().sum(dim=0)) / n
            self.update(mean_F + self.map_bias_F, var_F, n)
            return centred_RF * (self.weight * torch.rsqrt(var_F + _EPS)) + self.bias


class NiceTrunk(nn.Module):
    """NICE without its projection: EEG (B, C, T) -> flattened tokens (B, W x E).

    Parameters
    ----------
    mix
        Whether the 1x1 convolution is there; UBP leaves it out.
    flatten
        `window` by window as in NICE and ATM, or `filter` by filter as in UBP and NeuroBridge.

    Raises
    ------
    ValueError
        Trials shorter than one window of the published kernels, 75 samples.
    """

    def __init__(
        self,
        n_chans: int,
        n_times: int,
        dropout: float,
        mix: bool = True,
        flatten: Literal["window", "filter"] = "window",
    ) -> None:
        super().__init__()
        if n_times < MIN_TIMES:
            raise ValueError(
                f"This encoder needs trials of at least {MIN_TIMES} samples (25 taps, then an average over 51), got "
                f"{n_times}. Raise data.epochs.sfreq_hz, cut longer trials, or use encoder 'mlp' or 'linear'."
            )
        self.n_windows = (n_times - MIN_TIMES) // STRIDE + 1
        self.n_features = self.n_windows * FILTERS
        self.temporal = _TemporalFilters()
        self.spatial = _SpatialFilters(n_chans)
        self.dropout = nn.Dropout(dropout)
        self.token = nn.Linear(FILTERS, FILTERS) if mix else nn.Identity()
        if isinstance(self.token, nn.Linear):
            nn.init.normal_(self.token.weight, 0.0, 0.02)
        self.flatten = flatten

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the flattened tokens (B, W x E)."""
        n, n_chans, _ = eeg_BCT.shape
        averaged_BCT = functional.avg_pool1d(eeg_BCT.to(self.temporal.weight.dtype), POOL, stride=1)
        # A copy in the order (trial, window, electrode): electrodes and filters become one axis of a matrix product.
        u_RK = averaged_BCT.unfold(2, TAPS, STRIDE).permute(0, 2, 1, 3).clone(memory_format=torch.contiguous_format)
        h_RF = functional.elu_(self.temporal(u_RK.view(-1, TAPS)))
        y_RF = self.spatial(h_RF.view(n * self.n_windows, n_chans * FILTERS))
        tokens_RE: torch.Tensor = self.token(self.dropout(functional.elu(y_RF)))
        if self.flatten == "filter":
            return tokens_RE.view(n, self.n_windows, FILTERS).transpose(1, 2).flatten(1)
        return tokens_RE.view(n, self.n_features)


class Nice(nn.Module):
    """NICE's EEG encoder: an optional mixing of electrodes, the convolutions, the projection head.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T (at least 75; the kernels are those of the paper, in samples) and D.
    dropout
        After the convolutions and in the head; 0.5 as published.
    mixing
        Module (B, C, T) -> (B, C, T) in front, see `eegdecode.models.nice_spatial`.
    """

    def __init__(
        self, n_chans: int, n_times: int, embed_dim: int, dropout: float, mixing: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.mixing = nn.Identity() if mixing is None else mixing
        self.trunk = NiceTrunk(n_chans, n_times, dropout)
        self.head = ProjectionHead(self.trunk.n_features, embed_dim, dropout)
        for linear in self.head.modules():
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, 0.0, 0.02)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(self.trunk(self.mixing(eeg_BCT)))
        return z_BD
