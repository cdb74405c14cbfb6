"""Random choices as a pure function of (purpose, seed, index): a counter-based stream per scene."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 64  # uniforms drawn at once


@lru_cache(maxsize=256)
def _key(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=16).digest(), "little")


class Draws:
    """The stream of one index: Philox-4x64 keyed by (purpose, seed), the index in the top counter word."""

    def __init__(self, purpose: str, seed: int, index: int) -> None:
        if index < 0:
            raise ValueError(f"the index of a scene must not be negative, got {index}")
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=_key(purpose, seed), counter=counter))
        self._block: list[float] = []

    def unit(self) -> float:
        """Uniform in [0, 1)."""
        if not self._block:
            self._block = self._generator.random(BLOCK).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high), on a lattice of 1/64 so that a scene is exact in its printed form."""
        return round((low + (high - low) * self.unit()) * 64) / 64

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: dict[T, float]) -> T:
        """A key with probability proportional to its weight."""
        mark = self.unit() * sum(weights.values())
        for item, weight in weights.items():
            mark -= weight
            if mark < 0:
                return item
        return next(reversed(weights))

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def sample(self, items: Sequence[T], number: int) -> list[T]:
        """`number` different items, in random order."""
        rest = list(items)
        return [rest.pop(int(self.unit() * len(rest))) for _ in range(number)]

    def word(self) -> int:
        """A 48-bit number, for instance the key of another stream."""
        return int(self.unit() * 2**48)
