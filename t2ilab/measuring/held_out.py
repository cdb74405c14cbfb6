"""What measures a model that learns from a reward: that reward itself, and others that it has not met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from t2ilab.build import build, locate, targets
from t2ilab.data.comparisons import ScenesPreferences
from t2ilab.data.sets import DataSet
from t2ilab.pairs import DrawnPairs
from t2ilab.rewards.base import NoReward, Reward
from t2ilab.rewards.combined import Combined
from t2ilab.rewards.judge import Judge

OWN = "t2ilab.rewards"
UTILITY = {"passed": 2.0, "share": 2.0, "quality": 2.0}  # behind the preferences of the synthetic data set


def rewards_for(pairs: DataSet, measured: DataSet) -> dict[str, Reward]:
    """The rewards that an evaluation asks, by name.

    `trained` chose the pairs; `utility`, on the synthetic data set, is what its preferences follow. The parts of a
    combined reward are `trained_<name>` each: their sum, standardised within a prompt, has mean 0 for any images.

    Args:
        pairs: what is learned from.
        measured: whose prompts are drawn.
    """
    found: dict[str, Reward] = {}
    if isinstance(pairs, DrawnPairs) and (made := reward_of(pairs)) is not None:
        parts = cast(Mapping[str, Reward], made.rewards) if isinstance(made, Combined) else {}
        found = {f"trained_{name}": part for name, part in parts.items()} or {"trained": made}
    elif isinstance(pairs, ScenesPreferences) and measured.world is not None:
        return {"trained": Judge(**UTILITY)}
    if measured.world is None:
        return {name: one for name, one in found.items() if not isinstance(one, Judge)}
    return found | {"utility": Judge(**UTILITY)}


def reward_of(pairs: DrawnPairs) -> Reward | None:
    """The reward that chose among drawn images; None, with a note, where it is not on this machine any more."""
    node = pairs.pairs.manifest.get("reward")
    if not node:
        return None
    foreign = [name for name in targets([node]) if not is_own(name)]
    if foreign:
        raise ValueError(
            f"data.path={pairs.pairs.folder} was chosen by {', '.join(foreign)}, which is no reward of t2ilab"
        )
    try:
        made: Reward = build(node)
    except (ValueError, OSError) as error:
        print(f"note: the reward behind the pairs is not measured: {error}", flush=True)
        return None
    return None if isinstance(made, NoReward) else made


def is_own(target: str) -> bool:
    """Whether a name is of something that this package's rewards define themselves."""
    return target.startswith(f"{OWN}.") and locate(target).__module__.startswith(f"{OWN}.")
