"""Time-frequency pictures against SciPy and against sines of known power; the CNN against the same by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import signal
from torch.nn import functional

from eegdecode.models.spectrogram import FLOOR, Stft, Wavelets, scalogram, spectrogram


def test_stft_is_that_of_scipy() -> None:
    eeg = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    ours = Stft(200)(eeg).exp().numpy()
    length, hop = 100, 25
    window = signal.get_window("hann", length)
    mirrored = np.pad(eeg.numpy().astype(np.float64), ((0, 0), (0, 0), (length // 2, length // 2)), mode="reflect")
    starts = range(0, mirrored.shape[-1] - length + 1, hop)
    frames = np.stack([mirrored[..., s : s + length] * window for s in starts], axis=-1)
    power = np.abs(np.fft.rfft(frames, axis=-2)) ** 2 / (window**2).sum()
    assert ours.shape == power.shape == (2, 3, 51, 9)
    np.testing.assert_allclose(ours, np.maximum(power, FLOOR), rtol=1e-3, atol=1e-5)


def test_a_wavelet_passes_a_sine_of_its_frequency_at_its_power() -> None:
    wavelets = Wavelets(256)
    for k in (6, 9, 12):
        sine = torch.sin(2 * math.pi * float(wavelets.frequency_F[k]) * torch.arange(256.0))
        power_FW = wavelets(3.0 * sine[None, None]).exp()[0, 0]
        middle_F = power_FW[:, power_FW.shape[1] // 2]
        assert int(middle_F.argmax()) == k
        assert float(middle_F[k]) == pytest.approx(9 / 2, rel=0.05)


def test_the_cnn_is_what_its_layers_say() -> None:
    torch.manual_seed(0)
    encoder = spectrogram(4, 64, 5, 0.5)
    eeg = torch.randn(7, 4, 64)
    encoder.train()
    encoder(eeg)  # running statistics that are not 0 and 1
    encoder.eval()
    state = encoder.state_dict()

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = normed(Stft(64)(eeg), "norm")
    for k in (0, 4, 8):
        x = functional.conv2d(x, state[f"layers.{k}.weight"], state[f"layers.{k}.bias"], padding=1)
        x = functional.max_pool2d(functional.gelu(normed(x, f"layers.{k + 1}")), 2, ceil_mode=True)
    expected = x.mean(dim=(2, 3)) @ state["head.1.weight"].T + state["head.1.bias"]
    torch.testing.assert_close(encoder(eeg), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [spectrogram, scalogram])
def test_it_learns_the_frequency_of_a_rhythm(build) -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    label = torch.arange(96) % 3
    phase = 2 * math.pi * torch.rand(96, 1, generator=rng)
    rhythm = torch.sin(2 * math.pi * torch.tensor([0.08, 0.16, 0.32])[label, None] * torch.arange(64.0) + phase)
    eeg = rhythm[:, None] + 0.5 * torch.randn(96, 4, 64, generator=rng)
    encoder = build(4, 64, 3, 0.0)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        functional.cross_entropy(encoder(eeg[:72]), label[:72]).backward()
        optimiser.step()
    named = encoder.eval()(eeg[72:]).argmax(dim=1)
    assert (named == label[72:]).float().mean() > 0.9  # phases differ, so that no fixed waveform could do it


@pytest.mark.parametrize("build", [spectrogram, scalogram])
def test_too_short_a_trial_is_refused(build) -> None:
    with pytest.raises(ValueError, match="at least 16 samples, got 12"):
        build(4, 12, 3, 0.0)
