"""Who may import whom: read with `ast`, so imports inside functions count and nothing is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lowest first. A module imports its own package and anything on an earlier line, nothing else.
LAYERS = (
    ("eegdecode.config",),
    ("eegdecode.batch", "eegdecode.storage", "eegdecode.collectives", "eegdecode.wording"),
    (
        "eegdecode.data",
        "eegdecode.targets",
        "eegdecode.models",
        "eegdecode.diffusion",
        "eegdecode.losses",
        "eegdecode.metrics",
        "eegdecode.recipes",
    ),
    ("eegdecode.bundle",),
    ("eegdecode.hub",),
    ("eegdecode.train", "eegdecode.evaluate", "eegdecode.analyse", "eegdecode.reconstruct"),
    ("eegdecode.runtime",),
    ("jobs",),
)
# Third party -> the only places that may name it, even inside a function.
OWNERS = {
    "ray": ("eegdecode.runtime", "jobs"),
    "mlflow": ("eegdecode.runtime.tracking",),
    "deepspeed": ("eegdecode.train.engine",),
    "torch.distributed": ("eegdecode.collectives",),
    "diffusers": ("eegdecode.diffusion", "eegdecode.targets.latents"),
    "boto3": ("eegdecode.storage",),
    "botocore": ("eegdecode.storage",),
    "mne": ("eegdecode.data", "eegdecode.analyse"),
    "webdataset": ("eegdecode.data.shards",),
    "braindecode": ("eegdecode.models.from_braindecode",),
    "huggingface_hub": ("eegdecode.hub",),
    "pyriemann": ("eegdecode.evaluate.covariance_baselines",),
}
# Inside an owner's package and still refused.
NOT = {"mne": ("eegdecode.data.stream",)}
# Describing a run must stay cheap enough for a laptop without torch.
LIGHT = ("eegdecode.config", "eegdecode.recipes")
HEAVY = ("torch", "ray")


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def place(module: str) -> tuple[int, str] | None:
    """Height and package of a module, None if no layer names it."""
    for height, layer in enumerate(LAYERS):
        for package in layer:
            if within(module, package):
                return height, package
    return None


def imports(tree: ast.AST) -> Iterator[str]:
    """Everything that is imported anywhere in a file; `from a import b` is both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def faults(module: str, imported: str) -> Iterator[str]:
    """Sentences about one import of one module."""
    if imported.startswith("."):
        yield f"{module} imports {imported}: write the full name."
        return
    if any(within(module, light) for light in LIGHT) and any(within(imported, heavy) for heavy in HEAVY):
        yield f"{module} imports {imported}: describing a run must need neither torch nor ray."
    for party, owners in OWNERS.items():
        allowed = any(within(module, owner) for owner in owners)
        if within(imported, party) and (not allowed or module in NOT.get(party, ())):
            yield f"{module} imports {imported}: only {', '.join(owners)} may name {party}."
    here, there = place(module), place(imported)
    if here and there and here[1] != there[1] and there[0] >= here[0]:
        yield f"{module} imports {imported}: {there[1]} is not below {here[1]}."


def complaints(root: Path) -> tuple[list[Path], list[str]]:
    """All source files under a root and what is wrong with their imports."""
    sources = sorted([*root.glob("eegdecode/**/*.py"), *root.glob("jobs/**/*.py")])
    found: set[str] = set()
    for path in sources:
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if place(module) is None and module != "eegdecode":
            found.add(f"{module} is in no layer: add it to LAYERS, or move it into a package that is there.")
        for imported in imports(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
            found.update(faults(module, imported))
    return sources, sorted(found)


def test_every_import_points_downward() -> None:
    sources, found = complaints(ROOT)
    assert len(sources) > 20, f"only {len(sources)} source files under {ROOT}: looking in the wrong place"
    assert not found, "\n" + "\n".join(found)


PLANTED = {
    "late import of ray in the loop": ("eegdecode/train/loop.py", "def fit():\n    import ray.train\n", "ray"),
    "model to runtime": ("eegdecode/models/nice.py", "from eegdecode.runtime import places\n", "not below"),
    "stream to models": ("eegdecode/data/stream.py", "from eegdecode.models import ENCODERS\n", "not below"),
    "evaluate to train": ("eegdecode/evaluate/report.py", "import eegdecode.train.loop\n", "not below"),
    "batch to storage": ("eegdecode/batch.py", "from eegdecode import storage\n", "not below"),
    "stray mlflow": ("eegdecode/runtime/train.py", "import mlflow\n", "mlflow"),
    "mne in the stream": ("eegdecode/data/stream.py", "import mne\n", "mne"),
    "torch.distributed in the losses": ("eegdecode/losses.py", "from torch import distributed\n", "torch.distributed"),
    "torch in config": ("eegdecode/config.py", "import torch\n", "neither torch nor ray"),
    "ray in recipes": ("eegdecode/recipes/nice.py", "from ray import tune\n", "neither torch nor ray"),
    "relative import": ("eegdecode/models/mlp.py", "from . import nice\n", "full name"),
    "new utils": ("eegdecode/utils.py", "", "no layer"),
    "file in no layer": ("eegdecode/plots/maps.py", "", "no layer"),
    "deepspeed outside the engine": ("eegdecode/train/loop.py", "import deepspeed\n", "deepspeed"),
    "boto3 outside storage": ("eegdecode/data/shards.py", "from botocore.config import Config\n", "botocore"),
    "webdataset in a model": ("eegdecode/models/nice.py", "import webdataset\n", "webdataset"),
    "pyriemann in a model": ("eegdecode/models/nice.py", "from pyriemann.estimation import Shrinkage\n", "pyriemann"),
    "diffusers in reconstruct": ("eegdecode/reconstruct/draw.py", "from diffusers import UNet2DModel\n", "diffusers"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_trips_on_a_planted_fault(fault: str, tmp_path: Path) -> None:
    name, code, said = PLANTED[fault]
    clean = {
        "eegdecode/__init__.py": "",
        "eegdecode/config.py": "import pydantic\n",
        "eegdecode/batch.py": "import torch\nfrom eegdecode.config import Section\n",
        "eegdecode/train/loop.py": "from eegdecode.train import task\nfrom eegdecode import bundle\n",
        "eegdecode/runtime/tracking.py": "import mlflow\n",
        "jobs/train.py": "import ray\nfrom eegdecode.runtime.train import train\n",
    }
    for file, text in clean.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert complaints(tmp_path)[1] == []
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + code)
    found = complaints(tmp_path)[1]
    assert any(said in sentence for sentence in found), f"{fault} went unnoticed: {found}"
    planted = ".".join(Path(name).with_suffix("").parts)
    assert all(sentence.startswith(planted + " ") for sentence in found), found
