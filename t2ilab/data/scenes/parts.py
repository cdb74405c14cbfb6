"""Image to parts: the connected pieces of the foreground as patches, with the colours of their pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.world import COLORS

Array = NDArray[np.float32]

FOREGROUND = 40.0  # least distance of a foreground pixel from the background, levels
LIT = (0.95, 1.12)  # brightness a background pixel takes by grain
SHADED = (0.55, 1.12)  # and by a soft shadow
OBJECT_SHADES = (0.6, 1.05)  # brightness an object's pixel may take
FAR_COLOR = 75.0  # a pixel further than this from every palette colour has no colour, levels
SPECK = 12.0  # parts of fewer pixels (at 64 px) are noise
LARGEST = 17.0  # half width of the patch around a part (at 64 px); larger parts have no shape


class Parts:
    """Connected parts of the foreground of a batch as patches.

    Attributes:
        image: number of the image each part lies in, (N,).
        rows, columns: pixel numbers of the patches, (N, P); they may lie outside the image.
        whole: whether the part fits its patch, (N,).
        mask: the part's pixels and their neighbours, (N, P, P).
        nearest, brightness: palette colour (-1 for none) and brightness of the part's pixels, (N, P, P).
        core: the pixels with all their neighbours in the part, (N, P, P); deep: the same of the core.
        color: the most frequent palette colour of the core, (N,).
    """

    def __init__(self, images: Array, ground: Array, scale: float) -> None:
        """Finds the parts of images (n, H, H, 3) before backgrounds (n, 3), `scale` pixels a unit."""
        where, label = _connected(_foreground(images, ground), SPECK * scale**2)
        number = int(label.max(initial=-1)) + 1
        side = images.shape[1]
        self.image = np.zeros(number, dtype=np.int64)
        self.image[label] = where // side**2
        row, column = where % side**2 // side, where % side
        half = int(np.ceil(LARGEST * scale))
        low, high = np.full((2, number), side), np.zeros((2, number), dtype=np.int64)
        for k, line in enumerate((row, column)):
            np.minimum.at(low[k], label, line)
            np.maximum.at(high[k], label, line)
        middle = (low + high) // 2
        self.whole = (high - low).max(0, initial=0) < 2 * half
        steps = np.arange(2 * half + 1) - half
        self.rows, self.columns = middle[0][:, None] + steps, middle[1][:, None] + steps
        at_row, at_column = row - middle[0][label] + half, column - middle[1][label] + half
        fits = (at_row >= 0) & (at_row <= 2 * half) & (at_column >= 0) & (at_column <= 2 * half)
        at = label[fits], at_row[fits], at_column[fits]
        nearest, brightness = nearest_color(images.reshape(-1, 3)[where])
        shape = (number, 2 * half + 1, 2 * half + 1)
        self.nearest, self.brightness = np.full(shape, -1), np.zeros(shape, dtype=np.float32)
        self.nearest[at], self.brightness[at] = nearest[fits], brightness[fits]
        self.mask = np.zeros(shape, dtype=bool)
        self.mask[at] = True
        self.core = self.mask & ~grown(~self.mask)
        self.deep = self.core & ~grown(~self.core)
        self.mask = grown(self.mask)
        inside, all_over = color_votes(self.nearest, self.core), color_votes(self.nearest, self.mask)
        votes = np.where((inside.sum(1) > 0)[:, None], inside, all_over)
        self.color = votes.argmax(1)

    def cut(self, images: Array) -> Array:
        """The patches of the images, (N, P, P, 3); the border is repeated outward."""
        last = images.shape[1] - 1
        rows, columns = np.clip(self.rows, 0, last), np.clip(self.columns, 0, last)
        return images[self.image[:, None, None], rows[:, :, None], columns[:, None, :]]


def _foreground(images: Array, ground: Array) -> NDArray[np.bool_]:
    """The pixels that are not background, (n, H, H).

    Dark background is taken for shadow where it touches an object, and for a thing of its own elsewhere.
    """
    n, side, _, _ = images.shape
    flat = images.reshape(n, -1, 3)
    square, own = np.einsum("npc,npc->np", flat, flat), (ground**2).sum(-1, keepdims=True) + np.float32(1e-6)
    product = np.matmul(flat, ground[:, :, None])[..., 0]

    def far(shades: tuple[float, float]) -> NDArray[np.bool_]:
        """Whether pixels are far from the segment of brightnesses of their background."""
        shade = np.clip(product / own, *shades)
        return (square - 2 * shade * product + shade**2 * own > FOREGROUND**2).reshape(n, side, side)

    lit, shadowed = far(LIT), far(SHADED)
    if np.array_equal(lit, shadowed):
        return lit
    labels, number = _components(lit)
    touched = np.zeros(number + 1, dtype=bool)
    touched[labels[shadowed]] = True
    touched[0] = True
    return shadowed | ~touched[labels]


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    from scipy import ndimage

    linked = np.zeros((3, 3, 3), dtype=bool)
    linked[1] = True  # neighbours in the image, never across images
    return ndimage.label(mask, linked)


def _connected(mask: NDArray[np.bool_], least: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of the pixels of all components of that many pixels, and the number of each."""
    labels, number = _components(mask)
    where = np.flatnonzero(labels)
    label = labels.ravel()[where]
    kept = np.flatnonzero(np.bincount(label, minlength=number + 1) >= least)
    chosen = np.isin(label, kept)
    return where[chosen], np.searchsorted(kept, label[chosen])


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with the eight neighbours of each of its pixels."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    grown = wide.copy()
    grown[:, :, 1:] |= wide[:, :, :-1]
    grown[:, :, :-1] |= wide[:, :, 1:]
    return grown


def nearest_color(pixels: Array) -> tuple[NDArray[np.int64], Array]:
    """Number of the nearest palette colour of each pixel (n, 3), -1 if none is near, and its brightness."""
    colors = np.array(list(COLORS.values()), dtype=np.float32)
    own = (colors**2).sum(1)
    red, green, blue = (pixels[:, k, None] * colors[:, k] for k in range(3))
    product = red + green + blue  # no matrix product: its rounding depends on the number of pixels
    shade = np.clip(product / own, *OBJECT_SHADES)
    away = (pixels**2).sum(-1, keepdims=True) - 2 * shade * product + shade**2 * own
    nearest = away.argmin(-1)
    rows = np.arange(len(pixels))
    least, brightness = away[rows, nearest], product[rows, nearest] / own[nearest]
    return np.where(least <= FAR_COLOR**2, nearest, -1), brightness


def away(pixels: Array, colors: Array) -> Array:
    """Distance of pixels (n, 3) from colours (k, 3) in whatever light an object may be, (n, k)."""
    product, own = pixels @ colors.T, (colors**2).sum(1)
    shade = np.clip(product / own, *OBJECT_SHADES)
    square = (pixels**2).sum(-1, keepdims=True) - 2 * shade * product + shade**2 * own
    return np.sqrt(np.maximum(square, 0))


def color_votes(nearest: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the pixels of each colour, (N, colours)."""
    n = len(nearest)
    part, row, column = np.nonzero(where & (nearest >= 0))
    return np.bincount(part * len(COLORS) + nearest[part, row, column], minlength=n * len(COLORS)).reshape(
        n, len(COLORS)
    )
