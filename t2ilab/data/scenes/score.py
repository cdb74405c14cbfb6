"""Does an image show what was asked for? Requirement against judgement, every attribute a flag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from t2ilab.data.scenes.grammar import EVERYTHING, Requirement, Want, parse, requirement_of
from t2ilab.data.scenes.judge import Judgement, Seen, judge_batch
from t2ilab.data.scenes.world import Scene

CLEAR = 8.0  # least distance of two centres along the axis of their relation, units
MOST = 7  # objects of an image that are compared with the wants; any surplus fails the count anyway


class Asks(Protocol):
    """A prompt with what its text asks for."""

    requirement: Requirement


Wanted = Scene | Requirement | str | Asks


@dataclass(frozen=True)
class Score:
    """How well an image fits.

    Attributes:
        passed: whether every attribute is right and nothing else is in the image.
        share: share of the attributes that are right.
        attributes: the verdict on each: count, shape/0, color/0, size/0, ..., relation, background, style.
        style: quality of the image in [0, 1]: 0 grainy, 0.5 flat, 1 fully lit.
    """

    passed: bool
    share: float
    attributes: dict[str, bool]
    style: float


def score(wanted: Wanted, image: NDArray[np.uint8] | Tensor) -> Score:
    """Scores one image (as for `judge`) against a scene, a requirement, a prompt or its text.

    Of a scene every attribute is wanted; of a text those it names.
    """
    return score_batch([wanted], image[None])[0]


def score_batch(wanted: Sequence[Wanted], images: NDArray[np.uint8] | Tensor) -> list[Score]:
    """Scores images (as for `judge_batch`), each against its own requirement."""
    found = judge_batch(images)
    return [check(as_requirement(one), seen) for one, seen in zip(wanted, found, strict=True)]


def as_requirement(wanted: Wanted) -> Requirement:
    """The requirement behind a scene, a text, or anything with an attribute `requirement`."""
    if isinstance(wanted, Requirement):
        return wanted
    if isinstance(wanted, Scene):
        return requirement_of(wanted, EVERYTHING)
    if isinstance(wanted, str):
        requirement = parse(wanted)
        if requirement is None:
            raise ValueError(f"the prompt is not of the grammar of scenes and cannot be scored: {wanted!r}")
        return requirement
    return wanted.requirement


def check(requirement: Requirement, judgement: Judgement) -> Score:
    """Compares a requirement with what was seen, under the assignment of objects that agrees most."""
    wants = requirement.wants
    largest = sorted(judgement.objects, key=lambda item: -item.radius)[:MOST]
    seen: list[Seen | None] = [*largest, *[None] * (len(wants) - len(largest))]
    common = {"count": len(judgement.objects) == len(wants)}
    if requirement.background:
        common["background"] = judgement.background == requirement.background
    if requirement.style:
        common["style"] = judgement.style == requirement.style
    best: dict[str, bool] = {}
    for assigned in permutations(seen, len(wants)):
        flags = _compare(requirement, assigned)
        if not best or sum(flags.values()) > sum(best.values()):
            best = flags
        if all(best.values()):
            break
    flags = {**common, **best}
    return Score(all(flags.values()), sum(flags.values()) / len(flags), flags, quality(judgement))


FAILURES = {  # attribute that is wrong -> what it is called, the first that applies
    "shape": "wrong shape",
    "color": "wrong colour",
    "belly": "wrong colour",
    "mark": "not the subject",
    "relation": "wrong place",
    "size": "wrong size",
    "background": "wrong background",
    "style": "wrong style",
}


def failure(wanted: Wanted, judgement: Judgement) -> str:
    """In what way an image fails, in words; empty if it does not. The number of objects comes before their looks."""
    requirement = as_requirement(wanted)
    number, asked = len(judgement.objects), len(requirement.wants)
    if number < asked:
        return "an object is missing" if number else "nothing recognisable"
    if number > asked:
        return "too many objects"
    wrong = {
        name.partition("/")[0]
        for name, right in check(requirement, judgement).attributes.items()
        if not right
    }
    return next((words for name, words in FAILURES.items() if name in wrong), "")


def quality(judgement: Judgement) -> float:
    """Quality of an image's style in [0, 1]: 0 grainy, 0.5 flat, 1 fully lit, between by the lighting."""
    if judgement.style == "grainy" or not np.isfinite(judgement.gloss):
        return 0.0
    return 0.5 + 0.5 * float(np.clip(judgement.gloss, 0, 1))


def _compare(requirement: Requirement, assigned: Sequence[Seen | None]) -> dict[str, bool]:
    flags = {}
    for k, (want, item) in enumerate(zip(requirement.wants, assigned, strict=True)):
        for name in _named(want):
            flags[f"{name}/{k}"] = item is not None and getattr(item, name) == getattr(want, name)
    if requirement.relation:
        flags["relation"] = _related(requirement.relation, assigned[0], assigned[1])
    return flags


def _named(want: Want) -> list[str]:
    return [name for name in ("shape", "color", "size", "belly", "mark") if getattr(want, name) is not None]


def _related(relation: str, first: Seen | None, second: Seen | None) -> bool:
    """Whether `first` clearly lies so: further along the axis than across it, and by at least CLEAR."""
    if first is None or second is None:
        return False
    right, down = first.x - second.x, first.y - second.y
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[relation]
    across = abs(down) if relation in ("left of", "right of") else abs(right)
    return along >= CLEAR and along > across


def truth(scene: Scene) -> Judgement:
    """What a faultless judge sees in the image of a scene."""
    match, slip, purity = 1.0, 0.0, 1.0
    objects = tuple(
        Seen(o.shape, o.color, o.size, o.x, o.y, o.radius, match, slip, purity, belly=o.belly, mark=o.mark)
        for o in scene.objects
    )
    return Judgement(objects, scene.background, scene.style, float(scene.style == "shaded"))
