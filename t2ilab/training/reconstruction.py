"""What a frozen autoencoder keeps of the images of a run: the best that a model of its latents can draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t2ilab.data.source import Source
from t2ilab.eval.gallery import thumbnail
from t2ilab.eval.grid import save_grid, to_arrays
from t2ilab.eval.intervals import bootstrap
from t2ilab.eval.result import Metric
from t2ilab.eval.summary import metric_of
from t2ilab.latents.base import Autoencoder, to_pixels
from t2ilab.training.latent_rows import images_at_once, module_device, to_signed

COUNT = 64  # images, evenly spaced over the training images
SHOWN = 8  # of them, in the strip
INHERITED = "It is that of init_from, which stays: start from a model that was trained on images like these"
CHOSEN = (
    "autoencoder=pca is fitted on your images and suits any; trained ones suit what they have seen: one of "
    "photographs (autoencoder=sd autoencoder.path=DIR) or your own (stage=autoencoder)"
)
GOOD = 30.0  # dB from which errors are hardly seen: images of one flat colour are not refused for less than perfect


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of uint8 images (n, 3, h, w), 10 log10(255^2 / mse), in dB; (n,)."""
    errors = (others.double() - images.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / errors.clamp(min=1e-3))


@dataclass(frozen=True)
class Reconstruction:
    """Images that went through an autoencoder.

    Attributes:
        psnr, mean_psnr: of each image, in dB: as it came back, and as its mean colour alone, (n,).
        images, rebuilt: some of them, uint8 (m, 3, h, w).
    """

    psnr: Tensor
    mean_psnr: Tensor
    images: Tensor
    rebuilt: Tensor

    def metric(self) -> Metric:
        """`reconstruction/psnr`: the mean over images, in dB, with a bootstrap interval."""
        note = (
            f"; training images through the autoencoder, their mean colour has {self.mean_psnr.mean():.1f} dB"
        )
        return metric_of(bootstrap(self.psnr.numpy(), what="images"), note, better=True, unit="dB")

    def text(self) -> str:
        """For the terminal."""
        return (
            f"the autoencoder keeps {self.psnr.mean():.1f} dB (PSNR) of {len(self.psnr)} training images, "
            f"their mean colour {self.mean_psnr.mean():.1f} dB"
        )

    def save(self, path: Path) -> Path:
        """Writes the strip as PNG: images above what comes back of them."""
        both = (map(thumbnail, to_arrays(part)) for part in (self.images, self.rebuilt))
        images = torch.stack([torch.from_numpy(one.copy()) for part in both for one in part]).numpy()
        info = {"psnr": float(self.psnr.mean()), "mean_psnr": float(self.mean_psnr.mean())}
        return save_grid(path, images, columns=len(self.images), info=info)

    def check(self, strip: str, *, inherited: bool = False) -> None:
        """Refuses an autoencoder that keeps less of the images than their mean colour does.

        Args:
            strip: the file to look at.
            inherited: whether it is that of `init_from`, for which no other can be chosen.

        Raises:
            ValueError: with what fits.
        """
        own, mean = float(self.psnr.mean()), float(self.mean_psnr.mean())
        if own < min(mean, GOOD):
            raise ValueError(
                f"autoencoder: it keeps {own:.1f} dB (PSNR) of these images, less than their mean colour alone "
                f"({mean:.1f} dB; see {strip}), so nothing that is learned from its latents can be drawn. "
                + (INHERITED if inherited else CHOSEN)
            )


@torch.no_grad()
def reconstruct(source: Source, autoencoder: Autoencoder) -> Reconstruction:
    """Passes up to 64 images, evenly spaced over a source, through an autoencoder and back, in fp32."""
    count = min(COUNT, len(source))
    device, parts = module_device(autoencoder), []
    for rows in (torch.arange(count) * len(source) // count).split(images_at_once(source.resolution**2)):
        images = source.images(rows.tolist())
        signed = to_signed(images.to(device))
        rebuilt = to_pixels(autoencoder.decode(autoencoder.encode(signed))).cpu()
        mean = images.double().mean((2, 3), keepdim=True).round().expand(images.shape)
        parts.append((psnr(images, rebuilt), psnr(images, mean), images, rebuilt))
    own, mean, images, rebuilt = (torch.cat(column) for column in zip(*parts, strict=True))
    shown = torch.arange(min(SHOWN, count)) * count // min(SHOWN, count)
    return Reconstruction(own, mean, images[shown], rebuilt[shown])
