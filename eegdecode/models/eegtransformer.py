"""NeuroBridge's transformer over time. Shape letters: B batch, C chan, T time, M model width, D embedding."""

import torch
from torch import nn

WIDTH, HEADS, FEEDFORWARD, LAYERS = 128, 8, 512, 4
_DROPOUT = 0.1  # published; a smaller `dropout` of the encoder lowers it


class EEGTransformer(nn.Module):
    """Samples in time as tokens, four encoder layers, their mean, one linear map (NeuroBridge, AAAI 2026).

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        In the layers, no more than the published 0.1.
    """

    position_TM: torch.Tensor

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.token = nn.Linear(n_chans, WIDTH)
        self.register_buffer("position_TM", _sinusoids(n_times), persistent=False)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, FEEDFORWARD, min(dropout, _DROPOUT), batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.map = nn.Linear(WIDTH, embed_dim)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        tokens_BTM = self.layers(self.token(eeg_BCT.transpose(1, 2)) + self.position_TM)
        z_BD: torch.Tensor = self.map(tokens_BTM.mean(dim=1))
        return z_BD


def _sinusoids(n_times: int) -> torch.Tensor:
    """Return the positions of Vaswani et al., 2017: sine in even columns, cosine in odd ones."""
    angle = torch.arange(n_times)[:, None] * 10_000.0 ** (-torch.arange(0, WIDTH, 2) / WIDTH)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
