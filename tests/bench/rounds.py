"""Sides of a comparison in turns, so that a shared machine is as slow for one as for the other."""

import statistics
from collections.abc import Callable
from typing import Any


def interleaved(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each side gives in each round; the first round, which warms up, is thrown away."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, side in sides.items():
            figure = side()
            if round_:
                figures[name].append(figure)
    return figures


def ratio(above: list[float], below: list[float]) -> dict[str, Any]:
    """Median over the rounds of the ratio within a round, and its range."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return {"ratio": _short(statistics.median(ratios)), "range": [_short(ratios[0]), _short(ratios[-1])]}


def _short(value: float) -> float:
    return float(f"{value:.3g}")
