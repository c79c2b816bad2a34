"""Any model of braindecode (Schirrmeister et al., 2017, and those who added to it), with a projection head.

Shape letters: B batch, C chan, T time, D embedding.
"""

import inspect

import torch
from torch import nn

from eegdecode.models.eegproject import ProjectionHead
from eegdecode.models.norm import over_all_ranks

PREFIX = "braindecode:"


class BraindecodeEncoder(nn.Module):
    """A braindecode model that is asked for D outputs, and the projection head on them.

    Its BatchNorms take their moments over all ranks, as those of every encoder here do.

    Parameters
    ----------
    model
        Name of a class in `braindecode.models`.
    n_chans, n_times, embed_dim
        C, T and D.
    dropout
        Of the model, where it has one number for it, and of the head.
    sfreq_hz
        Sampling rate, which some models ask for; 0 does not tell it.

    Raises
    ------
    ValueError
        A name that is no model, or a model that cannot be built for such trials: its own words are added.
    """

    def __init__(
        self, model: str, n_chans: int, n_times: int, embed_dim: int, dropout: float, sfreq_hz: float = 0.0
    ) -> None:
        super().__init__()
        kind = getattr(_models(), model, None)
        if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
            raise ValueError(f"encoder.name must be '{PREFIX}' and a class of braindecode.models, got '{model}'.")
        arguments: dict[str, object] = {"n_chans": n_chans, "n_times": n_times, "n_outputs": embed_dim}
        if sfreq_hz:
            arguments["sfreq"] = sfreq_hz
        if "drop_prob" in inspect.signature(kind).parameters:
            arguments["drop_prob"] = dropout
        try:
            self.model = over_all_ranks(kind(**arguments))
            with torch.no_grad():
                shape = tuple(self.model.eval()(torch.zeros(2, n_chans, n_times)).shape)
            self.model.train()
        except Exception as error:  # each model refuses in its own way
            raise ValueError(
                f"encoder '{PREFIX}{model}' cannot be built for {n_chans} electrodes and {n_times} samples at "
                f"{sfreq_hz or 'no given'} Hz: {error}"
            ) from error
        if shape != (2, embed_dim):
            raise ValueError(
                f"encoder '{PREFIX}{model}' must return one row of {embed_dim} per trial, got {shape} for two trials: "
                "models that label every sample, or return several things, do not fit."
            )
        self.head = ProjectionHead(embed_dim, embed_dim, dropout)

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        """Return z_BD."""
        z_BD: torch.Tensor = self.head(self.model(eeg_BCT))
        return z_BD


def _models() -> object:
    try:
        from braindecode import models  # half a minute on a slow machine, and only this encoder needs it
    except ModuleNotFoundError as error:
        raise ValueError(
            f"encoder.name='{PREFIX}...' needs the package braindecode: install eegdecode[train]."
        ) from error
    return models
