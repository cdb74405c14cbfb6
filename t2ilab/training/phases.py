"""What a curriculum makes of a run: its phases, and the data, times, condition dropout and routing of each.

Everything that depends on the phase is a pure function of the step, so a run may stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from t2ilab.build import Config, Node, build
from t2ilab.core.phased import phase_at
from t2ilab.data.phases import Phases
from t2ilab.data.sets import DataSet
from t2ilab.models.routing import NoRouting, Routing
from t2ilab.training.curriculum import GROUPS, first_steps, merged, wrong_options


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        name: of the phase.
        first: its first step.
        data, timestep: the nodes that hold in it.
        condition_dropout: share of rows trained with the empty text.
        routing_share: share of image tokens that the model's routing leaves out; None for its own.
        changes: what it changes, as `option=value`.
    """

    name: str
    first: int
    data: Mapping[str, Any]
    timestep: Mapping[str, Any]
    condition_dropout: float
    routing_share: float | None = None
    changes: tuple[str, ...] = ()


def phases_of(config: Config) -> list[Phase]:
    """The phases of a run; without a curriculum one phase with the run's own options.

    Raises:
        ValueError: the phases do not divide the run.
    """
    if not config.get("curriculum"):
        dropout = config["stage"]["condition_dropout"]
        return [Phase("the run", 0, config["data"], config["timestep"], dropout)]
    phases, steps = config["curriculum"]["phases"], config["trainer"]["max_steps"]
    wrong = list(wrong_options(phases, steps))
    if wrong:
        raise ValueError("; ".join(wrong))
    firsts = first_steps(phases, steps)
    return [_phase(name, first, config) for name, first in zip(phases, firsts, strict=True)]


def data_of(phases: Sequence[Phase], config: Config) -> DataSet:
    """The data set of a run, with that of each phase; equal nodes are built once."""
    main: DataSet = build(config["data"])
    if len(phases) == 1 and phases[0].data == config["data"]:
        return main
    built = [(config["data"], main)]
    for phase in phases:
        if all(node != phase.data for node, _ in built):
            built.append((phase.data, build(phase.data)))
    parts = [next(data for node, data in built if node == phase.data) for phase in phases]
    return Phases(main, parts, [phase.first for phase in phases])


def loss_of(phases: Sequence[Phase], config: Config) -> dict[str, Any]:
    """The node of the objective, with the times of every phase."""
    node = dict(config["loss"])
    samplers = [phase.timestep for phase in phases]
    if any(sampler != config["timestep"] for sampler in samplers):
        starts = [phase.first for phase in phases]
        node["timestep"] = {"_target_": "t2ilab.core.phased.Phased", "starts": starts, "samplers": samplers}
    return node


def dropout_of(phases: Sequence[Phase]) -> Callable[[int], float]:
    """Condition dropout by the step."""
    starts = [phase.first for phase in phases]
    return lambda step: phases[phase_at(starts, step)].condition_dropout


def route(backbone: nn.Module, phases: Sequence[Phase]) -> None:
    """Has the share of image tokens that a network leaves out in training follow the phases.

    Raises:
        ValueError: a phase changes it, and the network leaves no tokens out.
    """
    changing = [phase.name for phase in phases if phase.routing_share is not None]
    if not changing:
        return
    rule = getattr(backbone, "routing", None)
    if not isinstance(rule, Routing) or isinstance(rule, NoRouting):
        raise ValueError(
            f"curriculum.phases.{changing[0]}.routing_share: this model leaves no tokens out; choose a rule, "
            "routing@model.routing=masking, or omit it"
        )
    shares = [rule.share if phase.routing_share is None else phase.routing_share for phase in phases]
    rule.follow([phase.first for phase in phases], shares)


def lines_of(phases: Sequence[Phase]) -> dict[int, str]:
    """What to say when a phase begins, by its first step; nothing without a curriculum."""
    return {
        phase.first: f"phase {number} of {len(phases)}, {phase.name}, from step {phase.first}: "
        + (", ".join(phase.changes) or "the options of the run")
        for number, phase in enumerate(phases, 1)
        if len(phases) > 1 or phase.changes
    }


def _phase(name: str, first: int, config: Config) -> Phase:
    own = config["curriculum"]["phases"][name]
    nodes = {group: merged(config, name, group) for group in GROUPS}
    changes = [
        f"{group}.{key}={'null' if value is None else value}"
        for group, node in nodes.items()
        for key, value in _chosen(own.get(group, {}), node)
    ]
    dropout = own.get("condition_dropout", config["stage"]["condition_dropout"])
    numbers = [f"{key}={own[key]}" for key in ("condition_dropout", "routing_share") if key in own]
    return Phase(
        name,
        first,
        nodes["data"],
        nodes["timestep"],
        condition_dropout=dropout,
        routing_share=own.get("routing_share"),
        changes=(*changes, *numbers),
    )


def _chosen(own: Node, node: Node, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a node that a phase names, by dotted key."""
    for key, value in own.items():
        if isinstance(value, Mapping) and value:
            yield from _chosen(value, node[key], f"{path}{key}.")
        else:
            yield f"{path}{key}", node[key]
