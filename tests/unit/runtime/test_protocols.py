"""Protocols on the real path: folds of a shard set, fitted, bundled, opened for scoring and ranked."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from eegdecode import bundle
from eegdecode.config import Compute, Encoder, Experiment, Loss, Protocol, Schedule, Targets
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate.retrieval import RetrievalScore, average_repetitions, candidates
from eegdecode.runtime import places
from eegdecode.runtime.evaluate import _retrieval
from eegdecode.runtime.tested import Tested, open_tested
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold, drawn_rows, embedded_targets, make_bundle
from eegdecode.train.loop import fit
from tests.writers import shard_set
from tests.writers.synthetic_set import EPOCHS, SOURCE, SyntheticSet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    return SyntheticSet(tmp_path_factory.mktemp("protocols"))


@pytest.fixture(scope="module")
def runs(made: SyntheticSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the set and its targets lie as the preparation leaves them."""
    uri = str(tmp_path_factory.mktemp("runs"))
    experiment = described(uri)
    shutil.copytree(made.uri, places.shards(experiment))
    shard_set.publish_targets(
        places.targets(experiment, "gabor"), made.manifest, made.ids, made.target("gabor"), "gabor"
    )
    return uri


def described(runs: str, **protocol: Any) -> Experiment:
    return Experiment(
        recipe="protocols",
        data={"source": SOURCE, "epochs": EPOCHS},
        targets=Targets(tower="gabor"),
        encoder=Encoder(name="mlp", whiten="channels"),
        loss=Loss(contrastive_batch=32),
        schedule=Schedule(steps=20, validate_every=10, warmup_steps=1, lr=1e-3, seed=4),
        protocol=Protocol(**({"n_val": 3, "permutations": 50} | protocol)),
        compute=Compute(engine="torch", runs_uri=runs),
    )


def trained(experiment: Experiment) -> tuple[ShardSet, list[Tested]]:
    """Train every fold of the protocol and open what it is tested on."""
    shards = places.open_set(experiment)
    for fold in shards.folds:
        run = build_fold(experiment, shards, fold, 0, 1)
        fit(build_engine(run.task, experiment.schedule, experiment.compute, 32), run.stream, experiment.schedule)
        bundle.save(places.bundle(experiment, fold.name), make_bundle(experiment, shards, run, 20, None, None))
    return shards, [open_tested(experiment, shards, fold) for fold in shards.folds]


def ranks(scores_QG: np.ndarray, right_Q: np.ndarray) -> np.ndarray:
    return (scores_QG > scores_QG[np.arange(len(right_Q)), right_Q][:, None]).sum(axis=1)


def unit(x_ND: np.ndarray) -> np.ndarray:
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def naive(tested: Tested, labels: list[str], target_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines of a fold's averaged trials, in the order of its pictures, and the row of each one's own."""
    picture_N, subject_N = (tested.table[name].to_numpy(str) for name in ("picture", "subject"))
    averaged = average_repetitions(tested.eeg_uv_NCT, picture_N, subject_N)
    z_QD = tested.reconstructor.embed(averaged.eeg_uv_QCT)
    return unit(z_QD) @ unit(target_GD).T, np.array([labels.index(p) for p in averaged.picture_Q])


def scored(experiment: Experiment, shards: ShardSet, folds: list[Tested]) -> RetrievalScore:
    return _retrieval(experiment, shards, folds)[0]


def test_leave_one_subject_out_pools_the_folds(runs: str) -> None:
    """Each subject's score is that of the bundle that has not seen them, in one gallery; the headline is their mean."""
    experiment = described(runs, split_by="subject_concept", calibration_concepts=2)
    shards, folds = trained(experiment)
    assert [len(t.table["subject"].unique()) for t in folds] == [1, 1, 1]
    score = scored(experiment, shards, folds)
    assert (score.n_way, score.n_subjects, score.n_queries, score.repetitions) == (12, 3, 36, 4)
    assert set(score.per_fold) == {fold.name for fold in shards.folds}
    own = []
    for tested in folds:
        trained_on = shards.table.iloc[shards.trials_of(tested.fold, "train")]
        (subject,) = tested.table["subject"].unique()
        assert set(trained_on["partition"]) == {"train"}
        assert trained_on[trained_on["subject"] == subject]["concept"].nunique() == 2
        gallery = tested.bundle.gallery
        scores_QG, right_Q = naive(tested, list(gallery.pictures), gallery.target_PD)
        own.append((ranks(scores_QG, right_Q) == 0).mean())
        assert score.per_subject[subject].top1 == pytest.approx(own[-1])
        assert score.per_fold[tested.fold.name].top1 == pytest.approx(own[-1])
    assert score.top1 == pytest.approx(np.mean(own))
    assert score.ci95_top1_people is not None
    assert score.ci95_top1[0] <= score.top1 <= score.ci95_top1[1]
    assert score.ideal_observer_top1 is not None
    rows = drawn_rows(shards, shards.folds)
    held = {c for t in folds for c in t.table["concept"]} | {
        c for fold in shards.folds for c in shards.table["concept"].iloc[shards.trials_of(fold, "val")]
    }
    assert {shards.picture_concepts[row] for row in rows} == set(shards.picture_concepts) - held


def test_a_trial_of_a_test_picture_among_calibration_is_refused(runs: str) -> None:
    experiment = described(runs, split_by="subject_concept")
    shards = places.open_set(experiment)
    fold = shards.folds[0]
    other = shards.folds[1].test[0]
    planted = fold.model_copy(update={"train": (*fold.train, other)})
    with pytest.raises(ValueError, match="a picture of the test part must be shown in no other"):
        build_fold(experiment, shards, planted, 0, 1)


def test_smaller_and_larger_galleries(runs: str) -> None:
    """Five of twelve against every draw of a sample; forty with training pictures against a ranking of all of them."""
    experiment = described(runs)
    shards, folds = trained(experiment)
    (tested,) = folds
    gallery = tested.bundle.gallery
    scores_QG, right_Q = naive(tested, list(gallery.pictures), gallery.target_PD)
    few = scored(described(runs, n_way=5), shards, folds)
    rng, hits = np.random.default_rng(0), []
    for _ in range(4000):
        q = rng.integers(len(right_Q))
        others = rng.permutation(np.delete(np.arange(12), right_Q[q]))[:4]
        hits.append(scores_QG[q, right_Q[q]] > scores_QG[q, others].max())
    assert few.top1 == pytest.approx(np.mean(hits), abs=4 * 0.5 / 4000**0.5)
    assert (few.n_candidates, few.n_shown) == (12, 12)
    assert (few.n_way, few.chance_top1, few.chance_top5) == (5, pytest.approx(0.2), 1)
    whole = scored(experiment, shards, folds)
    assert scored(described(runs, n_way=12), shards, folds).top1 == pytest.approx(whole.top1)
    assert few.top1 > whole.top1
    many_protocol = described(runs, n_way=40)
    many = scored(many_protocol, shards, folds)
    training = [k for k, c in enumerate(shards.picture_concepts) if c not in set(gallery.concepts)]
    drawn = np.sort(np.random.default_rng([0, 40]).permutation(training)[:28])
    target_PD = embedded_targets(tested.bundle.decoder, shards.target_PD[drawn])
    all_QG, right_Q = naive(tested, list(gallery.pictures), np.concatenate([gallery.target_PD, target_PD]))
    assert all_QG.shape == (36, 40)
    assert many.top1 == pytest.approx((ranks(all_QG, right_Q) == 0).mean())
    assert many.top5 == pytest.approx((ranks(all_QG, right_Q) < 5).mean())
    assert (many.n_candidates, many.n_shown) == (40, 12)
    assert (many.n_way, many.chance_top1) == (40, pytest.approx(1 / 40))
    assert many.ideal_observer_top1 is None
    assert many.gallery_digest != whole.gallery_digest
    with pytest.raises(ValueError, match="at most 76, the 12 test pictures and 64 training pictures"):
        scored(described(runs, n_way=77), shards, folds)


def test_a_gallery_of_training_centres_for_new_pictures_of_known_concepts(made: SyntheticSet, tmp_path: Path) -> None:
    """Test concepts and training concepts are merged, so that each has pictures of both partitions."""
    runs = str(tmp_path)
    experiment = described(runs, split_by="picture", gallery="concept")
    shards_at, where = places.shards(experiment), places.targets(experiment, "gabor")
    shutil.copytree(made.uri, shards_at)
    shard_set.publish_targets(where, made.manifest, made.ids, made.target("gabor"), "gabor")
    shards = places.open_set(experiment)
    names = sorted(set(made.concepts))
    merged = {name: f"c{k % 6}" for k, name in enumerate(names)}
    shards.__dict__["picture_concepts"] = tuple(merged[c] for c in shards.picture_concepts)
    run = build_fold(experiment, shards, shards.folds[0], 0, 1)
    bundle.save(places.bundle(experiment, "pictures"), make_bundle(experiment, shards, run, 0, None, None))
    tested = open_tested(experiment, shards, shards.folds[0])
    score = scored(experiment, shards, [tested])
    assert score.n_way == len({merged[c] for c in tested.table["concept"]})
    rows = np.unique(shards.picture_row[shards.trials_of(shards.folds[0], "train")])
    gallery = tested.bundle.gallery
    rows = np.array([row for row in rows if shards.picture_concepts[row] in gallery.concepts])
    target_PD = embedded_targets(tested.bundle.decoder, shards.target_PD[rows])
    labels, centre_UD = candidates("concept", target_PD, made.ids, [shards.picture_concepts[r] for r in rows])
    assert len(rows) > 5 * len(labels)
    concept = dict(zip(gallery.pictures, gallery.concepts, strict=True))
    picture_N, subject_N = (tested.table[name].to_numpy(str) for name in ("picture", "subject"))
    averaged = average_repetitions(tested.eeg_uv_NCT, picture_N, subject_N)
    scores_QU = unit(tested.reconstructor.embed(averaged.eeg_uv_QCT)) @ centre_UD.T
    right_Q = np.array([labels.index(concept[p]) for p in averaged.picture_Q])
    assert score.top1 == pytest.approx((ranks(scores_QU, right_Q) == 0).mean())


def test_protocols_that_mean_nothing_are_refused() -> None:
    for changes, said in (
        ({"calibration_concepts": 2}, "needs protocol.split_by='subject_concept', got 'concept'"),
        ({"n_way": 1}, "at least 2, or 0 for all that are tested, got 1"),
        ({"split_by": "run", "n_way": 4}, "need a split with pictures of its own to test"),
        ({"split_by": "subject", "gallery": "concept"}, "need a split with pictures of its own to test"),
        ({"n_way": -1}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=said):
            Protocol(**changes)
