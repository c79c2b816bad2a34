"""The page that compares runs of categories: one file, fetches nothing when opened."""

# ruff: noqa: E501 (markup is read by its nesting, not by its line length)

from collections.abc import Mapping
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined

from eegdecode.evaluate.page import auc_interval, interval, p_value, percent
from eegdecode.evaluate.template import STYLE

TEMPLATE = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>eegdecode: comparison</title><style>"""
    + STYLE
    + """</style></head><body><main>
{% macro tests_table(tests, score, scale, unit) %}
<h3>Differences in {{ score }}, paired by {{ tests[0].unit }}</h3><p class="note">Wilcoxon's signed-rank test, two-sided, p corrected by Holm over the
{{ tests|length }} comparisons of this table; interval from {{ tests[0].unit }} drawn with replacement.</p><div class="wide"><table>
<tr><th>first</th><th>second</th><th class=n>difference{{ unit }}</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>p</th><th class=n>p, Holm</th><th class=n>smallest possible</th><th class=n>pairs</th><th>method</th></tr>
{% for t in tests %}<tr{{ ' class=main' if t.p_holm <= 0.05 }}><td>{{ t.first }}</td><td>{{ t.second }}</td><td class=n>{{ '%+.3f'|format(scale * t.mean_difference) }}</td>
<td class=n>{{ '%+.3f to %+.3f'|format(scale * t.ci95_difference[0], scale * t.ci95_difference[1]) }}</td><td class=n>0</td><td class=n>{{ t.p|p }}</td><td class=n>{{ t.p_holm|p }}</td>
<td class=n>{{ t.smallest_p_holm|p }}</td><td class=n>{{ t.n_pairs }}</td><td>{{ t.method }}</td></tr>{% endfor %}</table></div>
{% endmacro %}
<p class="eyebrow">eegdecode · comparison · {{ c.source.name }}</p>
<h1>{{ headline }}</h1>
<p class="note">All runs answer one question: the same test trials, categories and protocol, or this page would not exist. Single trials, {{ c.source.design }} design.</p>
{% for d in c.divisions %}<section><h2>Leave one {{ d.split_by }} out</h2>
{% if d.contrasts %}<div class="wide"><table><tr><th>run</th><th class=n>AUC</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th></tr>
{% for name, s in d.contrasts.items() %}<tr><td>{{ name }}</td><td class=n>{{ '%.3f ± %.3f'|format(s.auc, s.sd) }}</td><td class=n>{{ s.ci95|auc }}</td><td class=n>{{ s.chance }}</td>
<td class=n>{{ s.p_permutation|p }}</td></tr>{% endfor %}</table></div>{{ tests_table(d.auc, 'AUC', 1, '') }}{% endif %}
{% if loop.first %}<div class="wide"><table><tr><th>run</th><th class=n>accuracy of {{ c.runs[0].classes.n_way }}</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th></tr>
{% for r in c.runs %}<tr><td>{{ r.name }}</td><td class=n>{{ r.classes.accuracy|percent }}</td><td class=n>{{ r.classes.ci95|interval }}</td><td class=n>{{ r.classes.chance|percent }}</td>
<td class=n>{{ r.classes.p_permutation|p }}</td></tr>{% endfor %}</table></div>{% endif %}{{ tests_table(d.accuracy, 'accuracy', 100, ', points') }}</section>{% endfor %}
<section><h2>Where it comes from</h2><dl>{% for r in c.runs %}<dt>{{ r.name }}</dt><dd class=mono>{{ r.run_id }}, manifest {{ r.manifest_digest[:12] }}, commit {{ r.commit or '–' }}, {{ r.date }}, {{ r.uri }}</dd>{% endfor %}
{% for d in c.divisions %}<dt>test trials, {{ d.split_by }}</dt><dd class=mono>{{ d.test_digest }}</dd>{% endfor %}</dl></section>
<footer>This page is one file: it loads nothing from anywhere. Numbers are in compare.json beside it.</footer>
</main></body></html>
"""
)


def render(comparison: Mapping[str, Any]) -> str:
    """Return the HTML page of a comparison given as plain values."""
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "p": p_value, "auc": auc_interval}
    return environment.from_string(TEMPLATE).render(c=comparison, headline=headline(comparison))


def headline(comparison: Mapping[str, Any]) -> str:
    """Return which run is first in the first division and from which others it can not be told."""
    division = comparison["divisions"][0]
    if division["contrasts"]:
        best, score = max(division["contrasts"].items(), key=lambda item: item[1]["auc"])
        tests = division["auc"]
        said = f"AUC {score['auc']:.3f} (95 % interval {auc_interval(score['ci95'])}; chance {score['chance']})"
    else:
        run = max(comparison["runs"], key=lambda run: run["classes"]["accuracy"])
        best, score, tests = run["name"], run["classes"], division["accuracy"]
        said = f"accuracy {percent(score['accuracy'])} (95 % interval {interval(score['ci95'])}; chance "
        said += f"{percent(score['chance'])})"
    pairs = [(test["first"], test["second"]) for test in tests if test["p_holm"] > 0.05]
    equal = [second if first == best else first for first, second in pairs if best in (first, second)]
    text = f"{best} is highest with {said}"
    return f"{text}; it can not be told from {', '.join(equal)}." if equal else f"{text}."
