"""Times drawn where the loss is large, with weights that leave the expected gradient unchanged."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from t2ilab.core.shift import shift_time
from t2ilab.core.timestep import TimestepSampler


class LossAware(TimestepSampler, nn.Module):
    """A piecewise constant density over K equal bins of [0, 1], proportional to the root of the mean squared loss.

    The bins divide a uniform level u, and t = shift_time(u, a): with a = 1 they are bins of t itself.

        p_k = (1 - s) r_k / sum r + s / K,    r_k = sqrt(m_k),    m_k <- decay m_k + (1 - decay) mean loss^2 in k,

    m_k being corrected for its start at zero; uniform until every bin has been met. The loss of a row counts
    1 / (K p_k) times its value (`importance`), so its expectation is that of even levels u and only the variance
    changes. Without the weights it is another objective, one that favours hard times.

    What was observed in a step, by all processes and in all micro-batches, is taken in at the beginning of the next
    one, so a step's times do not depend on how its batch was divided. Every process holds the same sums at any time:
    DistributedDataParallel copies buffers of the first one to the others, and a checkpoint holds those of the first.

    Args:
        bins: K.
        decay: of the running mean, per step.
        uniform_share: s, in (0, 1].
        shift: a, positive; more than 1 means more noise.
        importance: divide the loss by the density of u.
        stratified: as in TimestepSampler.
    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 18, with bins of continuous times instead of a history
    of ten losses per step.
    """

    learns = True
    moment: Tensor
    met: Tensor
    pending: Tensor
    at_step: Tensor

    def __init__(
        self,
        bins: int = 64,
        decay: float = 0.95,
        uniform_share: float = 0.1,
        shift: float = 1.0,
        *,
        importance: bool = True,
        stratified: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        TimestepSampler.__init__(self, stratified=stratified)
        if bins < 1:
            raise ValueError(f"timestep.bins must be at least 1, got {bins}")
        if not 0 <= decay < 1:
            raise ValueError(f"timestep.decay must lie in [0, 1), got {decay}")
        if not 0 < uniform_share <= 1:
            raise ValueError(f"timestep.uniform_share must lie in (0, 1], got {uniform_share}")
        if not shift > 0:
            raise ValueError(f"timestep.shift must be positive, got {shift}")
        self.shift = shift
        self.bins, self.decay, self.uniform_share = bins, decay, uniform_share
        self.importance = importance
        self.register_buffer("moment", torch.zeros(bins, dtype=torch.float64))
        self.register_buffer("met", torch.zeros(bins, dtype=torch.float64))  # 1 - decay^n, corrects the start
        self.register_buffer("pending", torch.zeros(2, bins, dtype=torch.float64))  # sums and numbers of rows
        self.register_buffer("at_step", torch.zeros((), dtype=torch.int64))

    def shares(self) -> Tensor:
        """p_k, (K,) float64, summing to 1."""
        even = torch.full_like(self.moment, 1.0 / self.bins)
        if not bool((self.met > 0).all()):
            return even
        root = (self.moment / self.met).sqrt()
        return (1 - self.uniform_share) * root / root.sum() + self.uniform_share * even

    def quantile(self, level: Tensor) -> Tensor:
        shares = self.shares().to(level.device)
        upper = shares.cumsum(0)
        k = torch.searchsorted(upper, level).clamp(max=self.bins - 1)
        inside = (level - (upper - shares)[k]) / shares[k]
        return shift_time(((k + inside) / self.bins).clamp(0.0, 1.0), self.shift)

    def log_density(self, t: Tensor) -> Tensor:
        inner = t.double()
        slope = -math.log(self.shift) - 2.0 * torch.log1p((1.0 / self.shift - 1.0) * inner)  # of u over t
        density = self._level_density(t).log() + slope
        return torch.where((t >= 0) & (t <= 1), density, -math.inf).to(t.dtype)

    def weigh(self, loss: Tensor, t: Tensor) -> Tensor:
        return loss / self._level_density(t).to(loss.dtype) if self.importance else loss

    @torch.no_grad()
    def observe(self, loss: Tensor, t: Tensor) -> None:
        where, found = self._bin(t), torch.zeros_like(self.pending)
        found[0].index_add_(0, where, loss.double().square())
        found[1].index_add_(0, where, torch.ones_like(loss, dtype=torch.float64))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        self.pending.add_(found)

    def begin(self, step: int) -> None:
        if step == int(self.at_step):
            return
        self.at_step.fill_(step)
        sums, count = self.pending
        seen = count > 0
        mean = torch.where(seen, sums / count.clamp(min=1), self.moment)
        self.moment.copy_(torch.where(seen, self.decay * self.moment + (1 - self.decay) * mean, self.moment))
        self.met.copy_(torch.where(seen, self.decay * self.met + (1 - self.decay), self.met))
        self.pending.zero_()

    def _level_density(self, t: Tensor) -> Tensor:
        """K p_k, the density of u, float64."""
        return self.shares().to(t.device)[self._bin(t)] * self.bins

    def _bin(self, t: Tensor) -> Tensor:
        return (shift_time(t.double(), 1.0 / self.shift) * self.bins).long().clamp(0, self.bins - 1)
