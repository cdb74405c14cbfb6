"""A discriminator that judges every patch of an image by itself.

`layers` convolutions of stride 2 and two of stride 1, all with 4 x 4 kernels: with 3 layers a logit sees 70 x 70
pixels. Convolutions start at N(0, 0.02^2), norms at N(1, 0.02^2).

The norms are group norms, where the original has batch norms: with those the logits of an image depend on the
others of its micro-batch, so accumulation and several processes would change what is learned.
Source: Isola et al. 2017 (pix2pix), arXiv 1611.07004, section 6.1.2.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

_KERNEL, _SPREAD = 4, 0.02


class PatchGAN(nn.Module):
    """Images (B, 3, h, w) to logits (B, 1, h', w'), h' about h / 2^layers.

    Args:
        width: channels after the first convolution; doubled by each further one, up to 8 times.
        layers: convolutions of stride 2.
        groups: of the group norms; a divisor of 2 * width.
        channels: of the images.
    """

    def __init__(self, *, width: int, layers: int, groups: int, channels: int = 3) -> None:
        super().__init__()
        if min(width, layers, groups) < 1 or (2 * width) % groups:
            raise ValueError(
                "loss.discriminator.network: width, layers and groups must be at least 1 and groups a divisor of "
                f"2 * width, got {width}, {layers} and {groups}"
            )
        self.layers, self.smallest = layers, 3 * 2**layers  # smaller images leave no logit
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        stages: list[nn.Module] = [nn.Conv2d(channels, width, _KERNEL, 2, 1), nn.LeakyReLU(0.2)]
        for layer, (before, after) in enumerate(pairwise(widths), 1):
            stride = 2 if layer < layers else 1
            stages += [
                nn.Conv2d(before, after, _KERNEL, stride, 1, bias=False),
                nn.GroupNorm(groups, after),
                nn.LeakyReLU(0.2),
            ]
        self.stages = nn.Sequential(*stages, nn.Conv2d(widths[-1], 1, _KERNEL, 1, 1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.smallest:
            raise ValueError(
                f"loss.discriminator.network.layers={self.layers} wants images with edges of {self.smallest} or "
                f"more, got {tuple(images.shape[-2:])}: choose fewer, or a larger data.resolution"
            )
        return self.stages(images)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, _SPREAD)
    elif isinstance(module, nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, _SPREAD)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
