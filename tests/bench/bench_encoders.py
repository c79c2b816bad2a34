"""Training steps of reduced against published forms, loss and Adam included, and ridge against scikit-learn.

Steps run on the CPU, and on a GPU too where there is one.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional

from eegdecode.models import ENCODERS
from eegdecode.models.nice import NiceTrunk
from eegdecode.models.shallownet import TemporalSpatialConv
from eegdecode.train.closed_form import RidgePath, accumulate

BATCH, CHANS, TIMES, DIM, ROUNDS = 256, 63, 250, 768, 5
# Perceptogram: 17 electrodes at 80 samples of 16,540 pictures, to an image embedding, a text embedding and a latent.
ROWS, FEATURES, RIDGE_ROUNDS = 16_540, 1360, 3
TARGETS = {"clip": (1024, 1000.0), "text": (768, 10_000.0), "vae": (2304, 0.1)}


class PublishedTrunk(nn.Module):
    """Convolution, average pooling, BatchNorm, ELU, spatial convolution as in Song et al. 2024 (NICE-EEG a7709d8)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 40, (1, 25)),
            nn.AvgPool2d((1, 51), (1, 5)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Conv2d(40, 40, (CHANS, 1)),
            nn.BatchNorm2d(40),
            nn.ELU(),
            nn.Dropout(0.5),
            nn.Conv2d(40, 40, 1),
        )

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(eeg_BCT[:, None]).flatten(2).transpose(1, 2).flatten(1)
        return out


class PublishedPair(nn.Module):
    """Filters over time, then over electrodes, one convolution after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 40, (1, 25)), nn.Conv2d(40, 40, (CHANS, 1)))

    def forward(self, eeg_BCT: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(eeg_BCT[:, None]).squeeze(2)
        return out


def published(encoder: nn.Module) -> nn.Module:
    """The same encoder with the published form in place of every reduced one."""
    encoder = copy.deepcopy(encoder)
    for name, child in encoder.named_children():
        if isinstance(child, NiceTrunk):
            setattr(encoder, name, PublishedTrunk())
        elif isinstance(child, TemporalSpatialConv):
            setattr(encoder, name, PublishedPair())
    return encoder


def interleaved(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side, in turns; the first round is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, run_once in sides.items():
            start = time.perf_counter()
            run_once()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def step_of(encoder: nn.Module, device: str) -> Callable[[], None]:
    """A whole training step."""
    encoder = encoder.to(device)
    eeg, target = torch.randn(BATCH, CHANS, TIMES, device=device), torch.randn(BATCH, DIM, device=device)
    right, optimiser = torch.arange(BATCH, device=device), torch.optim.Adam(encoder.parameters(), lr=2e-4)

    def step() -> None:
        logits = functional.normalize(encoder(eeg)) @ functional.normalize(target).T / 0.07
        loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    return round(statistics.median(s / f for s, f in zip(seconds[slow], seconds[fast], strict=True)), 2)


def steps(device: str) -> Iterator[dict[str, Any]]:
    where = {} if device == "cpu" else {"on": torch.cuda.get_device_name()}
    for name in ("nice", "atm", "shallownet"):
        reduced = ENCODERS[name](CHANS, TIMES, DIM, 0.5)
        sides = {"published": step_of(published(reduced), device), "reduced": step_of(reduced, device)}
        if name == "nice":
            sides["mlp"] = step_of(ENCODERS["mlp"](CHANS, TIMES, DIM, 0.5), device)
        seconds = interleaved(sides, ROUNDS)
        yield {
            "bench": f"{name}.step_vs_published",
            "ratio": ratio(seconds, "published", "reduced"),
            "unit": "step time ratio",
        } | where
        for side in {"reduced", "mlp"} & seconds.keys():
            figure = "mlp" if side == "mlp" else name
            per_second = round(BATCH / statistics.median(seconds[side]))
            yield {"bench": f"{figure}.step_samples_s", "value": per_second, "unit": "samples/s"} | where


def ridge() -> Iterator[dict[str, Any]]:
    """Three targets, each with its penalty: one pass over batches against one fit a target on arrays in memory."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES))
    y = {name: rng.normal(size=(ROWS, dim)) for name, (dim, _) in TARGETS.items()}

    def ours() -> None:
        batches = ((x[k : k + 1000], {name: a[k : k + 1000] for name, a in y.items()}) for k in range(0, ROWS, 1000))
        path = RidgePath(accumulate(batches))
        for name, (_, alpha) in TARGETS.items():
            path.fit(name, alpha)

    def theirs() -> None:
        for name, (_, alpha) in TARGETS.items():
            Ridge(alpha=alpha).fit(x, y[name])

    seconds = interleaved({"scikit-learn": theirs, "moments": ours}, RIDGE_ROUNDS)
    yield {"bench": "ridge.vs_sklearn", "ratio": ratio(seconds, "scikit-learn", "moments"), "unit": "fit time ratio"}


def run() -> Iterator[dict[str, Any]]:
    yield from steps("cpu")
    if torch.cuda.is_available():
        yield from steps("cuda")
    yield from ridge()
