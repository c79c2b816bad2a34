"""The cluster of one machine: who may ask it, and what a job says when it fails."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from eegdecode.runtime.cluster import ClusterAddress, submit

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]


def status_of(url: str, headers: dict[str, str]) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_who_has_the_token_may_ask(ray_cluster: ClusterAddress) -> None:
    for path in ("/api/version", "/api/jobs/"):
        url = ray_cluster.dashboard_url + path
        assert status_of(url, {}) == 401
        assert status_of(url, {"Authorization": "Bearer " + "0" * 64}) in (401, 403)
        assert status_of(url, ray_cluster.headers()) == 200
    assert stat.S_IMODE(ray_cluster.token_path.stat().st_mode) == 0o600


def test_a_job_runs_here_and_its_lines_come_back(
    ray_cluster: ClusterAddress, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys
        import ray
        ray.init()
        @ray.remote
        def where():
            return os.getcwd()
        print(f"driver in {os.getcwd()}, worker in {ray.get(where.remote())}, python {sys.executable}, {sys.argv[1:]}")
        """)
    )
    start = time.monotonic()
    submit(ray_cluster, str(script), ["--set", "a.b='c d'"])
    print(f"a job that does nothing took {time.monotonic() - start:.1f} s")
    here = os.getcwd()
    said = capsys.readouterr().out
    assert f"driver in {here}, worker in {here}, python {sys.executable}, ['--set', \"a.b='c d'\"]\n" in said
    assert "INFO" not in said
    print(said.splitlines()[-1])


def test_a_job_that_fails_says_why(ray_cluster: ClusterAddress, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import os\nprint('one line', flush=True)\nraise SystemExit(f\"no bucket {os.environ['NAME']}\")\n"
    )
    with pytest.raises(RuntimeError, match=r"(?s)job .*job\.py ended as FAILED.*one line\nno bucket xyz"):
        submit(ray_cluster, str(script), env={"NAME": "xyz"})
    with pytest.raises(ValueError, match="does not exist"):
        submit(ray_cluster, "jobs/nothing.py")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_when_the_owner_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    # A cluster of its own, beside the other one, which must not be touched.
    code = (
        "import sys, time; from eegdecode.runtime.cluster import one_machine\n"
        "with one_machine(1, sys.argv[1]) as cluster: print(cluster.address, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline().startswith("127.0.0.1:")
    started = psutil.Process(owner.pid).children(recursive=True)
    assert len(started) > 5
    lines = started[0].cmdline()
    owner.send_signal(number)
    owner.wait(timeout=30)
    _, left = psutil.wait_procs(started, timeout=90)
    assert not left
    for line in lines:  # nobody is left who could do it
        if number == signal.SIGKILL and "--temp-dir=" in line:
            shutil.rmtree(line.removeprefix("--temp-dir="), ignore_errors=True)
    if number == signal.SIGTERM:
        assert owner.returncode == 128 + signal.SIGTERM
        assert not (tmp_path / "ray_token").exists()
