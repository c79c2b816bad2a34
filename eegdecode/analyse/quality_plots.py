"""Figures of the quality page as PNG bytes, narrow enough to be read on a phone.

Shape letters: C chan, T time, R region.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import mne
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eegdecode.analyse.quality import Example, SetSummary
from eegdecode.analyse.regions import OTHER, region_of
from eegdecode.analyse.reliability import Reliability

F64 = npt.NDArray[np.float64]

# Okabe and Ito's palette: told apart without colour vision.
RESPONSE, NOISE = "#0072B2", "#D55E00"
INK, SOFT, FAINT = "#1c2430", "#5b6472", "#d9dde3"
WIDTH_IN = 4.8
MONTAGE = "colin27_1005"
"""MNE-Python's template positions of the 10-05 system (called standard_1005 before MNE 1.13)."""
MIN_PLACED = 8
"""Between fewer electrodes a map would show the interpolation, not the head."""
FEW = 8
"""So many electrodes are all drawn in one plot of a single response."""
_SWATCH = {"frontal": "#E69F00", "central": "#999999", "temporal": "#CC79A7", "parietal": "#56B4E9"}
_SWATCH |= {"occipital": "#0072B2", OTHER: "#5b6472"}


def region_responses(summary: SetSummary, unit: str) -> bytes:
    """Mean response of each region with its 95 % interval over trials, one panel a region, one scale."""
    rows = summary.region_rows
    mean_RT, half_RT = summary.regions.mean, summary.regions.half_interval
    titles = [f"{region}, {counted(len(electrodes), 'electrode')}" for region, electrodes in rows.items()]
    curves = [(mean_T, mean_T - half_T, mean_T + half_T) for mean_T, half_T in zip(mean_RT, half_RT, strict=True)]
    return _stacked(summary.times_s, titles, curves, unit)


def field_power(summary: SetSummary, unit: str) -> bytes:
    """Global field power of the mean response and of the plus-minus average."""
    figure, axes = _figure(1, 2.7)
    times_s = summary.times_s
    axes.plot(times_s, summary.field_power_T, color=RESPONSE, linewidth=1.6, label="mean response")
    axes.plot(times_s, summary.noise_field_power_T, color=NOISE, linewidth=1.2, linestyle="--", label="noise alone")
    axes.set_ylim(0, None)
    _onset(axes, times_s)
    axes.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    _label(axes, "time from picture onset, s", f"field power, {unit}")
    return _png(figure)


def placed(channels: Sequence[str]) -> dict[int, str]:
    """Return the electrodes that go on a map of the head: row to the name that the montage gives the place.

    Upper and lower case are alike. Empty where fewer than `MIN_PLACED` have a place.
    """
    known = {name.lower(): name for name in mne.channels.make_standard_montage(MONTAGE).ch_names}
    found = {
        row: known[name.strip().lower()]
        for row, (name, region) in enumerate(zip(channels, region_of(channels), strict=True))
        if region != OTHER and name.strip().lower() in known
    }
    return found if len(found) >= MIN_PLACED else {}


def noise_map(noise_C: F64, places: Mapping[int, str], unit: str) -> bytes:
    """Noise of the electrodes that have a place, over the head seen from above."""
    info = mne.create_info(list(places.values()), 1.0, "eeg")
    info.set_montage(mne.channels.make_standard_montage(MONTAGE))
    figure, axes = _figure(1, 3.6)
    values_C = noise_C[list(places)]
    image, _ = mne.viz.plot_topomap(
        values_C,
        info,
        axes=axes,
        show=False,
        cmap="viridis",
        contours=0,
        vlim=(float(values_C.min()), float(values_C.max())),
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.75)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, colors=INK, length=3, color=FAINT)
    bar.set_label(f"noise of a trial, {unit}", fontsize=9, color=INK)
    axes.set_title("nose up", fontsize=8.5, color=SOFT, pad=2)
    return _png(figure)


def noise_bars(noise_C: F64, channels: Sequence[str], rows: Sequence[int], unit: str) -> bytes:
    """Noise of the electrodes in `rows`, a bar each."""
    figure, axes = _figure(1, 0.75 + 0.19 * len(rows))
    axes.barh(range(len(rows)), noise_C[list(rows)], height=0.65, color=RESPONSE)
    axes.set_yticks(range(len(rows)), [channels[row] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _label(axes, f"noise of a trial, {unit}", "")
    axes.tick_params(axis="y", labelsize=8 if len(rows) <= 70 else 7)
    return _png(figure)


def region_reliability(found: Reliability, times_s: F64, n_electrodes: Mapping[str, int]) -> bytes:
    """Split-half reliability of each region with its 95 % interval, over the line of chance."""
    titles = [
        f"{region}, {counted(n_electrodes[region], 'electrode')}" if region in n_electrodes else region
        for region in found.regions
    ]
    curves = list(zip(found.curve_RT, found.low_RT, found.high_RT, strict=True))
    return _stacked(times_s, titles, curves, "reliability", zero="dotted: 0, chance")


def electrode_reliability(found: Reliability, times_s: F64, channels: Sequence[str]) -> bytes:
    """Split-half reliability of each electrode and time, electrodes front to back; white is chance."""
    region_C = region_of(channels)
    order = sorted(range(len(channels)), key=lambda row: (list(_SWATCH).index(region_C[row]), row))
    n = len(order)
    figure, axes = _figure(1, float(np.clip(1.1 + 0.125 * n, 2.2, 11.0)))
    step_s = times_s[1] - times_s[0] if len(times_s) > 1 else 1.0
    largest = max(float(np.abs(found.value_CT).max()), found.limit)
    image = axes.imshow(
        found.value_CT[order],
        cmap="RdBu_r",
        vmin=-largest,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
        extent=(times_s[0] - step_s / 2, times_s[-1] + step_s / 2, n - 0.5, -0.5),
    )
    edges = [i for i in range(1, n) if region_C[order[i]] != region_C[order[i - 1]]]
    for edge in edges:
        axes.axhline(edge - 0.5, color=INK, linewidth=0.6)
    starts, place = [0, *edges], axes.get_yaxis_transform()
    for start, end in zip(starts, [*edges, n], strict=True):
        if end - start > 2:
            middle = (start + end - 1) / 2
            name = region_C[order[start]]
            axes.text(1.02, middle, name, rotation=90, fontsize=8, color=SOFT, va="center", ha="left", transform=place)
    _onset(axes, times_s, INK)
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.8, aspect=30, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8.5, colors=INK, length=3, color=FAINT)
    bar.set_label("split-half reliability (white: 0, chance)", fontsize=9, color=INK)
    _label(axes, "time from picture onset, s", "")
    every = 1 if n <= 70 else 2
    axes.set_yticks(range(0, n, every), [channels[row] for row in order[::every]])
    axes.tick_params(axis="y", labelsize=8 if n <= 20 else 6.5, length=0)
    return _png(figure)


def shown_electrodes(channels: Sequence[str]) -> list[int]:
    """Return the electrodes that a single response is drawn of: occipital and parietal ones, or all where few."""
    back = [row for row, region in enumerate(region_of(channels)) if region in ("occipital", "parietal")]
    return back if back and len(channels) > FEW else list(range(len(channels)))


def butterfly(example: Example, times_s: F64, channels: Sequence[str], limit: float, unit: str) -> bytes:
    """Mean response to one picture, a line an electrode; up to eight lines are named.

    Parameters
    ----------
    limit
        End of the scale, up and down; the same for all pictures.
    """
    rows = shown_electrodes(channels)
    figure, axes = _figure(1, 2.0, width_in=3.9)
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
    named = len(rows) <= len(colours)
    for i, row in enumerate(rows):
        style = {"color": colours[i], "label": channels[row]} if named else {"color": RESPONSE, "alpha": 0.5}
        axes.plot(times_s, example.mean_CT[row], linewidth=1.1 if named else 0.8, **style)
    axes.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_ylim(-limit, limit)
    _onset(axes, times_s)
    if named:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2)
    _label(axes, "time from picture onset, s", f"response, {unit}")
    return _png(figure)


def counted(n: int, thing: str) -> str:
    """Return a number and what it counts, in the plural where that is due."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _stacked(
    times_s: F64, titles: Sequence[str], curves: Sequence[tuple[F64, F64, F64]], y: str, zero: str = ""
) -> bytes:
    figure, panels = _figure(len(titles), 0.55 + 1.05 * len(titles))
    low, high = min(low_T.min() for _, low_T, _ in curves), max(high_T.max() for _, _, high_T in curves)
    margin = 0.08 * (high - low)
    for i, (axes, title, (value_T, low_T, high_T)) in enumerate(
        zip(np.atleast_1d(panels), titles, curves, strict=True)
    ):
        axes.axhline(0, color=SOFT if zero else FAINT, linewidth=1, linestyle=":" if zero else "-", zorder=0)
        axes.fill_between(times_s, low_T, high_T, color=RESPONSE, alpha=0.22, linewidth=0)
        axes.plot(times_s, value_T, color=RESPONSE, linewidth=1.4)
        axes.set_ylim(min(low, 0) - margin, max(high, 0) + margin)
        last = i == len(titles) - 1
        _onset(axes, times_s)
        _label(axes, "time from picture onset, s" if last else "", "")
        axes.set_title(title, fontsize=9, color=INK, loc="left", pad=2)
        if not last:
            axes.tick_params(labelbottom=False)
        if zero and i == 0:
            axes.set_title(zero, fontsize=8.5, color=SOFT, loc="right", pad=2)
    figure.supylabel(y, fontsize=9, color=INK)
    return _png(figure)


def _onset(axes: Any, times_s: F64, colour: str = SOFT) -> None:
    if times_s[0] < 0 < times_s[-1]:
        axes.axvline(0, color=colour, linewidth=0.8, linestyle="--", zorder=1)
    axes.set_xlim(times_s[0], times_s[-1] if len(times_s) > 1 else times_s[0] + 1)


def _label(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK, length=3, color=FAINT)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(FAINT)


def _figure(rows: int, height_in: float, width_in: float = WIDTH_IN) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, 1)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # No software or date in the file: the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    return buffer.getvalue()
