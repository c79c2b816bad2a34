"""Twelve errors of this field, planted one at a time on the real path: each is refused, or changes nothing.

Every docstring says what was planted and what catches it. Without the guard it names, the test fails.
"""

import ast
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mypy import api as mypy
from pydantic import ValidationError

from eegdecode import bundle
from eegdecode.batch import Fold
from eegdecode.bundle import Bundle
from eegdecode.config import Compute, Encoder, Experiment, Loss, Protocol, Schedule, Targets
from eegdecode.data import shards as packing
from eegdecode.data.epochs import cut
from eegdecode.data.shards import PackedPicture
from eegdecode.data.shardset import ShardSet, open_shards, test_trials
from eegdecode.data.sources.synthetic import SyntheticSource
from eegdecode.data.splits import make_folds
from eegdecode.data.trials import join
from eegdecode.evaluate.report import Report
from eegdecode.evaluate.retrieval import RetrievalScore, average_repetitions, check_comparable, retrieval_report
from eegdecode.evaluate.transductive import TransductiveScore, transductive_assignment, transductive_scores
from eegdecode.runtime import places
from eegdecode.runtime.prepare import training_noise
from eegdecode.runtime.tested import open_tested
from eegdecode.train import fold as folding
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold, make_bundle
from eegdecode.train.loop import fit
from eegdecode.train.validation import validation_of
from tests.writers import shard_set
from tests.writers.synthetic_set import EPOCHS, SOURCE, SyntheticSet

ROOT = Path(__file__).resolve().parents[2]
test_trials.__test__ = False  # type: ignore[attr-defined]
SMALL = Experiment(
    recipe="planted",
    data={"source": SOURCE, "epochs": EPOCHS},
    targets=Targets(tower="gabor"),
    encoder=Encoder(name="mlp", whiten="channels"),
    loss=Loss(contrastive_batch=32),
    schedule=Schedule(steps=6, validate_every=3, warmup_steps=1, seed=4),
    protocol=Protocol(n_val=3, permutations=20),
    compute=Compute(engine="torch"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    return SyntheticSet(tmp_path_factory.mktemp("planted"))


def opened(made: SyntheticSet, experiment: Experiment = SMALL, uri: str = "", target: str = "") -> ShardSet:
    targets = {"": target} if target else made.targets(places.towers(experiment))
    return open_shards(uri or made.uri, verify=False, targets=targets, protocol=experiment.protocol)


def fitted(experiment: Experiment, shards: ShardSet, fold: Fold) -> Bundle:
    """Build, train and bundle a fold as the training job does."""
    run = build_fold(experiment, shards, fold, 0, 1)
    engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
    progress = fit(engine, run.stream, experiment.schedule, validate=run.validation)
    return make_bundle(experiment, shards, run, progress.best_step or 0, progress.best_val, None)


def same_bits(a: Bundle, b: Bundle) -> bool:
    """Whether two bundles hold the same decoder, statistics, bridge and selection; galleries may differ."""
    ours, theirs = a.decoder.state_dict(), b.decoder.state_dict()
    return (
        ours.keys() == theirs.keys()
        and all(torch.equal(ours[key], theirs[key]) for key in ours)
        and np.array_equal(a.bridge_weight_ED, b.bridge_weight_ED)
        and np.array_equal(a.bridge_bias_D, b.bridge_bias_D)
        and (a.fact.step, a.fact.val_score) == (b.fact.step, b.fact.val_score)
    )


def with_other_test_part(made: SyntheticSet, folder: Path) -> ShardSet:
    """Return the same set, in which the EEG of the test trials and the targets of the test pictures are others."""
    shards = opened(made)
    (fold,) = shards.folds
    tested = test_trials(shards, fold)
    eeg = shards.gather(np.arange(shards.manifest.n_trials)).astype(np.float32)
    eeg[tested] = 40 * np.roll(eeg[tested], 1, axis=1) + 7
    rows = np.unique(shards.picture_row[tested])
    target_PD = shards.target_PD.copy()
    target_PD[rows] = 5 - 3 * target_PD[rows]
    images = shards.picture_images(np.arange(len(made.ids)))
    pictures = [PackedPicture(*facts) for facts in zip(made.ids, made.concepts, images, strict=True)]
    per_shard = [fact.n_samples for fact in shards.manifest.trials]
    table = shards.table[list(shard_set.trial_table(1, np.zeros(1, int)))]
    fact = shard_set.write_set(str(folder / "eeg"), eeg, table, per_shard, pictures, pictures_per_shard=50)
    facts = shards.manifest
    fact = fact.model_copy(update={"sfreq_hz": facts.sfreq_hz, "tmin_s": facts.tmin_s, "channels": facts.channels})
    published = packing.publish(str(folder / "eeg"), fact, table)
    shard_set.publish_targets(str(folder / "targets"), published, made.ids, target_PD)
    return opened(made, uri=str(folder / "eeg"), target=str(folder / "targets"))


SELECTS = """\
from eegdecode.batch import Fold
from eegdecode.config import Stream as Spec
from eegdecode.data.shardset import ShardSet, test_trials
from eegdecode.data.stream import Stream
from eegdecode.train.validation import validation_of


def select(shards: ShardSet, fold: Fold) -> None:
    Stream(shards, shards.trials_of(fold, "train"), 32, 0, 0, 1, Spec())
    validation_of(shards, fold, shards.trials_of(fold, "val"), ())
    shards.trials_of(fold, "test")  # planted
    Stream(shards, test_trials(shards, fold), 32, 0, 0, 1, Spec())  # planted
    validation_of(shards, fold, test_trials(shards, fold), ())  # planted
"""


def test_a_test_selected_epoch(made: SyntheticSet, tmp_path: Path) -> None:
    """Planted: a step chosen, and a stream opened, on test trials.

    It does not type-check: `trials_of` returns a type of its own that streams and validations ask for, and its part is
    a Literal. It does not run: `trials_of`, the averaging that a validation begins with, and the protocol refuse it.
    And nothing but scoring names `test_trials`.
    """
    snippet = tmp_path / "select.py"
    snippet.write_text(SELECTS)
    said, _, status = mypy.run(["--config-file", str(ROOT / "pyproject.toml"), str(snippet)])
    wanted = {k for k, line in enumerate(SELECTS.splitlines(), 1) if line.endswith("# planted")}
    found = {int(line.split(":")[1]) for line in said.splitlines() if "select.py:" in line and ": error:" in line}
    assert (found, status) == (wanted, 1), said
    shards = opened(made)
    (fold,) = shards.folds
    with pytest.raises(ValueError, match="only scoring sees the test part"):
        shards.trials_of(fold, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"what selects or fits must be of its train or val part, got 144 trials"):
        validation_of(shards, fold, test_trials(shards, fold), ())  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="'validation' or 'last'"):
        Protocol(selection="test")  # type: ignore[arg-type]
    naming = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("eegdecode/**/*.py")
        if any(
            (isinstance(node, ast.Name) and node.id == "test_trials")
            or (isinstance(node, ast.Attribute) and node.attr == "test_trials")
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    assert naming == {f"eegdecode/runtime/{scoring}.py" for scoring in ("tested", "categories", "confounds", "versus")}


def test_a_concept_in_two_splits(made: SyntheticSet) -> None:
    """Planted: a concept of which one picture is tested and others are trained on.

    `make_folds` refuses the table, `Fold` a list on both sides, and `build_fold` pictures of one concept that the table
    calls by two names.
    """
    shards = opened(made)
    table = shards.table.copy()
    picture = table["picture"][table["partition"] == "train"].iloc[0]
    concept = table["concept"][table["picture"] == picture].iloc[0]
    table.loc[table["picture"] == picture, "partition"] = "test"
    with pytest.raises(ValueError, match=rf"a concept must be in train or in test, got both for \['{concept}'\]"):
        make_folds(table, SMALL.protocol)
    with pytest.raises(ValidationError, match="in both train and test"):
        Fold(name="f", by="concept", train=(concept, "x"), val=(), test=(concept,))
    renamed = opened(made)
    own = renamed.table["picture"] == picture
    changed = renamed.table.assign(concept=renamed.table["concept"].where(~own, "alias"))
    (fold,) = shards.folds
    planted = fold.model_copy(update={"test": (*fold.test, "alias")})
    _with_table(renamed, changed)
    with pytest.raises(ValueError, match=rf"a concept of the test part must be in no other, .* '{concept}' in both"):
        build_fold(SMALL, renamed, planted, 0, 1)


def _with_table(shards: ShardSet, table: pd.DataFrame) -> None:
    """Let a set say another trial table than was published."""
    shards.__dict__["table"] = table
    shards.__dict__["columns"] = lambda names: table[list(names)]


def test_a_picture_in_two_splits(made: SyntheticSet) -> None:
    """Planted: a picture that is called a training picture in some trials and a test picture in others.

    `make_folds` refuses it, by concept and by picture.
    """
    table = opened(made).table.copy()
    first = np.flatnonzero(table["partition"] == "train")[0]
    picture = table["picture"].iloc[first]
    assert (table["picture"] == picture).sum() > 1
    table.loc[first, "partition"] = "test"
    for by in ("concept", "picture"):
        with pytest.raises(ValueError, match=rf"one concept and one partition, got several for \['{picture}'\]"):
            make_folds(table, SMALL.protocol.model_copy(update={"split_by": by}))
    with pytest.raises(ValidationError, match="in both val and test"):
        Fold(name="f", by="picture", train=("x",), val=(picture,), test=(picture,))


@pytest.mark.parametrize("by", ["concept", "picture"])
def test_a_repetition_of_a_test_picture_in_training(made: SyntheticSet, by: str) -> None:
    """Planted: one repetition of a test picture carries the label of a training concept (or picture).

    No list overlaps, so only `ShardSet.check_apart`, which asks trial by trial what was shown, can refuse it.
    """
    shards = opened(made)
    (fold,) = make_folds(shards.table, SMALL.protocol.model_copy(update={"split_by": by}))
    planted = int(test_trials(shards, fold)[0])
    picture = shards.table["picture"].iloc[planted]
    table = shards.table.copy()
    table[by] = table[by].astype(object)
    table.loc[planted, by] = fold.train[0]
    build_fold(SMALL, shards, fold, 0, 1)
    _with_table(shards, table)
    assert planted in shards.trials_of(fold, "train")
    with pytest.raises(ValueError, match=rf"shown in no other, got repetitions of '{picture}' in both \(1 such\)"):
        build_fold(SMALL, shards, fold, 0, 1)


def test_test_statistics_in_normalisation(made: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: means and scales of all trials, and the mean target of all pictures.

    A fold takes them from its training part: with other test trials and other targets of test pictures not a bit of the
    bundle changes. The second half fits them on everything, and then it does.
    """
    scale = SMALL.override({"encoder.whiten": "scale"})
    shards, other = opened(made), with_other_test_part(made, tmp_path)
    (fold,) = shards.folds
    assert other.folds == shards.folds
    assert not np.array_equal(other.target_PD, shards.target_PD)
    honest = fitted(scale, shards, fold)
    assert same_bits(honest, fitted(scale, other, fold))
    assert not same_bits(honest, fitted(SMALL, shards, fold))
    fit_front = folding.fit_front
    monkeypatch.setattr(folding, "fit_front", _of_everything(fit_front, shards))
    planted = fitted(scale, shards, fold)
    monkeypatch.setattr(folding, "fit_front", _of_everything(fit_front, other))
    assert not same_bits(planted, fitted(scale, other, fold))


def _of_everything(fit_front: Callable[..., Any], shards: ShardSet) -> Callable[..., Any]:
    """Return a front that is fitted on all trials of a set, whatever it is given."""

    def everything(eeg_uv_NCT: np.ndarray, kind: str) -> Any:
        return fit_front(shards.gather(np.arange(shards.manifest.n_trials)), kind)

    return everything


def test_whitening_on_test_trials(made: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a whitening whose covariance has seen test trials, in a fold and in preparation.

    The front of a fold and the noise sums of preparation keep every bit when test trials change. Preparation's, which
    are fitted once, are refused for protocols that would test on training pictures.
    """
    shards, other = opened(made), with_other_test_part(made, tmp_path)
    (fold,) = shards.folds
    fronts = [build_fold(SMALL, found, fold, 0, 1).task.decoder.front_weight_CC for found in (shards, other)]
    assert torch.equal(*fronts)
    monkeypatch.setattr(folding, "fit_front", _of_everything(folding.fit_front, other))
    assert not torch.equal(fronts[0], build_fold(SMALL, other, fold, 0, 1).task.decoder.front_weight_CC)
    source = SyntheticSource(SOURCE)
    part = {p.picture: str(p.partition) for p in source.pictures()}
    refs = [ref for ref in source.recordings() if ref.subject == source.recordings()[0].subject]
    trials = join([cut(source.read(ref), EPOCHS) for ref in refs])
    trials.table["session"] = "01"  # training and test trials in one session, as in THINGS-EEG2
    changed = replace(trials, eeg_uv_NCT=trials.eeg_uv_NCT.copy())
    tested = np.array([part[picture] == "test" for picture in trials.table["picture"]])
    assert 0 < tested.sum() < len(tested)
    changed.eeg_uv_NCT[tested] *= -9
    sums = [training_noise(some, part, "time") for some in (trials, changed)]
    (honest,), (same,) = (found.values() for found in sums)
    assert honest.n == sum(kind == "train" for kind in part.values())
    assert np.array_equal(honest.sum_CC, same.sum_CC)
    (everything,) = training_noise(changed, dict.fromkeys(part, "train"), "time").values()
    assert not np.allclose(honest.mean(), everything.mean(), rtol=0.1)
    for by in ("run", "subject"):
        with pytest.raises(ValueError, match=f"splits by {by} would test on them"):
            SMALL.override({"data.epochs.mvnn": "time", "protocol.split_by": by, "protocol.n_val": 1})


def test_pairing_by_row(made: SyntheticSet, tmp_path: Path) -> None:
    """Planted: targets in another order of the pictures, and trials whose picture row is shifted by one.

    Targets are held against the names of the pictures when they are read; a table against the names in the shards when
    it is published. A gallery in another order, which is no error, gives the same score.
    """
    order = np.random.default_rng(0).permutation(len(made.ids))
    ids = [made.ids[k] for k in order]
    shard_set.publish_targets(str(tmp_path / "targets"), made.manifest, ids, made.target("gabor")[order])
    shards = opened(made, target=str(tmp_path / "targets"))
    with pytest.raises(ValueError, match="targets and pictures are paired by name"):
        build_fold(SMALL, shards, shards.folds[0], 0, 1)
    honest = opened(made)
    assert np.array_equal(honest.target_PD, made.target("gabor"))
    table = honest.table[list(shard_set.trial_table(1, np.zeros(1, int)))]
    shifted = table.assign(picture_row=(table["picture_row"] + 1) % len(made.ids))
    with pytest.raises(ValueError, match="is not the row of picture"):
        packing.publish(made.uri, made.manifest, shifted)
    scores_QG, names = np.random.default_rng(1).normal(size=(12, 12)), [f"p{k}" for k in range(12)]
    there, back = (
        retrieval_report(scores_QG[:, g], [names[k] for k in g], names, ["s"] * 12, names, n_permutations=5, seed=0)
        for g in (np.arange(12), np.arange(12)[::-1])
    )
    assert there == back


def test_stale_targets(made: SyntheticSet, tmp_path: Path) -> None:
    """Planted: targets of another tower, of another preprocessing, and of other pictures, where the right ones were.

    `places.open_set` holds the tower against the experiment, `open_tested` what a bundle was trained on against what it
    is scored on, `open_targets` the pictures that were embedded against those of the set.
    """
    experiment = SMALL.override({"compute.runs_uri": str(tmp_path / "runs")})
    shutil.copytree(made.uri, places.shards(experiment))
    where = Path(places.targets(experiment, "gabor"))

    def publish(spec: str, target_PD: np.ndarray) -> None:
        shutil.rmtree(where, ignore_errors=True)
        shard_set.publish_targets(str(where), made.manifest, made.ids, target_PD, spec)

    publish("gabor", made.target("gabor"))
    shards = places.open_set(experiment)
    (fold,) = shards.folds
    bundle.save(places.bundle(experiment, fold.name), fitted(experiment, shards, fold))
    assert open_tested(experiment, shards, fold).bundle.fact.targets_digest == shards.target.manifest.digest
    publish("gabor#grey", made.target("gabor"))
    with pytest.raises(ValueError, match="must hold targets of 'gabor', got those of 'gabor#grey'"):
        places.open_set(experiment)
    publish("gabor", 2 * made.target("gabor"))
    with pytest.raises(ValueError, match="must have been trained on the target set it is scored on"):
        open_tested(experiment, places.open_set(experiment), fold)
    other = SyntheticSet(tmp_path / "other", SOURCE.model_copy(update={"seed": 7}))
    with pytest.raises(ValueError, match="the pictures changed since"):
        opened(made, target=other.targets({"": "gabor"})[""])


def test_hungarian_under_top1() -> None:
    """Planted: the share that one-to-one assignment names rightly, reported as top-1.

    It is of another type, whose name must begin with `transductive_`; a report and an honest score refuse it. It is
    worth refusing: here it adds more than a tenth.
    """
    rng = np.random.default_rng(0)
    names = [f"p{k}" for k in range(40)]
    scores_QG = 2 * np.eye(40) + rng.normal(size=(40, 40))
    honest = retrieval_report(scores_QG, names, names, ["s"] * 40, names, n_permutations=20, seed=0)
    by_name = {s.name: s for s in transductive_scores(scores_QG, names, names, ["s"] * 40, names, seed=0)}
    planted = by_name["transductive_hungarian_top1"]
    assert planted.value == pytest.approx(np.mean(transductive_assignment(scores_QG) == np.arange(40)))
    assert planted.value > honest.top1 + 0.1
    with pytest.raises(ValidationError) as refused:
        Report.model_validate({"retrieval": planted})
    assert ("retrieval",) in {error["loc"] for error in refused.value.errors()}
    with pytest.raises(ValidationError):
        RetrievalScore.model_validate(planted.model_dump())
    with pytest.raises(ValidationError):
        honest.with_(top1=planted)
    for name in ("top1", "hungarian_top1", "retrieval_top1"):
        with pytest.raises(ValidationError, match="transductive_"):
            TransductiveScore.model_validate(planted.model_dump() | {"name": name})


def test_a_model_carried_across_folds(made: SyntheticSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a second fold that goes on with the weights of the first, whose training trials it tests on.

    Every fold builds its decoder anew from the seed: its bundle has the same bits whether another fold was trained
    before or not. The second half hands the same object out twice, and then it has not.
    """
    experiment = SMALL.override({"protocol.split_by": "subject", "protocol.n_val": 1})
    shards = opened(made, experiment)
    first, second, _ = shards.folds
    alone = fitted(experiment, shards, second)
    fitted(experiment, shards, first)
    assert same_bits(alone, fitted(experiment, shards, second))
    carried = {}
    build = folding.decoder_of
    monkeypatch.setattr(folding, "decoder_of", lambda *args: carried.setdefault("decoder", build(*args)))
    fitted(experiment, shards, first)
    assert not same_bits(alone, fitted(experiment, shards, second))


def _score(k: int, n: int = 12) -> RetrievalScore:
    """Return the score of 24 trials of each of n pictures, k averaged."""
    rng = np.random.default_rng(3)
    shown = np.repeat([f"p{j:02d}" for j in range(n)], 24)
    eeg_uv_NCT = np.repeat(np.eye(n), 24, axis=0)[:, :, None] + 2 * rng.normal(size=(24 * n, n, 1))
    averaged = average_repetitions(eeg_uv_NCT, shown, np.full(len(shown), "s"), k)
    return retrieval_report(
        averaged.eeg_uv_QCT[:, :, 0],
        [f"p{j:02d}" for j in range(n)],
        averaged.picture_Q,
        averaged.subject_Q,
        averaged.picture_Q,
        n_permutations=20,
        seed=0,
        repetitions_Q=averaged.repetitions_Q,
    )


def test_averaged_against_single_trial_compared() -> None:
    """Planted: the same trials, averaged in one run and single in the other, held against each other.

    `check_comparable` names the repetitions. The gap it refuses is no difference between decoders.
    """
    averaged, single = _score(0), _score(1)
    assert (averaged.repetitions, single.repetitions) == (24, 1)
    assert averaged.top1 > single.top1 + 0.3
    check_comparable(averaged, _score(24))
    with pytest.raises(ValueError, match=r"same number of repetitions averaged, got repetitions 24\.0 and 1\.0"):
        check_comparable(averaged, single)


def test_a_gallery_changed_between_runs() -> None:
    """Planted: other candidates, fewer or as many, in the second run.

    A score carries the digest of its candidates' labels; `check_comparable` refuses another one, and none at all.
    """
    score, smaller = _score(0), _score(0, 11)
    with pytest.raises(ValueError, match="same number of candidates, got n_way 12 and 11"):
        check_comparable(score, smaller)
    labels = [f"p{j:02d}" for j in range(12)]

    def of(gallery: list[str]) -> RetrievalScore:
        shown = labels[:6]
        return retrieval_report(np.eye(6, 12), gallery, shown, ["s"] * 6, shown, n_permutations=20, seed=0)

    check_comparable(of(labels), of([*labels[:6], *reversed(labels[6:])]))
    with pytest.raises(ValueError, match="same candidates, got gallery_digest"):
        check_comparable(of(labels), of([*labels[:11], "easy"]))
    old = of(labels).with_(gallery_digest="")
    with pytest.raises(ValueError, match="got gallery_digest unknown and unknown"):
        check_comparable(old, old)
