"""Near misses: a scene that differs from another in exactly one respect. What an encoder must tell apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import EVERYTHING, INVERSE, Requirement, requirement_of
from t2ilab.data.scenes.sampler import is_unused
from t2ilab.data.scenes.world import (
    BACKGROUNDS,
    COLORS,
    EXTENT,
    HELD_OUT,
    SHAPES,
    SIDE,
    STYLES,
    Object,
    Scene,
)

CHANGES = {"color": 0.25, "shape": 0.25, "swap": 0.3, "background": 0.1, "style": 0.1}


def variant(scene: Scene, draws: Draws) -> Scene:
    """`scene` with one colour, one shape, the colours of two things, the background or the style changed.

    Two things that swap their colours keep every word of the caption and change its meaning. A change is
    drawn again if the image means what it meant (equal shapes swapped their colours, and nothing says which
    is where), if something sticks out of it, and if it shows what no training image does: a pair held out,
    the unused bear, a belly of the bear's own colour.
    """
    while True:
        changed = _CHANGE[draws.weighted(CHANGES)](scene, draws)
        if _meaning(changed) != _meaning(scene) and all(map(_allowed, changed.objects)):
            return changed


def _meaning(scene: Scene) -> Requirement:
    return requirement_of(scene, EVERYTHING).canonical()


def _allowed(item: Object) -> bool:
    edge = EXTENT * item.radius
    inside = edge <= min(item.x, item.y) and max(item.x, item.y) <= SIDE - edge
    known = (item.color, item.shape) not in HELD_OUT and not is_unused(item)
    return inside and known and item.belly != item.color


def _recolor(scene: Scene, draws: Draws) -> Scene:
    return _with_object(scene, draws, color=draws.choice(tuple(COLORS)))


def _reshape(scene: Scene, draws: Draws) -> Scene:
    # belly and mark are a bear's alone
    return _with_object(scene, draws, shape=draws.choice(SHAPES), belly=None, mark=None)


def _with_object(scene: Scene, draws: Draws, **changes: Any) -> Scene:
    place = draws.choice(tuple(range(len(scene.objects))))
    items = list(scene.objects)
    items[place] = replace(items[place], **changes)
    return replace(scene, objects=tuple(items))


def _swap(scene: Scene, draws: Draws) -> Scene:
    """Two neighbours exchange their places, which also turns a relation round, or their colours."""
    if len(scene.objects) < 2:
        return scene
    first, second, *rest = scene.objects
    if draws.chance(0.5) and scene.relation:
        moved = (_at(first, second), _at(second, first), *rest)
        return replace(scene, objects=moved, relation=INVERSE[scene.relation])
    swapped = (replace(first, color=second.color), replace(second, color=first.color), *rest)
    return replace(scene, objects=swapped)


def _at(item: Object, place: Object) -> Object:
    return replace(item, x=place.x, y=place.y)


_CHANGE = {
    "color": _recolor,
    "shape": _reshape,
    "swap": _swap,
    "background": lambda scene, draws: replace(scene, background=draws.choice(tuple(BACKGROUNDS))),
    "style": lambda scene, draws: replace(scene, style=draws.choice(STYLES)),
}


class VariantSource(SceneSource):
    """A source whose image i is a near miss of image i of the plain source with the same options."""

    @classmethod
    def of(cls, plain: SceneSource) -> VariantSource:
        """The near misses of the images of a source."""
        return cls(
            plain.subset,
            plain.split,
            size=plain.size,
            resolution=plain.resolution,
            seed=plain.seed,
            caption_kinds=plain.caption_kinds,
            jitter=plain.jitter,
            caption_weights=plain.caption_weights,
        )

    def scene(self, index: int) -> Scene:
        plain = super().scene(index)
        return variant(plain, Draws("variant", self.seed, index))

    def digest(self) -> str:
        return "variant-" + super().digest()
