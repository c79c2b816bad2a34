"""A map between people: scikit-learn's regression, from training pictures alone, and what a decoder gains by it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from eegdecode import bundle
from eegdecode.config import Compute, Encoder, Experiment, Protocol, Schedule, Targets
from eegdecode.data.shardset import ShardSet
from eegdecode.data.splits import TEST
from eegdecode.runtime import places
from eegdecode.runtime.transfer import TransferReport, transfer
from eegdecode.train import transfer as mapping
from eegdecode.train.fold import build_fold, make_bundle
from eegdecode.train.transfer import ALPHA, fit_transfer
from tests.writers import people


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Three people, the second of the other sign, and a decoder of two for each."""
    torch.set_num_threads(1)
    where = people.write(tmp_path_factory.mktemp("people"))
    found = Experiment(
        recipe="people",
        targets=Targets(tower="test"),
        encoder=Encoder(name="linear", dropout=0.0, start="ridge", whiten="none"),
        schedule=Schedule(steps=0),
        protocol=Protocol(split_by="subject_concept", n_val=6, permutations=50),
        compute=Compute(engine="torch", runs_uri=str(tmp_path_factory.mktemp("runs"))),
    )
    shutil.copytree(where["shards"], places.shards(found))
    shutil.copytree(where["targets"], places.targets(found, "test"))
    shards = places.open_set(found)
    for fold in shards.folds:
        run = build_fold(found, shards, fold, 0, 1)
        bundle.save(places.bundle(found, fold.name), make_bundle(found, shards, run, 0, None, None))
    return found


def test_a_person_of_the_other_sign_is_read_through_the_map(experiment: Experiment) -> None:
    """A decoder of the first and third misnames the second's pictures until their EEG is turned round."""
    found = transfer(experiment)
    by_person = {one.subject: one for one in found.people}
    assert set(by_person) == set(people.PEOPLE)
    second = by_person["02"]
    assert second.plain.top1 < 0.1
    assert second.mapped.top1 > 0.9
    assert second.n_pictures == people.N_TRAIN - 6
    assert second.plain.gallery_digest == second.mapped.gallery_digest
    written = Path(places.report(experiment), "transfer.json").read_text()
    assert TransferReport.model_validate_json(written) == found


def test_the_map_is_the_ridge_regression_of_mean_responses(experiment: Experiment) -> None:
    shards = places.open_set(experiment)
    fold = shards.folds[1]
    found = fit_transfer(shards, fold, seed=0)
    rows = np.unique(shards.picture_row[shards.trials_of(fold, "train")])
    table = shards.table.assign(row=shards.picture_row)
    own, others = (
        np.stack([np.mean([mean(shards, table, person, row) for person in group], axis=0) for row in rows])
        for group in (["02"], ["01", "03"])
    )
    scaler = StandardScaler().fit(own)
    scaler.scale_ = own.std(axis=0, ddof=1)
    wanted = Ridge(alpha=ALPHA).fit(scaler.transform(own), others)
    eeg_NCT = shards.gather(np.arange(7)).astype(np.float32)
    expected = wanted.predict(scaler.transform(eeg_NCT.reshape(7, -1))).reshape(eeg_NCT.shape)
    np.testing.assert_allclose(found(eeg_NCT), expected, rtol=1e-4, atol=1e-5)


def mean(shards: ShardSet, table: object, person: str, row: int) -> np.ndarray:
    trials = np.flatnonzero((shards.table["subject"] == person).to_numpy() & (shards.picture_row == row))
    return shards.gather(trials).mean(axis=0, dtype=np.float64).ravel()


def test_no_trial_that_selects_or_scores_is_read(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = places.open_set(experiment)
    fold = shards.folds[1]
    read: list[np.ndarray] = []
    gather = shards.gather
    monkeypatch.setattr(type(shards), "gather", lambda self, trials: (read.append(trials), gather(trials))[1])
    fit_transfer(shards, fold, seed=0, pictures=10)
    seen = np.unique(np.concatenate(read))
    held = np.unique(shards.picture_row[shards.part_of(fold) >= 1])
    assert len(np.unique(shards.picture_row[seen])) == 10
    assert not np.isin(shards.picture_row[seen], held).any()
    assert not (shards.part_of(fold)[seen] == TEST).any()


def test_what_cannot_be_mapped_is_refused(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = places.open_set(experiment)
    known = experiment.override({"protocol.split_by": "concept"})
    with pytest.raises(ValueError, match=r"set protocol\.split_by='subject_concept' and train, got 'concept'"):
        transfer(known)
    with pytest.raises(ValueError, match=r"fold 'concepts' has \[\]"):
        fit_transfer(shards, places.open_set(known).folds[0], seed=0)
    monkeypatch.setattr(mapping, "LARGEST", 79)
    with pytest.raises(ValueError, match="at most 79 samples over all electrodes, got 80"):
        fit_transfer(shards, shards.folds[1], seed=0)
