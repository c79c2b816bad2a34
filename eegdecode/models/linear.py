"""The smallest encoder: one linear map. Shape letters: B batch, C chan, T time, D embedding."""

import torch
from torch import nn


class LinearMap(nn.Module):
    """One linear map of all samples of a trial, the baseline that others must beat.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        On the input samples.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.map = nn.Linear(n_chans * n_times, embed_dim)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.map(self.dropout(self.features(eeg_BCT)))
        return z_BD

    def features(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return what is mapped: all samples of a trial, electrode after electrode."""
        return eeg_BCT.flatten(1)
