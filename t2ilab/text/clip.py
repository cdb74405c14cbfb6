"""The text tower of a small CLIP of this project as the conditioner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, check_sizes, copy_without_weights
from t2ilab.text.towers import Features, TwoTowers
from t2ilab.text.words import Extended, without_rows


class EmbeddedCLIP(Conditioner):
    """Text tokens of one layer of the text tower, and the text's vector in the common space as pooled.

    Towers with a reader (text/reader.py) also say what the text asks for, unless `reads` is false. Then the tokens
    begin with one for the whole and one for each thing: its answers and a one-hot of its place in this list, padded
    with zeros to the tower's width, and the pooled vector is all answers side by side. The image tower is at hand as
    `towers`.

    Args:
        path: folder that `TwoTowers.save` wrote; one that begins with "assets/" lies inside this package.
        dim, pooled_dim, length: what other parts of the config rely on; must be those of the folder.
        skip: how many of the last layers the tokens of the words leave out, see `TwoTowers.encode_text`.
        words: whether the tokens of the words are handed out; false is for towers with a reader.
        reads: whether what a reader says of the text is handed out; without it the denoiser has words alone, as with
            any text encoder, also words that the reader has no class for.
    """

    def __init__(
        self,
        *,
        path: str | None,
        dim: int,
        pooled_dim: int | None,
        length: int,
        skip: int = 1,
        words: bool = True,
        reads: bool = True,
    ) -> None:
        super().__init__()
        self.folder = local_folder(path, "conditioner.path")
        self.towers = TwoTowers.load(self.folder)
        sizes = self.towers.sizes
        slots = sizes["slots"] if reads else 0
        answers, whole = sum(sizes["choices"]), sum(sizes["whole_choices"])
        if not words and not slots:
            why = f"the towers of {path} read no things from a text" if reads else "conditioner.reads=false"
            raise ValueError(f"conditioner.words=false, but {why}: nothing would be left of the text")
        if slots and 1 + slots + whole + answers > sizes["text_width"]:
            raise ValueError(
                f"{path}: what is read from a text does not fit into tokens of {sizes['text_width']}"
            )
        pooled = whole + slots * answers if slots else sizes["embed_dim"]
        found = {
            "dim": sizes["text_width"],
            "pooled_dim": None if pooled_dim is None else pooled,
            "length": (1 + slots if slots else 0) + (self.towers.tokenizer.length if words else 0),
        }
        check_sizes(str(path), {"dim": dim, "pooled_dim": pooled_dim, "length": length}, found)
        if not 0 <= skip < sizes["text_layers"]:
            raise ValueError(f"conditioner.skip must be from 0 to {sizes['text_layers'] - 1}, got {skip}")
        self.dim, self.pooled_dim, self.length = dim, pooled_dim, length
        self.skip, self.words, self.reads = skip, words, bool(slots)
        self.eval()

    def forward(self, prompts: Sequence[str]) -> Condition:
        ids, mask = self.towers.tokenizer(prompts)
        device = self.towers.log_temperature.device
        ids, mask = ids.to(device), mask.to(device)
        features = self.towers.encode_text(ids, mask, skip=self.skip)
        tokens, pooled = features.tokens, features.pooled
        if self.reads:
            told, there, pooled = self._told(features, mask)
            tokens = torch.cat([told, tokens], 1) if self.words else told
            mask = torch.cat([there, mask], 1) if self.words else there
        return Condition(tokens, mask, None if self.pooled_dim is None else pooled)

    def pieces(self, word: str) -> list[str]:
        encoded = self.towers.tokenizer.rust.encode(word, add_special_tokens=False)
        return list(encoded.tokens)

    def add_words(self, tokens: Sequence[str]) -> dict[str, nn.Parameter]:
        first = self.towers.tokenizer.add(tokens)
        table = Extended(self.towers.clip.token_embedding, first, len(tokens))
        self.towers.clip.token_embedding = table
        return {"": table.rows}

    def vectors(self, word: str) -> dict[str, Tensor]:
        ids = self.towers.tokenizer.rust.encode(word, add_special_tokens=False).ids
        return {"": self.towers.clip.token_embedding.weight.detach()[ids]}

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        copy_without_weights(self.folder, folder)
        weights = without_rows(self.towers.state_dict())
        save_file(
            {n: v.detach().float().cpu().contiguous() for n, v in weights.items()},
            folder / "model.safetensors",
        )

    def _told(self, features: Features, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens and mask of the whole and the things, and the pooled vector of all.

        A text without words asks for nothing: the reader was never asked about it.
        """
        assert self.towers.reader is not None and features.told is not None
        told, there = self.towers.reader.probabilities(features.told)
        said = (mask.sum(1) > 2)[:, None]  # more than <start> and <end>
        there = there & said
        things, whole = told.things * there[..., None], told.whole * said
        present = torch.cat([torch.ones_like(said), there], 1)
        listed = torch.eye(present.shape[1], device=mask.device).expand(len(mask), -1, -1)
        answers = torch.cat(
            [F.pad(whole[:, None], (0, things.shape[-1])), F.pad(things, (whole.shape[-1], 0))], 1
        )
        tokens = torch.cat([listed, answers], 2) * present[..., None]
        tokens = F.pad(tokens, (0, self.dim - tokens.shape[-1]))
        return tokens, present, torch.cat([whole, things.flatten(1)], 1)
