"""Pretraining across data sets: the weights that training starts from, and what it may not start from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from eegdecode import bundle
from eegdecode.config import Compute, Encoder, Experiment, Loss, Protocol, Schedule, Targets
from eegdecode.data.shardset import ShardSet, open_shards
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import FoldRun, build_fold, make_bundle
from eegdecode.train.loop import fit
from tests.writers import people

SETS: dict[str, dict[str, Any]] = {
    "many": {"channels": ("Fz", "C3", "C4", "P7", "P8", "O2", "Oz"), "people": ("01", "02")},
    "few": {},
}
OWN = {"montage.fourier_CH", "subject.weight_STT", "subject.bias_ST"}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    torch.set_num_threads(1)
    return {name: people.write(tmp_path_factory.mktemp(name), **given) for name, given in SETS.items()}


def described(encoder: dict[str, Any] | None = None, protocol: dict[str, Any] | None = None) -> Experiment:
    options = {"name": "mlp", "dropout": 0.0, "subject_layer": "linear", "virtual_chans": 6}
    return Experiment(
        recipe="pretrained",
        targets=Targets(tower="test"),
        encoder=Encoder(**(options | (encoder or {}))),
        loss=Loss(contrastive_batch=32, temperature=0.2),
        schedule=Schedule(steps=8, lr=1e-2, warmup_steps=1, validate_every=8),
        protocol=Protocol(**({"n_val": 6} | (protocol or {}))),
        compute=Compute(engine="torch"),
    )


def opened(where: dict[str, str], experiment: Experiment) -> ShardSet:
    return open_shards(where["shards"], verify=False, targets={"": where["targets"]}, protocol=experiment.protocol)


def built(where: dict[str, str], experiment: Experiment, fold: int = 0, start: bool = True) -> FoldRun:
    shards = opened(where, experiment)
    return build_fold(experiment, shards, shards.folds[fold], 0, 1, start=start)


def left(where: dict[str, str], experiment: Experiment, folder: Path, fold: int = 0) -> str:
    """Train a fold and return the address of its bundle."""
    shards = opened(where, experiment)
    run = build_fold(experiment, shards, shards.folds[fold], 0, 1)
    engine = build_engine(run.task, experiment.schedule, experiment.compute, experiment.loss.contrastive_batch)
    fit(engine, run.stream, experiment.schedule)
    bundle.save(str(folder), make_bundle(experiment, shards, run, 8, None, None))
    return str(folder)


def test_training_starts_from_the_weights_of_another_montage(where: dict[str, Any], tmp_path: Path) -> None:
    uri = left(where["many"], described(), tmp_path)
    given = bundle.load(uri).decoder.encoder.state_dict()
    plain, run = built(where["few"], described()), built(where["few"], described({"pretrained": uri}))
    fresh, own = plain.task.decoder.encoder.state_dict(), run.task.decoder.encoder.state_dict()
    assert own["montage.fourier_CH"].shape[0] == len(people.CHANNELS)
    assert own["subject.weight_STT"].shape[0] == 3 != given["subject.weight_STT"].shape[0]
    assert OWN < set(own) == set(given)
    for name, value in own.items():
        assert torch.equal(value, fresh[name] if name in OWN else given[name]), name
    assert not torch.equal(fresh["montage.weight_VH"], given["montage.weight_VH"])
    # The rest of the decoder is this data set's own.
    rest = {name: value for name, value in run.task.decoder.state_dict().items() if not name.startswith("encoder.")}
    assert all(torch.equal(value, plain.task.decoder.state_dict()[name]) for name, value in rest.items())
    # Where fitted weights are loaded it is not read again.
    assert built(where["few"], described({"pretrained": f"{uri}/gone"}), start=False).subjects == people.PEOPLE
    with pytest.raises(ValueError, match=r"gone holds no bundle\.json"):
        built(where["few"], described({"pretrained": f"{uri}/gone"}))


def test_a_bundle_behind_virtual_electrodes_reads_back(where: dict[str, Any], tmp_path: Path) -> None:
    experiment = described()
    made = bundle.load(left(where["few"], experiment, tmp_path))
    assert np.array(made.fact.positions).shape == (len(people.CHANNELS), 3)
    first = built(where["few"], experiment).task.decoder
    torch.testing.assert_close(made.decoder.encoder.montage.fourier_CH, first.encoder.montage.fourier_CH)


def test_what_is_scored_was_not_learnt_by_the_bundle(where: dict[str, Any], tmp_path: Path) -> None:
    """Planted: a bundle of all concepts, of another choice of validation concepts, and of the subject left out."""
    of_all = left(where["few"], described(protocol={"split_by": "subject", "n_val": 1}), tmp_path / "all")
    with pytest.raises(ValueError, match=r"learnt concepts that this fold validates or tests on: \['c.*\(18 such\)"):
        built(where["many"], described({"pretrained": of_all}))
    other_val = left(where["few"], described(protocol={"seed": 5}), tmp_path / "val")
    with pytest.raises(ValueError, match="learnt concepts that this fold validates or tests on"):
        built(where["many"], described({"pretrained": other_val}))
    by_subject = {"split_by": "subject", "n_val": 1}
    first = left(where["few"], described(protocol=by_subject), tmp_path / "first")
    assert built(where["few"], described({"pretrained": first}, by_subject)).fold.test == ("01",)
    with pytest.raises(ValueError, match=r"was selected on a subject that this fold tests on: \['02'\]"):
        built(where["few"], described({"pretrained": first}, by_subject), fold=1)
    with pytest.raises(ValueError, match=r"learnt from a subject that this fold does not train on: \['03'\]"):
        built(where["few"], described({"pretrained": first}, by_subject), fold=2)
    pairs = left(where["few"], described(protocol={"split_by": "subject_concept"}), tmp_path / "pairs")
    with pytest.raises(ValueError, match=r"learnt from a subject_concept that this fold does not .*'02_c"):
        built(where["few"], described({"pretrained": pairs}, {"split_by": "subject_concept"}), fold=1)
    concepts = left(where["few"], described(), tmp_path / "concepts")
    with pytest.raises(ValueError, match="divided by concept, and this fold divides them by subject_concept"):
        built(where["few"], described({"pretrained": concepts}, {"split_by": "subject_concept"}))


def test_weights_of_something_else_are_refused(where: dict[str, Any], tmp_path: Path) -> None:
    uri = left(where["many"], described(), tmp_path / "one")
    with pytest.raises(ValueError, match="must have the encoder of this run, linear, got mlp"):
        built(where["few"], described({"name": "linear", "pretrained": uri}))
    with pytest.raises(ValueError, match="Pretrained weights must be those of the same encoder"):
        built(where["few"], described({"virtual_chans": 5, "pretrained": uri}))
    chained = left(where["few"], described({"pretrained": uri}), tmp_path / "two")
    with pytest.raises(ValueError, match="itself started from"):
        built(where["few"], described({"pretrained": chained}))


def test_combinations_that_mean_nothing_are_refused() -> None:
    for encoder, said in (
        (
            {"name": "linear", "start": "ridge", "subject_layer": "linear"},
            "encoder.subject_layer is learnt by gradient",
        ),
        ({"name": "riemann", "virtual_chans": 4}, "encoder.virtual_chans is learnt by gradient"),
        ({"name": "linear", "start": "canonical", "pretrained": "x"}, "encoder.pretrained is learnt by gradient"),
        ({"name": "mlp", "subject_layer": "token"}, "needs encoder.name='atm' or 'atm_published', got 'mlp'"),
        ({"virtual_chans": -1}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=said):
            Encoder(**encoder)
