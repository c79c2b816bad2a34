"""Tasks: a module whose forward takes a batch and returns (loss, logs). The engines and the loop know no more of it.

Shape letters: B batch, C chan, T time, D embedding, K concept, P picture.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from eegdecode import losses
from eegdecode.batch import TrialBatch
from eegdecode.config import CONCEPT, FEATURES, Loss
from eegdecode.models.decoder import Decoder
from eegdecode.train.levels import BlurLevels

SIGLIP_BIAS = -10.0
"""Where the bias of SigLIP's logits starts (Zhai et al., ICCV 2023)."""


class DecodingTask(nn.Module):
    """Tell from the EEG what was seen, as the terms of a loss ask it.

    Parameters
    ----------
    decoder
        What is trained; kept as `decoder`, so its weights are named `decoder.*` in the task's state.
    loss
        Terms that are added up, and which sides are normalised.
    concept_P
        Number of each picture's concept among those of training, int64, -1 for others; None where no term asks for it.
    levels
        Chooses among blurs of the main target; None where there is one.
    changed
        What is done to the EEG of a batch while training (augmentation); nothing if None.
    """

    concept_P: torch.Tensor | None

    def __init__(
        self,
        decoder: Decoder,
        loss: Loss,
        concept_P: torch.Tensor | None = None,
        levels: BlurLevels | None = None,
        changed: Callable[[TrialBatch], torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.loss = loss
        self.register_buffer("concept_P", concept_P, persistent=False)
        self.levels = levels
        self.logit_bias = None
        if any(term.name == "siglip" for term in loss.terms):
            self.logit_bias = nn.Parameter(torch.full((1,), SIGLIP_BIAS))
        self._changed = changed

    def forward(self, batch: TrialBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss over the batch of all ranks, and what is logged: loss, its terms, temperature and top1."""
        eeg_uv_BCT = self._changed(batch) if self._changed and self.training else batch.eeg_uv_BCT
        predicted = self.decoder.predict(eeg_uv_BCT, batch.subject_B)
        names = dict.fromkeys(["", *(term.target for term in self.loss.terms)])
        sides = {name: self._sides(name, predicted, batch) for name in names}
        main, scale = sides[""], self.decoder.logit_scale
        loss, terms = losses.weighted_sum(self.loss.terms, sides)
        if self.levels is not None and self.training:
            self.levels.update(main.z_BD, main.target_BD, batch.picture_B, scale, self.loss.normalise)
        temperature = torch.exp(-scale.detach().clamp(max=losses.MAX_LOGIT_SCALE)).squeeze()
        top1 = losses.top1(main.z_BD, main.target_BD, batch.picture_B, self.loss.normalise)
        return loss, terms | {"loss": loss.detach(), "temperature": temperature, "top1": top1}

    def _sides(self, name: str, predicted: dict[str, torch.Tensor], batch: TrialBatch) -> losses.Sides:
        """Return what is compared under a name; without a head it is the embedding."""
        z_BD = predicted.get(name, predicted[""])
        concept_B = None if self.concept_P is None else self.concept_P[batch.picture_B]
        if name == CONCEPT:
            assert concept_B is not None
            target_BD = functional.one_hot(concept_B, z_BD.shape[1]).to(torch.float32)
        elif name == FEATURES:
            target_BD = z_BD  # triplets, which look at nothing else
        elif name:
            target_BD = batch.also[name]
        else:
            target_BD = self.decoder.embed_target(self.levels.target(batch) if self.levels else batch.target_BD)
        return losses.Sides(
            z_BD,
            target_BD,
            batch.picture_B,
            self.decoder.logit_scale,
            self.loss.normalise,
            concept_B=concept_B,
            logit_bias=self.logit_bias,
        )
