"""The HTML of the quality page, kept as a string so that the package carries no data files."""

# ruff: noqa: E501 (markup is read by its nesting, not by its line length)

STYLE = """
:root { color-scheme:light; --ink:#1c2430; --soft:#4d5766; --line:#d9dee5; --ours:#0072B2; --warn:#8a3d00; --warnbg:#fff4ea }
* { box-sizing:border-box }
body { margin:0; background:#fff; color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
  font-variant-numeric:tabular-nums }
main { max-width:1060px; margin:0 auto; padding:36px 24px 64px }
.eyebrow { color:var(--soft); font-size:13px; margin:0 0 6px; overflow-wrap:anywhere }
h1 { font-size:clamp(21px,3vw,28px); line-height:1.3; margin:0 0 10px; text-wrap:pretty }
h2 { font-size:20px; margin:0 0 6px } h3 { font-size:15.5px; margin:20px 0 4px }
p { margin:0 0 10px; max-width:78ch } .note { color:var(--soft); font-size:14px }
section { border-top:1px solid var(--line); padding-top:24px; margin-top:32px }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin-top:18px }
.card { border:1px solid var(--line); border-radius:12px; padding:12px 16px }
.card b { display:block; font-size:26px; line-height:1.25; font-weight:650; color:var(--ours) }
.card span { display:block; font-size:13px; color:var(--soft) } .card .what { color:var(--ink); font-weight:600 }
.warn { border:1px solid #e8c9ab; border-radius:12px; padding:12px 18px; margin-top:18px; background:var(--warnbg); color:var(--warn); font-size:15px }
.warn ul { margin:4px 0 0; padding-left:18px } .warn li { margin-bottom:6px }
.wide { overflow-x:auto } table { border-collapse:collapse; font-size:14.5px; margin:4px 0 6px; min-width:min(100%,300px) }
th { text-align:left; color:var(--soft); font-weight:600; font-size:13px; border-bottom:1px solid var(--line); padding:5px 16px 5px 0 }
td { border-bottom:1px solid var(--line); padding:6px 16px 6px 0; vertical-align:top } tr:last-child td { border-bottom:0 }
td.n, th.n { text-align:right; white-space:nowrap } td.id { white-space:nowrap } .block { max-width:100% } .block h3 { margin-top:6px }
.figures { display:flex; flex-wrap:wrap; gap:22px 28px; margin-top:14px; align-items:flex-start }
figure { margin:0; width:480px; max-width:100% } figure img { display:block; width:100%; height:auto }
figcaption { color:var(--soft); font-size:13.5px; margin-top:4px }
.examples { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr)); gap:22px 28px; margin-top:14px }
.example { display:flex; gap:12px; align-items:flex-start; min-width:0 } .example div { flex:0 0 96px; width:96px; font-size:13px; overflow-wrap:anywhere; line-height:1.35 }
.example div img { width:96px; height:96px; object-fit:contain; display:block; margin-bottom:4px; border:1px solid var(--line) } .example div img.small { image-rendering:pixelated }
.example > img { flex:1 1 0; min-width:0; max-width:384px; height:auto }
dl { display:grid; grid-template-columns:minmax(120px,190px) 1fr; gap:6px 18px; margin:8px 0 0; font-size:14.5px }
dt { color:var(--soft) } dd { margin:0; overflow-wrap:anywhere } ul { margin:0; padding-left:18px }
summary { cursor:pointer; padding:8px 0; font-weight:600; font-size:15.5px } footer { color:var(--soft); font-size:13px; margin-top:32px }
@media (max-width:560px) { main { padding:22px 14px } .example { flex-direction:column } .example > img { width:100% }
  .example div { flex:none; width:100%; font-size:14px } .example div img { float:left; margin:0 12px 0 0 } dl { grid-template-columns:1fr; gap:0 } dd { margin-bottom:8px } }
@media print { section { break-inside:avoid } }
"""

TEMPLATE = (
    """
{%- macro figure(name) %}{% if name in figures %}<figure><img src="{{ figures[name].image }}" alt="{{ figures[name].alt }}">
<figcaption>{{ figures[name].caption }}</figcaption></figure>
{% endif %}{% endmacro %}
{%- macro foldable(title, long) %}{% if long %}<details><summary>{{ title }}</summary>{% else %}<h3>{{ title }}</h3>{% endif %}
{{ caller() }}{% if long %}</details>{% endif %}{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>eegdecode: quality of {{ source.name }}</title><style>"""
    + STYLE
    + """</style></head><body><main>
<p class="eyebrow">eegdecode · quality of a shard set · {{ source.name }}</p>
<h1>{{ headline }}</h1>
<p class="note">{{ cut }}</p>
{% if concerns %}<div class="warn"><b>Read this first</b><ul>{% for c in concerns %}<li>{{ c }}</li>{% endfor %}</ul></div>{% endif %}
<div class="cards">{% for card in cards %}<div class="card"><span class="what">{{ card.what }}</span><b>{{ card.value }}</b>
{% for line in card.lines %}<span>{{ line }}</span>{% endfor %}</div>{% endfor %}</div>

<section><h2>Trials</h2><div class="figures">
<div class="block"><h3>Counts</h3><div class="wide"><table><tr><th></th><th class=n>smallest</th><th class=n>median</th><th class=n>largest</th></tr>
{% for name, s in spreads %}<tr><td>{{ name }}</td><td class=n>{{ s.min|number }}</td><td class=n>{{ s.median|number }}</td><td class=n>{{ s.max|number }}</td></tr>{% endfor %}
</table></div></div>
{% if repetitions %}<div class="block"><h3>How often a picture was shown to a subject</h3><div class="wide"><table><tr><th class=n>repetitions</th><th class=n>pictures, all subjects</th></tr>
{% for n, pictures in repetitions %}<tr><td class=n>{{ n }}</td><td class=n>{{ pictures|number }}</td></tr>{% endfor %}</table></div></div>{% endif %}
{% if folds %}<div class="block">{% call foldable('Trials of each fold (' ~ folds|length ~ ')', folds|length > 12) %}<div class="wide"><table><tr><th>fold</th>{% for part in parts %}<th class=n>{{ part }}</th>{% endfor %}</tr>
{% for name, counts in folds.items() %}<tr><td class=id>{{ name }}</td>{% for part in parts %}<td class=n>{{ counts.get(part, 0)|number }}</td>{% endfor %}</tr>{% endfor %}</table></div>{% endcall %}</div>{% endif %}
<div class="block">{% call foldable('Trials of each recording (' ~ recordings|length ~ ')', recordings|length > 24) %}<div class="wide"><table><tr><th>recording</th><th>subject</th><th class=n>trials</th><th class=n>left out</th><th class=n>left out, %</th></tr>
{% for r in recordings %}<tr><td class=id>{{ r.recording }}</td><td class=id>{{ r.subject }}</td><td class=n>{{ r.n|number }}</td><td class=n>{{ r.dropped|number }}</td><td class=n>{{ r.percent }}</td></tr>{% endfor %}</table></div>{% endcall %}</div>
</div></section>

<section><h2>Why trials were left out</h2>
{% if kinds %}<p class="note">{{ n_dropped|number }} in all. Numbers and electrodes are taken out to group the reasons; examples have them.</p>
{% for k in kinds %}<h3>{{ k.n|number }} in {{ k.n_recordings }} recording{{ '' if k.n_recordings == 1 else 's' }}: {{ k.kind }}</h3>
{% if k.electrodes %}<p class="note">Electrodes: {% for name, n in k.electrodes[:8] %}{{ name }} {{ n|number }}{{ ', ' if not loop.last }}{% endfor %}{% if k.electrodes|length > 8 %}, {{ k.electrodes|length - 8 }} more{% endif %}.</p>{% endif %}
<ul class="note">{% for e in k.examples %}<li>{{ e }}</li>{% endfor %}</ul>{% endfor %}
{% else %}<p>None was.</p>{% endif %}</section>

<section><h2>Mean response</h2><div class="figures">{{ figure('responses') }}{{ figure('field_power') }}</div></section>

<section><h2>Noise of the electrodes</h2><p class="note">{{ noise_note }}</p>
<div class="figures">{{ figure('noise_map') }}{{ figure('noise_bars') }}
<div class="wide"><table><tr><th>electrode</th><th>region</th><th class=n>noise, {{ unit }}</th><th class=n>of the median</th></tr>
{% for row in noisiest %}<tr><td>{{ row.name }}</td><td>{{ row.region }}</td><td class=n>{{ row.value|digits }}</td><td class=n>{{ row.ratio|fixed(1) }} times</td></tr>{% endfor %}
<tr><td>median</td><td>all</td><td class=n>{{ median_noise|digits }}</td><td class=n>1</td></tr></table></div></div></section>

<section><h2>Does the response to a picture repeat?</h2>
{% if reliability %}<p class="note">{{ reliability_note }}</p>
<div class="wide"><table><tr><th>region</th><th class=n>reliability</th><th class=n>95 % interval</th><th class=n>chance</th></tr>
{% for r in reliability %}<tr><td>{{ r.region }}</td><td class=n>{{ r.value|fixed(3) }}</td><td class=n>{{ r.low|fixed(3) }} to {{ r.high|fixed(3) }}</td><td class=n>0</td></tr>{% endfor %}</table></div>
<div class="figures">{{ figure('region_reliability') }}{{ figure('electrode_reliability') }}</div>
{% else %}<p>{{ reliability_note }}</p>{% endif %}</section>

{% if examples %}<section><h2>Pictures and their mean response</h2><p class="note">{{ examples_note }}</p>
<div class="examples">{% for e in examples %}<div class="example"><div><img{{ ' class=small' if e.small }} src="{{ e.image }}" alt="Picture {{ e.picture }} of {{ e.concept }}"><b>{{ e.concept }}</b>{% if e.picture != e.concept %}<br>{{ e.picture }}{% endif %}<br>{{ e.n|number }} trials</div>
<img src="{{ e.plot }}" alt="{{ e.alt }}"></div>{% endfor %}</div></section>{% endif %}

<section><h2>Data</h2><dl>
<dt>source</dt><dd>{{ source.name }}, {{ source.design }} design; {{ 'the very picture of a trial is known' if source.truth == 'picture' else 'only the class of the picture is known' }}</dd>
<dt>licence</dt><dd>{{ source.licence }}</dd><dt>cite</dt><dd>{{ source.citation }}</dd>
<dt>electrodes</dt><dd>{% for region, names in electrodes %}<b>{{ region }}</b> {{ names }}{{ '; ' if not loop.last }}{% endfor %}</dd>
<dt>found by the reader</dt><dd>{% if findings %}<ul>{% for f in findings %}<li>{{ f }}</li>{% endfor %}</ul>{% else %}nothing unusual{% endif %}</dd>
</dl></section>
<footer>This page is one file: it loads nothing from anywhere and runs no script. Its numbers are in quality.json beside it.</footer>
</main></body></html>
"""
)
