"""Signed distances of the shapes: negative inside, in units of the radius, x right and y down.

Distances need to be right near the outline only (they become anti-aliased coverage and soft shadows), so a
union is a plain minimum. Every function takes and returns float32 arrays of any one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.world import TEDDY

Array = NDArray[np.float32]


def circle(x: Array, y: Array) -> Array:
    return _length(x, y) - np.float32(0.98)


def square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.84, 0.84)


def triangle(x: Array, y: Array) -> Array:
    return _mirrored_polygon(x, y, [(0.0, -1.05), (1.05, 0.85), (0.0, 0.85)])


def star(x: Array, y: Array) -> Array:
    angles = np.pi / 5 * np.arange(6)
    radii = np.where(np.arange(6) % 2 == 0, 1.1, 0.46)
    return _mirrored_polygon(
        x, y, [(r * np.sin(a), -r * np.cos(a)) for r, a in zip(radii, angles, strict=True)]
    )


def cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.3, 1.0), _box(x, y, 1.0, 0.3))


def ring(x: Array, y: Array) -> Array:
    return np.abs(_length(x, y) - np.float32(0.76)) - np.float32(0.24)


def diamond(x: Array, y: Array) -> Array:
    return _mirrored_polygon(x, y, [(0.0, -1.1), (0.74, 0.0), (0.0, 1.1)])


def heart(x: Array, y: Array) -> Array:
    """Two lobes and the wedge of their outer tangents, which meet in the tip."""
    lobe, tip, size = np.array([0.48, -0.38]), np.array([0.0, 1.02]), 0.56
    away = lobe - tip
    length = np.hypot(*away)
    reach = np.sqrt(length**2 - size**2)  # from the tip to the tangent point
    turn = np.arcsin(size / length)
    direction = np.array(
        [away[0] * np.cos(turn) - away[1] * np.sin(turn), away[0] * np.sin(turn) + away[1] * np.cos(turn)]
    )
    tangent = tip + direction * reach / length
    wedge = _mirrored_polygon(x, y, [(0.0, lobe[1]), tuple(lobe), tuple(tangent), tuple(tip)])
    return np.minimum(wedge, _disc(np.abs(x), y, lobe[0], lobe[1], size))


def teddy(x: Array, y: Array) -> Array:
    """Head, ears, body, arms and legs: discs joined."""
    side = np.abs(x)
    parts = [
        (0.0, -0.42, 0.46),
        (0.42, -0.86, 0.23),
        (0.0, 0.38, 0.52),
        (0.62, 0.16, 0.22),
        (0.42, 0.82, 0.28),
    ]
    distance = _disc(side, y, *parts[0])
    for part in parts[1:]:
        np.minimum(distance, _disc(side, y, *part), out=distance)
    return distance


def teddy_face(x: Array, y: Array) -> Array:
    """Two eyes and a nose."""
    return np.minimum(_disc(np.abs(x), y, 0.18, -0.5, 0.09), _disc(x, y, 0.0, -0.27, 0.1))


def teddy_belly(x: Array, y: Array) -> Array:
    """A disc well inside the body, so that the bear stays in one piece whatever the two colours."""
    return _disc(x, y, 0.0, 0.37, 0.31)


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "cross": cross,
    "ring": ring,
    "diamond": diamond,
    "heart": heart,
    TEDDY: teddy,
}


def _length(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)


def _disc(x: Array, y: Array, centre_x: float, centre_y: float, radius: float) -> Array:
    return _length(x - np.float32(centre_x), y - np.float32(centre_y)) - np.float32(radius)


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    across, along = np.abs(x) - np.float32(half_width), np.abs(y) - np.float32(half_height)
    outside = _length(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0)


def _mirrored_polygon(x: Array, y: Array, corners: list[tuple[float, float]]) -> Array:
    """Distance to a polygon that is symmetric about x = 0, given its right half from top to bottom.

    Squared distance: the least over the edges; sign: parity of the edges a ray to the right crosses.
    """
    side = np.abs(x)
    nearest = np.full(side.shape, np.inf, dtype=np.float32)
    inside = np.zeros(side.shape, dtype=bool)
    for (x0, y0), (x1, y1) in pairwise(corners):
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        from_x, from_y = side - np.float32(x0), y - np.float32(y0)
        along = np.clip((from_x * dx + from_y * dy) * np.float32(1 / (dx * dx + dy * dy)), 0, 1)
        np.minimum(nearest, (from_x - along * dx) ** 2 + (from_y - along * dy) ** 2, out=nearest)
        if dy != 0:
            between = (y < np.float32(y0)) != (y < np.float32(y1))
            inside ^= between & (from_x < from_y * (dx / dy))
    return np.where(inside, -np.sqrt(nearest), np.sqrt(nearest))
