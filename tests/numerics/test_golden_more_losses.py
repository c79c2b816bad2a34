"""Losses of ATM, NeuroBridge, SAMGA, UBP and SigLIP, and Perceptogram's ridge, against golden numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from eegdecode import losses
from eegdecode.config import LossTerm
from eegdecode.train import closed_form

Golden = Callable[[str], Any]
Agree = Callable[..., None]
ROWS = torch.arange(12)


def leaves(case: Any) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("input."): tensor.clone().requires_grad_()
        for name, tensor in case.tensors.items()
        if name.startswith("input.")
    }


def check(
    case: Any, loss: torch.Tensor, inputs: dict[str, torch.Tensor], agree: Agree, unit: tuple[str, ...] = ()
) -> None:
    """Compare value and every gradient. Inputs of unit length are normalised again here: no radial part of theirs."""
    torch.autograd.backward(loss)
    agree(loss.reshape(1), case["expected.loss"], 2e-5)
    n_gradients = 0
    for name, tensor in inputs.items():
        expected = case.tensors.get(f"expected.grad.{name}")
        if expected is None:
            continue
        if name in unit:
            at = tensor.detach()
            expected = expected - (expected * at).sum(dim=1, keepdim=True) * at
        agree(tensor.grad, expected, 2e-5)
        n_gradients += 1
    assert n_gradients >= 2


def softplus_scale(temperature: float) -> torch.Tensor:
    """Log of UBP's, NeuroBridge's and one of SAMGA's scales, which are softplus(ln(1 / temperature))."""
    return functional.softplus(torch.tensor([-np.log(temperature)]).float()).log()


def total(terms: list[tuple[str, float]], sides: dict[str, losses.Sides]) -> torch.Tensor:
    """Weighted sum of "name" or "name.target"."""
    declared = [LossTerm(name=n.partition(".")[0], weight=w, target=n.partition(".")[2]) for n, w in terms]
    return losses.weighted_sum(declared, sides)[0]


def sides(x: dict[str, torch.Tensor], target: str, scale: torch.Tensor, normalise: str = "target") -> losses.Sides:
    return losses.Sides(x["eeg"], x[target], ROWS, scale, normalise)  # type: ignore[arg-type]


def test_atm_retrieval(golden: Golden, agree: Agree) -> None:
    """Its scale multiplies without exp, its EEG side is as long as it is."""
    case = golden("loss_atm_retrieval")
    x = leaves(case)
    scale = x["logit_scale"].log()
    both = {"": sides(x, "img", scale), "text": sides(x, "text", scale)}
    loss = total([("info_nce", 0.99), ("info_nce.text", 0.01)], both)
    check(case, loss, x, agree, unit=("img", "text"))


def test_atm_reconstruction(golden: Golden, agree: Agree) -> None:
    case = golden("loss_atm_reconstruction")
    x = leaves(case)
    loss = total([("mse", 9.0), ("info_nce", 1.0)], {"": sides(x, "img", x["logit_scale"].log())})
    torch.autograd.backward(loss)
    agree(loss.reshape(1), case["expected.loss"])
    agree(x["eeg"].grad, case["expected.grad.eeg"])
    agree(x["logit_scale"].grad, case["expected.grad.logit_scale"])
    # The difference keeps its radial part, the contrast loses it: only what is across the target can be compared.
    at = x["img"].detach()
    for grad in (x["img"].grad, case["expected.grad.img"]):
        grad -= (grad * at).sum(dim=1, keepdim=True) * at
    agree(x["img"].grad, case["expected.grad.img"])


def test_neurobridge_with_images_alone(golden: Golden, agree: Agree) -> None:
    case = golden("loss_nb_img_only")
    x = leaves(case)
    check(case, total([("info_nce", 1.0)], {"": sides(x, "img", softplus_scale(0.07))}), x, agree)


def test_neurobridge_with_text(golden: Golden, agree: Agree) -> None:
    case = golden("loss_nb_text")
    x = leaves(case)
    scale = softplus_scale(0.07)
    both = {"": sides(x, "img", scale), "text": sides(x, "text", scale)}
    check(case, total([("info_nce", 0.6), ("info_nce.text", 0.4)], both), x, agree)


def test_neurobridge_with_both_sides_normalised_and_their_difference(golden: Golden, agree: Agree) -> None:
    """The squared difference of unit vectors, averaged over 32 dimensions, is 2 / 32 of 1 - cosine."""
    case = golden("loss_nb_both_T0.5_mse")
    x = leaves(case)
    terms = [("info_nce", 0.9), ("cosine", 0.1 * 2 / 32)]
    check(case, total(terms, {"": sides(x, "img", softplus_scale(0.5), "both")}), x, agree)


@pytest.mark.parametrize("softplus", [0, 1])
def test_samga_contrast(softplus: int, golden: Golden, agree: Agree) -> None:
    case = golden(f"loss_samga_softplus{softplus}")
    x = leaves(case)
    scale = softplus_scale(0.07) if softplus else torch.tensor([-np.log(0.07)]).float()
    check(case, total([("info_nce", 1.0)], {"": sides(x, "img", scale)}), x, agree)


@pytest.mark.parametrize("kind", ["biased", "unbiased"])
def test_samga_mmd(kind: str, golden: Golden, agree: Agree) -> None:
    case = golden(f"loss_samga_mmd_{kind}")
    x = leaves(case)
    loss = losses.mmd(x["x"], x["y"], unbiased=kind == "unbiased")
    check(case, loss, x, agree)


def test_samga_first_stage(golden: Golden, agree: Agree) -> None:
    """Its discrepancy is the unbiased one, here below 0 and so without a part in the loss."""
    case = golden("loss_samga_stage1")
    x = leaves(case)
    assert float(losses.mmd(case["input.eeg"], case["input.img"], unbiased=True)) == 0
    terms = [("mmd_unbiased", case.facts["config"]["w"]), ("info_nce", 1 - case.facts["config"]["w"])]
    check(case, total(terms, {"": sides(x, "img", softplus_scale(0.07))}), x, agree)


def test_ubp_trial_by_trial(golden: Golden, agree: Agree) -> None:
    case = golden("loss_ubp_per_sample")
    found = losses.contrast(case["input.eeg"], case["input.img"], softplus_scale(0.07), ROWS, "target")
    agree(found.logits_GG, case["expected.logits"])
    agree(found.row_G, case["expected.eeg_loss"])
    agree(found.column_G, case["expected.img_loss"])


def test_siglip(golden: Golden, agree: Agree) -> None:
    case = golden("loss_openclip_siglip")
    x = leaves(case)
    loss = losses.siglip(x["image"], x["text"], x["logit_scale"].log(), x["logit_bias"], ROWS)
    check(case, loss, x, agree, unit=("image", "text"))


@pytest.mark.parametrize("alpha", [0, 10, 1000])
def test_perceptogram_ridge(alpha: int, golden: Golden, agree: Agree) -> None:
    """From moments of a stream. Its intercept is that of standardised features: the training targets' mean."""
    case = golden(f"perceptogram_ridge_alpha{alpha}")
    train, test = (case[f"input.eeg_{part}"].flatten(1).double().numpy() for part in ("train", "test"))
    target = case["input.target_train"].double().numpy()
    batches = [(train[k : k + 50], {"clip": target[k : k + 50]}) for k in range(0, len(train), 50)]
    moments = closed_form.accumulate(batches)
    ridge = closed_form.RidgePath(moments, standardise=True).fit("clip", float(alpha))
    deviation = train.std(axis=0, ddof=1)
    agree(torch.from_numpy((ridge.weight_DE * deviation[:, None]).T), case["expected.coef"])
    agree(torch.from_numpy(ridge.bias_E + moments.x_mean_D @ ridge.weight_DE), case["expected.intercept"])
    predicted = test @ ridge.weight_DE + ridge.bias_E
    agree(torch.from_numpy(predicted), case["expected.inductive"])
    scaled = closed_form.transductive_output_scaling(predicted, moments, "clip")
    agree(torch.from_numpy(scaled), case["expected.transductive"])
