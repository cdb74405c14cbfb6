"""Exponential moving averages of the network that learns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.averages.snapshots import EARLY, write


class EMA:
    """theta_ema <- beta theta_ema + (1 - beta) theta after every optimizer step, in fp32.

    beta_n = min(decay, (1 + n) / (warmup + n)) for the n-th update, so that the random start is forgotten soon.
    Parameters that train are averaged, buffers are copied. The shadow is swapped in by `applied` and never while a
    checkpoint is written.

    Args:
        decay: beta for large n.
        warmup: how slowly beta rises; 10 is the usual choice.
        snapshot_at: share of all steps after which the average is kept once for good, as the weaker model of
            guidance=early; None to do without.
    """

    def __init__(self, *, decay: float, warmup: float = 10.0, snapshot_at: float | None = None) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema.decay must be in [0, 1), got {decay}")
        if warmup < 1.0:
            raise ValueError(f"ema.warmup must be at least 1, got {warmup}")
        if snapshot_at is not None and not 0.0 < snapshot_at < 1.0:
            raise ValueError(f"ema.snapshot_at must be in (0, 1) or null, got {snapshot_at}")
        self.decay, self.warmup, self.snapshot_at = decay, warmup, snapshot_at
        self.updates = 0
        self.shadow: dict[str, Tensor] = {}
        self._swapped = False

    def beta(self, update: int) -> float:
        """The factor of the n-th update, n from 0."""
        return min(self.decay, (1 + update) / (self.warmup + update))

    def start(self, network: nn.Module) -> None:
        """The average begins as the present weights of `network`: those of a finished model, no random ones."""
        self.shadow = averaged({}, *weights_of(network, {}), 0.0)

    def follow(self, network: nn.Module, models: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        """One update from the present weights of `network`.

        Args:
            models: for parameters by id, what to average in their place, where an optimizer keeps the model
                apart from the weights that it takes gradients at.
        """
        self.shadow = averaged(self.shadow, *weights_of(network, models), self.beta(self.updates))
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
            network.load_state_dict(
                {name: self.shadow.get(name, value).to(value.dtype) for name, value in own.items()}
            )
            yield
        finally:
            network.load_state_dict(own)
            self._swapped = False

    def to(self, device: torch.device) -> None:
        """Moves the average there."""
        self.shadow = {name: value.to(device) for name, value in self.shadow.items()}

    def keep(self, folder: Path, step: int, total: int) -> None:
        """Writes the snapshots that are due at this step of `total`."""
        if self.snapshot_at is None:
            return
        due, path = max(1, round(self.snapshot_at * total)), folder / EARLY
        if step == due or (step > due and not path.is_file()):  # a run may be shortened while it is stopped
            write(path, self.shadow, step=step)

    def early(self, folder: Path) -> Path | None:
        """The early snapshot of a finished run, or None if there shall be none.

        Raises:
            ValueError: it was deleted.
        """
        if self.snapshot_at is None:
            return None
        path = folder / EARLY
        if not path.is_file():
            raise ValueError(f"{path} of ema.snapshot_at={self.snapshot_at} is gone: train anew")
        return path

    def state_dict(self) -> dict[str, Any]:
        assert not self._swapped, "a checkpoint must not be written while the averaged weights are swapped in"
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates, self.shadow = state["updates"], state["shadow"]


def weights_of(
    network: nn.Module, models: Mapping[int, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters that train (a shared one under each of its names, see `EMA.follow`), and saved buffers."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    buffers = {name: value for name, value in network.state_dict().items() if name not in parameters}
    return {name: models.get(id(p), p) for name, p in parameters.items() if p.requires_grad}, buffers


@torch.no_grad()
def averaged(
    shadow: dict[str, Tensor], parameters: dict[str, Tensor], buffers: dict[str, Tensor], beta: float
) -> dict[str, Tensor]:
    """beta shadow + (1 - beta) parameters in fp32, in place if there is a shadow; buffers are copied."""
    if not shadow:
        shadow = {name: value.detach().float().clone() for name, value in parameters.items()}
        shadow |= {name: value.detach().clone() for name, value in buffers.items()}
    own = [shadow[name] for name in parameters]
    torch._foreach_lerp_(own, [p.detach().float() for p in parameters.values()], 1 - beta)
    for name, value in buffers.items():
        shadow[name].copy_(value)
    return shadow
