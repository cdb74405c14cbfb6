"""The text tower of a small CLIP of this project as the conditioner."""

from __future__ import annotations

from collections.abc import Sequence

from t2ilab.core.folders import local_folder
from t2ilab.core.types import Condition
from t2ilab.text.base import Conditioner, check_sizes
from t2ilab.text.towers import TwoTowers


class EmbeddedCLIP(Conditioner):
    """Text tokens of one layer of the text tower, and the text's vector in the common space as pooled.

    The image tower is at hand as `towers`.

    Args:
        path: folder that `TwoTowers.save` wrote; one that begins with "assets/" lies inside this package.
        dim, pooled_dim, length: what other parts of the config rely on; must be those of the folder.
        skip: how many of the last layers the tokens leave out, see `TwoTowers.encode_text`.
    """

    def __init__(
        self, *, path: str | None, dim: int, pooled_dim: int | None, length: int, skip: int = 1
    ) -> None:
        super().__init__()
        self.towers = TwoTowers.load(local_folder(path, "conditioner.path"))
        sizes = self.towers.sizes
        found = {
            "dim": sizes["text_width"],
            "pooled_dim": None if pooled_dim is None else sizes["embed_dim"],
            "length": self.towers.tokenizer.length,
        }
        check_sizes(str(path), {"dim": dim, "pooled_dim": pooled_dim, "length": length}, found)
        if not 0 <= skip < sizes["text_layers"]:
            raise ValueError(f"conditioner.skip must be from 0 to {sizes['text_layers'] - 1}, got {skip}")
        self.dim, self.pooled_dim, self.length, self.skip = dim, pooled_dim, length, skip
        self.eval()

    def forward(self, prompts: Sequence[str]) -> Condition:
        ids, mask = self.towers.tokenizer(prompts)
        device = self.towers.log_temperature.device
        ids, mask = ids.to(device), mask.to(device)
        features = self.towers.encode_text(ids, mask, skip=self.skip)
        return Condition(features.tokens, mask, None if self.pooled_dim is None else features.pooled)
