"""Frozen networks (towers) that turn pictures into what the EEG is asked to predict.

Shape letters: N picture, D embedding.
"""

from typing import Protocol

import numpy as np
from PIL import Image

from eegdecode.batch import TargetFact


class Tower(Protocol):
    """A frozen map from pictures to embeddings; a picture's embedding depends on that picture alone."""

    @property
    def fact(self) -> TargetFact:
        """Tower, layer, revision and preprocessing, as they go into the manifest."""

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """Return the embeddings, float32 (N, D), not normalised."""


def open_tower(spec: str, weights_uri: str) -> Tower:
    """Open the tower a spec names.

    Parameters
    ----------
    spec
        ``gabor``, ``timm:<model>`` or ``open_clip:<model>:<pretrained tag or local path>``.
    weights_uri
        Local folder with ``<model>/model.safetensors`` and ``<model>/config.json`` for ``timm:<model>``; empty: timm
        fetches its own pretrained weights.

    Raises
    ------
    ValueError
        A spec of no known form, or weights that are not there or do not fit the model.
    """
    kind, _, rest = spec.partition(":")
    if kind == "gabor" and not rest:
        from eegdecode.targets.gabor import GaborTower

        return GaborTower()
    if kind == "timm" and rest:
        from eegdecode.targets.towers import TimmTower

        return TimmTower(rest, weights_uri)
    if kind == "open_clip":
        model, _, pretrained = rest.partition(":")
        if model and pretrained:
            from eegdecode.targets.towers import OpenClipTower

            return OpenClipTower(model, pretrained)
    raise ValueError(
        "targets.tower must be 'gabor', 'timm:<model>' or 'open_clip:<model>:<pretrained tag or local path>', "
        f"got '{spec}'."
    )
