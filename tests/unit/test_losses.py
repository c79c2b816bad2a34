"""Losses: what counts as a positive and what does not, each against a plain way of writing it, and their sum."""

import math
from typing import Literal, get_args

import pytest
import torch
from torch.nn import functional

from eegdecode import losses
from eegdecode.config import Loss, LossTerm


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
    loss = losses.info_nce(target, target, scale, torch.tensor([5, 5, 6, 7]))
    top1 = losses.top1(target, target, torch.tensor([5, 5, 6, 7]))
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


def test_siglip_counts_every_pair_of_a_picture_as_right() -> None:
    z, target = pair(4)
    scale, bias, picture = torch.tensor([math.log(10.0)]), torch.tensor([-10.0]), torch.tensor([3, 8, 3, 1])
    logits = functional.normalize(z) @ functional.normalize(target).T * 10 - 10
    expected = 0.0
    for i in range(4):
        for j in range(4):
            sign = 1 if picture[i] == picture[j] else -1
            expected += math.log1p(math.exp(-sign * float(logits[i, j]))) / 4
    assert float(losses.siglip(z, target, scale, bias, picture)) == pytest.approx(expected, rel=1e-5)


def test_differences_of_both_sides() -> None:
    z, target = pair(5)
    assert float(losses.mse(z, target)) == pytest.approx(float((z - target).square().mean()))
    assert float(losses.cosine(2 * z, z)) == pytest.approx(0, abs=1e-6)
    unit = functional.normalize(z), functional.normalize(target)
    torch.testing.assert_close(losses.cosine(z, target) * 2 / 6, losses.mse(*unit))


def test_mmd_is_least_between_equal_clouds_and_looks_at_no_pairing() -> None:
    z, target = pair(9)
    assert float(losses.mmd(z, z)) == pytest.approx(0, abs=1e-6)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(losses.mmd(z, target), losses.mmd(z, target[order]))
    assert float(losses.mmd(z / 4, target / 4 + 1)) > float(losses.mmd(z / 4, target / 4)) > 0
    z.requires_grad_()
    below = losses.mmd(z, z.detach() + 1e-4, unbiased=True)
    assert float(below) == 0
    assert float(torch.autograd.grad(below, z)[0].abs().max()) == 0


def triplets(z: torch.Tensor, label: list[int], margin: float) -> list[float]:
    """The loss of every triplet, one by one."""
    found = []
    for a in range(len(z)):
        for p in range(len(z)):
            for n in range(len(z)):
                if a != p and label[a] == label[p] and label[a] != label[n]:
                    near, far = float((z[a] - z[p]).square().sum()), float((z[a] - z[n]).square().sum())
                    found.append(max(0.0, margin + near - far))
    return found


def test_triplets_are_all_those_of_the_batch() -> None:
    z, _ = pair(8)
    label = [0, 1, 0, 2, 1, 0, 3, 1]
    every = triplets(z, label, 2.0)
    expected = sum(every) / len(every)
    assert float(losses.triplet(z, torch.tensor(label), 2.0)) == pytest.approx(expected, rel=1e-5)
    assert expected > 0


def test_semi_hard_negatives_are_the_nearest_beyond_the_positive() -> None:
    z, _ = pair(8)
    label = [0, 1, 0, 2, 1, 0, 3, 1]
    chosen, n_without = [], 0
    by_pair: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for a in range(8):
        for p in range(8):
            if a != p and label[a] == label[p]:
                to_p = float((z[a] - z[p]).square().sum())
                by_pair[a, p] = [(float((z[a] - z[n]).square().sum()), to_p) for n in range(8) if label[n] != label[a]]
    for distances in by_pair.values():
        to_p = distances[0][1]
        beyond = [d for d, _ in distances if d > to_p]
        n_without += not beyond
        chosen.append(max(0.0, 2.0 + to_p - (min(beyond) if beyond else max(d for d, _ in distances))))
    assert 0 < n_without < len(chosen)  # both rules are at work
    found = losses.triplet(z, torch.tensor(label), 2.0, "semi_hard")
    assert float(found) == pytest.approx(sum(chosen) / len(chosen), rel=1e-5)


@pytest.mark.parametrize("negatives", ["all", "semi_hard"])
def test_a_batch_without_triplets_has_no_triplet_loss(negatives: Literal["all", "semi_hard"]) -> None:
    z, _ = pair(4)
    z.requires_grad_()
    for label in (torch.arange(4), torch.zeros(4, dtype=torch.int64)):
        loss = losses.triplet(z, label, 1.0, negatives)
        assert float(loss.detach()) == 0
        assert float(torch.autograd.grad(loss, z)[0].abs().max()) == 0


def test_cross_entropy_of_hard_and_soft_labels() -> None:
    logits, teacher = pair(5)
    hard = torch.tensor([0, 5, 2, 2, 1])
    expected = -sum(logits.log_softmax(1)[i, k] for i, k in enumerate(hard)) / 5
    torch.testing.assert_close(losses.cross_entropy(logits, hard), expected)
    torch.testing.assert_close(losses.cross_entropy(logits, functional.one_hot(hard, 6).float()), expected)
    soft = teacher.softmax(1)
    expected = -(soft * logits.log_softmax(1)).sum() / 5
    torch.testing.assert_close(losses.cross_entropy(logits, soft), expected)
    with pytest.raises(ValueError, match="Give the teacher's probabilities"):
        losses.cross_entropy(logits, teacher)
    with pytest.raises(ValueError, match=r"integers \(B,\) or probabilities of the logits' shape \(5, 6\)"):
        losses.cross_entropy(logits, hard.float())


def test_declared_terms_add_up() -> None:
    z, target = pair(6)
    text = pair(60)[1][:6]
    picture, concept = torch.arange(6), torch.tensor([0, 0, 1, 1, 2, 2])

    def sides(other: torch.Tensor) -> losses.Sides:
        return losses.Sides(z, other, picture, SCALE, concept_B=concept)

    terms = Loss.model_validate(
        {
            "terms": [
                {"name": "info_nce", "weight": 0.9},
                {"name": "info_nce", "weight": 0.1, "target": "text"},
                {"name": "triplet", "weight": 3, "margin": 0.5},
                {"name": "ce_hard"},
            ]
        }
    ).terms
    total, values = losses.weighted_sum(terms, {"": sides(target), "text": sides(text)})
    assert list(values) == ["info_nce", "info_nce.text", "triplet", "ce_hard"]
    by_hand = (
        0.9 * losses.info_nce(z, target, SCALE, picture)
        + 0.1 * losses.info_nce(z, text, SCALE, picture)
        + 3 * losses.triplet(z, concept, 0.5)
        + losses.cross_entropy(z, concept)
    )
    torch.testing.assert_close(total, by_hand)
    torch.testing.assert_close(values["info_nce.text"], losses.info_nce(z, text, SCALE, picture))
    with pytest.raises(ValueError, match=r"'info_nce.text' must name one of the targets \[''\]"):
        losses.weighted_sum(terms, {"": sides(target)})


@pytest.mark.parametrize(
    ("name", "lacks"), [("siglip", "logit_bias"), ("triplet", "concept_B"), ("ce_hard", "concept_B")]
)
def test_a_term_without_what_it_needs_is_refused(name: str, lacks: str) -> None:
    z, target = pair(4)
    sides = losses.Sides(z, target, torch.arange(4), SCALE)
    with pytest.raises(ValueError, match=f"loss '{name}' needs {lacks}"):
        losses.weighted_sum(Loss.model_validate({"terms": [{"name": name}]}).terms, {"": sides})


def test_the_table_is_what_an_experiment_can_declare() -> None:
    assert set(losses.LOSSES) == set(get_args(LossTerm.model_fields["name"].annotation))
    assert [(t.name, t.weight) for t in Loss().terms] == [("info_nce", 1.0)]
    with pytest.raises(ValueError, match="got 'mse' twice"):
        Loss(terms=(LossTerm(name="mse"), LossTerm(name="mse", weight=2)))
    with pytest.raises(ValueError, match="at least 1 item"):
        Loss(terms=())
