"""Questions about a caption with one right answer each, for training a text encoder: what is asked for.

A caption names up to four different things (equal ones are one thing with a number). Every answer is a class
number; class 0 says that the caption leaves the matter open, or that there is no such thing.
"""

from __future__ import annotations

from functools import lru_cache

from t2ilab.data.scenes.grammar import INVERSE, Requirement, grouped, parse
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, RELATIONS, SHAPES, SIZES, STYLES, TEDDY

SLOTS = 4
THING: dict[str, tuple[str | int | None, ...]] = {
    "number": (None, 1, 2, 3, 4),
    "shape": (None, *SHAPES, TEDDY),
    "color": (None, *COLORS),
    "size": (None, *SIZES),
    "belly": (None, *COLORS),
    "place": (None, *RELATIONS),  # where it lies seen from the other thing
}
WHOLE: dict[str, tuple[str | int | None, ...]] = {
    "background": (None, *BACKGROUNDS),
    "style": (None, *STYLES),
    "number": (None, 1, 2, 3, 4),
}
THING_CHOICES = tuple(len(classes) for classes in THING.values())
WHOLE_CHOICES = tuple(len(classes) for classes in WHOLE.values())

Rows = tuple[tuple[int, ...], ...]


@lru_cache(maxsize=65536)
def answers(text: str) -> tuple[Rows, Rows, tuple[int, ...]]:
    """The answers about a caption: things in the text's order, things in canonical order, the whole.

    Raises:
        ValueError: the text is not of the grammar.
    """
    requirement = parse(text)
    if requirement is None:
        raise ValueError(f"no caption of the synthetic data set: {text!r}")
    found = {
        "background": requirement.background,
        "style": requirement.style,
        "number": len(requirement.wants),
    }
    whole = tuple(classes.index(found[name]) for name, classes in WHOLE.items())
    return _things(requirement), _things(requirement.canonical()), whole


def _things(requirement: Requirement) -> Rows:
    places = [requirement.relation, INVERSE.get(requirement.relation or "")]
    rows = []
    for (want, number), place in zip(grouped(requirement), [*places, None, None], strict=False):
        found = {"number": number, "place": place if requirement.relation else None}
        rows.append(
            tuple(
                classes.index(found.get(name, getattr(want, name, None))) for name, classes in THING.items()
            )
        )
    return (*rows, *[(0,) * len(THING)] * (SLOTS - len(rows)))
