"""Averages whose horizon grows with the run, several at once, and snapshots of them for later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.averages.ema import EMA, averaged, weights_of
from t2ilab.averages.snapshots import write
from t2ilab.core.posthoc import factor, order_of

SNAPSHOTS = 16  # of a run, where their distance is not given


class PowerEMA(EMA):
    """theta_ema <- beta_n theta_ema + (1 - beta_n) theta with beta_n = (1 - 1 / n)^(g + 1), for each width.

    At every moment the average looks back over the same share of the run, so no horizon has to be chosen for
    its length. The widths are those of core/posthoc.py; the first one is drawn with, measured and exported. From
    the snapshots of two or more any other width can be had when the run is over (stage.weights=posthoc:0.07).
    The number of a batch and of an image are in proportion here, so n counts steps.

    Args:
        sigma_rel: stds of the profiles as shares of the run.
        every: optimizer steps between snapshots, None for a sixteenth of the run; one more is kept at the end.
        snapshot_at: as in EMA, of the first width.
    Source: Karras et al. 2024 (EDM2), arXiv 2312.02696.
    """

    def __init__(
        self, *, sigma_rel: Sequence[float], every: int | None, snapshot_at: float | None = None
    ) -> None:
        super().__init__(decay=0.0, snapshot_at=snapshot_at)  # beta is ours
        if every is not None and every < 1:
            raise ValueError(f"ema.every must be at least 1, got {every}")
        if not sigma_rel or len(set(sigma_rel)) < len(sigma_rel):
            raise ValueError(f"ema.sigma_rel must be one or more different widths, got {list(sigma_rel)}")
        try:
            self.orders = [order_of(width) for width in sigma_rel]
        except ValueError as error:
            raise ValueError(f"ema.sigma_rel: {error}") from error
        self.widths, self.every = list(sigma_rel), every
        self.others: list[dict[str, Tensor]] = [{} for _ in self.widths[1:]]

    def beta(self, update: int) -> float:
        """The factor of the first width at the n-th update, n from 0."""
        return factor(self.orders[0], update + 1)

    def follow(self, network: nn.Module, models: Mapping[int, Tensor] = MappingProxyType({})) -> None:
        """One update of every width from the present weights of `network`."""
        super().follow(network, models)
        weights = weights_of(network, models)
        betas = [factor(order, self.updates) for order in self.orders[1:]]
        self.others = [
            averaged(shadow, *weights, beta) for shadow, beta in zip(self.others, betas, strict=True)
        ]

    def keep(self, folder: Path, step: int, total: int) -> None:
        super().keep(folder, step, total)
        if step % (self.every or max(1, total // SNAPSHOTS)) == 0 or step == total:
            for width, shadow in zip(self.widths, [self.shadow, *self.others], strict=True):
                write(folder / f"step_{step:08d}_{width}.safetensors", shadow, step=step, sigma_rel=width)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.others = [{name: value.to(device) for name, value in shadow.items()} for shadow in self.others]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"others": self.others}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.others = state["others"]
