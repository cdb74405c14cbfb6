"""Scenes by number: scene i of (subset, split, seed) is drawn from its own counter-based stream.

Of the stream's successive draws the first that belongs to the split is taken, so splits are disjoint by
construction and every split has the same distribution (apart from the pairs held out for `compose`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import INVERSE, SUBJECT_LOOK
from t2ilab.data.scenes.world import (
    BACKGROUNDS,
    COLORS,
    EXTENT,
    GAP,
    HELD_OUT,
    MARGIN,
    SHAPES,
    SIDE,
    SIZES,
    SPLITS,
    TEDDY,
    Object,
    Scene,
    split_of,
)

SUBSETS = ("general", "teddy", "curated", "subject", "class", "foundation")
KINDS = {"single": 0.35, "pair": 0.45, "count": 0.15, "mixed": 0.05}
FOUNDATION = {"general": 0.6, "curated": 0.15, "teddy": 0.15, "class": 0.1}
GENERAL_STYLES = {"flat": 0.60, "shaded": 0.25, "grainy": 0.15}
PAIR_ACROSS = 8.0  # a pair lies along one axis: its offset on the other is at most this, units

Look = tuple[str, str]  # shape, colour


def sample_scene(subset: str = "general", split: str = "train", index: int = 0, seed: int = 0) -> Scene:
    """Scene `index` of a subset and split."""
    if subset not in SUBSETS:
        raise ValueError(f"data.subset must be one of {SUBSETS}, got {subset!r}")
    if split not in (*SPLITS, "compose"):
        raise ValueError(f"data.split must be one of {(*SPLITS, 'compose')}, got {split!r}")
    if split == "compose" and subset not in ("general", "curated"):
        raise ValueError(f"data.split=compose exists for general and curated, got data.subset={subset}")
    draws = Draws(f"scene/{subset}/{split}", seed, index)
    while True:
        scene = _DRAW[subset](draws, split == "compose")
        if split_of(scene) == split:
            return scene


def _general(draws: Draws, held_out: bool) -> Scene:
    scene = _composition(draws, held_out)
    return replace(scene, style=draws.weighted(GENERAL_STYLES))


def _curated(draws: Draws, held_out: bool) -> Scene:
    return replace(_composition(draws, held_out), style="shaded")


def _composition(draws: Draws, held_out: bool) -> Scene:
    kind = draws.weighted(KINDS)
    first = _look(draws, held_out)
    return {"single": _single, "pair": _pair, "count": _count, "mixed": _mixed}[kind](draws, first)


def _look(draws: Draws, held_out: bool = False) -> Look:
    """A shape with a colour: of the held-out pairs if told so, else of the others."""
    if held_out:
        color, shape = draws.choice(sorted(HELD_OUT))
        return shape, color
    while True:
        shape, color = draws.choice(SHAPES), draws.choice(tuple(COLORS))
        if (color, shape) not in HELD_OUT:
            return shape, color


def _single(draws: Draws, first: Look) -> Scene:
    item = _single_object(draws, first, _radius(draws, 0.55))
    named = _named(draws, color=0.75, size=0.25, background=0.25)
    return _scene(draws, (item,), named)


def _pair(draws: Draws, first: Look) -> Scene:
    """Two different things along one axis. Of equal shapes or colours there are some, never of both."""
    while True:
        second = _look(draws)
        if second != first and (second[0] != first[0] or draws.chance(0.6)):
            break
    items, relation = _along_an_axis(draws, [first, second], [_radius(draws, 0.5), _radius(draws, 0.5)])
    named = _named(draws, color=0.8, relation=0.65, size=0.1, background=0.1)
    if second[0] == first[0]:
        named |= {"color"}
    return _scene(draws, items, named, relation)


def _count(draws: Draws, first: Look) -> Scene:
    """Two to four of one shape: mostly of one colour, else of several."""
    number = draws.choice((2, 3, 4))
    one_color = draws.chance(0.75)
    looks = [first] * number
    if not one_color:
        others = [color for color in COLORS if color != first[1] and (color, first[0]) not in HELD_OUT]
        looks = [first, *((first[0], color) for color in draws.sample(others, number - 1))]
    radius = _radius(draws, {2: 0.5, 3: 0.3, 4: 0.15}[number])
    if number == 2:
        items, _ = _along_an_axis(draws, looks, [radius, radius])
    else:
        items = _on_a_grid(draws, looks, [radius] * number)
    named = _named(draws, color=0.6 if one_color else 0.0, size=0.1, background=0.1)
    return _scene(draws, items, named)


def _mixed(draws: Draws, first: Look) -> Scene:
    """Three or four things of different shapes."""
    looks = [first]
    number = draws.choice((3, 4))
    while len(looks) < number:
        look = _look(draws)
        if look[0] not in {shape for shape, _ in looks}:
            looks.append(look)
    items = _on_a_grid(draws, looks, [_radius(draws, 0.15) for _ in looks])
    return _scene(draws, items, _named(draws, color=0.9))


def _teddy(draws: Draws, held_out: bool = False) -> Scene:
    """Teddy bears: mostly one, sometimes two, or one beside a shape; some have a belly of another colour."""
    kind = draws.weighted({"single": 0.6, "count": 0.15, "pair": 0.25})
    first = (TEDDY, draws.choice(tuple(COLORS)))
    style = draws.weighted({"flat": 0.5, "shaded": 0.5})
    if kind == "single":
        scene = _single(draws, first)
        item = scene.objects[0]
        if item.size == "large" and draws.chance(0.5):
            belly = draws.choice([color for color in COLORS if color != item.color])
            item = replace(item, belly=belly)
        scene = replace(scene, objects=(item,), named=scene.named | {"belly"})
        return replace(scene, style=style) if not is_subject(item) else _teddy(draws)
    if kind == "count":
        radius = _radius(draws, 0.7)
        items, _ = _along_an_axis(draws, [first, first], [radius, radius])
        return replace(_scene(draws, items, _named(draws, color=0.6)), style=style)
    return replace(_pair(draws, first), style=style)


def _subject(draws: Draws, held_out: bool = False) -> Scene:
    """The one bear: its colour and belly never change, its place and background do."""
    shape_radius = _radius(draws, 1.0)
    item = _single_object(draws, (TEDDY, SUBJECT_LOOK[0]), shape_radius)
    item = replace(item, belly=SUBJECT_LOOK[1])
    return replace(_scene(draws, (item,), frozenset({"color", "belly"})), style="shaded")


def _class(draws: Draws, held_out: bool = False) -> Scene:
    """Other bears in the subject's kind of pictures: the class of prior preservation."""
    while True:
        color = draws.choice(tuple(COLORS))
        belly = draws.choice((None, *COLORS))
        if belly != color and (color, belly) != SUBJECT_LOOK:
            break
    item = replace(_single_object(draws, (TEDDY, color), _radius(draws, 1.0)), belly=belly)
    return replace(_scene(draws, (item,), frozenset({"color", "belly"})), style="shaded")


def _foundation(draws: Draws, held_out: bool) -> Scene:
    """What an autoencoder and a text encoder should know beforehand: all but the subject's bear."""
    return _DRAW[draws.weighted(FOUNDATION)](draws, held_out)


_DRAW: dict[str, Callable[[Draws, bool], Scene]] = {
    "general": _general,
    "teddy": _teddy,
    "curated": _curated,
    "subject": _subject,
    "class": _class,
    "foundation": _foundation,
}


def is_subject(item: Object) -> bool:
    """Whether an object is the particular bear of the subset `subject`."""
    return item.shape == TEDDY and (item.color, item.belly) == SUBJECT_LOOK


def _scene(
    draws: Draws, items: tuple[Object, ...], named: frozenset[str], relation: str | None = None
) -> Scene:
    background = draws.choice(tuple(BACKGROUNDS))
    return Scene(items, background, "flat", relation, named, draws.word())


def _named(draws: Draws, **chances: float) -> frozenset[str]:
    return frozenset(name for name, chance in chances.items() if draws.chance(chance))


def _radius(draws: Draws, large: float) -> float:
    return draws.uniform(*SIZES["large" if draws.chance(large) else "small"])


def _room(radius: float) -> tuple[float, float]:
    """Where a centre may lie."""
    edge = EXTENT * radius + MARGIN
    return edge, SIDE - edge


def _single_object(draws: Draws, look: Look, radius: float) -> Object:
    return Object(*look, draws.uniform(*_room(radius)), draws.uniform(*_room(radius)), radius)


def _along_an_axis(draws: Draws, looks: list[Look], radii: list[float]) -> tuple[tuple[Object, Object], str]:
    """Two objects left and right of, or above and below, each other, and the relation of the first."""
    relation = draws.choice(tuple(INVERSE))
    low, high = (0, 1) if relation in ("left of", "above") else (1, 0)
    least = EXTENT * (radii[0] + radii[1]) + GAP
    start, end = _room(radii[low])[0], _room(radii[high])[1]
    first = draws.uniform(start, end - least)
    along = {low: first, high: draws.uniform(first + least, end)}
    across = {0: draws.uniform(*_room(radii[0]))}
    near, far = _room(radii[1])
    across[1] = draws.uniform(max(near, across[0] - PAIR_ACROSS), min(far, across[0] + PAIR_ACROSS))
    places = [(along[k], across[k]) if relation.endswith("of") else (across[k], along[k]) for k in (0, 1)]
    one, two = (
        Object(*look, *place, radius) for look, place, radius in zip(looks, places, radii, strict=True)
    )
    return (one, two), relation


def _on_a_grid(draws: Draws, looks: list[Look], radii: list[float]) -> tuple[Object, ...]:
    """Three or four objects in the quarters of the picture, or three small ones in a row or column."""
    if len(looks) == 3 and max(radii) <= SIZES["small"][1] and draws.chance(0.3):
        cells = [(SIDE * (2 * k + 1) / 6, SIDE / 2) for k in draws.sample(range(3), 3)]
        swap, free = draws.chance(0.5), (SIDE / 6, SIDE / 2)
        if swap:
            cells, free = [(y, x) for x, y in cells], (free[1], free[0])
    else:
        quarters = [(SIDE * i / 4, SIDE * j / 4) for i in (1, 3) for j in (1, 3)]
        cells, free = draws.sample(quarters, len(looks)), (SIDE / 4, SIDE / 4)
    items = []
    for look, (x, y), radius in zip(looks, cells, radii, strict=True):
        edge = EXTENT * radius + GAP / 2
        slack_x, slack_y = max(0.0, free[0] - edge), max(0.0, free[1] - edge)
        place = draws.uniform(x - slack_x, x + slack_x), draws.uniform(y - slack_y, y + slack_y)
        items.append(Object(*look, *place, radius))
    return tuple(items)
