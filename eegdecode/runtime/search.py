"""A first Tune run: learning rate and temperature, judged on validation groups; the best of each fold is kept.

World size one: a trial trains inside Tune's function, and actors are reused (starting six no-op trials nested in Ray
Train took six times as long). A trial is one configuration, scored on all folds.
"""

import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from eegdecode import storage
from eegdecode.config import Experiment
from eegdecode.runtime import places, tracking
from eegdecode.runtime.progress import say
from eegdecode.train.engine import build_engine
from eegdecode.train.fold import build_fold
from eegdecode.train.loop import Report, fit
from eegdecode.train.resume import Progress

Changes = dict[str, Any]


def search(experiment: Experiment) -> dict[str, Any]:
    """Try every configuration of `experiment.search` and write search.json: trials, table, and the best per fold.

    Raises
    ------
    RuntimeError
        No configuration reached the end.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints boxes even at verbose=0
    tracked = tracking.find_or_create_run(
        experiment.compute.tracking_uri, "eegdecode", f"search {experiment.run_id}", {"search_of": experiment.run_id}
    )
    folds = places.open_set(experiment).folds
    points = _points(experiment)
    validations = -(-experiment.search.steps // _validate_every(experiment))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_try, experiment=experiment.model_dump_json(), parent=tracked.run_id),
            {"cpu": 1, "gpu": experiment.compute.gpus_per_worker},
        ),
        param_space={"point": tune.grid_search(list(range(len(points))))},
        tune_config=tune.TuneConfig(
            metric="val_score",
            mode="max",
            scheduler=ASHAScheduler(max_t=len(folds) * validations, grace_period=max(1, validations // 2)),
            max_concurrent_trials=max(1, min(cpus, len(points))),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"search-{experiment.run_id}",
            storage_path=storage.join(experiment.compute.runs_uri, "ray"),
            failure_config=tune.FailureConfig(max_failures=experiment.compute.max_failures),
            verbose=0,
        ),
    )
    results = tuner.fit()
    if results.errors:
        raise RuntimeError(f"search {experiment.run_id}: {len(results.errors)} trials failed: {results.errors[0]}")
    found = _summary(points, [result.metrics or {} for result in results], [fold.name for fold in folds])
    found |= {"of": experiment.digest(), "metric": "validation mean average precision"}
    storage.write_bytes(places.search(experiment), json.dumps(found, indent=1).encode())
    tracking.tracker(tracked).finish("FINISHED")
    say(f"search: {found['trials']} configurations, best {found['best']}")
    return found


def tuned_for(experiment: Experiment) -> dict[str, Changes]:
    """Return each fold's best changes if this very experiment was searched, else none."""
    where = places.search(experiment)
    if not storage.exists(where):
        return {}
    found = json.loads(storage.read_bytes(where))
    best: dict[str, Changes] = found["best_per_fold"] if found["of"] == experiment.digest() else {}
    return best


def _points(experiment: Experiment) -> list[Changes]:
    return [
        {"schedule.lr": lr, "loss.temperature": temperature}
        for lr, temperature in itertools.product(experiment.search.lr, experiment.search.temperature)
    ]


def _validate_every(experiment: Experiment) -> int:
    return min(experiment.schedule.validate_every, experiment.search.steps)


def _try(config: Mapping[str, Any], experiment: str, parent: str) -> None:
    """Train and validate one configuration on all folds; runs in Tune's actor."""
    base = Experiment.model_validate_json(experiment)
    changes = _points(base)[config["point"]]
    changed = base.override(
        changes
        | {
            "compute.engine": "torch",
            "compute.workers": 1,
            "schedule.steps": base.search.steps,
            "schedule.validate_every": _validate_every(base),
        }
    )
    tracker = tracking.tracker(
        tracking.find_or_create_run(
            base.compute.tracking_uri,
            "eegdecode",
            f"point {config['point']}",
            {"search_of": base.run_id, "point": str(config["point"])},
            parent=parent,
        )
    )
    tracker.log_params({key: str(value) for key, value in changes.items()})
    shards = places.open_set(base)
    best: dict[str, float] = {}
    for fold in shards.folds:
        run = build_fold(changed, shards, fold, 0, 1, search=True)
        if run.validation is None:
            raise ValueError(
                f"fold '{fold.name}' has no validation group to search on; set protocol.n_val to 1 or more."
            )
        engine = build_engine(run.task, changed.schedule, changed.compute, changed.loss.contrastive_batch)

        def validated(progress: Progress, scores: dict[str, float], name: str = fold.name) -> None:
            best[name] = max(best.get(name, 0.0), scores["val_score"])
            tracker.log_metrics({f"{name} {key}": value for key, value in scores.items()}, progress.step)
            score = sum(best.values()) / len(best)
            tune.report({"val_score": score, "folds": dict(best), "step": progress.step})

        fit(engine, run.stream, changed.schedule, Report(validated=validated), run.validation)
    tracker.finish("FINISHED")


def _summary(points: list[Changes], metrics: list[Mapping[str, Any]], folds: list[str]) -> dict[str, Any]:
    """Return the table of trials, the best over all folds, and each fold's own best.

    Folds choose for themselves, since one fold's validation groups are another's test groups.
    """
    rows = [
        {**points[m["config"]["point"]], "val_score": m["val_score"], "steps": m["step"], "folds": m["folds"]}
        for m in metrics
        if "val_score" in m
    ]
    if not rows:
        raise RuntimeError("no configuration of the search reached its first validation.")
    keys = list(points[0])
    whole = [row for row in rows if len(row["folds"]) == len(folds)] or rows
    top = max(whole, key=lambda row: float(row["val_score"]))
    best_per_fold = {}
    for fold in folds:
        row = max(rows, key=lambda row: float(row["folds"].get(fold, -1.0)))
        best_per_fold[fold] = {key: row[key] for key in keys}
    return {
        "trials": len(rows),
        "best": {key: top[key] for key in (*keys, "val_score")},
        "best_per_fold": best_per_fold,
        "table": [{key: value for key, value in row.items() if key != "folds"} for row in rows],
    }
