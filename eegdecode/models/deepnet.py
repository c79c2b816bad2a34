"""DeepNet as UBP compares with it. Shape letters: B batch, C chan, T time, F filter, D embedding."""

import torch
from torch import nn

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.norm import BatchNorm, bias_as_buffer
from eegdecode.models.shallownet import TemporalSpatialConv

TAPS, FILTERS = 10, (25, 50, 100, 200)
MIN_TIMES = 151


class DeepNet(nn.Module):
    """Four blocks of convolution, BatchNorm, ELU and maximum of two, then the projection head.

    After the deep network of Schirrmeister et al., 2017, in the form of UBP (CVPR 2025;
    HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83, Apache-2.0). The two convolutions of the first block have nothing
    between them and are computed as one.

    Parameters
    ----------
    n_chans, n_times, embed_dim
        C, T (at least 151; the kernels are in samples) and D.
    dropout
        After every block and in the head.

    Raises
    ------
    ValueError
        Trials that are too short.
    """

    def __init__(self, n_chans: int, n_times: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        width = n_times
        for _ in FILTERS:
            width = (width - TAPS + 1) // 2
        if width < 1:
            raise ValueError(
                f"encoder 'deepnet' needs trials of at least {MIN_TIMES} samples, got {n_times}. Raise "
                "data.epochs.sfreq_hz, cut longer trials, or use encoder 'mlp' or 'linear'."
            )
        self.filters = TemporalSpatialConv(n_chans, FILTERS[0], TAPS)
        layers: list[nn.Module] = []
        for n_filters, n_next in zip(FILTERS, (*FILTERS[1:], 0), strict=True):
            layers += [BatchNorm(n_filters), nn.ELU(), nn.MaxPool2d((1, 2)), nn.Dropout(dropout)]
            if n_next:
                layers.append(bias_as_buffer(nn.Conv2d(n_filters, n_next, (1, TAPS))))
        self.blocks = nn.Sequential(*layers)
        self.head = ProjectionHead(FILTERS[-1] * width, embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(self.blocks(self.filters(eeg_BCT)[:, :, None]).flatten(1))
        return z_BD
