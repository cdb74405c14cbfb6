"""What every conditioner promises."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from t2ilab.core.characters import printable, whole
from t2ilab.core.types import Condition

Padding = Literal["counts", "masked"]
Null = Literal["empty", "zeros", "learned"]


class Conditioner(nn.Module, ABC):
    """Prompts to the condition a denoiser reads.

    The null condition stands for "no text", in training and in guidance alike.

    Attributes:
        null_text: what the null condition is: `empty`, the encoding of the empty prompt; `zeros`, vectors of zeros
            with the mask of that; or `learned`, blank rows in whose place the network puts vectors of its own.
        dim: D, the width of the tokens.
        pooled_dim: P, the width of the pooled vector, or None if there is none.
        length: L, the number of tokens every condition is padded to.
        trained: whether its weights have been trained here, so that those of its files are others.
        base_notes: what an export says of the model that its words are an addition to; None for a whole one.
    """

    null_text: Null = "empty"
    trained: bool = False
    base_notes: Mapping[str, Any] | None = None
    dim: int
    pooled_dim: int | None
    length: int

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Condition:
        """Tokens (B, L, D), mask (B, L) and pooled (B, P) or None of B prompts."""

    def null(self, rows: int = 1) -> Condition:
        """The null condition, `rows` times."""
        empty = self([""])
        if self.null_text != "empty":
            pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
            learned = self.null_text == "learned"
            mask = torch.ones_like(empty.mask) if learned else empty.mask
            blank = torch.ones_like(mask[:, 0]) if learned else None
            empty = Condition(torch.zeros_like(empty.tokens), mask, pooled, blank)
        return empty.expand(rows)

    def pieces(self, word: str) -> list[str]:
        """The tokens of one word of a prompt, without marks; the word itself where words are the tokens."""
        return [word]

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than `length` and have lost their end."""
        return 0

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        """Reads each of these as one token from now on.

        Returns:
            their vectors, (len(tokens), D) of zeros, by the encoder's name; "" where there is one encoder.

        Raises:
            ValueError: it cannot learn words.
        """
        raise ValueError(f"{type(self).__name__} has no table of words to which new ones could be added")

    def vectors(self, word: str) -> dict[str, Tensor]:
        """The vectors of the pieces of a known word, (n, D) by the encoder's name, as in `add_words`."""
        raise ValueError(f"{type(self).__name__} has no table of words")

    def save(self, folder: Path) -> None:
        """Writes the folder that the option `path` names, with the weights as they are.

        Raises:
            ValueError: it has none.
        """
        raise ValueError(f"{type(self).__name__} has no weights to train or to save: set stage.text_lr=null")


def check_choice(option: str, value: Any, choices: Any) -> Any:
    """`value`; raises ValueError if it is none of the literals `choices` for `conditioner.<option>`."""
    if value not in get_args(choices):
        wanted = ", ".join(get_args(choices))
        raise ValueError(f"conditioner.{option} must be one of {wanted}, got {value!r}")
    return value


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """`prompts` as a list.

    Raises:
        ValueError: it is one string, holds something else than strings, or characters that no tokenizer can read.
    """
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts must be a list of strings, got {prompts!r}")
    for prompt in prompts:
        if whole(prompt) != prompt:
            raise ValueError(
                f"the prompt '{printable(prompt)}' holds a character that is not whole (half of a pair, NUL, "
                "or a byte that is not UTF-8): write it in UTF-8"
            )
    return list(prompts)


def check_sizes(name: str, wanted: dict[str, int | None], found: dict[str, int | None]) -> None:
    """Raises ValueError if the config's sizes are not those of the files: other parts rely on them."""
    wrong = {key: (value, found[key]) for key, value in wanted.items() if value != found[key]}
    if wrong:
        text = ", ".join(f"conditioner.{key}={value}, found {other}" for key, (value, other) in wrong.items())
        raise ValueError(f"the config does not fit {name}: {text}")


def copy_without_weights(source: Path, target: Path) -> None:
    """Everything of an encoder's folder but its weights: configs and tokenizer."""
    weights = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.index.json", "*.onnx")
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*weights))
