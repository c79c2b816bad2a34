"""The quality page of a shard set: plain words around the numbers and figures, in one HTML file that fetches nothing.

Shape letters: C chan.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import BaseLoader, Environment, StrictUndefined
from PIL import Image

from eegdecode.analyse import quality_plots as plots
from eegdecode.analyse.quality import Example, SetSummary, drop_kinds
from eegdecode.analyse.quality_plots import counted
from eegdecode.analyse.quality_template import TEMPLATE
from eegdecode.analyse.regions import region_of
from eegdecode.analyse.reliability import ALL, MIN_PICTURES
from eegdecode.batch import Dropped, SourceFact

UNITS = {"uV": "µV", "whitened": "whitened units", "scaled": "scaled units"}
THUMBNAIL_PX = 192
MANY_DROPPED = 0.1
NOISY = 3.0
"""An electrode with so many times the median noise is named at the top."""
_MOST_REPETITION_ROWS = 8
_PARTS = ("train", "val", "test")


def write_quality(
    summary: SetSummary,
    *,
    source: SourceFact,
    dropped: Sequence[Dropped],
    findings: Sequence[str],
    folds: Mapping[str, Mapping[str, int]],
    pictures: Sequence[tuple[Example, Image.Image]],
) -> str:
    """Return the page.

    Parameters
    ----------
    folds
        Fold to part (``train``, ``val``, ``test``) to number of trials.
    pictures
        Of `SetSummary.examples`, each with its image.
    """
    facts, unit = summary.facts(), UNITS[summary.unit]
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"number": _number, "digits": _digits, "fixed": _fixed}
    names_of_region = [(r, " ".join(summary.channels[i] for i in rows)) for r, rows in summary.region_rows.items()]
    return environment.from_string(TEMPLATE).render(
        source=source.model_dump(),
        headline=_headline(facts, len(dropped), source.truth),
        cut=_cut_line(facts, len(summary.channels), unit),
        concerns=concerns(summary, source, dropped),
        cards=_cards(facts, len(dropped)),
        spreads=[
            ("trials of a recording", facts["trials_per_recording"]),
            ("trials of a concept", facts["trials_per_concept"]),
            ("repetitions of a picture, to one subject", facts["repetitions_per_picture"]),
        ],
        repetitions=_repetitions(summary),
        folds=folds,
        parts=_parts(folds),
        recordings=_recordings(summary, dropped),
        n_dropped=len(dropped),
        kinds=drop_kinds(dropped, summary.channels),
        figures=_figures(summary, unit),
        unit=unit,
        noise_note=_noise_note(summary),
        noisiest=_noisiest(summary),
        median_noise=float(np.median(summary.noise_C)),
        reliability=_reliability_rows(facts),
        reliability_note=_reliability_note(summary, source),
        examples=_examples(summary, pictures, unit),
        examples_note=_examples_note(summary),
        electrodes=names_of_region,
        findings=findings,
    )


def concerns(summary: SetSummary, source: SourceFact, dropped: Sequence[Dropped]) -> list[str]:
    """Return what must be known before a score on these trials is believed, in plain sentences."""
    found = []
    if source.design == "block":
        found.append(
            "Block design: pictures of one class were shown together. A decoder can tell the classes by slow drifts of "
            "the EEG, without any response to the pictures. Scores on these data need the block controls; without them "
            "they say nothing about what was seen. The reliability below counts such drifts too."
        )
    if source.truth == "class":
        found.append(
            "Only the class of the picture is known, not which picture of the class was shown. Where this page says "
            "picture it means class, and which picture was seen can not be scored."
        )
    share = len(dropped) / (len(dropped) + summary.electrodes.n)
    if share > MANY_DROPPED:
        found.append(f"{100 * share:.0f} % of the trials were left out; the reasons are below.")
    empty = [recording for recording, n in summary.n_of_recording.items() if n == 0]
    if empty:
        found.append(f"No trial is left of {counted(len(empty), 'recording')}: {', '.join(empty)}.")
    noise_C = summary.noise_C
    loud = [summary.channels[row] for row in np.flatnonzero(noise_C > NOISY * np.median(noise_C))]
    if loud:
        found.append(f"{', '.join(loud)}: more than {NOISY:g} times the median noise of the electrodes.")
    reliability = summary.reliability
    if reliability is not None and (reliability.window_low_R <= 0).all():
        found.append(
            "In no region does the response of single electrodes to a picture repeat beyond chance "
            f"({_window(*reliability.window_s)}): what can be decoded lies in electrodes taken together, or is not "
            "there."
        )
    return found


def _headline(facts: Mapping[str, Any], n_dropped: int, truth: str) -> str:
    n = facts["n_pictures"]
    shown = counted(n, "picture") if truth == "picture" else f"{n:,} class{'' if n == 1 else 'es'} of pictures"
    kept = f"{counted(facts['n_trials'], 'trial')} of {shown} from {counted(facts['n_subjects'], 'subject')}"
    if not n_dropped:
        return f"{kept}; none was left out."
    return f"{kept}; {n_dropped:,} more ({_percent(n_dropped, facts['n_trials'])} %) were left out."


def _cut_line(facts: Mapping[str, Any], n_chans: int, unit: str) -> str:
    end_s = facts["tmin_s"] + (facts["n_times"] - 1) / facts["sfreq_hz"]
    return (
        f"{counted(n_chans, 'electrode')}, {_window(facts['tmin_s'], end_s)} from the onset of a picture at "
        f"{facts['sfreq_hz']:g} Hz, {unit}. Intervals hold for these subjects."
    )


def _cards(facts: Mapping[str, Any], n_dropped: int) -> list[dict[str, Any]]:
    cards = [
        {"what": "trials", "value": _number(facts["n_trials"]), "lines": [counted(facts["n_recordings"], "recording")]},
        {
            "what": "left out",
            "value": f"{_percent(n_dropped, facts['n_trials'])} %",
            "lines": [counted(n_dropped, "trial")],
        },
        {
            "what": "repetitions",
            "value": _number(facts["repetitions_per_picture"]["median"]),
            "lines": ["of a picture to one subject", f"median; up to {facts['repetitions_per_picture']['max']:,}"],
        },
    ]
    if facts["reliability"] is not None:
        window_s = facts["reliability"]["window_s"]
        region, best = max(facts["reliability"]["regions"].items(), key=lambda item: item[1]["value"])
        cards.append(
            {
                "what": f"reliability, {region}",
                "value": _fixed(best["value"], 2),
                "lines": [
                    f"95 % interval {_fixed(best['ci95'][0], 2)} to {_fixed(best['ci95'][1], 2)}",
                    f"chance 0; {_window(*window_s)}",
                ],
            }
        )
    peak, unit = facts["field_power_peak"], UNITS[facts["unit"]]
    cards.append(
        {
            "what": "largest field power",
            "value": f"{_digits(peak['value'])} {unit}" if facts["unit"] == "uV" else _digits(peak["value"]),
            "lines": [f"at {peak['time_s']:.3g} s", f"noise alone {_digits(peak['noise'])} {unit}"],
        }
    )
    return cards


def _repetitions(summary: SetSummary) -> list[tuple[int, int]]:
    rows = list(summary.repetitions.items())
    return rows if 1 < len(rows) <= _MOST_REPETITION_ROWS else []


def _parts(folds: Mapping[str, Mapping[str, int]]) -> list[str]:
    named = {part for counts in folds.values() for part in counts}
    return [part for part in _PARTS if part in named] + sorted(named - set(_PARTS))


def _recordings(summary: SetSummary, dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    lost = Counter(drop.recording for drop in dropped)
    rows = []
    for recording in [*summary.n_of_recording, *sorted(set(lost) - set(summary.n_of_recording))]:
        n = summary.n_of_recording.get(recording, 0)
        subject = summary.subject_of.get(recording, "–")
        percent = _percent(lost[recording], n)
        rows.append(
            {"recording": recording, "subject": subject, "n": n, "dropped": lost[recording], "percent": percent}
        )
    return rows


def _figures(summary: SetSummary, unit: str) -> dict[str, dict[str, str]]:
    times_s, channels, noise_C = summary.times_s, summary.channels, summary.noise_C
    mean_RT, regions = summary.regions.mean, list(summary.region_rows)
    row, column = np.unravel_index(np.abs(mean_RT).argmax(), mean_RT.shape)
    response_T, alone_T = summary.field_power_T, summary.noise_field_power_T
    top = int(response_T.argmax())
    made = {
        "responses": (
            plots.region_responses(summary, f"mean response, {unit}"),
            f"Mean response of {', '.join(regions)} electrodes against time. Largest: {regions[row]}, "
            f"{_digits(float(mean_RT[row, column]))} {unit} at {times_s[column]:.3g} s.",
            "Mean over the electrodes of a region and all trials; band: 95 % interval over trials."
            + (" Dashed: onset of the picture." if summary.baseline_T.any() else ""),
        ),
        "field_power": (
            plots.field_power(summary, unit),
            f"Global field power against time. Largest {_digits(float(response_T[top]))} {unit} at "
            f"{times_s[top]:.3g} s, where noise alone has {_digits(float(alone_T[top]))} {unit}.",
            "Global field power: standard deviation over electrodes of the average-referenced mean response. Noise "
            "alone: the same of the plus-minus average, in which every other trial counts negative and the response "
            "cancels." + (" Of so few electrodes it says little." if len(channels) < plots.MIN_PLACED else ""),
        ),
    }
    places = plots.placed(channels)
    rest = [i for i in range(len(channels)) if i not in places]
    if places:
        values_C = noise_C[list(places)]
        made["noise_map"] = (
            plots.noise_map(noise_C, places, unit),
            f"Map of the head with the noise of {len(places)} electrodes, {_digits(float(values_C.min()))} to "
            f"{_digits(float(values_C.max()))} {unit}.",
            "Electrodes at their template places, interpolated between them.",
        )
    if rest:
        made["noise_bars"] = (
            plots.noise_bars(noise_C, channels, rest, unit),
            "Noise of each electrode: "
            + ", ".join(f"{channels[i]} {_digits(float(noise_C[i]))}" for i in rest)
            + f" {unit}.",
            "Electrodes whose place on the head is not known by name."
            if places
            else "A bar an electrode: too few have a known place for a map of the head.",
        )
    found = summary.reliability
    if found is not None:
        best = int(found.window_R.argmax())
        in_words = (
            f"Over {_window(*found.window_s)} largest in {found.regions[best]}: "
            f"{_fixed(found.window_R[best], 2)}. Chance is 0."
        )
        n_electrodes = {region: len(rows) for region, rows in summary.region_rows.items()}
        n_electrodes[ALL] = len(channels)
        made["region_reliability"] = (
            plots.region_reliability(found, times_s, n_electrodes),
            f"Split-half reliability of {', '.join(found.regions)} against time. {in_words}",
            "Mean over the electrodes of a region; band: 95 % interval over pictures. Dotted: chance, 0.",
        )
        made["electrode_reliability"] = (
            plots.electrode_reliability(found, times_s, channels),
            f"Split-half reliability of each electrode and time as colours. {in_words}",
            f"A single electrode and time reaches ±{found.limit:.2f} by chance in 5 of 100 cases.",
        )
    return {
        name: {"image": _png_uri(png), "alt": alt, "caption": caption} for name, (png, alt, caption) in made.items()
    }


def _noise_note(summary: SetSummary) -> str:
    if summary.noise_from == "baseline":
        before_s = summary.times_s[summary.baseline_T]
        return (
            f"Standard deviation over trials before the picture ({_window(before_s[0], before_s[-1])}), root mean "
            "square over those times: what a single trial has without a response."
        )
    return (
        "The trials begin with the picture, so the noise is that of the plus-minus average (every other trial counts "
        "negative and the response cancels), scaled to a single trial; root mean square over time."
    )


def _noisiest(summary: SetSummary) -> list[dict[str, Any]]:
    noise_C, region_C = summary.noise_C, region_of(summary.channels)
    median = float(np.median(noise_C))
    return [
        {
            "name": summary.channels[row],
            "region": region_C[row],
            "value": float(noise_C[row]),
            "ratio": float(noise_C[row]) / median if median > 0 else float("nan"),
        }
        for row in np.argsort(-noise_C, kind="stable")[:5]
    ]


def _reliability_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    if facts["reliability"] is None:
        return []
    return [
        {"region": region, "value": value["value"], "low": value["ci95"][0], "high": value["ci95"][1]}
        for region, value in facts["reliability"]["regions"].items()
    ]


def _reliability_note(summary: SetSummary, source: SourceFact) -> str:
    found = summary.reliability
    if found is None:
        most = max((int((h.count_P2.min(axis=1) > 0).sum()) for h in summary.halves.values() if h.pictures), default=0)
        what = "pictures" if source.truth == "picture" else "classes"
        return (
            f"Not computed: it is a correlation over {what} that one subject saw at least twice, and needs "
            f"{MIN_PICTURES} of them; here there are at most {most}."
        )
    times = _range(found.repetitions)
    n_subjects = len(set(summary.subject_of.values()))
    whom = (
        counted(n_subjects, "subject")
        if len(found.pictures_of) == n_subjects
        else f"{len(found.pictures_of)} of "
        f"{n_subjects} subjects (the others saw fewer than {MIN_PICTURES} pictures twice)"
    )
    return (
        f"Correlation, over {_range(found.pictures_of.values())} pictures, of the mean response to odd with that to "
        f"even repetitions, at each electrode and time and within a subject; averaged over {whom}, electrodes and "
        f"times, then corrected to all repetitions (Spearman-Brown), here {times}. Table: {_window(*found.window_s)}. "
        "Chance is 0; 1 would be a response without noise."
    )


def _examples(summary: SetSummary, pictures: Sequence[tuple[Example, Image.Image]], unit: str) -> list[dict[str, Any]]:
    rows = plots.shown_electrodes(summary.channels)
    limit = 1.05 * max((float(np.abs(example.mean_CT[rows]).max()) for example, _ in pictures), default=1.0)
    made = []
    for example, image in pictures:
        thumbnail = image.convert("RGB")
        thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        buffer = io.BytesIO()
        thumbnail.save(buffer, format="PNG", optimize=True)
        largest = float(np.abs(example.mean_CT[rows]).max())
        made.append(
            {
                "picture": example.picture,
                "concept": example.concept,
                "n": example.n_trials,
                "image": _png_uri(buffer.getvalue()),
                "small": max(image.size) < THUMBNAIL_PX // 2,
                "plot": _png_uri(plots.butterfly(example, summary.times_s, summary.channels, limit or 1.0, unit)),
                "alt": f"Mean response to {example.picture} of {counted(len(rows), 'electrode')} against time; "
                f"largest {_digits(largest)} {unit}.",
            }
        )
    return made


def _examples_note(summary: SetSummary) -> str:
    rows = plots.shown_electrodes(summary.channels)
    if len(rows) == len(summary.channels):
        which = "all electrodes"
    else:
        which = f"the {len(rows)} occipital and parietal electrodes"
    return (
        "Those with most trials, in the order of their names; none was picked by hand. A line an electrode "
        f"({which}), mean over all trials of all subjects, one scale for all pictures."
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _range(counts: Iterable[int]) -> str:
    found = sorted(counts)
    return f"{found[0]:,}" if found[0] == found[-1] else f"{found[0]:,} to {found[-1]:,}"


def _digits(value: float) -> str:
    """Return a measured value with three digits that count, never in powers of ten where it need not."""
    size = abs(value)
    text = f"{value:.0f}" if size >= 100 else f"{value:.3g}" if size >= 1e-3 or size == 0 else f"{value:.2e}"
    return text.replace("-", "−")


def _fixed(value: float, places: int) -> str:
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _window(start_s: float, end_s: float) -> str:
    start, end = (f"{round(float(x), 3):g}".replace("-", "−") for x in (start_s, end_s))
    return f"{start} to {end} s"


def _percent(n_dropped: int, n_kept: int) -> str:
    if not n_dropped:
        return "0"
    share = 100 * n_dropped / (n_dropped + n_kept)
    return f"{share:.1f}" if share < 99.95 else "100"


def _png_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
