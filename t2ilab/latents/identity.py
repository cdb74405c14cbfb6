"""No autoencoder: the images are the latents."""

from __future__ import annotations

from torch import Tensor

from t2ilab.latents.base import Autoencoder


class Identity(Autoencoder):
    """Pixels in [-1, 1] times `scale`, the reciprocal of their std over the data set.

    Args:
        channels, factor: 3 and 1, no other values; they stand in the config for other parts to read.
        scale: 2 is usual for photographs, whose pixels spread by about 0.5.
    """

    def __init__(self, *, channels: int = 3, factor: int = 1, scale: float = 2.0) -> None:
        super().__init__()
        if channels != 3 or factor != 1:
            raise ValueError(f"autoencoder=identity has 3 channels and factor 1, got {channels} and {factor}")
        if scale <= 0:
            raise ValueError(f"autoencoder.scale must be positive, got {scale}")
        self.channels, self.factor, self.scale = channels, factor, scale

    def fitting(self, latents: Tensor) -> str:
        return f"autoencoder.scale={self.scale / float(latents.std()):.3g}"

    def encode(self, images: Tensor) -> Tensor:
        self.check_images(images)
        return images * self.scale

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        images = latents / self.scale
        return images.clamp(-1, 1) if clamp else images
