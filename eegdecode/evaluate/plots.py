"""Figures of a report as PNG bytes; drawn from plain values, in colours that are told apart without colour vision.

Shape letters: Q query, G gallery, K class, H W image.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eegdecode.evaluate.calibration import Calibration
from eegdecode.evaluate.confusions import Confusion
from eegdecode.evaluate.contrast import ClassScore, ContrastScore
from eegdecode.evaluate.retrieval import RetrievalScore
from eegdecode.evaluate.scaling import Scaling

# Okabe and Ito's palette: blue, vermilion, green, grey.
OURS, BASELINE, CEILING, CHANCE = "#0072B2", "#D55E00", "#009E73", "#8a8f98"
INK, FAINT = "#1c2430", "#d9dde3"
# Comes with matplotlib, so every machine draws the same sheet and names keep their signs (×, °).
FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


@dataclass(frozen=True)
class Curve:
    """Course of one training."""

    fold: str
    steps: Sequence[int]
    loss: Sequence[float]
    val_steps: Sequence[int] = ()
    val_score: Sequence[float] = ()
    kept_step: int | None = None


def training_curves(curves: Sequence[Curve], score_name: str = "validation top-1") -> bytes:
    """Loss per step (a thin line, its running mean thick) and validation score, a line per fold."""
    figure, (left, right) = new_figure(1, 2, 9.0, 3.2)
    for i, curve in enumerate(curves):
        shade = 0.35 + 0.65 * (i + 1) / len(curves)
        if len(curves) <= 3:
            left.plot(curve.steps, curve.loss, color=OURS, alpha=0.2 * shade, linewidth=0.7)
        left.plot(curve.steps, _running_mean(curve.loss), color=OURS, alpha=shade, linewidth=1.4)
        if len(curve.val_steps):
            right.plot(
                curve.val_steps, curve.val_score, color=OURS, alpha=shade, linewidth=1.4, marker=".", markersize=4
            )
            if curve.kept_step in list(curve.val_steps):
                at = list(curve.val_steps).index(curve.kept_step)
                right.plot(curve.kept_step, curve.val_score[at], "o", color=BASELINE, markersize=6, zorder=3)
    label_axes(left, "step", "training loss", "Loss on training trials")
    label_axes(right, "step", score_name, "Validation (vermilion: the step that is kept)")
    return png_of(figure)


def similarity_matrix(scores_QG: NDArray[Any], queries_note: str = "EEG, one row a picture") -> bytes:
    """Scores with row i and column i the same picture: what is decoded is the bright diagonal.

    Each row is shown as the share of candidates it beats, since only the order within a row decides.
    """
    scores_QG = np.asarray(scores_QG)
    order_QG = scores_QG.argsort(axis=1).argsort(axis=1) / max(scores_QG.shape[1] - 1, 1)
    figure, axes = new_figure(1, 1, 4.6, 4.0)
    image = axes.imshow(order_QG**4, cmap="magma", interpolation="nearest", aspect="auto", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, ticks=[q**4 for q in (0.5, 0.8, 0.9, 1.0)], shrink=0.85)
    bar.ax.set_yticklabels(["50 %", "80 %", "90 %", "best"], fontsize=8)
    bar.outline.set_visible(False)
    bar.set_label("candidates this one beats", fontsize=9)
    label_axes(axes, "candidate picture", queries_note, "Similarity of EEG and pictures")
    return png_of(figure)


def retrieval_bars(score: RetrievalScore) -> bytes:
    """Top-1 per subject with interval, the mean, chance and the best possible."""
    names = [*score.per_subject, "mean"]
    values = [*(part.top1 for part in score.per_subject.values()), score.top1]
    intervals = [*(part.ci95_top1 for part in score.per_subject.values()), score.ci95_top1]
    figure, axes = new_figure(1, 1, max(4.2, 0.62 * len(names) + 2.6), 3.4)
    for i, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        axes.bar(i, 100 * value, width=0.62, color=OURS, alpha=1.0 if i == len(names) - 1 else 0.55)
        if interval is not None:
            axes.plot([i, i], [100 * x for x in interval], color=INK, linewidth=1.4)
    _level(axes, 100 * score.chance_top1, f"chance\n{100 * score.chance_top1:.2g} %", CHANCE)
    if score.ideal_observer_top1 is not None:
        _level(
            axes, 100 * score.ideal_observer_top1, f"best possible\n{100 * score.ideal_observer_top1:.0f} %", CEILING
        )
    axes.set_xticks(range(len(names)), names, fontsize=9, rotation=0 if len(names) < 7 else 45)
    label_axes(axes, "", "top-1, %", f"Right one of {score.n_way}")
    axes.set_ylim(0, None)
    return png_of(figure)


def repetition_curve(score: RetrievalScore) -> bytes:
    """Top-1 against repetitions averaged, with interval, chance and the best possible."""
    points = sorted(score.repetition_curve, key=lambda point: point.repetitions)
    n = [point.repetitions for point in points]
    figure, axes = new_figure(1, 1, 4.6, 3.4)
    low, high = ([100 * point.ci95_top1[i] for point in points] for i in (0, 1))
    axes.fill_between(n, low, high, color=OURS, alpha=0.18, linewidth=0)
    axes.plot(n, [100 * point.top1 for point in points], "o-", color=OURS, markersize=4, label="decoder")
    best = [(point.repetitions, 100 * point.ideal_observer_top1) for point in points if point.ideal_observer_top1]
    if best:
        axes.plot(*zip(*best, strict=True), "s--", color=CEILING, markersize=4, linewidth=1.2, label="best possible")
    axes.axhline(100 * score.chance_top1, color=CHANCE, linewidth=1.2, linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(n, [str(i) for i in n])
    axes.minorticks_off()
    axes.set_xlim(min(n) / 1.2, max(n) * 1.2)
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8.5)
    label_axes(axes, "repetitions averaged", "top-1, %", "More looks, better naming")
    return png_of(figure)


def scaling_curve(found: Scaling) -> bytes:
    """Top-1 against training concepts, with interval and chance."""
    n = [point.n_concepts for point in found.points]
    figure, axes = new_figure(1, 1, 4.6, 3.4)
    low, high = ([100 * point.score.ci95_top1[i] for point in found.points] for i in (0, 1))
    axes.fill_between(n, low, high, color=OURS, alpha=0.18, linewidth=0)
    axes.plot(n, [100 * point.score.top1 for point in found.points], "o-", color=OURS, markersize=4, label="decoder")
    axes.axhline(100 * found.points[-1].score.chance_top1, color=CHANCE, linewidth=1.2, linestyle=":", label="chance")
    axes.set_xscale("log", base=2)
    axes.set_xticks(n, [str(i) for i in n])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.legend(frameon=False, fontsize=8.5)
    label_axes(axes, "training concepts", "top-1, %", f"Right one of {found.points[-1].score.n_way}, more data")
    return png_of(figure)


def confusion_sheet(found: Sequence[Confusion], images: Mapping[str, NDArray[np.uint8]]) -> bytes:
    """Draw a column per picture: it, and below what it was taken for; white where it was taken for fewer.

    Parameters
    ----------
    images
        Of every picture that is named, uint8 ``(H, W, 3)``.
    """
    blank = np.full((1, 1, 3), 255, np.uint8)
    rows = {"shown": [images[one.shown] for one in found]}
    for place in range(max(len(one.taken_for) for one in found)):
        label = "taken for" if place == 0 else f"or for ({place + 1})"
        rows[label] = [images[one.taken_for[place][0]] if place < len(one.taken_for) else blank for one in found]
    return contact_sheet(rows, [f"{one.taken_for[0][1]} of {one.n_queries}" for one in found])


def reliability(calibration: Calibration) -> bytes:
    """Accuracy against confidence in bins, after the temperature (filled) and before it (rings)."""
    figure, axes = new_figure(1, 1, 4.6, 3.8)
    axes.plot([0, 100], [0, 100], color=CHANCE, linewidth=1.2, linestyle=":", label="confidence is right")
    for error, name, colour, face in (
        (calibration.uncalibrated, "temperature 1", BASELINE, "none"),
        (calibration.calibrated, "fitted temperature", OURS, OURS),
    ):
        at = [100 * one.confidence for one in error.reliability]
        for x, one in zip(at, error.reliability, strict=True):
            axes.plot([x, x], [100 * end for end in one.ci95_accuracy], color=colour, linewidth=1, alpha=0.5)
        right = [100 * one.accuracy for one in error.reliability]
        axes.plot(at, right, "o", color=colour, markerfacecolor=face, markersize=4.5, label=name)
    axes.axhline(100 * calibration.calibrated.chance, color=FAINT, linewidth=1.2)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    label_axes(axes, "confidence, %", "right, %", f"Sure and right, {calibration.coverage.n_way} candidates")
    return png_of(figure)


def fold_dots(contrast: ContrastScore) -> bytes:
    """AUC of every fold: ours, the baseline and the control, each with its mean, over the chance line."""
    columns: list[tuple[str, dict[str, float], tuple[float, float] | None, str]] = [
        ("decoder", contrast.per_fold, contrast.ci95, OURS)
    ]
    if contrast.baseline_per_fold:
        columns.append((contrast.baseline_name or "", contrast.baseline_per_fold, contrast.baseline_ci95, BASELINE))
    if contrast.control_per_fold:
        columns.append((contrast.control_name or "", contrast.control_per_fold, contrast.control_ci95, CHANCE))
    figure, axes = new_figure(1, 1, 2.2 + 1.5 * len(columns), 3.6)
    for i, (_, per_fold, interval, colour) in enumerate(columns):
        values = list(per_fold.values())
        spread = np.linspace(-0.14, 0.14, len(values)) if len(values) > 1 else np.zeros(1)
        axes.scatter(i + spread, values, s=26, color=colour, alpha=0.6, linewidths=0)
        axes.plot([i - 0.24, i + 0.24], [np.mean(values)] * 2, color=INK, linewidth=2)
        if interval is not None:
            axes.plot([i + 0.3, i + 0.3], interval, color=INK, linewidth=1.2)
    axes.axhline(contrast.chance, color=CHANCE, linewidth=1.2, linestyle=":")
    axes.text(-0.48, contrast.chance, "chance", fontsize=8, color=CHANCE, va="bottom", ha="left")
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xticks(range(len(columns)), [name.replace(" before", "\nbefore") for name, *_ in columns], fontsize=9)
    label_axes(axes, "", "ROC AUC", f"{contrast.labels[1]} against {contrast.labels[0]}, a dot per fold")
    return png_of(figure)


def confusion(score: ClassScore) -> bytes:
    """Share of each class shown (rows) that was named as each class (columns)."""
    counts_KK = np.array(score.confusion, np.float64)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    side = 1.8 + 0.42 * score.n_way
    figure, axes = new_figure(1, 1, side + 0.6, side)
    axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=max(float(share_KK.max()), 1e-9))
    for row, column in np.ndindex(share_KK.shape):
        dark = share_KK[row, column] > 0.6 * share_KK.max()
        text = f"{100 * share_KK[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    axes.set_xticks(range(score.n_way), score.classes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(score.n_way), score.classes, fontsize=8)
    label_axes(axes, "named", "shown", "% of trials of a class")
    return png_of(figure)


def contact_sheet(rows: Mapping[str, Sequence[NDArray[np.uint8]]], titles: Sequence[str], cell_px: int = 96) -> bytes:
    """Pictures in a grid: a row per origin (shown, drawn from EEG, anchors), a column per test picture.

    Parameters
    ----------
    rows
        Row label to uint8 images ``(H, W, 3)``, in the order of `titles`.
    titles
        One short title per column.

    Raises
    ------
    ValueError
        A row with another number of pictures than titles.
    """
    gap, left, top = 6, 196, 26
    width = left + len(titles) * (cell_px + gap) + gap
    height = top + len(rows) * (cell_px + gap) + gap
    sheet = Image.new("RGB", (width, height), "white")
    pen, font, small = ImageDraw.Draw(sheet), ImageFont.truetype(FONT, 13), ImageFont.truetype(FONT, 10)
    for column, title in enumerate(titles):
        x = left + column * (cell_px + gap)
        while title and pen.textlength(title, font=small) > cell_px:
            title = title[:-2] + "…" if len(title) > 2 else ""
        pen.text((x + cell_px / 2, top - 8), title, fill="#5b6472", font=small, anchor="ms")
    for r, (label, images) in enumerate(rows.items()):
        if len(images) != len(titles):
            raise ValueError(f"row '{label}' must have one picture per title, got {len(images)} for {len(titles)}.")
        y = top + r * (cell_px + gap)
        pen.text((left - 14, y + cell_px / 2), label, fill=INK, font=font, anchor="rm")
        for column, image in enumerate(images):
            # Enlarged pictures keep their pixels, so that nobody takes interpolation for detail.
            method = Image.Resampling.NEAREST if image.shape[0] <= cell_px else Image.Resampling.LANCZOS
            picture = Image.fromarray(np.asarray(image, np.uint8)).resize((cell_px, cell_px), method)
            sheet.paste(picture, (left + column * (cell_px + gap), y))
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def new_figure(rows: int, columns: int, width_in: float, height_in: float) -> tuple[Figure, Any]:
    """Return a white figure and its axes, drawn without a display."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def label_axes(axes: Any, x: str, y: str, title: str) -> None:
    """Name both axes and the plot, in the look of the report."""
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", pad=8)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK, length=3, color=FAINT)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)


def _level(axes: Any, value: float, text: str, colour: str) -> None:
    axes.axhline(value, color=colour, linewidth=1.3, linestyle="--")
    place = axes.get_yaxis_transform()
    axes.text(1.02, value, text, fontsize=8.5, color=colour, va="center", ha="left", transform=place)


def _running_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Mean of up to 15 values on either side; the ends use what there is."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    at = np.arange(len(values))
    first, last = np.maximum(at - 15, 0), np.minimum(at + 16, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    # No software or date in the file: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
