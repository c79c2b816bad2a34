"""Subjects, montages and other data sets' weights, as options of one interface."""

import numpy as np
import pytest
import torch

from eegdecode.models import ENCODERS, build_encoder
from eegdecode.models.atm import Atm, AtmPublished, SubjectToken
from eegdecode.models.decoder import build_decoder
from eegdecode.models.options import EncoderOptions, SubjectLinear, VirtualMontage, take_over

CHANS, TIMES, DIM = 5, 160, 8


def eeg(n: int, n_chans: int = CHANS) -> torch.Tensor:
    return torch.randn(n, n_chans, TIMES, generator=torch.Generator().manual_seed(n))


def places(n: int, seed: int = 0) -> np.ndarray:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_every_option(name: str) -> None:
    options = EncoderOptions("linear", n_subjects=3, virtual_chans=4, positions_C3=places(CHANS))
    torch.manual_seed(0)
    encoder = build_encoder(name, CHANS, TIMES, DIM, 0.0, options).eval()
    z = encoder(eeg(4), torch.tensor([0, 1, 2, -1]))
    assert z.shape == (4, DIM)
    (z * torch.arange(1.0, 5.0)[:, None] * torch.randn(DIM)).sum().backward()
    for p in (encoder.subject.weight_STT, encoder.montage.weight_VH):  # type: ignore[union-attr]
        assert float(p.grad.abs().max()) > 0  # type: ignore[union-attr, operator]


def test_without_options_it_is_the_architecture_alone() -> None:
    assert type(build_encoder("atm", CHANS, TIMES, DIM, 0.0)) is Atm


def test_a_decoder_hands_the_subjects_on() -> None:
    torch.manual_seed(0)
    decoder = build_decoder(
        "atm", CHANS, TIMES, DIM, 0.0, 0.1, True, options=EncoderOptions("token", n_subjects=2)
    ).eval()
    own, other, unknown = (decoder(eeg(1), torch.tensor([s])) for s in (0, 1, 7))
    torch.testing.assert_close(decoder(eeg(1)), unknown)
    assert not torch.equal(own, other)
    assert not torch.equal(own, unknown)


def test_the_published_token_gives_somebody_new_the_shared_one() -> None:
    torch.manual_seed(0)
    encoder = AtmPublished(CHANS, TIMES, DIM, 0.0, 9).eval()
    torch.testing.assert_close(encoder(eeg(2), torch.tensor([-1, -1])), encoder(eeg(2)))
    assert not torch.allclose(encoder(eeg(2), torch.tensor([0, 0])), encoder(eeg(2)))


def test_subject_layer_starts_as_the_identity_and_gives_a_new_subject_the_mean() -> None:
    layer, x = SubjectLinear(3, TIMES), eeg(6)
    subject = torch.tensor([2, 0, -1, 1, 3, 0])
    torch.testing.assert_close(layer(x, subject), x)
    with torch.no_grad():
        layer.weight_STT.normal_()
        layer.bias_ST.normal_()
    found = layer(x, subject)
    for row, s in enumerate(subject.tolist()):
        known = 0 <= s < 3
        weight = layer.weight_STT[s] if known else layer.weight_STT.mean(0)
        bias = layer.bias_ST[s] if known else layer.bias_ST.mean(0)
        torch.testing.assert_close(found[row], x[row] @ weight.T + bias)
    torch.testing.assert_close(layer(x, None)[2], found[2])


def test_shared_token_is_learnt_where_all_subjects_are_known() -> None:
    torch.manual_seed(0)
    token = SubjectToken(2, p_shared=0.1)
    tokens = token(1000, torch.arange(1000) % 2)
    shared = (tokens == token.shared_1M).all(dim=1)
    assert 60 < int(shared.sum()) < 140  # chance of a false alarm below 1e-4
    assert torch.equal(tokens[~shared], token.table_SM[torch.arange(1000) % 2][~shared])
    assert torch.equal(token.eval()(2, torch.tensor([1, 0])), token.table_SM[[1, 0]])


def test_corrected_atm_keeps_the_last_electrode_and_a_batch_of_mixed_subjects() -> None:
    """The published one loses both; weights that mix tokens are switched off, so an electrode acts by itself alone."""
    torch.manual_seed(0)
    for kind, kept in ((Atm, True), (AtmPublished, False)):
        encoder = kind(CHANS, TIMES, DIM, 0.0, 9).eval()
        torch.nn.init.zeros_(encoder.transformer.write.weight)
        x = eeg(2)
        other = x.clone()
        other[:, -1] += 1.0
        assert torch.allclose(encoder(x), encoder(other)) is not kept
        together, alone = encoder(x, torch.tensor([3, 11])), encoder(x[:1], torch.tensor([3]))
        assert torch.allclose(together[:1], alone, atol=1e-5) is kept


def test_virtual_montage_does_not_mind_the_order_of_electrodes() -> None:
    torch.manual_seed(0)
    positions, order = places(7), torch.tensor([3, 0, 6, 1, 5, 2, 4])
    montage = VirtualMontage(positions, 4)
    shuffled = VirtualMontage(positions[order.numpy()], 4)
    shuffled.weight_VH = montage.weight_VH
    x = eeg(2, 7)
    torch.testing.assert_close(shuffled(x[:, order]), montage(x))
    torch.testing.assert_close(montage(torch.ones(1, 7, 3)), torch.ones(1, 4, 3))  # weights add to 1
    attention = torch.softmax(montage.weight_VH.detach() @ montage.fourier_CH.T, dim=1)
    assert float(attention.max(dim=1).values.min()) > 1.5 / 7  # virtual electrodes look somewhere from the start
    assert not torch.allclose(attention[0], attention[1], atol=0.05)


def test_weights_go_to_another_montage_and_other_subjects() -> None:
    def built(n_chans: int, n_subjects: int, seed: int, name: str = "nice") -> torch.nn.Module:
        torch.manual_seed(seed)
        options = EncoderOptions("linear", n_subjects, 4, places(n_chans, seed))
        return build_encoder(name, n_chans, TIMES, DIM, 0.0, options)

    source, ours = built(9, 3, 1), built(5, 2, 2)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    stayed = take_over(ours, source.state_dict())
    assert stayed == ("montage.fourier_CH", "subject.bias_ST", "subject.weight_STT")
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name] if name in stayed else source.state_dict()[name])
    assert not torch.equal(before["encoder.head.map.weight"], source.state_dict()["encoder.head.map.weight"])
    with pytest.raises(ValueError, match="must be those of the same encoder"):
        take_over(ours, built(9, 3, 1, "mlp").state_dict())
    plain = [build_encoder("nice", n, TIMES, DIM, 0.0) for n in (4, 5)]
    with pytest.raises(ValueError, match=r"'trunk.spatial.map_FFC'.* set encoder.virtual_chans"):
        take_over(plain[0], plain[1].state_dict())


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match="'linear' and 0 subjects"):
        EncoderOptions("linear")
    with pytest.raises(ValueError, match="'none' and 3 subjects"):
        EncoderOptions(n_subjects=3)
    with pytest.raises(ValueError, match="got 4 and no positions"):
        EncoderOptions(virtual_chans=4)
    with pytest.raises(ValueError, match="got 0 and positions"):
        EncoderOptions(positions_C3=places(5))
    with pytest.raises(ValueError, match=r"'token' needs one of \['atm', 'atm_published'\], got 'mlp'"):
        build_encoder("mlp", CHANS, TIMES, DIM, 0.0, EncoderOptions("token", 3))
    with pytest.raises(ValueError, match="one row for each of 5 electrodes, got 6"):
        build_encoder("mlp", CHANS, TIMES, DIM, 0.0, EncoderOptions(virtual_chans=4, positions_C3=places(6)))
    with pytest.raises(ValueError, match=r"units of the head's radius .* up to 90"):
        VirtualMontage(np.full((3, 3), 90.0), 2)
