"""Procedural pictures: a concept is a shape with a texture; hue, size, place and orientation vary within it.

A picture is a pure function of (seed, concept, exemplar, side in px), drawn with numpy alone.
Shape letters: N picture, H row, W column, 3 colour.
"""

from collections.abc import Callable, Sequence

import numpy as np

Plane = np.ndarray
"""One coordinate of every pixel, (N, H, W)."""

N_VARIED = 12
"""Uniform numbers drawn for an exemplar; `_Look` names what they decide."""


def _polygon(sides: int) -> Callable[[Plane, Plane], Plane]:
    step = 2 * np.pi / sides

    def distance(x: Plane, y: Plane) -> Plane:
        angle = np.mod(np.arctan2(x, -y) + step / 2, step) - step / 2
        return np.asarray(np.hypot(x, y) * np.cos(angle) - 0.95 * np.cos(step / 2))

    return distance


def _petals(count: int, mean: float, depth: float, sharp: bool) -> Callable[[Plane, Plane], Plane]:
    def distance(x: Plane, y: Plane) -> Plane:
        wave = np.cos(count * np.arctan2(x, -y))
        if sharp:
            wave = 2 * np.arcsin(wave) / np.pi
        return np.asarray(np.hypot(x, y) - mean - depth * wave)

    return distance


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.asarray(np.maximum(np.abs(x) - half_width, np.abs(y) - half_height))


def _disc(x: Plane, y: Plane, radius: float) -> Plane:
    return np.asarray(np.hypot(x, y) - radius)


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": lambda x, y: _disc(x, y, 0.85),
    "ring": lambda x, y: np.abs(_disc(x, y, 0.65)) - 0.22,
    "ellipse": lambda x, y: _disc(x, 2 * y, 0.98),
    "square": lambda x, y: _box(x, y, 0.75, 0.75),
    "frame": lambda x, y: np.abs(_box(x, y, 0.6, 0.6)) - 0.17,
    "slab": lambda x, y: _box(x, y, 0.98, 0.4),
    "pillar": lambda x, y: _box(x, y, 0.35, 0.98),
    "triangle": _polygon(3),
    "pentagon": _polygon(5),
    "hexagon": _polygon(6),
    "diamond": lambda x, y: 0.7 * (np.abs(x) + 0.7 * np.abs(y) - 0.7),
    "star": _petals(5, 0.66, 0.32, sharp=True),
    "spark": _petals(4, 0.58, 0.4, sharp=True),
    "sun": _petals(9, 0.76, 0.2, sharp=True),
    "clover": _petals(3, 0.64, 0.32, sharp=False),
    "flower": _petals(6, 0.72, 0.22, sharp=False),
    "plus": lambda x, y: np.minimum(_box(x, y, 0.92, 0.28), _box(x, y, 0.28, 0.92)),
    "crescent": lambda x, y: np.maximum(_disc(x, y, 0.92), -_disc(x - 0.4, y, 0.7)),
    "bowl": lambda x, y: np.maximum(_disc(x, y + 0.35, 0.95), -(y + 0.2)),
    "sector": lambda x, y: np.maximum(_disc(x, y, 0.92), 0.7 * (x - np.abs(y))),
    "drop": lambda x, y: np.hypot(x, y - 0.3) - 0.58 * np.clip(1 + 0.6 * (y - 0.3), 0, 1),
    "arrow": lambda x, y: np.minimum(_box(x, y - 0.45, 0.24, 0.5), np.maximum(0.75 * (np.abs(x) - y - 0.95), y - 0.1)),
    "tee": lambda x, y: np.minimum(_box(x, y + 0.6, 0.9, 0.28), _box(x, y - 0.2, 0.26, 0.75)),
    "corner": lambda x, y: np.minimum(_box(x + 0.55, y, 0.3, 0.9), _box(x, y - 0.6, 0.85, 0.3)),
    "arch": lambda x, y: np.maximum(_box(x, y, 0.85, 0.85), -_box(x, y - 0.45, 0.4, 0.85)),
    "hourglass": lambda x, y: np.maximum(0.75 * (np.abs(x) - np.abs(y) - 0.08), np.abs(y) - 0.9),
    "heart": lambda x, y: np.hypot(x, 1.1 * y + 0.25 - 0.6 * np.sqrt(np.abs(x))) - 0.78,
}
"""Name to a rough signed distance over [-1, 1] x [-1, 1], y down; negative inside."""


def _stripes(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * u)


def _across(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * v)


def _slanted(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * 0.707 * (u + v))


def _checks(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: 2 * np.sin(2 * np.pi * cycles * u) * np.sin(2 * np.pi * cycles * v)


def _dots(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.cos(2 * np.pi * cycles * u) + np.cos(2 * np.pi * cycles * v) - 0.5


def _rings(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * np.hypot(u, v))


def _rays(count: int) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(count * np.arctan2(v, u))


def _waves(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * v + 1.4 * np.sin(2 * np.pi * cycles * 0.7 * u))


def _zigzag(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.sin(2 * np.pi * cycles * v + 2 * np.arcsin(np.sin(2 * np.pi * cycles * 0.7 * u)))


def _grid(cycles: float) -> Callable[[Plane, Plane], Plane]:
    return lambda u, v: np.maximum(np.cos(2 * np.pi * cycles * u), np.cos(2 * np.pi * cycles * v)) - 0.75


TEXTURES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "solid": lambda u, v: np.ones_like(u),
    "stripes_fine": _stripes(3.2),
    "stripes_wide": _stripes(1.3),
    "across_fine": _across(3.2),
    "across_wide": _across(1.3),
    "slanted_fine": _slanted(3.2),
    "slanted_wide": _slanted(1.3),
    "checks_fine": _checks(2.4),
    "checks_wide": _checks(1.0),
    "dots_fine": _dots(3.0),
    "dots_wide": _dots(1.4),
    "rings_fine": _rings(3.2),
    "rings_wide": _rings(1.5),
    "rays_few": _rays(4),
    "rays_many": _rays(9),
    "waves_fine": _waves(2.8),
    "waves_wide": _waves(1.3),
    "zigzag_fine": _zigzag(2.8),
    "zigzag_wide": _zigzag(1.3),
    "grid_fine": _grid(2.8),
    "grid_wide": _grid(1.3),
    "spiral": lambda u, v: np.sin(2 * np.pi * 1.6 * np.hypot(u, v) + np.arctan2(v, u)),
    "halves": lambda u, v: 4 * u,
    "bullseye": lambda u, v: 4 * (np.hypot(u, v) - 0.4),
    "weave": lambda u, v: np.sin(2 * np.pi * 2.4 * (u + v)) + np.sin(2 * np.pi * 2.4 * (u - v)),
}
"""Name to a wave over the shape's own coordinates; positive takes the first colour, negative the second."""

CONCEPTS: tuple[str, ...] = tuple(f"{shape}-{texture}" for shape in SHAPES for texture in TEXTURES)


def partition(seed: int, n_train: int, n_test: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Draw disjoint training and test concepts, each sorted by name.

    Raises
    ------
    ValueError
        More concepts than the catalogue holds.
    """
    if n_train + n_test > len(CONCEPTS):
        raise ValueError(
            f"data.source: n_train_concepts + n_test_concepts must be at most {len(CONCEPTS)} "
            f"({len(SHAPES)} shapes x {len(TEXTURES)} textures), got {n_train} + {n_test}."
        )
    order = np.random.default_rng([seed, 1]).permutation(len(CONCEPTS))
    chosen = [CONCEPTS[i] for i in order[: n_train + n_test]]
    return tuple(sorted(chosen[:n_train])), tuple(sorted(chosen[n_train:]))


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return RGB (N, 1, 1, 3) in [0, 1]."""
    phase = np.mod(hue[:, None] * 6 + np.array([5.0, 3.0, 1.0]), 6)
    ramp = np.clip(np.minimum(phase, 4 - phase), 0, 1)
    return np.asarray((value[:, None] * (1 - saturation[:, None] * ramp))[:, None, None, :])


def _varied(seed: int, concepts: Sequence[str], exemplars: Sequence[int]) -> np.ndarray:
    """Return the uniform numbers that decide each picture's look, (N, N_VARIED)."""
    index = {name: i for i, name in enumerate(CONCEPTS)}
    return np.stack(
        [
            np.random.default_rng([seed, 2, index[concept], exemplar]).random(N_VARIED)
            for concept, exemplar in zip(concepts, exemplars, strict=True)
        ]
    )


def render(seed: int, concepts: Sequence[str], exemplars: Sequence[int], px: int) -> np.ndarray:
    """Draw pictures.

    Parameters
    ----------
    concepts, exemplars
        Names from `CONCEPTS` and numbers of the exemplar, one of each per picture.

    Returns
    -------
    Uint8 array (N, px, px, 3).
    """
    rgb_NHW3 = np.empty((len(concepts), px, px, 3), dtype=np.uint8)
    uniform = _varied(seed, concepts, exemplars)
    names = np.array([concept.split("-") for concept in concepts])
    for shape in np.unique(names[:, 0]):
        rows = np.flatnonzero(names[:, 0] == shape)
        for part in np.array_split(rows, -(-len(rows) // 64)):
            rgb_NHW3[part] = _draw(str(shape), names[part, 1], uniform[part], px)
    return rgb_NHW3


def _draw(shape: str, textures: np.ndarray, uniform: np.ndarray, px: int) -> np.ndarray:
    """Draw pictures of one shape."""
    (hue, turn, size, left, top, hue_gap, back_hue, back_saturation, back_value, value, second, phase) = uniform.T
    side = ((np.arange(px, dtype=np.float32) + 0.5) / px * 2 - 1)[None]
    scale = (0.5 + 0.35 * size).astype(np.float32)[:, None, None]
    x = (side[:, None, :] - (0.5 * (left - 0.5)).astype(np.float32)[:, None, None]) / scale
    y = (side[:, :, None] - (0.5 * (top - 0.5)).astype(np.float32)[:, None, None]) / scale
    angle = ((turn - 0.5) * np.pi / 3).astype(np.float32)[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    edge = 1.0 / (px * scale)
    inside = np.clip(0.5 - SHAPES[shape](u, v) / (2 * edge), 0, 1)[..., None]
    wave = np.empty_like(u)
    for texture in np.unique(textures):
        rows = textures == texture
        wave[rows] = TEXTURES[str(texture)](u[rows] + 0.1 * phase[rows, None, None].astype(np.float32), v[rows])
    first = np.clip(0.5 + 2.5 * wave, 0, 1)[..., None]
    one = _hsv(hue, 0.75 + 0 * hue, 0.65 + 0.35 * value)
    two = _hsv(hue + 0.1 + 0.25 * hue_gap, 0.6 + 0 * hue, 0.15 + 0.3 * second)
    back = _hsv(back_hue, 0.1 + 0.5 * back_saturation, 0.1 + 0.8 * back_value)
    rgb = inside * (first * one + (1 - first) * two) + (1 - inside) * back
    return np.asarray(np.rint(255 * rgb), dtype=np.uint8)
