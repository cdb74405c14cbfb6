"""Which prompts are worth a look: per task the one that went best and those that went worst."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from t2ilab.eval.alignment import Prompt, task_order
from t2ilab.eval.grid import to_arrays
from t2ilab.eval.result import Example
from t2ilab.eval.summary import Reading

if TYPE_CHECKING:
    from t2ilab.data.scenes.judge import Judgement, Seen


def describe(judgement: object) -> str:
    """What the judge saw: `a small red ring on navy`, `a red circle above a blue star on white`, `nothing`.

    Reads `objects` with `color` and `shape` (None where unclear), if there are few also `size`, `x` and `y`
    (down), and `background`; anything else is shown as it prints itself.
    """
    objects = getattr(judgement, "objects", None)
    if objects is None:
        return str(judgement)
    ground = getattr(judgement, "background", None)
    close = " (a close call)" if getattr(judgement, "close", False) else ""
    return _things(objects) + (f" on {ground}" if ground else "") + close


def _things(objects: Sequence[Seen]) -> str:
    names = [f"{item.color or 'mixed'} {item.shape or 'blob'}" for item in objects]
    if len(names) == 1 and hasattr(objects[0], "size"):
        return _a(f"{objects[0].size} {names[0]}")
    if len(names) == 2 and names[0] != names[1] and hasattr(objects[0], "x"):
        return f"{_a(names[0])} {_relation(*objects)} {_a(names[1])}"
    counts = Counter(names)
    return (
        ", ".join(_a(name) if n == 1 else f"{n} {_plural(name)}" for name, n in counts.items()) or "nothing"
    )


class Gallery:
    """Keeps a few examples per (suite, task) while the images stream by; the rest is forgotten.

    Ties between prompts of the same score go to the higher `tiebreak` for the best and the lower for the
    worst, then to the earlier prompt, so the choice does not depend on batches or on the order of calls.
    """

    def __init__(self, best: int = 1, worst: int = 2) -> None:
        if best < 0 or worst < 0:
            raise ValueError(f"numbers of examples must not be negative, got best={best}, worst={worst}")
        self.best, self.worst = best, worst
        self._kept: dict[tuple[str, str], list[tuple[float, float, int, Example]]] = {}

    def add(self, example: Example, tiebreak: float, number: int) -> None:
        """Offers one prompt; `number` is its place in the suite."""
        if self.best + self.worst == 0:
            return
        kept = self._kept.setdefault((example.suite, example.task), [])
        kept.append((example.score, tiebreak, -number, example))
        kept.sort(key=lambda entry: entry[:3], reverse=True)
        if len(kept) > self.best + self.worst:
            del kept[self.best : len(kept) - self.worst]

    def offer(
        self,
        suite: str,
        prompts: Sequence[Prompt],
        images: Tensor,
        judged: Sequence[Judgement],
        reading: Reading,
        *,
        copies: int,
    ) -> None:
        """Offers a batch of judged images, the `copies` of each prompt next to each other."""
        assert reading.passed is not None
        arrays = to_arrays(images)
        for start in range(0, len(prompts), copies):
            rows = slice(start, start + copies)
            example = Example(
                suite=suite,
                task=prompts[start].task,
                prompt=prompts[start].text,
                images=tuple(thumbnail(image).copy() for image in arrays[rows]),
                passed=tuple(bool(p) for p in reading.passed[rows]),
                seen=tuple(describe(j) for j in judged[rows]),
                score=float(reading.passed[rows].mean()),
            )
            tiebreak = 0.0 if reading.alignment is None else float(reading.alignment[rows].mean())
            self.add(example, tiebreak, int(reading.prompt[start]))

    def merge(self, other: Gallery) -> None:
        """Takes over what another process kept."""
        for entries in other._kept.values():
            for _, tiebreak, minus_number, example in entries:
                self.add(example, tiebreak, -minus_number)

    def examples(self) -> tuple[Example, ...]:
        """Suite by suite, task by task, best first."""
        found = []
        for suite in dict.fromkeys(suite for suite, _ in self._kept):
            for task in task_order([task for name, task in self._kept if name == suite]):
                found += [entry[3] for entry in self._kept[suite, task]]
        return tuple(found)


def best_and_worst(examples: Sequence[Example], suite: str) -> tuple[list[Example], list[Example]]:
    """Those that passed in at least half of their copies, and the others; one of each task comes first."""
    own = [example for example in examples if example.suite == suite]
    best = sorted((e for e in own if e.score >= 0.5), key=lambda e: -e.score)
    worst = sorted((e for e in own if e.score < 0.5), key=lambda e: e.score)
    return _spread(best), _spread(worst)


def _spread(examples: Sequence[Example]) -> list[Example]:
    """The first of every task, then the second of every task, and so on; otherwise in the given order."""
    seen: Counter[str] = Counter()
    ranks = []
    for example in examples:
        ranks.append(seen[example.task])
        seen[example.task] += 1
    return [examples[k] for k in sorted(range(len(examples)), key=lambda k: ranks[k])]


def thumbnail(image: np.ndarray, side: int = 192) -> np.ndarray:
    """A uint8 (h, w, 3) image whose longer side is at most `side`."""
    longest = max(image.shape[:2])
    if longest <= side:
        return image
    from PIL import Image

    height, width = (max(1, round(length * side / longest)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _relation(first: Seen, second: Seen) -> str:
    right, down = second.x - first.x, second.y - first.y
    if abs(right) >= abs(down):
        return "left of" if right > 0 else "right of"
    return "above" if down > 0 else "below"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")
