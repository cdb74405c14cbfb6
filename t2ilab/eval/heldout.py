"""Loss on images that were not trained on, over a fixed grid of times and noise.

The training loss is too noisy to compare two runs: its times and noise change at every step. Here image i
meets the times t = low + (high - low) (s + u_is)/strata, s = 0 .. strata - 1, and a noise that is a function
of (seed, i, s) alone, so two models, or two moments of one model, answer exactly the same questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition

EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)

LossFn = Callable[[Tensor, Tensor, RowRng], Tensor]
"""(image numbers (n,), times (n,), row noise) -> losses (n,)"""


@dataclass(frozen=True)
class HeldOut:
    """A fixed grid of `size` images x `strata` times.

    Attributes:
        low, high: the range of times; all of them, whichever a run trains on, so that runs are comparable.
        seed: of the grid; independent of the run's seed, so that runs are comparable.
    """

    size: int
    strata: int = 8
    low: float = 0.0
    high: float = 1.0
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.size < 2 or self.strata < 1 or self.batch_size < 1:
            raise ValueError(
                "held-out loss needs at least 2 images, 1 stratum and a batch of 1, got "
                f"eval.heldout_images={self.size}, eval.heldout_strata={self.strata}, batch {self.batch_size}"
            )
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"held-out times need 0 <= low < high <= 1, got {self.low} and {self.high}")

    def times(self) -> Tensor:
        """(size, strata) float32: one time in each stratum."""
        jitter = self._rng(torch.arange(self.size * self.strata)).uniform("heldout/t")
        cells = torch.arange(self.strata).repeat(self.size) + jitter
        return (self.low + (self.high - self.low) * cells / self.strata).view(self.size, self.strata)

    @torch.no_grad()
    def __call__(self, loss_fn: LossFn) -> Tensor:
        """All losses, (size, strata) float64."""
        times = self.times().flatten()
        parts = []
        for rows in torch.arange(self.size * self.strata).split(self.batch_size):
            parts.append(loss_fn(rows // self.strata, times[rows], self._rng(rows)).double().cpu())
        losses = torch.cat(parts)
        if not losses.isfinite().all():
            raise ValueError(
                f"{int((~losses.isfinite()).sum())} of {len(losses)} held-out losses are not finite"
            )
        return losses.view(self.size, self.strata)

    def ranges(self) -> list[tuple[float, float]]:
        """Both ends of each stratum of times."""
        width = (self.high - self.low) / self.strata
        return [(self.low + s * width, self.low + (s + 1) * width) for s in range(self.strata)]

    def _rng(self, rows: Tensor) -> RowRng:
        return RowRng(self.seed, 0, rows, self.size * self.strata)


def loss_bins(losses: Tensor, times: Tensor) -> dict[str, np.ndarray]:
    """Per image the mean loss inside each bin of times: {"t0.00-0.25": (size,), ...}.

    A bin in which not every image has a time is left out: its images would not be comparable.
    """
    bins = {}
    for low, high in pairwise(EDGES):
        inside = (times >= low) & ((times < high) | (high == EDGES[-1]))
        count = inside.sum(1)
        if bool((count > 0).all()):
            bins[f"t{low:.2f}-{high:.2f}"] = ((losses * inside).sum(1) / count).numpy()
    return bins


def output_drift(
    denoiser: Denoiser, start: Denoiser, x0: Tensor, condition: Condition, first: Condition | None = None
) -> LossFn:
    """How far a network has moved from another: |out - out_start|^2 / |out_start|^2 of each noisy image.

    `out` is what both predict, the velocity by default. 0 for the same network, to the last bit.

    Args:
        x0, condition: as in `output_loss`.
        first: the texts as the other network was told of them, where the text encoder has been trained too.
    """
    told = condition if first is None else first

    def loss_fn(index: Tensor, t: Tensor, rng: RowRng) -> Tensor:
        index, t = index.to(x0.device), t.to(x0.device)
        clean, eps = _drawn(x0, index, rng)
        noisy = denoiser.path.mix(clean, eps, t)
        now = denoiser(noisy, t, condition[index]).out.float()
        then = start(noisy, t, told[index]).out.float()
        return (now - then).square().flatten(1).mean(1) / then.square().flatten(1).mean(1).clamp_min(1e-12)

    return loss_fn


def output_loss(denoiser: Denoiser, x0: Tensor, condition: Condition) -> LossFn:
    """The mean squared error of what the network predicts, however training weighs it.

    That is the velocity by default, eps or F for a network that predicts those, and sigma score for a score network:
    each of bounded scale at all times. Numbers of two models compare where path and prediction are the same.

    Args:
        x0: all held-out latents, (size, C, H, W).
        condition: their texts, `size` rows.
    """

    def loss_fn(index: Tensor, t: Tensor, rng: RowRng) -> Tensor:
        index, t = index.to(x0.device), t.to(x0.device)
        clean, eps = _drawn(x0, index, rng)
        estimate = denoiser(denoiser.path.mix(clean, eps, t), t, condition[index])
        return estimate.mean(estimate.output_error(clean, eps).float().square())

    return loss_fn


def _drawn(x0: Tensor, index: Tensor, rng: RowRng) -> tuple[Tensor, Tensor]:
    """Clean latents of these numbers, and their noise."""
    clean = x0[index]
    return clean, rng.to(x0.device).normal("heldout/eps", *clean.shape[1:], dtype=clean.dtype)
