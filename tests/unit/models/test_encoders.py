"""Every encoder of the table: gradient reach, save and load, one trial does not see another."""

import io
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from eegdecode.config import Encoder
from eegdecode.models import ENCODERS
from eegdecode.models.decoder import Decoder, build_decoder

CHANS, TIMES, DIM = 5, 160, 8


def toy(name: str, **changes: object) -> Decoder:
    arguments = {"n_chans": CHANS, "n_times": TIMES, "target_dim": DIM, "dropout": 0.0, "temperature": 0.1}
    torch.manual_seed(0)
    return build_decoder(name, learn_temperature=True, **(arguments | changes))  # type: ignore[arg-type]


def eeg(n: int) -> torch.Tensor:
    return torch.randn(n, CHANS, TIMES, generator=torch.Generator().manual_seed(n))


def test_the_table_is_what_an_experiment_can_name() -> None:
    listed = get_args(Encoder.model_fields["name"].annotation)[0]
    assert set(ENCODERS) == set(get_args(listed))
    assert Encoder(name="braindecode:EEGNet").name == "braindecode:EEGNet"
    with pytest.raises(ValidationError, match=r"Input should be 'linear', .*"):
        Encoder(name="braindecode:../x")


@pytest.mark.parametrize("name", ENCODERS)
def test_gradient_reaches_every_parameter(name: str) -> None:
    decoder = toy(name)
    z = decoder(eeg(6))
    assert z.shape == (6, DIM)
    (z.square().sum(dim=1) * torch.arange(6) + z[:, 0]).sum().backward()
    # The bias of a key adds the same to all logits of a softmax: what reaches it is rounding, or nothing.
    missed = [
        n
        for n, p in decoder.encoder.named_parameters()
        if p.grad is None
        or not torch.isfinite(p.grad).all()
        or not (p.grad.abs().max() > 0 or n.endswith("transformer.key.bias"))
    ]
    assert missed == []
    assert all(p.ndim > 0 for p in decoder.parameters())  # DeepSpeed cannot send a parameter without dimensions


@pytest.mark.parametrize("name", ENCODERS)
def test_saved_weights_give_the_same_embedding(name: str) -> None:
    decoder = toy(name)
    decoder.set_front(np.diag(np.arange(1.0, 6.0)), np.ones(5))
    decoder(eeg(6))  # moves running statistics
    held = io.BytesIO()
    torch.save(decoder.state_dict(), held)
    held.seek(0)
    other = toy(name, temperature=0.5)
    assert not torch.equal(other.eval()(eeg(3)), decoder.eval()(eeg(3)))
    other.load_state_dict(torch.load(held, weights_only=True))
    torch.testing.assert_close(other.eval()(eeg(3)), decoder.eval()(eeg(3)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_in_eval_mode_a_trial_does_not_depend_on_the_others(name: str) -> None:
    decoder = toy(name)
    decoder(eeg(6))
    decoder.eval()
    together = decoder(eeg(6))
    alone = torch.cat([decoder(trial[None]) for trial in eeg(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


LEAST = {
    "nice": 75,
    "nice_sa": 75,
    "nice_ga": 75,
    "tsconv": 75,
    "tsconv_ubp": 75,
    "shallownet": 75,
    "eegnet": 95,
    "deepnet": 151,
    "spectrogram": 16,
    "scalogram": 16,
}


@pytest.mark.parametrize("name", LEAST)
def test_trials_too_short_for_the_kernels_are_refused_with_the_minimum(name: str) -> None:
    least = LEAST[name]
    with pytest.raises(ValueError, match=rf"at least {least} samples.* got {least - 1}"):
        toy(name, n_times=least - 1)
    assert toy(name, n_times=least)(torch.randn(2, CHANS, least)).shape == (2, DIM)


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - set(LEAST)))
def test_the_others_take_trials_of_any_length(name: str) -> None:
    assert toy(name, n_times=3)(torch.randn(2, CHANS, 3)).shape == (2, DIM)


def test_the_front_is_applied_before_the_encoder_and_checked() -> None:
    decoder = toy("linear").eval()
    weight, bias = np.random.default_rng(0).normal(size=(5, 5)), np.arange(5.0)
    plain = decoder.encoder(
        torch.einsum("dc,nct->ndt", torch.tensor(weight).float(), eeg(2)) + torch.arange(5.0)[:, None]
    )
    decoder.set_front(weight, bias)
    torch.testing.assert_close(decoder(eeg(2)), plain)
    assert "front_weight_CC" in decoder.state_dict()
    assert "front_weight_CC" not in dict(decoder.named_parameters())
    with pytest.raises(ValueError, match=r"needs a \(5, 5\) here, got \(4, 4\)"):
        decoder.set_front(np.eye(4), np.zeros(4))
    with pytest.raises(ValueError, match="must be finite"):
        decoder.set_front(np.full((5, 5), np.nan), np.zeros(5))


def test_temperature_is_learnt_only_where_asked() -> None:
    assert toy("linear", temperature=0.07).logit_scale.item() == pytest.approx(np.log(1 / 0.07))
    fixed = build_decoder("linear", CHANS, TIMES, DIM, 0.0, 0.07, learn_temperature=False)
    assert not fixed.logit_scale.requires_grad
    assert fixed.logit_scale.shape == (1,)
    with pytest.raises(ValueError, match=r"one of .*'nice'.* got 'nic'"):
        build_decoder("nic", CHANS, TIMES, DIM, 0.0, 0.07, True)
