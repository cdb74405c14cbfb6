"""What a personalisation is measured by on the synthetic data set: further verdicts, on the subject's mark.

personal/mark             share of images of the subject's prompts that show its mark           (subject fidelity)
personal/context          share of them that show the rest of the prompt, with any bear          (prompt fidelity)
personal/leak             share of images of other bears' prompts that show the mark                        (leak)
personal/leak_described   the same of a bear that is as close to the subject as words come, in its contexts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t2ilab.data.scenes.judge import Judgement


@dataclass(frozen=True)
class Verdict:
    """A further verdict on each image of a suite.

    Attributes:
        holds: (prompt, what the judge saw) -> whether it holds.
        better: whether more of it is.
    """

    holds: Callable[[Any, Any], bool]
    better: bool


def shows_mark(prompt: Any, judgement: Judgement) -> bool:
    """Whether anything in the image has the subject's mark."""
    from t2ilab.data.scenes.grammar import SUBJECT_LOOK

    return any(item.mark == SUBJECT_LOOK[1] for item in judgement.objects)


def shows_context(prompt: Any, judgement: Judgement) -> bool:
    """Whether the image shows what the prompt asks for, be the bear what it may."""
    from t2ilab.data.scenes.score import check

    wants = tuple(
        want if want.mark is None else replace(want, color=None, mark=None)
        for want in prompt.requirement.wants
    )
    return check(replace(prompt.requirement, wants=wants), judgement).passed


VERDICTS: Mapping[str, Mapping[str, Verdict]] = {
    "subject": {"personal/mark": Verdict(shows_mark, True), "personal/context": Verdict(shows_context, True)},
    "teddy": {"personal/leak": Verdict(shows_mark, False)},
    "described": {"personal/leak_described": Verdict(shows_mark, False)},
}
