"""Views against arrays that published code made (UBP and NeuroBridge, OpenCV and Pillow)."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from eegdecode.targets.spec import parse_views
from eegdecode.targets.views import foveal_mask, open_view

VIEWS = {
    "fovea(kernel=45)": "blur.k45.exp3",
    "fovea": "blur.k51.exp3",
    "fovea(kernel=57; g=3)": "blur.k57.exp3",
    "fovea(curve=linear)": "blur.k51.linear",
    "blur(kernel=51)": "uniform.k51",
    "lowres(scale=0.5)": "nb_lowres0.5",
    "lowres(scale=0.25)": "nb_lowres0.25",
    "mosaic(block=16)": "nb_mosaic16",
    "mosaic(block=8)": "nb_mosaic8",
}


@pytest.fixture(scope="module")
def golden(shared):
    return load_file(shared / "golden" / "ubp_fovea_blur.safetensors")


def test_every_case_of_the_file_is_tried(golden):
    assert {f"expected.{case}" for case in VIEWS.values()} | {"expected.mask.exp3", "expected.mask.linear"} == {
        name for name in golden if name.startswith("expected.")
    }


@pytest.mark.parametrize("curve", ["exp", "linear"])
def test_foveal_mask(golden, curve):
    expected = golden["expected.mask.exp3" if curve == "exp" else "expected.mask.linear"]
    np.testing.assert_allclose(foveal_mask(224, 224, curve, 3.0), expected, atol=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_view(golden, view):
    (call,) = parse_views(view)
    got = np.asarray(open_view(call)(Image.fromarray(golden["input.image"])), dtype=int)
    difference = np.abs(got - golden[f"expected.{VIEWS[view]}"].astype(int))
    # OpenCV blurs bytes in fixed point, which is up to one grey level from the exact Gaussian.
    assert difference.max() <= 1
    assert difference.mean() <= 0.1
    if view.startswith(("lowres", "mosaic")):
        assert difference.max() == 0
