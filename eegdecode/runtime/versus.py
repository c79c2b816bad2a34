"""Several recipes and the baselines on the same real trials, with what they differ by.

Shape letters: N trial, C chan, T time.
"""

import json
import tempfile
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from eegdecode import bundle, storage
from eegdecode.config import Experiment, MuseData, Protocol, Section
from eegdecode.data.shardset import ShardSet, test_trials
from eegdecode.data.splits import group_of
from eegdecode.evaluate.contrast import ContrastScore, contrast_report
from eegdecode.evaluate.covariance_baselines import RIEMANN
from eegdecode.evaluate.statistics import PairedTest, paired_tests
from eegdecode.models.options import subject_rows
from eegdecode.recipes import RECIPES
from eegdecode.recipes.muse import ON_MUSE, on_muse
from eegdecode.runtime import places
from eegdecode.runtime.categories import Division, candidate_scores, log_odds, two_categories
from eegdecode.runtime.category_baselines import LDA, TwoCategories, baseline_contrast
from eegdecode.runtime.prepare import prepare
from eegdecode.runtime.progress import say
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold, make_bundle
from eegdecode.train.loop import fit

STEPS, LR = 60, 1e-3
"""Of recipes that are trained by gradient: a comparison of a dozen on two cores."""
BRAINDECODE = ("eegnet", "shallownet", "deepnet")


class DivisionVersus(Section):
    """What one division of the trials gave."""

    split_by: Division
    recipes: dict[str, ContrastScore]
    baselines: dict[str, ContrastScore]
    best_recipe: str
    """Has the highest AUC on test trials: a description of this table, not a choice that could be reported alone."""
    best_baseline: str
    against_best_baseline: tuple[PairedTest, ...]
    """Every recipe, first, with the best baseline, second; Holm over these tests."""
    best_against_baselines: tuple[PairedTest, ...]
    """Every baseline, first, with the best recipe, second; Holm over these tests."""


class Versus(Section):
    """Recipes and baselines on one data set."""

    data: str
    steps: int
    lr: float
    divisions: tuple[DivisionVersus, ...]


def rivals(muse: Experiment) -> dict[str, Experiment]:
    """Return what is compared on the data of a Muse recipe: its family, and published ones that fit four electrodes."""
    task = muse.data.source.task if isinstance(muse.data.source, MuseData) else ""
    own = {name: make() for name, make in RECIPES.items() if task and name.startswith(f"muse_{task}")}
    if not own:
        raise ValueError(f"recipe '{muse.recipe}' must be of the headband's data, got '{muse.data.source.kind}'.")
    found = {name: experiment.model_copy(update={"compute": muse.compute}) for name, experiment in own.items()}
    found |= {name: on_muse(RECIPES[name](), muse, STEPS, LR) for name in ON_MUSE}
    for name in BRAINDECODE:
        found[name] = found["nice"].override({"recipe": name, "encoder.name": name, "encoder.whiten": "scale"})
    return {
        name: experiment.override({"compute.engine": "torch", "compute.workers": 1, "protocol.control_window_s": None})
        for name, experiment in found.items()
    }


def versus(muse: Experiment) -> Versus:
    """Prepare, train and score everything on the data of a Muse recipe; write versus.json and versus.md.

    Raises
    ------
    ValueError
        Recipes whose way of cutting drops other trials.
    """
    experiments = rivals(muse)
    own = next(iter(experiments.values()))
    for each in {(places.shards(e), e.targets.tower): e for e in experiments.values()}.values():
        prepare(each)
    shards = {name: places.open_set(e, verify=False) for name, e in experiments.items()}
    first = places.open_set(own, verify=False)
    for name, other in shards.items():
        if other.table["key"].tolist() != first.table["key"].tolist():
            raise ValueError(
                f"recipe '{name}' must be scored on the trials of '{own.recipe}', and its cut keeps others."
            )
    divisions = []
    for by in (own.protocol.split_by, *own.protocol.also_split_by):
        assert by != "subject_concept"  # there are two categories, and both are learnt from
        rows_N, asked = _asked(own, first, by)
        baselines = _baselines(asked, own.protocol)
        recipes = {}
        for name, experiment in experiments.items():
            decision_N = decisions(experiment, shards[name], by)[rows_N]
            recipes[name] = _report(experiment.protocol, decision_N, asked)
            say(f"versus: {by}: {name} {recipes[name].auc:.3f}")
        divisions.append(compared(by, recipes, baselines))
    found = Versus(data=own.recipe, steps=STEPS, lr=LR, divisions=tuple(divisions))
    write(places.report(muse), found)
    return found


def decisions(experiment: Experiment, shards: ShardSet, by: Division) -> NDArray[np.float64]:
    """Return each trial's log odds by the bundle of the fold that it is a test trial of, NaN for other categories.

    Every fold is trained, bundled, and read again before it sees its test trials.
    """
    labels = experiment.protocol.contrast
    if labels is None:
        raise ValueError(f"recipe '{experiment.recipe}' needs protocol.contrast, the two categories, got none.")
    decision_N = np.full(len(shards.table), np.nan)
    for fold in (fold for fold in shards.folds if fold.by == by):
        run = build_fold(experiment, shards, fold, 0, 1)
        schedule = experiment.schedule
        engine = build_engine(run.task, schedule, experiment.compute, experiment.loss.contrastive_batch)
        fit(engine, run.stream, schedule)
        made = make_bundle(experiment, shards, run, schedule.steps, None, None)
        with tempfile.TemporaryDirectory() as folder:
            bundle.save(folder, made)
            made = bundle.load(folder)
        test_N = test_trials(shards, fold)
        row_N = subject_rows(made.fact.subjects, shards.table["subject"].iloc[test_N])
        with torch.no_grad():
            z_ND = made.decoder.eval()(torch.from_numpy(shards.gather(test_N)).float(), row_N).numpy()
        decision_N[test_N] = log_odds(candidate_scores(made, z_ND), made.gallery.concepts, labels)
    return decision_N


def compared(
    by: Division, recipes: Mapping[str, ContrastScore], baselines: Mapping[str, ContrastScore]
) -> DivisionVersus:
    """Return the scores of a division with their paired tests, over subjects or runs."""
    best_recipe = max(recipes, key=lambda name: recipes[name].auc)
    best_baseline = max(baselines, key=lambda name: baselines[name].auc)
    unit, seed = f"{by}s", 0

    def tests(against: tuple[str, ContrastScore], others: Mapping[str, ContrastScore]) -> tuple[PairedTest, ...]:
        name, score = against
        table = {name: score.per_fold} | {other: found.per_fold for other, found in others.items()}
        return paired_tests(table, unit=unit, against=name, seed=seed)

    return DivisionVersus(
        split_by=by,
        recipes=dict(recipes),
        baselines=dict(baselines),
        best_recipe=best_recipe,
        best_baseline=best_baseline,
        against_best_baseline=tests((best_baseline, baselines[best_baseline]), recipes),
        best_against_baselines=tests((best_recipe, recipes[best_recipe]), baselines),
    )


def write(uri: str, found: Versus) -> None:
    """Write the comparison as JSON and as a table for people."""
    storage.write_bytes(storage.join(uri, "versus.json"), json.dumps(found.model_dump(mode="json"), indent=1).encode())
    storage.write_bytes(storage.join(uri, "versus.md"), table(found).encode())


def table(found: Versus) -> str:
    """Return the comparison in Markdown, best first."""
    lines = [
        f"# {found.data}: recipes and baselines",
        "",
        f"ROC AUC, mean over what is left out; interval: what is left out, then trials, drawn with replacement. "
        f"Recipes trained by gradient take {found.steps} steps at a rate of {found.lr:g}. Difference: recipe minus the "
        "best baseline, interval over what is left out, p by Wilcoxon's signed ranks, Holm over the recipes. p of an "
        "AUC: labels permuted; baselines are trained again on them where the JSON says `refitted`, recipes are not.",
    ]
    for division in found.divisions:
        lines += ["", f"## Leave one {division.split_by} out", ""]
        lines += [
            "| | AUC | 95 % interval | p | difference | 95 % interval | p (Holm) |",
            "|---|---|---|---|---|---|---|",
        ]
        tests = {test.first: test for test in division.against_best_baseline}
        scores = division.recipes | {f"*{name}*": score for name, score in division.baselines.items()}
        for name, score in sorted(scores.items(), key=lambda item: -item[1].auc):
            low, high = score.ci95
            row = f"| {name} | {score.auc:.3f} ± {score.sd:.3f} | {low:.3f} to {high:.3f} | {score.p_permutation:.3f} |"
            test = tests.get(name)
            if test is not None:
                below, above = test.ci95_difference
                row += f" {test.mean_difference:+.3f} | {below:+.3f} to {above:+.3f} | {test.p_holm:.2f} |"
            lines.append(row if test is not None else f"{row} | | |")
        lines += ["", f"The best recipe, {division.best_recipe}, minus each baseline:", ""]
        lines += ["| | difference | 95 % interval | p (Holm) |", "|---|---|---|---|"]
        for test in division.best_against_baselines:  # there a baseline is the first
            low, high = test.ci95_difference
            lines.append(
                f"| *{test.first}* | {-test.mean_difference:+.3f} | {-high:+.3f} to {-low:+.3f} | {test.p_holm:.2f} |"
            )
        smallest = min(test.smallest_p_holm for test in division.against_best_baseline)
        lines += [
            "",
            f"Baselines are in italics; best: {division.best_baseline}. No p here can be below {smallest:.2g}.",
        ]
    return "\n".join(lines) + "\n"


def _asked(experiment: Experiment, shards: ShardSet, by: Division) -> tuple[NDArray[np.int64], TwoCategories]:
    """Return the rows of the two categories in the order of the set, and what is asked of them."""
    labels = experiment.protocol.contrast
    if labels is None:
        raise ValueError(f"recipe '{experiment.recipe}' needs protocol.contrast, the two categories, got none.")
    rows_N, positive_N = two_categories(shards.table, labels)
    run_N, left_N = (group_of(shards.table, kind).astype(str)[rows_N] for kind in ("run", by))
    return rows_N, TwoCategories(
        eeg_uv_NCT=shards.gather(rows_N),
        sfreq_hz=shards.manifest.sfreq_hz,
        tmin_s=shards.manifest.tmin_s,
        positive_N=positive_N,
        fold_N=left_N,
        run_N=run_N,
        position_N=shards.table["position"].to_numpy()[rows_N],
        labels=labels,
        split_by=by,
    )


def _baselines(asked: TwoCategories, protocol: Protocol) -> dict[str, ContrastScore]:
    found = {}
    for name in (LDA, *RIEMANN):
        found[name] = baseline_contrast(name, asked, protocol)
        say(f"versus: {asked.split_by}: {name} {found[name].auc:.3f}")
    return found


def _report(protocol: Protocol, decision_N: NDArray[np.float64], asked: TwoCategories) -> ContrastScore:
    return contrast_report(
        decision_N,
        asked.positive_N,
        asked.fold_N,
        asked.run_N,
        asked.position_N,
        labels=asked.labels,
        split_by=asked.split_by,
        permute=protocol.permute,
        n_permutations=protocol.permutations,
        seed=protocol.seed,
    )
