"""What is trained and kept: a fixed front, an encoder, a temperature.

Shape letters: B batch, C chan, T time, D embedding.
"""

import math

import numpy as np
import torch
from torch import nn

from eegdecode.models import build_encoder
from eegdecode.models.options import PLAIN, EncoderOptions


class Decoder(nn.Module):
    """EEG in microvolt -> embedding.

    The front is a linear map over electrodes and an offset, fitted beforehand on training trials: buffers, so it
    travels with the weights and is never trained. `logit_scale` is the log of 1/temperature, of shape [1] because
    DeepSpeed cannot broadcast a parameter without dimensions. A loss uses it up to ln 100.
    """

    front_weight_CC: torch.Tensor
    front_bias_C: torch.Tensor
    target_centre_D: torch.Tensor

    def __init__(
        self,
        encoder: nn.Module,
        n_chans: int,
        target_dim: int,
        project: int,
        temperature: float,
        learn_temperature: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("front_weight_CC", torch.eye(n_chans))
        self.register_buffer("front_bias_C", torch.zeros(n_chans))
        # What is taken off a target before its cosine with an embedding: the training pictures' mean, or nothing.
        self.register_buffer("target_centre_D", torch.zeros(target_dim))
        self.target_map = nn.Linear(target_dim, project, bias=False) if project else nn.Identity()
        self.encoder = encoder
        self.logit_scale = nn.Parameter(torch.tensor([-math.log(temperature)]), requires_grad=learn_temperature)

    def set_front(self, weight_CC: np.ndarray, bias_C: np.ndarray) -> None:
        """Set the fixed front: x becomes weight_CC @ x + bias_C at every sample.

        Raises
        ------
        ValueError
            Another number of electrodes, or values that are not finite.
        """
        for buffer, value in ((self.front_weight_CC, weight_CC), (self.front_bias_C, bias_C)):
            given = torch.as_tensor(value)
            if given.shape != buffer.shape:
                raise ValueError(
                    f"The front of this decoder needs a {tuple(buffer.shape)} here, got {tuple(given.shape)}: it was "
                    "fitted on trials of other electrodes."
                )
            if not torch.isfinite(given).all():
                raise ValueError("The front must be finite; the trials it was fitted on hold NaN or infinity.")
            buffer.copy_(given)

    def forward(self, eeg_uv_BCT: torch.Tensor, subject_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return z_BD, not normalised.

        Parameters
        ----------
        subject_B
            Rows of the table of subjects, for an encoder that was built with one; see `eegdecode.models.options`.
        """
        with torch.autocast(eeg_uv_BCT.device.type, enabled=False):  # microvolts of a drifting electrode are large
            # Widened here, on the device: trials travel as they are stored.
            eeg_BCT = self.front_weight_CC @ eeg_uv_BCT.float() + self.front_bias_C[:, None]
        z_BD: torch.Tensor = self.encoder(eeg_BCT) if subject_B is None else self.encoder(eeg_BCT, subject_B)
        return z_BD

    def embed_target(self, target_BD: torch.Tensor) -> torch.Tensor:
        """Return targets as embeddings are compared with them: centred and, where one is learnt, mapped."""
        out: torch.Tensor = self.target_map(target_BD - self.target_centre_D)
        return out


def build_decoder(
    name: str,
    n_chans: int,
    n_times: int,
    target_dim: int,
    dropout: float,
    temperature: float,
    learn_temperature: bool,
    project: int = 0,
    options: EncoderOptions = PLAIN,
) -> Decoder:
    """Return a new decoder with the named encoder and the identity as its front.

    Parameters
    ----------
    name
        As in `config.Encoder`.
    n_chans, n_times, target_dim
        C, T and D of the target.
    dropout
        Of the encoder.
    temperature
        Where the logits' temperature starts, or stays if `learn_temperature` is False.
    project
        Length of the learnt map of the target, and so of the embedding; 0 embeds into the target's own space.
    options
        Layers per subject and positions of electrodes.

    Raises
    ------
    ValueError
        An unknown name, or trials too short for the encoder.
    """
    if temperature <= 0:
        raise ValueError(f"loss.temperature must be above 0, got {temperature}.")
    encoder = build_encoder(name, n_chans, n_times, project or target_dim, dropout, options)
    return Decoder(encoder, n_chans, target_dim, project, temperature, learn_temperature)
