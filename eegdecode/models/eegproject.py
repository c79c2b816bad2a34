"""UBP's EEGProjectLayer, also the projection head of NICE.

Shape letters: B batch, C chan, T time, D embedding, X features.
"""

import torch
from torch import nn

NEUROBRIDGE_FEATURES = 1024
"""Length of the RN50 embedding, which its encoder has before the projector."""


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


class NeuroBridgeEncoder(nn.Module):
    """NeuroBridge's EEG side: EEGProject to 1024 features, then a linear map to where the picture's is compared.

    AAAI 2026; feroooooo/NeuroBridge@6144203, no licence found: `EEGProject` and `ProjectorLinear`.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        In the residual of EEGProject.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.encoder = EEGProject(n_chans, n_times, NEUROBRIDGE_FEATURES, dropout)
        self.projector = nn.Linear(NEUROBRIDGE_FEATURES, embed_dim)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.projector(self.encoder(eeg_BCT))
        return z_BD
