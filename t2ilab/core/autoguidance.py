"""Autoguidance: away from the errors of a weaker model, with the same text on both sides.

    D = D_weak + w (D_good - D_weak)

The weaker model is smaller or less trained and makes the same errors, only larger; what it does not do is drop
the text, so unlike CFG the guidance does not trade variety for obedience.
Source: Karras et al. 2024, arXiv 2406.02507.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import GuidedDenoiser, IntervalCFG, NoGuidance
from t2ilab.core.prediction import Estimate, Prediction
from t2ilab.core.types import Condition


class Autoguidance(IntervalCFG):
    """Guidance by the model of another export, which reads the same latents, texts and path.

    Args:
        path: run or export folder of the weaker model.
        scale: w; 1 is the good model alone.
        low, high: ends of the interval of guided times.
        rescale: as in CFG, of the network output.

    Attributes:
        find: (the guided denoiser) -> the weaker one, or None while there is none and the good one samples
            alone. Whoever reads exports sets it; a rule of torch alone opens no files.
    """

    def __init__(
        self, path: str | None, scale: float = 2.0, low: float = 0.0, high: float = 1.0, rescale: float = 0.0
    ) -> None:
        super().__init__(scale, low, high, rescale)
        self.path = path
        self.find: Callable[[Denoiser], Denoiser | None] | None = None

    def bind(
        self, denoiser: Denoiser, cond: Condition | None, null: Condition | None = None
    ) -> GuidedDenoiser:
        if self.find is None:
            raise ValueError(
                "guidance: the weaker model was not loaded; use t2ilab.export.weak_model.provide"
            )
        weaker = None if self.scale == 1.0 else self.find(denoiser)
        if weaker is None:
            return NoGuidance().bind(denoiser, cond)
        return _TwoModels(self, denoiser, weaker, cond)


class EarlyGuidance(Autoguidance):
    """Guidance by an early snapshot of the model itself, which its run has kept (ema.snapshot_at).

    Until the snapshot is taken the model is its own early self, and samples alone.

    Args:
        scale, low, high, rescale: as in Autoguidance.
    """

    def __init__(self, scale: float = 2.0, low: float = 0.0, high: float = 1.0, rescale: float = 0.0) -> None:
        super().__init__(None, scale, low, high, rescale)


class _TwoModels(GuidedDenoiser):
    """The good and the weaker model one after the other; an evaluation of either counts as one."""

    nfe_per_call = 2

    def __init__(
        self, rule: Autoguidance, denoiser: Denoiser, weaker: Denoiser, cond: Condition | None
    ) -> None:
        super().__init__(denoiser, cond)
        self.rule, self.weaker = rule, weaker

    def _estimate(self, x: Tensor, times: Tensor, t: float | Tensor, taps: Sequence[str]) -> Estimate:
        scale = self.rule.scale_at(t)
        good = self._conditional(x, times, taps)
        if isinstance(scale, float) and scale == 1.0:
            return good
        self.nfe += 1
        weak = self.weaker(x, times, self.cond)
        out = weak.out if _alike(weak.prediction, good.prediction) else weak.read(good.prediction)
        return self.rule.guide(good, out, scale)


def _alike(one: Prediction, other: Prediction) -> bool:
    return type(one) is type(other) and vars(one) == vars(other)
