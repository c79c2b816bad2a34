"""The temporal-spatial convolution as UBP and NeuroBridge took it over from NICE.

The trunk is NICE's, computed in the same reduced form. What differs is the order in which it is flattened (filter by
filter, so weights of the head are laid out otherwise) and that UBP leaves out the 1x1 convolution.

Shape letters: B batch, C chan, T time, D embedding.
"""

import torch
from torch import nn

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.nice import NiceTrunk


class TSConv(nn.Module):
    """NICE's trunk, flattened filter by filter, and the projection head.

    NeuroBridge (AAAI 2026) and, with `mix` off, UBP (CVPR 2025; HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83,
    Apache-2.0).

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T (at least 75) and D.
    dropout
        After the convolutions and in the head.
    mix
        Whether a 1x1 convolution mixes the filters of a window.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float, mix: bool = True) -> None:
        super().__init__()
        self.trunk = NiceTrunk(n_chans, n_times, dropout, mix=mix, flatten="filter")
        self.head = ProjectionHead(self.trunk.n_features, embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(self.trunk(eeg_BCT))
        return z_BD


def tsconv_ubp(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> TSConv:
    """Return UBP's form, without the 1x1 convolution."""
    return TSConv(n_chans, n_times, embed_dim, dropout, mix=False)
