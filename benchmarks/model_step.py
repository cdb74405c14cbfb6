"""What a training step of the small models costs on one thread: python benchmarks/model_step.py [PRESET ...]

Forward and backward of 64 latents of 5 x 8 x 8 with 5 text tokens of 96 and a pooled vector of 179, float32; the
presets take turns, so that other work on the machine falls on all of them. Prints a table.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from torch import nn

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.core.types import Condition
from t2ilab.models import count

PRESETS = ("unet_tiny", "dit_tiny", "mmdit_tiny", "pixart_tiny", "single_tiny")
ROWS, ROUNDS = 64, 15


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    mask = torch.ones(rows, 5, dtype=torch.bool)
    cond = Condition(torch.randn(rows, 5, 96), mask, torch.randn(rows, 179))
    return torch.randn(rows, 5, 8, 8), torch.rand(rows) * 1000, cond


def seconds(network: nn.Module) -> float:
    """Of one forward and backward pass."""
    x, t, cond = inputs(ROWS)
    start = time.perf_counter()
    (network(x, t, cond)[0] - x).square().mean().backward()
    return time.perf_counter() - start


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    networks = {name: build(composition.checked([f"model={name}"])["model"]) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            times[name].append(seconds(network))
    print(f"{'preset':14s} {'parameters':>10s} {'MMAC':>6s} {'best ms':>8s} {'median ms':>9s}")
    for name, network in networks.items():
        parts = [part.to("meta") if isinstance(part, torch.Tensor) else part for part in inputs(1)[:2]]
        meta, cond = network.to("meta"), inputs(1)[2].to("meta")
        cost = count.gmac(lambda meta=meta, parts=parts, cond=cond: meta(*parts, cond)) * 1e3
        best, median = min(times[name]) * 1e3, statistics.median(times[name]) * 1e3
        print(f"{name:14s} {count.parameters(network):10,d} {cost:6.0f} {best:8.0f} {median:9.0f}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PRESETS))
