"""Towers with weights: any timm classifier or open_clip image encoder, on the CPU or a GPU.

Always in eval mode and without gradients, always with the deterministic preprocessing of evaluation: a random crop
makes targets that nobody can reproduce. Shape letters: N picture, C channel, H row, W column, D embedding.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from eegdecode.batch import TargetFact

BATCH = 32


class TimmTower:
    """Pooled features before the classifier of a timm model.

    Parameters
    ----------
    model
        timm's name of it.
    weights_uri
        Local folder with ``<model>/model.safetensors`` and ``<model>/config.json`` (`create_model_kwargs`, `mean`,
        `std`, `input_size`); empty: timm fetches its own pretrained weights and their configuration.

    Raises
    ------
    ValueError
        Files that are missing or weights that do not fit the model.
    """

    def __init__(self, model: str, weights_uri: str = "") -> None:
        import timm

        if weights_uri:
            self._net, facts, revision = _local_timm(model, Path(weights_uri.removeprefix("file://")))
        else:
            self._net = timm.create_model(model, pretrained=True)
            facts = timm.data.resolve_model_data_config(self._net)
            revision = _state_digest(self._net)
        self._net = self._net.eval().requires_grad_(False).to(_device())
        self._px = int(facts["input_size"][-1])
        self._mean_C = torch.tensor(facts["mean"], dtype=torch.float32)[:, None, None]
        self._std_C = torch.tensor(facts["std"], dtype=torch.float32)[:, None, None]
        with torch.no_grad():
            dim = int(self._features(torch.zeros(1, 3, self._px, self._px)).shape[1])
        self.fact = TargetFact(
            tower=f"timm:{model}",
            layer="pre_logits",
            revision=revision,
            preprocessing=(
                f"RGB, shorter side to {self._px} (Pillow bicubic), centre crop {self._px}, "
                f"mean {_numbers(facts['mean'])}, std {_numbers(facts['std'])}"
            ),
            dim=dim,
        )

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """Return the features, float32 (N, D), not normalised."""
        return _in_batches(images, self._prepare, self._features, self.fact.dim)

    def logits(self, images: list[Image.Image]) -> np.ndarray:
        """Return the classifier's outputs, float32 (N, classes), in the model's class order."""
        classes = int(self._net.num_classes)
        return _in_batches(images, self._prepare, self._net, classes)

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        square = np.asarray(_centre_square(image.convert("RGB"), self._px), dtype=np.float32) / 255
        return (torch.from_numpy(square).permute(2, 0, 1) - self._mean_C) / self._std_C

    def _features(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        images_NCHW = images_NCHW.to(_device())
        features: torch.Tensor = self._net.forward_head(self._net.forward_features(images_NCHW), pre_logits=True)
        return features


class OpenClipTower:
    """Image embedding of an open_clip model with the preprocessing of evaluation.

    Parameters
    ----------
    model
        open_clip's name of it.
    pretrained
        A tag open_clip knows, or the path of a local weights file.

    Raises
    ------
    ValueError
        A model or tag that open_clip does not know.
    """

    def __init__(self, model: str, pretrained: str) -> None:
        import open_clip

        pretrained = pretrained.removeprefix("file://")
        local = Path(pretrained).is_file()
        if model not in open_clip.list_models():
            raise ValueError(f"targets.tower: open_clip knows no model '{model}'; see open_clip.list_models().")
        if not local and pretrained not in open_clip.list_pretrained_tags_by_model(model):
            known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
            raise ValueError(
                f"targets.tower: '{pretrained}' is neither a file nor a pretrained tag of {model} (tags: {known})."
            )
        # The middle one of the three is the training transform, with its random crop: never that one.
        net, _, self._prepare = open_clip.create_model_and_transforms(model, pretrained=pretrained)
        self._net: Any = net.eval().requires_grad_(False).to(_device())
        with torch.no_grad():
            dim = int(self._encode(self._prepare(Image.new("RGB", (32, 32)))[None]).shape[1])
        self.fact = TargetFact(
            tower=f"open_clip:{model}" if local else f"open_clip:{model}:{pretrained}",
            layer="image_embedding",
            revision=_file_digest(Path(pretrained)) if local else _state_digest(net),
            preprocessing=" | ".join(str(step) for step in self._prepare.transforms if not _is_function(step)),
            dim=dim,
        )

    def embed(self, images: list[Image.Image]) -> np.ndarray:
        """Return the image embeddings, float32 (N, D), not normalised."""
        return _in_batches(images, self._prepare, self._encode, self.fact.dim)

    def _encode(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._net.encode_image(images_NCHW.to(_device()))
        return features


def _is_function(step: object) -> bool:
    """Return whether a transform is a bare function, whose text would carry a memory address."""
    return type(step).__name__ == "function"


def _local_timm(model: str, folder: Path) -> tuple[Any, dict[str, Any], str]:
    import timm
    from safetensors.torch import load_file

    weights, config = folder / model / "model.safetensors", folder / model / "config.json"
    for path in (weights, config):
        if not path.is_file():
            raise ValueError(f"targets.tower 'timm:{model}' needs {path}; leave compute.weights_uri empty to fetch it.")
    facts = json.loads(config.read_text())
    # pad_type and the like belong to the weights: with the default the model runs and its features are wrong.
    kwargs = {"model_name": model, **facts.get("create_model_kwargs", {}), "pretrained": False}
    net = timm.create_model(**kwargs)
    try:
        net.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit timm's {model}: {error}") from error
    return net, facts, _file_digest(weights)


def _centre_square(image: Image.Image, px: int) -> Image.Image:
    if image.size == (px, px):
        return image
    scale = px / min(image.size)
    width, height = (max(px, round(side * scale)) for side in image.size)
    left, top = (width - px) // 2, (height - px) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + px, top + px))


def _in_batches(
    images: list[Image.Image],
    prepare: Callable[[Image.Image], torch.Tensor],
    run: Callable[[torch.Tensor], torch.Tensor],
    dim: int,
) -> np.ndarray:
    parts = [np.zeros((0, dim), dtype=np.float32)]
    with torch.inference_mode():
        for k in range(0, len(images), BATCH):
            batch = torch.stack([prepare(image) for image in images[k : k + BATCH]])
            parts.append(run(batch.to(_device())).float().cpu().numpy())
    return np.concatenate(parts)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state_digest(net: nn.Module) -> str:
    """Return the sha256 of all weights by name, where there is no file to hash."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
