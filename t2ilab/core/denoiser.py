"""A backbone whose output has a meaning: the only place where a network output is interpreted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from t2ilab.core.null_text import filled
from t2ilab.core.numbers import reads, with_numbers
from t2ilab.core.path import Path, at_least_float32, like_rows
from t2ilab.core.prediction import Estimate, Prediction
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition


class Denoiser(nn.Module):
    """Backbone, path and prediction: (x_t, t, condition) -> Estimate.

    Args:
        backbone: (x, time, condition, taps) -> (output like x, {tap: (B, N, width)}); one that leaves image tokens
            out in training has a `routing` and further keywords, see `routes`.
        path: the noise process.
        prediction: what the output means.
        time_scale: factor on the prediction's time input; 1000 as in SD3 and Flux, 1 for EDM backbones.
        time_offset: added to the scaled time; -1 for networks of a thousand discrete steps that are counted from 0
            (SD 1, SD 2, SDXL, DiT, PixArt), which at the time of step k are told k exactly; see `told_time`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        path: Path,
        prediction: Prediction,
        *,
        time_scale: float = 1000.0,
        time_offset: float = 0.0,
    ) -> None:
        super().__init__()
        if not time_scale > 0:
            raise ValueError(f"model.time_scale must be positive, got {time_scale}")
        self.backbone = backbone
        self.path = path
        self.prediction = prediction
        self.time_scale, self.time_offset = time_scale, time_offset

    def tap_width(self, tap: str) -> int:
        """Width of a hidden state that the backbone can hand out.

        Raises:
            ValueError: it has no tap of this name.
        """
        return int(cast(Any, self.backbone).tap_width(tap))

    @property
    def depths(self) -> tuple[str, str]:
        """Two taps of one resolution: an early one, at about a third of the depth, and a late one."""
        early, late = cast(Any, self.backbone).depths
        return early, late

    @property
    def carries(self) -> tuple[int, int]:
        """Numbers of a vector in the last channels of the latents, and how many channels; 0, 0 for none."""
        token = getattr(self.backbone, "class_token", None)
        return (0, 0) if token is None else (int(token.dim), int(token.channels))

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the numbers that the network is told beside time and text."""
        return reads(self.backbone)

    def routes(self, rng: RowRng, x: Tensor) -> dict[str, Tensor]:
        """Which image tokens of latents x (B, C, H, W) stay in all blocks, drawn for a step of training.

        Returns:
            keywords of the backbone: kept (B, K) while any are left out, and bypass (B,) from rules that know it;
            nothing in evaluation mode and for a backbone that has no rule.
        """
        backbone = cast(Any, self.backbone)
        if not self.training or getattr(backbone, "routing", None) is None:
            return {}
        drawn: dict[str, Tensor] = backbone.routing.draw(rng.to(x.device), self.grid(x))
        return drawn

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of the image tokens of latents x (B, C, H, W), of a backbone with a rule."""
        rows, columns = cast(Any, self.backbone).grid(x)
        return rows, columns

    def routed(self, tap: str) -> bool:
        """Whether a hidden state holds the kept tokens only, in training."""
        backbone = cast(Any, self.backbone)
        return getattr(backbone, "routing", None) is not None and bool(backbone.routed(tap))

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        cond: Condition | None,
        taps: Sequence[str] = (),
        *,
        rng: RowRng | None = None,
    ) -> Estimate:
        """Runs the backbone and says what its output means.

        The coefficients and everything derived from the output are float32 (float64 for float64 x_t), also
        under autocast.

        Args:
            x_t: noisy latents, (B, C, H, W).
            t: times, (B,) float32.
            cond: B texts, or None for a backbone without.
            taps: names of hidden states to hand out.
            rng: of a step of training, one row per sample: what a network draws for itself, see `routes`; None for
                nothing.
        """
        x_t = at_least_float32(x_t)
        scale = self.prediction.input_scale(self.path, t)
        x_in = x_t if scale is None else like_rows(scale, x_t) * x_t
        time = told_time(self.prediction.time_input(self.path, t), self.time_scale, self.time_offset)
        drawn = {} if rng is None else self.routes(rng, x_t)
        cond = with_numbers(self.backbone, filled(self.backbone, cond))
        out, states = self.backbone(x_in, time, cond, taps, **drawn)
        estimate = self.prediction.resolve(self.path, out, x_t, t, states)
        if "kept" in drawn:
            estimate.kept, estimate.grid = drawn["kept"], self.grid(x_t)
        estimate.visible = self._visible(x_t, estimate.kept)
        return estimate

    def _visible(self, x: Tensor, kept: Tensor | None) -> Tensor | None:
        """Where the output speaks of the image: not of tokens left out, nor in channels that carry a vector."""
        visible = None if kept is None else cast(Any, self.backbone).visible(x, kept)
        _, channels = self.carries
        if not channels:
            return visible
        image = torch.arange(x.shape[1], device=x.device) < x.shape[1] - channels
        return image[None, :, None, None] & (True if visible is None else visible)


def told_time(time: Tensor, scale: float, offset: float) -> Tensor:
    """What a network is told of the time: scale time + offset, and with an offset steps are whole numbers.

    float32 cannot hold (k + 1) / 1000, so scale time + offset misses k by up to 3e-5; what is within 1e-4 of a whole
    number is that number. Less than the first step, 0, is told as 0.
    """
    if not offset:
        return time * scale
    steps = (time.double() * scale + offset).clamp(min=0)
    whole = steps.round()
    return torch.where((steps - whole).abs() < 1e-4, whole, steps).to(time.dtype)
