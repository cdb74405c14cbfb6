"""Guidance rules: how conditional and unconditional estimates become the one that is sampled with.

The rules here act on the network output. For every linear prediction this is the same as acting on x0, eps,
velocity or score, because at equal x_t they differ by an affine map (except for the rescaling, see there).
Rules with a file of their own: CFG-Zero* (cfg_zero.py), and guidance by a weaker model (autoguidance.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import like_rows
from t2ilab.core.prediction import Estimate
from t2ilab.core.types import Condition


class GuidedDenoiser(ABC):
    """A denoiser with its texts and its guidance: (x, t) -> Estimate. Counts what it costs.

    Attributes:
        nfe_per_call: network evaluations per sample of one full call.
        nfe: evaluations per sample so far.
    """

    nfe_per_call = 1

    def __init__(self, denoiser: Denoiser, cond: Condition | None) -> None:
        self.denoiser = denoiser
        self.cond = cond
        self.nfe = 0

    def __call__(self, x: Tensor, t: float | Tensor, taps: Sequence[str] = ()) -> Estimate:
        """The guided estimate at x (B, C, H, W) for one time, a number, or one time per row, (B,)."""
        times = x.new_full((x.shape[0],), t) if isinstance(t, float | int) else t
        return self._estimate(x, times, t, taps)

    def told(self, **numbers: float) -> GuidedDenoiser:
        """Tells the network numbers beside its texts, from the next call on.

        Raises:
            ValueError: the network has no input for them.
        """
        if self.cond is None or not set(numbers) <= set(self.denoiser.reads):
            raise ValueError(
                f"this network has no input for {', '.join(numbers)}: choose another sampler.kind"
            )
        self.cond = self.cond.told(**numbers)
        return self

    @abstractmethod
    def _estimate(self, x: Tensor, times: Tensor, t: float | Tensor, taps: Sequence[str]) -> Estimate: ...

    def _conditional(self, x: Tensor, times: Tensor, taps: Sequence[str]) -> Estimate:
        self.nfe += 1
        return self.denoiser(x, times, self.cond, taps)


class _Plain(GuidedDenoiser):
    def _estimate(self, x: Tensor, times: Tensor, t: float | Tensor, taps: Sequence[str]) -> Estimate:
        return self._conditional(x, times, taps)


class _TwoBranches(GuidedDenoiser):
    """Both branches in one batch of twice the size, texts first and empty texts second."""

    nfe_per_call = 2

    def __init__(self, rule: CFG, denoiser: Denoiser, cond: Condition, null: Condition) -> None:
        super().__init__(denoiser, cond)
        self.rule = rule
        self.both = cond.cat(null.expand(len(cond)) if len(null) == 1 else null)

    def told(self, **numbers: float) -> GuidedDenoiser:
        self.both = self.both.told(**numbers)
        return super().told(**numbers)

    def _estimate(self, x: Tensor, times: Tensor, t: float | Tensor, taps: Sequence[str]) -> Estimate:
        scale = self.rule.scale_at(t)
        if isinstance(scale, float) and scale == 1.0:
            return self._conditional(x, times, taps)
        self.nfe += 2
        doubled = self.denoiser(torch.cat([x, x]), torch.cat([times, times]), self.both, taps)
        with_text, without = doubled.out.chunk(2)
        states = {tap: state[: len(x)] for tap, state in doubled.taps.items()}
        estimate = replace(doubled, out=with_text, x_t=doubled.x_t[: len(x)], t=times, taps=states)
        return self.rule.guide(estimate, without, scale)


class Guidance(ABC):
    """A guidance rule; `bind` gives it a denoiser and texts.

    Attributes:
        still_steps: how many of a sampler's first steps leave the state as it is, without an evaluation.
    """

    still_steps = 0

    @abstractmethod
    def bind(
        self, denoiser: Denoiser, cond: Condition | None, null: Condition | None = None
    ) -> GuidedDenoiser:
        """The denoiser that samples under this rule.

        Args:
            cond: B texts, or None for a denoiser without texts.
            null: the empty text, one row or B.
        """

    def check(self, reads: Collection[str]) -> None:  # noqa: B027 (most rules tell nothing)
        """Raises ValueError where the rule tells a network numbers that are not among those that it `reads`."""


class NoGuidance(Guidance):
    """The conditional estimate as it is."""

    def bind(
        self, denoiser: Denoiser, cond: Condition | None, null: Condition | None = None
    ) -> GuidedDenoiser:
        return _Plain(denoiser, cond)


class CFG(Guidance):
    """Classifier-free guidance: out = out_null + w (out_cond - out_null).

    Args:
        scale: w; 1 is the conditional model, 0 the unconditional one, larger values follow the text more.
        rescale: phi in [0, 1]; mixes in the guided output g with the std, per sample, of the
            conditional one: phi g std(out_cond) / std(g) + (1 - phi) g. Depends on the prediction.
    Source: Ho and Salimans 2022, arXiv 2207.12598; rescaling: Lin et al. 2023, arXiv 2305.08891, eq. 15-16.
    """

    def __init__(self, scale: float = 3.0, rescale: float = 0.0) -> None:
        if not scale >= 0:
            raise ValueError(f"guidance.scale must not be negative, got {scale}")
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale must lie in [0, 1], got {rescale}")
        self.scale, self.rescale = float(scale), float(rescale)

    def bind(
        self, denoiser: Denoiser, cond: Condition | None, null: Condition | None = None
    ) -> GuidedDenoiser:
        if cond is None or null is None:
            raise ValueError("guidance by two branches needs texts and the empty text: choose guidance=none")
        if self.scale == 1.0:
            return _Plain(denoiser, cond)
        return _TwoBranches(self, denoiser, cond, null)

    def scale_at(self, t: float | Tensor) -> float | Tensor:
        """w at one time, or for times (B,)."""
        return self.scale

    def guide(self, estimate: Estimate, without: Tensor, scale: float | Tensor) -> Estimate:
        """The guided estimate from that with text and the network's output without, at the same (x_t, t)."""
        return replace(estimate, out=self.combine(estimate.out, without, scale))

    def combine(self, with_text: Tensor, without: Tensor, scale: float | Tensor) -> Tensor:
        """The guided output from both branches, (B, ...)."""
        if isinstance(scale, Tensor):
            scale = like_rows(scale, with_text).to(with_text.dtype)
        guided = torch.lerp(without, with_text, scale)
        if self.rescale == 0:
            return guided
        dims = tuple(range(1, guided.ndim))
        ratio = with_text.std(dims, keepdim=True) / guided.std(dims, keepdim=True).clamp(min=1e-8)
        return guided * (self.rescale * ratio + (1.0 - self.rescale))


class IntervalCFG(CFG):
    """CFG for low <= t <= high in our time, the conditional model elsewhere, where it costs one evaluation.

    Args:
        scale, rescale: as in CFG.
        low, high: ends of the interval; REPA's best is [0, 0.7], no guidance at high noise.
    Source: Kynkaanniemi et al. 2024, arXiv 2404.07724.
    """

    def __init__(self, scale: float = 3.0, low: float = 0.0, high: float = 0.7, rescale: float = 0.0) -> None:
        super().__init__(scale, rescale)
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance needs 0 <= low < high <= 1, got low {low} and high {high}")
        self.low, self.high = low, high

    def scale_at(self, t: float | Tensor) -> float | Tensor:
        if isinstance(t, Tensor):
            return torch.where(self._inside(t), self.scale, 1.0).to(t.dtype)
        return self.scale if self._inside(t) else 1.0

    def _inside(self, t: float | Tensor) -> Any:
        """With room for the rounding of times that were meant to lie on an end."""
        return (t >= self.low - 1e-6) & (t <= self.high + 1e-6)


class Embedded(Guidance):
    """The guidance scale as an input of a distilled network: one evaluation per call.

    Args:
        scale: the standard scale w, 1 for no guidance; of those that the network was trained with.
    Source: Meng et al. 2023, arXiv 2210.03142; Luo et al. 2023 (LCM), arXiv 2310.04378, whose w is ours minus 1.
    """

    def __init__(self, scale: float) -> None:
        if not scale >= 0:
            raise ValueError(f"guidance.scale must not be negative, got {scale}")
        self.scale = float(scale)

    def check(self, reads: Collection[str]) -> None:
        if "guidance" not in reads:
            raise ValueError(
                "guidance=embedded: this network is not told the scale; choose guidance=none or guidance=cfg"
            )

    def bind(
        self, denoiser: Denoiser, cond: Condition | None, null: Condition | None = None
    ) -> GuidedDenoiser:
        self.check(denoiser.reads)
        return _Plain(denoiser, cond).told(guidance=self.scale)
