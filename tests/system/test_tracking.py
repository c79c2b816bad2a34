"""A real MLflow server: parent and child runs, found again after a restart, metrics readable."""

import json
import math
import time
from pathlib import Path
from urllib.request import Request, urlopen

import mlflow
import numpy as np
import psutil
import pytest

from eegdecode import bundle
from eegdecode.reconstruct.reconstructor import Reconstructor
from eegdecode.runtime.tracking import Run, Tracker, find_or_create_run, flat, start_server
from tests.writers.bundles import toy_bundle


def ask(uri: str, path: str, body: dict[str, object] | None = None) -> dict[str, object]:
    """The REST API, without MLflow's client: what was logged is read in another way than it was written."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(f"{uri}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def test_runs_survive_a_restart_of_the_server(tmp_path: Path) -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with start_server(tmp_path) as uri:
        parent = find_or_create_run(uri, "demo", "search-abc", {"recipe": "demo"})
        child = find_or_create_run(uri, "demo", "lr=0.001", parent=parent.run_id)
        tracker = Tracker(uri, child.experiment_id, child.run_id)
        params = flat({"encoder": {"name": "mlp", "dropout": 0.5}, "recipe": "demo"})
        tracker.log_params(params | {f"many.{k}": k for k in range(150)})
        for step in range(3):
            tracker.log_metrics({"loss": 1.0 / (step + 1), "val_top1": 0.1 * step}, step)
        (tmp_path / "note.txt").write_text("kept")
        tracker.log_artifact(tmp_path / "note.txt")
        servers = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        mib = sum(p.memory_info().rss for p in servers) / 2**20
        print(f"mlflow server: {len(servers)} processes, {mib:.0f} MiB")
    assert not [p for p in servers if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    start = time.monotonic()
    with start_server(tmp_path) as uri:
        print(f"mlflow server: up again after {time.monotonic() - start:.1f} s")
        again = find_or_create_run(uri, "demo", "lr=0.001", parent=parent.run_id)
        assert again == Run(uri, child.experiment_id, child.run_id)
        assert find_or_create_run(uri, "demo", "search-abc").run_id == parent.run_id
        other = find_or_create_run(uri, "demo", "lr=0.01", parent=parent.run_id)
        assert other.run_id != child.run_id
        tracker = Tracker(uri, again.experiment_id, again.run_id)
        tracker.log_params(params)
        with pytest.raises(ValueError, match=r"encoder\.name=mlp, got nice"):
            tracker.log_params({"encoder.name": "nice"})
        tracker.log_metrics({"loss": 0.25}, 3)
        tracker.finish()

        run = ask(uri, f"runs/get?run_id={child.run_id}")["run"]
        assert run["info"]["status"] == "FINISHED"  # type: ignore[index]
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}  # type: ignore[index]
        assert tags["mlflow.parentRunId"] == parent.run_id
        assert {p["key"]: p["value"] for p in run["data"]["params"]}["many.149"] == "149"  # type: ignore[index]
        history = ask(uri, f"metrics/get-history?run_id={child.run_id}&metric_key=loss")["metrics"]
        assert [m["step"] for m in history] == [0, 1, 2, 3]  # type: ignore[attr-defined,union-attr]
        for metric, expected in zip(history, [1, 1 / 2, 1 / 3, 1 / 4], strict=True):  # type: ignore[call-overload]
            assert math.isclose(metric["value"], expected)
        found = ask(uri, "runs/search", {"experiment_ids": [child.experiment_id]})["runs"]
        assert len(found) == 3  # type: ignore[arg-type]
        assert (
            tmp_path / "artifacts" / child.experiment_id / child.run_id / "artifacts" / "note.txt"
        ).read_text() == "kept"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(RuntimeError, match="file is not a database"), start_server(tmp_path):
        pass


def test_a_bundle_is_logged_as_a_model_that_mlflow_loads(tmp_path: Path) -> None:
    made = toy_bundle(("01", "02"))
    bundle.save(str(tmp_path / "bundle"), made)
    eeg_uv_NCT = (10 * np.random.default_rng(1).standard_normal((5, 2, 10))).astype(np.float32)
    with start_server(tmp_path / "mlflow") as uri:
        run = find_or_create_run(uri, "demo", "train")
        tracker = Tracker(uri, run.experiment_id, run.run_id)
        tracker.log_bundle(tmp_path / "bundle", "concepts", n_chans=2, n_times=10)
        mlflow.set_tracking_uri(uri)
        model = mlflow.pyfunc.load_model(f"runs:/{run.run_id}/models/concepts")
        who = (None, "01", "02", "nobody")
        tables = {name: model.predict(eeg_uv_NCT, params={"subject": name} if name else None) for name in who}
        with pytest.raises(mlflow.exceptions.MlflowException, match="shape"):
            model.predict(eeg_uv_NCT[:, :1])
    ours = Reconstructor(made)
    for name, table in tables.items():
        assert table["concept"].tolist() == ours.predict(eeg_uv_NCT, subject=name).tolist()
        np.testing.assert_allclose(table["p1"], ours.predict_proba(eeg_uv_NCT, subject=name).max(axis=1))
    assert len({tuple(table["p1"]) for table in tables.values()}) == 3
    np.testing.assert_array_equal(tables["nobody"]["p1"], tables[None]["p1"])
