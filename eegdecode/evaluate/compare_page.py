"""The page that compares runs: one file, fetches nothing when opened."""

# ruff: noqa: E501 (markup is read by its nesting, not by its line length)

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined

from eegdecode.evaluate import compare_plots
from eegdecode.evaluate.page import interval, p_value, percent
from eegdecode.evaluate.retrieval import RetrievalScore
from eegdecode.evaluate.template import STYLE

TEMPLATE = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>eegdecode: comparison</title><style>"""
    + STYLE
    + """</style></head><body><main>
<p class="eyebrow">eegdecode · comparison · {{ c.source.name }}</p>
<h1>{{ headline }}</h1>
<p class="note">All runs answer one question: the same test trials, candidates and protocol, or this page would not exist.
{{ c.runs[0].score.n_way }}-way, {{ c.runs[0].score.n_queries }} queries of {{ c.runs[0].score.n_subjects }} subjects, {{ '%.3g'|format(c.runs[0].score.repetitions) }}
repetitions in a query on average, split by {{ c.protocol.split_by }}, gallery by {{ c.protocol.gallery }}, {{ c.source.design }} design.</p>
<section><h2>Scores</h2><div class="wide"><table>
<tr><th>run</th><th class=n>top-1</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th><th class=n>top-5</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>best possible top-1</th></tr>
{% for r in c.runs %}<tr><td>{{ r.name }}</td><td class=n>{{ r.score.top1|percent }}</td><td class=n>{{ r.score.ci95_top1|interval }}</td><td class=n>{{ r.score.chance_top1|percent }}</td>
<td class=n>{{ r.score.p_permutation|p }}</td><td class=n>{{ r.score.top5|percent }}</td><td class=n>{{ r.score.ci95_top5|interval }}</td><td class=n>{{ r.score.chance_top5|percent }}</td>
<td class=n>{{ r.score.ideal_observer_top1|percent }}</td></tr>{% endfor %}</table></div>
<p class="note">Intervals are of one run each, over {{ c.runs[0].score.resampled }}; whether two runs differ is told by the paired tests.</p>
<div class="figures">{% for name, caption in captions.items() if name in images %}<figure style="width:{{ 452 if name != 'subject_dots' else 700 }}px"><img src="{{ images[name] }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div></section>
{% for unit, tests in (('concept', c.concepts), ('subject', c.subjects)) if tests %}
<section><h2>Differences, paired by {{ unit }}</h2><p class="note">Top-1; Wilcoxon's signed-rank test, two-sided, p corrected by Holm over the {{ tests|length }} comparisons of this table; interval from {{ unit }}s drawn with replacement.
{% if unit == 'concept' %}Holds for these people and new concepts.{% else %}Holds for new people, and few of them can not give a small p.{% endif %}</p><div class="wide"><table>
<tr><th>first</th><th>second</th><th class=n>difference</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>p</th><th class=n>p, Holm</th><th class=n>smallest possible</th><th class=n>pairs</th><th>method</th></tr>
{% for t in tests %}<tr{{ ' class=main' if t.p_holm <= 0.05 }}><td>{{ t.first }}</td><td>{{ t.second }}</td><td class=n>{{ '%+.1f'|format(100 * t.mean_difference) }} points</td>
<td class=n>{{ '%+.1f to %+.1f'|format(100 * t.ci95_difference[0], 100 * t.ci95_difference[1]) }}</td><td class=n>0</td><td class=n>{{ t.p|p }}</td><td class=n>{{ t.p_holm|p }}</td>
<td class=n>{{ t.smallest_p_holm|p }}</td><td class=n>{{ t.n_pairs }}</td><td>{{ t.method }}</td></tr>{% endfor %}</table></div></section>{% endfor %}
<section><h2>Where it comes from</h2><dl>{% for r in c.runs %}<dt>{{ r.name }}</dt><dd class=mono>{{ r.run_id }}, manifest {{ r.manifest_digest[:12] }}, commit {{ r.commit or '–' }}, {{ r.date }}, {{ r.uri }}</dd>{% endfor %}
<dt>candidates</dt><dd class=mono>{{ c.gallery_digest }}</dd><dt>test trials</dt><dd class=mono>{{ c.test_digest }}</dd></dl></section>
<footer>This page is one file: it loads nothing from anywhere. Numbers are in compare.json beside it.</footer>
</main></body></html>
"""
)
CAPTIONS = {
    "repetition_curves": "EEG averaged over that many repetitions before the decoder. Bands: 95 % interval. Dotted: chance.",
    "subject_dots": "A dot a subject with 95 % interval, bar their mean. Dotted: chance.",
}


def render(comparison: Mapping[str, Any], scores: Sequence[tuple[str, RetrievalScore]]) -> str:
    """Return the HTML page of a comparison given as plain values, and its runs' scores by name for the figures."""
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "p": p_value}
    figures = {"subject_dots": compare_plots.subject_dots(scores)}
    if any(score.repetition_curve for _, score in scores):
        figures["repetition_curves"] = compare_plots.repetition_curves(scores)
    images = {name: "data:image/png;base64," + base64.b64encode(png).decode("ascii") for name, png in figures.items()}
    return environment.from_string(TEMPLATE).render(
        c=comparison, headline=headline(comparison), images=images, captions=CAPTIONS
    )


def headline(comparison: Mapping[str, Any]) -> str:
    """Return which run is first and from which others it can not be told, with chance and interval."""
    best = max(comparison["runs"], key=lambda run: run["score"]["top1"])
    score = best["score"]
    text = (
        f"{best['name']} is highest with top-1 {percent(score['top1'])} (95 % interval {interval(score['ci95_top1'])}; "
        f"chance {percent(score['chance_top1'])})"
    )
    equal = []
    for test in comparison["concepts"]:
        if best["name"] in (test["first"], test["second"]) and test["p_holm"] > 0.05:
            equal.append(test["second"] if test["first"] == best["name"] else test["first"])
    if equal:
        return f"{text}; it can not be told from {', '.join(equal)}."
    return text + "."
