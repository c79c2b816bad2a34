"""A training worker is killed with SIGKILL in the middle: the run goes on by itself, to the same weights."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import ray.cloudpickle
from safetensors.torch import load_file, save_file

from eegdecode.batch import TrialBatch
from eegdecode.config import Experiment
from eegdecode.recipes import RECIPES
from eegdecode.runtime import cluster, places

pytestmark = pytest.mark.ray
STEPS, BATCH, SAVE_EVERY = 60, 8, 5

# Workers do not have the test's folder on their path.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def tiny(folder: Path) -> Experiment:
    return RECIPES["demo"]().override(
        {
            "data.source.n_subjects": 1,
            "data.source.n_train_concepts": 12,
            "data.source.pictures_per_concept": 2,
            "data.source.n_test_concepts": 4,
            "data.source.test_repetitions": 2,
            "data.source.picture_px": 32,
            "data.epochs.crop_s": [0.0, 0.4],
            "data.epochs.sfreq_hz": 50.0,
            "encoder.name": "mlp",
            "encoder.start": "random",
            "encoder.dropout": 0.5,
            "targets.project": 0,
            "schedule.lr": 1e-3,
            "loss.contrastive_batch": BATCH,
            "protocol.n_val": 2,
            "schedule.steps": STEPS,
            "schedule.save_every": SAVE_EVERY,
            "schedule.validate_every": 10,
            "compute.workers": 2,
            "compute.runs_uri": str(folder),
            "compute.max_failures": 2,
        }
    )


class Recorded:
    """The stream, writing down which trials were handed to which step."""

    def __init__(self, stream: object, path: Path) -> None:
        self._stream, self._path = stream, path

    def starting_at(self, trials_seen: int) -> Iterator[TrialBatch]:
        for k, batch in enumerate(self._stream.starting_at(trials_seen)):
            with self._path.open("a") as file:
                file.write(json.dumps([trials_seen + k * BATCH, batch.trial_B.tolist()]) + "\n")
            yield batch


def worker(config: dict[str, str]) -> None:
    from eegdecode import collectives
    from eegdecode.runtime.train import Stages
    from eegdecode.train.fold import build_fold

    experiment = Experiment.model_validate_json(config["experiment"])
    shards = places.open_set(experiment)
    rank = collectives.rank()
    run = build_fold(experiment, shards, shards.folds[0], rank, collectives.world_size())
    stream = Recorded(run.stream, Path(config["out"]) / f"trials-{rank}.jsonl")
    stages = Stages(experiment, "")
    progress, _, weights = stages.fit(
        "fold", run.task, stream, experiment.schedule, BATCH, experiment.compute, run.validation
    )
    assert progress.step == STEPS
    if rank == 0:
        save_file(weights, Path(config["out"]) / "weights.safetensors")


def fit(experiment: Experiment, out: Path) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    out.mkdir()
    result = TorchTrainer(
        worker,
        train_loop_config={"experiment": experiment.model_dump_json(), "out": str(out)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name=out.name, storage_path=str(out.parent / "ray"), failure_config=FailureConfig(max_failures=2)
        ),
    ).fit()
    assert result.error is None


def kill_one_worker_after(checkpoints: Path, dashboard: str, killed: list[int]) -> None:
    from ray.util.state import list_actors

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(checkpoints.glob("checkpoint_*"))) < 3:
        time.sleep(0.05)
    actors = list_actors(address=dashboard, filters=[("state", "=", "ALIVE")], detail=True)
    pids = [actor.pid for actor in actors if "TrainWorker" in actor.class_name]
    if pids:
        os.kill(pids[0], signal.SIGKILL)
        killed.append(pids[0])


def handed_out(out: Path) -> tuple[dict[int, list[int]], int]:
    """Return the trials of each position over both ranks, and how many positions were handed out more than once."""
    positions: dict[int, dict[int, list[int]]] = {}
    again = 0
    for rank in (0, 1):
        for line in (out / f"trials-{rank}.jsonl").read_text().splitlines():
            position, trials = json.loads(line)
            seen = positions.setdefault(position, {})
            if rank in seen:
                again += 1
                assert seen[rank] == trials, "a repeated step must take the same trials"
            seen[rank] = trials
    return {position: ranks[0] + ranks[1] for position, ranks in positions.items()}, again


def test_a_killed_worker_changes_nothing(ray_cluster: cluster.ClusterAddress, tmp_path: Path) -> None:
    experiment = tiny(tmp_path)
    from eegdecode.runtime.prepare import prepare

    cluster.connect(ray_cluster.address)
    killed: list[int] = []
    killer = threading.Thread(
        target=kill_one_worker_after, args=(tmp_path / "ray" / "killed", ray_cluster.dashboard_url, killed)
    )
    try:
        manifest = prepare(experiment)
        fit(experiment, tmp_path / "undisturbed")
        killer.start()
        fit(experiment, tmp_path / "killed")
        killer.join()
    finally:
        ray.shutdown()

    assert len(killed) == 1
    expected = load_file(tmp_path / "undisturbed" / "weights.safetensors")
    weights = load_file(tmp_path / "killed" / "weights.safetensors")
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name].numpy(), value.numpy(), err_msg=name)

    steps, none_again = handed_out(tmp_path / "undisturbed")
    steps_killed, again = handed_out(tmp_path / "killed")
    assert none_again == 0
    assert again > 0, "the worker was killed after the last step; nothing was tested"
    # The stream may have read one batch ahead of the last step.
    wanted = [k * BATCH for k in range(STEPS)]
    assert [steps_killed[p] for p in wanted] == [steps[p] for p in wanted]
    order = [trial for p in wanted for trial in steps_killed[p]]
    table_rows = set(order)
    whole_passes, n = len(order) // len(table_rows), len(table_rows)
    assert whole_passes >= 2
    for k in range(whole_passes):
        assert sorted(order[k * n : (k + 1) * n]) == sorted(table_rows), f"pass {k} lost or doubled a trial"
    assert table_rows <= set(range(manifest.n_trials))
