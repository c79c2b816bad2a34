"""Layers per subject from a recipe to an answer: the table, training, validation, a bundle, and people it never saw."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import eegdecode
from eegdecode import bundle
from eegdecode.config import Compute, Encoder, Experiment, Loss, Protocol, Schedule, Targets
from eegdecode.config import Stream as Order
from eegdecode.data import shardset
from eegdecode.data.shardset import ShardSet, open_shards
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import FoldRun, build_fold, make_bundle
from eegdecode.train.loop import fit
from tests.writers import people


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    torch.set_num_threads(1)
    return people.write(tmp_path_factory.mktemp("people"))


def described(encoder: dict[str, Any], protocol: dict[str, Any] | None = None, average: int = 1) -> Experiment:
    return Experiment(
        recipe="people",
        stream=Order(average=average),
        targets=Targets(tower="test"),
        encoder=Encoder(**({"name": "linear", "dropout": 0.0, "subject_layer": "linear"} | encoder)),
        loss=Loss(contrastive_batch=32, temperature=0.2),
        schedule=Schedule(steps=120, lr=3e-3, warmup_steps=1, validate_every=40, weight_decay=0.0, save_every=60),
        protocol=Protocol(**({"n_val": 6} | (protocol or {}))),
        compute=Compute(engine="torch"),
    )


def opened(where: dict[str, str], experiment: Experiment) -> ShardSet:
    return open_shards(where["shards"], verify=False, targets={"": where["targets"]}, protocol=experiment.protocol)


def trained(experiment: Experiment, shards: ShardSet, fold: int = 0) -> FoldRun:
    run = build_fold(experiment, shards, shards.folds[fold], 0, 1)
    engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
    fit(engine, run.stream, experiment.schedule, validate=run.validation)
    run.task.eval()
    return run


def top1_by_subject(experiment: Experiment, shards: ShardSet, run: FoldRun, folder: Path) -> dict[str, float]:
    """Bundle, load, and let each subject's test trials be named as a user does; one picture is a concept."""
    bundle.save(str(folder), make_bundle(experiment, shards, run, 120, None, None))
    model = eegdecode.load(str(folder))
    trials = shardset.test_trials(shards, run.fold)
    table = shards.table.iloc[trials]
    eeg_uv_NCT = shards.gather(trials).astype(np.float32)
    found = {}
    for subject in table["subject"].unique():
        own = (table["subject"] == subject).to_numpy()
        found[str(subject)] = model.score(eeg_uv_NCT[own], table["concept"].to_numpy(str)[own], subject=subject)
    return found


def test_a_map_per_subject_learns_what_one_map_for_all_cannot(where: dict[str, str], tmp_path: Path) -> None:
    """The sign of the second person is the other one: what names their pictures misnames the others', and back."""
    both = {name: described({"subject_layer": name}) for name in ("linear", "none")}
    found = {}
    for name, experiment in both.items():
        shards = opened(where, experiment)
        found[name] = top1_by_subject(experiment, shards, trained(experiment, shards), tmp_path / name)
    assert min(found["linear"].values()) > 0.9, found
    assert min(found["none"].values()) < 0.3, found


def test_validation_asks_each_subject_with_their_own_map(where: dict[str, str]) -> None:
    experiment = described({})
    shards = opened(where, experiment)
    run = trained(experiment, shards)
    assert run.validation is not None
    assert run.validation.subject_Q is not None
    with torch.no_grad():
        assert run.validation(run.task)["val_top1"] > 0.9
    others = {"01": "02", "02": "01", "03": "02"}
    rows = [run.subjects.index(others[run.subjects[row]]) for row in run.validation.subject_Q.tolist()]
    wrong = run.validation.__class__(
        run.validation.eeg_uv_QCT, run.validation.target_PD, run.validation.right_Q, torch.tensor(rows)
    )
    with torch.no_grad():
        assert wrong(run.task)["val_top1"] < 0.3


@pytest.mark.parametrize(
    "encoder", [{"name": "mlp", "virtual_chans": 4}, {"name": "atm", "subject_layer": "token"}], ids=["map", "token"]
)
def test_a_bundle_answers_each_subject_as_its_decoder_did(
    encoder: dict[str, Any], where: dict[str, str], tmp_path: Path
) -> None:
    experiment = described(encoder).override({"schedule.steps": 4, "schedule.validate_every": 4, "schedule.lr": 0.1})
    shards = opened(where, experiment)
    run = trained(experiment, shards)
    uri = str(tmp_path)
    bundle.save(uri, make_bundle(experiment, shards, run, 4, None, None))
    model = eegdecode.load(uri)
    assert model.bundle.fact.subjects == people.PEOPLE
    eeg_uv_NCT = shards.gather(np.arange(4)).astype(np.float32)

    def expected(rows: list[int] | None) -> np.ndarray:
        with torch.no_grad():
            asked = None if rows is None else torch.tensor(rows)
            return run.task.decoder(torch.from_numpy(eeg_uv_NCT), asked).numpy()

    answers = [model.embed(eeg_uv_NCT, subject=name) for name in people.PEOPLE]
    for row, answer in enumerate(answers):
        np.testing.assert_allclose(answer, expected([row] * 4), atol=1e-5)
        others = [*answers[:row], *answers[row + 1 :]]
        assert min(float(np.abs(answer - other).max()) for other in others) > 1e-3
    mixed = model.embed(eeg_uv_NCT, subject=["02", "03", "02", "01"])
    np.testing.assert_array_equal(mixed, np.stack([answers[k][n] for n, k in enumerate([1, 2, 1, 0])]))
    new = model.embed(eeg_uv_NCT)
    np.testing.assert_allclose(new, expected(None), atol=1e-5)
    np.testing.assert_array_equal(new, model.embed(eeg_uv_NCT, subject="nobody"))
    assert min(float(np.abs(new - answer).max()) for answer in answers) > 1e-3
    with pytest.raises(ValueError, match="one for each of 4 trials, got 3"):
        model.predict(eeg_uv_NCT, subject=["01", "02", "03"])


def test_a_bundle_of_before_there_were_options_is_read(where: dict[str, str], tmp_path: Path) -> None:
    experiment = described({"subject_layer": "none"}).override({"schedule.steps": 4, "schedule.validate_every": 4})
    shards = opened(where, experiment)
    bundle.save(str(tmp_path), make_bundle(experiment, shards, trained(experiment, shards), 4, None, None))
    eeg_uv_NCT = shards.gather(np.arange(4)).astype(np.float32)
    expected = eegdecode.load(str(tmp_path)).embed(eeg_uv_NCT)
    tree = json.loads((tmp_path / "bundle.json").read_text())
    for name in ("subject_layer", "virtual_chans", "pretrained"):
        del tree["experiment"]["encoder"][name]
    for name in ("subjects", "positions", "concepts"):
        del tree["fact"][name]
    (tmp_path / "bundle.json").write_text(json.dumps(tree))
    np.testing.assert_array_equal(eegdecode.load(str(tmp_path)).embed(eeg_uv_NCT, subject="01"), expected)


def test_a_subject_who_is_left_out_never_enters_the_table(where: dict[str, str], tmp_path: Path) -> None:
    """By subject and concept, by subject, and with the validation subjects learnt from or not."""
    for protocol, tables in (
        ({"split_by": "subject_concept"}, [("02", "03"), ("01", "03"), ("01", "02")]),
        ({"split_by": "subject_concept", "calibration_concepts": 2}, [people.PEOPLE] * 3),
        ({"split_by": "subject", "n_val": 1, "selection": "last"}, [("02", "03"), ("01", "03"), ("01", "02")]),
    ):
        experiment = described({}, protocol)
        shards = opened(where, experiment)
        runs = [build_fold(experiment, shards, fold, 0, 1) for fold in shards.folds]
        assert [run.subjects for run in runs] == tables
    held = described({}, {"split_by": "subject", "n_val": 1})
    shards = opened(where, held)
    for fold in shards.folds:
        assert build_fold(held, shards, fold, 0, 1).subjects == fold.train
    # The second person, whose sign is unknown to it, is answered by the mean map of the others, whose sign is theirs.
    left_out = described({}, {"split_by": "subject_concept"})
    shards = opened(where, left_out)
    assert shards.folds[1].name == "subject_concept-02"
    assert top1_by_subject(left_out, shards, trained(left_out, shards, 1), tmp_path)["02"] == 0.0


@pytest.mark.parametrize("average", [1, 0])
def test_rows_of_subjects_travel_with_the_trials(average: int, where: dict[str, str]) -> None:
    """Single, averaged, told other pictures, and on two ranks; a subject beyond the table has row -1."""
    experiment = described({}, {"split_by": "subject_concept", "calibration_concepts": 0}, average)
    shards = opened(where, experiment)
    fold = shards.folds[0]
    told = np.random.default_rng(0).permutation(shards.picture_row.astype(np.int64) % people.N_TRAIN)
    seen = []
    for rank, world, row_N in ((0, 1, None), (0, 2, None), (1, 2, None), (0, 1, told)):
        run = build_fold(experiment, shards, fold, rank, world, told=row_N)
        batches = run.stream.starting_at(0)
        batch = next(batches)
        batches.close()
        names = shards.table["subject"].iloc[batch.trial_B.numpy()]
        assert batch.subject_B is not None
        assert [run.subjects[row] for row in batch.subject_B.tolist()] == names.tolist()
        assert set(names) == {"02", "03"}
        seen.append(batch.subject_B.tolist())
        first = batch.where(batch.subject_B == 0).subject_B
        assert first is not None
        assert first.tolist() == [0] * batch.subject_B.tolist().count(0)
    assert seen[0] == seen[1] + seen[2] == seen[3]


def test_training_goes_on_with_the_same_bits(where: dict[str, str], tmp_path: Path) -> None:
    experiment = described({})
    shards = opened(where, experiment)

    def weights(resume_from: Path | None) -> dict[str, torch.Tensor]:
        run = build_fold(experiment, shards, shards.folds[0], 0, 1)
        engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
        fit(engine, run.stream, experiment.schedule, save_dir=tmp_path, resume_from=resume_from)
        return engine.weights()

    whole, again = weights(None), weights(tmp_path / "step-00000060")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
