"""Augmentation of training trials on the device they lie on, by random numbers that are arithmetic.

Each number is a hash of (seed, pass, trial, purpose, electrode, time) and of nothing else. So a trial is changed alike
in any batch, in any order, on any number of ranks, after a restart, and on the CPU or a GPU (there up to the last bits
of logarithm and cosine).
Shape letters: B trial of the batch, C chan, T time.
"""

import math

import torch
from torch.nn import functional as F

from eegdecode.config import Augment

# Purposes of random numbers: a new one takes a new number, so that the others' draws stay.
_SHIFT, _SMOOTH, _NOISE, _DROPOUT = range(4)


def augment(
    eeg_BCT: torch.Tensor,
    seed: int,
    pass_B: torch.Tensor,
    trial_B: torch.Tensor,
    sfreq_hz: float,
    spec: Augment,
) -> torch.Tensor:
    """Return the trials shifted, smoothed, with noise added and electrodes dropped, in this order.

    A shift is circular and the same for all electrodes; smoothing, noise and dropout are drawn for each electrode.
    The operations are those of NeuroBridge (module/eeg_augmentation.py at 6144203), which uses one of them at a time.

    Parameters
    ----------
    eeg_BCT
        Any floating point type; not changed.
    seed
        Of the run; its low 64 bits count.
    pass_B, trial_B
        Int64: pass over the data and row in the trial table, of each trial.
    sfreq_hz
        Rate of the trials.
    spec
        What is on. What is off costs nothing.

    Returns
    -------
    Float32 (B, C, T), on the device of `eeg_BCT`; that tensor itself if nothing is on and it is float32.

    Raises
    ------
    ValueError
        EEG of another shape or type, not one int64 pass and trial for each, or a largest shift of less than a sample
        or more than half the trial.
    """
    if eeg_BCT.ndim != 3 or not eeg_BCT.is_floating_point():
        raise ValueError(f"EEG must be floating point (B, C, T), got {eeg_BCT.dtype} {tuple(eeg_BCT.shape)}.")
    for name, of_B in (("pass_B", pass_B), ("trial_B", trial_B)):
        if of_B.dtype != torch.int64 or of_B.shape != eeg_BCT.shape[:1]:
            raise ValueError(
                f"{name} must be int64 with one value for each of {len(eeg_BCT)} trials, got {of_B.dtype} "
                f"{tuple(of_B.shape)}."
            )
    eeg_BCT = eeg_BCT.float()
    if not spec.any:
        return eeg_BCT
    n_chans, n_times = eeg_BCT.shape[1:]
    max_shift = _largest_shift(spec.shift_s, sfreq_hz, n_times)
    device = eeg_BCT.device
    key_B = _hashed(_hashed(torch.tensor(_signed(seed), device=device)) + pass_B.to(device))
    key_B = _hashed(key_B + trial_B.to(device))
    chan_C = torch.arange(n_chans, device=device)

    if max_shift:
        eeg_BCT = shifted(eeg_BCT, _below(_hashed(key_B + _SHIFT), 2 * max_shift + 1) - max_shift)
    if spec.smooth:
        chosen_BC = _happens(_hashed(_hashed(key_B + _SMOOTH)[:, None] + chan_C), spec.smooth)
        eeg_BCT = smoothed(eeg_BCT, chosen_BC, spec.smooth_samples)
    if spec.noise:
        key_BC = _hashed(_hashed(key_B + _NOISE)[:, None] + chan_C)
        # Two numbers come of one hash, for an even sample and the odd one after it.
        pair = torch.arange(-(-n_times // 2), device=device)
        noise_BCT = _gaussian(_hashed(key_BC[:, :, None] + pair))[..., :n_times]
        eeg_BCT = eeg_BCT + spec.noise * noise_BCT
    if spec.channel_dropout:
        dropped_BC = _happens(_hashed(_hashed(key_B + _DROPOUT)[:, None] + chan_C), spec.channel_dropout)
        eeg_BCT = eeg_BCT.masked_fill(dropped_BC[:, :, None], 0.0)
    return eeg_BCT


def shifted(eeg_BCT: torch.Tensor, shift_B: torch.Tensor) -> torch.Tensor:
    """Return each trial moved later by its int64 number of samples; what leaves at one end enters at the other.

    Circular as the published form: no sample is invented, and a trial keeps its mean and spectrum.
    """
    n_chans, n_times = eeg_BCT.shape[1:]
    time_BT = (torch.arange(n_times, device=eeg_BCT.device) - shift_B[:, None]) % n_times
    return eeg_BCT.gather(2, time_BT[:, None].expand(-1, n_chans, -1))


def smoothed(eeg_BCT: torch.Tensor, chosen_BC: torch.Tensor, kernel: int) -> torch.Tensor:
    """Return the trials with the chosen electrodes averaged over `kernel` (odd) samples around each; fewer at the ends.

    The deterministic part of NeuroBridge's RandomSmooth (module/eeg_augmentation.py at 6144203).
    """
    mean_BCT = F.avg_pool1d(eeg_BCT, kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    return torch.where(chosen_BC[:, :, None], mean_BCT, eeg_BCT)


def _largest_shift(shift_s: float, sfreq_hz: float, n_times: int) -> int:
    """Return the largest shift in whole samples."""
    # 0.29 s at 100 Hz are 29 samples, not 28.999...
    samples = math.floor(shift_s * sfreq_hz + 1e-6)
    if shift_s and not 1 <= samples <= n_times / 2:
        raise ValueError(
            f"data.augment.shift_s must be 0, or at least one sample ({1 / sfreq_hz:g} s) and at most half the trial "
            f"({n_times / sfreq_hz / 2:g} s), got {shift_s:g} s."
        )
    return samples


def _hashed(x: torch.Tensor) -> torch.Tensor:
    """Mix the 64 bits of each int64: SplitMix64's increment and finaliser (Steele, Lea and Flood, OOPSLA 2014).

    The same bits as `eegdecode.data.stream` makes in NumPy's uint64, which torch can not calculate with.
    """
    # In place after the first sum: on a CPU 2.5 times as fast, for most of the time went into fresh memory.
    z = x + _signed(0x9E3779B97F4A7C15)
    z ^= _right(z, 30)
    z *= _signed(0xBF58476D1CE4E5B9)
    z ^= _right(z, 27)
    z *= _signed(0x94D049BB133111EB)
    z ^= _right(z, 31)
    return z


def _signed(word: int) -> int:
    """Return the int64 of the same low 64 bits."""
    return (word + 2**63) % 2**64 - 2**63


def _right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right and fill with zeros; torch's own shift fills with the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _happens(word: torch.Tensor, probability: float) -> torch.Tensor:
    """Return whether a uniform number of 53 bits is below the probability; in integers, exact on every device."""
    return _right(word, 11) < round(probability * 2**53)


def _below(word: torch.Tensor, n: int) -> torch.Tensor:
    """Return integers in [0, n), n far below 2^31, uniform to n / 2^32."""
    return _right(word, 32) * n >> 32


def _gaussian(word: torch.Tensor) -> torch.Tensor:
    """Return two normal float32 of each int64 by Box and Muller (1958), beside each other: (..., T) to (..., 2 T).

    Uniform numbers of 24 bits, which float32 holds exactly; that of the logarithm lies in (0, 1], so that no value is
    infinite and the largest is 5.77.
    """
    radius = (((_right(word, 40) + 1).float() * 2.0**-24).log() * -2).sqrt()
    angle = (_right(word, 16) & (2**24 - 1)).float() * (2 * math.pi * 2.0**-24)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1).flatten(-2)
