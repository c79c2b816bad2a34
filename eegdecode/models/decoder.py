"""What is trained and kept: a fixed front, an encoder, a temperature.

Shape letters: B batch, C chan, T time, F feature, D embedding.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from eegdecode.config import FEATURES, Experiment, Router
from eegdecode.models import build_encoder
from eegdecode.models.linear import LinearMap
from eegdecode.models.options import PLAIN, EncoderOptions
from eegdecode.models.router import LayerRouter, LayerTarget


class Decoder(nn.Module):
    """EEG in microvolt -> features -> embedding.

    The front is a linear map over electrodes and an offset, fitted beforehand on training trials: buffers, so it
    travels with the weights and is never trained. `logit_scale` is the log of 1/temperature, of shape [1] because
    DeepSpeed cannot broadcast a parameter without dimensions. A loss uses it up to ln 100.

    Parameters
    ----------
    target_map
        Of the centred target to the embedding.
    heads
        Of further targets by name: a map of the embedding, or where it is a `LinearMap` of the EEG behind the front.
    read_out
        Of the encoder's features to the embedding; they are the embedding if None.
    """

    front_weight_CC: torch.Tensor
    front_bias_C: torch.Tensor
    target_centre_D: torch.Tensor

    def __init__(
        self,
        encoder: nn.Module,
        n_chans: int,
        target_dim: int,
        target_map: nn.Module,
        temperature: float,
        learn_temperature: bool,
        heads: Mapping[str, nn.Module] | None = None,
        read_out: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("front_weight_CC", torch.eye(n_chans))
        self.register_buffer("front_bias_C", torch.zeros(n_chans))
        # What is taken off a target before its cosine with an embedding: the training pictures' mean, or nothing.
        self.register_buffer("target_centre_D", torch.zeros(target_dim))
        self.target_map = target_map
        self.encoder = encoder
        self.read_out = read_out
        self.heads = nn.ModuleDict(heads or {})
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
        return self._embed(self.front(eeg_uv_BCT), subject_B)[1]

    def predict(self, eeg_uv_BCT: torch.Tensor, subject_B: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Return what is predicted by name: "" the embedding, every head's target, and `features` behind a read-out."""
        eeg_BCT = self.front(eeg_uv_BCT)
        features_BF, z_BD = self._embed(eeg_BCT, subject_B)
        of_heads = {name: head(eeg_BCT if isinstance(head, LinearMap) else z_BD) for name, head in self.heads.items()}
        return {"": z_BD, **of_heads, **({} if self.read_out is None else {FEATURES: features_BF})}

    def front(self, eeg_uv_BCT: torch.Tensor) -> torch.Tensor:
        """Return the EEG (B, C, T) as the encoder sees it, float32."""
        with torch.autocast(eeg_uv_BCT.device.type, enabled=False):  # microvolts of a drifting electrode are large
            # Widened here, on the device: trials travel as they are stored.
            return self.front_weight_CC @ eeg_uv_BCT.float() + self.front_bias_C[:, None]

    def _embed(self, eeg_BCT: torch.Tensor, subject_B: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        features_BF: torch.Tensor = self.encoder(eeg_BCT) if subject_B is None else self.encoder(eeg_BCT, subject_B)
        return features_BF, features_BF if self.read_out is None else self.read_out(features_BF)

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
    router: Router | None = None,
    heads: Mapping[str, int] | None = None,
    heads_see_eeg: bool = False,
    features: int = 0,
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
    router
        Weights over the layers that lie in a row in the target.
    heads
        Name of a further target to its length.
    heads_see_eeg
        Whether heads are linear maps of the EEG, and not of the embedding.
    features
        Length of what the encoder gives, where the embedding is a linear map of it; 0: it gives the embedding.

    Raises
    ------
    ValueError
        An unknown name, trials too short for the encoder, or a target that is not as many layers as the router weighs.
    """
    if temperature <= 0:
        raise ValueError(f"loss.temperature must be above 0, got {temperature}.")
    embed_dim = project or target_dim
    encoder = build_encoder(name, n_chans, n_times, features or embed_dim, dropout, options)
    read_out = nn.Linear(features, embed_dim) if features else None
    made: dict[str, nn.Module] = {
        head: LinearMap(n_chans, n_times, dim, 0.0) if heads_see_eeg else nn.Linear(embed_dim, dim)
        for head, dim in (heads or {}).items()
    }
    target_map = _target_map(target_dim, project, router)
    return Decoder(encoder, n_chans, target_dim, target_map, temperature, learn_temperature, made, read_out)


def decoder_of(
    experiment: Experiment,
    n_chans: int,
    n_times: int,
    target_dim: int,
    heads: Mapping[str, int],
    options: EncoderOptions,
) -> Decoder:
    """Return a new decoder as an experiment describes it; for the other parameters see `build_decoder`."""
    encoder, loss, targets = experiment.encoder, experiment.loss, experiment.targets
    return build_decoder(
        encoder.name,
        n_chans=n_chans,
        n_times=n_times,
        target_dim=target_dim,
        dropout=encoder.dropout,
        temperature=loss.temperature,
        learn_temperature=loss.learn_temperature,
        project=targets.project,
        options=options,
        router=targets.router,
        heads=heads,
        heads_see_eeg=encoder.start == "ridge",
        features=encoder.features,
    )


def _target_map(target_dim: int, project: int, router: Router | None) -> nn.Module:
    if router is None:
        return nn.Linear(target_dim, project, bias=False) if project else nn.Identity()
    n_layers = len(router.depths)
    if target_dim % n_layers:
        raise ValueError(
            f"targets.router weighs {n_layers} layers, and the target's {target_dim} numbers are not as many layers of "
            "one length: name the same layers in targets.tower."
        )
    return LayerTarget(LayerRouter(router.depths, router.centre), target_dim // n_layers, router.reduced, project)
