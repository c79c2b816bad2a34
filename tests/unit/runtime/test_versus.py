"""Several recipes beside the baselines: out-of-fold decisions, differences and the table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from eegdecode.data import shardset
from eegdecode.evaluate.contrast import ContrastScore, contrast_report
from eegdecode.recipes import RECIPES
from eegdecode.recipes.muse import ON_MUSE, on_muse
from eegdecode.runtime import places
from eegdecode.runtime.versus import Versus, compared, decisions, rivals, table
from eegdecode.train.fold import build_fold, embedded_targets
from tests.writers.synthetic_set import EPOCHS, SOURCE, SyntheticSet

UNITS = [f"sub-{k}" for k in range(6)]


def score(seed: int, strength: float) -> ContrastScore:
    """Decisions on six people of 40 trials each."""
    rng = np.random.default_rng(seed)
    positive_N, fold_N = np.tile([True, False], 120), np.repeat(UNITS, 40)
    return contrast_report(
        strength * positive_N + rng.normal(size=240),
        positive_N,
        fold_N,
        fold_N,
        np.tile(np.arange(40), 6),
        labels=("house", "face"),
        split_by="subject",
        permute="trials",
        n_permutations=50,
        seed=0,
    )


def test_every_recipe_is_tested_against_the_best_baseline_with_holm() -> None:
    recipes = {"a": score(0, 2.0), "b": score(1, 0.3)}
    baselines = {"weak": score(2, -0.5), "strong": score(3, 1.0)}
    found = compared("subject", recipes, baselines)
    assert (found.best_recipe, found.best_baseline) == ("a", "strong")
    assert [(t.first, t.second, t.unit) for t in found.against_best_baseline] == [
        ("a", "strong", "subjects"),
        ("b", "strong", "subjects"),
    ]
    assert [(t.first, t.second) for t in found.best_against_baselines] == [("weak", "a"), ("strong", "a")]
    by_hand = {}
    for test in found.against_best_baseline:
        differences = [recipes[test.first].per_fold[u] - baselines["strong"].per_fold[u] for u in UNITS]
        assert test.mean_difference == pytest.approx(np.mean(differences))
        assert test.ci95_difference[0] < test.mean_difference < test.ci95_difference[1]
        by_hand[test.first] = float(stats.wilcoxon(differences, method="exact").pvalue)
        assert test.p == pytest.approx(by_hand[test.first])
    assert by_hand["a"] == by_hand["b"] == pytest.approx(2 / 2**6)  # all six of one sign
    assert all(test.p_holm == pytest.approx(2 * 2 / 2**6) for test in found.against_best_baseline)
    page = table(Versus(data="muse_n170", steps=60, lr=1e-3, divisions=(found,)))
    rows = [line for line in page.splitlines() if line.startswith(("| a", "| b", "| *"))]
    minus = rows[4:]
    del rows[4:]
    assert [row.split(" | ")[0] for row in rows] == ["| a", "| *strong*", "| b", "| *weak*"]
    assert f"{recipes['a'].auc:.3f} ± {recipes['a'].sd:.3f}" in rows[0]
    assert f" {found.against_best_baseline[0].mean_difference:+.3f} |" in rows[0]
    assert "0.06 |" in rows[0]
    difference = np.mean([recipes["a"].per_fold[u] - baselines["weak"].per_fold[u] for u in UNITS])
    assert minus[0].startswith(f"| *weak* | {difference:+.3f} |")


@pytest.mark.parametrize("task", ["gratings", "n170"])
def test_what_is_compared_has_one_protocol_and_one_target(task: str) -> None:
    found = rivals(RECIPES[f"muse_{task}"]())
    assert set(ON_MUSE) < set(found)
    own = {name for name in found if name.startswith("muse_")}
    assert own == {f"muse_{task}{encoder}" for encoder in ("", "_riemann", "_riemann_erp", "_riemann_samples")}
    wanted = found[f"muse_{task}"]
    for name, experiment in found.items():
        assert experiment.protocol == wanted.protocol, name
        layers = "@mean(blocks.5.0,blocks.5.1,blocks.5.2)" if experiment.targets.router else ""
        assert experiment.targets.tower == wanted.targets.tower + layers, name
        assert experiment.data.source == wanted.data.source, name
        assert experiment.data.epochs.model_copy(update={"sfreq_hz": 64.0}) == wanted.data.epochs, name
    assert [name for name, experiment in found.items() if experiment.targets.router] == ["samga"]


def test_a_published_recipe_keeps_its_decoder_and_loss() -> None:
    muse = RECIPES["muse_n170"]()
    nice = on_muse(RECIPES["nice"](), muse, 7, 1e-3)
    assert nice.encoder == RECIPES["nice"]().encoder
    assert (nice.loss.temperature, nice.loss.learn_temperature, nice.schedule.steps) == (0.07, False, 7)
    assert nice.schedule.betas == (0.5, 0.999)
    assert [term.label for term in on_muse(RECIPES["atm"](), muse, 7, 1e-3).loss.terms] == ["info_nce"]
    assert [term.label for term in on_muse(RECIPES["distill"](), muse, 7, 1e-3).loss.terms] == ["info_nce"]
    assert on_muse(RECIPES["perceptogram"](), muse, 7, 1e-3).schedule.steps == 0
    samga = on_muse(RECIPES["samga"](), muse, 7, 1e-3)
    assert [(term.name, term.weight) for term in samga.loss.terms] == [("mmd_unbiased", 0.5), ("info_nce", 0.5)]
    assert samga.targets.router is not None
    assert samga.targets.router.reduced == 1024


def test_decisions_are_those_of_decoders_that_have_not_seen_the_trial(tmp_path: Path) -> None:
    made = SyntheticSet(tmp_path)
    shown = sorted(made.training)[:2]
    experiment = RECIPES["muse_n170_riemann"]().override(
        {
            "data.source": SOURCE.model_dump(mode="json"),
            "data.epochs": EPOCHS.model_dump(mode="json"),
            "protocol.contrast": shown,
            "protocol.also_split_by": [],
            "loss.contrastive_batch": 32,
            "compute.engine": "torch",
        }
    )
    targets = made.targets(places.towers(experiment))
    shards = shardset.open_shards(made.uri, verify=False, targets=targets, protocol=experiment.protocol)
    found_N = decisions(experiment, shards, "run")
    fold = shards.folds[0]
    decoder = build_fold(experiment, shards, fold, 0, 1).task.decoder.eval()
    test_N = shardset.test_trials(shards, fold)
    rows = np.unique(shards.picture_row[test_N])
    target_PD = embedded_targets(decoder, shards.target_PD[rows]).astype(np.float64)
    target_PD /= np.linalg.norm(target_PD, axis=1, keepdims=True)
    with torch.no_grad():
        z_ND = decoder(torch.from_numpy(shards.gather(test_N)).float()).double().numpy()
    logits_NP = z_ND @ target_PD.T / experiment.loss.temperature
    low, high = (np.log(np.exp(logits_NP[:, [made.concepts[r] == name for r in rows]]).sum(axis=1)) for name in shown)
    assert np.isfinite(high - low).all()
    assert found_N[test_N] == pytest.approx(high - low, abs=1e-4)
