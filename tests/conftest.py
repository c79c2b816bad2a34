"""What all tests share: the folder with real data and golden cases."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and golden cases; skips, or fails where it is required."""
    path = Path(os.environ.get("EEGDECODE_SHARED", ROOT.parent / "shared")).resolve()
    if not (path / "golden" / "README.md").is_file():
        message = f"no golden cases in {path}; set EEGDECODE_SHARED to the folder that holds golden/ and data/"
        if os.environ.get("EEGDECODE_REQUIRE_SHARED") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return path
