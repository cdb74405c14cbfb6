"""Several sources, or the rows made of them, counted one behind the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from t2ilab.data.cache import digest_of
from t2ilab.data.source import RowProvider, Source


class JoinedRows:
    """The rows of several providers; those of one batch may come from any of them if their shapes agree.

    Args:
        providers: one or more; the same one may come several times.
    """

    def __init__(self, providers: Sequence[RowProvider]) -> None:
        self.providers = list(providers)
        self.ends = list(accumulate(map(len, self.providers)))

    def __len__(self) -> int:
        return self.ends[-1]

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        """One fetch from each provider that is concerned, put together in the order asked for."""
        owners = np.searchsorted(self.ends, indices, side="right")
        parts, places = [], []
        for owner in np.unique(owners).tolist():
            provider, here = self.providers[owner], np.flatnonzero(owners == owner)
            first = self.ends[owner] - len(provider)
            parts.append(provider.fetch([indices[i] - first for i in here], [epochs[i] for i in here]))
            places.append(here)
        if len(parts) == 1:
            return parts[0]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


class Joined(Source):
    """The images of several sources of one resolution."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = list(sources)
        self.ends = list(accumulate(map(len, self.sources)))
        self.resolution = self.sources[0].resolution

    def __len__(self) -> int:
        return self.ends[-1]

    def images(self, indices: Sequence[int]) -> Tensor:
        found = [self._place(index) for index in indices]
        parts = {
            owner: iter(self.sources[owner].images([i for o, i in found if o == owner]))
            for owner in {owner for owner, _ in found}
        }
        return torch.stack([next(parts[owner]) for owner, _ in found])

    def captions(self, index: int) -> list[str]:
        owner, inner = self._place(index)
        return self.sources[owner].captions(inner)

    def weights(self, index: int) -> list[float] | None:
        owner, inner = self._place(index)
        return self.sources[owner].weights(inner)

    def digest(self) -> str:
        return digest_of({"joined": [source.digest() for source in self.sources]})

    def _place(self, index: int) -> tuple[int, int]:
        owner = bisect_right(self.ends, index)
        return owner, index - (self.ends[owner] - len(self.sources[owner]))
