"""Code and jobs in a process of their own, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

from eegdecode.config import Experiment
from eegdecode.runtime.cluster import ClusterAddress

ROOT = Path(__file__).resolve().parents[2]
_CONNECTED = """
import sys
from eegdecode.config import Experiment
from eegdecode.runtime import cluster

cluster.connect(sys.argv[1])
experiments = [Experiment.model_validate_json(described) for described in sys.argv[2:]]
"""


def run_stages(here: ClusterAddress, stages: str, *experiments: Experiment) -> None:
    """Run code that finds the list `experiments`, on the cluster: one process, since each pays for its imports."""
    run_python("-c", _CONNECTED + stages, here.address, *(experiment.model_dump_json() for experiment in experiments))


def run_python(*arguments: str) -> None:
    """Run Python from the folder of the project; fail with what it printed."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
