"""A training step of NICE in its reduced form against the published one, and of the mlp; loss and Adam included."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from eegdecode.models import ENCODERS
from eegdecode.models.nice import NiceTrunk

BATCH, CHANS, TIMES, DIM, ROUNDS = 256, 63, 250, 768, 5


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


def run() -> Iterator[dict[str, Any]]:
    reduced = ENCODERS["nice"](CHANS, TIMES, DIM, 0.5)
    published = ENCODERS["nice"](CHANS, TIMES, DIM, 0.5)
    for name, child in published.named_children():
        if isinstance(child, NiceTrunk):
            setattr(published, name, PublishedTrunk())
    sides = {"reduced": reduced, "published": published, "mlp": ENCODERS["mlp"](CHANS, TIMES, DIM, 0.5)}
    eeg, target = torch.randn(BATCH, CHANS, TIMES), torch.randn(BATCH, DIM)
    optimisers = {name: torch.optim.Adam(side.parameters(), lr=2e-4) for name, side in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(ROUNDS + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            logits = functional.normalize(side(eeg)) @ functional.normalize(target).T / 0.07
            right = torch.arange(BATCH)
            loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
            optimisers[name].zero_grad()
            loss.backward()
            optimisers[name].step()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [p / r for p, r in zip(seconds["published"], seconds["reduced"], strict=True)]
    yield {"bench": "nice.step_vs_published", "ratio": round(statistics.median(ratios), 2), "unit": "step time ratio"}
    yield {"bench": "mlp.step_samples_s", "value": round(BATCH / median["mlp"]), "unit": "samples/s"}
    yield {"bench": "nice.step_samples_s", "value": round(BATCH / median["reduced"]), "unit": "samples/s"}
