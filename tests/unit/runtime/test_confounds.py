"""Controls of a simulated block design in the folds of a run: high where blocks leak, on chance where they do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from eegdecode.batch import SourceFact, TargetFact
from eegdecode.config import Compute, Data, EegCvpr40Data, Epochs, Experiment, Protocol, Targets
from eegdecode.data import shards
from eegdecode.data.shards import PackedPicture
from eegdecode.data.shardset import ShardSet
from eegdecode.evaluate.confounds import ConfoundFact
from eegdecode.evaluate.page import percent
from eegdecode.evaluate.report import DataFact, Report, concerns, render
from eegdecode.runtime import places
from eegdecode.runtime.confounds import confounds
from eegdecode.runtime.tracked_report import scalars
from tests.writers import shard_set

N_CLASSES, N_PICTURES, PEOPLE = 8, 12, ("01", "02")
FACT = SourceFact(name="eegcvpr40", licence="none", citation="none", design="block", truth="picture")


def described(folder: Path, **protocol: object) -> Experiment:
    return Experiment(
        recipe="blocks",
        data=Data(source=EegCvpr40Data(), epochs=Epochs(baseline_s=None)),
        targets=Targets(tower="gabor"),
        protocol=Protocol(**({"split_by": "picture", "n_val": 1, "seed": 3} | protocol)),
        compute=Compute(runs_uri=str(folder)),
    )


def block_design(folder: Path, drift: float, design: str = "block") -> tuple[Experiment, ShardSet]:
    """Noise of two people who saw the pictures of a class one after the other; power drifts from block to block."""
    rng = np.random.default_rng(11)
    experiment = described(folder)
    concepts = np.repeat([f"c{k}" for k in range(N_CLASSES)], N_PICTURES)
    names = [f"{concept}_{k:02d}" for k, concept in enumerate(concepts)]
    images = [Image.fromarray(pixels) for pixels in rng.integers(0, 255, (len(names), 16, 16, 3), dtype=np.uint8)]
    pictures = [PackedPicture(*facts) for facts in zip(names, concepts.tolist(), images, strict=True)]
    row_N = np.tile(np.arange(len(names)), len(PEOPLE))
    subject_N = np.repeat(PEOPLE, len(names))
    gain_SKC = np.exp(drift * rng.normal(size=(len(PEOPLE), N_CLASSES, 5)))
    eeg_NCT = rng.normal(size=(len(row_N), 5, 60)) * np.repeat(gain_SKC.reshape(-1, 5), N_PICTURES, axis=0)[:, :, None]
    # Every third picture is tested; the next one validates, in which the decoder's step is chosen.
    part = np.array(["test", "val", "train"])[np.arange(len(names)) % 3]
    table = shard_set.trial_table(
        len(row_N),
        row_N,
        recording=np.char.add("sub-", subject_N),
        subject=subject_N,
        picture=np.array(names)[row_N],
        concept=concepts[row_N],
        partition=part[row_N],
    )
    uri = places.shards(experiment)
    made = shard_set.write_set(uri, eeg_NCT, table, [len(row_N)], pictures, pictures_per_shard=200)
    fact = FACT.model_copy(update={"design": design})
    manifest = shards.publish(uri, made.model_copy(update={"source": fact, "tmin_s": -0.1}), table)
    target_PD = rng.normal(size=(len(names), 4)).astype(np.float32)
    shard_set.publish_targets(places.targets(experiment, "gabor"), manifest, names, target_PD, "gabor")
    return experiment, places.open_set(experiment)


def reported(experiment: Experiment, found: ConfoundFact) -> Report:
    target = TargetFact(tower="gabor", layer="", revision="", preprocessing="", dim=4)
    data = DataFact(
        source=FACT, target=target, channels=("E1",), sfreq_hz=100, tmin_s=0, n_times=1, n_trials=1, n_pictures=1
    )
    facts = {"recipe": "blocks", "run_id": "r", "manifest_digest": "ab", "command": "", "date": ""}
    return Report(**facts, protocol=experiment.protocol, data=data, confounds=found)


def test_where_blocks_leak_power_names_the_class_before_the_picture_too(tmp_path: Path) -> None:
    experiment, opened = block_design(tmp_path, drift=1.0)
    found = confounds(experiment, opened)
    assert found is not None
    assert found.result is not None
    power, locked, blank = found.result.mean_power, found.result.time_locked, found.result.blank
    assert locked is not None
    assert blank is not None
    assert (power.n_trials, power.n_classes, power.chance) == (64, N_CLASSES, 1 / N_CLASSES)
    assert power.accuracy > 0.8
    assert blank.accuracy > 0.6  # ten samples of sixty
    assert locked.ci95[0] <= locked.chance + 0.05
    assert power.n_blocks == found.result.blocks_on_both_sides == len(PEOPLE) * N_CLASSES
    assert power.p_within_blocks == power.smallest_p_within_blocks == 1
    report = reported(experiment, found)
    assert sum("alone names the class" in said for said in concerns(report)) == 2
    shown = render(report, {})
    assert f"<td>mean power</td><td class=n>{percent(power.accuracy)}</td>" in shown
    told = scalars(report)
    assert told["test_confound_mean_power"] == power.accuracy
    assert told["test_confound_time_locked_chance"] == 1 / N_CLASSES
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_where_blocks_do_not_drift_controls_are_on_chance(tmp_path: Path) -> None:
    experiment, opened = block_design(tmp_path, drift=0.0)
    found = confounds(experiment, opened)
    assert found is not None
    assert found.result is not None
    for score in (found.result.mean_power, found.result.time_locked, found.result.blank):
        assert score is not None
        assert abs(score.accuracy - 1 / N_CLASSES) < 3 * (1 / 8 * 7 / 8 / score.n_trials) ** 0.5
        assert score.p > 0.05
    assert len(found.result.findings) == 2  # one class a block, and blocks on both sides: of the design, not of power


def test_validation_trials_are_learnt_from_where_the_decoder_learns_from_them(tmp_path: Path) -> None:
    """Against the same regression on the rows that the partition names, one person after the other."""
    experiment, opened = block_design(tmp_path, drift=0.3)
    table, eeg_NCT = opened.table, opened.gather(np.arange(len(opened.table))).astype(np.float64)
    power_NC, part_N = np.log((eeg_NCT**2).mean(axis=2)), table["partition"].to_numpy(str)
    for selection, parts in (("validation", ["train"]), ("last", ["train", "val"])):
        protocol = experiment.protocol.model_copy(update={"selection": selection})
        found = confounds(experiment.model_copy(update={"protocol": protocol}), opened)
        hits = []
        for person in PEOPLE:
            own_N = (table["subject"] == person).to_numpy()
            train_N, test_N = own_N & np.isin(part_N, parts), own_N & (part_N == "test")
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
            model.fit(power_NC[train_N], table["concept"][train_N])
            hits += (model.predict(power_NC[test_N]) == table["concept"][test_N]).tolist()
        assert found is not None
        assert found.result is not None
        assert found.result.mean_power.accuracy == pytest.approx(np.mean(hits))


def test_other_designs_have_no_such_report_and_new_concepts_say_why(tmp_path: Path) -> None:
    experiment, opened = block_design(tmp_path / "rapid", drift=1.0, design="rapid")
    assert confounds(experiment, opened) is None
    _, blocked = block_design(tmp_path / "block", drift=1.0)
    found = confounds(described(tmp_path, split_by="concept"), blocked)
    assert found is not None
    assert found.result is None
    assert "Not available: test concepts are not trained on" in render(reported(experiment, found), {})
