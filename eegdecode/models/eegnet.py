"""EEGNet as UBP and NeuroBridge compare with it. Shape letters: B batch, C chan, T time, D embedding."""

import torch
from torch import nn

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.norm import BatchNorm, bias_as_buffer

MIN_TIMES = 95  # 64 taps, average of 2, 16 taps


class EEGNet(nn.Module):
    """Two filter banks in the manner of EEGNet (Lawhern et al., 2018), then the projection head.

    The form of UBP (CVPR 2025; HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83, Apache-2.0) and NeuroBridge (AAAI
    2026). Against the paper of EEGNet: no padding, full instead of depthwise and separable convolutions, one pooling.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T (at least 95; the kernels are in samples) and D.
    dropout
        After either bank and in the head.

    Raises
    ------
    ValueError
        Trials that are too short.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        if n_times < MIN_TIMES:
            raise ValueError(
                f"encoder 'eegnet' needs trials of at least {MIN_TIMES} samples, got {n_times}. Raise "
                "data.epochs.sfreq_hz, cut longer trials, or use encoder 'mlp' or 'linear'."
            )
        self.backbone = nn.Sequential(
            bias_as_buffer(nn.Conv2d(1, 8, (1, 64))),
            BatchNorm(8),
            bias_as_buffer(nn.Conv2d(8, 16, (n_chans, 1))),
            BatchNorm(16),
            nn.ELU(),
            nn.AvgPool2d((1, 2)),
            nn.Dropout(dropout),
            bias_as_buffer(nn.Conv2d(16, 16, (1, 16))),
            BatchNorm(16),
            nn.ELU(),
            nn.Dropout(dropout),
        )
        self.head = ProjectionHead(16 * ((n_times - 63) // 2 - 15), embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(self.backbone(eeg_BCT[:, None]).flatten(1))
        return z_BD
