"""Several rewards as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from t2ilab.rewards.base import Reward


class Combined(Reward):
    """sum_k w_k r_k, or with `standardised` sum_k w_k (r_k - mean) / (std + 1e-4) over the images of one prompt.

    A raw sum is ruled by the reward of the largest variance. Standardised, each counts as its weight says; the images
    of a prompt must then be scored together, and one that is alone, or like all others, gets 0.

    Args:
        rewards: by name.
        weights: by the same names.
        standardised: whether each is standardised within the images of a prompt first.
    Source: MixGRPO, arXiv 2507.21802 (advantages are added, not rewards).
    """

    def __init__(
        self, *, rewards: Mapping[str, Reward], weights: Mapping[str, float], standardised: bool
    ) -> None:
        super().__init__()
        if not rewards or set(rewards) != set(weights):
            raise ValueError(
                f"reward.weights needs one weight for each of {', '.join(rewards) or 'no rewards'}, got "
                f"{', '.join(weights) or 'nothing'}"
            )
        self.rewards = nn.ModuleDict(rewards)
        self.weights, self.standardised = dict(weights), standardised
        self.differentiable = all(one.differentiable for one in rewards.values())  # type: ignore[misc]
        if not standardised:
            ends = [sorted(weights[name] * end for end in one.range) for name, one in rewards.items()]
            self.range = (sum(low for low, _ in ends), sum(high for _, high in ends))

    def check(self, prompts: Sequence[str]) -> None:
        for one in self.rewards.values():
            cast(Reward, one).check(prompts)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        first, *others = (self.weights[name] * value for name, value in self.each(images, prompts).items())
        return sum(others, first)

    def each(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What is added, by name, before the weights, (B,) each."""
        raw = {name: one(images, prompts) for name, one in self.rewards.items()}
        if not self.standardised:
            return raw
        groups = group_numbers(prompts).to(images.device)
        return {name: standardised(value, groups) for name, value in raw.items()}


def group_numbers(keys: Sequence[str]) -> Tensor:
    """For each key the number of its group of equal keys, (B,)."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.int64)


def standardised(values: Tensor, groups: Tensor, least: float = 1e-4) -> Tensor:
    """(r - mean) / (std + least) within each group, (B,); 0 in a group of equal values.

    Args:
        values: (B,).  groups: number of the group of each, (B,).  least: added to the std.
    """
    count = torch.zeros(int(groups.max()) + 1, dtype=values.dtype, device=values.device)
    ones = torch.ones_like(values)
    size = count.index_add(0, groups, ones)
    centred = values - (count.index_add(0, groups, values) / size)[groups]
    variance = count.index_add(0, groups, centred.square()) / size
    return centred / (variance.clamp(min=1e-30).sqrt()[groups] + least)
