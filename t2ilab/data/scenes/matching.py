"""Which shape is this patch of coverage? Template matching against the signed-distance shapes, no learning.

For every shape s the measured area gives the radius and the measured centroid the centre the object would
have if it were an s; the coverage of an s drawn there is compared with the measured one by

    slip = sum w |a - t| / (length of the outline of t)                  mean distance of the outlines, pixels

where w leaves out what may differ inside a shape (a bear's face and belly). The shape of least slip is accepted
if it is small and that of the second clearly larger. A ring may have a larger or a smaller hole than the renderer's:
generated rings do, and with a hole 0.6 pixels off they lie further from the one template than a shape may. Other
than the soft IoU, sum w min(a, t) / sum w max(a, t), which is reported too, the slip means the same for thick and for
thin shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.shapes import OUTLINES, teddy_belly, teddy_face
from t2ilab.data.scenes.world import TEDDY

Array = NDArray[np.float32]

NAMES = tuple(OUTLINES)
HOLES = (0.42, 0.47, 0.52, 0.57, 0.62)  # of a ring over its outer radius; the renderer's is 0.52
TEMPLATES = (*((name, 0.0) for name in NAMES if name != "ring"), *(("ring", hole) for hole in HOLES))
SHAPE_OF = np.array([NAMES.index(name) for name, _ in TEMPLATES])
GAIN = 1.1  # coverage is stretched before it is clipped to 1: shading dims an object by up to this
EDGES = (1.3, 2.4)  # edge widths of the templates, pixels: a crisp and a blurred image
EDGE = 1.8  # and of the shapes whose area and spread are tabulated
SPREAD_TOLERANCE = 0.25  # shapes whose spread is further off than this share are not compared
MOST_SLIP = 0.5  # mean distance of the outlines, units; true images stay below 0.35, wrong ones above 0.55
LEAST_LEAD = 0.12  # by how much the second shape must slip more, units
CLOSE = (0.1, 0.04)  # slip and lead this near to their limits might as well have been judged otherwise, units


@dataclass(frozen=True)
class Matches:
    """The best shape of each of n patches.

    Attributes:
        shape: index into NAMES, or -1 if no shape fits, (n,).
        match: soft IoU of the best shape, (n,).
        slip: mean distance between the outlines of the patch and of the best shape, pixels, (n,).
        x, y, radius: centre and radius under the best shape, pixels of the patch, (n,).
        close: whether a little more or less would have changed the verdict, (n,) bool.
    """

    shape: NDArray[np.int64]
    match: Array
    slip: Array
    x: Array
    y: Array
    radius: Array
    close: NDArray[np.bool_]

    def replaced(self, rows: NDArray[np.int64], other: Matches, chosen: NDArray[np.bool_]) -> Matches:
        """These matches with the chosen ones of another set at the given rows."""
        values = {}
        for name in ("shape", "match", "slip", "x", "y", "radius", "close"):
            values[name] = getattr(self, name).copy()
            values[name][rows] = getattr(other, name)[chosen]
        return Matches(**values)


def coverage(distance: Array, edge: float) -> Array:
    """Stretched coverage of a signed distance in pixels."""
    return np.clip(GAIN * np.clip(0.5 - distance / np.float32(edge), 0, 1), 0, 1)


def match_shapes(alpha: Array, scale: float = 1.0) -> Matches:
    """Finds the shape in each patch of measured coverage (n, P, P), at `scale` pixels a unit."""
    n, side, _ = alpha.shape
    steps = np.arange(side, dtype=np.float32)
    area = np.maximum(alpha.sum((1, 2)), 1e-6)
    x = (alpha.sum(1) * steps).sum(1) / area  # no matrix product: its rounding depends on n
    y = (alpha.sum(2) * steps).sum(1) / area
    away = (steps - x[:, None]) ** 2, (steps - y[:, None]) ** 2
    spread = ((alpha.sum(1) * away[0]).sum(1) + (alpha.sum(2) * away[1]).sum(1)) / area**2
    scores = np.zeros((n, len(TEMPLATES)), dtype=np.float32)
    slips = np.full((n, len(TEMPLATES)), np.inf, dtype=np.float32)
    places = np.zeros((n, len(TEMPLATES), 3), dtype=np.float32)
    for k, template in enumerate(TEMPLATES):
        facts = _facts(*template)
        radius = np.interp(area, facts.areas, facts.radii).astype(np.float32)
        places[:, k] = np.stack([x, y - facts.offset * radius, radius], -1)
        expected = np.interp(area, facts.areas, facts.spreads)
        near = np.flatnonzero(np.abs(spread / expected - 1) < SPREAD_TOLERANCE)
        if len(near):
            scores[near, k], off = _compare(alpha[near], template, places[near, k])
            slips[near, k] = off / (facts.outline * radius[near])
    rows, best = np.arange(n), slips.argmin(1)
    own = SHAPE_OF[best][:, None] == SHAPE_OF
    others = np.where(own, np.inf, slips)  # rings of other holes are no rivals
    slip, second, place = slips[rows, best], others.min(1), places[rows, best]
    unit = max(scale, 1)
    small, ahead = slip <= MOST_SLIP * unit, second > slip + LEAST_LEAD * unit
    with np.errstate(invalid="ignore"):  # where nothing is near at all
        close = small & (np.abs(second - slip - LEAST_LEAD * unit) < CLOSE[1] * unit)
        close |= ahead & (np.abs(slip - MOST_SLIP * unit) < CLOSE[0] * unit)
    shape = np.where(small & ahead, SHAPE_OF[best], -1)
    return Matches(shape, scores[rows, best], slip, place[:, 0], place[:, 1], place[:, 2], close)


def local_frame(place: Array, side: int) -> tuple[Array, Array]:
    """Coordinates of a patch's pixels relative to (x, y, radius) (n, 3), in radii, (n, P, P) each."""
    steps = np.arange(side, dtype=np.float32)
    x = (steps - place[:, :1]) / place[:, 2:]
    y = (steps - place[:, 1:2]) / place[:, 2:]
    shape = (len(place), side, side)
    return np.broadcast_to(x[:, None, :], shape), np.broadcast_to(y[:, :, None], shape)


def outline(template: tuple[str, float], x: Array, y: Array) -> Array:
    """Signed distance of a template in radii; `template` is a shape's name and, of a ring, its hole."""
    name, hole = template
    if name != "ring":
        return OUTLINES[name](x, y)
    middle, half = np.float32((1 + hole) / 2), np.float32((1 - hole) / 2)
    return np.abs(np.sqrt(x * x + y * y) - middle) - half


def _compare(alpha: Array, template: tuple[str, float], place: Array) -> tuple[Array, Array]:
    """Soft IoU with a shape drawn at these places and the summed difference, at the better edge, (n,)."""
    x, y = local_frame(place, alpha.shape[1])
    radius = place[:, 2, None, None]
    distance = outline(template, x, y) * radius
    if template[0] == TEDDY:
        hidden = np.minimum(teddy_face(x, y) * radius - 0.5, teddy_belly(x, y) * radius - 1.2) <= 0
        distance, alpha = np.where(hidden, np.inf, distance), np.where(hidden, 0, alpha)
    best, off = np.zeros(len(alpha), dtype=np.float32), np.full(len(alpha), np.inf, dtype=np.float32)
    total = alpha.sum((1, 2))
    for edge in EDGES:
        shown = coverage(distance, edge)
        common, drawn = np.minimum(alpha, shown).sum((1, 2)), shown.sum((1, 2))
        np.maximum(best, common / (total + drawn - common), out=best)
        np.minimum(off, total + drawn - 2 * common, out=off)
    return best, off


@dataclass(frozen=True)
class _Facts:
    """Area and spread (second moment over squared area) of a drawn shape by radius, pixels.

    Also, for radius 1, the height of its centroid and the length of its outline.
    """

    radii: NDArray[np.float64]
    areas: NDArray[np.float64]
    spreads: NDArray[np.float64]
    offset: np.float32
    outline: float


@cache
def _facts(name: str, hole: float = 0.0) -> _Facts:
    radii = np.geomspace(2.0, 64.0, 48)
    areas, spreads, offset = [], [], 0.0
    for radius in radii:
        steps = np.linspace(-1.6, 1.6, 161, dtype=np.float32)
        x, y = np.meshgrid(steps, steps)
        cover = coverage(outline((name, hole), x, y) * np.float32(radius), EDGE)
        if name == TEDDY:
            cover = cover * (teddy_face(x, y) > 0)
        total = cover.sum()
        offset = float((cover * y).sum() / total)
        spreads.append(float((cover * (x**2 + (y - offset) ** 2)).sum() / total**2 / (0.02**2)))
        areas.append(float(total * (0.02 * radius) ** 2))
    distance = outline((name, hole), x, y)
    length = float(((distance < 0.05).sum() - (distance < -0.05).sum()) * 0.02**2 / 0.1)
    return _Facts(radii, np.array(areas), np.array(spreads), np.float32(offset), length)
