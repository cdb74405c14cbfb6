"""Training times whose distribution changes in the course of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import TimestepSampler


def phase_at(starts: Sequence[int], step: int) -> int:
    """Which phase a step belongs to, where `starts` are the first steps of the phases, rising from 0."""
    return bisect_right(starts, step) - 1


class Phased(TimestepSampler, nn.Module):
    """One distribution after the other, by the step; a run may start at any step.

    A distribution that learns does so in its own phase. As a single distribution (`quantile`, `log_density`) this is
    the one that the run ends with.

    Args:
        starts: first step of each phase, rising from 0.
        samplers: the distribution of each phase.
    """

    now: TimestepSampler

    def __init__(self, starts: Sequence[int], samplers: Sequence[TimestepSampler]) -> None:
        nn.Module.__init__(self)
        TimestepSampler.__init__(self, stratified=samplers[-1].stratified)
        self.starts, self.samplers = list(starts), list(samplers)
        self.learning = nn.ModuleList(sampler for sampler in samplers if isinstance(sampler, nn.Module))
        self.low = min(sampler.low for sampler in samplers)
        self.high = max(sampler.high for sampler in samplers)
        self.__dict__["now"] = samplers[0]  # not once more as a submodule

    def __call__(self, rng: RowRng) -> Tensor:
        return self._at(rng.step)(rng)

    def begin(self, step: int) -> None:
        self.__dict__["now"] = self._at(step)
        self.now.begin(step)

    def observe(self, loss: Tensor, t: Tensor) -> None:
        self.now.observe(loss, t)

    def weigh(self, loss: Tensor, t: Tensor) -> Tensor:
        return self.now.weigh(loss, t)

    def quantile(self, level: Tensor) -> Tensor:
        return self.samplers[-1].quantile(level)

    def log_density(self, t: Tensor) -> Tensor:
        return self.samplers[-1].log_density(t)

    def _at(self, step: int) -> TimestepSampler:
        return self.samplers[phase_at(self.starts, step)]
