"""The prompts of evaluation: the six tasks of GenEval in the words of the synthetic data set.

Each prompt carries its machine-checkable requirement. Source: Ghosh et al. 2023, arXiv 2310.11513; there a
detector looks for the named things and ignores others, here whatever is not asked for fails too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from t2ilab.data.scenes.draws import Draws
from t2ilab.data.scenes.grammar import SUBJECT_LOOK, Requirement, Want, Wording, tell
from t2ilab.data.scenes.judge import Judgement
from t2ilab.data.scenes.score import check
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, HELD_OUT, RELATIONS, SHAPES, SIZES, SPLITS, TEDDY

TASKS = ("single_object", "two_objects", "counting", "colors", "position", "color_attribution")
PROMPT_SPLITS = (*SPLITS, "compose", "teddy", "subject", "described")
SUBJECT_TASKS = ("single_object", "two_objects", "position", "color_attribution")  # it is one, of one colour
TRIES = 300  # draws for a text that is new before one is repeated


@dataclass(frozen=True)
class Prompt:
    """A text and what an image must show to pass."""

    text: str
    task: str
    requirement: Requirement

    def passed(self, judgement: Judgement) -> bool:
        """Whether a judged image shows exactly this."""
        return check(self.requirement, judgement).passed


def prompts(split: str = "test", per_task: int = 50, seed: int = 0) -> list[Prompt]:
    """`per_task` prompts of every task, task by task; a text repeats only when a task has no more.

    Splits: train, val and test are different draws from the combinations of training; in `compose` every
    prompt names a held-out pair of colour and shape; in `teddy` the first thing is a teddy bear, in `subject`
    the particular one under its rare word (tasks that make no sense for it are absent), in `described` a bear as
    close to it as words come, in the same contexts.
    """
    if split not in PROMPT_SPLITS:
        raise ValueError(f"the split of prompts must be one of {PROMPT_SPLITS}, got {split!r}")
    if per_task < 1:
        raise ValueError(f"per_task must be positive, got {per_task}")
    found = []
    about = "subject" if split == "described" else split  # what else is asked for is the same
    for task in SUBJECT_TASKS if about == "subject" else TASKS:
        draws, texts = Draws(f"prompts/{about}/{task}", seed, 0), set()
        for _ in range(per_task):
            for _ in range(TRIES):
                requirement = _DRAW[task](draws, split)
                text = tell(requirement, Wording(subject=split == "subject"))
                if text not in texts:
                    break
            texts.add(text)
            found.append(Prompt(text, task, requirement))
    return found


def _first(draws: Draws, split: str, colored: bool) -> Want:
    """The leading thing of a prompt. Held-out pairs always show their colour."""
    if split == "compose":
        color, shape = draws.choice(sorted(HELD_OUT))
        return Want(shape, color)
    if split == "subject":
        return Want(TEDDY, SUBJECT_LOOK[0], mark=SUBJECT_LOOK[1])
    if split == "described":
        return Want(TEDDY, SUBJECT_LOOK[0])
    if split == "teddy":
        return Want(TEDDY, draws.choice(tuple(COLORS)) if colored else None)
    return _seen_in_training(draws, colored)


def _seen_in_training(draws: Draws, colored: bool) -> Want:
    while True:
        shape, color = draws.choice(SHAPES), draws.choice(tuple(COLORS))
        if (color, shape) not in HELD_OUT:
            return Want(shape, color if colored else None)


def _second(draws: Draws, first: Want, colored: bool) -> Want:
    """A thing of another shape and, if colours are named, of another colour."""
    while True:
        want = _seen_in_training(draws, colored)
        if want.shape != first.shape and (want.color is None or want.color != first.color):
            return want


def _single_object(draws: Draws, split: str) -> Requirement:
    """A thing alone, sometimes of a stated size or on a stated background."""
    want, extra = _first(draws, split, False), draws.choice(("", *SIZES, *BACKGROUNDS))
    if extra in SIZES and split not in ("subject", "described"):
        want = replace(want, size=extra)
    return Requirement((want,), background=extra if extra in BACKGROUNDS else None)


def _two_objects(draws: Draws, split: str) -> Requirement:
    first = _first(draws, split, False)
    return Requirement((first, _second(draws, first, False)))


def _counting(draws: Draws, split: str) -> Requirement:
    want = _first(draws, split, draws.chance(0.5))
    if split == "compose" and draws.chance(0.5):
        want = replace(want, size=draws.choice(tuple(SIZES)))
    number = 2 if split == "teddy" else draws.choice((2, 3, 4))  # bears come in ones and twos
    return Requirement((want,) * number)


def _colors(draws: Draws, split: str) -> Requirement:
    want = _first(draws, split, True)
    background = (
        draws.choice(tuple(BACKGROUNDS)) if split in ("compose", "teddy") and draws.chance(0.5) else None
    )
    return Requirement((want,), background=background)


def _position(draws: Draws, split: str) -> Requirement:
    """Half the prompts name shapes only, as in GenEval, half bind colours too."""
    colored = draws.chance(0.5)
    first = _first(draws, split, colored)
    return Requirement((first, _second(draws, first, colored)), relation=draws.choice(RELATIONS))


def _color_attribution(draws: Draws, split: str) -> Requirement:
    first = _first(draws, split, True)
    return Requirement((first, _second(draws, first, True)))


_DRAW: dict[str, Callable[[Draws, str], Requirement]] = {
    "single_object": _single_object,
    "two_objects": _two_objects,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attribution": _color_attribution,
}
