"""From prompts to images: the one path that previews, evaluation, the command line and exports share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import Guidance
from t2ilab.core.precision import autocast
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Trajectory
from t2ilab.latents.base import Autoencoder, to_pixels
from t2ilab.sampling.base import Sampler
from t2ilab.text.base import Conditioner


@dataclass(frozen=True)
class TextToImage:
    """A denoiser with everything around it that an image needs.

    Attributes:
        denoiser, conditioner, autoencoder: the networks, on one device.
        sampler, guidance: how the latent is made.
        latent_shape: (C, H, W).
        precision: `bf16` runs the networks under bf16 autocast, `fp32` does not.
        batch_size: images at a time; an image does not depend on it beyond float rounding.
        stream: of the noise; images that a model is trained on come from another one than those it is measured by.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    autoencoder: Autoencoder
    sampler: Sampler
    guidance: Guidance
    latent_shape: tuple[int, int, int]
    precision: str = "bf16"
    batch_size: int = 64
    stream: str = "sampling"

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision must be bf16 or fp32, got {self.precision}")

    def with_(self, **changes: Any) -> TextToImage:
        """The same with another sampler, guidance, ..."""
        return replace(self, **changes)

    def check(self) -> None:
        """Raises ValueError, before anything is drawn, where sampler or guidance do not suit the network."""
        rng, null = self.rng(0, [0]), self.conditioner.null(1).to(self.device)
        noise = rng.normal("noise", *self.latent_shape)
        states = self.sampler.walk(self.denoiser, noise, null, null, guidance=self.guidance, rng=rng)
        next(states)  # the noise itself

    def __call__(self, prompts: Sequence[str], *, seed: int, rows: Sequence[int] | None = None) -> Tensor:
        """Images (n, 3, h, w) uint8; the noise of each is a pure function of (seed, its row)."""
        parts = list(self.batches(prompts, seed=seed, rows=rows))
        return torch.cat(parts) if parts else torch.empty(0, 3, 0, 0, dtype=torch.uint8)

    def batches(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        rows: Sequence[int] | None = None,
        negative: Sequence[str] | None = None,
    ) -> Iterator[Tensor]:
        """The same images, `batch_size` at a time as they are made, on the CPU.

        Args:
            negative: for each prompt a text that guidance leads away from, in place of the empty one.
        """
        numbers = list(range(len(prompts))) if rows is None else list(rows)
        if len(numbers) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many rows, got {len(numbers)}")
        for start in range(0, len(prompts), self.batch_size):
            stop = start + self.batch_size
            against = None if negative is None else negative[start:stop]
            found = self.trajectory(
                prompts[start:stop], seed=seed, rows=numbers[start:stop], negative=against
            )
            yield self.decode(found.x).cpu()

    def latents(self, prompts: Sequence[str], *, seed: int, rows: Sequence[int]) -> Tensor:
        """Sampled latents (n, C, H, W) float32."""
        return self.trajectory(prompts, seed=seed, rows=rows).x

    @torch.no_grad()
    def trajectory(
        self, prompts: Sequence[str], *, seed: int, rows: Sequence[int], negative: Sequence[str] | None = None
    ) -> Trajectory:
        """What the sampler returns for one batch; `negative` as in `batches`."""
        rng = self.rng(seed, rows)
        with self._quiet():
            condition = self.conditioner(list(prompts)).to(self.device)
            null = self.conditioner.null(1) if negative is None else self.conditioner(list(negative))
            null = null.to(self.device)
            noise = rng.normal("noise", *self.latent_shape)
            return self.sampler(self.denoiser, noise, condition, null=null, guidance=self.guidance, rng=rng)

    def rng(self, seed: int, rows: Sequence[int]) -> RowRng:
        """The stream of sampling noise, apart from every stream of training."""
        numbers = torch.tensor(list(rows), dtype=torch.int64, device=self.device)
        return RowRng(seed, 0, numbers, int(max(rows, default=0)) + 1).fold(self.stream)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents to images, uint8."""
        with self._quiet():
            images = self.autoencoder.decode(latents)
        return to_pixels(images)

    @property
    def tokens(self) -> int:
        """Positions per image that the network computes on: patches of a transformer, pixels of a U-Net."""
        _, height, width = self.latent_shape
        return height * width // getattr(self.denoiser.backbone, "patch_size", 1) ** 2

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Evaluation mode and the sampling precision, undone afterwards."""
        networks: tuple[nn.Module, ...] = (self.denoiser, self.conditioner, self.autoencoder)
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        try:
            with autocast(self.device, self.precision):
                yield
        finally:
            for network, mode in zip(networks, modes, strict=True):
                network.train(mode)
