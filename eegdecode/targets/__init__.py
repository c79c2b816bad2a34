"""Frozen networks (towers) that turn pictures into what the EEG is asked to predict.

Shape letters: N picture, D embedding.
"""

from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.spec import KINDS, parse


class Tower(Protocol):
    """A frozen map from pictures to targets of one shape.

    A picture's target depends on that picture (and its concept) alone, to the last bit: not on which others are in the
    list, nor on their order. On a CPU of more than one thread it may depend on the number of threads.
    """

    @property
    def fact(self) -> TargetFact:
        """Tower, layer, revision, preprocessing, view and shape, as they go into the manifest."""

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the targets, float32 (N, *shape), not normalised; `concepts` are read by towers of words alone."""


def open_tower(spec: str, weights_uri: str) -> Tower:
    """Open the tower a spec names: ``kind(options):model@layers#views``, of which only the kind is always there.

    ==================================  ===============================================================================
    ``gabor``                           Gabor energies and colour moments, no weights
    ``pyramid``                         Gabor energies at half octaves with their statistics, no weights
    ``gabor_words``, ``pyramid_words``  the same, and the words of the concept beside it
    ``timm:M``                          features before the classifier of a timm model
    ``open_clip:M:P``                   image embedding; P is a pretrained tag or a weights file
    ``transformers:M``                  CLIP's image features or the pooled output of a vision model (DINOv2, SigLIP)
    ``text(prompt=T):S``                the text T with ``{concept}`` in it; S is ``open_clip:M:P`` or
                                        ``transformers:M``, of which the text side is taken
    ``text(prompt=T; classes=F):S``     the same, with the name that a line ``n01440764 tench`` of the file F gives the
                                        concept n01440764
    ``text(captions=M):S``              the caption that BLIP (M, of transformers) writes
    ``vae(px=256):M``                   latent means of diffusers' AutoencoderKL or AutoencoderTiny; ``subfolder=vae``
                                        where M is a whole pipeline; ``range=unit`` for pixels in [0, 1]
    ``saliency:spectral_residual``      Hou & Zhang 2007, no weights
    ``saliency:M``                      foreground of a transformers model for semantic segmentation
    ``teacher:timm:M``                  softmax of a timm classifier
    ``teacher(classes=F; prompt=T):S``  CLIP's zero-shot probabilities over the lines of the file F
    ==================================  ===============================================================================

    *M* is an id of that library's hub, a path, or a folder below `weights_uri`. Options are ``name=value`` with
    semicolons between.

    *layers* (timm, open_clip, transformers and text): names as in ``named_modules``. ``@a`` takes the output as it
    is, ``@token(a)`` its class token, ``@mean(a)`` the mean of its patches or of a map's places. Several,
    ``@token(a,b,c)``, give targets (L, ...).

    *views* (all but prompts): ``fovea(kernel=51; curve=exp; g=3.0)``, ``blur(kernel=15)``, ``noise(std=25)``,
    ``lowres(scale=0.1)``, ``mosaic(block=5)``, ``identity``, on pictures squeezed to ``px=224``. Several with a plus
    between: the mean of the targets.

    Examples: ``open_clip:ViT-H-14:laion2b_s32b_b79k``; ``open_clip:RN50:openai#fovea(kernel=45)``;
    ``transformers:facebook/dinov2-base@token(encoder.layer.8,encoder.layer.11)``;
    ``text(prompt=This picture is {concept}):open_clip:ViT-H-14:laion2b_s32b_b79k``.

    Parameters
    ----------
    spec
        What is made, in the grammar above.
    weights_uri
        Local folder in which every M, P and F that is no path lies; empty: they are fetched. A tag of open_clip is
        fetched either way.

    Raises
    ------
    ValueError
        A spec of no known form, a model, layer or view that is not there, or weights that do not fit the model.
    """
    parsed = parse(spec)
    # Before any weights: a wrong view is found in a moment.
    from eegdecode.targets.views import ViewedTower, open_view

    views = [open_view(call) for call in parsed.views]
    kind = KINDS[parsed.kind]
    tower: Tower = getattr(import_module(f"eegdecode.targets.{kind.module}"), kind.opener)(parsed, weights_uri)
    return ViewedTower(tower, views) if any(view.name != "identity" for view in views) else tower
