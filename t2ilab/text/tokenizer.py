"""A byte-level byte-pair tokenizer, trained on captions and kept as one JSON file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from t2ilab.text.base import check_prompts

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

PAD, START, END = "<pad>", "<start>", "<end>"  # ids 0, 1, 2


class Tokenizer:
    """Text to ids: lower case, whole words where the vocabulary has them, else pieces down to single bytes.

    A text becomes <start> ... <end>, then padding. Any string can be encoded; too long ones are cut, with one
    warning.
    """

    def __init__(self, rust: RustTokenizer, *, length: int) -> None:
        if length < 3:
            raise ValueError(f"tokenizer length must be at least 3, got {length}")
        ids = [rust.token_to_id(token) for token in (PAD, START, END)]
        if ids != [0, 1, 2]:
            raise ValueError(
                f"not a tokenizer of this project: {PAD}, {START}, {END} have ids {ids}, not 0, 1, 2"
            )
        self.rust, self.length = rust, length
        rust.encode_special_tokens = True  # a prompt that holds "<pad>" is text like any other
        self.pad_id, self.start_id, self.end_id = 0, 1, 2
        self._warned = False

    @classmethod
    def train(cls, captions: Iterable[str], *, vocab_size: int, length: int) -> Tokenizer:
        """Learns `vocab_size` pieces (at least 259: three marks and 256 bytes) from captions."""
        if vocab_size < 259:
            raise ValueError(f"vocab_size must be at least 259 (3 marks and 256 bytes), got {vocab_size}")
        from tokenizers import Tokenizer as RustTokenizer
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

        rust = RustTokenizer(models.BPE())
        rust.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        rust.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, START, END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        rust.train_from_iterator(captions, trainer)
        return cls(rust, length=length)

    @classmethod
    def load(cls, file: str | Path, *, length: int) -> Tokenizer:
        """Reads what `save` wrote."""
        from tokenizers import Tokenizer as RustTokenizer

        if not Path(file).is_file():
            raise ValueError(f"there is no tokenizer file {file}")
        return cls(RustTokenizer.from_file(str(file)), length=length)

    def save(self, file: str | Path) -> None:
        self.rust.save(str(file))

    def __len__(self) -> int:
        """The size of the vocabulary."""
        return self.rust.get_vocab_size()

    def add(self, tokens: Sequence[str]) -> int:
        """Reads each of these, standing alone, as one token; returns the id of the first, the others follow."""
        from tokenizers import AddedToken

        first = len(self)
        self.rust.add_tokens(
            [AddedToken(token, lstrip=True, single_word=True, normalized=False) for token in tokens]
        )
        return first

    def count(self, prompts: Sequence[str]) -> list[int]:
        """The number of tokens of each prompt with <start> and <end>, before any cut."""
        encoded = self.rust.encode_batch(check_prompts(prompts), add_special_tokens=False)
        return [len(item.ids) + 2 for item in encoded]

    def __call__(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (n, L) int64 and mask (n, L) bool, true for the text with its marks."""
        encoded = self.rust.encode_batch(check_prompts(prompts), add_special_tokens=False)
        ids = torch.full((len(encoded), self.length), self.pad_id)
        for row, item in enumerate(encoded):
            room = self.length - 2
            self._warn(len(item.ids), room)
            text = [self.start_id, *item.ids[:room], self.end_id]
            ids[row, : len(text)] = torch.tensor(text)
        return ids, ids != self.pad_id

    def decode(self, ids: Tensor) -> str:
        """The text of one row of ids, without marks and padding."""
        return self.rust.decode(ids.tolist(), skip_special_tokens=True).strip()

    def _warn(self, tokens: int, room: int) -> None:
        if tokens > room and not self._warned:
            self._warned = True
            warnings.warn(
                f"a prompt has {tokens} tokens, the text encoder reads {room}: the rest is ignored "
                "(this warning is given once)",
                stacklevel=3,
            )
