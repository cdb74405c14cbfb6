"""What the networks are given: sizes, texts and taps, each checked with a sentence that names the option."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from t2ilab.core.types import Condition


def check_sizes(*, width: int, heads: int, input_size: int, patch_size: int, **others: int) -> None:
    """Refuses sizes below 1, a width that the heads do not divide, and latents that the patch does not divide."""
    sizes = {"width": width, "heads": heads, "input_size": input_size, "patch_size": patch_size, **others}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"model.{name} must be at least 1, got {value}")
    if width % heads:
        raise ValueError(f"model.width must be divisible by model.heads, got {width} and {heads}")
    if input_size % patch_size:
        raise ValueError(
            f"latents of {input_size}x{input_size} cannot be cut into patches of model.patch_size="
            f"{patch_size}: choose a divisor"
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuses a word that is none of the choices."""
    if value not in choices:
        raise ValueError(f"model.{name} must be one of {', '.join(choices)}, got {value!r}")


def text_tokens(cond: Condition | None, text_dim: int) -> Tensor:
    """The tokens of the condition, (B, L, text_dim).

    Raises:
        ValueError: there is no condition, or its tokens have another width.
    """
    tokens = needed(cond).tokens
    if tokens.shape[-1] != text_dim:
        raise ValueError(f"model.text_dim={text_dim}, but the tokens given are {tokens.shape[-1]} wide")
    return tokens


def pooled_text(cond: Condition | None, pooled_dim: int) -> Tensor:
    """The pooled vectors of the condition, (B, pooled_dim).

    Raises:
        ValueError: there is no condition, it has none, or they have another width.
    """
    pooled = needed(cond).pooled
    if pooled is None:
        raise ValueError(
            "the model reads a pooled text vector, but the condition has none: model.pooled_dim=null"
        )
    if pooled.shape[-1] != pooled_dim:
        raise ValueError(
            f"model.pooled_dim={pooled_dim}, but the pooled vectors given are {pooled.shape[-1]} wide"
        )
    return pooled


def needed(cond: Condition | None) -> Condition:
    """The condition, which must be there.

    Raises:
        ValueError: it is not.
    """
    if cond is None:
        raise ValueError("the model reads text, but no condition was given: pass the null condition instead")
    return cond


def tap_numbers(taps: Sequence[str], depth: int) -> dict[int, str]:
    """The taps "block1" .. "block<depth>" that were asked for, by number.

    Raises:
        ValueError: a name is none of these.
    """
    names = {f"block{number}": number for number in range(1, depth + 1)}
    unknown = [tap for tap in taps if tap not in names]
    if unknown:
        raise ValueError(f"unknown taps {unknown}: this model has block1 to block{depth}")
    return {names[tap]: tap for tap in taps}


class BlockTaps:
    """What a transformer says of its hidden states: block<n> for each block, all of one width.

    Attributes:
        depth, width: number of blocks, width of the image tokens.
    """

    depth: int
    width: int

    @property
    def depths(self) -> tuple[str, str]:
        """A block at a third and one at two thirds of the depth."""
        return f"block{max(1, self.depth // 3)}", f"block{max(1, 2 * self.depth // 3)}"

    def tap_width(self, tap: str) -> int:
        """The width of the tokens; refuses a name that is no tap."""
        tap_numbers([tap], self.depth)
        return self.width
