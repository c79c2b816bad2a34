"""The student of Ferrante et al. (2023): a small CNN on time-frequency pictures of the EEG, made on the device.

The paper draws STFT spectrograms of all electrodes and distils a CLIP-based classifier into a CNN; it gives neither
window nor layers, so these are ours. Electrodes are the input channels of the CNN, frequencies and times its image.

Shape letters: B batch, C chan, T time, F frequency, W window, D embedding.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from eegdecode.models.norm import BatchNorm, bias_as_buffer

FLOOR = 1e-6
"""Power below which the logarithm ends, in units of a trial of variance 1."""
_CYCLES = 4.0
_WIDTHS = (32, 64, 128)


class Stft(nn.Module):
    """EEG (B, C, T) -> log power (B, C, F, W) of Hann windows half as long as the trial, a quarter of one apart."""

    window_L: torch.Tensor

    def __init__(self, n_times: int) -> None:
        super().__init__()
        if n_times < 16:
            raise ValueError(f"a spectrogram needs trials of at least 16 samples, got {n_times}.")
        self.length = n_times // 4 * 2
        self.hop = max(1, self.length // 4)
        self.register_buffer("window_L", torch.hann_window(self.length))

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the log power; windows at the ends see the trial mirrored."""
        spectrum = torch.stft(
            eeg_BCT.float().flatten(0, 1),
            self.length,
            self.hop,
            window=self.window_L,
            return_complex=True,
        )
        power_NFW = spectrum.abs().square() / self.window_L.square().sum()
        return power_NFW.clamp(min=FLOOR).log().reshape(*eeg_BCT.shape[:2], *power_NFW.shape[1:])


class Wavelets(nn.Module):
    """EEG (B, C, T) -> log power (B, C, F, W) of Morlet wavelets of four cycles, from 2 cycles a trial to 0.4 a sample.

    Tallon-Baudry et al. (1997), J. Neurosci. 17, 722. A wavelet passes a sine of its frequency at power 1/2, that of
    the sine.
    """

    kernel_F1L: torch.Tensor

    def __init__(self, n_times: int, n_frequencies: int = 16) -> None:
        super().__init__()
        if n_times < 16:
            raise ValueError(f"a scalogram needs trials of at least 16 samples, got {n_times}.")
        self.hop = max(1, n_times // 16)
        self.frequency_F = torch.logspace(math.log10(2 / n_times), math.log10(0.4), n_frequencies)  # cycles a sample
        sd_F = _CYCLES / (2 * math.pi * self.frequency_F)
        half = min(math.ceil(3 * float(sd_F.max())), n_times)
        time_L = torch.arange(-half, half + 1, dtype=torch.float32)
        envelope_FL = torch.exp(-(time_L**2) / (2 * sd_F[:, None] ** 2))
        envelope_FL = envelope_FL / envelope_FL.sum(dim=1, keepdim=True)
        angle_FL = 2 * math.pi * self.frequency_F[:, None] * time_L
        kernel_KFL = math.sqrt(2) * torch.stack([envelope_FL * angle_FL.cos(), envelope_FL * angle_FL.sin()])
        self.register_buffer("kernel_F1L", kernel_KFL.flatten(0, 1)[:, None])

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return the log power; outside the trial the EEG counts as 0."""
        half = self.kernel_F1L.shape[-1] // 2
        parts_NKW = functional.conv1d(
            eeg_BCT.float().flatten(0, 1)[:, None], self.kernel_F1L, stride=self.hop, padding=half
        )
        cosine_NFW, sine_NFW = parts_NKW.chunk(2, dim=1)
        power_NFW = cosine_NFW.square() + sine_NFW.square()
        return power_NFW.clamp(min=FLOOR).log().reshape(*eeg_BCT.shape[:2], *power_NFW.shape[1:])


class SpectrogramCnn(nn.Module):
    """Time-frequency picture, three convolutions, their mean over the picture, one linear map.

    Parameters
    ----------
    picture
        `Stft` or `Wavelets`.
    n_chans, embed_dim, dropout
        C, D; dropout in front of the linear map.
    """

    def __init__(self, picture: nn.Module, n_chans: int, embed_dim: int, dropout: float) -> None:
        super().__init__()
        self.picture = picture
        self.norm = BatchNorm(n_chans)
        layers: list[nn.Module] = []
        for before, width in zip((n_chans, *_WIDTHS), _WIDTHS, strict=False):
            layers += [bias_as_buffer(nn.Conv2d(before, width, 3, padding=1)), BatchNorm(width), nn.GELU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(_WIDTHS[-1], embed_dim))

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD: class logits where the target is a teacher's."""
        with torch.autocast(eeg_BCT.device.type, enabled=False):  # bfloat16 would round the power of weak rhythms away
            picture_BCFW = self.norm(self.picture(eeg_BCT))
        z_BD: torch.Tensor = self.head(self.layers(picture_BCFW).mean(dim=(2, 3)))
        return z_BD


def spectrogram(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> SpectrogramCnn:
    """Return the CNN on STFT spectrograms."""
    return SpectrogramCnn(Stft(n_times), n_chans, embed_dim, dropout)


def scalogram(n_chans: int, n_times: int, embed_dim: int, dropout: float) -> SpectrogramCnn:
    """Return the CNN on Morlet wavelets."""
    return SpectrogramCnn(Wavelets(n_times), n_chans, embed_dim, dropout)
