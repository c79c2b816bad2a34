"""Several layers of a tower as one target, with learnt weights (SAMGA, 2026; its layer mixer and image teacher).

Shape letters: B batch, L layer, S subject, D target of one layer, R reduced, E embedding, X all layers in a row.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class LayerRouter(nn.Module):
    """Weights over layers, for all subjects alike or each with a learnt offset.

    Parameters
    ----------
    layer_ids
        Depths of the layers in the tower, ascending.
    centre
        Depth that gets the largest weight before training: logits start at -|depth - centre| / smallest gap.
    n_subjects
        Subjects with an offset of their own, which starts at 0; 0 for none.

    Raises
    ------
    ValueError
        Fewer than two layers, or depths that do not ascend.
    """

    def __init__(self, layer_ids: Sequence[int], centre: int, n_subjects: int = 0) -> None:
        super().__init__()
        gaps = [b - a for a, b in pairwise(layer_ids)]
        if not gaps or min(gaps) <= 0:
            raise ValueError(f"A router needs at least two layers in ascending order, got {list(layer_ids)}.")
        self.logits_L = nn.Parameter(-(torch.tensor(layer_ids) - centre).abs().float() / min(gaps))
        self.n_subjects = n_subjects
        if n_subjects:
            self.offset_SL = nn.Parameter(torch.zeros(n_subjects, len(layer_ids)))

    def forward(self, n: int, subject_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return the weights (B, L) of n trials, each row adding to 1; one outside the table has no offset."""
        logits_BL = self.logits_L.expand(n, -1)
        if subject_B is not None and self.n_subjects:
            known_B = (subject_B >= 0) & (subject_B < self.n_subjects)
            offset_BL = self.offset_SL[subject_B.clamp(0, self.n_subjects - 1)]
            logits_BL = logits_BL + offset_BL * known_B[:, None]
        return torch.softmax(logits_BL, dim=1)

    def penalty(self) -> torch.Tensor:
        """Return the mean square of the offsets, the published regulariser; 0 without subjects."""
        return self.offset_SL.square().mean() if self.n_subjects else self.logits_L.new_zeros(())


class LayerTarget(nn.Module):
    """Layers of a tower -> embedding: one reduction for all, one map per layer, and their weighted sum.

    The published teacher ends in a linear map that the EEG side shares; it belongs to neither side and is not here.

    Parameters
    ----------
    layer_dim, reduced_dim, embed_dim
        D, R and E.
    """

    def __init__(self, router: LayerRouter, layer_dim: int, reduced_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.router = router
        n_layers = len(router.logits_L)
        self.reduce = nn.Linear(layer_dim, reduced_dim)
        self.maps = nn.ModuleList(nn.Linear(reduced_dim, embed_dim) for _ in range(n_layers))

    def forward(self, target_BX: torch.Tensor, subject_B: torch.Tensor | None = None) -> torch.Tensor:
        """Return the embedded target (B, E) of layers that lie in a row."""
        layers_BLR = self.reduce(target_BX.view(len(target_BX), len(self.maps), -1))
        mapped_BLE = torch.stack([layer(layers_BLR[:, k]) for k, layer in enumerate(self.maps)], dim=1)
        weight_BL = self.router(len(target_BX), subject_B)
        embedded_BE: torch.Tensor = (weight_BL[:, :, None] * mapped_BLE).sum(dim=1)
        return embedded_BE
