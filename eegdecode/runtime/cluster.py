"""A Ray cluster of one machine with token authentication, and jobs on it through Ray's job API.

The same jobs run on a real cluster with `ray job submit`; this is what `make demo` and the tests submit them to.
"""

import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from eegdecode.runtime.processes import environment, free_ports, last_lines, server

OBJECT_STORE_BYTES = 1_000_000_000
START_TIMEOUT_S = 120.0
_POLL_S = 0.25
# What Ray says about itself; a job's own lines are the progress.
_RAY_CHATTER = re.compile(
    r"\d{4}-\d\d-\d\d [\d:,]+\s+INFO \w+\.py:\d+ -- |Running entrypoint for job |View detailed results here: |"
    r"To visualize your results with TensorBoard|"
    r"Reporting training result \d+: |.*FutureWarning: `torch\.distributed\.|  return func\(\*args, \*\*kwargs\)|"
    r".*'PreemptionWatcher' .* has constructor arguments in the object store|$"
)
_WORKER = re.compile(r"\(\w+ pid=\d+\) ")
"""What Ray puts before a line of a worker."""


@dataclass(frozen=True)
class ClusterAddress:
    """Where a cluster listens and where its token lies.

    Attributes
    ----------
    address
        `host:port` for `ray.init(address=...)`; never "auto", which fails where two clusters share a host.
    dashboard_url
        Of the dashboard and the job API.
    token_path
        File with the token, readable by its owner only.
    """

    address: str
    dashboard_url: str
    token_path: Path

    def headers(self) -> dict[str, str]:
        """Return the header that the job API asks for."""
        return {"Authorization": f"Bearer {self.token_path.read_text().strip()}"}


@contextmanager
def one_machine(num_cpus: int, folder: str | Path, num_gpus: int = 0) -> Iterator[ClusterAddress]:
    """Start a cluster on this machine, give its address, and stop its own processes at the end, whatever happens.

    While the block lasts this process and its children find the token, so `ray.init(address=...)` just works. The
    workers' working directory is the one this is called in.

    Parameters
    ----------
    folder
        Takes the token (`ray_token`, mode 600) and what the head prints (`ray_head.log`).

    Raises
    ------
    RuntimeError
        The head does not come up; the end of its log is quoted.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    token_path = folder / "ray_token"
    _write_secret(token_path, secrets.token_hex(32))
    gcs, dashboard, *agents = free_ports(6)
    cluster = ClusterAddress(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}", token_path)
    # Sockets lie below it, and the path of a Unix socket may have 107 bytes: never below `folder`.
    session = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agents[0],
        "dashboard-agent-grpc-port": agents[1],
        "runtime-env-agent-port": agents[2],
        "metrics-export-port": agents[3],
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": num_cpus,
        "num-gpus": num_gpus,
        "object-store-memory": OBJECT_STORE_BYTES,
        "temp-dir": session,
    }
    command += [f"--{name}={value}" for name, value in options.items()]
    secured = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    python_path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    try:
        # A token or address of another cluster in our environment would win over this one's.
        with environment(secured, without=("RAY_AUTH_TOKEN", "RAY_ADDRESS")), _auth_as_in_environment():
            # Actors of Ray Train look for the cluster themselves, and give up where two share a host.
            env = os.environ | {"PYTHONPATH": python_path, "RAY_ADDRESS": cluster.address}
            log = folder / "ray_head.log"
            with server("Ray's head", command, env, log, lambda: _answers(cluster), START_TIMEOUT_S):
                yield cluster
    finally:
        shutil.rmtree(session, ignore_errors=True)
        token_path.unlink(missing_ok=True)


def connect(address: str) -> None:
    """Connect this process to a cluster, quietly, and keep SIGTERM in our hands.

    Ray takes the signal for itself and aborts the process, so that no block would end in order.
    """
    import ray

    before = signal.getsignal(signal.SIGTERM)
    ray.init(address=address, log_to_driver=False, logging_level="warning")
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def submit(
    cluster: ClusterAddress, job_script: str, args: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> None:
    """Run a script as a Ray job, from this working directory and with this Python, and print its lines as they come.

    Nothing is uploaded: on one machine the job reads the same files. On a cluster use `ray job submit --working-dir .`.

    Parameters
    ----------
    env
        Further variables of the job and its workers. Without any, Ray's warm workers are used.

    Raises
    ------
    RuntimeError
        The job fails; its last lines are quoted.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    if not Path(job_script).is_file():
        raise ValueError(f"a job must be a file, got {job_script}, which does not exist in {os.getcwd()}.")
    client = JobSubmissionClient(cluster.dashboard_url, headers=cluster.headers())
    entrypoint = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join([sys.executable, '-u', job_script, *args])}"
    runtime_env = {"env_vars": dict(env)} if env else {}
    job = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    shown = 0
    try:
        while True:
            # Asked before the log, so that nothing which was written by the end is missed. Following the log through
            # the API's web socket instead comes 3 s later at the start and at the end of every job (measured).
            status = client.get_job_status(job)
            log = client.get_job_logs(job)
            end = len(log) if status.is_terminal() else log.rfind("\n") + 1
            _print(log[shown:end])
            shown = max(shown, end)
            if status.is_terminal():
                break
            time.sleep(_POLL_S)
    except BaseException:
        client.stop_job(job)
        raise
    if status != JobStatus.SUCCEEDED:
        said = last_lines("\n".join(_own_lines(log))) or client.get_job_info(job).message
        raise RuntimeError(f"job {job_script} ended as {status}. Its last lines:\n{said}")


def _print(text: str) -> None:
    for line in _own_lines(text):
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _own_lines(text: str) -> list[str]:
    lines = [_WORKER.sub("", line, count=1) for line in text.splitlines()]
    return [line for line in lines if not _RAY_CHATTER.match(line)]


def _answers(cluster: ClusterAddress) -> bool:
    """Whether the job API is up, which is the last part of a head to be."""
    try:
        with urlopen(Request(f"{cluster.dashboard_url}/api/jobs/", headers=cluster.headers()), timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@contextmanager
def _auth_as_in_environment() -> Iterator[None]:
    """Have Ray in this process read mode and token from the environment: it keeps what it found at import."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    def read_again() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    read_again()
    try:
        yield
    finally:
        read_again()


def _write_secret(path: Path, secret: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
