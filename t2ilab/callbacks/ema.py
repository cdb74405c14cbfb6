"""Exponential moving averages of the network that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn


class EMA(Callback):
    """theta_ema <- beta theta_ema + (1 - beta) theta after every optimizer step, in fp32.

    beta_n = min(decay, (1 + n) / (warmup + n)) for the n-th update, so that the random start is forgotten soon.
    Parameters are averaged, buffers are copied. The shadow is swapped in by `applied` and never while a
    checkpoint is written.

    Args:
        decay: beta for large n.
        warmup: how slowly beta rises; 10 is the usual choice.
    """

    def __init__(self, *, decay: float, warmup: float = 10.0) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        if warmup < 1.0:
            raise ValueError(f"ema.warmup must be at least 1, got {warmup}")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self.shadow: dict[str, Tensor] = {}
        self._swapped = False

    def beta(self, update: int) -> float:
        """The factor of the n-th update, n from 0."""
        return min(self.decay, (1 + update) / (self.warmup + update))

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """One update from the present weights of `network`."""
        parameters, buffers = _state(network)
        if not self.shadow:
            self.shadow = {name: value.detach().float().clone() for name, value in parameters.items()}
            self.shadow |= {name: value.detach().clone() for name, value in buffers.items()}
        shadow = [self.shadow[name] for name in parameters]
        torch._foreach_lerp_(
            shadow, [p.detach().float() for p in parameters.values()], 1 - self.beta(self.updates)
        )
        for name, value in buffers.items():
            self.shadow[name].copy_(value)
        self.updates += 1

    @contextlib.contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` carries the averaged weights; afterwards its own, bit for bit."""
        if not self.shadow:
            yield
            return
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self._swapped = True
        try:
            network.load_state_dict({name: self.shadow[name].to(value.dtype) for name, value in own.items()})
            yield
        finally:
            network.load_state_dict(own)
            self._swapped = False

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.shadow = {name: value.to(module.device) for name, value in self.shadow.items()}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if module.step_finished:
            self.follow(module.student)

    def state_dict(self) -> dict[str, Any]:
        assert not self._swapped, "a checkpoint must not be written while the averaged weights are swapped in"
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.shadow = state["updates"], state["shadow"]


def _state(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters (a shared one under each of its names) and the buffers that are saved."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    buffers = {name: value for name, value in network.state_dict().items() if name not in parameters}
    return parameters, buffers
