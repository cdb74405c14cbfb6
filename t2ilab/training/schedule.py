"""Learning-rate schedules: (step, total steps) -> factor on the peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over `warmup` steps, then 1."""

    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"schedule.warmup must not be negative, got {self.warmup}")

    def __call__(self, step: int, total: int) -> float:
        return min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True)
class WarmupStableDecay(Constant):
    """Warm-up, constant, then linear decay to `final` over the last share `decay` of all steps (WSD).

    Source: Hu et al. 2024, arXiv 2404.06395; Haegele et al. 2024, arXiv 2405.18392 (linear decay).
    """

    decay: float = 0.4
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.decay <= 1.0 or not 0.0 <= self.final <= 1.0:
            raise ValueError(
                f"schedule.decay and schedule.final must be in [0, 1], got {self.decay} and {self.final}"
            )

    def __call__(self, step: int, total: int) -> float:
        left = (total - step) / max(1.0, self.decay * total)
        return super().__call__(step, total) * (self.final + (1 - self.final) * min(1.0, max(0.0, left)))


@dataclass(frozen=True)
class Cosine(Constant):
    """Warm-up, then half a cosine from 1 to `final`. Source: Loshchilov & Hutter 2017, arXiv 1608.03983."""

    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.final <= 1.0:
            raise ValueError(f"schedule.final must be in [0, 1], got {self.final}")

    def __call__(self, step: int, total: int) -> float:
        share = min(1.0, max(0.0, (step - self.warmup) / max(1, total - self.warmup)))
        return super().__call__(step, total) * (
            self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share))
        )


@dataclass(frozen=True)
class InverseSqrt(Constant):
    """Warm-up times 1 / sqrt(max(step / reference, 1)): constant up to step `reference`, then falling for ever.

    It does not know how long the run will be, so a run may be trained on.
    Source: Karras et al. 2024 (EDM2), arXiv 2312.02696.
    """

    reference: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference < 1:
            raise ValueError(f"schedule.reference must be at least 1, got {self.reference}")

    def __call__(self, step: int, total: int) -> float:
        return super().__call__(step, total) / math.sqrt(max(step / self.reference, 1.0))
