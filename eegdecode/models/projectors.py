"""Maps of a target into the space in which it is compared. Shape letters: B batch, D target, E embedding."""

from collections.abc import Callable

import torch
from torch import nn


class ProjectorMLP(nn.Module):
    """Linear, ReLU, Linear (NeuroBridge, AAAI 2026)."""

    def __init__(self, target_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(target_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, target_BD: torch.Tensor) -> torch.Tensor:
        """Return the projected target (B, E)."""
        out_BE: torch.Tensor = self.layers(target_BD)
        return out_BE


PROJECTORS: dict[str, Callable[[int, int], nn.Module]] = {"linear": nn.Linear, "mlp": ProjectorMLP}
"""Name to (target_dim, embed_dim) -> projector."""
