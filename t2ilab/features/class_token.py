"""Latents that carry a vision encoder's vector of the image, so that both are generated together (REG)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.core.carried import carry
from t2ilab.features.base import FeatureEncoder
from t2ilab.latents.base import Autoencoder
from t2ilab.latents.pca import PCA


class WithClassToken(Autoencoder):
    """An autoencoder whose latents have further channels that hold one vector of d numbers.

    The vector is `FeatureEncoder.summary` of the clean image, brought to mean 0 and variance 1 over its numbers.
    Path, samplers, guidance and caches treat it as a part of the image (see `t2ilab.core.carried`); a model with
    `class_dim` reads it as one token, `terms=[reg]` is its loss, and decoding omits it.

    Args:
        vae: the autoencoder of the images.
        encoder: makes the encoder; called at the first image, so that what only decodes needs none.
        channels: those of `vae` and the further ones, ceil(d / (H W)) or more.
        factor: that of `vae`.
    Source: Wu et al. 2025 (REG), arXiv 2507.01467; there DINOv2's class token is taken as it is.
    """

    def __init__(
        self, *, vae: Autoencoder, encoder: Callable[[], FeatureEncoder], channels: int, factor: int
    ) -> None:
        super().__init__()
        if factor != vae.factor or channels <= vae.channels:
            raise ValueError(
                f"autoencoder.factor must be that of autoencoder.vae, {vae.factor}, and autoencoder.channels more "
                f"than its {vae.channels}; got {factor} and {channels}"
            )
        if isinstance(vae, PCA) and vae.unfitted:
            raise ValueError(
                "autoencoder.vae: principal components are fitted to the images of a run only where they are the "
                "whole autoencoder; give those of an earlier run, autoencoder.vae.path=<run>/autoencoder"
            )
        self.vae, self.channels, self.factor = vae, channels, factor
        self.make_encoder = encoder
        self._encoder: list[FeatureEncoder] = []  # in a list: its weights are not those of an autoencoder

    def encode(self, images: Tensor) -> Tensor:
        if not self._encoder:
            self._encoder.append(self.make_encoder().eval().requires_grad_(False))
        latents = self.vae.encode(images)
        vector = self._encoder[0].to(images.device).summary(images).float()
        height, width = latents.shape[-2:]
        own = F.layer_norm(vector, vector.shape[-1:])
        extra = carry(own, self.channels - self.vae.channels, (height, width))
        return torch.cat([latents, extra.to(latents.dtype)], 1)

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        return self.vae.decode(latents[:, : self.vae.channels], clamp=clamp)
