"""Models of braindecode behind our interface."""

import numpy as np
import pytest
import torch

from eegdecode.models import build_encoder
from eegdecode.models.decoder import build_decoder
from eegdecode.models.norm import BatchNorm
from eegdecode.models.options import EncoderOptions

NAMES = ["EEGNet", "ShallowFBCSPNet", "EEGConformer"]


def eeg(n: int) -> torch.Tensor:
    return torch.randn(n, 6, 256, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_by_name_is_an_encoder_like_any(name: str) -> None:
    torch.manual_seed(0)
    decoder = build_decoder(f"braindecode:{name}", 6, 256, 12, 0.0, 0.1, True)
    z = decoder(eeg(4))
    assert z.shape == (4, 12)
    (z * torch.randn(4, 12)).sum().backward()
    missed = [n for n, p in decoder.encoder.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert missed == []
    decoder.eval()
    alone = torch.cat([decoder(trial[None]) for trial in eeg(4)])
    torch.testing.assert_close(decoder(eeg(4)), alone, rtol=1e-4, atol=1e-5)
    other = build_decoder(f"braindecode:{name}", 6, 256, 12, 0.0, 0.1, True).eval()
    other.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(other(eeg(2)), decoder(eeg(2)), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_its_batchnorms_see_all_ranks(name: str) -> None:
    encoder = build_encoder(f"braindecode:{name}", 6, 256, 12, 0.0)
    kinds = [type(module) for module in encoder.modules()]
    assert BatchNorm in kinds
    assert not any(issubclass(kind, torch.nn.modules.batchnorm._BatchNorm) for kind in kinds)


def test_what_it_computes_is_the_models_own_output_through_the_head() -> None:
    from braindecode.models import EEGNet

    torch.manual_seed(0)
    encoder = build_encoder("braindecode:EEGNet", 6, 256, 12, 0.25).eval()
    theirs = EEGNet(n_chans=6, n_times=256, n_outputs=12, drop_prob=0.25).eval()
    state = {name: value for name, value in theirs.state_dict().items() if "num_batches" in name}
    theirs.load_state_dict(state | encoder.model.state_dict())
    torch.testing.assert_close(encoder(eeg(3)), encoder.head(theirs(eeg(3))))


def test_options_and_sampling_rate_reach_it() -> None:
    positions = np.random.default_rng(0).normal(size=(6, 3)) * 0.5
    options = EncoderOptions("linear", 2, virtual_chans=4, positions_C3=positions, sfreq_hz=250.0)
    encoder = build_encoder("braindecode:EEGNet", 6, 256, 12, 0.0, options)
    assert encoder(eeg(2), torch.tensor([1, 0])).shape == (2, 12)
    with pytest.raises(ValueError, match=r"'braindecode:ContraWR' cannot be built .* no given Hz"):
        build_encoder("braindecode:ContraWR", 6, 256, 12, 0.0)
    assert build_encoder("braindecode:ContraWR", 6, 256, 12, 0.0, EncoderOptions(sfreq_hz=250.0))(eeg(2)).shape == (
        2,
        12,
    )


def test_what_is_no_model_is_refused() -> None:
    for name in ("EEGNett", "functional", "util"):
        with pytest.raises(ValueError, match=rf"a class of braindecode.models, got '{name}'"):
            build_encoder(f"braindecode:{name}", 6, 256, 12, 0.0)
    with pytest.raises(ValueError, match=r"'braindecode:DGCNN' cannot be built for 6 electrodes"):
        build_encoder("braindecode:DGCNN", 6, 256, 12, 0.0)
