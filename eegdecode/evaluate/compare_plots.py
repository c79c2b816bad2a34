"""Figures of a comparison as PNG bytes, a colour and a marker per run."""

from collections.abc import Sequence

import numpy as np

from eegdecode.evaluate.plots import CHANCE, INK, label_axes, new_figure, png_of
from eegdecode.evaluate.retrieval import RetrievalScore

# Okabe and Ito's palette again, then the same with another marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"


def repetition_curves(scores: Sequence[tuple[str, RetrievalScore]]) -> bytes:
    """Top-1 against repetitions averaged, a line with its band per run."""
    figure, axes = new_figure(1, 1, 5.2, 3.8)
    ticks: set[int] = set()
    for i, (name, score) in enumerate(scores):
        points = sorted(score.repetition_curve, key=lambda point: point.repetitions)
        if not points:
            continue
        n = [point.repetitions for point in points]
        ticks |= set(n)
        colour, marker = _look(i)
        low, high = ([100 * point.ci95_top1[k] for point in points] for k in (0, 1))
        axes.fill_between(n, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(n, [100 * point.top1 for point in points], f"{marker}-", color=colour, markersize=4, label=name)
    axes.axhline(100 * scores[0][1].chance_top1, color=CHANCE, linewidth=1.2, linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8)
    label_axes(axes, "repetitions averaged", "top-1, %", "")
    return png_of(figure)


def subject_dots(scores: Sequence[tuple[str, RetrievalScore]]) -> bytes:
    """Top-1 of every subject with its interval, a column per run."""
    figure, axes = new_figure(1, 1, 2.4 + 1.3 * len(scores), 3.8)
    for i, (_, score) in enumerate(scores):
        parts = list(score.per_subject.values())
        at = i + (np.linspace(-0.25, 0.25, len(parts)) if len(parts) > 1 else np.zeros(1))
        colour, marker = _look(i)
        for x, part in zip(at.tolist(), parts, strict=True):
            axes.plot(x, 100 * part.top1, marker, color=colour, markersize=5)
            if part.ci95_top1 is not None:
                axes.plot([x, x], [100 * end for end in part.ci95_top1], color=colour, linewidth=1, alpha=0.6)
        axes.plot([i - 0.32, i + 0.32], [100 * score.top1] * 2, color=INK, linewidth=1.8)
    axes.axhline(100 * scores[0][1].chance_top1, color=CHANCE, linewidth=1.2, linestyle=":")
    axes.set_xticks(range(len(scores)), [name for name, _ in scores], fontsize=8, rotation=0 if len(scores) < 5 else 30)
    axes.set_ylim(0, None)
    label_axes(axes, "", "top-1, %", "")
    return png_of(figure)


def _look(i: int) -> tuple[str, str]:
    return COLOURS[i % len(COLOURS)], MARKERS[(i // len(COLOURS)) % len(MARKERS)]
