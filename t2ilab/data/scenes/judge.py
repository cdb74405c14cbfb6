"""The judge: what is in an image, by segmentation, palette and templates. Exact, deterministic, unlearned.

1. Background: the median of the border, named by the nearest background of the palette, plain or faded; a
   faded image (style `grainy`) is restored first.
2. Foreground (`parts`): the pixels far from the colours the background takes in light and shadow, in
   connected parts; the colour of each part by the vote of its pixels.
3. Shape, centre and radius of each part (`coverage`, `matching`). What is no clear shape or of no clear
   colour gets None there and cannot satisfy any requirement.
4. Style: brightness along the light's direction tells shaded from flat.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2ilab.data.scenes.coverage import measure
from t2ilab.data.scenes.matching import NAMES, local_frame
from t2ilab.data.scenes.parts import Parts, away, color_votes
from t2ilab.data.scenes.render import FADE, FADE_TO, LIGHT
from t2ilab.data.scenes.shapes import teddy_belly, teddy_face
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, MARKS, SIDE, TEDDY, size_of

Array = NDArray[np.float32]

FAR_BACKGROUND = 40.0  # a border further than this from every background has no name, levels
RADII = (5.0, 15.0)  # an object beyond these radii is none of the data set's, units
PURITY = 0.70  # least share of inner pixels that agree on the colour
CLOSE = 0.05  # a purity this near to the least is a close call
FAR_MARK = 50.0  # a belly further than this from a mark does not have it, levels
MARK_LEAD = 10.0  # and by how much every colour has to be further away, levels
SHADED = 0.5  # least gloss (share of the renderer's lighting) of a shaded image
CHUNK = 64  # images judged at once


@dataclass(frozen=True)
class Seen:
    """One thing in an image as the judge sees it; None where it is not clear.

    Attributes:
        shape, color, size, belly, mark: names of the vocabulary.
        x, y, radius: centre and nominal radius in units (64 per side).
        match, slip: soft IoU with its shape, and distance of its outline from it in units.
        purity: share of its inner pixels that agree on the colour.
        close: whether its shape or colour hangs on a threshold: a little more or less would have changed it.
    """

    shape: str | None
    color: str | None
    size: str
    x: float
    y: float
    radius: float
    match: float
    slip: float
    purity: float
    belly: str | None = None
    close: bool = False
    mark: str | None = None


@dataclass(frozen=True)
class Judgement:
    """What is in an image.

    Attributes:
        objects: every part of the foreground, in raster order.
        background: name or None.  style: flat, shaded or grainy.
        gloss: measured lighting, 0 for flat and 1 for the renderer's; NaN without objects.
    """

    objects: tuple[Seen, ...]
    background: str | None
    style: str
    gloss: float

    @property
    def close(self) -> bool:
        """Whether anything seen hangs on a threshold."""
        return any(item.close for item in self.objects)


def judge(image: NDArray[np.uint8] | Tensor) -> Judgement:
    """Judges one image: an array, uint8 (H, W, 3), or a tensor, uint8 or float in [0, 1], (3, H, W)."""
    return judge_batch(image[None])[0]


def judge_batch(images: NDArray[np.uint8] | Tensor) -> list[Judgement]:
    """Judges square images, an array or tensor as for `judge` with one more dimension in front.

    Each is judged independently of the others.
    """
    images = _images(images)
    step = max(1, CHUNK * 64 * 64 // images.shape[1] ** 2)
    return [found for start in range(0, len(images), step) for found in _judge(images[start : start + step])]


def _images(images: NDArray[np.uint8] | Tensor) -> NDArray[np.uint8]:
    if isinstance(images, Tensor):
        if images.is_floating_point():
            images = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)
        images = images.movedim(-3, -1).cpu().numpy()
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"judge wants uint8 (n, H, H, 3), got {images.dtype} {images.shape}")
    if images.shape[1] != images.shape[2] or images.shape[1] < 16:
        raise ValueError(f"judge wants square images of 16 pixels or more, got {images.shape}")
    return images if images.shape[1] >= SIDE else _enlarged(images)


def _enlarged(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small images at one pixel a unit: the least at which shapes and colours are clear."""
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    planes = torch.nn.functional.interpolate(planes, size=(int(SIDE), int(SIDE)), mode="bicubic")
    return planes.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def _judge(images: NDArray[np.uint8]) -> Iterator[Judgement]:
    pixels = images.astype(np.float32)
    scale = images.shape[1] / SIDE
    names, faded, ground = _backgrounds(pixels, max(1, round(2 * scale)))
    pixels[faded] = np.clip((pixels[faded] - (1 - FADE) * FADE_TO) / FADE, 0, 255)
    ground[faded] = np.clip((ground[faded] - (1 - FADE) * FADE_TO) / FADE, 0, 255)
    parts = Parts(pixels, ground, scale)
    seen, gloss = _name_parts(pixels, parts, ground, scale)
    for i, name in enumerate(names):
        own = np.flatnonzero(parts.image == i)
        weight = np.array([seen[k].radius ** 2 for k in own if np.isfinite(gloss[k])])
        shine = [gloss[k] for k in own if np.isfinite(gloss[k])]
        mean = float(np.average(shine, weights=weight)) if shine else float("nan")
        style = "grainy" if faded[i] else "shaded" if mean >= SHADED else "flat"
        yield Judgement(tuple(seen[k] for k in own), name, style, mean)


def _backgrounds(images: Array, width: int) -> tuple[list[str | None], NDArray[np.bool_], Array]:
    """Names, whether faded, and measured colours (n, 3) of the backgrounds."""
    n = len(images)
    rim = [images[:, :width], images[:, -width:], images[:, :, :width], images[:, :, -width:]]
    ground = np.median(np.concatenate([part.reshape(n, -1, 3) for part in rim], 1), 1)
    palette = np.array(list(BACKGROUNDS.values()), dtype=np.float32)
    candidates = np.concatenate([palette, FADE * palette + (1 - FADE) * FADE_TO])
    away = np.linalg.norm(ground[:, None] - candidates, axis=-1)
    nearest = away.argmin(1)
    names = tuple(BACKGROUNDS)
    found = [
        names[k % len(names)] if away[i, k] <= FAR_BACKGROUND else None
        for i, k in enumerate(nearest.tolist())
    ]
    return found, nearest >= len(names), ground.astype(np.float32)


def _name_parts(images: Array, parts: Parts, ground: Array, scale: float) -> tuple[list[Seen], Array]:
    """Shape, colour, belly and gloss of every part."""
    patches = parts.cut(images)
    alpha, matches = measure(patches, parts, ground, scale)
    size = matches.radius / scale
    sized = (size > RADII[0]) & (size < RADII[1])
    shape = np.where(parts.whole & sized, matches.shape, -1)
    place = np.stack([matches.x, matches.y, np.maximum(matches.radius, 1e-3)], -1)
    x, y = local_frame(place, alpha.shape[1])
    inner, belly_area = _inner(alpha, shape, x, y, place[:, 2])
    color, purity = _vote(parts.nearest, inner)
    belly, agreed = _vote(parts.nearest, belly_area)
    gloss = _gloss(parts.brightness, inner & (parts.nearest == color[:, None, None]), x, y)
    marks = _marks(patches, belly_area)
    cloth = np.where((agreed >= PURITY) & (belly != color), belly, -1)
    color = np.where(purity >= PURITY, color, -1)
    left = (parts.columns[:, 0] + matches.x + 0.5) / scale
    top = (parts.rows[:, 0] + matches.y + 0.5) / scale
    colors = (*COLORS, None)
    seen = [
        Seen(
            shape=(*NAMES, None)[shape[k]],
            color=colors[color[k]],
            size=size_of(size[k]),
            x=float(left[k]),
            y=float(top[k]),
            radius=float(size[k]),
            match=float(matches.match[k]),
            slip=float(matches.slip[k] / scale),
            purity=float(purity[k]),
            belly=colors[cloth[k]],
            close=bool(matches.close[k] or abs(purity[k] - PURITY) < CLOSE),
            mark=marks[k],
        )
        for k in range(len(shape))
    ]
    return seen, gloss


def _inner(
    alpha: Array, shape: NDArray[np.int64], x: Array, y: Array, radius: Array
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels that show an object's own colour, and those of a belly if it is a bear."""
    inner = alpha >= 0.97
    belly = np.zeros_like(inner)
    bears = np.flatnonzero(shape == NAMES.index(TEDDY))
    if len(bears):
        unit = radius[bears, None, None]
        cloth, face = teddy_belly(x[bears], y[bears]) * unit, teddy_face(x[bears], y[bears]) * unit
        belly[bears] = cloth < -1.2
        inner[bears] &= (cloth > 0.7) & (face > 0.7)
    return inner, belly


def _marks(patches: Array, belly: NDArray[np.bool_]) -> list[str | None]:
    """The mark that the middle colour of each belly is nearest to, by far; None for a colour of the palette."""
    found: list[str | None] = [None] * len(patches)
    palette, marks = (np.array(list(each.values()), dtype=np.float32) for each in (COLORS, MARKS))
    for k in np.flatnonzero(belly.any((1, 2))):
        middle = np.median(patches[k][belly[k]], 0)[None]
        own, others = away(middle, marks)[0], away(middle, palette)[0].min()
        if own.min() <= min(FAR_MARK, others - MARK_LEAD):
            found[k] = tuple(MARKS)[own.argmin()]
    return found


def _vote(nearest: NDArray[np.int64], where: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """The colour most pixels agree on, and the share that does."""
    votes = color_votes(nearest, where)
    return votes.argmax(1), votes.max(1) / np.maximum(where.sum((1, 2)), 1)


def _gloss(brightness: Array, inner: NDArray[np.bool_], x: Array, y: Array) -> Array:
    """Slope of the brightness along the light over the slope of the renderer's light, (N,)."""
    toward = -(x + y) / np.float32(2 * np.sqrt(2))
    count = np.maximum(inner.sum((1, 2)), 1)
    mean_toward = (toward * inner).sum((1, 2)) / count
    mean_brightness = (brightness * inner).sum((1, 2)) / count
    lever = (toward - mean_toward[:, None, None]) * inner
    slope = (lever * brightness).sum((1, 2)) / np.maximum((lever**2).sum((1, 2)), 1e-9)
    return np.where(
        count > 8,
        slope / np.maximum(mean_brightness, 1e-3) / ((LIGHT[1] - LIGHT[0]) / np.mean(LIGHT)),
        np.nan,
    )
