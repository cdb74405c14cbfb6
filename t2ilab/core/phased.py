"""Training times whose distribution changes in the course of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor

from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler


def phase_at(starts: Sequence[int], step: int) -> int:
    """Which phase a step belongs to, where `starts` are the first steps of the phases, rising from 0."""
    return bisect_right(starts, step) - 1


class Phased(TimestepSampler):
    """One distribution after the other, by the step of the rng; no state, so a run may start at any step.

    As a single distribution (`quantile`, `log_density`) it is the one that the run ends with.

    Args:
        starts: first step of each phase, rising from 0.
        samplers: the distribution of each phase.
    """

    def __init__(self, starts: Sequence[int], samplers: Sequence[TimestepSampler]) -> None:
        super().__init__(stratified=samplers[-1].stratified)
        self.starts, self.samplers = list(starts), list(samplers)
        self.low = min(sampler.low for sampler in samplers)
        self.high = max(sampler.high for sampler in samplers)

    def __call__(self, rng: RowRng) -> Tensor:
        return self.samplers[phase_at(self.starts, rng.step)](rng)

    def quantile(self, level: Tensor) -> Tensor:
        return self.samplers[-1].quantile(level)

    def log_density(self, t: Tensor) -> Tensor:
        return self.samplers[-1].log_density(t)
