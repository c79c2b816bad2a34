"""InfoNCE: what counts as a positive, and what does not."""

import math

import pytest
import torch
from torch.nn import functional

from eegdecode import losses


def pair(n: int, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, dim, generator=generator), torch.randn(n, dim, generator=generator)


SCALE = torch.tensor([math.log(1 / 0.07)])


def test_without_repeats_it_is_cross_entropy_on_the_diagonal() -> None:
    z, target = pair(7)
    logits = functional.normalize(z) @ functional.normalize(target).T / 0.07
    truth = torch.arange(7)
    expected = (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2
    torch.testing.assert_close(losses.info_nce(z, target, SCALE, torch.arange(7) + 40), expected)


def test_a_repeated_picture_is_no_negative() -> None:
    """Two trials of one picture, both predicted perfectly: the loss reaches its least value, the mean log count."""
    target = torch.eye(4)[[0, 0, 1, 2]]
    scale = torch.tensor([math.log(100.0)])
    loss, top1 = losses.info_nce_top1(target, target, scale, torch.tensor([5, 5, 6, 7]))
    assert float(loss) == pytest.approx(math.log(2) / 2, abs=1e-5)  # rows 0 and 1 have two positives each
    assert float(top1) == 1
    as_negatives = losses.info_nce(target, target, scale, torch.arange(4))
    target.requires_grad_()
    torch.autograd.backward(losses.info_nce(target, target.detach(), scale, torch.tensor([5, 5, 6, 7])))
    assert float(as_negatives) == pytest.approx(float(loss), abs=1e-5)
    assert target.grad is not None
    assert float(target.grad.abs().max()) < 1e-4  # nothing pushes the repeats apart


def test_trials_of_one_picture_are_asked_for_each_others_target() -> None:
    """With targets that differ within a picture (two views of it), every pair of its trials and targets is positive."""
    z, target = pair(3)
    logits = functional.normalize(z) @ functional.normalize(target).T / 0.07
    rows, columns = logits.log_softmax(1), logits.log_softmax(0)
    expected = -sum((m[0, 0] + m[0, 1] + m[1, 0] + m[1, 1]) / 2 + m[2, 2] for m in (rows, columns)) / 6
    torch.testing.assert_close(losses.info_nce(z, target, SCALE, torch.tensor([9, 9, 4])), expected)


def test_equal_targets_need_no_marking() -> None:
    """Where a picture has one target, the loss with and without marked repeats is the same number and gradient."""
    z, target = pair(6)
    target[1] = target[0]
    z.requires_grad_()
    marked = losses.info_nce(z, target, SCALE, torch.tensor([0, 0, 1, 2, 3, 4]))
    plain = losses.info_nce(z, target, SCALE, torch.arange(6))
    torch.testing.assert_close(marked, plain)
    torch.testing.assert_close(torch.autograd.grad(marked, z), torch.autograd.grad(plain, z))


def test_target_form_leaves_the_eeg_side_as_it_is() -> None:
    z, target = pair(5)
    one = losses.info_nce(z, target, torch.zeros(1), torch.arange(5), "target")
    longer = losses.info_nce(z * 3, target, torch.zeros(1), torch.arange(5), "target")
    by_scale = losses.info_nce(z, target, torch.tensor([math.log(3.0)]), torch.arange(5), "target")
    assert float(longer) != pytest.approx(float(one), rel=1e-3)
    torch.testing.assert_close(longer, by_scale)
    both = losses.info_nce(z, target, SCALE, torch.arange(5))
    torch.testing.assert_close(losses.info_nce(z * 3, target * 7, SCALE, torch.arange(5)), both)


def test_scale_stops_at_100_and_large_logits_stay_finite() -> None:
    z, target = pair(8)
    at_limit = losses.info_nce(z, target, torch.tensor([math.log(100.0)]), torch.arange(8))
    beyond = losses.info_nce(z, target, torch.tensor([50.0]), torch.arange(8))
    torch.testing.assert_close(beyond, at_limit)
    assert torch.isfinite(losses.info_nce(z * 1e4, target, torch.tensor([4.0]), torch.arange(8), "target"))


def test_shapes_and_names_are_checked() -> None:
    z, target = pair(4)
    with pytest.raises(ValueError, match=r"one shape, got \(4, 6\) and \(4, 5\)"):
        losses.info_nce(z, target[:, :5], SCALE, torch.arange(4))
    with pytest.raises(ValueError, match="'both' or 'target', got 'none'"):
        losses.info_nce(z, target, SCALE, torch.arange(4), "none")  # type: ignore[arg-type]
