"""ShallowNet as UBP compares with it, and the pair of convolutions that it shares with DeepNet.

Shape letters: B batch, C chan, T time, K tap, F temporal filter, G spatial filter, D embedding.
"""

import torch
from torch import nn
from torch.nn import functional

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.norm import BatchNorm

TAPS, POOL, STRIDE, FILTERS = 25, 51, 5, 40
MIN_TIMES = TAPS + POOL - 1


class TemporalSpatialConv(nn.Module):
    """Filters over time, then over electrodes, computed as the one convolution that they are together.

    Nothing stands between the two, so their weights are multiplied first: the maps of every electrode and filter, the
    largest tensor of these networks, are never made. Both biases cancel in the BatchNorm that follows and are buffers.
    """

    taps_bias_F: torch.Tensor
    map_bias_G: torch.Tensor

    def __init__(self, n_chans: int, n_filters: int, n_taps: int) -> None:
        super().__init__()
        as_published = nn.Conv2d(1, n_filters, (1, n_taps)), nn.Conv2d(n_filters, n_filters, (n_chans, 1))
        self.taps_FK = nn.Parameter(as_published[0].weight.detach().reshape(n_filters, n_taps))
        self.map_GFC = nn.Parameter(as_published[1].weight.detach().squeeze(3))
        self.register_buffer("taps_bias_F", torch.zeros(n_filters))
        self.register_buffer("map_bias_G", torch.zeros(n_filters))

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the filtered EEG (B, G, T - K + 1)."""
        kernel_GCK = torch.einsum("gfc,fk->gck", self.map_GFC, self.taps_FK)
        bias_G = self.map_GFC.sum(dim=2) @ self.taps_bias_F + self.map_bias_G
        return functional.conv1d(eeg_BCT.to(kernel_GCK.dtype), kernel_GCK, bias_G)


class ShallowNet(nn.Module):
    """Filters over time and electrodes, average over time, projection head.

    After the shallow network of Schirrmeister et al., 2017, in the form of UBP (CVPR 2025;
    HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83, Apache-2.0), which has ELU in place of square and logarithm.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T (at least 75; the kernels are in samples) and D.
    dropout
        After the average and in the head.

    Raises
    ------
    ValueError
        Trials that are too short.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        if n_times < MIN_TIMES:
            raise ValueError(
                f"encoder 'shallownet' needs trials of at least {MIN_TIMES} samples, got {n_times}. Raise "
                "data.epochs.sfreq_hz, cut longer trials, or use encoder 'mlp' or 'linear'."
            )
        self.filters = TemporalSpatialConv(n_chans, FILTERS, TAPS)
        self.norm = BatchNorm(FILTERS)
        self.dropout = nn.Dropout(dropout)
        self.head = ProjectionHead(FILTERS * ((n_times - MIN_TIMES) // STRIDE + 1), embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        y_BGT = functional.elu(self.norm(self.filters(eeg_BCT)))
        z_BD: torch.Tensor = self.head(self.dropout(functional.avg_pool1d(y_BGT, POOL, STRIDE)).flatten(1))
        return z_BD
