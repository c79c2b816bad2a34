"""The spaces a picture is drawn in: pixels, or the latents of a small autoencoder.

Both map pictures in [0, 1] to arrays of about zero mean and unit range, and back. Shape letters: B batch, C channel,
H row, W column.
"""

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load
from torch import nn
from torch.nn import functional

PATCH = 2
"""Side of the pixel square that becomes channels: a quarter of the work, no information lost."""


class Space(Protocol):
    """Where diffusion happens for pictures of `px` pixels a side."""

    channels: int
    side: int

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Map pictures in [0, 1] to this space, (B, channels, side, side)."""

    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Map back to pictures in [0, 1]."""


def picture_tensor(images: list[Image.Image], px: int) -> torch.Tensor:
    """Return pictures as float32 (B, 3, px, px) in [0, 1]; other sizes are resized with Pillow's bicubic filter."""
    arrays = []
    for image in images:
        rgb = image.convert("RGB")
        if rgb.size != (px, px):
            rgb = rgb.resize((px, px), Image.Resampling.BICUBIC)
        arrays.append(np.asarray(rgb))
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return stacked.to(torch.float32) / 255


class PixelSpace(nn.Module):
    """Pixels in [-1, 1], each 2 x 2 square folded into channels."""

    def __init__(self, px: int) -> None:
        super().__init__()
        self.channels, self.side = 3 * PATCH**2, px // PATCH

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Map pictures in [0, 1] to (B, 12, px / 2, px / 2) in [-1, 1]."""
        return functional.pixel_unshuffle(images_BCHW * 2 - 1, PATCH)

    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Map back to pictures, clipped to [0, 1]."""
        return ((functional.pixel_shuffle(latents_BCHW, PATCH) + 1) / 2).clamp(0, 1)


class _PooledBlock(nn.Module):
    """AutoencoderTiny's residual block with the normalised branch before it, which diffusers' lacks."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.GroupNorm(4, 4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        h_BCHW = x_BCHW + self.pool(x_BCHW)
        return torch.relu(self.conv(h_BCHW) + h_BCHW)


class Taef2Space(nn.Module):
    """Latents of TAEF2 (madebyollin/taesd, MIT): an eighth of the side, 32 channels, normalised per channel.

    The statistics run over the whole picture inside the network, so a latent depends on picture size: no tiling.

    Parameters
    ----------
    weights_dir
        Folder with ``taef2.json``, ``taef2_encoder.safetensors`` and ``taef2_decoder.safetensors``.
    px
        Side of the picture, a multiple of 8.

    Raises
    ------
    ValueError
        A file that is missing, or weights of another network.
    """

    mean_C: torch.Tensor
    std_C: torch.Tensor

    def __init__(self, weights_dir: Path, px: int) -> None:
        super().__init__()
        for name in TAEF2_FILES:
            if not (weights_dir / name).is_file():
                raise ValueError(f"drawer.space='taef2' needs {name} in {weights_dir}; give compute.weights_uri.")
        # Kept as they came (5 MB): a drawer is saved with them, and the folder may be gone by then.
        self.files = {name: (weights_dir / name).read_bytes() for name in TAEF2_FILES}
        statistics = json.loads(self.files["taef2.json"])["latent_statistics"]
        self.autoencoder = AutoencoderTiny(latent_channels=32)
        for layers, first in ((self.autoencoder.encoder.layers, 11), (self.autoencoder.decoder.layers, 2)):
            for k in range(first, first + 3):
                layers[k] = _PooledBlock()
        # Layer 0 of the stored decoder is the clamp, which has no entry in diffusers' list.
        self._load("encoder", shift=0)
        self._load("decoder", shift=-1)
        self.autoencoder.requires_grad_(False).eval()
        self.register_buffer("mean_C", torch.tensor(statistics["mean"]))
        self.register_buffer("std_C", torch.tensor(statistics["std"]))
        self.channels, self.side = 32, px // 8

    def _load(self, half: str, shift: int) -> None:
        name = f"taef2_{half}.safetensors"
        renamed = {}
        for key, value in load(self.files[name]).items():
            layer, _, rest = key.partition(".")
            renamed[f"layers.{int(layer) + shift}.{rest}"] = value.float()
        try:
            getattr(self.autoencoder, half).load_state_dict(renamed, strict=True)
        except RuntimeError as error:
            raise ValueError(f"{name} must hold the weights of TAEF2's {half}: {error}") from error

    def train(self, mode: bool = True) -> "Taef2Space":
        """Stay in eval mode: this network is frozen."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Map pictures in [0, 1] to normalised latents (B, 32, px / 8, px / 8)."""
        # The network itself takes [0, 1]: diffusers' wrapper is the one that expects [-1, 1] at both ends.
        raw_BCHW: torch.Tensor = self.autoencoder.encode(images_BCHW * 2 - 1).latents
        return (raw_BCHW - self.mean_C[:, None, None]) / self.std_C[:, None, None]

    @torch.no_grad()
    def decode(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """Map normalised latents back to pictures, clipped to [0, 1]."""
        raw_BCHW = latents_BCHW * self.std_C[:, None, None] + self.mean_C[:, None, None]
        signed_BCHW: torch.Tensor = self.autoencoder.decode(raw_BCHW).sample
        return ((signed_BCHW + 1) / 2).clamp(0, 1)


TAEF2_FILES = ("taef2.json", "taef2_encoder.safetensors", "taef2_decoder.safetensors")
SPACES = ("pixels", "taef2")


def build_space(name: str, px: int, weights_dir: str | Path | None = None) -> PixelSpace | Taef2Space:
    """Build the space a drawer works in.

    Raises
    ------
    ValueError
        A name not in SPACES, a side that is no multiple of 8, or TAEF2 without its weights.
    """
    if px % 8 or px < 8:
        raise ValueError(
            f"drawer.px must be a multiple of 8, got {px}. Nearest valid values: {px // 8 * 8 or 8}, {px // 8 * 8 + 8}."
        )
    if name == "pixels":
        return PixelSpace(px)
    if name == "taef2":
        if not weights_dir:
            raise ValueError("drawer.space='taef2' needs a folder with its weights; give compute.weights_uri.")
        return Taef2Space(Path(weights_dir), px)
    raise ValueError(f"drawer.space must be one of {', '.join(SPACES)}, got '{name}'.")
