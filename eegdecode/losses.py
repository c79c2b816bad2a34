"""Losses over the batch of all ranks, every one the same number on every rank.

Each is a function of what it needs and no more. `LOSSES` calls them by name on `Sides`, and `weighted_sum` adds the
terms that an experiment declares.

Shape letters: B rows of this rank, G rows of all ranks, D embedding, K class, P pair of alike rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from eegdecode import collectives
from eegdecode.config import LossTerm

MAX_LOGIT_SCALE = math.log(100.0)
"""Largest log of 1/temperature that a loss uses (CLIP, Radford et al., 2021)."""
MMD_SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Widths of the Gaussian kernels of SAMGA (2026)."""


def info_nce(
    z_BD: torch.Tensor,
    target_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    picture_B: torch.Tensor,
    normalise: Literal["both", "target"] = "both",
) -> torch.Tensor:
    """Return the symmetric InfoNCE over the gathered batch, the same number on every rank.

    Rows of one picture are positives of each other: the distribution asked for is uniform over a row's positives, as in
    supervised contrastive learning (Khosla et al., 2020). Where all pictures differ this is the loss of CLIP and
    NICE. With positives its smallest value is their mean log count, not 0. Where a picture has one and the same target
    in all its trials, marking them changes neither value nor gradient: equal columns of logits share the weight.

    Parameters
    ----------
    z_BD, target_BD
        Predicted and true embeddings, as they come: normalisation is done here.
    logit_scale
        Log of 1/temperature, shape [1]; used up to ln 100, above which its gradient is zero.
    picture_B
        Integers; equal ones name the same picture.
    normalise
        `both` sides to unit length, or `target` alone (UBP, CVPR 2025).
    """
    found = contrast(z_BD, target_BD, logit_scale, picture_B, normalise)
    return (found.row_G.mean() + found.column_G.mean()) / 2


@torch.no_grad()
def top1(
    z_BD: torch.Tensor,
    target_BD: torch.Tensor,
    picture_B: torch.Tensor,
    normalise: Literal["both", "target"] = "both",
) -> torch.Tensor:
    """Return the share of gathered rows whose most similar target is of their own picture; arguments as `info_nce`."""
    found = contrast(z_BD, target_BD, torch.zeros(1, device=z_BD.device), picture_B, normalise)
    return found.positive_GG.gather(1, found.logits_GG.argmax(dim=1, keepdim=True)).mean()


@dataclass(frozen=True)
class Contrast:
    """InfoNCE trial by trial, for those who weigh or inspect trials (UBP, CVPR 2025, chooses its blur by them).

    Attributes
    ----------
    logits_GG
        Predictions in rows, targets in columns.
    positive_GG
        1 where row and column are of one picture, else 0.
    row_G, column_G
        Cross entropy of each prediction over all targets, and of each target over all predictions.
    """

    logits_GG: torch.Tensor
    positive_GG: torch.Tensor
    row_G: torch.Tensor
    column_G: torch.Tensor


def contrast(
    z_BD: torch.Tensor,
    target_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    picture_B: torch.Tensor,
    normalise: Literal["both", "target"] = "both",
) -> Contrast:
    """Return the parts of `info_nce`; its parameters are the same."""
    z_GD, target_GD, positive_GG = _gathered(z_BD, target_BD, picture_B, normalise)
    with torch.autocast(z_GD.device.type, enabled=False):  # bfloat16 logits of scale 100 would be off by 0.5
        logits_GG = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * (z_GD @ target_GD.T)
        wanted_GG = positive_GG / positive_GG.sum(dim=1, keepdim=True)
        row_G = -(wanted_GG * functional.log_softmax(logits_GG, dim=1)).sum(dim=1)
        column_G = -(wanted_GG * functional.log_softmax(logits_GG.T, dim=1)).sum(dim=1)
    return Contrast(logits_GG, positive_GG, row_G, column_G)


def siglip(
    z_BD: torch.Tensor,
    target_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    picture_B: torch.Tensor,
    normalise: Literal["both", "target"] = "both",
) -> torch.Tensor:
    """Return the sigmoid loss of every pair, added up and divided by the rows (SigLIP, Zhai et al., ICCV 2023).

    Parameters
    ----------
    logit_bias
        Added to every logit, shape [1]; the paper starts it at -10, with a temperature of 0.1.
    """
    z_GD, target_GD, positive_GG = _gathered(z_BD, target_BD, picture_B, normalise)
    with torch.autocast(z_GD.device.type, enabled=False):
        logits_GG = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * (z_GD @ target_GD.T) + logit_bias
        return -functional.logsigmoid((2 * positive_GG - 1) * logits_GG).sum() / len(z_GD)


def mse(z_BD: torch.Tensor, target_BD: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of both sides as they come."""
    _check_shapes(z_BD, target_BD)
    return _mean_of_ranks((_exact(z_BD) - target_BD).square().mean())


def cosine(z_BD: torch.Tensor, target_BD: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine; D/2 times the mean squared difference of both sides at unit length."""
    _check_shapes(z_BD, target_BD)
    return _mean_of_ranks(1 - functional.cosine_similarity(_exact(z_BD), target_BD, dim=1).mean())


def mmd(z_BD: torch.Tensor, target_BD: torch.Tensor, unbiased: bool = False) -> torch.Tensor:
    """Return the squared maximum mean discrepancy between both sides as they come (Gretton et al., 2012).

    The kernel is the mean of Gaussians of the widths `MMD_SIGMAS`, as in SAMGA (2026). It compares the two clouds:
    which row belongs to which plays no part. A negative estimate counts as 0, and then has no gradient.

    Parameters
    ----------
    unbiased
        Leave out each row's kernel with itself.
    """
    _check_shapes(z_BD, target_BD)
    z_GD, target_GD = collectives.gather(_exact(z_BD)), collectives.gather(_exact(target_BD))
    n = len(z_GD)
    with torch.autocast(z_GD.device.type, enabled=False):
        own = [_gaussians(side_GD, side_GD) for side_GD in (z_GD, target_GD)]
        means = [(k.sum() - k.trace()) / (n * (n - 1)) if unbiased else k.mean() for k in own]
        return (means[0] + means[1] - 2 * _gaussians(z_GD, target_GD).mean()).clamp(min=0)


def triplet(
    z_BD: torch.Tensor,
    label_B: torch.Tensor,
    margin: float,
    negatives: Literal["all", "semi_hard"] = "all",
) -> torch.Tensor:
    """Return the mean of max(0, margin + d(a, p) - d(a, n)) with squared distances, over the gathered batch.

    The extractor of NeuroImagen (Lan et al., 2023), which says neither how triplets are chosen nor the margin. A batch
    without a label that repeats has no triplet: the loss is 0 then.

    Parameters
    ----------
    label_B
        Integers; rows of one label are drawn together.
    negatives
        `all`: every triplet of the batch. `semi_hard`: for every pair (a, p) the nearest negative that is farther than
        p, or the farthest of all where none is (FaceNet, Schroff et al., 2015).
    """
    if negatives not in ("all", "semi_hard"):
        raise ValueError(f"negatives must be 'all' or 'semi_hard', got '{negatives}'.")
    z_GD, label_G = collectives.gather(_exact(z_BD)), collectives.gather_ids(label_B)
    with torch.autocast(z_GD.device.type, enabled=False):
        distance_GG = _squared_distances(z_GD, z_GD)
    alike_GG = label_G[:, None] == label_G[None, :]
    anchor_P, positive_P = (alike_GG & ~torch.eye(len(z_GD), dtype=torch.bool, device=z_GD.device)).nonzero().T
    to_positive_P1 = distance_GG[anchor_P, positive_P][:, None]
    to_all_PG, other_PG = distance_GG[anchor_P], ~alike_GG[anchor_P]
    if negatives == "semi_hard" and other_PG.any():
        held_PG = to_all_PG.detach()
        farther_PG = other_PG & (held_PG > to_positive_P1.detach())
        nearest_P = held_PG.masked_fill(~farther_PG, math.inf).argmin(dim=1)
        farthest_P = held_PG.masked_fill(~other_PG, -math.inf).argmax(dim=1)
        chosen_P = torch.where(farther_PG.any(dim=1), nearest_P, farthest_P)
        other_PG = other_PG & functional.one_hot(chosen_P, len(z_GD)).bool()
    violation_PG = functional.relu(margin + to_positive_P1 - to_all_PG) * other_PG
    return violation_PG.sum() / other_PG.sum().clamp(min=1)


def cross_entropy(logits_BK: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of class logits.

    Parameters
    ----------
    wanted
        Hard labels: int64 (B,). Soft ones: rows of probabilities (B, K), as a teacher gives them.

    Raises
    ------
    ValueError
        Labels that do not suit the logits, or soft ones that do not add to 1.
    """
    hard = wanted.ndim == 1 and not wanted.is_floating_point()
    if not hard and wanted.shape != logits_BK.shape:
        raise ValueError(
            f"Labels must be integers (B,) or probabilities of the logits' shape {tuple(logits_BK.shape)}, got "
            f"{wanted.dtype} {tuple(wanted.shape)}."
        )
    if not hard and float((wanted.sum(dim=1) - 1).abs().max()) > 1e-3:
        raise ValueError(
            f"Soft labels must add to 1 in each row, got {wanted.sum(dim=1).min():.4g} to "
            f"{wanted.sum(dim=1).max():.4g}. Give the teacher's probabilities, not its logits."
        )
    logits_BK = _exact(logits_BK)
    return _mean_of_ranks(functional.cross_entropy(logits_BK, wanted if hard else wanted.to(logits_BK.dtype)))


@dataclass(frozen=True)
class Sides:
    """What one term of a loss may look at.

    Attributes
    ----------
    z_BD, target_BD
        Prediction (class logits for `ce_hard` and `ce_soft`) and target (probabilities for `ce_soft`).
    picture_B, concept_B
        Integers: equal ones name the same picture, and the same concept. Concepts are what `triplet` and `ce_hard`
        take; for the latter they are the columns of the logits.
    logit_scale, logit_bias
        As `info_nce` and `siglip` take them, shape [1].
    """

    z_BD: torch.Tensor
    target_BD: torch.Tensor
    picture_B: torch.Tensor
    logit_scale: torch.Tensor
    normalise: Literal["both", "target"] = "both"
    concept_B: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None


LOSSES: dict[str, Callable[[Sides, LossTerm], torch.Tensor]] = {
    "info_nce": lambda s, _: info_nce(s.z_BD, s.target_BD, s.logit_scale, s.picture_B, s.normalise),
    "siglip": lambda s, _: siglip(
        s.z_BD, s.target_BD, s.logit_scale, _given(s.logit_bias, "siglip", "logit_bias"), s.picture_B, s.normalise
    ),
    "mse": lambda s, _: mse(s.z_BD, s.target_BD),
    "cosine": lambda s, _: cosine(s.z_BD, s.target_BD),
    "mmd": lambda s, _: mmd(s.z_BD, s.target_BD),
    "mmd_unbiased": lambda s, _: mmd(s.z_BD, s.target_BD, unbiased=True),
    "triplet": lambda s, term: triplet(s.z_BD, _given(s.concept_B, "triplet", "concept_B"), term.margin),
    "triplet_semi_hard": lambda s, term: triplet(
        s.z_BD, _given(s.concept_B, "triplet_semi_hard", "concept_B"), term.margin, "semi_hard"
    ),
    "ce_hard": lambda s, _: cross_entropy(s.z_BD, _given(s.concept_B, "ce_hard", "concept_B")),
    "ce_soft": lambda s, _: cross_entropy(s.z_BD, s.target_BD),
}
"""Name in `config.LossTerm` to the loss of two sides."""


def weighted_sum(terms: Sequence[LossTerm], sides: Mapping[str, Sides]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the sum of the declared terms, and each one unweighted and without gradient under its label.

    Parameters
    ----------
    sides
        Name of a target, "" for the main one, to what is compared under it.

    Raises
    ------
    ValueError
        A term on a target that is not there, or without what its loss needs.
    """
    values: dict[str, torch.Tensor] = {}
    parts = []
    for term in terms:
        if term.target not in sides:
            raise ValueError(f"loss.terms: '{term.label}' must name one of the targets {sorted(sides)}.")
        value = LOSSES[term.name](sides[term.target], term)
        values[term.label] = value.detach()
        parts.append(term.weight * value)
    return torch.stack(parts).sum(), values


def _given(tensor: torch.Tensor | None, loss: str, name: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"loss '{loss}' needs {name}, and this training has none.")
    return tensor


def _check_shapes(z_BD: torch.Tensor, target_BD: torch.Tensor) -> None:
    if z_BD.shape != target_BD.shape:
        raise ValueError(
            f"Predicted and true embeddings must have one shape, got {tuple(z_BD.shape)} and {tuple(target_BD.shape)}."
        )


def _exact(x: torch.Tensor) -> torch.Tensor:
    """Return bfloat16 as float32: sums over a batch need the digits."""
    return x.float() if x.dtype == torch.bfloat16 else x


def _mean_of_ranks(mean: torch.Tensor) -> torch.Tensor:
    """Return the mean over all rows from the mean over each rank's; ranks have equally many."""
    return collectives.total(mean) / collectives.world_size()


def _squared_distances(a_GD: torch.Tensor, b_GD: torch.Tensor) -> torch.Tensor:
    # Not through a matrix product: it leaves equal rows a distance that a narrow kernel notices.
    return torch.cdist(a_GD, b_GD, compute_mode="donot_use_mm_for_euclid_dist").square()


def _gaussians(a_GD: torch.Tensor, b_GD: torch.Tensor) -> torch.Tensor:
    """Return the mean over the widths of exp(-d^2 / (2 sigma^2))."""
    distance_GG = _squared_distances(a_GD, b_GD)
    return torch.stack([torch.exp(-distance_GG / (2 * s**2)) for s in MMD_SIGMAS]).mean(dim=0)


def _gathered(
    z_BD: torch.Tensor, target_BD: torch.Tensor, picture_B: torch.Tensor, normalise: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both sides of all ranks, normalised, and the (G, G) matrix of positives."""
    if normalise not in ("both", "target"):
        raise ValueError(f"loss.normalise must be 'both' or 'target', got '{normalise}'.")
    _check_shapes(z_BD, target_BD)
    z_BD = _exact(z_BD)
    if normalise == "both":
        z_BD = functional.normalize(z_BD, dim=1)
    target_BD = functional.normalize(target_BD.to(z_BD.dtype), dim=1)
    picture_G = collectives.gather_ids(picture_B)
    positive_GG = (picture_G[:, None] == picture_G[None, :]).to(z_BD.dtype)
    return collectives.gather(z_BD), collectives.gather(target_BD), positive_GG
