"""Loss, temperature and normalisation as a recipe states them give the golden numbers of its paper."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eegdecode import losses
from eegdecode.recipes import RECIPES

CASES = {
    "nice": "loss_nice_infonce",
    "nice_sa": "loss_nice_infonce",
    "nice_ga": "loss_nice_infonce",
    "atm_published": "loss_atm_retrieval",
    "ubp": "loss_ubp",
    "neurobridge": "loss_nb_img_only",
}


def loss_of(recipe: str, case: Any) -> torch.Tensor:
    stated = RECIPES[recipe]().loss
    scale = torch.tensor([-np.log(stated.temperature)]).float()
    sides = {
        name: losses.Sides(case["input.eeg"], case[f"input.{golden}"], torch.arange(12), scale, stated.normalise)
        for name, golden in (("", "img"), ("text", "text"))
        if f"input.{golden}" in case.tensors
    }
    return losses.weighted_sum(stated.terms, sides)[0].reshape(1)


@pytest.mark.parametrize("recipe", CASES)
def test_the_loss_of_a_recipe_is_that_of_its_paper(
    recipe: str, golden: Callable[[str], Any], agree: Callable[..., None]
) -> None:
    case = golden(CASES[recipe])
    agree(loss_of(recipe, case), case["expected.loss"].reshape(1))


def test_the_mended_atm_has_another_loss(golden: Callable[[str], Any]) -> None:
    case = golden("loss_atm_retrieval")
    published = float(case["expected.loss"])
    assert abs(float(loss_of("atm", case)) - published) > 1e-3 * published
