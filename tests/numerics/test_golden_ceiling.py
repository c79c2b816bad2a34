"""The split-half noise ceiling against numbers made by published code."""

from collections.abc import Callable
from typing import Any

import numpy as np

from eegdecode.evaluate.ceiling import split_half


def test_noise_ceiling(golden: Callable[[str], Any]) -> None:
    case = golden("gifford_noise_ceiling")
    half_IH = case["input.half2_repetitions"].numpy()
    rest_IH = np.array([sorted(set(range(8)) - set(half.tolist())) for half in half_IH])
    got = split_half(case["input.bio"].numpy(), half_IH, rest_IH, case["input.synthetic"].numpy())
    for found_X, name in zip(got, ("noise_ceiling_low", "noise_ceiling_up", "correlation"), strict=True):
        np.testing.assert_allclose(found_X, case[f"expected.{name}"].numpy(), atol=1e-5, rtol=0)
