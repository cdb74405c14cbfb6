"""What every conditioner promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import nn

from t2ilab.core.types import Condition


class Conditioner(nn.Module, ABC):
    """Prompts to the condition a denoiser reads.

    The null condition is that of the empty prompt, in training and in guidance alike.

    Attributes:
        dim: D, the width of the tokens.
        pooled_dim: P, the width of the pooled vector, or None if there is none.
        length: L, the number of tokens every condition is padded to.
        cuts: whether longer texts are cut there.
    """

    cuts: bool = False

    dim: int
    pooled_dim: int | None
    length: int

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Condition:
        """Tokens (B, L, D), mask (B, L) and pooled (B, P) or None of B prompts."""

    def null(self, rows: int = 1) -> Condition:
        """The encoding of the empty prompt, `rows` times."""
        return self([""]).expand(rows)


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """`prompts` as a list; raises ValueError if it is one string or holds something else than strings."""
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts must be a list of strings, got {prompts!r}")
    return list(prompts)


def check_sizes(name: str, wanted: dict[str, int | None], found: dict[str, int | None]) -> None:
    """Raises ValueError if the config's sizes are not those of the files: other parts rely on them."""
    wrong = {key: (value, found[key]) for key, value in wanted.items() if value != found[key]}
    if wrong:
        text = ", ".join(f"conditioner.{key}={value}, found {other}" for key, (value, other) in wrong.items())
        raise ValueError(f"the config does not fit {name}: {text}")
