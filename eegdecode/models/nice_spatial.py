"""NICE's two mixings of electrodes: self-attention and graph attention, each as its paper means it.

Song et al., ICLR 2024; eeyhsong/NICE-EEG@a7709d8 (MIT). Two faults of the published code are not repeated: its
attention weights are summed over their own axis, so that they do nothing; its graph has edges for the first trial of
a batch only, so that an output depends on the place in the batch.

Shape letters: B batch, C chan (query), M chan (key), T time.
"""

import torch
from torch import nn
from torch.nn import functional

from eegdecode.models.nice import Nice

_DROPOUT = 0.3  # published in both mixings; a smaller `dropout` of the encoder lowers it


def nice_sa(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> Nice:
    """Return NICE with self-attention over electrodes in front."""
    return Nice(n_chans, n_times, embed_dim, dropout, SelfAttentionMixing(n_chans, n_times, min(dropout, _DROPOUT)))


def nice_ga(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> Nice:
    """Return NICE with graph attention over electrodes in front."""
    return Nice(n_chans, n_times, embed_dim, dropout, GraphAttentionMixing(n_times, min(dropout, _DROPOUT)))


class ChannelAttention(nn.Module):
    """Single-head attention of electrodes to electrodes; query, key and projection are linear over electrodes."""

    def __init__(self, n_chans: int, n_times: int, dropout: float) -> None:
        super().__init__()

        def over_chans() -> nn.Sequential:
            return nn.Sequential(nn.Linear(n_chans, n_chans), nn.LayerNorm(n_chans), nn.Dropout(dropout))

        self.query, self.key, self.projection = over_chans(), over_chans(), over_chans()
        self.scale = max(1, n_times // 30) ** -0.5
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return the attended EEG (B, C, T)."""
        x_BTC = x_BCT.transpose(1, 2)
        query_BTC, key_BTM = self.query(x_BTC), self.key(x_BTC)
        weight_BCM = self.dropout(torch.softmax(query_BTC.transpose(1, 2) @ key_BTM * self.scale, dim=-1))
        mixed_BTC = (weight_BCM @ x_BCT).transpose(1, 2)
        out_BTC: torch.Tensor = self.projection(mixed_BTC)
        return out_BTC.transpose(1, 2)


class SelfAttentionMixing(nn.Module):
    """x + [LayerNorm over time, attention over electrodes, Dropout]."""

    def __init__(self, n_chans: int, n_times: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_times)
        self.attention = ChannelAttention(n_chans, n_times, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return the mixed EEG (B, C, T)."""
        mixed_BCT: torch.Tensor = x_BCT + self.dropout(self.attention(self.norm(x_BCT)))
        return mixed_BCT


class GraphAttention(nn.Module):
    """Graph attention (Veličković et al., ICLR 2018) on the full graph of electrodes, self-loops included, one head."""

    def __init__(self, n_times: int) -> None:
        super().__init__()
        self.map = nn.Linear(n_times, n_times, bias=False)
        self.att_key_T = nn.Parameter(torch.empty(n_times))
        self.att_query_T = nn.Parameter(torch.empty(n_times))
        self.bias = nn.Parameter(torch.zeros(n_times))
        nn.init.xavier_uniform_(self.map.weight)
        bound = (6 / (1 + n_times)) ** 0.5  # Glorot for a vector that maps T numbers to one
        nn.init.uniform_(self.att_key_T, -bound, bound)
        nn.init.uniform_(self.att_query_T, -bound, bound)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return the mixed EEG (B, C, T); every trial has its own graph."""
        y_BCT = self.map(x_BCT)
        score_BCM = (y_BCT @ self.att_query_T)[:, :, None] + (y_BCT @ self.att_key_T)[:, None, :]
        weight_BCM = torch.softmax(functional.leaky_relu(score_BCM, 0.2), dim=-1)
        out_BCT: torch.Tensor = weight_BCM @ y_BCT + self.bias
        return out_BCT


class GraphAttentionMixing(nn.Module):
    """x + [graph attention over electrodes, Dropout]."""

    def __init__(self, n_times: int, dropout: float) -> None:
        super().__init__()
        self.attention = GraphAttention(n_times)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        """Return the mixed EEG (B, C, T)."""
        mixed_BCT: torch.Tensor = x_BCT + self.dropout(self.attention(x_BCT))
        return mixed_BCT
