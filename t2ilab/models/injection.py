"""Adapters inside networks, through peft: injection, loading, switching off, merging. Their kinds: `adapters.py`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.models.adapter_layers import matched, too_wide
from t2ilab.models.adapters import Adapter

NAME = "default"  # of the adapter inside peft
START = ("A0", "B0")  # the initial factors of a PiSSA adapter, which it keeps


@dataclass(frozen=True)
class Injected:
    """The adapter inside a network.

    Attributes:
        adapter: what it is.
        layers: names of the layers that have one.
        start: A0 and B0 of a PiSSA adapter, by `<layer>.A0` and `<layer>.B0`.
        notes: config node and base model, for the export.
        beside: names of weights that the base lacks and that are trained in full, such as inputs for numbers.
    """

    adapter: Adapter
    layers: tuple[str, ...]
    start: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


def inject(
    network: nn.Module, adapter: Adapter, notes: Mapping[str, Any] | None = None, beside: tuple[str, ...] = ()
) -> Injected:
    """Puts an adapter into a network and freezes all else of it.

    The output is what it was (to rounding, where the adapter begins inside the weights). What is random in it
    comes from torch's global generator.

    Args:
        notes: as in Injected.
        beside: how the names of weights begin that the base lacks: they learn in full.

    Raises:
        ValueError: no layer is matched, or there is an adapter already.
    """
    from peft import inject_adapter_in_model

    if injected(network) is not None:
        raise ValueError("the network has an adapter already: merge it first (stage.merge_adapter=true)")
    layers = matched(network, adapter)
    inside = layers if adapter.begins_inside else ()
    whole = {name: network.get_parameter(f"{name}.weight").detach().clone() for name in inside}
    inject_adapter_in_model(adapter.config(_exactly(layers)), network, adapter_name=NAME)
    start = {}
    for name in inside:
        layer: Any = network.get_submodule(name)
        for key, part in zip(START, (layer.lora_A, layer.lora_B), strict=True):
            start[f"{name}.{key}"] = part[NAME].weight.detach().clone()
        layer.get_base_layer().weight.data = _rest(whole[name], start, name, adapter.scale)
    more = {name: p for name, p in network.named_parameters() if beside and name.startswith(beside)}
    for p in more.values():
        p.requires_grad_(True)
    made = Injected(adapter, layers, start, dict(notes or {}), tuple(more))
    network.__dict__["adapter"] = made
    return made


def restore(
    network: nn.Module,
    adapter: Adapter,
    weights: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    beside: tuple[str, ...] = (),
) -> Injected:
    """Puts the adapter whose `adapter_state` was saved into its base network; arguments as of `inject`.

    Raises:
        ValueError: the weights are those of another network or adapter.
    """
    from peft import set_peft_model_state_dict

    ends = tuple(f".{key}" for key in START)
    start = {name: value for name, value in weights.items() if name.endswith(ends)}
    plain = replace(adapter, init="gaussian") if adapter.begins_inside else adapter  # type: ignore[call-arg]
    made = inject(network, plain, notes, beside)
    own, given = set(adapter_state(network)), set(weights) - set(start)
    if own != given:
        raise ValueError(
            "init_from: the weights of the adapter are those of another network: missing "
            f"{sorted(own - given)[:3]}, left over {sorted(given - own)[:3]}; give its run as it was exported"
        )
    for name in made.layers if start else ():
        layer: Any = network.get_submodule(name)
        base = layer.get_base_layer()
        base.weight.data = _rest(base.weight.detach(), start, name, adapter.scale)
    theirs = {n: v for n, v in weights.items() if n not in start and n not in made.beside}
    set_peft_model_state_dict(network, theirs, adapter_name=NAME)
    for name in made.beside:
        network.get_parameter(name).data.copy_(weights[name])
    made = Injected(adapter, made.layers, start, made.notes, made.beside)
    network.__dict__["adapter"] = made
    return made


@contextlib.contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """Inside, the network computes what it did before its adapter was put in, in evaluation mode.

    That is its start unless the adapter began inside the weights, or other weights learn beside it.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    training = network.training
    wanted = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    try:
        network.eval()
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for p, learns in wanted:
            p.requires_grad_(learns)
        network.train(training)


class WithoutAdapter:
    """A network with its adapter switched off while it is called: a reference that costs no memory.

    Args:
        network: the one that learns; adapted: the part of it that has the adapter.
    """

    def __init__(self, network: nn.Module, adapted: nn.Module) -> None:
        self.network, self.adapted = network, adapted

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with switched_off(self.adapted):
            return self.network(*args, **kwargs)


def injected(network: nn.Module) -> Injected | None:
    """The adapter of a network, if it has one."""
    found = getattr(network, "adapter", None)
    return found if isinstance(found, Injected) else None


def adapter_state(network: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of the adapter in peft's names, what learns beside it in ours, and where it began, if that is
    inside the weights.

    Args:
        state: state dict of the network to take them from; None: its present one.
    """
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(
        network,
        state_dict=None if state is None else dict(state),
        adapter_name=NAME,
        save_embedding_layers=False,
    )
    made = injected(network)
    if made is None:
        return dict(found)
    state = network.state_dict() if state is None else state
    return dict(found) | dict(made.start) | {name: state[name] for name in made.beside}


def frozen_names(network: nn.Module) -> set[str]:
    """Names of the weights that the base of an adapter gives back; none of a network without one.

    Weights that an adapter began inside of have changed with it: they are its own.
    """
    made = injected(network)
    if made is None:
        return set()
    own = {f"{name}.base_layer.weight" for name in made.layers} if made.adapter.begins_inside else set()
    return {name for name, p in network.named_parameters() if not p.requires_grad} - own


@torch.no_grad()
def merge(network: nn.Module) -> nn.Module:
    """The network with its adapter added to the weights, as a plain one; in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    made = injected(network)
    if made is None:
        return network
    for name in made.layers:
        layer = network.get_submodule(name)
        assert isinstance(layer, BaseTunerLayer)
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, layer.get_base_layer())
    for extra in ("adapter", "peft_config"):
        network.__dict__.pop(extra, None)
    return network.requires_grad_(True)


def line(network: nn.Module, count: Callable[[int], str]) -> str:
    """What the start of a run says of the adapter.

    Args:
        count: writes a number.
    """
    made = injected(network)
    assert made is not None
    trains = sum(p.numel() for p in network.parameters() if p.requires_grad)
    base = sum(p.numel() for p in network.parameters()) - trains
    kind = type(made.adapter).__name__
    wide = too_wide(network, made.layers, made.adapter)
    return (
        f"adapter: {kind} of rank {made.adapter.rank} at {len(made.layers)} layers, {count(trains)} weights train, "
        f"{trains / base:.2%} of the {count(base)} of the network"
    ) + (f"\nnote: {wide}, and more adds weights that can say nothing new" if wide else "")


def _rest(weight: Tensor, start: Mapping[str, Tensor], name: str, scale: float) -> Tensor:
    """W - s B0 A0, by one formula for a new adapter and for one that is read."""
    a, b = (start[f"{name}.{key}"].to(weight) for key in START)
    return weight - scale * (b @ a)


def _exactly(names: Sequence[str]) -> str:
    """A regular expression that matches these names alone: peft takes a list for endings."""
    return "(" + "|".join(map(re.escape, names)) + ")"
