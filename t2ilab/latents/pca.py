"""A linear autoencoder: the principal components of small blocks of images, fitted in seconds on a run's own images.

An image is cut into blocks of f x f pixels, p in R^(3 f^2). With mean mu and covariance V diag(e) V^T of all blocks,
largest eigenvalues first, the latents are the first C coefficients, each with variance 1 by construction:

    z = diag(e)^(-1/2) V_C^T (p - mu),      p ~ mu + V_C diag(e)^(1/2) z

Among all linear maps with C numbers per block this one has the least squared error (Eckart and Young 1936), so it
works on images of any kind; a trained autoencoder keeps more with fewer numbers, of the images that it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.core.folders import local_folder
from t2ilab.latents.base import Autoencoder

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
# of rounding to 8 bits: a direction that varies less holds nothing of the images
LEAST_STD = 2 / 255 / 12**0.5


class PCA(Autoencoder):
    """Principal components of blocks of f x f pixels as latents of unit variance; see the module.

    Args:
        channels: C, from 1 to 3 f^2.
        factor: f.
        path: folder that `save` wrote; None for one that `fit` has to fit first.
    """

    mean: Tensor
    axes: Tensor
    std: Tensor

    def __init__(self, *, channels: int, factor: int, path: str | None = None) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"autoencoder.factor must be at least 1, got {factor}")
        size = 3 * factor**2
        if not 1 <= channels <= size:
            raise ValueError(
                f"autoencoder.channels must be from 1 to {size}, the numbers in a block of {factor} x {factor} "
                f"pixels (autoencoder.factor), got {channels}"
            )
        self.channels, self.factor = channels, factor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(channels, size))
        self.register_buffer("std", torch.ones(channels))
        self.unfitted = path is None
        if path is not None:
            self.load(local_folder(path, "autoencoder.path"))

    @torch.no_grad()
    def fit(self, images: Iterable[Tensor]) -> PCA:
        """Fits the components to batches of images (B, 3, h, w) in [-1, 1]; in double precision, on the CPU.

        The sign of an axis is that of its largest number, so equal images give equal axes.
        """
        size = len(self.mean)
        total, squares, count = torch.zeros(size).double(), torch.zeros(size, size).double(), 0
        for batch in images:
            self.check_images(batch)
            blocks = F.pixel_unshuffle(batch.cpu().double(), self.factor).movedim(1, -1).reshape(-1, size)
            total, squares, count = total + blocks.sum(0), squares + blocks.T @ blocks, count + len(blocks)
        mean = total / count
        variances, axes = torch.linalg.eigh(squares / count - mean.outer(mean))
        variances, axes = variances.flip(0)[: self.channels], axes.flip(1).T[: self.channels]
        signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.axes.copy_(axes * signs)
        self.std.copy_(variances.clamp(min=0).sqrt().clamp(min=LEAST_STD))
        self.unfitted = False
        return self

    def encode(self, images: Tensor) -> Tensor:
        self.check_images(images)
        with torch.autocast(images.device.type, enabled=False):
            blocks = F.pixel_unshuffle(images.float(), self.factor) - self.mean[:, None, None]
            return F.conv2d(blocks, (self.axes / self.std[:, None])[..., None, None])

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            blocks = F.conv2d(latents.float(), (self.axes.T * self.std)[..., None, None], self.mean)
        images = F.pixel_shuffle(blocks, self.factor)
        return images.clamp(-1, 1) if clamp else images

    def save(self, folder: str | Path, *, images: str) -> None:
        """Writes what `path` reads: the weights as safetensors, and `config.json` with the digest of the images."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        config = {"_class_name": "PCA", "channels": self.channels, "factor": self.factor, "images": images}
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote.

        Raises:
            ValueError: naming autoencoder.path: there are no weights of this size.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            self.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"autoencoder.path: {folder} holds no principal components of {self.channels} channels and factor "
                f"{self.factor} (autoencoder.channels, autoencoder.factor): {error}"
            ) from error
        self.unfitted = False


def fitted_on(folder: Path) -> str | None:
    """The digest of the images that the components in a folder were fitted on; None if there are none."""
    try:
        return str(json.loads((folder / CONFIG).read_text())["images"])
    except FileNotFoundError:
        return None
