"""Encoders, projectors and the router against golden numbers; reduced forms against the published ones in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from eegdecode.models import ENCODERS
from eegdecode.models.atm import Atm, AtmPublished
from eegdecode.models.nice import FILTERS, NiceTrunk
from eegdecode.models.projectors import ProjectorMLP
from eegdecode.models.router import LayerRouter, LayerTarget
from eegdecode.models.shallownet import TemporalSpatialConv
from eegdecode.models.tsconv import TSConv
from tests.numerics.test_nice import HEAD, TRUNK

Golden = Callable[[str], Any]
Agree = Callable[..., None]
Names = dict[str, str]


def fill(module: nn.Module, case: Any, names: Names) -> None:
    """Set every weight and buffer of a module from a golden case: ours -> theirs."""
    state = module.state_dict()
    assert set(names) == set(state), set(names) ^ set(state)
    given = {ours: case[f"weight.{theirs}"].reshape(state[ours].shape) for ours, theirs in names.items()}
    module.load_state_dict(given)


def under(names: Names, ours: str, theirs: str) -> Names:
    return {ours + a: theirs + b for a, b in names.items()}


def params(pairs: Names, kinds: tuple[str, ...] = ("weight", "bias")) -> Names:
    return {f"{a}.{kind}": f"{b}.{kind}" for a, b in pairs.items() for kind in kinds}


BATCHNORM = ("weight", "bias", "running_mean", "running_var")
PROJECT = {name: theirs.replace("fn.", "f.") for name, theirs in HEAD.items()}
LATE_PROJECT = params({"map": "1", "residual.1": "2.f.1", "norm": "3"})


def tsconv(mix: bool, prefix: str) -> Names:
    """Names of the convolutions in their one sequence."""
    return {
        ours: theirs.replace("tsconv.", prefix).replace("projection.0.", "projection.")
        for ours, theirs in under(TRUNK, "trunk.", "").items()
        if mix or "token" not in ours
    }


EEGNET = params({f"backbone.{i}": f"backbone.{i}" for i in (0, 2, 7)}) | params(
    {f"backbone.{i}": f"backbone.{i}" for i in (1, 3, 8)}, BATCHNORM
)
PAIR = {
    "filters.taps_FK": "backbone.0.weight",
    "filters.taps_bias_F": "backbone.0.bias",
    "filters.map_GFC": "backbone.1.weight",
    "filters.map_bias_G": "backbone.1.bias",
}
CASES: dict[str, tuple[str, Names]] = {
    "nb_tsconv": ("tsconv", tsconv(True, "tsconv.") | under(PROJECT, "head.", "proj_eeg.")),
    "ubp_tsconv": ("tsconv_ubp", tsconv(False, "backbone.") | under(LATE_PROJECT, "head.", "project.")),
    "nb_eegnet": ("eegnet", EEGNET | under(PROJECT, "head.", "project.")),
    "ubp_eegnet": ("eegnet", EEGNET | under(LATE_PROJECT, "head.", "project.")),
    "ubp_shallownet": (
        "shallownet",
        PAIR | params({"norm": "backbone.2"}, BATCHNORM) | under(LATE_PROJECT, "head.", "project."),
    ),
    "ubp_deepnet": (
        "deepnet",
        PAIR
        | params({f"blocks.{i}": f"backbone.{i + 2}" for i in (0, 5, 10, 15)}, BATCHNORM)
        | params({f"blocks.{i}": f"backbone.{i + 2}" for i in (4, 9, 14)})
        | under(LATE_PROJECT, "head.", "project."),
    ),
    "nb_eegtransformer": (
        "eegtransformer",
        params({"token": "input_proj", "map": "fc_out"})
        | {
            f"layers.layers.{i}.{name}": f"transformer_encoder.layers.{i}.{name}"
            for i in range(4)
            for name in nn.TransformerEncoderLayer(8, 1, 8).state_dict()
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_encoder(name: str, golden: Golden, agree: Agree) -> None:
    case = golden(name)
    ours, names = CASES[name]
    encoder = ENCODERS[ours](17, 250, case["expected.output"].shape[1], 0.3).eval()
    fill(encoder, case, names)
    eeg = case["input"].clone().requires_grad_()
    output = encoder(eeg)
    agree(output, case["expected.output"])
    if "probe" in case.tensors:
        torch.autograd.backward((output * case["probe"]).sum())
        agree(eeg.grad, case["expected.grad_input"])
    else:
        assert name in ("ubp_shallownet", "ubp_deepnet")


LAYER = "encoder.attn_layers.0."
TRANSFORMER = {
    "subject.shared_1M": "enc_embedding.subject_embedding.shared_embedding",
    "subject.table_SM": "enc_embedding.subject_embedding.subject_embedding.weight",
} | params(
    {
        "value": "enc_embedding.value_embedding",
        "query": LAYER + "attention.query_projection",
        "key": LAYER + "attention.key_projection",
        "read": LAYER + "attention.value_projection",
        "write": LAYER + "attention.out_projection",
        "norm_attention": LAYER + "norm1",
        "norm_feedforward": LAYER + "norm2",
        "norm": "encoder.norm",
        "feedforward.0": LAYER + "conv1",
        "feedforward.3": LAYER + "conv2",
    }
)
ATM = (
    under(TRANSFORMER, "transformer.", "encoder.")
    | under(TRUNK, "trunk.", "enc_eeg.0.")
    | under(HEAD, "head.", "proj_eeg.")
)


def numbered(*ids: int) -> torch.Tensor:
    """Subjects as published, counted from 1, as ours, counted from 0."""
    return torch.tensor(ids) - 1


def test_golden_tokens_of_atm(golden: Golden, agree: Agree) -> None:
    case = golden("atm_itransformer")
    transformer = AtmPublished(63, 250, 8, 0.0, n_subjects=10).transformer.eval()
    fill(transformer, case, TRANSFORMER)
    for published in (8, 10):
        tokens = transformer(case["input"], numbered(published, published))
        agree(tokens, case[f"expected.subject{published}.tokens64"])


def test_golden_atm_as_published_and_corrected(golden: Golden, agree: Agree) -> None:
    """The same weights: the published slice, and all electrodes kept."""
    case = golden("atm_s_full")
    published, corrected = AtmPublished(63, 250, 1024, 0.0, 10).eval(), Atm(63, 250, 1024, 0.0, 10).eval()
    fill(published, case, ATM)
    fill(corrected, case, ATM)
    agree(published(case["input"], numbered(8, 8)), case["expected.subject8.slice_first63"])
    agree(published(case["input"], numbered(10, 10)), case["expected.subject10.slice_first63"])
    agree(published(case["input"]), case["expected.subject10.slice_first63"])
    # Published ids are rows of the table as they are. Ours count from 0: the row is named directly.
    agree(corrected(case["input"], torch.tensor([8, 8])), case["expected.subject8.slice_skip_token"])
    agree(corrected(case["input"]), case["expected.subject10.slice_skip_token"])
    agree(corrected(case["input"], torch.tensor([10, -1])), case["expected.subject10.slice_skip_token"])
    mixed = corrected(case["input"], torch.tensor([8, 10]))  # one unknown subject decides for itself alone
    expected = [case[f"expected.subject{s}.slice_skip_token"][i] for i, s in enumerate((8, 10))]
    agree(mixed, torch.stack(expected))
    spoiled = published(case["input"], numbered(8, 10))
    agree(spoiled, case["expected.subject10.slice_first63"])


def test_golden_atm_of_neurobridge(golden: Golden, agree: Agree) -> None:
    case = golden("nb_atms")
    encoder = AtmPublished(17, 250, 64, 0.0, n_subjects=10).eval()
    fill(encoder, case, ATM)
    agree(encoder(case["input"], numbered(3, 3, 3, 3)), case["expected.output"])


def test_golden_projectors(golden: Golden, agree: Agree) -> None:
    case = golden("nb_projectors")
    linear, mlp = nn.Linear(40, 24), ProjectorMLP(40, 24)
    fill(linear, case, {kind: f"linear.linear.{kind}" for kind in ("weight", "bias")})
    fill(mlp, case, params({"layers.0": "mlp.mlp.0", "layers.2": "mlp.mlp.2"}))
    agree(linear(case["input"]), case["expected.linear"])
    agree(mlp(case["input"]), case["expected.mlp"])


def test_golden_router(golden: Golden, agree: Agree) -> None:
    case = golden("samga_router")
    config, subjects = case.facts["config"], case["input.subject_ids"]
    router = LayerRouter(config["layer_ids"], config["prior_center"], n_subjects=11)
    agree(router(1)[0], case["expected.initial_global_weights"])
    target = LayerTarget(router, layer_dim=24, reduced_dim=12, embed_dim=16)
    share = nn.Linear(16, 16)
    fill(
        target,
        case,
        {"router.logits_L": "global_logits", "router.offset_SL": "subject_bias"}
        | params(
            {"reduce": "img_pre_projector.linear"} | {f"maps.{k}": f"img_projectors.{k}.linear" for k in range(5)}
        ),
    )
    fill(share, case, {"weight": "share_encoder.encoder.0.weight", "bias": "share_encoder.encoder.0.bias"})
    layers = case["input.image_layers"]
    agree(router(6, subjects), case["expected.weights_subject"])
    agree(router(6), case["expected.weights_global"])
    agree(share(target(layers.flatten(1), subjects)), case["expected.teacher_subject"])
    agree(share(target(layers.flatten(1))), case["expected.teacher_global"])
    assert router.penalty().item() == pytest.approx(case.facts["scalars"]["bias_reg"], rel=1e-5)
    views = LayerRouter(config["layer_ids"], config["prior_center"], n_subjects=12)  # weights of views: offsets alone
    views.load_state_dict({"logits_L": torch.zeros(5), "offset_SL": case["weight.view_logits"]})
    agree(views(6, subjects), case["expected.view_fusion_weights"])
    agree((views(6, subjects)[:, :, None] * layers).sum(1), case["expected.view_fusion"])


class PublishedTrunk(nn.Module):
    """NICE's convolutions layer by layer, flattened as ATM (by window) or as NeuroBridge and UBP (by filter) do."""

    def __init__(self, n_chans: int, mix: bool, by_window: bool) -> None:
        super().__init__()
        self.tsconv = nn.Sequential(
            nn.Conv2d(1, FILTERS, (1, 25)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(FILTERS),
            nn.ELU(),
            nn.Conv2d(FILTERS, FILTERS, (n_chans, 1)),
            nn.BatchNorm2d(FILTERS),
            nn.ELU(),
        )
        self.projection = nn.Sequential(nn.Conv2d(FILTERS, FILTERS, 1)) if mix else nn.Identity()
        self.by_window = by_window

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        y = self.projection(self.tsconv(eeg_BCT[:, None]))
        out: torch.Tensor = (y.permute(0, 2, 3, 1) if self.by_window else y).flatten(1)
        return out


def same_function(ours: nn.Module, published: nn.Module, names: Names, eeg: torch.Tensor, agree: Agree) -> None:
    """Values, gradients and running statistics in train mode, then values in eval mode, all in float64."""
    state, theirs = ours.state_dict(), published.state_dict()
    ours.load_state_dict({name: theirs[names.get(name, name)].reshape(state[name].shape) for name in state})
    inputs = [eeg.clone().requires_grad_(), eeg.clone().requires_grad_()]
    outputs = [form(x) for form, x in zip((ours, published), inputs, strict=True)]
    agree(outputs[0], outputs[1], 1e-11)
    probe = torch.randn_like(outputs[0])
    for output in outputs:
        torch.autograd.backward((output * probe).sum())
    agree(inputs[0].grad, inputs[1].grad, 1e-9)
    slopes = dict(published.named_parameters())
    n_compared = 0
    for name, p in ours.named_parameters():
        expected = slopes[names.get(name, name)].grad
        assert expected is not None
        if not name.endswith("key.bias"):  # adds the same to all logits of a softmax: its gradient is rounding
            agree(p.grad, expected.reshape(p.shape), 1e-9)
        n_compared += 1
    assert n_compared > 3
    for name, buffer in ours.named_buffers():
        agree(buffer, published.state_dict()[names.get(name, name)].reshape(buffer.shape), 1e-10)
    agree(ours.eval()(eeg), published.eval()(eeg), 1e-11)


def drawn(module: nn.Module) -> nn.Module:
    """The module in float64 with weights that are not small."""
    for p in module.parameters():
        nn.init.normal_(p, 0.2, 0.4)
    return module.double()


def test_atm_in_reduced_form_is_the_published_one(agree: Agree) -> None:
    torch.manual_seed(1)
    ours, published = Atm(9, 100, 12, 0.0, 3), Atm(9, 100, 12, 0.0, 3)
    published.trunk = drawn(PublishedTrunk(9, mix=True, by_window=True))  # type: ignore[assignment]

    class AsIs(nn.Module):
        """Gives an encoder its subjects."""

        def __init__(self, encoder: nn.Module) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.encoder(eeg_BCT, torch.tensor([0, 2, 1, 5, 0]))
            return out

    eeg = torch.randn(5, 9, 100, dtype=torch.float64)
    names = under(TRUNK, "encoder.trunk.", "encoder.trunk.")
    same_function(AsIs(ours).double(), AsIs(published).double(), names, eeg, agree)


@pytest.mark.parametrize("mix", [True, False])
def test_tsconv_in_reduced_form_is_the_published_one(mix: bool, agree: Agree) -> None:
    torch.manual_seed(2)
    trunk = TSConv(7, 120, 8, 0.0, mix).trunk
    assert isinstance(trunk, NiceTrunk)
    published = drawn(PublishedTrunk(7, mix, by_window=False))
    same_function(trunk.double(), published, TRUNK, torch.randn(5, 7, 120, dtype=torch.float64), agree)


def test_two_convolutions_computed_as_one_are_the_published_ones(agree: Agree) -> None:
    torch.manual_seed(3)
    published = drawn(nn.Sequential(nn.Conv2d(1, 25, (1, 10)), nn.Conv2d(25, 25, (6, 1)), nn.Flatten(2)))
    names = {ours.removeprefix("filters."): theirs.removeprefix("backbone.") for ours, theirs in PAIR.items()}
    ours = TemporalSpatialConv(6, 25, 10).double()
    eeg = torch.randn(4, 6, 50, dtype=torch.float64)
    state, theirs = ours.state_dict(), published.state_dict()
    ours.load_state_dict({name: theirs[names[name]].reshape(state[name].shape) for name in state})
    pair = [eeg.clone().requires_grad_(), eeg.clone().requires_grad_()]
    outputs = [ours(pair[0]), published(pair[1][:, None])]
    agree(outputs[0], outputs[1], 1e-12)
    probe = torch.randn_like(outputs[0])
    for output in outputs:
        torch.autograd.backward((output * probe).sum())
    agree(pair[0].grad, pair[1].grad, 1e-10)
    for name, p in ours.named_parameters():
        expected = dict(published.named_parameters())[names[name]].grad
        assert expected is not None
        agree(p.grad, expected.reshape(p.shape), 1e-10)
