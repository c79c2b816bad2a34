"""Golden cases: numbers made by running published code, read from the shared folder."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


@dataclass(frozen=True)
class Case:
    """Tensors of a case, those that are given by a recipe included, and its description."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def weights(self, names: dict[str, str]) -> dict[str, torch.Tensor]:
        """Return a state dict of ours: our name -> `weight.<theirs>`, reshaped where ours drops dimensions of 1."""
        return {ours: self.tensors[f"weight.{theirs}"].clone() for ours, theirs in names.items()}


def recipe_tensor(recipe: dict[str, Any]) -> torch.Tensor:
    """Regenerate a large weight and check its bytes."""
    uniform = np.random.RandomState(recipe["seed"]).random_sample(size=recipe["shape"])
    value = (recipe["lo"] + (recipe["hi"] - recipe["lo"]) * uniform).astype("<f4")
    assert hashlib.sha256(value.tobytes()).hexdigest() == recipe["sha256"]
    return torch.from_numpy(value)


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], Case]:
    """Reader of a golden case by name."""

    def read(name: str) -> Case:
        facts = json.loads((shared / "golden" / f"{name}.json").read_text())
        tensors = load_file(shared / "golden" / f"{name}.safetensors")
        recipes = facts.get("recipe_tensors", {})
        return Case(tensors | {key: recipe_tensor(recipe) for key, recipe in recipes.items()}, facts)

    return read


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """The golden set's rule: largest difference against the largest expected value."""

    def check(got: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-5) -> None:
        assert got.shape == expected.shape
        expected = expected.detach()
        error = float((got.detach().double() - expected.double()).abs().max() / expected.double().abs().max())
        assert error <= rtol, f"largest relative difference {error:.2e}, allowed {rtol:.0e}"

    return check
