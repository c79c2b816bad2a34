import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from eegdecode.config import Augment, Stream
from eegdecode.data import augment as module
from eegdecode.data import order
from eegdecode.data.augment import augment, shifted, smoothed

SFREQ_HZ = 100.0
ALL = Augment(shift_s=0.05, smooth=0.3, noise=0.5, channel_dropout=0.1)
EACH = {
    "shift": Augment(shift_s=0.05),
    "smooth": Augment(smooth=0.3),
    "noise": Augment(noise=0.5),
    "dropout": Augment(channel_dropout=0.1),
    "all": ALL,
}


def trials(b: int, c: int, t: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(b, c, t)).astype(np.float32))


def run(
    eeg_BCT: torch.Tensor, spec: Augment, seed: int = 7, pass_: int = 0, trial_B: torch.Tensor | None = None
) -> torch.Tensor:
    pass_B = torch.full((len(eeg_BCT),), pass_)
    return augment(eeg_BCT, seed, pass_B, torch.arange(len(eeg_BCT)) if trial_B is None else trial_B, SFREQ_HZ, spec)


def noise_of(b: int, c: int, t: int, **where: int) -> torch.Tensor:
    return run(torch.zeros(b, c, t), Augment(noise=1.0), **where)


# The hash


def test_hash_gives_the_published_sequence_of_splitmix64() -> None:
    # First outputs of the generator from state 1234567, as printed for its reference implementation.
    state = torch.tensor([1234567 + module._signed(k * 0x9E3779B97F4A7C15) for k in range(5)])
    words = module._hashed(state).numpy().view(np.uint64).tolist()
    assert words == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_hash_equals_numpy_in_64_unsigned_bits() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**63), 2**63, 100_000, dtype=np.int64)
    x[:5] = 0, -1, 1, -(2**63), 2**63 - 1
    expected = order._mixed(x.view(np.uint64))
    np.testing.assert_array_equal(module._hashed(torch.from_numpy(x)).numpy().view(np.uint64), expected)


def test_one_draw_written_out_in_numpy() -> None:
    """The whole chain from (seed, pass, trial, electrode, time) to numbers, against unsigned integers and float64."""
    seed, pass_, trial, chan, time = -3, 5, 123_456_789_012, 2, 7

    def word(*counters: int) -> int:
        state = np.array([seed % 2**64], np.uint64)
        for counter in counters:
            state = order._mixed(state) + np.uint64(counter)
        return int(order._mixed(state)[0])

    def made(spec: Augment, eeg_BCT: torch.Tensor) -> torch.Tensor:
        return augment(eeg_BCT, seed, torch.tensor([pass_]), torch.tensor([trial]), SFREQ_HZ, spec)[0]

    bits = word(pass_, trial, 2, chan, time // 2)
    radius = np.sqrt(-2 * np.log(((bits >> 40) + 1) / 2**24))
    expected = radius * np.sin(2 * np.pi * ((bits >> 16) % 2**24) / 2**24)
    got = made(Augment(noise=1.0), torch.zeros(1, 4, 11))[chan, time].item()
    assert got == pytest.approx(expected, abs=2e-6)

    shift = (word(pass_, trial, 0) >> 32) * 11 // 2**32 - 5
    ramp = torch.arange(20.0).expand(1, 4, 20)
    np.testing.assert_array_equal(made(Augment(shift_s=0.05), ramp)[0], np.roll(np.arange(20.0), shift))

    for c in range(4):
        dropped = (word(pass_, trial, 3, c) >> 11) / 2**53 < 0.5
        assert (made(Augment(channel_dropout=0.5), torch.ones(1, 4, 6))[c] == 0).all().item() is dropped
        smooth = (word(pass_, trial, 1, c) >> 11) / 2**53 < 0.5
        edge = made(Augment(smooth=0.5, smooth_samples=3), ramp)[c, 0].item()
        assert edge == (0.5 if smooth else 0.0)


# What a trial's numbers depend on


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("t", [40, 33])
def test_parts_in_any_order_are_the_whole(name: str, t: int) -> None:
    spec, eeg_BCT = EACH[name], trials(50, 5, t)
    trial_B = torch.arange(50) * 977 + 2**40
    pass_B = torch.arange(50) // 30
    whole = augment(eeg_BCT, 7, pass_B, trial_B, SFREQ_HZ, spec)
    order = torch.from_numpy(np.random.default_rng(1).permutation(50))
    parts = [augment(eeg_BCT[o], 7, pass_B[o], trial_B[o], SFREQ_HZ, spec) for o in order.split([1, 2, 7, 16, 24])]
    assert torch.equal(torch.cat(parts), whole[order])
    # One electrode's numbers do not know how many others there are, nor how long the trial is.
    if name != "shift":
        assert torch.equal(augment(eeg_BCT[:, :3], 7, pass_B, trial_B, SFREQ_HZ, spec), whole[:, :3])
    if name in ("noise", "dropout"):
        assert torch.equal(augment(eeg_BCT[..., :21], 7, pass_B, trial_B, SFREQ_HZ, spec), whole[..., :21])


@pytest.mark.parametrize("name", EACH)
def test_seed_pass_and_trial_change_it_and_nothing_else_does(name: str) -> None:
    spec, eeg_BCT = EACH[name], trials(20, 8, 40)
    first = run(eeg_BCT, spec, seed=7, pass_=3)
    assert torch.equal(run(eeg_BCT, spec, seed=7, pass_=3), first)
    for other in (
        run(eeg_BCT, spec, seed=8, pass_=3),
        run(eeg_BCT, spec, seed=7, pass_=4),
        run(eeg_BCT, spec, seed=7, pass_=3, trial_B=torch.arange(20) + 1),
    ):
        assert (other != first).flatten(1).any(1).float().mean() > 0.5
    # One more pass is not one more trial, nor one more of the seed.
    shifted_by_one = run(eeg_BCT, spec, seed=7, pass_=2, trial_B=torch.arange(20) + 1)
    assert not torch.equal(shifted_by_one, first)
    assert not torch.equal(run(eeg_BCT, spec, seed=8, pass_=2), first)


def test_what_is_on_does_not_change_the_draws_of_the_others() -> None:
    eeg_BCT = trials(30, 6, 40)
    alone = run(eeg_BCT, EACH["dropout"]) == 0
    assert torch.equal((run(eeg_BCT, ALL) == 0).all(2), alone.all(2))


# Distributions. 200 000 draws or more: five standard errors are the tolerance, with the seeds fixed.


def test_noise_is_standard_normal_scaled() -> None:
    n = noise_of(100, 20, 101).double()
    count = n.numel()
    assert abs(n.mean()) < 5 / count**0.5
    assert abs(n.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((n**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((n**4).mean() - 3) < 5 * (96 / count) ** 0.5
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is the 0.1 % point.
    grid = torch.linspace(-4, 4, 81, dtype=torch.float64)
    empirical = torch.searchsorted(n.flatten().sort().values, grid) / count
    assert (empirical - torch.special.ndtr(grid)).abs().max() < 1.95 / count**0.5
    assert n.abs().max() < 5.78
    doubled = run(torch.zeros(4, 3, 10), Augment(noise=2.5))
    assert torch.equal(doubled, 2.5 * noise_of(4, 3, 10))


def test_noise_is_in_the_unit_of_the_data() -> None:
    loud, quiet = trials(40, 10, 100) * 1000, trials(40, 10, 100) * 0
    # 1000 + 1 in float32 keeps the noise to 6e-5.
    torch.testing.assert_close(run(loud, Augment(noise=1.0)) - loud, run(quiet, Augment(noise=1.0)), atol=5e-4, rtol=0)


@pytest.mark.parametrize("axis", ["trial", "pass", "seed", "chan", "time"])
def test_neighbours_are_not_correlated(axis: str) -> None:
    n = noise_of(101, 21, 100)
    a, b = {
        "trial": (n[1:], n[:-1]),
        "chan": (n[:, 1:], n[:, :-1]),
        "time": (n[..., 1:], n[..., :-1]),
        "pass": (n, noise_of(101, 21, 100, pass_=1)),
        "seed": (n, noise_of(101, 21, 100, seed=8)),
    }[axis]
    for f in (lambda x: x, lambda x: x**2 - 1):
        x, y = f(a).double().flatten(), f(b).double().flatten()
        r = (x * y).mean() / (x.std() * y.std())
        assert abs(r) < 5 / len(x) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_electrodes_are_dropped_at_the_rate_and_independently(p: float) -> None:
    dropped = (run(torch.ones(5000, 63, 1), Augment(channel_dropout=p)) == 0)[..., 0].double()
    count = dropped.numel()
    assert abs(dropped.mean() - p) < 5 * (p * (1 - p) / count) ** 0.5
    # Independent electrodes: the number dropped per trial is binomial, and so is its variance.
    variance = dropped.sum(1).var() / (63 * p * (1 - p))
    assert abs(variance - 1) < 5 * (2 / 5000) ** 0.5
    # Independent neighbouring trials and electrodes.
    centred = dropped - p
    for x, y in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert abs((x * y).mean()) < 5 * p * (1 - p) / x.numel() ** 0.5
    # No electrode is favoured.
    assert ((dropped.mean(0) - p).abs() < 5 * (p * (1 - p) / 5000) ** 0.5).all()


def test_shifts_are_uniform_over_whole_samples_in_both_directions() -> None:
    n, m = 44_000, 5
    ramp = torch.arange(20.0).expand(n, 2, 20)
    got = run(ramp, Augment(shift_s=0.05))
    assert torch.equal(got[:, 0], got[:, 1])
    shift_N = (-got[:, 0, 0] + 10) % 20 - 10
    counts = torch.stack([(shift_N == s).sum() for s in range(-m, m + 1)]).double()
    assert counts.sum() == n
    # Chi square with ten degrees of freedom: 29.6 is its 0.1 % point.
    assert ((counts - n / 11) ** 2 / (n / 11)).sum() < 29.6
    x = shift_N.double()
    assert abs((x[1:] * x[:-1]).mean() / x.var()) < 5 / n**0.5


def test_smoothing_is_chosen_at_the_rate() -> None:
    ramp = torch.arange(12.0).expand(3000, 63, 12)
    chosen = run(ramp, Augment(smooth=0.3))[..., 0] == 1.0
    assert abs(chosen.double().mean() - 0.3) < 5 * (0.3 * 0.7 / chosen.numel()) ** 0.5


# What is done with the numbers


def test_shifting_is_numpys_roll() -> None:
    eeg_BCT = trials(5, 3, 12)
    shifts = [-6, -1, 0, 2, 6]
    expected = np.stack([np.roll(x, s, axis=-1) for x, s in zip(eeg_BCT.numpy(), shifts, strict=True)])
    np.testing.assert_array_equal(shifted(eeg_BCT, torch.tensor(shifts)).numpy(), expected)


def test_smoothing_agrees_with_neurobridge(shared: Path) -> None:
    case = load_file(shared / "golden" / "nb_random_smooth.safetensors")
    facts = json.loads((shared / "golden" / "nb_random_smooth.json").read_text())
    chosen_BC = case["input.smoothed_channels"][None].bool()
    got = smoothed(case["input"][None], chosen_BC, facts["config"]["kernel_size"])[0]
    assert 0 < chosen_BC.sum() < 17
    rtol = facts["tolerance"]["rtol"]
    expected = case["expected.output"]
    assert (got - expected).abs().max() <= rtol * expected.abs().max()
    assert torch.equal(got[~chosen_BC[0]], case["input"][~chosen_BC[0]])


@pytest.mark.parametrize("kernel", [3, 5, 9, 21])
def test_smoothing_equals_the_mean_of_each_window(kernel: int) -> None:
    eeg_BCT = trials(2, 3, 10)
    h = kernel // 2
    expected = torch.stack([eeg_BCT[..., max(0, t - h) : t + h + 1].double().mean(-1) for t in range(10)], -1)
    got = smoothed(eeg_BCT, torch.ones(2, 3, dtype=torch.bool), kernel)
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=0)


def test_order_is_shift_smooth_noise_dropout() -> None:
    eeg_BCT = trials(30, 6, 40)
    by_hand = eeg_BCT
    for name in ("shift", "smooth", "noise", "dropout"):
        by_hand = run(by_hand, EACH[name])
    assert torch.equal(run(eeg_BCT, ALL), by_hand)


def test_a_dropped_electrode_is_zero_even_where_it_was_not_finite() -> None:
    got = run(torch.full((50, 4, 3), torch.nan), Augment(channel_dropout=0.5))
    assert 0 < (got == 0).sum() < got.numel()
    assert ((got == 0) | got.isnan()).all()


def test_nothing_on_returns_the_values() -> None:
    eeg_BCT = trials(4, 3, 10)
    assert not Augment().any
    assert not Stream().augment.any
    assert torch.equal(run(eeg_BCT, Augment()), eeg_BCT)
    assert all(spec.any for spec in EACH.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_become_float32_first(dtype: torch.dtype) -> None:
    eeg_BCT = trials(6, 3, 20).to(dtype)
    for spec in (ALL, Augment()):
        got = run(eeg_BCT, spec)
        assert got.dtype == torch.float32
        assert torch.equal(got, run(eeg_BCT.float(), spec))


def test_the_input_stays() -> None:
    eeg_BCT = trials(6, 3, 20)
    before = eeg_BCT.clone()
    run(eeg_BCT, ALL)
    assert torch.equal(eeg_BCT, before)


def test_gradients_flow_to_all_that_is_kept() -> None:
    eeg_BCT = trials(6, 4, 20).requires_grad_()
    out = run(eeg_BCT, Augment(shift_s=0.05, smooth=0.5, noise=0.5, channel_dropout=0.3))
    weight = trials(6, 4, 20, seed=1)
    (out * weight).sum().backward()
    # All is linear in the EEG but for the noise, which does not depend on it.
    step = trials(6, 4, 20, seed=2)
    change = run(eeg_BCT.detach() + step, Augment(shift_s=0.05, smooth=0.5, channel_dropout=0.3)) - run(
        eeg_BCT.detach(), Augment(shift_s=0.05, smooth=0.5, channel_dropout=0.3)
    )
    assert eeg_BCT.grad is not None
    assert (eeg_BCT.grad * step).sum().item() == pytest.approx((change * weight).sum().item(), abs=1e-3)
    dropped = (out == 0).all(2)
    assert 0 < dropped.sum() < dropped.numel()
    assert torch.equal((eeg_BCT.grad == 0).all(2), dropped)


# What is refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shift_s", -0.1),
        ("shift_s", float("inf")),
        ("noise", -1.0),
        ("noise", float("nan")),
        ("smooth", -0.1),
        ("smooth", 1.1),
        ("smooth_samples", 1),
        ("channel_dropout", -0.1),
        ("channel_dropout", 1.0),
    ],
)
def test_wrong_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        Augment.model_validate({field: value})


def test_an_even_average_is_refused_with_the_nearest_valid_ones() -> None:
    with pytest.raises(ValidationError, match=r"smooth_samples must be odd, got 4\. Nearest valid values: 3, 5"):
        Augment(smooth_samples=4)


def test_a_shift_must_fit_into_the_trial() -> None:
    eeg_BCT = trials(2, 3, 20)
    with pytest.raises(ValueError, match=r"at most half the trial \(0\.1 s\), got 0\.11 s"):
        run(eeg_BCT, Augment(shift_s=0.11))
    with pytest.raises(ValueError, match=r"at least one sample \(0\.01 s\).*got 0\.004 s"):
        run(eeg_BCT, Augment(shift_s=0.004))
    run(eeg_BCT, Augment(shift_s=0.1))
    assert module._largest_shift(0.29, 100.0, 100) == 29


def test_wrong_shapes_and_types_are_refused() -> None:
    eeg_BCT, good = trials(3, 2, 8), torch.arange(3)
    with pytest.raises(ValueError, match=r"floating point \(B, C, T\), got torch.int64"):
        augment(torch.zeros(3, 2, 8, dtype=torch.int64), 0, good, good, SFREQ_HZ, ALL)
    with pytest.raises(ValueError, match=r"pass_B must be int64 .* 3 trials, got torch.int64 \(2,\)"):
        augment(eeg_BCT, 0, good[:2], good, SFREQ_HZ, ALL)
    with pytest.raises(ValueError, match=r"trial_B must be int64 .* got torch.float32 \(3,\)"):
        augment(eeg_BCT, 0, good, good.float(), SFREQ_HZ, ALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", EACH)
def test_cpu_and_gpu_agree(name: str) -> None:
    eeg_BCT = trials(64, 17, 101)
    on_cpu = run(eeg_BCT, EACH[name])
    on_gpu = augment(eeg_BCT.cuda(), 7, torch.zeros(64, dtype=torch.int64), torch.arange(64), SFREQ_HZ, EACH[name])
    assert on_gpu.is_cuda
    if name in ("shift", "dropout"):
        assert torch.equal(on_gpu.cpu(), on_cpu)
    else:
        # Last bits of logarithm, cosine and the average.
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-5, rtol=1e-5)
