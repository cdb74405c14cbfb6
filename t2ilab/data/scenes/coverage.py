"""Parts to shapes: how much of every pixel an object covers, given its colour, light and background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.matching import GAIN, NAMES, Matches, match_shapes
from t2ilab.data.scenes.parts import OBJECT_SHADES, Parts
from t2ilab.data.scenes.world import COLORS, TEDDY

Array = NDArray[np.float32]

STIFFNESS = 60.0  # how hard it is to change the background's brightness, levels
FILL = 1.8  # stretch of coverage deep in a part: the inverse of what a highlight leaves of a colour
DOUBTFUL = 0.2  # a slip above this is worth a second look, units
FAINT = 0.1  # coverage below this is noise


def measure(patches: Array, parts: Parts, ground: Array, scale: float) -> tuple[Array, Matches]:
    """Stretched coverage and best shape of every part.

    A part that is no good shape in its own colour is tried as a bear, whose inside may have another.
    """
    own, light = ground[parts.image], _light(parts)
    cover = _coverage(patches, own, parts.color, light)
    alpha = _alpha(cover, parts.mask, parts.deep)
    matches = match_shapes(alpha, scale)
    doubtful = (matches.shape < 0) | (matches.slip > DOUBTFUL * max(scale, 1))
    rows = np.flatnonzero(doubtful & parts.whole)
    if len(rows):
        filled = np.where(_enclosed(parts.core[rows]), 1, alpha[rows])
        again = match_shapes(filled, scale)
        bears = (again.shape == NAMES.index(TEDDY)) & (again.slip < matches.slip[rows])
        alpha[rows[bears]] = filled[bears]
        matches = matches.replaced(rows[bears], again, bears)
    return alpha, matches


def _alpha(cover: Array, mask: NDArray[np.bool_], deep: NDArray[np.bool_]) -> Array:
    """Coverage as it is matched: nothing outside the part, dips inside it (a highlight) filled."""
    alpha = np.minimum(np.where(deep, FILL * cover, GAIN * cover), 1)
    return alpha * ((cover > FAINT) & mask)


def _enclosed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the mask (n, P, P) lies above, below, to the left and to the right."""
    sides = [np.logical_or.accumulate(mask, axis) for axis in (1, 2)]
    sides += [np.flip(np.logical_or.accumulate(np.flip(mask, axis), axis), axis) for axis in (1, 2)]
    return np.logical_and.reduce(sides)


def _light(parts: Parts) -> Array:
    """Brightness over the patches, (N, P, P): a line along the light's direction fitted to the core."""
    steps = np.arange(parts.mask.shape[1], dtype=np.float32)
    along = -(steps[:, None] + steps)
    own = parts.core & (parts.nearest == parts.color[:, None, None])
    count = own.sum((1, 2))
    share = own / np.maximum(count, 1)[:, None, None].astype(np.float32)
    mean = (share * parts.brightness).sum((1, 2))[:, None, None]
    lever = along - (share * along).sum((1, 2))[:, None, None]
    slope = (share * lever * parts.brightness).sum((1, 2)) / np.maximum((share * lever**2).sum((1, 2)), 1e-6)
    return np.where(
        (count >= 8)[:, None, None], np.clip(mean + slope[:, None, None] * lever, *OBJECT_SHADES), 1
    )


def _coverage(patches: Array, own: Array, color: NDArray[np.int64], light: Array) -> Array:
    """Coverage of every pixel of the patches (n, P, P, 3) by an object of a colour before backgrounds (n, 3).

    A pixel is modelled as background + u (color - background) + w background, w the change of the background
    by shadow or light with the penalty (STIFFNESS w)^2; the least-squares u is linear in the pixel. Coverage
    is u over what it is where the object covers all at the local light.
    """
    target = np.array(list(COLORS.values()), dtype=np.float32)[color]
    toward = target - own
    cross = (toward * own).sum(-1, keepdims=True)
    stiff = (own**2).sum(-1, keepdims=True) + STIFFNESS**2
    kernel = (stiff * toward - cross * own) / ((toward**2).sum(-1, keepdims=True) * stiff - cross**2)
    none, full = ((end * kernel).sum(-1)[:, None, None] for end in (own, target))
    u = np.einsum("nijc,nc->nij", patches, kernel) - none
    return u / np.maximum(light * full - none, 0.2)
