"""Every recipe, its data replaced by small synthetic ones: it trains, is bundled, and is read again as it was."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from eegdecode import bundle
from eegdecode.config import Experiment
from eegdecode.data import shardset
from eegdecode.data.shardset import ShardSet, open_shards
from eegdecode.data.sources.forward_model import Generator
from eegdecode.data.splits import TEST
from eegdecode.models.options import subject_rows
from eegdecode.models.router import LayerTarget
from eegdecode.recipes import RECIPES
from eegdecode.recipes.ubp import SOFTPLUS_TEMPERATURE
from eegdecode.runtime import places
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import FoldRun, build_fold, embedded_targets, make_bundle
from eegdecode.train.loop import Report, fit
from tests.writers.synthetic_set import EPOCHS, SOURCE, SyntheticSet

STEPS = 40
SMALL: dict[str, Any] = {
    "data.source": SOURCE.model_dump(mode="json"),
    "data.epochs": EPOCHS.model_dump(mode="json"),
    "loss.contrastive_batch": 32,
    "schedule.steps": STEPS,
    "schedule.lr": 1e-3,
    "schedule.validate_every": STEPS // 2,
    "compute.engine": "torch",
    "compute.workers": 1,
}
"""For all of them; the course of a paper would take hours."""
ALSO: dict[str, dict[str, Any]] = {
    "demo": {"targets.project": 8, "protocol.n_val": 3, "schedule.lr": 1e-5},
    "canonical": {"targets.project": 8, "protocol.n_val": 3},
    "canonical_photographs": {"targets.project": 8, "protocol.n_val": 3},
    "things_eeg2": {"targets.project": 8, "protocol.n_val": 3, "schedule.lr": 1e-5},
    "bids": {"targets.project": 8, "protocol.n_val": 3, "schedule.lr": 1e-5},
    "eegcvpr40": {"targets.project": 8, "protocol.n_val": 3, "schedule.lr": 1e-5},
    "muse_gratings": {},
    "muse_n170": {},
    "muse_gratings_riemann": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "muse_n170_riemann": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "muse_gratings_riemann_erp": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "muse_n170_riemann_erp": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "muse_gratings_riemann_samples": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "muse_n170_riemann_samples": {"schedule.steps": 0, "encoder.alphas": [30.0]},
    "nice": {"protocol.n_val": 3},
    "nice_sa": {"protocol.n_val": 3},
    "nice_ga": {"protocol.n_val": 3},
    "nice_learnt_temperature": {"protocol.n_val": 3},
    "atm": {"protocol.n_val": 3},
    "atm_published": {"protocol.n_val": 3},
    "ubp": {"protocol.n_val": 3},
    "ubp_fixed_blur": {"protocol.n_val": 3},
    "neurobridge": {"protocol.n_val": 3, "targets.project": 16},
    "samga": {"protocol.n_val": 3, "targets.project": 16, "targets.router.reduced": 12},
    "distill": {"protocol.n_val": 8},
    "distill_wavelet": {"protocol.n_val": 8},
    "neuroimagen": {"protocol.n_val": 8},
    "neuroimagen_label": {"protocol.n_val": 8},
    "perceptogram": {"protocol.n_val": 3, "schedule.steps": 0},
}
"""What fits a recipe to the small set beside `SMALL`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    torch.set_num_threads(2)
    return SyntheticSet(tmp_path_factory.mktemp("synthetic"))


def small(name: str) -> Experiment:
    return RECIPES[name]().override(SMALL | ALSO[name])


def opened(made: SyntheticSet, experiment: Experiment) -> ShardSet:
    targets = made.targets(places.towers(experiment))
    return open_shards(made.uri, verify=False, targets=targets, protocol=experiment.protocol)


def trained(experiment: Experiment, run: FoldRun) -> list[float]:
    """Train a fold and return the loss of every step."""
    losses: list[float] = []
    fit(
        build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch),
        run.stream,
        experiment.schedule,
        Report(scalars=lambda progress, scalars: losses.append(scalars["loss"])),
        run.validation if experiment.protocol.selection == "validation" else None,
        log_every=1,
    )
    return losses


def loss_of(run: FoldRun) -> float:
    batches = run.stream.starting_at(0)
    with torch.no_grad():
        loss = float(run.task.eval()(next(batches))[0])
    batches.close()
    return loss


def test_every_recipe_is_here() -> None:
    assert set(ALSO) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_is_read_again(name: str, made: SyntheticSet, tmp_path: Path) -> None:
    experiment = small(name)
    shards = opened(made, experiment)
    fold = shards.folds[-1]
    run = build_fold(experiment, shards, fold, 0, 1)
    if experiment.encoder.start == "random":
        losses = trained(experiment, run)
        assert len(losses) == STEPS
        first, last = np.mean(losses[:5]), np.mean(losses[-5:])
    else:  # the closed form has done the most of it before the first step
        first = loss_of(build_fold(experiment, shards, fold, 0, 1, start=False))
        trained(experiment, run)
        last = loss_of(run)
    assert last < 0.97 * first
    saved = make_bundle(experiment, shards, run, experiment.schedule.steps, None, None)
    bundle.save(str(tmp_path), saved)
    again = bundle.load(str(tmp_path))
    tested = shardset.test_trials(shards, fold)[:5]
    eeg, subjects = torch.from_numpy(shards.gather(tested)), shards.table["subject"].iloc[tested]
    with torch.no_grad():
        before, after = (
            one.decoder.eval().predict(eeg, subject_rows(one.fact.subjects, subjects)) for one in (saved, again)
        )
    features = {"features"} if experiment.encoder.features else set()
    assert set(before) == set(after) == {"", *run.task.decoder.heads} | features
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert np.array_equal(again.gallery.target_PD, saved.gallery.target_PD)
    assert before[""].shape[1] == saved.gallery.target_PD.shape[1]


def top1(experiment: Experiment, shards: ShardSet, run: FoldRun) -> tuple[int, int]:
    """Return how many test pictures of a subject are found by their averaged EEG, of how many; all test candidates."""
    trials = shardset.test_trials(shards, run.fold)
    table = shards.table.iloc[trials]
    rows = np.unique(shards.picture_row[trials])
    candidate_PD = embedded_targets(run.task.decoder.eval(), shards.target_PD[rows])
    candidate_PD /= np.linalg.norm(candidate_PD, axis=1, keepdims=True)
    right, n = 0, 0
    for (subject, row), members in table.groupby(["subject", "picture_row"]):
        eeg = shards.gather(members.index.to_numpy()).mean(axis=0, dtype=np.float32)
        with torch.no_grad():
            z = run.task.decoder(torch.from_numpy(eeg[None]), subject_rows(run.subjects, [subject])).numpy()[0]
        right += int(rows[np.argmax(candidate_PD @ z)] == row)
        n += 1
    return right, n


QUIET = SOURCE.model_copy(
    update={"n_subjects": 1, "n_train_concepts": 48, "pictures_per_concept": 6, "n_test_concepts": 20}
)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    """One subject whose brain answers a picture almost alike each time, so that little data show an effect."""
    return SyntheticSet(tmp_path_factory.mktemp("quiet"), QUIET, Generator(variability=0.3))


def told_others(shards: ShardSet, seed: int) -> np.ndarray:
    """Return a picture row for every trial, exchanged at random among those that are not tested."""
    told = shards.picture_row.astype(np.int64).copy()
    training = np.flatnonzero(shards.part_of(shards.folds[0]) != TEST)
    told[training] = np.random.default_rng(seed).permutation(told[training])
    return told


def told_renamed(shards: ShardSet, seed: int) -> np.ndarray:
    """Return a picture row for every trial: labels of the pictures that are not tested, permuted among them.

    All trials of a picture keep one label, so that a decoder can learn it, class heads and triplets among them.
    """
    named = np.arange(len(shards.picture_ids))
    training = np.unique(shards.picture_row[shards.part_of(shards.folds[0]) != TEST])
    named[training] = np.random.default_rng(seed).permutation(training)
    renamed: np.ndarray = named[shards.picture_row]
    return renamed


def within_chance(right: int, n: int, chance: float) -> bool:
    low, high = stats.binom.interval(0.999, n, chance)
    return bool(low <= right <= high)


@pytest.mark.parametrize("name", RECIPES)
def test_shuffled_pairs_land_on_chance(name: str, quiet: SyntheticSet, made: SyntheticSet) -> None:
    """In closed form and by gradient; and so do weights that were never fitted. Where runs are split there are many."""
    experiment = small(name)
    shards = opened(made if experiment.protocol.split_by == "run" else quiet, experiment)
    fold = shards.folds[0]
    chance = 1 / len(np.unique(shards.picture_row[shardset.test_trials(shards, fold)]))
    right = n = 0
    for seed in range(2):
        run = build_fold(experiment, shards, fold, 0, 1, told=told_others(shards, seed))
        trained(experiment, run)
        found = top1(experiment, shards, run)
        right, n = right + found[0], n + found[1]
    assert within_chance(right, n, chance), (right, n)
    unfitted = build_fold(experiment, shards, fold, 0, 1, start=False)
    assert within_chance(*top1(experiment, shards, unfitted), chance)


@pytest.mark.parametrize("name", [name for name in RECIPES if small(name).protocol.split_by != "run"])
def test_permuted_labels_land_on_chance(name: str, quiet: SyntheticSet) -> None:
    """Where runs are split, all pictures are tested, and a label of a trial is its pair: see the shuffled pairs."""
    experiment = small(name)
    shards = opened(quiet, experiment)
    run = build_fold(experiment, shards, shards.folds[0], 0, 1, told=told_renamed(shards, 0))
    trained(experiment, run)
    assert within_chance(*top1(experiment, shards, run), 1 / QUIET.n_test_concepts)


@pytest.mark.parametrize("name", ["perceptogram", "ubp", "samga"])
def test_true_pairs_are_above_chance(name: str, quiet: SyntheticSet) -> None:
    """Without it the test of shuffled pairs could not fail."""
    experiment = small(name)
    shards = opened(quiet, experiment)
    run = build_fold(experiment, shards, shards.folds[0], 0, 1)
    trained(experiment, run)
    right, n = top1(experiment, shards, run)
    assert stats.binom.sf(right - 1, n, 1 / QUIET.n_test_concepts) < 0.001, (right, n)


def test_the_state_of_a_recipe_with_levels_is_resumed(made: SyntheticSet, tmp_path: Path) -> None:
    """Twenty and twenty steps are forty to the bit: similarities and levels are a part of the state."""
    experiment = small("ubp").override({"schedule.save_every": 20})
    shards = opened(made, experiment)

    def weights(resume_from: Path | None) -> dict[str, torch.Tensor]:
        run = build_fold(experiment, shards, shards.folds[0], 0, 1)
        engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
        fit(engine, run.stream, experiment.schedule, save_dir=tmp_path, resume_from=resume_from)
        return engine.weights()

    whole = weights(None)
    again = weights(tmp_path / "step-00000020")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert set(whole["levels.level_P"].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", ["ubp", "samga", "atm"])
def test_deepspeed_takes_levels_routers_and_heads(name: str, made: SyntheticSet) -> None:
    experiment = small(name).override({"schedule.steps": 6, "schedule.validate_every": 6})
    shards = opened(made, experiment)
    plain, deep = (
        trained(changed, build_fold(changed, shards, shards.folds[0], 0, 1))
        for changed in (experiment, experiment.override({"compute.engine": "deepspeed"}))
    )
    assert deep == pytest.approx(plain, rel=1e-4)


def test_hard_labels_need_the_columns_of_the_target_in_the_order_of_the_concepts(made: SyntheticSet) -> None:
    experiment = small("distill")
    shards = opened(made, experiment)
    shards.target.target_PD[:] = np.roll(shards.target.target_PD, 1, axis=1)
    with pytest.raises(ValueError, match="only 0 of 16 concepts is largest in its own column"):
        build_fold(experiment, shards, shards.folds[0], 0, 1)
    other = experiment.override({"targets.tower": "gabor"})
    with pytest.raises(ValueError, match=r"one column for each of 16 training concepts, got \d+"):
        build_fold(other, opened(made, other), shards.folds[0], 0, 1)


def test_what_a_recipe_is_built_of(made: SyntheticSet) -> None:
    """Heads where lengths differ and only there, the router behind SAMGA, levels behind UBP, concepts by training."""

    def run(name: str) -> FoldRun:
        experiment = small(name)
        shards = opened(made, experiment)
        return build_fold(experiment, shards, shards.folds[0], 0, 1)

    assert {name: head.out_features for name, head in run("atm").task.decoder.heads.items()} == {"text": 20}
    assert set(run("perceptogram").task.decoder.heads) == {"text", "vae"}
    assert isinstance(run("samga").task.decoder.target_map, LayerTarget)
    assert run("ubp").task.levels is not None
    assert run("ubp_fixed_blur").task.levels is None
    assert run("nice").task.concept_P is None
    concept_P = run("neuroimagen").task.concept_P
    assert concept_P is not None
    wanted = [made.training.index(c) if c in made.training else -1 for c in made.concepts]
    assert concept_P.tolist() == wanted


RN50, VIT_L, VIT_H = "open_clip:RN50:openai", "open_clip:ViT-L-14:openai", "open_clip:ViT-H-14:laion2b_s32b_b79k"
NICE = {
    "schedule.lr": 2e-4,
    "schedule.betas": (0.5, 0.999),
    "schedule.weight_decay": 0.0,
    "loss.contrastive_batch": 1000,
    "loss.temperature": 0.07,
    "loss.learn_temperature": False,
    "loss.normalise": "both",
    "stream.average": 0,
    "targets.tower": VIT_L,
    "targets.centre": False,
    "protocol.gallery": "concept",
    "data.epochs.mvnn": "epochs",
    "data.epochs.channels": None,
    "data.epochs.sfreq_hz": 250.0,
    "data.epochs.tmin_s": -0.2,
    "data.epochs.tmax_s": 1.0,
    "encoder.dropout": 0.5,
    "encoder.whiten": "none",
}
SOFT = math.log1p(1 / 0.07)
PAPERS: dict[str, dict[str, Any]] = {
    "nice": NICE | {"encoder.name": "nice"},
    "nice_sa": NICE | {"encoder.name": "nice_sa"},
    "nice_ga": NICE | {"encoder.name": "nice_ga"},
    "nice_learnt_temperature": NICE | {"loss.learn_temperature": True},
    "atm": {
        "schedule.lr": 3e-4,
        "loss.contrastive_batch": 64,
        "stream.average": 1,
        "targets.tower": VIT_H,
        "loss.normalise": "both",
        "loss.temperature": 0.07,
        "loss.learn_temperature": True,
        "encoder.name": "atm",
        "encoder.subject_layer": "token",
    },
    "atm_published": {
        "schedule.lr": 3e-4,
        "loss.contrastive_batch": 64,
        "stream.average": 1,
        "loss.normalise": "target",
        "loss.temperature": 1 / math.log(1 / 0.07),
        "encoder.name": "atm_published",
        "encoder.subject_layer": "token",
    },
    "ubp": {
        "schedule.lr": 1e-4,
        "schedule.weight_decay": 1e-4,
        "loss.contrastive_batch": 1024,
        "loss.normalise": "target",
        "loss.temperature": 1 / SOFT,
        "stream.average": 0,
        "encoder.dropout": 0.3,
        "targets.tower": RN50 + "#fovea(kernel=51; curve=exp; g=3.0)",
        "targets.levels.gamma": 0.3,
        "targets.levels.alpha": 0.05,
    },
    "neurobridge": {
        "schedule.lr": 1e-4,
        "schedule.weight_decay": 1e-4,
        "schedule.seed": 2025,
        "loss.contrastive_batch": 1024,
        "loss.normalise": "target",
        "loss.temperature": 1 / SOFT,
        "loss.learn_temperature": False,
        "targets.project": 512,
        "targets.tower": RN50 + "#blur+noise+lowres+mosaic",
        "stream.augment.smooth": 0.3,
        "stream.augment.smooth_samples": 5,
    },
    "samga": {
        "schedule.lr": 1e-4,
        "loss.contrastive_batch": 512,
        "targets.router.depths": (20, 24, 28, 32, 36),
        "targets.router.centre": 28,
    },
    "perceptogram": {
        "data.source.layout": "gifford",
        "data.epochs.sfreq_hz": 100.0,
        "data.epochs.crop_s": (0.0, 0.79),
        "stream.average": 0,
        "encoder.start": "ridge",
        "schedule.steps": 0,
    },
    "distill": {"protocol.split_by": "picture", "encoder.name": "spectrogram", "data.source.kind": "eegcvpr40"},
    "distill_wavelet": {"encoder.name": "scalogram"},
    "neuroimagen": {"protocol.split_by": "picture", "data.source.kind": "eegcvpr40"},
    "neuroimagen_label": {"protocol.split_by": "picture", "data.source.kind": "eegcvpr40"},
}
"""The table of the papers (field.md, section B)."""
PASSES = {"nice": (200, 15_800), "atm": (40, 66_160), "ubp": (50, 16_540), "neurobridge": (50, 16_540)}
TERMS = {
    "atm": [("info_nce", "", 0.99), ("info_nce", "text", 0.01)],
    "atm_published": [("info_nce", "", 0.99), ("info_nce", "text", 0.01)],
    "samga": [("mmd_unbiased", "", 0.5), ("info_nce", "", 0.5)],
    "distill": [("ce_hard", "", 1.0), ("ce_soft", "", 1.0)],
    "neuroimagen": [("triplet", "features", 1.0), ("mse", "", 1.0)],
    "neuroimagen_label": [("triplet", "features", 1.0), ("mse", "", 1.0)],
}


@pytest.mark.parametrize("name", PAPERS)
def test_hyper_parameters_are_those_of_the_paper(name: str) -> None:
    experiment = RECIPES[name]()
    for field, wanted in PAPERS[name].items():
        value: Any = experiment
        for part in field.split("."):
            value = getattr(value, part)
        assert value == (pytest.approx(wanted) if isinstance(wanted, float) else wanted), field
    if name in PASSES:
        passes, samples = PASSES[name]
        trained = experiment.schedule.steps * experiment.loss.contrastive_batch
        assert trained == pytest.approx(passes * samples, rel=1e-3)
        assert (experiment.schedule.decay, experiment.schedule.warmup_steps) == ("constant", 0)
        assert experiment.schedule.grad_clip == 0
    if name in TERMS:
        assert [(term.name, term.target, term.weight) for term in experiment.loss.terms] == TERMS[name]


def test_the_scale_of_ubp_is_that_of_the_golden_case() -> None:
    assert pytest.approx(2.7269186973571777, rel=1e-6) == 1 / SOFTPLUS_TEMPERATURE
    channels = RECIPES["ubp"]().data.epochs.channels
    assert channels is not None
    assert len(channels) == len(set(channels)) == 17


def test_every_published_recipe_is_held_against_its_paper() -> None:
    own = {"demo", "canonical", "canonical_photographs", "things_eeg2", "bids", "eegcvpr40", "ubp_fixed_blur"}
    encoders = ("", "_riemann", "_riemann_erp", "_riemann_samples")
    muse = {f"muse_{task}{encoder}" for task in ("gratings", "n170") for encoder in encoders}
    assert set(RECIPES) == set(PAPERS) | own | muse
