"""Score against training data: nested shares, the run's own score at the end, and what the report shows of it."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from eegdecode import bundle
from eegdecode.config import Compute, Encoder, Experiment, Protocol, Schedule, SyntheticData, Targets
from eegdecode.evaluate import plots
from eegdecode.evaluate.page import interval, percent
from eegdecode.evaluate.report import Report, render
from eegdecode.evaluate.scaling import Scaling, load_scaling, write_scaling
from eegdecode.runtime import places
from eegdecode.runtime.evaluate import _facts, _retrieval
from eegdecode.runtime.scaling import at_shares, curve
from eegdecode.runtime.tested import open_tested
from eegdecode.runtime.train import Stages
from eegdecode.train.fold import build_fold, make_bundle
from tests.writers import shard_set
from tests.writers.synthetic_set import EPOCHS, SyntheticSet

SOURCE = SyntheticData(
    n_subjects=2,
    n_train_concepts=124,
    pictures_per_concept=4,
    train_repetitions=2,
    n_test_concepts=60,
    test_repetitions=8,
    picture_px=32,
)
SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A recipe in closed form, with every share trained as the job's workers do it."""
    made = SyntheticSet(tmp_path_factory.mktemp("set"), SOURCE)
    found = Experiment(
        recipe="demo",
        data={"source": SOURCE, "epochs": EPOCHS},
        targets=Targets(tower="gabor", project=12),
        encoder=Encoder(name="linear", dropout=0.0, start="canonical", whiten="none"),
        schedule=Schedule(steps=0),
        protocol=Protocol(n_val=4, permutations=50, seed=5),
        compute=Compute(engine="torch", runs_uri=str(tmp_path_factory.mktemp("runs"))),
    )
    shutil.copytree(made.uri, places.shards(found))
    shard_set.publish_targets(places.targets(found, "gabor"), made.manifest, made.ids, made.target("gabor"), "gabor")
    for one in at_shares(found, SHARES):
        shards = places.open_set(one)
        (fold,) = shards.folds
        run = build_fold(one, shards, fold, 0, 1)
        bundle.save(places.bundle(one, fold.name), make_bundle(one, shards, run, 0, None, None))
    return found


@pytest.fixture(scope="module")
def found(experiment: Experiment) -> Scaling:
    return curve(experiment, SHARES)


def test_more_concepts_score_higher_and_the_last_point_is_the_run(experiment: Experiment, found: Scaling) -> None:
    shards = places.open_set(experiment)
    score, _, _ = _retrieval(experiment, shards, [open_tested(experiment, shards, fold) for fold in shards.folds])
    last = found.points[-1]
    assert last.score == score.with_(repetition_curve=(), ideal_observer_top1=None, ideal_observer_top5=None)
    assert (last.run_id, found.run_id) == (experiment.run_id, experiment.run_id)
    assert [point.n_concepts for point in found.points] == [round(120 * share) for share in SHARES]
    assert [point.n_trials for point in found.points] == [point.n_concepts * 4 * 2 * 2 for point in found.points]
    top1, precision = ([getattr(point.score, name) for point in found.points] for name in ("top1", "map"))
    assert top1[-1] > 2 * top1[0]
    assert precision == sorted(precision)
    assert len({point.score.gallery_digest for point in found.points}) == 1


def test_shares_are_nested_and_leave_validation_and_test_alone(experiment: Experiment) -> None:
    for protocol in (experiment.protocol, experiment.protocol.model_copy(update={"split_by": "subject_concept"})):
        folds = [
            places.open_set(one).folds
            for one in at_shares(experiment.model_copy(update={"protocol": protocol}), SHARES)
        ]
        for smaller, larger in pairwise(folds):
            for few, many in zip(smaller, larger, strict=True):
                assert set(few.train) < set(many.train)
                assert (few.val, few.test) == (many.val, many.test)
    other = experiment.override({"protocol.seed": 6})
    (drawn,), (again,) = (places.open_set(at_shares(e, SHARES)[0]).folds for e in (experiment, other))
    assert set(drawn.train) != set(again.train)


def test_curves_that_mean_nothing_are_refused(experiment: Experiment) -> None:
    for shares in ((1.0,), (0.5, 0.25, 1.0), (0.25, 0.5), (0.5, 0.5, 1.0)):
        with pytest.raises(ValueError, match="must ascend to 1"):
            at_shares(experiment, shares)
    with pytest.raises(ValueError, match=r"set protocol\.train_share=1, got 0\.5"):
        at_shares(experiment.override({"protocol.train_share": 0.5}), SHARES)
    with pytest.raises(ValueError, match=r"needs protocol\.split_by='concept' or 'subject_concept', got 'run'"):
        at_shares(experiment.override({"protocol.split_by": "run"}), SHARES)
    with pytest.raises(ValidationError, match=r"needs protocol\.split_by='concept'"):
        Protocol(split_by="run", train_share=0.5)
    with pytest.raises(ValueError, match=r"at least 2 of 120 training concepts, got 0\.01, which is 1"):
        _ = places.open_set(experiment.override({"protocol.train_share": 0.01})).folds


def test_the_report_shows_the_curve_of_its_own_run(experiment: Experiment, found: Scaling, tmp_path: Path) -> None:
    write_scaling(str(tmp_path), found)
    assert load_scaling(str(tmp_path), experiment.run_id) == found
    assert load_scaling(str(tmp_path), "another") is None
    shards = places.open_set(experiment)
    nothing = {"steps": 0, "kept_step": 0, "val_score": None, "n_train": 1, "n_val": 1}
    Stages(experiment, "").run("concepts", lambda: ({"fold": "concepts", **nothing}, lambda folder: None))
    report = _facts(experiment, shards).with_section(retrieval=found.points[-1].score, scaling=found)
    assert Report.model_validate_json(report.model_dump_json()) == report
    figure = plots.scaling_curve(found)
    page = render(report, {"scaling": figure})
    assert "Score against training data" not in render(report.with_section(scaling=None), {"scaling": figure})
    for point in found.points:
        row = page[page.index(f"<td class=n>{point.n_concepts}</td><td class=n>{point.n_trials}</td>") :]
        assert f"{percent(point.score.top1)}</td><td class=n>{interval(point.score.ci95_top1)}" in row.split("</tr>")[0]
