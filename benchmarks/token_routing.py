"""What leaving tokens out saves in a training step, and what counting predicts: python benchmarks/token_routing.py

Forward and backward of a DiT of width 384 and depth 12 on 4 latents of 16 x 32 x 32, which are 256 tokens, with 16
text tokens in the sequence; float32, one thread, about two minutes. The rules take turns, so that other work on the
machine falls on all of them; a ratio is the median over the rounds of a step's time over that of the step without a
rule in the same round. The prediction is the ratio of multiply-accumulates. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from t2ilab.build import build
from t2ilab.config.composition import checked
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition
from t2ilab.models import count

RULES = ("none", "tread", "sprint", "masking")
ROWS, ROUNDS, TEXT = 4, 12, 96
MODEL = {
    "_target_": "t2ilab.models.dit.DiT",
    "in_channels": 16,
    "input_size": 32,
    "patch_size": 2,
    "width": 384,
    "depth": 12,
    "heads": 6,
    "text_dim": TEXT,
    "context": "joint",
}


def made(rule: str) -> Denoiser:
    """The denoiser with a rule as `routing@model.routing=<rule>` gives it."""
    routing: Any = checked(["model=dit_tiny", f"routing@model.routing={rule}"])["model"]["routing"]
    return Denoiser(build(MODEL | {"routing": routing}), Linear(), Velocity())


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    cond = Condition(torch.randn(rows, 16, TEXT), torch.ones(rows, 16, dtype=torch.bool))
    return torch.randn(rows, 16, 32, 32), torch.rand(rows), cond


def drawn(denoiser: Denoiser, x: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
    rows = torch.arange(len(x), device=x.device)
    return denoiser.routes(RowRng(0, step, rows, len(x)), x)


def seconds(denoiser: Denoiser, step: int) -> float:
    """Of one draw, forward and backward pass."""
    x, t, cond = inputs(ROWS)
    start = time.perf_counter()
    estimate = denoiser(x, t, cond, **drawn(denoiser, x, step))
    estimate.mean((estimate.out - x).square()).mean().backward()
    spent = time.perf_counter() - start
    denoiser.zero_grad(set_to_none=True)
    return spent


def work(denoiser: Denoiser) -> float:
    """10^9 multiply-accumulates of the forward pass of one image; the backward pass has twice as many."""
    with torch.device("meta"):
        x, t, cond = inputs(1)
        denoiser = denoiser.to("meta")
        return count.gmac(lambda: denoiser(x, t, cond, **drawn(denoiser, x, 0)))


def main() -> None:
    torch.set_num_threads(1)
    denoisers = {rule: made(rule) for rule in RULES}
    times: dict[str, list[float]] = {rule: [] for rule in RULES}
    for round_ in range(ROUNDS + 1):
        for rule, denoiser in denoisers.items():
            times[rule].append(seconds(denoiser, round_))
    print("| rule | share left out | of blocks | GMAC | ms | of `none` | predicted | difference |")
    print("|---|---|---|---|---|---|---|---|")
    whole = work(denoisers["none"])
    for rule, denoiser in denoisers.items():
        routing, own = denoiser.backbone.routing, times[rule][1:]  # the first round warms up
        ratio = statistics.median(a / b for a, b in zip(own, times["none"][1:], strict=True))
        place = "- | -" if rule == "none" else f"{routing.share:.2f} | {routing.first + 1} to {routing.last}"
        gmac = work(denoiser)
        predicted = gmac / whole
        print(
            f"| `{rule}` | {place} | {gmac:.2f} | {statistics.median(own) * 1e3:.0f} | {ratio:.2f} | "
            f"{predicted:.2f} | {100 * (ratio / predicted - 1):+.0f} % |"
        )


if __name__ == "__main__":
    main()
