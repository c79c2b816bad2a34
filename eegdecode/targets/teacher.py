"""Teachers: the class probabilities a frozen classifier gives a picture, for distillation (Ferrante et al. 2023).

CLIP asked which of the classes' prompts fits (zero-shot), or a timm classifier with the classes it was trained on.
Shape letters: N picture, K class, D embedding.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets import Tower
from eegdecode.targets.classes import read_classes
from eegdecode.targets.spec import Spec
from eegdecode.targets.text import OpenClipText, TextEncoder, TransformersText, check_prompt, fill
from eegdecode.targets.towers import (
    OpenClipTower,
    TimmTower,
    TransformersTower,
    load_open_clip,
    load_transformers,
    shape_facts,
)

PROMPT = "a photo of a {concept}"


class ClassifierTeacher:
    """Softmax of a timm classifier, in its own class order."""

    def __init__(self, tower: TimmTower) -> None:
        self._tower = tower
        self.fact = TargetFact(
            tower=f"teacher:{tower.fact.tower}",
            layer="softmax",
            revision=tower.fact.revision,
            preprocessing=tower.fact.preprocessing,
            **shape_facts((tower.n_classes,)),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return probabilities, float32 (N, K), each row of sum one."""
        return softmax(self._tower.logits(images))


class ZeroShotTeacher:
    """Softmax over classes of CLIP's scaled cosine between a picture and each class's prompt.

    Parameters
    ----------
    scale
        What the model multiplies cosines with (exp of its logit_scale).
    """

    def __init__(self, tower: Tower, encoder: TextEncoder, scale: float, classes: list[str], prompt: str) -> None:
        prompts = [fill(prompt, name) for name in classes]
        self._tower, self._scale = tower, scale
        self._text_KD = _unit(encoder.encode(prompts))
        digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()
        self.fact = TargetFact(
            tower=f"teacher:{tower.fact.tower}",
            layer="softmax",
            revision=tower.fact.revision,
            preprocessing=(
                f"{len(classes)} classes {digest} | prompt '{prompt}' | {encoder.preprocessing} | scale {scale:.6g} | "
                f"{tower.fact.preprocessing}"
            ),
            **shape_facts((len(classes),)),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return probabilities, float32 (N, K), each row of sum one."""
        cosine_NK = np.zeros((len(images), len(self._text_KD)), dtype=np.float32)
        # One row at a time: a product of all of them would make its last bits depend on how many there are.
        for n, z_D in enumerate(_unit(self._tower.embed(images))):
            cosine_NK[n] = self._text_KD @ z_D
        return softmax(np.asarray(self._scale * cosine_NK, dtype=np.float32))


def open_teacher(spec: Spec, weights_uri: str) -> ClassifierTeacher | ZeroShotTeacher:
    """Make the tower of a ``teacher:`` spec.

    Raises
    ------
    ValueError
        Classes for a classifier that has its own, no classes for one that has none, or a model without a text side.
    """
    assert spec.inner is not None
    kind, model = spec.inner.kind, spec.inner.model
    if kind == "timm":
        if spec.options:
            raise ValueError(
                f"targets.tower: a timm classifier has its own classes; leave out {', '.join(spec.options)}."
            )
        return ClassifierTeacher(TimmTower(model, weights_uri))
    if "classes" not in spec.options:
        raise ValueError("targets.tower: a CLIP teacher needs 'classes', a text file with one class a line.")
    classes = list(read_classes(spec.options["classes"], weights_uri).values())
    prompt = spec.options.get("prompt", PROMPT)
    check_prompt(prompt)
    tower: Tower
    encoder: TextEncoder
    if kind == "open_clip":
        loaded, prepare = load_open_clip(model, weights_uri)
        tower, encoder = OpenClipTower(loaded, prepare), OpenClipText(loaded)
    else:
        loaded = load_transformers(model, weights_uri)
        if not hasattr(loaded.net, "get_text_features"):
            raise ValueError(
                f"targets.tower: a teacher must have a text side, '{model}' is a {type(loaded.net).__name__}."
            )
        tower, encoder = TransformersTower(loaded), TransformersText(loaded)
    return ZeroShotTeacher(tower, encoder, float(loaded.net.logit_scale.exp()), classes, prompt)


def softmax(logits_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row's probabilities, float32."""
    return torch.from_numpy(logits_NK).softmax(dim=1).numpy()


def _unit(z_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True), dtype=np.float32)
