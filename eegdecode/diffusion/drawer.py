"""A small diffusion model that draws a picture from an embedding, its training task and its stream of pictures.

Rectified flow (Liu et al. 2023; Lipman et al. 2023): x_t = (1 - t) x + t noise; DPM-Solver++ (Lu et al. 2022) walks
from noise to picture in a dozen steps. The network predicts the picture itself: after a few hundred steps of training
one that predicts noise minus picture still lets noise through. The embedding enters twice: added to the time embedding
of the UNet, and as a coarse layout map beside the noisy picture, because targets know where things are.

Shape letters: B batch, C channel, H row, W column, D embedding, P picture, K parameter.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from eegdecode.diffusion.spaces import Taef2Space, build_space, picture_tensor

LAYOUT_CHANNELS, LAYOUT_SIDE = 8, 4
HIDDEN = 256
EMA_DECAY = 0.995
CONDITION_LIMIT = 5.0
"""Standardised embeddings are clipped here: a wild prediction must not leave what was trained."""
CHUNK = 8
"""Pictures are drawn in groups of exactly this many: the last bits of a matrix product depend on its size, and a served
picture must equal the batch job's. (On the row they do not, at these widths: measured, and kept by a test.)"""
N_TIMES = 1000


class ConditionedUNet(nn.Module):
    """diffusers' UNet2DModel with an embedding added to its time embedding and drawn beside its input."""

    def __init__(self, channels: int, side: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.side = side
        wide = 2 * width
        self.condition = nn.Sequential(nn.Linear(embed_dim + 1, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 4 * width))
        self.layout = nn.Linear(embed_dim + 1, LAYOUT_CHANNELS * LAYOUT_SIDE**2)
        self.unet = UNet2DModel(
            sample_size=side,
            in_channels=channels + LAYOUT_CHANNELS,
            out_channels=channels,
            block_out_channels=(width, wide, wide),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=max(8, wide // 4),
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity",
        )

    def forward(self, x_BCHW: torch.Tensor, t_B: torch.Tensor, condition_BD: torch.Tensor) -> torch.Tensor:
        """Predict the picture; `condition_BD` ends in a column that is 1 with an embedding, 0 without."""
        layout = self.layout(condition_BD).reshape(-1, LAYOUT_CHANNELS, LAYOUT_SIDE, LAYOUT_SIDE)
        layout = functional.interpolate(layout, size=(self.side, self.side), mode="bilinear")
        x = torch.cat([x_BCHW, layout], dim=1)
        out: torch.Tensor = self.unet(x, t_B * N_TIMES, class_labels=self.condition(condition_BD)).sample
        return out


def _flat(net: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in net.parameters()])


class Drawer(nn.Module):
    """Draws a picture from an embedding; the running average of the weights (EMA) is what draws and what is saved.

    Parameters
    ----------
    embed_dim
        Length of the embedding.
    px
        Side of the picture in pixels, a multiple of 8.
    width
        Channels of the UNet's first level, a multiple of 8.
    space, weights_dir
        ``pixels``, or ``taef2`` with the folder of its weights; see `eegdecode.diffusion.spaces`.
    cond_dropout
        Share of training pictures that are drawn without their embedding, for classifier-free guidance
        (Ho & Salimans 2022).
    cond_noise
        Largest deviation of the noise laid on the standardised embedding in training, so that the imperfect ones
        predicted from EEG still draw.
    sampler_steps, guidance
        Steps from noise to picture; weight of the embedding (0: none, 1: no guidance).
    """

    mean_D: torch.Tensor
    std_D: torch.Tensor
    ema_K: torch.Tensor
    ema_updates: torch.Tensor

    def __init__(
        self,
        embed_dim: int,
        px: int,
        width: int,
        space: str = "pixels",
        weights_dir: str | Path | None = None,
        cond_dropout: float = 0.1,
        cond_noise: float = 0.5,
        sampler_steps: int = 12,
        guidance: float = 2.0,
    ) -> None:
        super().__init__()
        if width % 8:
            raise ValueError(f"drawer.width must be a multiple of 8, got {width}.")
        self.plan = {
            "embed_dim": embed_dim,
            "px": px,
            "width": width,
            "space": space,
            "cond_dropout": cond_dropout,
            "cond_noise": cond_noise,
            "sampler_steps": sampler_steps,
            "guidance": guidance,
        }
        self.px, self.embed_dim = px, embed_dim
        self.cond_dropout, self.cond_noise = cond_dropout, cond_noise
        self.sampler_steps, self.guidance = sampler_steps, guidance
        self.space = build_space(space, px, weights_dir)
        self.net = ConditionedUNet(self.space.channels, self.space.side, width, embed_dim)
        self.register_buffer("mean_D", torch.zeros(embed_dim))
        self.register_buffer("std_D", torch.ones(embed_dim))
        # One flat buffer: it travels in the state dict and no optimiser or engine mistakes it for a parameter.
        self.register_buffer("ema_K", _flat(self.net))
        self.register_buffer("ema_updates", torch.zeros(1))

    def set_condition_stats(self, mean_D: np.ndarray, std_D: np.ndarray) -> None:
        """Set mean and deviation of the training pictures' embeddings, by which every embedding is standardised."""
        if mean_D.shape != (self.embed_dim,) or std_D.shape != (self.embed_dim,):
            raise ValueError(f"condition statistics must be ({self.embed_dim},), got {mean_D.shape} and {std_D.shape}.")
        self.mean_D.copy_(torch.from_numpy(np.asarray(mean_D, dtype=np.float32)))
        # A dimension that never varied in training says nothing: leave it at its (zero) distance from the mean.
        std = np.where(std_D > 1e-6, std_D, 1.0).astype(np.float32)
        self.std_D.copy_(torch.from_numpy(std))

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Map pictures in [0, 1] to the space that is diffused in."""
        return self.space.encode(images_BCHW)

    def forward(
        self, images_BCHW: torch.Tensor, z_BD: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Return the training loss on pictures in [0, 1] and their embeddings."""
        return self.latent_loss(self.encode(images_BCHW), z_BD, generator)

    def latent_loss(
        self, x_BCHW: torch.Tensor, z_BD: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Return the training loss on pictures that `encode` has mapped already."""
        if self.training:
            self._update_ema()
        n, device = len(x_BCHW), x_BCHW.device
        draw = {"generator": generator, "device": device}
        noise = torch.randn(x_BCHW.shape, **draw)  # type: ignore[arg-type]
        # Logit-normal times (Esser et al. 2024): the middle of the way is the hardest.
        t_B = torch.sigmoid(torch.randn(n, **draw))  # type: ignore[arg-type]
        keep_B = torch.rand(n, **draw) >= self.cond_dropout  # type: ignore[arg-type]
        blur_B = torch.rand(n, **draw) * self.cond_noise  # type: ignore[arg-type]
        jitter_BD = torch.randn(z_BD.shape, **draw)  # type: ignore[arg-type]
        condition = self._standardise(z_BD) + blur_B[:, None] * jitter_BD
        condition_BD = self._with_flag(condition, keep_B)
        t = t_B[:, None, None, None]
        predicted = self.net((1 - t) * x_BCHW + t * noise, t_B, condition_BD)
        return functional.mse_loss(predicted, x_BCHW)

    @torch.no_grad()
    def draw(self, z_BD: np.ndarray, seed: int) -> np.ndarray:
        """Draw one picture per embedding, uint8 (B, px, px, 3).

        Every picture starts from the noise of the seed, so that pictures differ by their embedding alone, and all go
        through the network in groups of exactly `CHUNK`: alone, or among others, a picture comes out the same.

        Parameters
        ----------
        z_BD
            Embeddings in the target's space, float32.
        seed
            Any integer of at least 0.
        """
        z_BD = np.asarray(z_BD, dtype=np.float32)
        if z_BD.ndim != 2 or z_BD.shape[1] != self.embed_dim:
            raise ValueError(f"embeddings must be (pictures, {self.embed_dim}), got {z_BD.shape}.")
        if not np.isfinite(z_BD).all():
            raise ValueError("embeddings must be finite, got NaN or infinity.")
        images = np.zeros((len(z_BD), self.px, self.px, 3), dtype=np.uint8)
        was_training = self.training
        self.eval()
        try:
            for k in range(0, len(z_BD), CHUNK):
                rows = slice(k, k + CHUNK)
                images[rows] = self._draw_group(z_BD[rows], seed)
        finally:
            self.train(was_training)
        return images

    def save(self, folder: str | Path) -> None:
        """Write drawer.json and drawer.safetensors (EMA weights), and the autoencoder's files where it uses one."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"net.{name}": value.contiguous() for name, value in self._ema_weights().items()}
        weights |= {"mean_D": self.mean_D, "std_D": self.std_D}
        save_file(
            {name: value.detach().cpu().clone() for name, value in weights.items()}, folder / "drawer.safetensors"
        )
        if isinstance(self.space, Taef2Space):
            for name, content in self.space.files.items():
                (folder / name).write_bytes(content)
        (folder / "drawer.json").write_text(json.dumps(self.plan, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: str | Path) -> "Drawer":
        """Read what `save` wrote; the drawer is in eval mode.

        Raises
        ------
        ValueError
            Files that are missing or do not belong together.
        """
        folder = Path(folder)
        for name in ("drawer.json", "drawer.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"a drawer needs {name}, and {folder} has none.")
        drawer = cls(**json.loads((folder / "drawer.json").read_text()), weights_dir=folder)
        state = {f"net.{name}": value for name, value in drawer.net.state_dict().items()}
        state |= {"mean_D": drawer.mean_D, "std_D": drawer.std_D}
        weights = load_file(folder / "drawer.safetensors")
        wrong = sorted(set(weights) ^ set(state)) or [k for k in state if state[k].shape != weights[k].shape]
        if wrong:
            raise ValueError(f"drawer.safetensors in {folder} does not fit its drawer.json: {wrong[0]} is another.")
        for name, value in weights.items():
            state[name].copy_(value)
        drawer.ema_K.copy_(_flat(drawer.net))
        return drawer.eval()

    def _standardise(self, z_BD: torch.Tensor) -> torch.Tensor:
        return ((z_BD - self.mean_D) / self.std_D).clamp(-CONDITION_LIMIT, CONDITION_LIMIT)

    @staticmethod
    def _with_flag(condition_BD: torch.Tensor, keep_B: torch.Tensor) -> torch.Tensor:
        keep = keep_B.to(condition_BD.dtype)[:, None]
        return torch.cat([condition_BD * keep, keep], dim=1)

    @torch.no_grad()
    def _update_ema(self) -> None:
        # Runs before a step, so the average lags one step behind; the short average of the first steps forgets faster.
        n = float(self.ema_updates)
        decay = min(EMA_DECAY, (1 + n) / (10 + n))
        self.ema_K.lerp_(_flat(self.net), 1 - decay)
        self.ema_updates += 1

    def _ema_weights(self) -> dict[str, torch.Tensor]:
        weights, start = {}, 0
        for name, parameter in self.net.named_parameters():
            weights[name] = self.ema_K[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
        return weights

    def _draw_group(self, z_BD: np.ndarray, seed: int) -> np.ndarray:
        """Draw at most CHUNK pictures; the rest of the group is filled up with what is of no account."""
        device = self.mean_D.device
        shape = (self.space.channels, self.space.side, self.space.side)
        filled = np.zeros((CHUNK, self.embed_dim), np.float32)
        filled[: len(z_BD)] = z_BD
        noise = np.random.default_rng(seed).standard_normal(shape, np.float32)
        x = torch.from_numpy(noise).to(device).repeat(CHUNK, 1, 1, 1)
        z = self._standardise(torch.from_numpy(filled).to(device))
        keep = torch.ones(CHUNK, dtype=torch.bool, device=device)
        condition = self._with_flag(z, keep)
        if self.guidance != 1:
            condition = torch.cat([condition, self._with_flag(z, ~keep)])
        weights = self._ema_weights()
        sampler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
        sampler.set_timesteps(self.sampler_steps)
        repeats = len(condition) // CHUNK
        for time, t in zip(sampler.timesteps, sampler.sigmas[:-1].tolist(), strict=True):
            t_B = torch.full((len(condition),), t, device=device)
            picture = functional_call(self.net, weights, (x.repeat(repeats, 1, 1, 1), t_B, condition))
            if self.guidance != 1:
                with_z, without = picture.chunk(2)
                picture = without + self.guidance * (with_z - without)
            # The sampler asks for the velocity, noise minus picture: (x - picture) / t by the definition of x.
            x = sampler.step((x - picture) / t, time, x).prev_sample
        images = self.space.decode(x)[: len(z_BD)]
        return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class PictureBatch:
    """Pictures in the drawer's space (`Drawer.encode`) with the embeddings they are drawn from."""

    x_BCHW: torch.Tensor
    z_BD: torch.Tensor

    def to(self, device: torch.device | str) -> "PictureBatch":
        """Return the batch on another device."""
        return PictureBatch(self.x_BCHW.to(device), self.z_BD.to(device))


class DrawerTask(nn.Module):
    """What the training loop trains: batch to (loss, logs). Noise and times come from torch's default generator."""

    def __init__(self, drawer: Drawer) -> None:
        super().__init__()
        self.drawer = drawer

    def forward(self, batch: PictureBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss and what is logged of it."""
        loss = self.drawer.latent_loss(batch.x_BCHW, batch.z_BD)
        return loss, {"loss": loss.detach()}


class PictureStream:
    """Endless batches of training pictures whose order is a function of (seed, pass) alone.

    Pictures are mapped to the drawer's space once, here. Batches run on across the end of a pass, so each picture comes
    exactly once a pass and no batch is short. Rank r takes rows [r * micro, (r + 1) * micro) of each global batch.
    """

    def __init__(
        self,
        drawer: Drawer,
        images: list[Image.Image],
        z_PD: np.ndarray,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(images) != len(z_PD) or not images:
            raise ValueError(f"every training picture needs one embedding, got {len(images)} and {len(z_PD)}.")
        if batch % world:
            raise ValueError(f"drawer.batch must be a multiple of the workers, got {batch} over {world}.")
        self.batch, self.seed, self.rank, self.world = batch, seed, rank, world
        with torch.no_grad():
            parts = [drawer.encode(picture_tensor(images[k : k + 64], drawer.px)) for k in range(0, len(images), 64)]
        self._x_PCHW = torch.cat(parts)
        self._z_PD = torch.from_numpy(np.asarray(z_PD, dtype=np.float32))

    def starting_at(self, trials_seen: int) -> Iterator[PictureBatch]:
        """Yield batches for ever, as if this many pictures (of all ranks) had been given out already."""
        n, micro = len(self._z_PD), self.batch // self.world
        orders: dict[int, np.ndarray] = {}
        while True:
            first = trials_seen + self.rank * micro
            places = np.arange(first, first + micro)
            for p in set((places // n).tolist()) - set(orders):
                orders = {k: v for k, v in orders.items() if k >= p - 1}
                orders[p] = np.random.default_rng([self.seed, p]).permutation(n)
            rows = torch.from_numpy(np.array([orders[k // n][k % n] for k in places.tolist()]))
            yield PictureBatch(self._x_PCHW[rows], self._z_PD[rows])
            trials_seen += self.batch
