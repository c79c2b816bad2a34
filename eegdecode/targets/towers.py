"""Towers with weights: timm models, and the image encoders of open_clip and transformers, on the CPU or a GPU.

Always in eval mode and without gradients, always with the deterministic preprocessing of evaluation: a random crop
makes targets that nobody can reproduce. Code or pickles that come with weights are never run.
Shape letters: N picture, C channel, H row, W column, D embedding.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.frozen import (
    blank,
    file_digest,
    freeze,
    local_path,
    one_by_one,
    portable,
    probe,
    refuse_unloaded,
    state_digest,
)
from eegdecode.targets.layers import Tap, patch_px
from eegdecode.targets.spec import Layers, Spec


@dataclass(frozen=True)
class Loaded:
    """A frozen network.

    Attributes
    ----------
    tower, revision
        As they go into the manifest.
    source
        Where its other files (tokenizer, image processor) are loaded from: a folder, an id, or open_clip's model name.
    """

    net: Any
    tower: str
    revision: str
    source: str


class TimmTower:
    """Pooled features before the classifier of a timm model, or layers of it.

    Parameters
    ----------
    model
        timm's name of it, or a folder with its ``config.json`` (which names the `architecture`) and
        ``model.safetensors``.
    weights_uri
        Local folder with ``<model>/model.safetensors`` and ``<model>/config.json`` (`create_model_kwargs`, `mean`,
        `std`, `input_size`; or as timm publishes it); empty: timm fetches its own weights and their configuration.

    Raises
    ------
    ValueError
        Files that are missing, weights that do not fit the model, or a layer it has not.
    """

    def __init__(self, model: str, weights_uri: str = "", layers: Layers | None = None) -> None:
        import timm

        folder = local_path(model, weights_uri)
        if folder is not None:
            net, facts, revision = _local_timm(model, folder)
        else:
            net = timm.create_model(model, pretrained=True)
            facts = timm.data.resolve_model_data_config(net)
            revision = state_digest(net)
        self._net = freeze(net)
        self._px = int(facts["input_size"][-1])
        self._resample = Image.Resampling[facts.get("interpolation", "bicubic").upper()]
        self._scaled_px = math.floor(self._px / facts.get("crop_pct", 1.0))
        self._crop = facts.get("crop_mode", "center")
        if self._crop not in ("center", "squash"):
            raise ValueError(f"targets.tower 'timm:{model}': crop_mode must be center or squash, got '{self._crop}'.")
        self._mean_C = torch.tensor(facts["mean"], dtype=torch.float32)[:, None, None]
        self._std_C = torch.tensor(facts["std"], dtype=torch.float32)[:, None, None]
        patches = patch_px(getattr(net, "patch_embed", None))
        self._run = Tap(self._net, layers, self._net, patches) if layers else self._pre_logits
        self.fact = TargetFact(
            tower=f"timm:{portable(model, folder)}",
            layer=str(layers or "pre_logits"),
            revision=revision,
            preprocessing=(
                f"RGB, {'shorter side' if self._crop == 'center' else 'squeezed'} to {self._scaled_px} "
                f"(Pillow {self._resample.name.lower()}), "
                f"centre crop {self._px}, mean {_numbers(facts['mean'])}, std {_numbers(facts['std'])}"
            ),
            **shape_facts(probe(self._prepare, self._run, blank())),
        )

    @property
    def n_classes(self) -> int:
        """Outputs of the classifier."""
        return int(self._net.num_classes)

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the features, float32 (N, *shape), not normalised."""
        return one_by_one(images, self._prepare, self._run, self.fact.shape)

    def logits(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """Return the classifier's outputs, float32 (N, classes), in the model's class order."""
        return one_by_one(images, self._prepare, self._net, (self.n_classes,))

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        if self._crop == "squash":
            image = image.resize((self._scaled_px, self._scaled_px), self._resample)
        square = _centre_square(image, self._scaled_px, self._px, self._resample)
        pixels_CHW = torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1)
        return (pixels_CHW - self._mean_C) / self._std_C

    def _pre_logits(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._net.forward_head(self._net.forward_features(images_NCHW), pre_logits=True)
        return features


class OpenClipTower:
    """Image embedding of an open_clip model, or layers on the way to it, with the preprocessing of evaluation."""

    def __init__(self, loaded: Loaded, prepare: Any, layers: Layers | None = None) -> None:
        self._net, self._prepare = loaded.net, prepare
        visual = loaded.net.visual
        patches = patch_px(visual, getattr(getattr(visual, "trunk", None), "patch_embed", None))
        encode = loaded.net.encode_image
        self._run = Tap(loaded.net, layers, encode, patches) if layers else encode
        self.fact = TargetFact(
            tower=loaded.tower,
            layer=str(layers or "image_embedding"),
            revision=loaded.revision,
            preprocessing=" | ".join(str(step) for step in prepare.transforms if not _is_function(step)),
            **shape_facts(probe(prepare, self._run, blank())),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the image embeddings, float32 (N, *shape), not normalised."""
        return one_by_one(images, self._prepare, self._run, self.fact.shape)


class TransformersTower:
    """Image features of a transformers model (CLIP's projection, else its pooled output), or layers on the way."""

    def __init__(self, loaded: Loaded, layers: Layers | None = None) -> None:
        config = loaded.net.config
        self._net, self._processor = loaded.net, open_processor(loaded.source)
        patches = patch_px(config, getattr(config, "vision_config", None))
        self._run = Tap(loaded.net, layers, self._forward, patches) if layers else self._features
        self.fact = TargetFact(
            tower=loaded.tower,
            layer=str(layers or "image_features"),
            revision=loaded.revision,
            preprocessing=describe_processor(self._processor),
            **shape_facts(probe(self._prepare, self._run, blank())),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the features, float32 (N, *shape), not normalised."""
        return one_by_one(images, self._prepare, self._run, self.fact.shape)

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        return pixels(self._processor, image)

    def _forward(self, images_NCHW: torch.Tensor) -> Any:
        forward = getattr(self._net, "get_image_features", self._net)
        return forward(pixel_values=images_NCHW)

    def _features(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return pooled(self._forward(images_NCHW), type(self._net).__name__)


def open_timm(spec: Spec, weights_uri: str) -> TimmTower:
    """Make the tower of a ``timm:`` spec."""
    return TimmTower(spec.model, weights_uri, spec.layers)


def open_open_clip(spec: Spec, weights_uri: str) -> OpenClipTower:
    """Make the tower of an ``open_clip:`` spec."""
    return OpenClipTower(*load_open_clip(spec.model, weights_uri), spec.layers)


def open_transformers(spec: Spec, weights_uri: str) -> TransformersTower:
    """Make the tower of a ``transformers:`` spec."""
    return TransformersTower(load_transformers(spec.model, weights_uri, spec.layers), spec.layers)


def load_open_clip(name: str, weights_uri: str) -> tuple[Loaded, Any]:
    """Load ``<model>:<pretrained tag or local path>`` and its transform of evaluation.

    Raises
    ------
    ValueError
        A model or tag that open_clip does not know.
    """
    import open_clip

    model, _, pretrained = name.partition(":")
    pretrained = pretrained.removeprefix("file://")
    if model not in open_clip.list_models():
        raise ValueError(f"targets.tower: open_clip knows no model '{model}'; see open_clip.list_models().")
    path = next(
        (p for p in (Path(pretrained), Path(weights_uri.removeprefix("file://"), pretrained)) if p.is_file()), None
    )
    if path is None and pretrained not in open_clip.list_pretrained_tags_by_model(model):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(
            f"targets.tower: '{pretrained}' is neither a file nor a pretrained tag of {model} (tags: {known})."
        )
    # The middle one of the three is the training transform, with its random crop: never that one.
    net, _, prepare = open_clip.create_model_and_transforms(model, pretrained=str(path or pretrained))
    revision = file_digest(path) if path else state_digest(net)
    tower = f"open_clip:{model}" if path else f"open_clip:{model}:{pretrained}"
    return Loaded(freeze(net), tower, revision, model), prepare


def load_transformers(name: str, weights_uri: str, layers: Layers | None = None, kind: str = "AutoModel") -> Loaded:
    """Load a transformers model by id or folder: safetensors of a class that transformers has, nothing else.

    Parameters
    ----------
    layers
        What will be read: if that is not the pooling layer, it may lack weights.
    kind
        The automatic class that is asked for it.

    Raises
    ------
    ValueError
        A model that is not there, that needs code of its own, or whose files do not hold all weights.
    """
    import transformers

    path = local_path(name, weights_uri)
    source = str(path or name)
    # Remote code stays off, and a class of its own without it is refused by transformers. InternViT is taken in
    # transformers' own class (internvl_vision).
    try:
        net, info = getattr(transformers, kind).from_pretrained(
            source,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            local_files_only=path is not None,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"targets.tower: transformers can not load '{name}' as {kind}: {error}") from error
    pools = layers is None or any(layer.startswith("pooler") for layer in layers.names)
    refuse_unloaded(f"targets.tower '{name}'", info, spare="" if pools else "pooler.")
    # What is still missing is never read: a random number, which must not get into the revision.
    revision = state_digest(net, without=info["missing_keys"])
    return Loaded(freeze(net), f"transformers:{portable(name, path)}", revision, source)


def open_processor(source: str) -> Any:
    """Return the image processor that lies beside a transformers model."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"targets.tower: '{source}' needs its preprocessor_config.json: {error}") from error


def pixels(processor: Any, image: Image.Image) -> torch.Tensor:
    """Return one picture as a transformers model takes it, (C, H, W)."""
    values: torch.Tensor = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
    if values.ndim != 4 or len(values) != 1:
        raise ValueError(f"targets.tower: its processor must make one tensor of a picture, got {tuple(values.shape)}.")
    return values[0]


def describe_processor(processor: Any) -> str:
    """Return every number of an image processor, in one order."""
    facts = {
        k: v for k, v in processor.to_dict().items() if v is not None and "path" not in k and not k.startswith("_")
    }
    return json.dumps(facts, sort_keys=True, default=str)


def pooled(output: Any, name: str) -> torch.Tensor:
    """Return the pooled output of a model: the tensor itself, or the record's field of that name.

    Raises
    ------
    ValueError
        A model without one.
    """
    found = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(found, torch.Tensor):
        raise ValueError(
            f"targets.tower: {name} has no pooled output; name a layer, such as '@token(encoder.layer.11)'."
        )
    return found


def shape_facts(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields of a TargetFact that say how large a target is."""
    return {"dim": math.prod(shape), "shape": shape}


def _is_function(step: object) -> bool:
    """Return whether a transform is a bare function, whose text would carry a memory address."""
    return type(step).__name__ == "function"


def _local_timm(model: str, folder: Path) -> tuple[Any, dict[str, Any], str]:
    import timm
    from safetensors.torch import load_file

    weights, config = folder / "model.safetensors", folder / "config.json"
    for path in (weights, config):
        if not path.is_file():
            raise ValueError(f"targets.tower 'timm:{model}' needs {path}; leave compute.weights_uri empty to fetch it.")
    facts = json.loads(config.read_text())
    facts = {**facts, **facts.get("pretrained_cfg", {})}
    # pad_type and the like belong to the weights: with the default the model runs and its features are wrong.
    published = {k: facts[k] for k in ("num_classes", "global_pool") if k in facts} | facts.get("model_args", {})
    kwargs = {
        "model_name": facts.get("architecture", model),
        **facts.get("create_model_kwargs", published),
        "pretrained": False,
    }
    net = timm.create_model(**kwargs)
    try:
        net.load_state_dict(load_file(weights), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit timm's {kwargs['model_name']}: {error}") from error
    return net, facts, file_digest(weights)


def _centre_square(image: Image.Image, shorter: int, px: int, resample: Image.Resampling) -> Image.Image:
    """Bring the shorter side to `shorter` pixels and cut out the middle `px`."""
    if image.size == (px, px) == (shorter, shorter):
        return image
    scale = shorter / min(image.size)
    width, height = (max(px, round(side * scale)) for side in image.size)
    left, top = (width - px) // 2, (height - px) // 2
    return image.resize((width, height), resample).crop((left, top, left + px, top + px))


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
