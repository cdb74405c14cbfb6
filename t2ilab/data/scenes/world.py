"""What exists in the synthetic data set: shapes, colours, backgrounds, styles, and the scene that holds them.

Lengths are in units: an image is 64 x 64 units at every resolution, x to the right and y downward.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

SIDE = 64.0  # units per image side
EXTENT = 1.1  # no shape reaches further than this times its radius
GAP = 3.0  # least free space between two objects, units
MARGIN = 1.5  # least free space between an object and the border, units
PLACES = (16.0, 24.0, 32.0, 40.0, 48.0)  # where centres lie on either axis before jitter, units

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
TEDDY = "teddy bear"  # never occurs in the subset `general`

# Hues far apart, so that shading (which scales a colour) and fading (which greys it) leave them apart.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 25, 35),
    "orange": (255, 135, 0),
    "yellow": (255, 228, 20),
    "green": (25, 160, 55),
    "cyan": (20, 205, 220),
    "blue": (35, 75, 235),
    "purple": (135, 35, 190),
    "pink": (255, 120, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "grey": (204, 204, 206),
    "black": (26, 26, 30),
    "cream": (246, 234, 200),
    "navy": (22, 30, 78),
}
MARKS: dict[str, tuple[int, int, int]] = {  # of a bear's belly: looks that no text of the grammar can say
    "sky": (120, 180, 250),
}
SIZES: dict[str, float] = {"small": 9.0, "large": 13.0}  # radii before jitter, units
STYLES = ("flat", "shaded", "grainy")
RELATIONS = ("left of", "right of", "above", "below")
SPLITS = ("train", "val", "test")

# (colour, shape) pairs of the split `compose` only: no colour and no shape loses more than one of its eight.
HELD_OUT = frozenset(
    {
        ("green", "heart"),
        ("purple", "cross"),
        ("yellow", "diamond"),
        ("cyan", "triangle"),
        ("pink", "square"),
        ("blue", "ring"),
    }
)


@dataclass(frozen=True)
class Object:
    """One thing in an image.

    Attributes:
        shape, color: names of the vocabulary above.
        x, y, radius: centre and nominal radius in units.
        belly: colour of a teddy bear's belly if it differs from the rest, or None.
        mark: look of its belly beyond words, in place of a colour; or None.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    belly: str | None = None
    mark: str | None = None

    def __post_init__(self) -> None:
        if self.shape not in (*SHAPES, TEDDY):
            raise ValueError(f"shape must be one of {(*SHAPES, TEDDY)}, got {self.shape!r}")
        for color in (self.color, self.belly):
            if color is not None and color not in COLORS:
                raise ValueError(f"color must be one of {tuple(COLORS)}, got {color!r}")
        if self.belly is not None and self.shape != TEDDY:
            raise ValueError(f"only a {TEDDY} has a belly of its own colour, got a {self.shape}")
        if self.mark is not None and (self.shape != TEDDY or self.belly or self.mark not in MARKS):
            raise ValueError(
                f"mark must be one of {tuple(MARKS)}, of a {TEDDY} without a belly of its own colour, got {self}"
            )
        if not self.radius > 0:
            raise ValueError(f"radius must be positive, got {self.radius}")

    @property
    def size(self) -> str:
        """The size word for the radius."""
        return size_of(self.radius)


@dataclass(frozen=True)
class Scene:
    """An image as its truth.

    Attributes:
        objects: one or more, not overlapping.
        background, style: names of the vocabulary above.
        relation: where objects[0] lies seen from objects[1]; None if the scene does not define it.
        named: the attributes its short caption speaks of, out of color, size, relation, background.
        grain: number of the noise of a grainy image.
    """

    objects: tuple[Object, ...]
    background: str = "white"
    style: str = "flat"
    relation: str | None = None
    named: frozenset[str] = frozenset({"color", "relation"})
    grain: int = 0

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background must be one of {tuple(BACKGROUNDS)}, got {self.background!r}")
        if self.style not in STYLES:
            raise ValueError(f"style must be one of {STYLES}, got {self.style!r}")
        if self.relation is not None and self.relation not in RELATIONS:
            raise ValueError(f"relation must be one of {RELATIONS} or None, got {self.relation!r}")


def size_of(radius: float) -> str:
    """`small` or `large`: the boundary is half way between the two radii."""
    return "small" if radius < (SIZES["small"] + SIZES["large"]) / 2 else "large"


def split_of(scene: Scene) -> str:
    """The one split a scene belongs to: `compose` if it holds a held-out pair, else by a hash of its layout.

    The hash sees positions, radii and attributes, so no image of one split occurs in another.
    """
    if any((item.color, item.shape) in HELD_OUT for item in scene.objects):
        return "compose"
    layout = [
        (o.shape, o.color, round(o.x * 64), round(o.y * 64), round(o.radius * 64)) for o in scene.objects
    ]
    code = zlib.crc32(repr((layout, scene.background, scene.style)).encode())
    return SPLITS[code % len(SPLITS)]
