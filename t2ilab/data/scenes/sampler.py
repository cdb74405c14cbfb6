"""Scenes by number: scene i of (subset, split, seed) is drawn from its own counter-based stream.

Of the stream's successive draws the first that belongs to the split is taken, so splits are disjoint by
construction and every split has the same distribution (apart from the pairs held out for `compose`).

Centres lie on a lattice of 8 units, five places on either axis, unless `jitter` moves them. An autoencoder that
turns 8 x 8 pixels into one latent cell then shows every shape in one position relative to its cells, where a
jitter of 4 shows it in all 64; this is what lets a model of a few million parameters learn to draw in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import INVERSE, SUBJECT_LOOK
from t2ilab.data.scenes.world import (
    COLORS,
    EXTENT,
    GAP,
    HELD_OUT,
    MARGIN,
    PLACES,
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
GENERAL_STYLES = {"flat": 0.75, "shaded": 0.15, "grainy": 0.10}
BACKGROUND_SHARES = {"white": 0.5, "grey": 0.125, "black": 0.125, "cream": 0.125, "navy": 0.125}
PAIR_ACROSS = 8.0  # a pair lies along one axis: its offset on the other is at most this on the lattice, units
PAIR_CLEAR = 8.0  # and less than that along the axis by at least this, jittered or not, units
MOST_JITTER = 4.0  # half the way to the next place: centres anywhere
JITTER_TRIES = 20

UNUSED = ("purple", "yellow")  # bear and belly that no image shows, as close to the subject as words come

Look = tuple[str, str]  # shape, colour


def sample_scene(
    subset: str = "general", split: str = "train", index: int = 0, seed: int = 0, *, jitter: float = 0.0
) -> Scene:
    """Scene `index` of a subset and split.

    Args:
        jitter: objects leave their places by up to this on either axis, and change their radii by up to an
            eighth of it, units; 0 to 4. The subset `foundation` always has 4, and takes 0 for that.
    """
    if subset not in SUBSETS:
        raise ValueError(f"data.subset must be one of {SUBSETS}, got {subset!r}")
    if split not in (*SPLITS, "compose"):
        raise ValueError(f"data.split must be one of {(*SPLITS, 'compose')}, got {split!r}")
    if split == "compose" and subset not in ("general", "curated"):
        raise ValueError(f"data.split=compose exists for general and curated, got data.subset={subset}")
    if not 0 <= jitter <= MOST_JITTER:
        raise ValueError(f"data.jitter must lie in [0, {MOST_JITTER:g}], got {jitter}")
    if subset == "foundation" and jitter not in (0, MOST_JITTER):
        raise ValueError(
            f"data.subset=foundation has a jitter of {MOST_JITTER:g}: leave out data.jitter={jitter:g}"
        )
    draws = Draws(f"scene/{subset}/{split}", seed, index)
    reach = MOST_JITTER if subset == "foundation" else jitter
    while True:
        scene = _DRAW[subset](draws, split == "compose")
        if reach:
            scene = _moved(draws, scene, reach)
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
    items: tuple[Object, ...]
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
        return replace(scene, style=style) if not is_unused(item) else _teddy(draws)
    if kind == "count":
        radius = _radius(draws, 0.7)
        items, _ = _along_an_axis(draws, [first, first], [radius, radius])
        return replace(_scene(draws, items, _named(draws, color=0.6)), style=style)
    return replace(_pair(draws, first), style=style)


def _subject(draws: Draws, held_out: bool = False) -> Scene:
    """The one bear: its colour and mark never change, its place and background do."""
    shape_radius = _radius(draws, 1.0)
    item = _single_object(draws, (TEDDY, SUBJECT_LOOK[0]), shape_radius)
    item = replace(item, mark=SUBJECT_LOOK[1])
    return replace(_scene(draws, (item,), frozenset({"color", "belly"})), style="shaded")


def _class(draws: Draws, held_out: bool = False) -> Scene:
    """Other bears in the subject's kind of images: the class of prior preservation."""
    while True:
        color = draws.choice(tuple(COLORS))
        belly = draws.choice((None, *COLORS))
        if belly != color and (color, belly) != UNUSED:
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


def is_unused(item: Object) -> bool:
    """Whether an object is the bear that no image shows, nor the subject."""
    return item.shape == TEDDY and (item.color, item.belly) == UNUSED


def _scene(
    draws: Draws, items: tuple[Object, ...], named: frozenset[str], relation: str | None = None
) -> Scene:
    background = draws.weighted(BACKGROUND_SHARES)
    return Scene(items, background, "flat", relation, named, draws.word())


def _named(draws: Draws, **chances: float) -> frozenset[str]:
    return frozenset(name for name, chance in chances.items() if draws.chance(chance))


def _radius(draws: Draws, large: float) -> float:
    return SIZES["large" if draws.chance(large) else "small"]


def _single_object(draws: Draws, look: Look, radius: float) -> Object:
    return Object(*look, draws.choice(PLACES), draws.choice(PLACES), radius)


def _spans(one: float, two: float) -> list[tuple[float, float]]:
    """The pairs of places at which objects of these radii keep their distance."""
    least = EXTENT * (one + two) + GAP
    return [(low, high) for low in PLACES for high in PLACES if high - low >= least]


def _along_an_axis(draws: Draws, looks: list[Look], radii: list[float]) -> tuple[tuple[Object, Object], str]:
    """Two objects left and right of, or above and below, each other, and the relation of the first."""
    relation = draws.choice(tuple(INVERSE))
    along = draws.choice(_spans(*radii))
    if relation in ("right of", "below"):
        along = along[::-1]
    first = draws.choice(PLACES)
    across = first, draws.choice([place for place in PLACES if abs(place - first) <= PAIR_ACROSS])
    places = [(along[k], across[k]) if relation.endswith("of") else (across[k], along[k]) for k in (0, 1)]
    one, two = (
        Object(*look, *place, radius) for look, place, radius in zip(looks, places, radii, strict=True)
    )
    return (one, two), relation


def _on_a_grid(draws: Draws, looks: list[Look], radii: list[float]) -> tuple[Object, ...]:
    """Three or four objects at the crossings of two columns with two rows."""
    spans = _spans(*sorted(radii)[-2:])
    columns, rows = draws.choice(spans), draws.choice(spans)
    places = draws.sample([(x, y) for x in columns for y in rows], len(looks))
    return tuple(
        Object(*look, *place, radius) for look, place, radius in zip(looks, places, radii, strict=True)
    )


def _moved(draws: Draws, scene: Scene, reach: float) -> Scene:
    """The scene with every object off its place by up to `reach`, or by less where there is no room."""
    for attempt in range(JITTER_TRIES):
        most = reach * (1 - attempt / JITTER_TRIES)
        items = tuple(
            replace(
                item,
                x=draws.uniform(item.x - most, item.x + most),
                y=draws.uniform(item.y - most, item.y + most),
                radius=draws.uniform(item.radius - most / 8, item.radius + most / 8),
            )
            for item in scene.objects
        )
        if _legal(items, scene.relation):
            return replace(scene, objects=items)
    return scene


def _legal(items: tuple[Object, ...], relation: str | None) -> bool:
    """Whether all is inside, apart, and clearly related."""
    for item in items:
        edge = EXTENT * item.radius + MARGIN
        if not edge <= min(item.x, item.y) <= max(item.x, item.y) <= SIDE - edge:
            return False
    for one, two in combinations(items, 2):
        if math.hypot(one.x - two.x, one.y - two.y) < EXTENT * (one.radius + two.radius) + GAP:
            return False
    if relation is None:
        return True
    right, down = abs(items[0].x - items[1].x), abs(items[0].y - items[1].y)
    return (right - down if relation.endswith("of") else down - right) >= PAIR_CLEAR
