"""Shifts of the time axis, the same for the training times and for the grid of the sampler.

A shift a moves every time by

    t' = a t / (1 + (a - 1) t),   that is   logit(t') = logit(t) + ln(a),                                (1)

so that a > 1 means more noise. Images of more numbers that say the same things need more noise before they are
equally hard to recognise; the rules below say how much more, each with the size that its authors made it depend on.
A config chooses one of them once, `shift@timestep.shift=flux`, and the sampler's grid reads it from there.
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

_Time = TypeVar("_Time", float, Tensor)


def shift_time(t: _Time, a: float, power: float = 1.0) -> _Time:
    """t' = a / (a + (1 / t - 1)^power), eq. (1) for power 1; keeps 0 and 1; its inverse has 1 / a and 1 / power.

    In general logit(t') = power logit(t) + ln(a).
    Source: Esser et al. 2024 (SD3), arXiv 2403.03206, eq. 23; the power is in the code of Flux.
    """
    noise: _Time = a * t**power
    return noise / (noise + (1.0 - t) ** power)


def constant(value: float) -> float:
    """A number that was found by trial."""
    return _positive("value", value)


def resolution(size: int, reference: int) -> float:
    """a = sqrt(m / n) for images of m = size^2 pixels where n = reference^2 need no shift.

    Equal colours over m pixels are seen through noise sqrt(m) times as strong as over one.
    Source: Esser et al. 2024 (SD3), arXiv 2403.03206, section 5.3.2.
    """
    return math.sqrt(_positive("size", size) ** 2 / _positive("reference", reference) ** 2)


def flux(
    edge: int,
    patch: int,
    *,
    base_tokens: int = 256,
    base_mu: float = 0.5,
    max_tokens: int = 4096,
    max_mu: float = 1.15,
) -> float:
    """a = e^mu with mu linear in the number of tokens, (edge / patch)^2: base_mu and max_mu at the two given numbers.

    Args:
        edge: height and width of the latents.
        patch: height and width of a token, in latents.
    Source: Black Forest Labs 2024, the sampling code of Flux.1 [dev].
    """
    if not max_tokens > base_tokens:
        raise ValueError(
            f"timestep.shift.max_tokens must be larger than base_tokens, got {max_tokens} and {base_tokens}"
        )
    tokens = (_positive("edge", edge) / _positive("patch", patch)) ** 2
    return math.exp(base_mu + (max_mu - base_mu) * (tokens - base_tokens) / (max_tokens - base_tokens))


def dimension(channels: int, edge: int, reference: int = 4096) -> float:
    """a = sqrt(d / reference) for latents of d = channels edge^2 numbers, whatever the number of tokens.

    Source: Zheng et al. 2025 (RAE), arXiv 2510.11690, section 4.2.
    """
    numbers = _positive("channels", channels) * _positive("edge", edge) ** 2
    return math.sqrt(numbers / _positive("reference", reference))


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"timestep.shift.{name} must be positive, got {value}")
    return value
