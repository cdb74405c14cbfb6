"""What of a command line is the chain's own, and what goes to its steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from t2ilab.config.composition import composed
from t2ilab.config.groups import key_of
from t2ilab.config.overrides import quoted

STAGE = "chain"
PASSED = "stage.overrides"
OWN = ("recipe", "run_dir", "name", "chain", "stage", "hydra")  # whatever else is given goes to the steps


def is_chain(overrides: Sequence[str]) -> bool:
    """Whether recipe and stage of this command line make it a chain of runs.

    Raises:
        HydraException: there is no such recipe or stage.
    """
    choices = [
        _first_value(item) for item in overrides if key_of(item) in ("recipe", "stage", "hydra.searchpath")
    ]
    if not any(key_of(item) == "recipe" or item == f"stage={STAGE}" for item in choices):
        return False
    stage: Any = composed(choices).get("stage")
    return bool(stage) and stage.get("name") == STAGE


def sorted_out(overrides: Sequence[str]) -> list[str]:
    """The chain's own overrides, with those for its steps as the one value of `stage.overrides`.

    Raises:
        ValueError: an option that the chain sets itself.
    """
    own: list[str] = []
    passed: list[str] = []
    for item in overrides:
        key = key_of(item)
        if key == "init_from":
            raise ValueError(
                "init_from: a chain starts each step from the export before it; to start the first one from a "
                "model of yours give chain.<its name>=[init_from=DIR]"
            )
        if key == "stage" and not item.endswith(f"={STAGE}"):
            raise ValueError(f"{item}: this recipe is a chain of stages; omit the one or the other")
        if key == "prompts":  # of the steps' previews, and of the page that compares them
            own.append(item)
        is_own = key.split(".")[0].split("/")[0] in OWN and not _of_a_step(key)
        (own if is_own else passed).append(item)
    if any(key_of(item) == "debug" for item in passed) and not any(key_of(item) == "name" for item in own):
        own.append("name=debug")  # a try in a folder of its own
    return [*own, f"{PASSED}={quoted_list(passed)}"] if passed else own


def _first_value(item: str) -> str:
    """The choice of the first job where names are swept over, `recipe=ddpm,sit`; anything else as it is."""
    return item.partition(",")[0] if re.fullmatch(r"[\w/]+=\w+(,\w+)+", item) else item


def _of_a_step(key: str) -> bool:
    """`stage.replay` is an option of a step; `stage.steps` are the chain's."""
    return key.startswith("stage.") and key not in ("stage.steps", PASSED)


def quoted_list(items: Sequence[str]) -> str:
    """A list of texts in Hydra's grammar, whatever is in them; what they interpolate is left to who reads them."""
    return "[" + ",".join(quoted(item.replace("${", "\\${")) for item in items) + "]"
