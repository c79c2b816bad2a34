"""The page of an audit: one file, takes plain values only, fetches nothing when opened."""

# ruff: noqa: E501 (markup is read by its nesting, not by its line length)

from collections.abc import Mapping
from typing import Any

from jinja2 import BaseLoader, Environment, StrictUndefined

from eegdecode.evaluate.page import interval, p_value, percent
from eegdecode.evaluate.template import STYLE

TEMPLATE = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>eegdecode: audit</title><style>"""
    + STYLE
    + """</style></head><body><main>
<p class="eyebrow">eegdecode · audit</p>
<h1>{{ headline }}</h1>
{% if a.findings %}<div class="box warn"><b>Read this first</b><ul>{% for f in a.findings %}<li><b>{{ f.kind }}</b> ({{ f.severity }}): {{ f.says }}
{% if f.examples %}<br><span class="mono">{{ f.examples|join('; ') }}{{ ' …' if f.n > f.examples|length }}</span>{% endif %}</li>{% endfor %}</ul></div>
{% else %}<div class="box ok">Nothing speaks against these files in what was checked.</div>{% endif %}
{% macro row(s, name) %}<tr><td>{{ name }}</td><td class=n>{{ s.value|percent }}</td><td class=n>{{ s.ci95|interval }}</td>
<td class=n>{{ s.chance|percent }}</td><td class=n>{{ s.p|p if s.p is defined else '–' }}</td><td class=n>{{ s.n_way }}</td><td class=n>{{ s.n_queries }}</td></tr>{% endmacro %}
{% set head %}<tr><th>reading</th><th class=n>score</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th><th class=n>candidates</th><th class=n>queries</th></tr>{% endset %}
{% if a.readings %}<section><h2>Inductive readings</h2><p class="note">Every query is answered without the others.{% if a.reported is not none %} Reported: {{ a.reported|percent }}.{% endif %}</p>
<div class="wide"><table>{{ head }}{% for s in a.readings %}{{ row(s, s.name ~ ' (' ~ s.source ~ ')') }}{% endfor %}</table></div></section>{% endif %}
{% if a.transductive %}<section><h2>Transductive readings</h2><p class="note">They use the whole test set and are no headline. Intervals leave an assignment as it is.</p>
<div class="wide"><table>{{ head }}{% for s in a.transductive %}{% if loop.changed(s.uses) %}<tr class=anchor><td colspan=7 class="note">{{ s.uses }}:</td></tr>{% endif %}{{ row(s, s.name) }}{% endfor %}</table></div></section>{% endif %}
{% if a.one_to_one %}<section><h2>One-to-one answers</h2>{% for o in a.one_to_one %}<p>{{ o.source }}: {{ o.says }}</p>{% endfor %}</section>{% endif %}
{% if a.gallery %}{% set g = a.gallery %}<section><h2>Gallery</h2><dl><dt>kind</dt><dd>{{ g.kind }}</dd>
<dt>candidates</dt><dd>{{ g.n_candidates }} ({{ g.n_pictures }} pictures, {{ g.n_concepts }} concepts; {{ g.n_never_shown }} never shown)</dd>
<dt>duplicates</dt><dd>{{ g.n_duplicates }}</dd><dt>queries per candidate</dt><dd>{{ '%.2f'|format(g.queries_per_candidate) }}</dd></dl></section>{% endif %}
{% if a.selection %}{% set s = a.selection %}<section><h2>Selection of the step</h2><p class="note">{{ s.n_steps }} test scores; intervals as if queries were independent.</p>
<div class="wide"><table>{{ head }}{{ row(s.last, s.last.name) }}{% if s.validation %}{{ row(s.validation, s.validation.name ~ ' (' ~ '%g'|format(s.validation_step) ~ ')') }}{% endif %}
{{ row(s.best, s.best.name ~ ' (' ~ '%g'|format(s.best_step) ~ ')') }}</table></div>
<p>Choosing on test adds {{ '%.1f'|format(100 * s.gain_over_last) }} points to the last step{% if s.gain_over_validation is not none %} and {{ '%.1f'|format(100 * s.gain_over_validation) }} to the validation-selected one{% endif %}.</p></section>{% endif %}
{% if a.overlaps %}<section><h2>What splits share</h2><div class="wide"><table><tr><th>what</th><th>between</th><th class=n>shared</th><th class=n>of</th><th>examples</th></tr>
{% for o in a.overlaps %}<tr><td>{{ o.of }}</td><td>{{ o.between[0] }} and {{ o.between[1] }}</td><td class=n>{{ o.n }}</td><td class=n>{{ o.n_smaller }}</td><td class="mono">{{ o.examples|join('; ') }}</td></tr>{% endfor %}</table></div></section>{% endif %}
<section><h2>What was read</h2><dl>{% for file, digest in a.files.items() %}<dt>{{ file }}</dt><dd class=mono>sha256 {{ digest }}</dd>{% endfor %}</dl>
{% if a.not_checked %}<h3>What these files can not answer</h3><ul>{% for line in a.not_checked %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}</section>
<footer>A finding is a sign, not a proof. This page is one file: it loads nothing from anywhere. Numbers are in audit.json beside it.</footer>
</main></body></html>
"""
)


def headline(audit: Mapping[str, Any]) -> str:
    """Return what was found in one sentence."""
    grave = [f for f in audit["findings"] if f["severity"] != "notice"]
    notices = len(audit["findings"]) - len(grave)
    if not audit["findings"]:
        return "No finding."
    said = []
    if grave:
        said.append(
            f"{len(grave)} finding{'s' if len(grave) > 1 else ''} that change{'' if len(grave) > 1 else 's'} what the score means"
        )
    if notices:
        said.append(f"{notices} notice{'s' if notices > 1 else ''}")
    return " and ".join(said) + "."


def render(audit: Mapping[str, Any]) -> str:
    """Return the HTML page of an audit given as plain values."""
    environment = Environment(loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "p": p_value}
    return environment.from_string(TEMPLATE).render(a=audit, headline=headline(audit))
