"""A text encoder with words of one's own, whose vectors are learned: textual inversion.

    c(prompt) = encoder(prompt with zwx written as its tokens),   e(zwx__k) = row k of the word's own vectors

The encoder and its table stay as they are: only the rows of the word train. Source: Gal et al. 2022, arXiv
2208.01618, section 3.2; several vectors per word and their file as in diffusers' textual_inversion.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.build import Node
from t2ilab.core.folders import local_folder
from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, Null, check_prompts, check_sizes
from t2ilab.text.words import check_word, spelt, start_of, tokens_of

FILE = "learned_embeds.safetensors"  # as diffusers and other tools look for it


class LearnedWords(Conditioner):
    """The formula above.

    Attributes:
        tokens: of each word.
        rows: the vectors of all words, by encoder.

    Args:
        text_encoder: that reads the rest.
        words: number of vectors of each new word.
        starts: a known word or words for each new one: its vectors begin as those.
        learned: folder with the file of `save_words`, of words that have been learned, or several; None for none.
        dim, pooled_dim, length, null: what other parts of the config rely on; those of the text encoder.
    """

    def __init__(
        self,
        *,
        text_encoder: Conditioner,
        words: Mapping[str, int],
        starts: Mapping[str, str],
        learned: str | Sequence[str] | None,
        dim: int,
        pooled_dim: int | None,
        length: int,
        null: Null = "empty",
    ) -> None:
        super().__init__()
        self.text_encoder, self.null_text = text_encoder, text_encoder.null_text
        wanted: dict[str, int | None] = {"dim": dim, "pooled_dim": pooled_dim, "length": length}
        check_sizes("its text encoder", wanted, {name: getattr(text_encoder, name) for name in wanted})
        self.dim, self.pooled_dim, self.length = dim, pooled_dim, length
        known = words_in([learned] if isinstance(learned, str) else learned or [])
        self.starts = {word: start for word, start in starts.items() if word not in known}
        counts = {word: len(next(iter(rows.values()))) for word, rows in known.items()}
        self.tokens = tokens_of({**words, **counts})
        first = self._first(known)
        self.rows: dict[str, nn.Parameter] = {}  # a plain dict: they belong to the text encoder
        flat = [token for tokens in self.tokens.values() for token in tokens]
        for encoder, rows in text_encoder.add_words(flat).items():
            rows.data = torch.cat([first[word][encoder] for word in self.tokens]).to(rows)
            self.rows[encoder or "text"] = rows

    def _first(self, known: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """The vectors that each word begins with, by encoder."""
        found = {}
        for word, tokens in self.tokens.items():
            check_word(word)
            if not tokens:
                raise ValueError("loss.vectors must be at least 1, got 0")
            if word in known:
                found[word] = dict(known[word])
            elif not self.starts.get(word):
                raise ValueError(f"loss.init_word: say which known word the vectors of {word} begin as")
            else:
                pieces = self.text_encoder.vectors(self.starts[word])
                found[word] = {name: start_of(rows, len(tokens)) for name, rows in pieces.items()}
        return found

    def forward(self, prompts: Sequence[str]) -> Condition:
        found: Condition = self.text_encoder([spelt(text, self.tokens) for text in check_prompts(prompts)])
        return found

    def null(self, rows: int = 1) -> Condition:
        return self.text_encoder.null(rows)

    def pieces(self, word: str) -> list[str]:
        return self.tokens.get(word) or self.text_encoder.pieces(word)

    def cut(self, prompts: Sequence[str]) -> int:
        return self.text_encoder.cut([spelt(text, self.tokens) for text in prompts])

    def learned(self) -> dict[str, Tensor]:
        """The vectors of each word, (n, D) float32; of several encoders under `<encoder>.<word>`."""
        found: dict[str, Tensor] = {}
        for name, rows in self.rows.items():
            parts = rows.detach().float().cpu().split([len(tokens) for tokens in self.tokens.values()])
            prefix = "" if name == "text" else f"{name}."
            found |= {f"{prefix}{word}": part.clone() for word, part in zip(self.tokens, parts, strict=True)}
        return found

    def save_words(self, folder: Path) -> Path:
        """Writes the vectors as diffusers' `load_textual_inversion` reads them: by their word."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.learned(), folder / FILE, metadata={"format": "pt"})
        return folder / FILE


def words_in(folders: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """The words of several folders.

    Raises:
        ValueError: two hold the same word.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for folder in folders:
        words = read_words(local_folder(folder, "conditioner.learned"))
        if twice := sorted(found.keys() & words.keys()):
            raise ValueError(
                f"init_from: two of these models have learned the word {twice[0]}: give one of them"
            )
        found |= words
    return found


def without_words(node: Node) -> dict[str, Any]:
    """The config node of the text encoder alone."""
    return dict(node["text_encoder"] if is_learned(node) else node)


def with_words(node: Node, **options: Any) -> dict[str, Any]:
    """The node of a text encoder with words of its own; those that a node has already stay.

    Args:
        options: words, starts and learned, as in `LearnedWords`.
    """
    inner = without_words(node)
    sizes = {name: inner[name] for name in ("dim", "pooled_dim", "length")} | (
        {"null": inner["null"]} if "null" in inner else {}
    )
    own = dict(node) if is_learned(node) else {"words": {}, "starts": {}, "learned": None}
    target = f"{LearnedWords.__module__}.{LearnedWords.__name__}"
    return own | options | {"_target_": target, "text_encoder": inner} | sizes


def known_words(node: Node) -> list[str]:
    """The words that the files of a node hold."""
    learned = node["learned"] if is_learned(node) else None
    return list(words_in([learned] if isinstance(learned, str) else learned or []))


def is_learned(node: Node) -> bool:
    """Whether a node makes `LearnedWords`."""
    return "text_encoder" in node


def read_words(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Vectors (n, D) of words by encoder, "" for the only one.

    Raises:
        ValueError: there is no such file.
    """
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} holds no {FILE}")
    found: dict[str, dict[str, Tensor]] = {}
    for key, rows in load_file(folder / FILE).items():
        encoder, _, word = key.rpartition(".")
        found.setdefault(word, {})[encoder] = rows.reshape(-1, rows.shape[-1])
    return found
