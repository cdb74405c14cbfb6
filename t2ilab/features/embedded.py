"""The image tower of a CLIP of this project as the encoder."""

from __future__ import annotations

from torch import Tensor

from t2ilab.core.folders import local_folder
from t2ilab.features.base import FeatureEncoder, check_dim, stretched


class EmbeddedCLIP(FeatureEncoder):
    """Patch vectors behind the last normalisation of the image tower; images are resized to its size.

    Args:
        path: folder that `TwoTowers.save` wrote; one that begins with "assets/" lies inside this package.
        dim: d.
    """

    def __init__(self, *, path: str | None, dim: int) -> None:
        super().__init__()
        from t2ilab.text.towers import TwoTowers

        self.towers = TwoTowers.load(local_folder(path, "<part>.encoder.path"))
        check_dim(self.towers.sizes["image_width"], dim, str(path))
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return self._tokens(images)[:, 1:]

    def summary(self, images: Tensor) -> Tensor:
        return self._tokens(images)[:, 0]

    def _tokens(self, images: Tensor) -> Tensor:
        """The class token and the patches, (B, 1 + n, d)."""
        return self.towers.image_tokens(stretched(images, self.towers.sizes["image_size"]))
