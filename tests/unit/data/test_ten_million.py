"""Ten million trials: what opening, dividing, ordering and resuming need. How long they take is a benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.writers import ten_million

ROOT = Path(__file__).resolve().parents[3]


def test_ten_million_trials_are_opened_ordered_and_resumed_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    ten_million.write(tmp_path / "set")
    command = [sys.executable, "-m", "tests.writers.ten_million", str(tmp_path / "set")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Concepts 0 to 199 are test ones, and 100 of the others validate.
    assert found["train_trials"] == pytest.approx(ten_million.N * (1654 - 300) / 1654, rel=1e-3)
    assert found["peak_mb"] < 1000
