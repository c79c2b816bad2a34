"""Tasks: a module whose forward takes a batch and returns (loss, logs). The engines and the loop know no more of it."""

from typing import Literal

import torch
from torch import nn

from eegdecode import losses
from eegdecode.batch import TrialBatch
from eegdecode.models.decoder import Decoder


class ContrastiveTask(nn.Module):
    """Tell from the EEG which picture of the batch was seen.

    Parameters
    ----------
    decoder
        What is trained; kept as `decoder`, so its weights are named `decoder.*` in the task's state.
    normalise
        See `eegdecode.losses.info_nce`.
    """

    def __init__(self, decoder: Decoder, normalise: Literal["both", "target"] = "both") -> None:
        super().__init__()
        self.decoder = decoder
        self.normalise: Literal["both", "target"] = normalise

    def forward(self, batch: TrialBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss over the batch of all ranks, and loss, temperature and top1 to be logged."""
        z_BD = self.decoder(batch.eeg_uv_BCT)
        scale = self.decoder.logit_scale
        target_BD = self.decoder.embed_target(batch.target_BD)
        loss, top1 = losses.info_nce_top1(z_BD, target_BD, scale, batch.picture_B, self.normalise)
        temperature = torch.exp(-scale.detach().clamp(max=losses.MAX_LOGIT_SCALE)).squeeze()
        return loss, {"loss": loss.detach(), "temperature": temperature, "top1": top1}
