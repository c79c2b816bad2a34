"""Latents of a diffusion model's autoencoder: what a decoder draws from.

The mean of the latent distribution, shifted and scaled as the diffusion model takes it. TAEF2, whose blocks diffusers'
AutoencoderTiny lacks, belongs to `eegdecode.diffusion.spaces`.
Shape letters: N picture, C channel, H row, W column.
"""

from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from eegdecode.batch import TargetFact
from eegdecode.targets.frozen import (
    blank,
    freeze,
    local_path,
    one_by_one,
    portable,
    probe,
    refuse_unloaded,
    state_digest,
)
from eegdecode.targets.spec import Spec
from eegdecode.targets.towers import shape_facts

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
RANGES = {"signed": (2.0, -1.0), "unit": (1.0, 0.0)}
"""Gain and offset of pixels in [0, 1]. Autoencoders take [-1, 1]; Perceptogram made its latents of pixels in [0, 1]."""


class VaeTower:
    """Latents of an AutoencoderKL or AutoencoderTiny.

    Parameters
    ----------
    px
        Side that pictures are squeezed to.
    pixel_range
        A key of RANGES.
    """

    def __init__(self, net: Any, tower: str, px: int, pixel_range: str) -> None:
        revision = state_digest(net)
        self._net, self._px = freeze(net), px
        self._gain, self._offset = RANGES[pixel_range]
        self._scale, self._shift = float(net.config.scaling_factor), float(net.config.shift_factor or 0.0)
        self.fact = TargetFact(
            tower=tower,
            layer="latent_mean",
            revision=revision,
            preprocessing=(
                f"RGB, squeezed to {px}x{px} (Pillow bicubic), [0, 1] * {self._gain:g} + {self._offset:g} | "
                f"(latent - {self._shift:g}) * {self._scale:g}"
            ),
            **shape_facts(probe(self._prepare, self._encode, blank())),
        )

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the latents, float32 (N, C, H, W)."""
        return one_by_one(images, self._prepare, self._encode, self.fact.shape)

    def _prepare(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        if image.size != (self._px, self._px):
            image = image.resize((self._px, self._px), Image.Resampling.BICUBIC)
        pixels_HW3 = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
        return pixels_HW3.permute(2, 0, 1) * self._gain + self._offset

    def _encode(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        encoded = self._net.encode(images_NCHW)
        # Only the variational one has a distribution; its mean, because a draw would differ from call to call.
        raw_NCHW: torch.Tensor = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return (raw_NCHW - self._shift) * self._scale


def open_vae(spec: Spec, weights_uri: str) -> VaeTower:
    """Make the tower of a ``vae:`` spec: an id or folder of diffusers, its class as its config.json says.

    Raises
    ------
    ValueError
        A model that is not there, of another class, with weights missing, or without a side to work at.
    """
    path = local_path(spec.model, weights_uri)
    source, where = str(path or spec.model), {"subfolder": spec.options.get("subfolder")}
    try:
        config = diffusers.AutoencoderKL.load_config(source, local_files_only=path is not None, **where)
        name = config.get("_class_name")
        if name not in CLASSES:
            raise ValueError(f"its config.json must say {' or '.join(CLASSES)}, got {name}")
        net, info = getattr(diffusers, name).from_pretrained(
            source,
            use_safetensors=True,
            torch_dtype=torch.float32,
            local_files_only=path is not None,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            **where,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"targets.tower: diffusers can not load '{spec.model}': {error}") from error
    refuse_unloaded(f"targets.tower '{spec.model}'", info)
    if info["unexpected_keys"]:
        raise ValueError(
            f"targets.tower: '{spec.model}' must hold the weights of a {name} and no others, got "
            f"'{info['unexpected_keys'][0]}'."
        )
    return VaeTower(net, f"vae:{portable(spec.model, path)}", _side(spec, config), _range(spec))


def _side(spec: Spec, config: dict[str, Any]) -> int:
    text = str(spec.options.get("px", config.get("sample_size", "none")))
    if not text.isdecimal() or int(text) < 8:
        raise ValueError(f"targets.tower: 'vae' needs the side pictures are squeezed to, vae(px=256):..., got {text}.")
    return int(text)


def _range(spec: Spec) -> str:
    name = spec.options.get("range", "signed")
    if name not in RANGES:
        raise ValueError(f"targets.tower: range must be one of {', '.join(RANGES)}, got '{name}'.")
    return name
