"""The page of a report: plain words, formats and the template. Takes plain values only, fetches nothing when opened."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined

from eegdecode.config import Protocol
from eegdecode.evaluate.template import TEMPLATE
from eegdecode.wording import SPLIT, gallery_words, learnt_words

FIGURES: dict[str, str] = {
    "retrieval_bars": "Top-1 per subject with 95 % interval. Dashed: chance and the best possible.",
    "repetition_curve": "EEG averaged over that many repetitions before the decoder. Band: 95 % interval.",
    "similarity": "Each row is one query; colour is the share of candidates that a candidate beats in that row.",
    "confusions": "A column a picture: shown above, below what it was taken for, most often first. Counts: see table.",
    "scaling": "The recipe trained anew on shares of the training concepts, each in the next. Band: 95 % interval.",
    "reliability": "Test queries in bins of equal mass: how sure it was, how often it was right. Lines: 95 % interval.",
    "contrast": "One dot a fold, bar its mean, line at the right the 95 % interval, dotted chance.",
    "contrast_2": "The same for the second contrast or split.",
    "contrast_3": "The same for the third contrast or split.",
    "confusion": "Rows are what was shown, columns what was named.",
    "contact_sheet": "Pictures shown, drawn from EEG alone, and from the anchors. None was picked by hand.",
    "training": "Training loss and validation score. Test trials are not in this figure.",
    "drawer_training": "Training of the diffusion model that draws; training pictures only.",
}
"""Figure name to caption, in the order of the page."""


def render(report: Mapping[str, Any], concerns: Sequence[str], figures: Mapping[str, bytes]) -> str:
    """Return the HTML page of a report given as plain values."""
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "p": p_value, "auc": auc_interval}
    images = {name: "data:image/png;base64," + base64.b64encode(png).decode("ascii") for name, png in figures.items()}
    return environment.from_string(TEMPLATE).render(
        r=report,
        headline=headline(report),
        protocol=protocol_line(report),
        protocol_single=protocol_line(report, averaged=False),
        concerns=concerns,
        images=images,
        captions=FIGURES,
    )


def headline(report: Mapping[str, Any]) -> str:
    """Return the main result in one or two plain sentences, always with chance and interval."""
    if report["retrieval"]:
        score = report["retrieval"]
        what = "pictures" if report["protocol"]["gallery"] == "picture" else "concepts"
        text = (
            f"Of {score['n_way']} {what} it names the right one in {percent(score['top1'])} of cases "
            f"(95 % interval {interval(score['ci95_top1'])}); chance {percent(score['chance_top1'])}"
        )
        if score["ideal_observer_top1"] is not None:
            text += f"; the best possible on these trials {percent(score['ideal_observer_top1'])}"
        return text + "." + near_chance(score["ci95_top1"][0], score["chance_top1"], score["p_permutation"])
    if report["contrast"]:
        score = report["contrast"]
        text = (
            f"From single trials it tells {score['labels'][1]} from {score['labels'][0]} with ROC AUC "
            f"{score['auc']:.3f} ± {score['sd']:.3f} (95 % interval {auc_interval(score['ci95'])}); "
            f"chance {score['chance']:.1f}"
        )
        if score["baseline_auc"] is not None:
            text += f"; {score['baseline_name']} {score['baseline_auc']:.3f} ± {score['baseline_sd']:.3f}"
        return text + "." + near_chance(score["ci95"][0], score["chance"], score["p_permutation"])
    if report["classes"]:
        score = report["classes"]
        text = (
            f"It names the right one of {score['n_way']} classes in {percent(score['accuracy'])} of single trials "
            f"(95 % interval {interval(score['ci95'])}); chance {percent(score['chance'])}."
        )
        return text + near_chance(score["ci95"][0], score["chance"], score["p_permutation"])
    return "Nothing has been scored yet."


def near_chance(low: float, chance: float, p: float) -> str:
    """Return the sentence that says a score can not be told from chance, or nothing."""
    if low > chance and p <= 0.05:
        return ""
    return f" This can not be told from chance (permutation p {p_value(p)})."


def protocol_line(report: Mapping[str, Any], averaged: bool = True) -> str:
    """Return the protocol in plain words; it stands beside every score.

    Parameters
    ----------
    averaged
        Whether the score is of averaged repetitions; categories are told apart from single trials.
    """
    protocol = Protocol.model_validate(report["protocol"])
    kept = "step kept by validation score" if protocol.selection == "validation" else "last step kept"
    parts = [
        SPLIT[protocol.split_by],
        *learnt_words(protocol),
        f"{kept}, never by a test score",
        "inductive: no statistic of the test set is used",
    ]
    if averaged and (report["retrieval"] or report["reconstruction"]):
        looks = {0: "all repetitions of a picture averaged", 1: "single trials"}.get(
            protocol.test_repetitions, f"{protocol.test_repetitions} repetitions averaged"
        )
        score = report["retrieval"] or {"n_shown": 0, "n_candidates": 0}
        gallery = gallery_words(protocol, score["n_shown"], score["n_candidates"])
        parts.insert(1, f"{looks} before the decoder, ranked: {gallery}")
    return " · ".join([*parts, f"{report['data']['source']['design']} design"])


def percent(value: float | None) -> str:
    """Return a share as per cent with as many digits as it can bear."""
    if value is None:
        return "–"
    if value >= 0.9995:
        return "100 %"
    return f"{100 * value:.2g} %" if value < 0.01 else f"{100 * value:.1f} %"


def interval(pair: Sequence[float] | None) -> str:
    """Return an interval of shares."""
    return "–" if pair is None else f"{100 * pair[0]:.1f}–{100 * pair[1]:.1f} %"


def auc_interval(pair: Sequence[float] | None) -> str:
    """Return an interval of scores between 0 and 1."""
    return "–" if pair is None else f"{pair[0]:.3f}–{pair[1]:.3f}"


def p_value(p: float | None) -> str:
    """Return a permutation p, never as 0."""
    if p is None:
        return "–"
    return f"{p:.4f}" if p < 0.001 else f"{p:.3f}"
