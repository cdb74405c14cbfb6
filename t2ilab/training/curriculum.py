"""`curriculum=`: a pre-training run in phases that differ in data, times, condition dropout or token routing.

A phase says which share of the steps it has and which options it changes: those of `data` and `timestep` by their
own names, merged into the nodes of the run, `condition_dropout`, and `routing_share`, the share of image tokens that
`model.routing` leaves out. This file reads and checks what the config says; `phases.py` makes a run of it.

With `timestep: {shift: follow}` a phase at a lower resolution shifts its times by

    a = a_run sqrt(m / n),   m the pixels of the phase, n those of the run,                             (1)

with which an image of m pixels is as hard to recognise at a given time as one of n pixels with a_run.
Source: Esser et al. 2024 (SD3), arXiv 2403.03206, section 5.3.2, eq. 23.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeGuard

from t2ilab.build import Config, build, is_node
from t2ilab.config.check import problems

GROUPS = ("data", "timestep")
OPTIONS = ("share", *GROUPS, "condition_dropout", "routing_share")
OF_THE_RUN = ("batch_size", "workers", "val_size", "val_share", "val")  # of data: one for all phases
FOLLOW = "follow"


@dataclass(frozen=True)
class Curriculum:
    """The phases of a run, as the config says them.

    Attributes:
        phases: in their order, by name; each has `share`, its part of the steps, and may have `data`, `timestep`,
            `condition_dropout` and `routing_share`, what it changes.
    """

    phases: Mapping[str, Mapping[str, Any]]


def first_steps(phases: Mapping[str, Any], steps: int) -> list[int]:
    """First step of each phase: the shares before it, in whole steps."""
    before = [0.0, *accumulate(phase["share"] for phase in phases.values())]
    return [round(share * steps) for share in before[:-1]]


def merged(config: Config, name: str, group: str) -> dict[str, Any]:
    """The node of a group as it is in one phase.

    Raises:
        ValueError: a shift that has nothing to follow.
    """
    own = config["curriculum"]["phases"][name].get(group, {})
    if group == "timestep" and own.get("shift") == FOLLOW:
        own = {**own, "shift": _following(config, name)}
    node: dict[str, Any] = _laid_upon(config[group], own)
    return node


def faults(config: Config, unsound: Collection[str]) -> list[str]:
    """What is wrong with the curriculum of a run, all at once, each with its dotted path.

    Args:
        config: groups by name, resolved.
        unsound: groups with a fault of their own, to which nothing can be added.
    """
    if not config.get("curriculum") or {"curriculum", *GROUPS, "loss", "trainer"} & set(unsound):
        return []
    phases = config["curriculum"]["phases"]
    found = list(wrong_options(phases, config["trainer"]["max_steps"]))
    found += [
        line for name, phase in phases.items() if _has_groups(phase) for line in _wrong_nodes(config, name)
    ]
    if found:
        return found
    last = list(phases)[-1]
    now, wanted = (node.get("resolution") for node in (merged(config, last, "data"), config["data"]))
    if now == wanted:
        return []
    return [
        f"curriculum.phases.{last}.data.resolution={now}, but the model is made for data.resolution={wanted}: the "
        "last phase has to train at it"
    ]


def wrong_options(phases: Mapping[str, Any], steps: int) -> Iterator[str]:
    """What is wrong with the phases of a run of so many steps, whatever their nodes hold."""
    if not phases:
        yield "curriculum.phases: it needs at least one phase"
    for name, phase in phases.items():
        yield from _wrong_phase(f"curriculum.phases.{name}", phase)
    shares = [phase.get("share") for phase in phases.values()]
    if not phases or not all(_is_number(share) and share > 0 for share in shares):
        return
    if abs(sum(shares) - 1) > 1e-6:
        yield f"curriculum.phases: the shares must add up to 1, got {' + '.join(map(str, shares))}"
        return
    ends = [*first_steps(phases, steps), steps]
    for name, share, first, end in zip(phases, shares, ends[:-1], ends[1:], strict=True):
        if end <= first:
            yield f"curriculum.phases.{name}.share={share} is no whole step of trainer.max_steps={steps}"


def _wrong_phase(path: str, phase: Mapping[str, Any]) -> Iterator[str]:
    for key in phase:
        if key not in OPTIONS:
            close = difflib.get_close_matches(key, OPTIONS, n=1)
            hint = f"did you mean {path}.{close[0]}?" if close else f"it takes: {', '.join(OPTIONS)}"
            yield f"{path}.{key}: unknown option; {hint}"
    share, dropout = phase.get("share"), phase.get("condition_dropout", 0)
    if not (_is_number(share) and share > 0):
        yield f"{path}.share must be a positive share of trainer.max_steps, got {share!r}"
    if not (_is_number(dropout) and 0 <= dropout <= 1):
        yield f"{path}.condition_dropout must be in [0, 1], got {dropout!r}"
    left_out = phase.get("routing_share", 0)
    if not (_is_number(left_out) and 0 <= left_out < 1):
        yield f"{path}.routing_share must be in [0, 1), got {left_out!r}"
    for group in GROUPS:
        if not isinstance(phase.get(group, {}), Mapping):
            yield f"{path}.{group}: wanted options of {group}, got {phase[group]!r}"
    for key in OF_THE_RUN:
        if isinstance(phase.get("data"), Mapping) and key in phase["data"]:
            yield f"{path}.data.{key}: the run has one for all phases, data.{key}"


def _wrong_nodes(config: Config, name: str) -> list[str]:
    """What is wrong with the options of one phase, held against what they are given to."""
    path = f"curriculum.phases.{name}"
    changed = [group for group in GROUPS if config["curriculum"]["phases"][name].get(group)]
    if "timestep" in changed and "timestep" not in config["loss"]:
        return [f"{path}.timestep: loss={config['loss']['_target_'].rpartition('.')[2]} draws no times"]
    try:
        nodes = {f"{path}.{group}": merged(config, name, group) for group in changed}
    except ValueError as error:
        return [str(error)]
    found = problems(nodes) or problems(nodes, trial=list(nodes))
    return [line if line.startswith(path) else f"{path}: {line}" for line in found]


def _has_groups(phase: Mapping[str, Any]) -> bool:
    return all(isinstance(phase.get(group, {}), Mapping) for group in GROUPS)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _laid_upon(base: object, own: object) -> Any:
    """`own` upon `base`: mappings are merged, whatever else is given replaces what was there."""
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return own
    return {**base, **{key: _laid_upon(base.get(key), value) for key, value in own.items()}}


def _following(config: Config, name: str) -> float:
    """The shift of eq. (1)."""
    sizes = [node.get("resolution") for node in (merged(config, name, "data"), config["data"])]
    shift = config["timestep"].get("shift")
    if None in (*sizes, shift):
        raise ValueError(
            f"curriculum.phases.{name}.timestep.shift={FOLLOW} follows data.resolution from timestep.shift, and "
            "one of them is not there"
        )
    return float((build(shift) if is_node(shift) else shift) * sizes[0] / sizes[1])
