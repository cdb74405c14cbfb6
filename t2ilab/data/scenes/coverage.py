"""Parts to shapes: how much of every pixel an object covers, given its colour, light and background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.matching import GAIN, NAMES, Matches, match_shapes
from t2ilab.data.scenes.parts import OBJECT_SHADES, Parts
from t2ilab.data.scenes.world import COLORS, TEDDY

Array = NDArray[np.float32]

STIFFNESS = 60.0  # how hard it is to change the background's brightness, levels
FAINT = 0.1  # coverage below this is noise


def measure(patches: Array, parts: Parts, ground: Array) -> tuple[Array, Matches]:
    """Stretched coverage and best shape of every part.

    A part that is no shape in its first colour is tried as a bear in its first and second, the belly's.
    """
    own, light = ground[parts.picture], _light(parts)
    cover = _coverage(patches, own, parts.color, light)
    alpha = np.minimum(GAIN * cover, 1) * ((cover > FAINT) & parts.mask)
    matches = match_shapes(alpha)
    rows = np.flatnonzero((matches.shape < 0) & parts.whole)
    if len(rows):
        cloth = _coverage(patches[rows], own[rows], parts.second[rows], light[rows])
        cover = np.maximum(cover[rows], cloth)
        dressed = np.minimum(GAIN * cover, 1) * ((cover > FAINT) & parts.mask[rows])
        again = match_shapes(dressed)
        bears = again.shape == NAMES.index(TEDDY)
        alpha[rows[bears]] = dressed[bears]
        matches = matches.replaced(rows[bears], again, bears)
    return alpha, matches


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
    """Coverage of every pixel of the patches (n, P, P, 3) by an object of a colour on a background (n, 3).

    A pixel is modelled as u color + (1 - u + w) background, w the change of the background by shadow or light
    with the penalty (STIFFNESS w)^2; the least-squares u is linear in the pixel. What it is where the object
    covers all, at the local light, is coverage 1.
    """
    target = np.array(list(COLORS.values()), dtype=np.float32)[color]
    toward = target - own
    cross = (toward * own).sum(-1, keepdims=True)
    stiff = (own**2).sum(-1, keepdims=True) + STIFFNESS**2
    kernel = (stiff * toward - cross * own) / ((toward**2).sum(-1, keepdims=True) * stiff - cross**2)
    none, full = ((end * kernel).sum(-1)[:, None, None] for end in (own, target))
    u = np.matmul(patches.reshape(len(patches), -1, 3), kernel[:, :, None]).reshape(light.shape) - none
    return u / np.maximum(light * full - none, 0.2)
