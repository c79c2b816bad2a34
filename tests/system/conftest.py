"""The one real S3 server of a test run."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def _load_s3server():
    path = Path(__file__).with_name("s3server.py")
    spec = importlib.util.spec_from_file_location("s3server", path)
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables with which boto3 (and whatever we start) finds the server and its keys."""
    s3server = _load_s3server()
    try:
        server = s3server.start(tmp_path_factory.mktemp("s3"))
    except RuntimeError as error:
        pytest.fail(str(error))
    yield server.environment
    server.stop()


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory):
    """The one Ray cluster of a test run (a `ClusterAddress`); reach it with `cluster.connect(address)`."""
    from eegdecode.runtime.cluster import one_machine

    with one_machine(4, tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster
