"""Encoders: EEG (B, C, T) in, embedding (B, D) out; one architecture per file."""

from collections.abc import Callable

from torch import nn

from eegdecode.models.eegproject import EEGProject
from eegdecode.models.linear import LinearMap
from eegdecode.models.nice import Nice
from eegdecode.models.nice_spatial import nice_ga, nice_sa

ENCODERS: dict[str, Callable[[int, int, int, float], nn.Module]] = {
    "linear": LinearMap,
    "mlp": EEGProject,
    "nice": Nice,
    "nice_sa": nice_sa,
    "nice_ga": nice_ga,
}
"""Name in `config.Encoder` to (n_chans, n_times, embed_dim, dropout) -> encoder."""
