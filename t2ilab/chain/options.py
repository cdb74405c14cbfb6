"""The options of `stage=chain`: which runs, in which order, and what each starts from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2ilab.stages.options import StageOptions


@dataclass(frozen=True, kw_only=True)
class ChainOptions(StageOptions):
    """Of `stage=chain`.

    Attributes:
        steps: by name, in order: `overrides`, what the step's command line says, and `parents`, which option names
            the run folder of which earlier step.
        overrides: what the user has given beside the chain's own options; each goes to the steps that read it.
    """

    steps: Mapping[str, Mapping[str, Any]]
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError(
                "stage=chain has no steps; choose a recipe that lists some, such as recipe=lifecycle"
            )
        earlier: list[str] = []
        for name, step in self.steps.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"stage.steps.{name}: a step is named by small letters, digits and _")
            if not isinstance(step, Mapping) or not set(step) <= {"overrides", "parents"}:
                raise ValueError(f"stage.steps.{name} takes overrides and parents, got {step!r}")
            for option, parent in (step.get("parents") or {}).items():
                if parent not in earlier:
                    raise ValueError(
                        f"stage.steps.{name}.parents.{option}={parent}: must name an earlier step, "
                        f"{', '.join(earlier) or 'and this is the first'}"
                    )
            earlier.append(name)
