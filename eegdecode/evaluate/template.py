"""The HTML of a report, kept as a string so that the package carries no data files."""

# ruff: noqa: E501 (markup is read by its nesting, not by its line length)

STYLE = """
:root { color-scheme: light dark; --bg:#f6f7f9; --card:#fff; --ink:#1c2430; --soft:#5b6472; --line:#e2e6eb;
  --ours:#0072B2; --warn:#b3540b; --warnbg:#fff4ea; --ok:#046c4e; --okbg:#e9f7f1; }
@media (prefers-color-scheme: dark) { :root { --bg:#12161c; --card:#1a2029; --ink:#e8ecf1; --soft:#9aa5b4;
  --line:#2c3542; --ours:#5db5ea; --warn:#f0a868; --warnbg:#33261a; --ok:#6fd3ae; --okbg:#17302a; } }
* { box-sizing: border-box }
body { margin:0; background:var(--bg); color:var(--ink); font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; font-variant-numeric: tabular-nums }
main { max-width:1040px; margin:0 auto; padding:40px 24px 72px }
.eyebrow { color:var(--soft); font-size:13px; letter-spacing:.04em; text-transform:uppercase; margin:0 0 8px }
h1 { font-size:clamp(22px,3.2vw,31px); line-height:1.3; font-weight:650; letter-spacing:-.012em; margin:0 0 14px; text-wrap:pretty }
h2 { font-size:20px; margin:0 0 4px; letter-spacing:-.005em } h3 { font-size:15px; margin:24px 0 6px }
p { margin:0 0 12px } .note { color:var(--soft); font-size:13.5px }
section { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:24px 26px; margin-top:20px }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(168px,1fr)); gap:14px; margin-top:22px }
.card { background:var(--card); border:1px solid var(--line); border-radius:14px; padding:16px 18px }
.card b { display:block; font-size:28px; line-height:1.2; font-weight:650; color:var(--ours); letter-spacing:-.02em }
.card span { display:block; font-size:13px; color:var(--soft) } .card .what { color:var(--ink); font-weight:600; margin-bottom:2px }
.box { border-radius:12px; padding:12px 18px; margin-top:20px; font-size:14.5px }
.ok { background:var(--okbg); color:var(--ok) } .warn { background:var(--warnbg); color:var(--warn) }
.box ul { margin:4px 0 0; padding-left:18px }
.wide { overflow-x:auto } table { border-collapse:collapse; width:100%; font-size:14.5px; margin:10px 0 4px }
th { text-align:left; color:var(--soft); font-weight:550; font-size:13px; border-bottom:1px solid var(--line); padding:6px 14px 6px 0 }
td { border-bottom:1px solid var(--line); padding:7px 14px 7px 0; vertical-align:top } tr:last-child td { border-bottom:0 }
td.n, th.n { text-align:right; white-space:nowrap } tr.main td { font-weight:650 } tr.anchor td { color:var(--soft) }
.figures { display:flex; flex-wrap:wrap; gap:18px; margin-top:16px; align-items:flex-start }
figure { margin:0; max-width:100%; flex:0 1 auto } figure.full { flex-basis:100% }
figure img { display:block; max-width:100%; min-width:min(100%,280px); height:auto; background:#fff; border:1px solid var(--line); border-radius:10px; padding:10px }
figcaption { color:var(--soft); font-size:13px; margin-top:6px; max-width:62ch }
.bar { height:8px; border-radius:4px; background:var(--ours); min-width:2px; opacity:.75 }
code, .mono { font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; overflow-wrap:anywhere }
dl { display:grid; grid-template-columns:minmax(120px,190px) 1fr; gap:6px 18px; margin:10px 0 0; font-size:14.5px }
dt { color:var(--soft) } dd { margin:0 } dd ul { margin:0; padding-left:18px }
footer { color:var(--soft); font-size:13px; margin-top:26px }
@media (max-width:560px) { main { padding:24px 14px } section { padding:18px 16px } dl { grid-template-columns:1fr } }
@media print { body { background:#fff } section, .card { break-inside:avoid } }
"""

MACROS = """
{% macro figure(name, full=false, px=none) %}{% if name in images %}
<figure{{ ' class=full' if full }}{% if px %} style="width:{{ px }}px"{% endif %}>
<img src="{{ images[name] }}" alt="{{ captions[name] }}"><figcaption>{{ captions[name] }}</figcaption></figure>
{% endif %}{% endmacro %}
{% macro card(what, value, line1, line2='') %}
<div class="card"><span class="what">{{ what }}</span><b>{{ value }}</b><span>{{ line1 }}</span><span>{{ line2 }}</span></div>
{% endmacro %}
{% macro contrast_table(c, name) %}
<h3>{{ c.labels[1] }} against {{ c.labels[0] }}, leave one {{ c.split_by }} out</h3>
<p class="note">ROC AUC on {{ c.n_trials }} single trials, mean ± sd over {{ c.per_fold|length }} folds;
  interval over folds and trials; p from {{ c.n_permutations }} permutations by
  {{ c.permute }}, {{ c.null }}.</p>
<div class="wide"><table>
<tr><th></th><th class=n>AUC</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th></tr>
<tr class=main><td>decoder</td><td class=n>{{ '%.3f ± %.3f'|format(c.auc, c.sd) }}</td><td class=n>{{ c.ci95|auc }}</td>
  <td class=n>{{ c.chance }}</td><td class=n>{{ c.p_permutation|p }}</td></tr>
{% if c.baseline_auc is not none %}<tr><td>{{ c.baseline_name }}</td>
  <td class=n>{{ '%.3f ± %.3f'|format(c.baseline_auc, c.baseline_sd) }}</td><td class=n>{{ c.baseline_ci95|auc }}</td>
  <td class=n>{{ c.chance }}</td><td class=n>{{ c.baseline_p_permutation|p }}</td></tr>{% endif %}
{% if c.control_auc is not none %}<tr class=anchor><td>control: {{ c.control_name }}</td>
  <td class=n>{{ '%.3f ± %.3f'|format(c.control_auc, c.control_sd) }}</td><td class=n>{{ c.control_ci95|auc }}</td>
  <td class=n>{{ c.chance }}</td><td class=n>–</td></tr>{% endif %}
<tr class=anchor><td>decoder, folds weighted by trials</td><td class=n>{{ '%.3f'|format(c.weighted_auc) }}</td><td class=n>–</td>
  <td class=n>{{ c.chance }}</td><td class=n>–</td></tr>
<tr class=anchor><td>decoder, all decisions pooled</td><td class=n>{{ '%.3f'|format(c.pooled_auc) }}</td><td class=n>–</td>
  <td class=n>{{ c.chance }}</td><td class=n>–</td></tr>
</table></div>
<div class="figures">{{ figure(name, px=(340 + 130 * (c.baseline_per_fold|length > 0) + 40)) }}</div>
<details><summary class=note>every fold</summary><div class="wide"><table>
<tr><th>left out</th><th class=n>trials</th><th class=n>decoder</th>{% if c.baseline_per_fold %}<th class=n>{{ c.baseline_name }}</th>{% endif %}
<th class=n>chance</th></tr>
{% for fold, value in c.per_fold.items() %}<tr><td>{{ fold }}</td><td class=n>{{ c.trials_per_fold[fold] }}</td>
<td class=n>{{ '%.3f'|format(value) }}</td>
{% if c.baseline_per_fold %}<td class=n>{{ '%.3f'|format(c.baseline_per_fold[fold]) if fold in c.baseline_per_fold else '–' }}</td>{% endif %}
<td class=n>{{ c.chance }}</td></tr>{% endfor %}
</table></div></details>
{% endmacro %}
"""

RETRIEVAL = """
{% if r.retrieval %}{% set s = r.retrieval %}
<section><h2>Which picture was seen</h2>
<p class="note">{{ s.n_way }}-way, {{ s.n_queries }} queries of {{ s.n_subjects }} subject{{ 's' if s.n_subjects > 1 }},
{{ '%.3g'|format(s.repetitions) }} repetitions in a query on average. Protocol: {{ protocol }}.</p>
<div class="wide"><table>
<tr><th></th><th class=n>decoder</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>best possible</th></tr>
<tr class=main><td>top-1</td><td class=n>{{ s.top1|percent }}</td><td class=n>{{ s.ci95_top1|interval }}</td>
  <td class=n>{{ s.chance_top1|percent }}</td><td class=n>{{ s.ideal_observer_top1|percent }}</td></tr>
<tr><td>top-5</td><td class=n>{{ s.top5|percent }}</td><td class=n>{{ s.ci95_top5|interval }}</td>
  <td class=n>{{ s.chance_top5|percent }}</td><td class=n>{{ s.ideal_observer_top5|percent }}</td></tr>
<tr><td>mean average precision</td><td class=n>{{ '%.3f'|format(s.map) }}</td><td class=n>–</td>
  <td class=n>{{ '%.3f'|format(s.chance_map) }}</td><td class=n>–</td></tr>
<tr class=anchor><td>top-1, EEG and pictures paired at random</td><td class=n>{{ s.shuffled_top1|percent }}</td>
  <td class=n>{{ s.shuffled_ci95|interval }}</td><td class=n>{{ s.chance_top1|percent }}</td><td class=n>–</td></tr>
{% for c in s.controls %}<tr class=anchor><td>control: {{ c.name }}</td><td class=n>{{ c.value|percent }}</td>
  <td class=n>{{ c.ci95|interval }}</td><td class=n>{{ c.chance|percent }}</td><td class=n>–</td></tr>{% endfor %}
</table></div>
<p class="note">Mean over subjects; intervals resample {{ s.resampled }}, alike for all subjects, and hold for these subjects.
{% if s.ci95_top1_people %}With subjects drawn as well, for new people: top-1 within {{ s.ci95_top1_people|interval }}.
{% endif %}
Permutation p {{ s.p_permutation|p }} ({{ s.n_permutations }} exchanges of picture labels; smallest possible
{{ (1 / (s.n_permutations + 1))|p }}).</p>
<div class="figures">{{ figure('retrieval_bars', px=452) }}{{ figure('repetition_curve', px=452) }}{{ figure('similarity', px=452) }}</div>
{% for title, parts in (('subject', s.per_subject), ('fold', s.per_fold)) if parts|length > 1 %}
<h3>Per {{ title }}</h3><div class="wide"><table>
<tr><th>{{ title }}</th><th class=n>queries</th><th class=n>top-1</th><th class=n>95 % interval</th><th class=n>top-5</th>
<th class=n>mean average precision</th><th class=n>chance top-1</th></tr>
{% for name, part in parts.items() %}<tr><td>{{ name }}</td><td class=n>{{ part.n_queries }}</td><td class=n>{{ part.top1|percent }}</td>
<td class=n>{{ part.ci95_top1|interval }}</td><td class=n>{{ part.top5|percent }}</td><td class=n>{{ '%.3f'|format(part.map) }}</td>
<td class=n>{{ s.chance_top1|percent }}</td></tr>{% endfor %}</table></div>{% endfor %}
</section>{% endif %}
"""

CONFUSIONS = """
{% if r.confusions %}<section><h2>What was taken for what</h2><p class="note">Pictures most often taken for one and the same other, over all queries of all
subjects; chance of naming any one candidate {{ (1 / r.retrieval.n_way)|percent }}.</p><div class="figures">{{ figure('confusions', true) }}</div>
<div class="wide"><table><tr><th>shown</th><th>concept</th><th class=n>queries</th><th class=n>right</th><th>taken for</th></tr>
{% for c in r.confusions %}<tr><td>{{ c.shown }}</td><td>{{ c.concept }}</td><td class=n>{{ c.n_queries }}</td><td class=n>{{ c.n_right }}</td>
<td>{% for name, n in c.taken_for %}{{ name }} ({{ n }}){{ ', ' if not loop.last }}{% endfor %}</td></tr>{% endfor %}</table></div></section>{% endif %}
"""

CERTAINTY = """
{% if r.calibration %}<section><h2>How sure it may be</h2>{% if r.calibration.result %}{% set c = r.calibration.result %}
<p class="note">Fitted on {{ c.temperature.n_queries }} validation queries, judged on {{ c.calibrated.n_queries }} test queries of other concepts.
Both rank {{ c.coverage.n_way }} candidates, one a concept, with {{ r.calibration.repetitions }} repetition{{ 's' if r.calibration.repetitions > 1 }} averaged, so
that one probability means the same in both; this is not the task of the headline. Temperature {{ '%.3g'|format(c.temperature.value) }}{{ ', at the bound of what was tried: the scores tell nothing or are never wrong' if c.temperature.at_bound }}.</p>
<div class="wide"><table><tr><th></th><th class=n>value</th><th class=n>95 % interval</th><th class=n>if confidence were right</th><th class=n>p of as large an error</th></tr>
{% for name, e in (('expected calibration error', c.calibrated), ('the same at temperature 1', c.uncalibrated)) %}<tr{{ ' class=main' if loop.first }}><td>{{ name }}</td><td class=n>{{ e.ece|percent }}</td>
<td class=n>{{ e.ci95|interval }}</td><td class=n>{{ e.ece_if_calibrated|percent }}</td><td class=n>{{ e.p|p }}</td></tr>{% endfor %}</table></div>
<div class="wide"><table><tr><th></th><th class=n>holds the right one</th><th class=n>95 % interval</th><th class=n>asked for</th><th class=n>chance of such sizes</th><th class=n>mean size</th><th class=n>median</th></tr>
<tr class=main><td>conformal set</td><td class=n>{{ c.coverage.coverage|percent }}</td><td class=n>{{ c.coverage.ci95|interval }}</td><td class=n>{{ c.coverage.nominal|percent }}</td>
<td class=n>{{ c.coverage.chance|percent }}</td><td class=n>{{ '%.1f'|format(c.coverage.mean_size) }}</td><td class=n>{{ '%.3g'|format(c.coverage.median_size) }}</td></tr></table></div>
<div class="figures">{{ figure('reliability', px=452) }}</div>{% else %}<p>Not available: {{ r.calibration.reason }}</p>{% endif %}</section>{% endif %}
{% if r.ceiling %}<section><h2>Noise ceiling of the test trials</h2>{% if r.ceiling.per_subject %}
<p class="note">Correlation over pictures of two halves of the repetitions, averaged over electrodes and 50 ms bins after the picture appears; of the EEG,
not of the decoder. Chance 0.</p><div class="wide"><table><tr><th>subject</th><th class=n>half with half</th><th class=n>95 % interval</th><th class=n>half with all</th>
<th class=n>all, Spearman-Brown</th><th class=n>95 % interval</th><th class=n>pictures</th><th class=n>repetitions</th></tr>
{% for name, n in r.ceiling.per_subject.items() %}<tr><td>{{ name }}</td><td class=n>{{ '%.3f'|format(n.lower) }}</td><td class=n>{{ n.ci95_lower|auc }}</td>
<td class=n>{{ '%.3f'|format(n.upper) }}</td><td class=n>{{ '%.3f'|format(n.corrected) }}</td><td class=n>{{ n.ci95_corrected|auc }}</td><td class=n>{{ n.n_conditions }}</td>
<td class=n>{{ n.n_repetitions }}</td></tr>{% endfor %}</table></div>{% else %}<p>Not available: {{ r.ceiling.reason }}</p>{% endif %}</section>{% endif %}
"""

SCALING = """
{% if r.scaling %}<section><h2>Score against training data</h2><p class="note">The recipe trained anew on nested shares of the training concepts, {{ r.scaling.steps }} steps each;
candidates, test trials and validation concepts are the same. The last row is the run itself. Intervals resample {{ r.scaling.points[0].score.resampled }}, not the draw of the share.</p>
<div class="figures">{{ figure('scaling', px=452) }}</div><div class="wide"><table><tr><th class=n>concepts</th><th class=n>trials</th><th class=n>top-1</th>
<th class=n>95 % interval</th><th class=n>chance</th><th class=n>top-5</th><th class=n>95 % interval</th><th class=n>chance</th></tr>
{% for p in r.scaling.points %}{% set s = p.score %}<tr{{ ' class=main' if loop.last }}><td class=n>{{ p.n_concepts }}</td><td class=n>{{ p.n_trials }}</td>
<td class=n>{{ s.top1|percent }}</td><td class=n>{{ s.ci95_top1|interval }}</td><td class=n>{{ s.chance_top1|percent }}</td><td class=n>{{ s.top5|percent }}</td>
<td class=n>{{ s.ci95_top5|interval }}</td><td class=n>{{ s.chance_top5|percent }}</td></tr>{% endfor %}</table></div></section>{% endif %}
"""

BASELINES = """
{% macro baselines_table(b) %}
<h3>Other classifiers, leave one {{ b.split_by }} out</h3>
<p class="note">The same trials and folds. Difference: decoder minus classifier, paired by {{ b.against_decoder[0].unit }} ({{ b.against_decoder[0].n_pairs }} pairs), interval from {{ b.against_decoder[0].unit }}
drawn with replacement; Wilcoxon's signed-rank test, two-sided, p corrected by Holm over the {{ b.against_decoder|length }} classifiers, none below
{{ b.against_decoder|map(attribute='smallest_p_holm')|min|p }}.</p>
<div class="wide"><table><tr><th></th><th class=n>AUC</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th>
<th class=n>difference</th><th class=n>95 % interval</th><th class=n>p, Holm</th></tr>
{% for t in b.against_decoder %}{% set s = b.scores[t.first] %}<tr><td>{{ t.first }}</td><td class=n>{{ '%.3f ± %.3f'|format(s.auc, s.sd) }}</td>
<td class=n>{{ s.ci95|auc }}</td><td class=n>{{ s.chance }}</td><td class=n>{{ s.p_permutation|p }}</td><td class=n>{{ '%+.3f'|format(-t.mean_difference) }}</td>
<td class=n>{{ '%+.3f to %+.3f'|format(-t.ci95_difference[1], -t.ci95_difference[0]) }}</td><td class=n>{{ t.p_holm|p }}</td></tr>{% endfor %}</table></div>
{% endmacro %}
"""

CONFOUNDS = """
{% if r.confounds %}<section><h2>What blocks alone give away</h2>{% if r.confounds.result %}{% set c = r.confounds.result %}
<p class="note">Logistic regression that names the concept of single trials, trained and tested in the decoder's own folds, person by person where a
person is on both sides (Ferrante et al. 2023, table 1). Mean power knows neither time nor sign. Time-locked samples are means of each electrode over 50 ms.
Blocks hold {{ c.classes_per_block[0] }} to {{ c.classes_per_block[2] }} class{{ 'es' if c.classes_per_block[2] > 1 }};
{{ c.blocks_on_both_sides }} have trials on both sides.</p>
<div class="wide"><table><tr><th></th><th class=n>accuracy</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th>
<th class=n>blocks alone</th><th class=n>p within blocks</th><th class=n>smallest possible</th><th class=n>trials</th></tr>
{% for s in (c.mean_power, c.time_locked, c.blank) if s %}<tr{{ ' class=main' if loop.first }}><td>{{ s.control }}</td><td class=n>{{ s.accuracy|percent }}</td>
<td class=n>{{ s.ci95|interval }}</td><td class=n>{{ s.chance|percent }}</td><td class=n>{{ s.p|p }}</td><td class=n>{{ s.block_chance|percent }}</td>
<td class=n>{{ s.p_within_blocks|p }}</td><td class=n>{{ s.smallest_p_within_blocks|p }}</td><td class=n>{{ s.n_trials }}</td></tr>{% endfor %}</table></div>
<p class="note">Intervals draw blocks; p exchanges labels of test trials ({{ c.mean_power.n_permutations }} times); within blocks the regression is trained
again on each exchange, and where every block holds one class there is none.</p>{% else %}<p>Not available: {{ r.confounds.reason }}</p>{% endif %}</section>{% endif %}
"""

CATEGORIES = """
{% if r.contrast %}<section><h2>Telling two categories apart</h2><p class="note">Protocol: {{ protocol_single }}.</p>
{{ contrast_table(r.contrast, 'contrast') }}
{% for c in r.more_contrasts %}{{ contrast_table(c, 'contrast_' ~ (loop.index + 1)) }}{% endfor %}
{% for b in r.baselines %}{{ baselines_table(b) }}{% endfor %}</section>{% endif %}
{% if r.classes %}{% set s = r.classes %}<section><h2>Naming one of {{ s.n_way }}</h2>
<p class="note">Accuracy on {{ s.n_trials }} single trials, mean ± sd over {{ s.per_fold|length }} folds (leave one {{ s.split_by }} out);
interval over folds and trials; p from {{ s.n_permutations }} permutations by {{ s.permute }}, {{ s.null }}.</p>
<div class="wide"><table>
<tr><th></th><th class=n>accuracy</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>permutation p</th></tr>
<tr class=main><td>decoder</td><td class=n>{{ s.accuracy|percent }} ± {{ s.sd|percent }}</td><td class=n>{{ s.ci95|interval }}</td>
<td class=n>{{ s.chance|percent }}</td><td class=n>{{ s.p_permutation|p }}</td></tr>
{% if s.baseline_accuracy is not none %}<tr><td>{{ s.baseline_name }}</td><td class=n>{{ s.baseline_accuracy|percent }} ±
{{ s.baseline_sd|percent }}</td><td class=n>{{ s.baseline_ci95|interval }}</td><td class=n>{{ s.chance|percent }}</td><td class=n>–</td></tr>{% endif %}
<tr class=anchor><td>always the most frequent class</td><td class=n>{{ s.most_frequent|percent }}</td><td class=n>–</td>
<td class=n>{{ s.chance|percent }}</td><td class=n>–</td></tr></table></div>
<div class="figures">{{ figure('confusion', px=480) }}</div></section>{% endif %}
"""

PICTURES = """
{% if r.reconstruction %}{% set s = r.reconstruction %}<section><h2>What was drawn</h2>
<p class="note">{{ s.n_pictures }} test pictures. 2-way identification on features of {{ s.features }}: is a drawing nearer to its own
picture than to another one (chance {{ s.two_way_chance|percent }}). Oracle: drawn from the true embedding. Random: drawn from that of
another picture. Protocol: {{ protocol }}.</p>
<div class="figures">{{ figure('contact_sheet', true) }}</div>
<div class="wide"><table>
<tr><th>drawn from</th><th class=n>2-way</th><th class=n>95 % interval</th><th class=n>chance</th><th class=n>PixCorr</th><th class=n>SSIM</th></tr>
<tr class=main><td>EEG</td><td class=n>{{ s.two_way|percent }}</td><td class=n>{{ s.ci95_two_way|interval }}</td>
<td class=n>{{ s.two_way_chance|percent }}</td><td class=n>{{ '%.3f'|format(s.pixcorr) }}</td><td class=n>{{ '%.3f'|format(s.ssim) }}</td></tr>
{% for name, a in s.anchors.items() %}<tr class=anchor><td>{{ name }}</td><td class=n>{{ a.two_way|percent }}</td><td class=n>–</td>
<td class=n>{{ s.two_way_chance|percent }}</td><td class=n>{{ '%.3f'|format(a.pixcorr) }}</td><td class=n>{{ '%.3f'|format(a.ssim) }}</td></tr>{% endfor %}
{% if 'oracle' not in s.anchors %}<tr class=anchor><td>oracle</td><td class=n>{{ s.two_way_oracle|percent }}</td><td class=n>–</td>
<td class=n>{{ s.two_way_chance|percent }}</td><td class=n>–</td><td class=n>–</td></tr>{% endif %}
{% if 'random' not in s.anchors %}<tr class=anchor><td>random</td><td class=n>{{ s.two_way_random|percent }}</td><td class=n>–</td>
<td class=n>{{ s.two_way_chance|percent }}</td><td class=n>–</td><td class=n>–</td></tr>{% endif %}
</table></div>{% if s.p_permutation is not none %}<p class="note">Permutation p {{ s.p_permutation|p }}.</p>{% endif %}
<div class="figures">{{ figure('drawer_training', true) }}</div></section>{% endif %}
"""

RUN = """
{% if r.training or 'training' in images %}<section><h2>Training</h2>
<div class="figures">{{ figure('training', true) }}</div>
{% if r.training %}<div class="wide"><table><tr><th>fold</th><th class=n>training trials</th><th class=n>validation trials</th>
<th class=n>steps</th><th class=n>step kept</th><th class=n>validation score</th></tr>
{% for t in r.training %}<tr><td>{{ t.fold }}</td><td class=n>{{ t.n_train }}</td><td class=n>{{ t.n_val }}</td><td class=n>{{ t.steps }}</td>
<td class=n>{{ t.kept_step }}</td><td class=n>{{ '%.3f'|format(t.val_score) if t.val_score is not none else '–' }}</td></tr>{% endfor %}
</table></div>{% endif %}</section>{% endif %}
{% if r.search %}<section><h2>Search</h2><p class="note">{{ r.search.trials }} configurations, judged by {{ r.search.metric }}.
Best: {% for k, v in r.search.best.items() %}<code>{{ k }} = {{ v }}</code>{{ ', ' if not loop.last }}{% endfor %}.</p>
{% if r.search.table %}<div class="wide"><table><tr>{% for k in r.search.table[0] %}<th>{{ k }}</th>{% endfor %}</tr>
{% for row in r.search.table %}<tr>{% for k in r.search.table[0] %}<td>{{ row.get(k, '–') }}</td>{% endfor %}</tr>{% endfor %}
</table></div>{% endif %}</section>{% endif %}
{% if r.serving %}<section><h2>Serving</h2><p>{{ r.serving.requests }} requests, {{ r.serving.errors }} errors; median
{{ '%.0f'|format(r.serving.p50_ms) }} ms{% if r.serving.p95_ms is not none %}, 95 % within {{ '%.0f'|format(r.serving.p95_ms) }} ms{% endif %}.
{% if r.serving.equal_to_batch_job is not none %}Served pictures are {{ 'those' if r.serving.equal_to_batch_job else 'NOT those' }} of the
batch job for the same seed.{% endif %}</p></section>{% endif %}
{% if r.seconds %}{% set total = r.seconds.values()|sum %}{% set longest = r.seconds.values()|max %}
<section><h2>Time</h2><p class="note">{{ '%.0f'|format(total) }} seconds in all.</p>
<table>{% for stage, s in r.seconds.items() %}<tr><td style="width:22%">{{ stage }}</td>
<td><div class="bar" style="width:{{ '%.1f'|format(100 * s / (longest or 1)) }}%"></div></td>
<td class=n style="width:14%">{{ '%.0f'|format(s) }} s</td></tr>{% endfor %}</table></section>{% endif %}
"""

FACTS = """
<section><h2>Data</h2><dl>
<dt>source</dt><dd>{{ r.data.source.name }} ({{ r.data.source.design }} design;
{{ 'the very picture of a trial is known' if r.data.source.truth == 'picture' else 'only the category of a trial is known' }})</dd>
<dt>licence</dt><dd>{{ r.data.source.licence }}{% if r.data.pictures_licence %}; pictures: {{ r.data.pictures_licence }}{% endif %}</dd>
<dt>cite</dt><dd>{{ r.data.source.citation }}</dd>
<dt>trials</dt><dd>{{ r.data.n_trials }} of {{ r.data.n_pictures }} pictures; {{ r.data.channels|length }} electrodes, {{ r.data.n_times }} times at
{{ '%g'|format(r.data.sfreq_hz) }} Hz from {{ '%g'|format(r.data.tmin_s) }} s</dd>
<dt>target</dt><dd>{{ r.data.target.tower }}, {{ r.data.target.layer }}, {{ r.data.target.dim }} numbers; {{ r.data.target.preprocessing }};
revision {{ r.data.target.revision }}</dd>
<dt>trials left out</dt><dd>{% if r.data.dropped %}{{ r.data.dropped.values()|sum }}<ul>
{% for reason, n in r.data.dropped.items() %}<li>{{ n }}: {{ reason }}</li>{% endfor %}</ul>{% else %}none{% endif %}</dd>
<dt>found by the reader</dt><dd>{% if r.data.findings %}<ul>{% for f in r.data.findings %}<li>{{ f }}</li>{% endfor %}</ul>{% else %}nothing unusual{% endif %}</dd>
</dl></section>
<section><h2>Where these numbers come from</h2><dl>
<dt>recipe, run</dt><dd>{{ r.recipe }}, <span class=mono>{{ r.run_id }}</span></dd>
<dt>protocol</dt><dd>{{ protocol }}</dd>
<dt>manifest</dt><dd class=mono>{{ r.manifest_digest }}</dd>
{% if r.commit %}<dt>commit</dt><dd class=mono>{{ r.commit }}</dd>{% endif %}
{% if r.command %}<dt>command</dt><dd><code>{{ r.command }}</code></dd>{% endif %}
{% if r.date %}<dt>date</dt><dd>{{ r.date }}</dd>{% endif %}
{% for t in r.training if t.bundle_digest %}<dt>bundle {{ t.fold }}</dt><dd class=mono>{{ t.bundle_digest }}</dd>{% endfor %}
{% if r.versions %}<dt>versions</dt><dd>{% for k, v in r.versions.items() %}{{ k }} {{ v }}{{ ' · ' if not loop.last }}{% endfor %}</dd>{% endif %}
</dl></section>
"""

CARDS = """
<div class="cards">
{% if r.retrieval %}{% set s = r.retrieval %}
{{ card('top-1 of ' ~ s.n_way, s.top1|percent, '95 % interval ' ~ s.ci95_top1|interval, 'chance ' ~ s.chance_top1|percent) }}
{{ card('top-5 of ' ~ s.n_way, s.top5|percent, '95 % interval ' ~ s.ci95_top5|interval, 'chance ' ~ s.chance_top5|percent) }}
{{ card('shuffled pairs, top-1', s.shuffled_top1|percent, '95 % of shuffles ' ~ s.shuffled_ci95|interval, 'chance ' ~ s.chance_top1|percent) }}
{% endif %}
{% if r.contrast %}{% set s = r.contrast %}
{{ card('ROC AUC, ' ~ s.labels[1] ~ ' / ' ~ s.labels[0], '%.3f'|format(s.auc), '95 % interval ' ~ s.ci95|auc, 'chance ' ~ s.chance ~ ', p ' ~ s.p_permutation|p) }}
{% if s.baseline_auc is not none %}{{ card(s.baseline_name, '%.3f'|format(s.baseline_auc), '95 % interval ' ~ s.baseline_ci95|auc, 'chance ' ~ s.chance) }}{% endif %}
{% endif %}
{% if r.classes %}{% set s = r.classes %}
{{ card('one of ' ~ s.n_way, s.accuracy|percent, '95 % interval ' ~ s.ci95|interval, 'chance ' ~ s.chance|percent ~ ', p ' ~ s.p_permutation|p) }}{% endif %}
{% if r.reconstruction %}{% set s = r.reconstruction %}
{{ card('drawings, 2-way', s.two_way|percent, '95 % interval ' ~ s.ci95_two_way|interval, 'chance ' ~ s.two_way_chance|percent ~ ', oracle ' ~ s.two_way_oracle|percent) }}{% endif %}
</div>
"""

TEMPLATE = (
    MACROS
    + BASELINES
    + """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>eegdecode: {{ r.recipe }}</title><style>"""
    + STYLE
    + """</style></head><body><main>
<p class="eyebrow">eegdecode · {{ r.recipe }} · {{ r.data.source.name }}</p>
<h1>{{ headline }}</h1>
<p class="note">Protocol: {{ protocol if r.retrieval else protocol_single }}.</p>
"""
    + CARDS
    + """
{% if concerns %}<div class="box warn"><b>Read this first</b><ul>{% for c in concerns %}<li>{{ c }}</li>{% endfor %}</ul></div>
{% elif r.retrieval or (r.contrast and r.contrast.control_auc is not none) %}<div class="box ok">Every control that was run sits on chance.</div>{% endif %}
"""
    + RETRIEVAL
    + SCALING
    + CONFUSIONS
    + CERTAINTY
    + CONFOUNDS
    + CATEGORIES
    + PICTURES
    + RUN
    + FACTS
    + """<footer>This page is one file: it loads nothing from anywhere. Numbers are in summary.json beside it.</footer>
</main></body></html>
"""
)
