"""Views: what is done to a picture before a tower sees it.

Published views are defined on pictures of 224 pixels, so each first squeezes the picture to that side (Pillow's bicubic
filter) and then works on its bytes. A view is a function of the picture alone: noise is seeded by its content.

`fovea`: UBP (CVPR 2025). `blur`, `noise`, `lowres`, `mosaic`: the image prior of NeuroBridge (2025), whose targets are
the mean over them; the defaults are those of its feature extraction.
Shape letters: H row, W column, 3 colours.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from eegdecode.batch import TargetFact
from eegdecode.targets import Tower
from eegdecode.targets.spec import Call

Rgb = NDArray[np.uint8]
CENTRE_WEIGHT = 0.5
"""Weight of the sharp picture where the eye rests (UBP's constant): even there half of what is seen is blurred."""


def gaussian_kernel(size: int) -> NDArray[np.float64]:
    """Return a normalised Gaussian of `size` taps with the width OpenCV gives to a kernel of that size."""
    sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    tap = np.arange(size) - (size - 1) / 2
    weight = np.exp(-(tap**2) / (2 * sigma**2))
    return np.asarray(weight / weight.sum())


def gaussian_blur(rgb_HW3: Rgb, kernel: int) -> Rgb:
    """Blur by a Gaussian of `kernel` taps (odd), mirrored at the border."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(
            f"kernel must be odd and positive, got {kernel}. Nearest valid values: {kernel - 1}, {kernel + 1}."
        )
    taps = gaussian_kernel(kernel)
    rows_HW3 = ndimage.correlate1d(rgb_HW3.astype(np.float64), taps, axis=0, mode="mirror")
    return _to_bytes(ndimage.correlate1d(rows_HW3, taps, axis=1, mode="mirror"))


@lru_cache
def foveal_mask(height: int, width: int, curve: str, g: float) -> NDArray[np.float32]:
    """Return the weight of the sharp picture at each pixel, (H, W), falling with distance from the middle.

    Parameters
    ----------
    curve
        ``exp``: exp(-g x); ``linear``: 1 - x; ``quadratic``: 1 - x²; x is the distance in units of the far corner's.
    """
    middle_y, middle_x = height // 2, width // 2
    y, x = np.mgrid[0:height, 0:width]
    # The far corner is the one below right: the opposite one lies a little further out and is clipped.
    farthest = np.hypot(height - middle_y - 1, width - middle_x - 1)
    distance_HW = np.minimum(np.hypot(y - middle_y, x - middle_x) / farthest, 1)
    curves = {"exp": np.exp(-g * distance_HW), "linear": 1 - distance_HW, "quadratic": 1 - distance_HW**2}
    if curve not in curves:
        raise ValueError(f"curve must be one of {', '.join(curves)}, got '{curve}'.")
    return np.asarray(CENTRE_WEIGHT * curves[curve], dtype=np.float32)


def foveal_blur(rgb_HW3: Rgb, kernel: int, curve: str, g: float) -> Rgb:
    """Mix the picture with its Gaussian blur, more of it further from the middle (UBP's FoveaBlur)."""
    sharp_HW1 = foveal_mask(*rgb_HW3.shape[:2], curve, g)[..., None]
    blurred_HW3 = gaussian_blur(rgb_HW3, kernel)
    return _to_bytes(rgb_HW3 * sharp_HW1 + blurred_HW3 * (1 - sharp_HW1))


def gaussian_noise(rgb_HW3: Rgb, std: float) -> Rgb:
    """Add Gaussian noise of this deviation in grey levels; the same picture always gets the same noise."""
    if std < 0:
        raise ValueError(f"std must not be negative, got {std}.")
    seed = np.frombuffer(hashlib.sha256(str(rgb_HW3.shape).encode() + rgb_HW3.tobytes()).digest(), dtype="<u4")
    # RandomState, not Generator: only its stream is promised never to change, and targets outlive a release of NumPy.
    return _to_bytes(rgb_HW3 + np.random.RandomState(seed).normal(0, std, rgb_HW3.shape))


def low_resolution(rgb_HW3: Rgb, scale: float) -> Rgb:
    """Shrink to this share of the side and bring back (Pillow's bilinear filter)."""
    height, width = rgb_HW3.shape[:2]
    small = (int(width * scale), int(height * scale))
    if not 0 < scale <= 1 or not min(small):
        raise ValueError(f"scale must be above 0, at most 1 and leave a pixel of {min(height, width)}, got {scale}.")
    image = Image.fromarray(rgb_HW3).resize(small, Image.Resampling.BILINEAR)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def mosaic(rgb_HW3: Rgb, block: int) -> Rgb:
    """Give each block of about this many pixels the colour of its middle."""
    height, width = rgb_HW3.shape[:2]
    rows, columns = height // block if block > 0 else 0, width // block if block > 0 else 0
    if not rows or not columns:
        raise ValueError(f"block must be between 1 and {min(height, width)} pixels, got {block}.")
    # Two neighbours a side and no more, as the published view: a block's colour is not the block's mean.
    small = _between(_between(rgb_HW3.astype(np.float64), rows, 0), columns, 1)
    row_H, column_W = np.arange(height) * rows // height, np.arange(width) * columns // width
    # Halves go up, as in the fixed-point arithmetic of the published view.
    blocks: Rgb = _to_bytes(np.floor(small + 0.5))[row_H[:, None], column_W[None]]
    return blocks


def _between(values: NDArray[np.float64], n: int, axis: int) -> NDArray[np.float64]:
    """Interpolate linearly at the middles of `n` equal stretches of an axis."""
    size = values.shape[axis]
    place = np.clip((np.arange(n) + 0.5) * size / n - 0.5, 0, size - 1)
    left = np.floor(place).astype(int)
    share = np.expand_dims(place - left, [k for k in range(values.ndim) if k != axis])
    right = np.minimum(left + 1, size - 1)
    return np.asarray(values.take(left, axis) * (1 - share) + values.take(right, axis) * share)


def _to_bytes(values: NDArray[Any]) -> Rgb:
    return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


VIEWS: dict[str, tuple[Callable[..., Rgb] | None, dict[str, int | float | str]]] = {
    "identity": (None, {}),
    "fovea": (foveal_blur, {"kernel": 51, "curve": "exp", "g": 3.0}),
    "blur": (gaussian_blur, {"kernel": 15}),
    "noise": (gaussian_noise, {"std": 25.0}),
    "lowres": (low_resolution, {"scale": 0.1}),
    "mosaic": (mosaic, {"block": 5}),
}
"""Name -> function of the picture's bytes, and its options with their defaults; all but `identity` also know `px`."""
PX = 224


@dataclass(frozen=True)
class View:
    """One view with all its numbers."""

    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        inside = "; ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.name}({inside})" if inside else self.name

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the picture as this view shows it, RGB."""
        image = image.convert("RGB")
        function, _ = VIEWS[self.name]
        if function is None:
            return image
        options = dict(self.options)
        px = options.pop("px")
        if image.size != (px, px):
            image = image.resize((px, px), Image.Resampling.BICUBIC)
        return Image.fromarray(function(np.asarray(image), **options))


def open_view(call: Call) -> View:
    """Return the view that a spec names.

    Raises
    ------
    ValueError
        A view or an option that is not there, or a value that can not be.
    """
    if call.name not in VIEWS:
        raise ValueError(f"targets.tower: no view '{call.name}'; known: {', '.join(VIEWS)}.")
    function, defaults = VIEWS[call.name]
    options = {**defaults, "px": PX} if function else {}
    for name, value in call.options.items():
        if name not in options:
            raise ValueError(f"view '{call.name}': no option '{name}'; known: {', '.join(options) or 'none'}.")
        try:
            options[name] = type(options[name])(value)
        except ValueError:
            kind = type(options[name]).__name__
            raise ValueError(f"view '{call.name}': {name} must be of type {kind}, got '{value}'.") from None
    view = View(call.name, options)
    if int(options.get("px", PX)) < 1:
        raise ValueError(f"view '{view}': px must be positive.")
    try:
        view(Image.new("RGB", (8, 8)))
    except ValueError as error:
        raise ValueError(f"view '{view}': {error}") from None
    return view


class ViewedTower:
    """A tower that sees a view of each picture; of several views, the mean of what it makes of them."""

    def __init__(self, tower: Tower, views: list[View]) -> None:
        self._tower, self._views = tower, views
        self.fact: TargetFact = tower.fact.model_copy(update={"view": " + ".join(map(str, views))})

    def embed(self, images: list[Image.Image], concepts: list[str] | None = None) -> NDArray[np.float32]:
        """Return the embeddings, float32 (N, *shape)."""
        total = np.zeros((len(images), *self.fact.shape), dtype=np.float32)
        for view in self._views:
            total += self._tower.embed([view(image) for image in images], concepts)
        return total / np.float32(len(self._views))
