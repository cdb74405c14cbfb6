"""The hinge game: the logits of a discriminator D want to be above 1 on real and below -1 on made images.

    L_D = 1/2 [relu(1 - D(real)) + relu(1 + D(fake))],    L_G = -D(fake),

means over the logits of an image (a patch discriminator gives many). At the optimum of L_D no logit beyond +-1
pulls any more.
Source: Lim & Ye 2017, arXiv 1705.02894; the factor 1/2 is that of the LDM code.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """L_D of each pair of a real and a made image, (B,), from logits (B, ...)."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + fake)).flatten(1).mean(1)


def generator_hinge(fake: Tensor) -> Tensor:
    """L_G of each made image, (B,), from logits (B, ...)."""
    return -fake.flatten(1).mean(1)
