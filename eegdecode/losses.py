"""Losses over the batch of all ranks. Shape letters: B rows of this rank, G rows of all ranks, D embedding."""

import math
from typing import Literal

import torch
from torch.nn import functional

from eegdecode import collectives

MAX_LOGIT_SCALE = math.log(100.0)
"""Largest log of 1/temperature that a loss uses (CLIP, Radford et al., 2021)."""


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
    return info_nce_top1(z_BD, target_BD, logit_scale, picture_B, normalise)[0]


def info_nce_top1(
    z_BD: torch.Tensor,
    target_BD: torch.Tensor,
    logit_scale: torch.Tensor,
    picture_B: torch.Tensor,
    normalise: Literal["both", "target"] = "both",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `info_nce` and the share of gathered rows whose most similar target is of their own picture."""
    z_GD, target_GD, positive_GG = _gathered(z_BD, target_BD, picture_B, normalise)
    with torch.autocast(z_GD.device.type, enabled=False):  # bfloat16 logits of scale 100 would be off by 0.5
        logits_GG = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * (z_GD @ target_GD.T)
        wanted_GG = positive_GG / positive_GG.sum(dim=1, keepdim=True)
        rows = -(wanted_GG * functional.log_softmax(logits_GG, dim=1)).sum(dim=1).mean()
        columns = -(wanted_GG * functional.log_softmax(logits_GG.T, dim=1)).sum(dim=1).mean()
        top1 = positive_GG.gather(1, logits_GG.detach().argmax(dim=1, keepdim=True)).mean()
    return (rows + columns) / 2, top1


def _gathered(
    z_BD: torch.Tensor, target_BD: torch.Tensor, picture_B: torch.Tensor, normalise: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return both sides of all ranks, normalised, and the (G, G) matrix of positives."""
    if normalise not in ("both", "target"):
        raise ValueError(f"loss.normalise must be 'both' or 'target', got '{normalise}'.")
    if z_BD.shape != target_BD.shape:
        raise ValueError(
            f"Predicted and true embeddings must have one shape, got {tuple(z_BD.shape)} and {tuple(target_BD.shape)}."
        )
    z_BD = z_BD.float() if z_BD.dtype == torch.bfloat16 else z_BD
    if normalise == "both":
        z_BD = functional.normalize(z_BD, dim=1)
    target_BD = functional.normalize(target_BD.to(z_BD.dtype), dim=1)
    picture_G = collectives.gather_ids(picture_B)
    positive_GG = (picture_G[:, None] == picture_G[None, :]).to(z_BD.dtype)
    return collectives.gather(z_BD), collectives.gather(target_BD), positive_GG
