"""What Ray, Kubernetes and Docker read must name things that exist here, and hold no secret."""

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from eegdecode.runtime.serve import ServeOptions

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"raycluster.yaml": "RayCluster", "rayjob.yaml": "RayJob", "rayservice.yaml": "RayService"}


def read(name: str) -> dict[str, Any]:
    tree = yaml.safe_load((ROOT / "cluster" / name).read_text())
    assert isinstance(tree, dict)
    return tree


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(name)["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(name: str) -> list[dict[str, Any]]:
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


def test_every_file_of_the_folder_is_known() -> None:
    found = {path.name for path in (ROOT / "cluster").iterdir()}
    assert found == {*KINDS, "runtime_env.yaml", "serve.yaml"}


@pytest.mark.parametrize("name", KINDS)
def test_clusters_ask_for_a_token_and_run_as_nobody(name: str) -> None:
    assert read(name)["apiVersion"] == "ray.io/v1"
    assert read(name)["kind"] == KINDS[name]
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(rf"^ray==({re.escape(spec['rayVersion'])}) ", lock, re.MULTILINE)
    assert len(pods(name)) >= 2
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", container["image"])
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["envFrom"] == [{"secretRef": {"name": "eegdecode-env"}}]
            assert "env" not in container


def test_entrypoints_name_jobs_that_exist_with_arguments_they_take() -> None:
    from eegdecode.config import Experiment

    words = shlex.split(read("rayjob.yaml")["spec"]["entrypoint"])
    assert words[0] == "python"
    assert re.fullmatch(r"jobs/\w+\.py", words[1])
    assert (ROOT / words[1]).is_file()
    changes = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    assert len(changes) == 3
    Experiment(recipe="demo").override(dict(change.split("=", 1) for change in changes))


def test_the_served_application_exists_and_takes_its_arguments() -> None:
    config = read("serve.yaml")
    assert yaml.safe_load(read("rayservice.yaml")["spec"]["serveConfigV2"]) == config
    (application,) = config["applications"]
    module, name = application["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    args = dict(application["args"])
    assert args.pop("bundle_uri").startswith("s3://")
    ServeOptions.model_validate(args)


def test_no_secret_and_no_moving_tag() -> None:
    paths = [*(ROOT / "cluster").iterdir(), *(p for p in (ROOT / "infra").rglob("*") if p.is_file())]
    assert len(paths) >= 6
    for path in paths:
        text = path.read_text()
        assert ":latest" not in text, path
        found = re.search(r"(?i)(secret|password|token|access_key)\w*\s*[:=]\s*['\"]?[A-Za-z0-9+/_-]{16,}", text)
        assert found is None, f"{path}: {found}"
        assert not re.search(r"AKIA[0-9A-Z]{16}|[0-9a-f]{64}", text), path


def test_the_image_is_built_from_the_lock_and_does_not_run_as_root() -> None:
    text = (ROOT / "infra" / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    assert lines[-1] == "USER 10001"
    assert "--require-hashes" in text
    assert "RAY_AUTH_MODE=token" in text
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert {"requirements.lock", "eegdecode", "jobs", "cluster"} <= {name for names in copied for name in names}
    makefile = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
    assert makefile is not None
    assert f"uv=={makefile.group(1)}" in text


def test_runtime_env_leaves_out_what_must_not_travel() -> None:
    env = read("runtime_env.yaml")
    assert env["working_dir"] == "."
    assert {".git", ".venv", ".venv-s3", "runs"} <= set(env["excludes"])
