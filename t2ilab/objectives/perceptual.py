"""How different two images look: distances between the features of a network that saw many images.

With unit(f) = f / |f| over the channels of a place and f_l the features of layer l,

    d(x, y) = sum_l mean_places w_l . (unit(f_l(x)) - unit(f_l(y)))^2.

LPIPS has learned weights w_l >= 0 per channel on the layers of VGG or AlexNet; the distance on a CLIP's image tower
has w_l = 1 / layers, so that it lies in [0, 4].
Source: Zhang et al. 2018, arXiv 1801.03924, eq. (1).
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.folders import expanded, local_folder
from t2ilab.core.frozen import Frozen

_SLICES = 5  # layers of VGG and AlexNet that LPIPS reads


class PerceptualDistance(nn.Module, ABC):
    """Images to their distance. The constructor looks whether the weights are there, `load` reads them."""

    @abstractmethod
    def load(self) -> None:
        """Reads the network; to be called once, before the first distance."""

    @abstractmethod
    def features(self, images: Tensor) -> list[Tensor]:
        """Features of images (B, 3, h, w) in [-1, 1], layer by layer, (B, D_l, ...) each."""

    @abstractmethod
    def weights(self) -> Sequence[Tensor | float]:
        """w_l of every layer, (D_l,) or one number for all channels."""

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """d(images, target), (B,); no gradient reaches `target`."""
        with torch.no_grad():
            wanted = self.features(target)
        found = self.features(images)
        layers = zip(found, wanted, self.weights(), strict=True)
        return torch.stack([_difference(a, b, w) for a, b, w in layers]).sum(0)


def _difference(found: Tensor, wanted: Tensor, weight: Tensor | float) -> Tensor:
    """mean_places w . (unit(found) - unit(wanted))^2, (B,); where all features are 0 it has no gradient."""
    error = (_unit(found) - _unit(wanted)).square().flatten(2)  # (B, D, places)
    return (error.mean(2) * weight).sum(1)


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=1, eps=1e-10)


class ClipDistance(PerceptualDistance):
    """The distance on the patches of every layer of the image tower of one of this project's CLIPs.

    Images of another size are resized to the tower's.

    Args:
        path: folder that `TwoTowers.save` wrote; one that begins with "assets/" lies inside this package.
    """

    def __init__(self, *, path: str | None) -> None:
        super().__init__()
        self.path = local_folder(path, "loss.perceptual.path")

    def load(self) -> None:
        from t2ilab.text.towers import TwoTowers

        self.towers = Frozen(TwoTowers.load(self.path))

    def features(self, images: Tensor) -> list[Tensor]:
        towers: Any = self.towers.module
        return [layer[:, 1:].mT for layer in towers.image_layers(towers.fitted(images))]

    def weights(self) -> Sequence[float]:
        towers: Any = self.towers.module
        count = towers.sizes["image_layers"]
        return [1 / count] * count


class LPIPS(PerceptualDistance):
    """The learned perceptual distance, with the backbone's weights from a file on this disk.

    Args:
        path: torchvision's state dict of vgg16 or alexnet (`vgg16-397923af.pth`, `alexnet-owt-7be5be79.pth`).
        net: which of the two it is. The weights of the layers are in the lpips package.
    """

    def __init__(self, *, path: str | None, net: Literal["vgg", "alex"]) -> None:
        super().__init__()
        if net not in ("vgg", "alex"):
            raise ValueError(f"loss.perceptual.net must be vgg or alex, got {net}")
        if not path:
            raise ValueError(
                "loss.perceptual.path=<file> is needed: nothing is downloaded, name torchvision's weights of "
                f"{net} on this disk"
            )
        self.net, self.path = net, Path(expanded(path))
        if not self.path.is_file():
            raise ValueError(f"loss.perceptual.path: there is no file {self.path}")

    def load(self) -> None:
        import lpips

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls torchvision in a way that is deprecated
            network = lpips.LPIPS(net=self.net, pnet_rand=True, verbose=False)
        backbone = torch.load(self.path, map_location="cpu", weights_only=True)
        wanted = network.net.state_dict()  # slice1.0.weight is torchvision's features.0.weight
        own = {name: backbone.get(f"features.{name.partition('.')[2]}") for name in wanted}
        wrong = [name for name, value in own.items() if value is None or value.shape != wanted[name].shape]
        if wrong:
            raise ValueError(
                f"loss.perceptual.path: {self.path} does not hold the weights of loss.perceptual.net={self.net} "
                f"({len(wrong)} of {len(wanted)} are missing or of another shape)"
            )
        network.net.load_state_dict(own)
        self.network = Frozen(network)

    def features(self, images: Tensor) -> list[Tensor]:
        network: Any = self.network.module
        return list(network.net(network.scaling_layer(images)))

    def weights(self) -> Sequence[Tensor]:
        network: Any = self.network.module
        return [getattr(network, f"lin{layer}").model[-1].weight.flatten() for layer in range(_SLICES)]
