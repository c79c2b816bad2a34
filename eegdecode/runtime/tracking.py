"""The only place that knows MLflow: one server, and a tracker for one run.

The driver starts the server and makes the runs; workers get a URI, an experiment id and a run id, and only rank 0 logs.
Nobody but the server opens the database: several processes on a fresh SQLite file break it for good. MLflow is imported
inside functions because that takes seconds, which a run without tracking need not pay.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.error import URLError
from urllib.request import urlopen

from eegdecode import __version__
from eegdecode.runtime.processes import free_ports, server

if TYPE_CHECKING:
    from mlflow import MlflowClient

START_TIMEOUT_S = 180.0
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its workers for generative models: processes we have no use for
    # A server that does not answer must stop a training after a minute, not after the default ten.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}
_KEY = "eegdecode.key"
_PARAMS_AT_ONCE = 100
_PARAM_CHARS = 6000


@contextmanager
def start_server(folder: str | Path, port: int = 0) -> Iterator[str]:
    """Run an MLflow server while the block lasts and give its URI.

    Parameters
    ----------
    folder
        Keeps the database (`mlflow.db`), the artifacts (`artifacts/`) and the server's log (`mlflow.log`).
    port
        A free one if 0.

    Raises
    ------
    RuntimeError
        The server does not come up; the end of its log is quoted.
    """
    folder = Path(folder).resolve()
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    port = port or free_ports(1)[0]
    uri = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    # One worker: the command itself creates the tables before it starts, so nobody races for a fresh file.
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = folder / "mlflow.log"
    env = os.environ | _QUIET
    env.pop("MLFLOW_TRACKING_URI", None)
    before = log.stat().st_size if log.exists() else 0
    with ExitStack() as running:

        def start() -> None:
            healthy = partial(_healthy, uri)
            running.enter_context(server("MLflow's server", command, env, log, healthy, START_TIMEOUT_S))

        try:
            start()
        except RuntimeError:
            with log.open("rb") as file:
                file.seek(before)
                if b"out-of-date database schema" not in file.read():
                    raise
            _upgrade(store, env, log)  # an older MLflow made it
            start()
        yield uri


@dataclass(frozen=True)
class Run:
    """What a worker needs to log; travels between processes as it is. An empty `uri` logs nothing."""

    uri: str
    experiment_id: str = ""
    run_id: str = ""


def find_or_create_run(
    uri: str, experiment: str, name: str, tags: Mapping[str, str] | None = None, parent: str = ""
) -> Run:
    """Return the run of this name and parent, made if it is not there: a restart goes on in the run it left.

    Only the driver calls this. With an empty `uri` nothing is logged and no server is asked.

    Parameters
    ----------
    name
        Unique among the runs of the experiment with the same parent; no clock in it.
    parent
        Run id of the search that this run is a trial of.
    """
    if not uri:
        return Run("")
    client = _client(uri)
    known = client.get_experiment_by_name(experiment)
    experiment_id = known.experiment_id if known is not None else client.create_experiment(experiment)
    key = f"{parent}/{name}"
    quoted = key.replace("'", "")
    found = client.search_runs([experiment_id], filter_string=f"tags.`{_KEY}` = '{quoted}'", max_results=1)
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        for tag, value in (tags or {}).items():
            client.set_tag(run_id, tag, value)
        return Run(uri, experiment_id, run_id)
    all_tags = {**(tags or {}), _KEY: quoted} | ({"mlflow.parentRunId": parent} if parent else {})
    made = client.create_run(experiment_id, run_name=name, tags=all_tags)
    return Run(uri, experiment_id, made.info.run_id)


class Tracker:
    """Logs to one run; with an empty URI it does nothing, so callers need no branch.

    Parameters
    ----------
    uri, experiment_id, run_id
        As in `Run`.
    """

    def __init__(self, uri: str, experiment_id: str = "", run_id: str = "") -> None:
        if uri and not run_id:
            raise ValueError(
                f"a tracker on {uri} needs the id of a run, got none: call find_or_create_run in the driver."
            )
        self.run = Run(uri, experiment_id, run_id)
        self._client = _client(uri) if uri else None

    def log_params(self, params: Mapping[str, object]) -> None:
        """Log settings by dotted name. One that is there already with the same value is left as it is.

        Raises
        ------
        ValueError
            A parameter that has another value in this run: it is not the same run.
        """
        if self._client is None:
            return
        from mlflow.entities import Param

        known = self._client.get_run(self.run.run_id).data.params
        texts = {name: str(value)[:_PARAM_CHARS] for name, value in params.items()}
        for name, text in texts.items():
            if known.get(name, text) != text:
                raise ValueError(
                    f"run {self.run.run_id} has {name}={known[name]}, got {text}: "
                    "a run keeps its parameters. Take another run name for another configuration."
                )
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        for start in range(0, len(new), _PARAMS_AT_ONCE):
            self._client.log_batch(self.run.run_id, params=new[start : start + _PARAMS_AT_ONCE])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at a step, in one request."""
        if self._client is None:
            return
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            self.run.run_id, metrics=[Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        )

    def log_artifact(self, path: str | Path) -> None:
        """Upload a file."""
        if self._client is not None:
            self._client.log_artifact(self.run.run_id, str(path))

    def log_bundle(self, folder: str | Path, name: str, n_chans: int, n_times: int) -> None:
        """Upload a bundle as a pyfunc model, under `models/<name>`.

        Parameters
        ----------
        folder
            A bundle, local.
        n_chans, n_times
            Shape of its trials, for the model's signature.
        """
        if self._client is None:
            return
        import mlflow.pyfunc
        import numpy as np
        from mlflow.models import ModelSignature
        from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

        trials = Schema([TensorSpec(np.dtype(np.float32), (-1, n_chans, n_times))])
        # The default is a name that no subject has: whose trials nobody names are a new person's.
        signature = ModelSignature(trials, params=ParamSchema([ParamSpec("subject", "string", "")]))
        with tempfile.TemporaryDirectory() as made:
            mlflow.pyfunc.save_model(
                path=Path(made) / "model",
                loader_module="eegdecode.runtime.pyfunc",
                data_path=str(folder),
                signature=signature,
                pip_requirements=[f"eegdecode=={__version__}"],  # found out by MLflow it takes a minute
            )
            self._client.log_artifacts(self.run.run_id, str(Path(made) / "model"), f"models/{name}")

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED") -> None:
        """Close the run."""
        if self._client is not None:
            self._client.set_terminated(self.run.run_id, status)


def tracker(run: Run) -> Tracker:
    """Return the tracker of a run."""
    return Tracker(run.uri, run.experiment_id, run.run_id)


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return a nested mapping under dotted names: an experiment's dump becomes parameters."""
    out: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out.update(flat(value, f"{prefix}{name}."))
        else:
            out[prefix + name] = value
    return out


def _client(uri: str) -> "MlflowClient":
    # Read when MLflow is imported and when it sends; a user's own setting wins.
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _healthy(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _upgrade(store: str, env: Mapping[str, str], log: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", store]
    with log.open("ab") as output:
        done = subprocess.run(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"'mlflow db upgrade {store}' ended with {done.returncode}; see {log}.")
