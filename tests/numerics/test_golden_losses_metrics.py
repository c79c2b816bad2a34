"""EEGProject, losses and retrieval scores against golden numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eegdecode import losses, metrics
from eegdecode.models.eegproject import EEGProject

Golden = Callable[[str], Any]
Agree = Callable[..., None]


@pytest.mark.parametrize("name", ["ubp_eegproject_full", "ubp_eegproject_small", "nb_eegproject_full"])
def test_eegproject(name: str, golden: Golden, agree: Agree) -> None:
    case = golden(name)
    names = {
        "map.weight": "model.0.weight",
        "map.bias": "model.0.bias",
        "residual.1.weight": "model.1.f.1.weight",
        "residual.1.bias": "model.1.f.1.bias",
        "norm.weight": "model.2.weight",
        "norm.bias": "model.2.bias",
    }
    encoder = EEGProject(17, 250, case["expected.output"].shape[1], 0.3).eval()
    encoder.head.load_state_dict(case.weights(names))
    eeg = case["input"].clone().requires_grad_()
    output = encoder(eeg)
    agree(output, case["expected.output"])
    torch.autograd.backward((output * case["probe"]).sum())
    agree(eeg.grad, case["expected.grad_input"])


def leaf(case: Any, name: str) -> torch.Tensor:
    tensor: torch.Tensor = case[f"input.{name}"].clone().requires_grad_()
    return tensor


def test_nice_loss(golden: Golden, agree: Agree) -> None:
    case = golden("loss_nice_infonce")
    eeg, img, scale = leaf(case, "eeg"), leaf(case, "img"), leaf(case, "log_logit_scale")
    loss = losses.info_nce(eeg, img, scale, torch.arange(12))
    torch.autograd.backward(loss)
    agree(loss[None], case["expected.loss"])
    for name, tensor in {"eeg": eeg, "img": img, "log_logit_scale": scale}.items():
        agree(tensor.grad, case[f"expected.grad.{name}"])


@pytest.mark.parametrize("name", ["loss_openclip_clip", "loss_openclip_clip_b33"])
def test_open_clip_loss(name: str, golden: Golden, agree: Agree) -> None:
    """Its inputs have unit length already and its scale is no log: our gradient is theirs without the radial part."""
    case = golden(name)
    image, text, scale = leaf(case, "image"), leaf(case, "text"), leaf(case, "logit_scale")
    loss = losses.info_nce(image, text, scale.log(), torch.arange(len(image)))
    torch.autograd.backward(loss)
    agree(loss[None], case["expected.loss"])
    agree(scale.grad, case["expected.grad.logit_scale"])
    for side, tensor in {"image": image, "text": text}.items():
        expected = case[f"expected.grad.{side}"]
        along = (expected * tensor.detach()).sum(dim=1, keepdim=True) * tensor.detach()
        agree(tensor.grad, expected - along)


def test_ubp_loss(golden: Golden, agree: Agree) -> None:
    """Pictures normalised alone; its scale is softplus of the parameter."""
    case = golden("loss_ubp")
    eeg, img, scale = leaf(case, "eeg"), leaf(case, "img"), leaf(case, "log_logit_scale")
    log_scale = torch.nn.functional.softplus(scale).log()
    loss = losses.info_nce(eeg, img, log_scale, torch.arange(12), "target")
    torch.autograd.backward(loss)
    agree(loss[None], case["expected.loss"])
    for name, tensor in {"eeg": eeg, "img": img, "log_logit_scale": scale}.items():
        agree(tensor.grad, case[f"expected.grad.{name}"])


def test_square_retrieval(golden: Golden) -> None:
    case = golden("retrieval_square")
    scores, target, facts = case["input.similarity"].numpy(), np.arange(200), case.facts["scalars"]
    for k, count in facts["topk_count"].items():
        assert metrics.top_k_hits(scores, target, int(k)).sum() == count
    for k, count in facts["reverse_topk_count"].items():
        assert metrics.top_k_hits(scores.T, target, int(k)).sum() == count
    assert metrics.mean_average_precision(scores, target) == pytest.approx(facts["mAP_single_positive"], abs=1e-6)
    for name, expected in facts["nway_expected_accuracy"].items():
        n_way, k = name.split("way_top")
        assert metrics.n_way_hits(scores, target, int(n_way), int(k)).mean() == pytest.approx(expected, abs=1e-9)
    n_drawn = 0
    for n_way in (2, 4, 10, 50, 100):
        candidates = case[f"input.candidates.{n_way}way"].numpy()
        drawn = np.take_along_axis(scores, candidates.astype(int), axis=1)
        last = np.full(200, n_way - 1)
        for k in (1, 5):
            expected = facts["nway_sampled_accuracy"].get(f"{n_way}way_top{k}")
            if expected is not None:
                assert metrics.top_k(drawn, last, k) == pytest.approx(expected, abs=1e-9)
                n_drawn += 1
    assert n_drawn == 8


def test_multi_positive_retrieval(golden: Golden) -> None:
    case = golden("retrieval_multi_positive")
    scores, facts = case["input.similarity"].numpy(), case.facts["scalars"]
    relevant = (case["input.query_class"][:, None] == case["input.gallery_class"][None]).numpy()
    np.testing.assert_allclose(
        metrics.average_precision(scores, relevant), case["expected.average_precision"].numpy(), atol=1e-9
    )
    assert metrics.mean_average_precision(scores, relevant) == pytest.approx(facts["mAP"], abs=1e-9)
    for k, rate in facts["topk_any_hit_rate"].items():
        assert metrics.top_k(scores, relevant, int(k)) == pytest.approx(rate, abs=1e-9)


def test_scoring_against_class_centres(golden: Golden) -> None:
    """The published score leaves centres as long as they are; ours has both, and they differ."""
    case = golden("nice_centre_scoring")
    eeg = torch.nn.functional.normalize(case["input.eeg_embedding"])
    centres = case["input.centres"]
    for scores, name in [
        (torch.softmax(100 * eeg @ centres.T, dim=-1), "top1_top3_top5_counts"),
        (eeg @ torch.nn.functional.normalize(centres).T, "top1_top3_top5_counts_if_centres_were_normalised"),
    ]:
        # The published softmax rounds most of a row to 0; the ties that arise count by expectation with us.
        counts = [round(metrics.top_k_hits(scores.numpy(), np.arange(200), k).sum()) for k in (1, 3, 5)]
        assert counts == case.facts["scalars"][name]
