"""Scene to image: anti-aliased coverage of signed distances, composed patch by patch over a whole batch.

    pixel = background (1 - depth shadow), then   pixel <- (1 - c) pixel + c light color   for each object,

with coverage c = clip(1/2 - d / w), d the signed distance and w the edge width. Style `shaded` adds the light
and the soft shadow, style `grainy` wide edges, faded colours and noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from t2ilab.data.scenes.shapes import OUTLINES, teddy_belly, teddy_face
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, EXTENT, MARKS, SIDE, TEDDY, Object, Scene

Array = NDArray[np.float32]

RESOLUTIONS = (32, 64, 128, 256)
SHADOW_OFFSET = (1.6, 2.2)  # units, to the lower right: the light comes from the upper left
SHADOW_WIDTH = 4.0  # units over which a shadow fades
SHADOW_DEPTH = 0.38
LIGHT = (0.70, 1.0)  # brightness at the lower right and at the upper left end of a lit object
HIGHLIGHT = 0.45  # share of white in the middle of the highlight
FADE_TO, FADE = 122.0, 0.78  # a grainy image is FADE * image + (1 - FADE) * FADE_TO
GRAIN = 6.0  # std of the noise, grey levels
GRAINY_EDGE = 2.2  # edge width of a grainy image, units
FACE = (30.0, 22.0, 26.0)
CHUNK = 128  # images composed at once: bounds memory and keeps patches in the cache


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The image of one scene, uint8 (size, size, 3)."""
    return render_batch([scene], size)[0]


def render_batch(scenes: Sequence[Scene], size: int = 64) -> NDArray[np.uint8]:
    """The images of several scenes, uint8 (n, size, size, 3); each is independent of the others."""
    if size not in RESOLUTIONS:
        raise ValueError(f"the resolution of a scene must be one of {RESOLUTIONS}, got {size}")
    step = max(1, CHUNK * 64 * 64 // (size * size))
    parts = [_render_chunk(scenes[start : start + step], size) for start in range(0, len(scenes), step)]
    return np.concatenate(parts) if parts else np.zeros((0, size, size, 3), dtype=np.uint8)


def _render_chunk(scenes: Sequence[Scene], size: int) -> NDArray[np.uint8]:
    patches = _Patches(scenes, size)
    canvas = patches.empty_canvas(scenes)
    for rank in range(patches.ranks):  # all shadows lie below all objects
        patches.cast_shadows(canvas, rank)
    for rank in range(patches.ranks):
        patches.draw(canvas, rank)
    pad = patches.pad
    return _finish(canvas[:, pad : pad + size, pad : pad + size], scenes)


class _Patches:
    """Squares of pixels around every object of a batch, with the object's signed distance in each.

    Attributes:
        x, y: pixel centres relative to the object in units of its radius, (N, P, P).
        distance: signed distance in units, (N, P, P).
        ranks: objects of equal rank lie in different images, so one indexed write composes them all.
    """

    def __init__(self, scenes: Sequence[Scene], size: int) -> None:
        self.objects: list[Object] = [item for scene in scenes for item in scene.objects]
        self.image = np.array([i for i, scene in enumerate(scenes) for _ in scene.objects], dtype=np.int64)
        self.rank = np.array([k for scene in scenes for k in range(len(scene.objects))], dtype=np.int64)
        self.ranks = int(self.rank.max(initial=-1)) + 1
        self.style = np.array([scene.style for scene in scenes for _ in scene.objects])
        self.scale = size / SIDE  # pixels per unit
        reach = EXTENT * max((item.radius for item in self.objects), default=1.0) + 1.2
        half = int(np.ceil(reach * self.scale))
        self.margin = int(np.ceil(SHADOW_WIDTH / 2 * self.scale)) if (self.style == "shaded").any() else 0
        self.width = 2 * (half + self.margin) + 1
        self.pad, self.size = half + 2 * self.margin + 1, size
        self._place()

    def _place(self) -> None:
        centre = np.array([(item.x, item.y) for item in self.objects], dtype=np.float64).reshape(-1, 2)
        radius = np.array([item.radius for item in self.objects], dtype=np.float32)[:, None, None]
        corner = np.floor(centre * self.scale).astype(np.int64) - self.width // 2
        steps = np.arange(self.width)
        columns, rows = corner[:, :1] + steps, corner[:, 1:] + steps  # (N, P)
        self.index = (rows + self.pad)[:, :, None], (columns + self.pad)[:, None, :]
        shape = (len(self.objects), self.width, self.width)
        x = ((columns + 0.5) / self.scale - centre[:, :1]).astype(np.float32)[:, None, :] / radius
        y = ((rows + 0.5) / self.scale - centre[:, 1:]).astype(np.float32)[:, :, None] / radius
        self.x, self.y = np.broadcast_to(x, shape), np.broadcast_to(y, shape)
        self.radius = radius
        self.distance = np.empty(shape, dtype=np.float32)
        names = np.array([item.shape for item in self.objects])
        for name in np.unique(names):
            rows_of = np.flatnonzero(names == name)
            self.distance[rows_of] = OUTLINES[name](self.x[rows_of], self.y[rows_of]) * radius[rows_of]

    def empty_canvas(self, scenes: Sequence[Scene]) -> Array:
        side = self.size + 2 * self.pad
        colors = np.array([BACKGROUNDS[scene.background] for scene in scenes], dtype=np.float32)
        return np.broadcast_to(colors[:, None, None, :], (len(scenes), side, side, 3)).copy()

    def cast_shadows(self, canvas: Array, rank: int) -> None:
        """Darkens the background below the lit objects of one rank; the patch of distances is moved."""
        rows = np.flatnonzero((self.rank == rank) & (self.style == "shaded"))
        if not len(rows):
            return
        right, down = (round(offset * self.scale) for offset in SHADOW_OFFSET)
        depth = SHADOW_DEPTH * np.clip(0.5 - self.distance[rows] / SHADOW_WIDTH, 0, 1)
        image = self.image[rows][:, None, None]
        where = image, self.index[0][rows] + down, self.index[1][rows] + right
        canvas[where] *= (1 - depth)[..., None].astype(np.float32)

    def draw(self, canvas: Array, rank: int) -> None:
        """Composes the objects of one rank over the canvas."""
        rows = np.flatnonzero(self.rank == rank)
        edge = np.where(self.style[rows] == "grainy", max(GRAINY_EDGE, 1 / self.scale), 1 / self.scale)
        edge = edge.astype(np.float32)[:, None, None]
        near = slice(self.margin, self.width - self.margin)
        cover = np.clip(0.5 - self.distance[rows, near, near] / edge, 0, 1)
        where = self.image[rows][:, None, None], self.index[0][rows, near], self.index[1][rows, :, near]
        below = canvas[where]
        canvas[where] = below + cover[..., None] * (self._paint(rows, near, edge) - below)

    def _paint(self, rows: NDArray[np.int64], near: slice, edge: Array) -> Array:
        """Colour of every pixel near the objects as if they filled it, (n, p, p, 3) or (n, 1, 1, 3)."""
        paint = np.array([COLORS[self.objects[row].color] for row in rows], dtype=np.float32)[:, None, None]
        bears = [i for i, row in enumerate(rows) if self.objects[row].shape == TEDDY]
        lit = np.flatnonzero(self.style[rows] == "shaded")
        if bears or len(lit):
            side = near.stop - near.start
            paint = np.broadcast_to(paint, (len(rows), side, side, 3)).copy()
        if bears:
            self._dress(paint, rows, near, bears, edge)
        if len(lit):
            x, y = self.x[rows[lit], near, near], self.y[rows[lit], near, near]
            light, shine = _lighting(x, y)
            paint[lit] = paint[lit] * light[..., None] * (1 - shine[..., None]) + 255 * shine[..., None]
        return paint

    def _dress(
        self, paint: Array, rows: NDArray[np.int64], near: slice, bears: list[int], edge: Array
    ) -> None:
        """Paints the bellies and faces of the teddy bears."""
        own = rows[bears]
        x, y, unit = self.x[own, near, near], self.y[own, near, near], self.radius[own]
        wide = edge[bears]
        belly = np.clip(0.5 - teddy_belly(x, y) * unit / wide, 0, 1)
        looks = [_belly_color(self.objects[row]) for row in own]
        belly *= np.array([look is not None for look in looks])[:, None, None]
        color = np.array([look or FACE for look in looks], dtype=np.float32)
        paint[bears] += belly[..., None] * (color[:, None, None, :] - paint[bears])
        face = np.clip(0.5 - teddy_face(x, y) * unit / wide, 0, 1)[..., None]
        paint[bears] += face * (np.array(FACE, dtype=np.float32) - paint[bears])


def _belly_color(item: Object) -> tuple[int, int, int] | None:
    """That of a bear's belly if it is not the bear's own."""
    if item.mark is not None:
        return MARKS[item.mark]
    return None if item.belly is None else COLORS[item.belly]


def _lighting(x: Array, y: Array) -> tuple[Array, Array]:
    """Brightness along the light's direction, and the share of white in the highlight."""
    toward = np.clip(0.5 - (x + y) / np.float32(2 * np.sqrt(2)), 0, 1)
    light = LIGHT[0] + (LIGHT[1] - LIGHT[0]) * toward
    shine = HIGHLIGHT * np.exp(-((x + 0.35) ** 2 + (y + 0.35) ** 2) * np.float32(1 / 0.09))
    return light.astype(np.float32), shine.astype(np.float32)


def _finish(canvas: Array, scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Fades and grains the low-quality images and rounds to bytes."""
    for i, scene in enumerate(scenes):
        if scene.style == "grainy":
            noise = np.random.Generator(np.random.Philox(key=scene.grain))
            grain = noise.standard_normal(canvas.shape[1:3], dtype=np.float32)
            canvas[i] = FADE * canvas[i] + (1 - FADE) * FADE_TO + GRAIN * grain[..., None]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
