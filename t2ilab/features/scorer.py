"""The CLIPs that measure: whole images and texts as vectors of one space.

From them come the Frechet and kernel distance, the CLIP score and the diversity of an evaluation. Numbers of
different networks must not be compared; `digest` tells them apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from t2ilab.core.folders import local_folder
from t2ilab.features.base import stretched
from t2ilab.features.vit import only_file, open_clip_model, open_clip_reads

ROWS = 256  # images at a time


class EmbeddedScorer:
    """The CLIP that comes with this package, or another that `stage=encoder` made. It knows what it was trained on.

    Args:
        path: folder that `TwoTowers.save` wrote; one that begins with "assets/" lies inside this package.
        device: where it computes.
    """

    name = "the built-in CLIP"
    caution = (
        "by the built-in CLIP, which has only seen synthetic images; scorer@eval.scorer=open_clip measures images of "
        "your own by one that knows photographs"
    )

    def __init__(self, *, path: str | None, device: torch.device) -> None:
        from t2ilab.text.towers import TwoTowers

        folder = local_folder(path, "eval.scorer.path")
        self.towers = TwoTowers.load(folder).to(device)
        self.folder, self.device = folder, device

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) to (n, d) on the CPU."""
        size = self.towers.sizes["image_size"]
        parts = (stretched(part.to(self.device).float() / 127.5 - 1, size) for part in images.split(ROWS))
        return torch.cat([self.towers.encode_image(part).pooled.cpu() for part in parts])

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """n texts to (n, d) on the CPU."""
        ids, mask = self.towers.tokenizer(texts)
        return self.towers.encode_text(ids.to(self.device), mask.to(self.device)).pooled.cpu()


class OpenCLIPScorer:
    """A CLIP of open_clip, from a folder; nothing is downloaded.

    Images are resized to the size that it reads, and normalised by its mean and std.

    Args:
        name: the architecture, such as `ViT-L-14-quickgelu` for OpenAI's weights.
        path: folder with the one file of weights that open_clip reads.
        device: where it computes.
    """

    def __init__(self, *, name: str, path: str | None, device: torch.device) -> None:
        import open_clip

        weights = only_file(path, "eval.scorer.path")
        self.folder, self.device = weights.parent, device
        model = open_clip_model(name, weights, "eval.scorer.path")
        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.name = f"open_clip's {name}"
        self.size, *statistics = open_clip_reads(self.model)
        self.mean, self.std = (torch.tensor(one, device=device).view(1, 3, 1, 1) for one in statistics)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """uint8 (n, 3, h, w) to (n, d) on the CPU."""
        parts = (stretched(part.to(self.device).float() / 255, self.size) for part in images.split(ROWS))
        return torch.cat([self.model.encode_image((part - self.mean) / self.std).cpu() for part in parts])

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Tensor:
        """n texts to (n, d) on the CPU; one beyond the network's context is cut there."""
        parts = [texts[start : start + ROWS] for start in range(0, len(texts), ROWS)]
        return torch.cat(
            [self.model.encode_text(self.tokenizer(part).to(self.device)).cpu() for part in parts]
        )
