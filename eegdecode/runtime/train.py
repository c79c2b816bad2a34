"""Ray Train around the loop: every fold's decoder, then the drawer, then the bundles.

A worker that dies takes its group with it; Ray starts the group again, finished stages are skipped and the unfinished
one goes on from its last state, to the same weights as if nothing had happened.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file, save_file
from torch import nn

from eegdecode import bundle, collectives, hub, storage
from eegdecode.config import Compute, Experiment, Schedule
from eegdecode.data.shardset import ShardSet
from eegdecode.diffusion.drawer import Drawer, DrawerTask, PictureStream
from eegdecode.runtime import places, tracking
from eegdecode.runtime.progress import Progress as Shown
from eegdecode.runtime.progress import say
from eegdecode.runtime.search import tuned_for
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold, drawn_rows, make_bundle
from eegdecode.train.loop import Batches, Report, fit
from eegdecode.train.resume import Progress

DRAWER_STAGE = "drawer"
CONTROLLER_FAILURES = 2
"""A run that can never be scheduled must end, not wait for ever (Ray's default is no limit)."""


def train(
    experiment: Experiment, *, tuned: Mapping[str, Mapping[str, Any]] | None = None, whole: bool = True
) -> list[str]:
    """Train every fold and the drawer, on as many workers as `compute` says, and return the bundles' URIs.

    Parameters
    ----------
    tuned
        Fold to changes of the experiment; by default what its own search found.
    whole
        Whether the control and the drawer are trained too, and a bundle goes to MLflow; the decoders alone otherwise.

    Raises
    ------
    RuntimeError
        Training failed more often than `compute.max_failures`.
    """
    compute = experiment.compute
    tracked = tracking.find_or_create_run(
        compute.tracking_uri, "eegdecode", f"train {experiment.run_id}", {"run_id": experiment.run_id}
    )
    parent = tracking.tracker(tracked)
    parent.log_params(tracking.flat(experiment.model_dump(mode="json", exclude={"compute"})))
    control = experiment.control() if whole else None
    resources = {"CPU": compute.cpus_per_worker} | ({"GPU": compute.gpus_per_worker} if compute.gpus_per_worker else {})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "experiment": experiment.model_dump_json(),
            "control": control.model_dump_json() if control else None,
            "tuned": tuned_for(experiment) if tuned is None else tuned,
            "draws": whole,
            "parent": tracked.run_id,
        },
        scaling_config=ScalingConfig(
            num_workers=compute.workers, use_gpu=compute.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=experiment.run_id,  # no clock in it: the same run is found again
            storage_path=storage.join(compute.runs_uri, "ray"),
            failure_config=FailureConfig(
                max_failures=compute.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    result = trainer.fit()
    if result.error is not None:
        parent.finish("FAILED")
        raise RuntimeError(f"training {experiment.run_id} failed: {result.error}") from result.error
    shards = places.open_set(experiment, verify=False)
    facts = shards.manifest
    uris = [places.bundle(experiment, fold.name) for fold in shards.folds]
    if whole:
        with tempfile.TemporaryDirectory() as folder:  # the first fold's stands for all: each would take a minute
            first = bundle.copy(uris[0], Path(folder))
            parent.log_bundle(first, shards.folds[0].name, len(facts.channels), facts.n_times)
    parent.finish("FINISHED")
    say(f"train: {len(uris)} bundles in {places.run(experiment)}")
    return uris


def _worker(config: Mapping[str, Any]) -> None:
    """Fit the experiment and its control on this rank."""
    for key in ("experiment", "control"):
        if config[key] is None:
            continue
        experiment = Experiment.model_validate_json(config[key])
        shards = places.open_set(experiment)
        folds = shards.folds
        changed = {fold.name: experiment.override(config["tuned"].get(fold.name, {})) for fold in folds}
        stages = Stages(experiment, config["parent"])
        for fold in folds:
            stages.run(fold.name, partial(_fit_fold, stages, changed[fold.name], shards, fold.name))
        if key == "experiment" and config["draws"]:
            stages.run(DRAWER_STAGE, partial(_fit_drawer, stages, experiment, shards))
        if collectives.rank() == 0:
            _publish_bundles(stages, changed, shards)
        collectives.barrier()


class Stages:
    """The fits of a run, one after the other: which are finished, and what each left."""

    def __init__(self, experiment: Experiment, parent_run: str) -> None:
        self.experiment = experiment
        self.parent_run = parent_run
        self._root = storage.join(places.run(experiment), "stages")

    def run(self, name: str, do: Callable[[], tuple[dict[str, Any], Callable[[Path], None]]]) -> None:
        """Run a stage unless it is finished; `do` returns facts and what writes its weights into a folder."""
        if self.has(name):
            return
        facts, write = do()
        if collectives.rank() == 0:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder))
                for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                    storage.upload(path, storage.join(self._root, name, str(path.relative_to(folder))))
            storage.write_bytes(storage.join(self._root, name, "facts.json"), json.dumps(facts).encode())
        collectives.barrier()

    def has(self, name: str) -> bool:
        """Return whether a stage is finished."""
        return storage.exists(storage.join(self._root, name, "facts.json"))

    def facts(self, name: str) -> dict[str, Any]:
        """Return what a finished stage left beside its weights."""
        facts: dict[str, Any] = json.loads(storage.read_bytes(storage.join(self._root, name, "facts.json")))
        return facts

    def fetch(self, name: str, folder: Path) -> Path:
        """Copy a finished stage to a local folder."""
        prefix = storage.join(self._root, name)
        for uri in storage.list_uris(prefix):
            path = folder / uri.split(f"/stages/{name}/", 1)[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.download(uri, path)
        return folder

    def fit(
        self,
        name: str,
        task: nn.Module,
        stream: Batches,
        schedule: Schedule,
        total_batch: int,
        compute: Compute,
        validate: Callable[[nn.Module], Mapping[str, float]] | None,
    ) -> tuple[Progress, dict[str, Any], dict[str, torch.Tensor]]:
        """Fit a task with states kept by Ray; return progress, curves of loss and validation, and the kept weights."""
        experiment, rank = self.experiment, collectives.rank()
        engine = build_engine(task, schedule, compute, total_batch)
        tracker = tracking.Tracker("")
        if rank == 0:
            tracker = tracking.tracker(
                tracking.find_or_create_run(
                    experiment.compute.tracking_uri,
                    "eegdecode",
                    f"{experiment.run_id} {name}",
                    {"run_id": experiment.run_id, "stage": name},
                    parent=self.parent_run,
                )
            )
        curve: dict[str, Any] = {"steps": [], "loss": [], "val_steps": [], "val_score": []}
        shown = Shown(f"train {name}", schedule.steps, "steps")

        def scalars(progress: Progress, logs: dict[str, float]) -> None:
            curve["steps"].append(progress.step)
            curve["loss"].append(logs["loss"])
            tracker.log_metrics(logs, progress.step)
            if rank == 0:
                shown.add(progress.step - shown.done, f"loss {logs['loss']:.3f}")

        def validated(progress: Progress, scores: dict[str, float]) -> None:
            curve["val_steps"].append(progress.step)
            curve["val_score"].append(scores["val_score"])
            tracker.log_metrics(scores, progress.step)

        def saved(progress: Progress, folder: Path) -> None:
            if rank == 0:
                (folder / "stage.json").write_text(json.dumps({"stage": self._named(name), "curve": curve}))
            metrics = {"stage": self._named(name), **asdict(progress)}
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(str(folder)))

        with tempfile.TemporaryDirectory() as states:
            progress = fit(
                engine,
                stream,
                schedule,
                Report(scalars, validated, saved),
                validate,
                save_dir=Path(states),
                resume_from=self._state_of(name, Path(states) / "resumed", curve),
            )
        shown.close()
        tracker.finish("FINISHED")
        return progress, curve, engine.weights()

    def _named(self, stage: str) -> str:
        return f"{self.experiment.run_id}/{stage}"

    def _state_of(self, name: str, folder: Path, curve: dict[str, Any]) -> Path | None:
        """Return the last state of this stage, if the group was started again in the middle of it."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        state = Path(checkpoint.to_directory(str(folder)))
        left = json.loads((state / "stage.json").read_text())
        if left["stage"] != self._named(name):
            return None
        curve.update(left["curve"])
        if collectives.rank() == 0:
            step = json.loads((state / "progress.json").read_text())["progress"]["step"]
            say(f"train {name}: goes on after step {step}")
        return state


def _fit_fold(
    stages: Stages, experiment: Experiment, shards: ShardSet, name: str
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    fold = next(fold for fold in shards.folds if fold.name == name)
    run = build_fold(experiment, shards, fold, collectives.rank(), collectives.world_size())
    keep_best = experiment.protocol.selection == "validation"
    progress, curve, weights = stages.fit(
        name,
        run.task,
        run.stream,
        experiment.schedule,
        experiment.loss.contrastive_batch,
        experiment.compute,
        run.validation if keep_best else None,
    )
    facts = {
        "fold": name,
        "steps": progress.step,
        "kept_step": progress.best_step or progress.step,
        "val_score": progress.best_val,
        "n_train": run.n_train,
        "n_val": run.n_val,
        "curve": curve,
    }
    own = "decoder."
    state = {key.removeprefix(own): value.contiguous() for key, value in weights.items() if key.startswith(own)}
    return facts, lambda folder: save_file(state, folder / "decoder.safetensors")


def _fit_drawer(
    stages: Stages, experiment: Experiment, shards: ShardSet
) -> tuple[dict[str, Any], Callable[[Path], None]]:
    plan = experiment.drawer
    rows = drawn_rows(shards, shards.folds)
    target_PD = shards.target_PD[rows]
    torch.manual_seed(plan.seed)
    drawer = Drawer(
        embed_dim=target_PD.shape[1],
        px=plan.px,
        width=plan.width,
        space=plan.space,
        weights_dir=experiment.compute.weights_uri or None,
        cond_dropout=plan.cond_dropout,
        sampler_steps=plan.sampler_steps,
        guidance=plan.guidance,
    )
    drawer.set_condition_stats(target_PD.mean(axis=0), target_PD.std(axis=0))
    stream = PictureStream(
        drawer,
        shards.picture_images(rows),
        target_PD,
        plan.batch,
        plan.seed,
        collectives.rank(),
        collectives.world_size(),
    )
    schedule = Schedule(
        steps=plan.steps,
        lr=plan.lr,
        weight_decay=1e-4,
        warmup_steps=min(50, plan.steps),
        save_every=500,
        seed=plan.seed,
    )
    # ZeRO-3 scatters the weights whose running average the drawer keeps; 2 is the most it can use.
    compute = experiment.compute.model_copy(update={"zero_stage": min(experiment.compute.zero_stage, 2)})
    progress, curve, _ = stages.fit(DRAWER_STAGE, DrawerTask(drawer), stream, schedule, plan.batch, compute, None)
    facts = {"steps": progress.step, "n_pictures": len(rows), "curve": curve}
    return facts, lambda folder: drawer.save(folder)


def _publish_bundles(stages: Stages, changed: Mapping[str, Experiment], shards: ShardSet) -> None:
    """Join each fold's decoder with the drawer; runs again whole after a crash, since publishing is idempotent."""
    with tempfile.TemporaryDirectory() as local:
        drawn = stages.has(DRAWER_STAGE)
        drawer = Drawer.load(stages.fetch(DRAWER_STAGE, Path(local) / DRAWER_STAGE)) if drawn else None
        for fold in shards.folds:
            facts = stages.facts(fold.name)
            run = build_fold(changed[fold.name], shards, fold, 0, 1, start=False)
            weights = load_file(stages.fetch(fold.name, Path(local) / fold.name) / "decoder.safetensors")
            run.task.decoder.load_state_dict(weights)
            made = make_bundle(changed[fold.name], shards, run, facts["kept_step"], facts["val_score"], drawer)
            uri = places.bundle(stages.experiment, fold.name)
            bundle.save(uri, made)
            hub.write_card(uri)


def fold_facts(experiment: Experiment, fold: str) -> dict[str, Any]:
    """Return what the training of a fold left: steps, the step kept, the curve."""
    return Stages(experiment, "").facts(fold)
