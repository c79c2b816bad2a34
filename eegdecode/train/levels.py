"""Which blur of a picture its EEG is compared with, chosen by how similar they were (UBP, CVPR 2025).

Shape letters: B batch, G rows of all ranks, D embedding, P picture.
"""

from statistics import NormalDist
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from eegdecode import collectives
from eegdecode.batch import TrialBatch
from eegdecode.config import Levels

LOW, MEDIUM, HIGH = 0, 1, 2


class BlurLevels(nn.Module):
    """The level of every picture, and the running similarity that moves it.

    HaitaoWuTJU/Uncertainty-aware-Blur-Prior@89d8b83, Apache-2.0, `PLModel.forward`: a trial's logit with its own
    picture moves the picture's running one. Where the logit lies above the band that a normal distribution through the
    running ones of the batch has, the picture is blurred less when it comes next, below it more, within it moderately.
    The published code keeps both by sample and changes levels after a pass. Here they are kept by picture and change
    when it comes again: the same where a picture comes once a pass, as with one subject and repetitions averaged.
    """

    similarity_P: torch.Tensor
    level_P: torch.Tensor

    def __init__(self, levels: Levels, n_pictures: int) -> None:
        super().__init__()
        self.levels = levels
        self._reach = NormalDist().inv_cdf(1 - levels.alpha / 2)
        self.register_buffer("similarity_P", torch.ones(n_pictures))
        self.register_buffer("level_P", torch.full((n_pictures,), MEDIUM))

    def target(self, batch: TrialBatch) -> torch.Tensor:
        """Return the target of each trial at the level of its picture (B, D)."""
        three_B3D = torch.stack([batch.also[self.levels.low], batch.target_BD, batch.also[self.levels.high]], dim=1)
        return three_B3D[torch.arange(len(three_B3D), device=three_B3D.device), self.level_P[batch.picture_B]]

    @torch.no_grad()
    def update(
        self,
        z_BD: torch.Tensor,
        target_BD: torch.Tensor,
        picture_B: torch.Tensor,
        logit_scale: torch.Tensor,
        normalise: Literal["both", "target"],
    ) -> None:
        """Move the pictures of the batch of all ranks; every rank does it alike. Trials of one picture count together.

        Raises
        ------
        ValueError
            A batch of a single trial, which has no band.
        """
        z_BD = z_BD.float()
        if normalise == "both":
            z_BD = functional.normalize(z_BD, dim=1)
        own_B = logit_scale.exp() * (z_BD * functional.normalize(target_BD.float(), dim=1)).sum(dim=1)
        logit_G, picture_G = collectives.gather(own_B), collectives.gather_ids(picture_B)
        if len(logit_G) < 2:
            raise ValueError("targets.levels needs at least two trials in a batch, got 1.")
        seen_P, place_G, count_P = torch.unique(picture_G, return_inverse=True, return_counts=True)
        logit_P = torch.zeros(len(seen_P), device=logit_G.device).index_add_(0, place_G, logit_G) / count_P
        gamma = self.levels.gamma
        running_P = gamma * logit_P + (1 - gamma) * self.similarity_P[seen_P]
        running_G = gamma * logit_G + (1 - gamma) * self.similarity_P[picture_G]
        middle, reach = running_G.mean(), self._reach * running_G.std()
        level_P = torch.full_like(seen_P, MEDIUM)
        level_P[logit_P > middle + reach] = LOW
        level_P[logit_P < middle - reach] = HIGH
        self.similarity_P[seen_P] = running_P
        self.level_P[seen_P] = level_P
