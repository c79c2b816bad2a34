"""NICE: our reduced form against the published one, by golden numbers and in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from eegdecode.models.nice import FILTERS, Nice, NiceTrunk
from eegdecode.models.nice_spatial import ChannelAttention, GraphAttentionMixing, SelfAttentionMixing

# Ours -> published, under the prefix of the patch embedding. Ours drops dimensions of one and the batch counters.
TRUNK = {
    "temporal.taps_FK": "tsconv.0.weight",
    "temporal.taps_bias_F": "tsconv.0.bias",
    "temporal.weight": "tsconv.2.weight",
    "temporal.bias": "tsconv.2.bias",
    "temporal.running_mean": "tsconv.2.running_mean",
    "temporal.running_var": "tsconv.2.running_var",
    "spatial.map_FFC": "tsconv.4.weight",
    "spatial.map_bias_F": "tsconv.4.bias",
    "spatial.weight": "tsconv.5.weight",
    "spatial.bias": "tsconv.5.bias",
    "spatial.running_mean": "tsconv.5.running_mean",
    "spatial.running_var": "tsconv.5.running_var",
    "token.weight": "projection.0.weight",
    "token.bias": "projection.0.bias",
}
HEAD = {
    "map.weight": "0.weight",
    "map.bias": "0.bias",
    "residual.1.weight": "1.fn.1.weight",
    "residual.1.bias": "1.fn.1.bias",
    "norm.weight": "2.weight",
    "norm.bias": "2.bias",
}
Golden = Callable[[str], Any]
Agree = Callable[..., None]


def load(module: nn.Module, case: Any, names: dict[str, str], ours: str = "", theirs: str = "") -> None:
    """Fill a module's state from golden weights; running statistics that a case lacks stay as they are."""
    state = module.state_dict()
    for name, source in names.items():
        value = case.tensors.get(f"weight.{theirs}{source}")
        assert value is not None or "running" in name, source
        if value is not None:
            state[ours + name] = value.reshape(state[ours + name].shape)
    module.load_state_dict(state)


class Published(nn.Module):
    """The published form, written with torch's own layers: conv, pool, BatchNorm, one after the other."""

    def __init__(self, n_chans: int, dropout: float) -> None:
        super().__init__()
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, FILTERS, (1, 25)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(FILTERS),
            nn.ELU(),
            nn.Conv2d(FILTERS, FILTERS, (n_chans, 1)),
            nn.BatchNorm2d(FILTERS),
            nn.ELU(),
            nn.Dropout(dropout),
        )
        self.projection = nn.Sequential(nn.Conv2d(FILTERS, FILTERS, (1, 1)))

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        y = self.projection(self.tsconv(eeg_BCT[:, None]))
        tokens: torch.Tensor = y.permute(0, 2, 3, 1).flatten(1)
        return tokens


def pair_of_forms(n_chans: int, n_times: int) -> tuple[NiceTrunk, Published]:
    """Both forms in float64 with the same weights."""
    torch.manual_seed(3)
    published = Published(n_chans, 0.0).double()
    for p in published.parameters():
        nn.init.normal_(p, 0.3, 0.5)
    trunk = NiceTrunk(n_chans, n_times, 0.0).double()
    state, theirs = trunk.state_dict(), published.state_dict()
    trunk.load_state_dict({name: theirs[TRUNK[name]].reshape(state[name].shape) for name in state})
    return trunk, published


@pytest.mark.parametrize(("n_chans", "n_times"), [(63, 250), (4, 100), (1, 75)])
def test_reduced_form_is_the_published_one(n_chans: int, n_times: int, agree: Agree) -> None:
    """Values, gradients, running statistics, in train and then eval mode, in float64."""
    trunk, published = pair_of_forms(n_chans, n_times)
    eeg = torch.randn(5, n_chans, n_times, dtype=torch.float64) + 2.0  # an offset: moments are taken about the mean
    inputs = [eeg.clone().requires_grad_(), eeg.clone().requires_grad_()]
    outputs = [form(x) for form, x in zip((trunk, published), inputs, strict=True)]
    agree(outputs[0], outputs[1], 1e-12)
    probe = torch.randn_like(outputs[0])
    for output in outputs:
        (output * probe).sum().backward()
    agree(inputs[0].grad, inputs[1].grad, 1e-10)
    theirs = dict(published.named_parameters())
    for name, p in trunk.named_parameters():
        expected = theirs[TRUNK[name]].grad
        assert expected is not None
        agree(p.grad, expected.reshape(p.shape), 1e-10)
    for bias in ("tsconv.0.bias", "tsconv.4.bias"):  # why ours are no parameters
        assert float(theirs[bias].grad.abs().max()) < 1e-9  # type: ignore[union-attr]
    for name, buffer in trunk.named_buffers():
        agree(buffer, published.state_dict()[TRUNK[name]].reshape(buffer.shape), 1e-11)
    agree(trunk.eval()(eeg), published.eval()(eeg), 1e-12)


def test_golden_trunk_in_eval_mode(golden: Golden, agree: Agree) -> None:
    case = golden("nice_enc_eeg")
    trunk = NiceTrunk(63, 250, 0.5)
    load(trunk, case, TRUNK, theirs="0.")
    eeg = case["input"][:, 0].clone().requires_grad_()
    output = trunk.eval()(eeg)
    agree(output, case["expected.output"])
    agree(output.reshape(4, 36, 40), case["expected.tokens"])
    (output * case["probe"]).sum().backward()
    agree(eeg.grad, case["expected.grad_input"][:, 0])
    for ours, theirs in [
        ("temporal.taps_FK", "tsconv.0.weight"),
        ("temporal.weight", "tsconv.2.weight"),
        ("token.weight", "projection.0.weight"),
    ]:
        p = trunk.get_parameter(ours)
        agree(p.grad, case[f"expected.grad.0.{theirs}"].reshape(p.shape), 2e-5)


def test_golden_trunk_in_train_mode(golden: Golden, agree: Agree) -> None:
    case = golden("nice_enc_train_mode")
    trunk = NiceTrunk(63, 250, 0.0)
    load(trunk, case, TRUNK, theirs="0.")
    agree(trunk.train()(case["input"][:, 0]), case["expected.output"])
    for name in ("temporal.running_mean", "temporal.running_var", "spatial.running_mean", "spatial.running_var"):
        agree(trunk.get_buffer(name), case[f"expected.after.0.{TRUNK[name]}"])


def test_golden_whole_encoder_at_published_size(golden: Golden, agree: Agree) -> None:
    case = golden("nice_full_768")
    encoder = Nice(63, 250, 768, 0.5)
    load(encoder, case, TRUNK, "trunk.", "Enc_eeg.0.")
    load(encoder, case, HEAD, "head.", "Proj_eeg.")
    agree(encoder.eval()(case["input"][:, 0]), case["expected.output"])


def test_golden_head(golden: Golden, agree: Agree) -> None:
    case = golden("nice_proj_eeg")
    head = Nice(63, 250, 128, 0.5).head.eval()
    load(head, case, HEAD)
    x = case["input"].clone().requires_grad_()
    output = head(x)
    agree(output, case["expected.output"])
    (output * case["probe"]).sum().backward()
    agree(x.grad, case["expected.grad_input"])
    agree(head.map.bias.grad, case["expected.grad.0.bias"])
    agree(head.residual[1].weight.grad, case["expected.grad.1.fn.1.weight"])
    agree(head.norm.weight.grad, case["expected.grad.2.weight"])


ATTENTION = {
    f"{ours}.{i}.{kind}": f"{ours}.{i}.{kind}"
    for ours in ("query", "key", "projection")
    for i in (0, 1)
    for kind in ("weight", "bias")
}


def test_golden_self_attention_as_published_is_its_projection_alone(golden: Golden, agree: Agree) -> None:
    """The published sum makes the weights 1; with the weights taken out, our module gives its numbers."""
    case = golden("nice_sa")
    mixing, trunk = SelfAttentionMixing(63, 250, 0.0).eval(), NiceTrunk(63, 250, 0.0).eval()
    load(mixing, case, {"weight": "weight", "bias": "bias"}, "norm.", "0.fn.0.")
    load(mixing, case, ATTENTION, "attention.", "0.fn.1.")
    load(trunk, case, TRUNK, theirs="1.")

    def published(x_BCT: torch.Tensor) -> torch.Tensor:
        y_BTC: torch.Tensor = mixing.attention.projection(x_BCT.transpose(1, 2))
        return y_BTC.transpose(1, 2)

    eeg = case["input"][:, 0].clone().requires_grad_()
    agree(published(eeg), case["expected.attention_module"][:, 0])
    output = trunk(eeg + published(mixing.norm(eeg)))
    agree(output, case["expected.output"])
    (output * case["probe"]).sum().backward()
    agree(eeg.grad, case["expected.grad_input"][:, 0])
    agree(mixing.attention.projection[0].weight.grad, case["expected.grad.0.fn.1.projection.0.weight"])
    agree(mixing.norm.weight.grad, case["expected.grad.0.fn.0.weight"])


def test_self_attention_is_the_published_formula_with_its_sum_mended() -> None:
    """'b c m, b m s -> b c s' in place of 'b c s, b c m -> b c s'; scaled by the root of int(250 / 30)."""
    torch.manual_seed(0)
    attention = ChannelAttention(6, 250, 0.0).eval()
    x = torch.randn(3, 6, 250)
    query, key = (f(x.transpose(1, 2)).transpose(1, 2) for f in (attention.query, attention.key))
    weight = torch.softmax(torch.einsum("bcs,bms->bcm", query, key) / 8**0.5, dim=-1)
    mixed = torch.einsum("bcm,bms->bcs", weight, x)
    expected = attention.projection(mixed.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(attention(x), expected)
    assert not torch.allclose(attention(x), attention.projection(x.transpose(1, 2)).transpose(1, 2), atol=0.1)


def test_golden_graph_attention(golden: Golden, agree: Agree) -> None:
    """Per trial as meant; and the published batch, where all trials but the first have self-loops only."""
    case = golden("nice_ga")
    mixing, trunk = GraphAttentionMixing(250, 0.0).eval(), NiceTrunk(63, 250, 0.0).eval()
    names = {"map.weight": "lin.weight", "att_key_T": "att_src", "att_query_T": "att_dst", "bias": "bias"}
    load(mixing, case, names, "attention.", "0.fn.0.conv1.")
    load(trunk, case, TRUNK, theirs="1.")
    eeg = case["input"][:, 0]
    attention = mixing.attention
    agree(attention(eeg), case["expected.gat_per_sample"][:, 0])
    agree(trunk(mixing(eeg)), case["expected.output_per_sample"])
    published = torch.cat([attention(eeg[:1]), attention.map(eeg[1:]) + attention.bias])
    agree(published, case["expected.gat_batch"][:, 0])
    agree(trunk(eeg + published), case["expected.output_batch"])


def test_golden_training_of_five_steps(golden: Golden, agree: Agree) -> None:
    """Loss by loss against the published loop; its convolution biases walk at random and ours stay."""
    from eegdecode import losses

    case = golden("nice_train_5steps")
    encoder = Nice(63, 250, 128, 0.0)
    load(encoder, case, TRUNK, "trunk.", "Enc_eeg.0.")
    load(encoder, case, HEAD, "head.", "Proj_eeg.")
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-4, betas=(0.5, 0.999))
    scale = torch.log(torch.tensor([1 / 0.07]))
    found = []
    for eeg, target in zip(case["input.eeg"].float(), case["input.img"], strict=True):
        loss = losses.info_nce(encoder(eeg[:, 0]), target, scale, torch.arange(8))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        found.append(loss.detach())
    agree(torch.stack(found), case["expected.loss"])
    agree(encoder.trunk.temporal.taps_FK, case["expected.final.Enc_eeg.0.tsconv.0.weight"].reshape(40, 25))
    agree(encoder.trunk.spatial.running_var, case["expected.final.Enc_eeg.0.tsconv.5.running_var"], 1e-4)
    agree(encoder.eval()(case["input.probe_eeg"][:, 0]), case["expected.final_output"], 0.02)
