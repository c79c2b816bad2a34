"""UBP's EEGProjectLayer, also the projection head of NICE.

Shape letters: B batch, C chan, T time, D embedding, X features.
"""

import torch
from torch import nn


class ProjectionHead(nn.Module):
    """Linear, then x + [GELU, Linear, Dropout], then LayerNorm.

    From NICE (Song et al., ICLR 2024; eeyhsong/NICE-EEG@a7709d8, MIT, `Proj_eeg`) and UBP (CVPR 2025;
    HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83, Apache-2.0, `EEGProjectLayer`).
    """

    def __init__(self, n_features: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.map = nn.Linear(n_features, embed_dim)
        self.residual = nn.Sequential(nn.GELU(), nn.Linear(embed_dim, embed_dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x_BX: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        x_BD = self.map(x_BX)
        z_BD: torch.Tensor = self.norm(x_BD + self.residual(x_BD))
        return z_BD


class EEGProject(nn.Module):
    """UBP's encoder: a projection head on all samples of a trial, electrode by electrode.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        In the residual; 0.3 as published.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.head = ProjectionHead(n_chans * n_times, embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(eeg_BCT.flatten(1))
        return z_BD
