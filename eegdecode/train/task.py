"""Tasks: a module whose forward takes a batch and returns (loss, logs). The engines and the loop know no more of it."""

from collections.abc import Callable

import torch
from torch import nn

from eegdecode import losses
from eegdecode.batch import TrialBatch
from eegdecode.config import Loss
from eegdecode.models.decoder import Decoder


class ContrastiveTask(nn.Module):
    """Tell from the EEG which picture of the batch was seen.

    Parameters
    ----------
    decoder
        What is trained; kept as `decoder`, so its weights are named `decoder.*` in the task's state.
    loss
        Terms that are added up, and which sides are normalised.
    changed
        What is done to the EEG of a batch while training (augmentation); nothing if None.
    """

    def __init__(
        self, decoder: Decoder, loss: Loss, changed: Callable[[TrialBatch], torch.Tensor] | None = None
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.loss = loss
        self._changed = changed

    def forward(self, batch: TrialBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss over the batch of all ranks, and what is logged: loss, its terms, temperature and top1."""
        eeg_uv_BCT = self._changed(batch) if self._changed and self.training else batch.eeg_uv_BCT
        z_BD = self.decoder(eeg_uv_BCT)
        target_BD = self.decoder.embed_target(batch.target_BD)
        scale, normalise = self.decoder.logit_scale, self.loss.normalise
        sides = losses.Sides(z_BD, target_BD, batch.picture_B, scale, normalise)
        loss, terms = losses.weighted_sum(self.loss.terms, {"": sides})
        temperature = torch.exp(-scale.detach().clamp(max=losses.MAX_LOGIT_SCALE)).squeeze()
        top1 = losses.top1(z_BD, target_BD, batch.picture_B, normalise)
        return loss, terms | {"loss": loss.detach(), "temperature": temperature, "top1": top1}
