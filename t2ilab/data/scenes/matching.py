"""Which shape is this patch of coverage? Template matching against the signed-distance shapes, no learning.

For every shape s the measured area gives the radius and the measured centroid the centre the object would
have if it were an s; the coverage of an s drawn there is compared with the measured one by

    match = sum w min(a, t) / sum w max(a, t)                                                    (soft IoU)

where w leaves out what may differ inside a shape (a bear's face). The best shape is accepted if its match is
high and clearly above the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.shapes import OUTLINES, teddy_face
from t2ilab.data.scenes.world import TEDDY

Array = NDArray[np.float32]

NAMES = tuple(OUTLINES)
GAIN = 1.25  # coverage is stretched before it is clipped to 1: shading dims an object by up to this
EDGE = 1.4  # edge width of a template, pixels: between a crisp and a blurred picture
SPREAD_TOLERANCE = 0.16  # shapes whose spread is further off than this share are not compared
LEAST_MATCH = 0.80
LEAST_MARGIN = 0.03


@dataclass(frozen=True)
class Matches:
    """The best shape of each of n patches.

    Attributes:
        shape: index into NAMES, or -1 if no shape fits, (n,).
        match, margin: soft IoU of the best shape, and its lead over the second, (n,).
        x, y, radius: centre and radius under the best shape, pixels of the patch, (n,).
    """

    shape: NDArray[np.int64]
    match: Array
    margin: Array
    x: Array
    y: Array
    radius: Array

    def replaced(self, rows: NDArray[np.int64], other: Matches, chosen: NDArray[np.bool_]) -> Matches:
        """These matches with the chosen ones of another set at the given rows."""
        values = {}
        for name in ("shape", "match", "margin", "x", "y", "radius"):
            values[name] = getattr(self, name).copy()
            values[name][rows] = getattr(other, name)[chosen]
        return Matches(**values)


def coverage(distance: Array, edge: float) -> Array:
    """Stretched coverage of a signed distance in pixels."""
    return np.clip(GAIN * np.clip(0.5 - distance / np.float32(edge), 0, 1), 0, 1)


def match_shapes(alpha: Array) -> Matches:
    """Finds the shape in each patch of measured (stretched) coverage, (n, P, P)."""
    n, side, _ = alpha.shape
    steps = np.arange(side, dtype=np.float32)
    area = np.maximum(alpha.sum((1, 2)), 1e-6)
    x = alpha.sum(1) @ steps / area
    y = alpha.sum(2) @ steps / area
    away = (steps - x[:, None]) ** 2, (steps - y[:, None]) ** 2
    spread = ((alpha.sum(1) * away[0]).sum(1) + (alpha.sum(2) * away[1]).sum(1)) / area**2
    scores = np.zeros((n, len(NAMES)), dtype=np.float32)
    places = np.zeros((n, len(NAMES), 3), dtype=np.float32)
    for k, name in enumerate(NAMES):
        facts = _facts(name)
        radius = np.interp(area, facts.areas, facts.radii).astype(np.float32)
        places[:, k] = np.stack([x, y - facts.offset * radius, radius], -1)
        expected = np.interp(area, facts.areas, facts.spreads)
        near = np.flatnonzero(np.abs(spread / expected - 1) < SPREAD_TOLERANCE)
        if len(near):
            scores[near, k] = _soft_iou(alpha[near], name, places[near, k])
    order = np.argsort(-scores, 1, kind="stable")
    rows = np.arange(n)
    best, second = scores[rows, order[:, 0]], scores[rows, order[:, 1]]
    accepted = (best >= LEAST_MATCH) & (best - second >= LEAST_MARGIN)
    place = places[rows, order[:, 0]]
    shape = np.where(accepted, order[:, 0], -1)
    return Matches(shape, best, best - second, place[:, 0], place[:, 1], place[:, 2])


def local_frame(place: Array, side: int) -> tuple[Array, Array]:
    """Coordinates of a patch's pixels relative to (x, y, radius) (n, 3), in radii, (n, P, P) each."""
    steps = np.arange(side, dtype=np.float32)
    x = (steps - place[:, :1]) / place[:, 2:]
    y = (steps - place[:, 1:2]) / place[:, 2:]
    shape = (len(place), side, side)
    return np.broadcast_to(x[:, None, :], shape), np.broadcast_to(y[:, :, None], shape)


def _soft_iou(alpha: Array, name: str, place: Array) -> Array:
    x, y = local_frame(place, alpha.shape[1])
    radius = place[:, 2, None, None]
    template = coverage(OUTLINES[name](x, y) * radius, EDGE)
    if name == TEDDY:
        outside = teddy_face(x, y) * radius > 0.5
        alpha, template = alpha * outside, template * outside
    return np.minimum(alpha, template).sum((1, 2)) / np.maximum(alpha, template).sum((1, 2))


@dataclass(frozen=True)
class _Facts:
    """Area and spread (second moment over squared area) of a drawn shape by radius; its centroid's height."""

    radii: NDArray[np.float64]
    areas: NDArray[np.float64]
    spreads: NDArray[np.float64]
    offset: np.float32


@cache
def _facts(name: str) -> _Facts:
    radii = np.geomspace(2.0, 64.0, 48)
    areas, spreads, offset = [], [], 0.0
    for radius in radii:
        steps = np.linspace(-1.6, 1.6, 161, dtype=np.float32)
        x, y = np.meshgrid(steps, steps)
        cover = coverage(OUTLINES[name](x, y) * np.float32(radius), EDGE)
        if name == TEDDY:
            cover = cover * (teddy_face(x, y) > 0)
        total = cover.sum()
        offset = float((cover * y).sum() / total)
        spreads.append(float((cover * (x**2 + (y - offset) ** 2)).sum() / total**2 / (0.02**2)))
        areas.append(float(total * (0.02 * radius) ** 2))
    return _Facts(radii, np.array(areas), np.array(spreads), np.float32(offset))
