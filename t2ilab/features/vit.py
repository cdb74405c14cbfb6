"""Vision transformers from local folders as encoders: transformers' and open_clip's.

Each has its own preprocessing, which is part of what its features are: images in [-1, 1] are brought to
[0, 1], resized so that the patches make the wanted grid, then normalised by the mean and std that the
encoder was trained with. The resizing is REPA's, bicubic without antialiasing, from 256 to 224 pixels (there it comes
after the normalisation, which is the same). `antialias` is for images that are much larger than what is looked at.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.features.base import FeatureEncoder, check_dim

if TYPE_CHECKING:
    from open_clip.model import CLIP as CLIPNetwork

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth")  # that open_clip reads
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class _ViT(FeatureEncoder):
    """Args: network; dim d; grid g patches per side; patch edge in pixels; (mean, std); antialias in resizing."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, *, dim: int, grid: int, patch: int, statistics: Any, antialias: bool
    ) -> None:
        super().__init__()
        self.antialias = antialias
        if grid < 1:
            raise ValueError(f"<part>.encoder.grid must be at least 1, got {grid}")
        self.network, self.dim, self.size, self.grid = network.eval(), dim, grid * patch, grid
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in statistics)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def pixels(self, images: Tensor) -> Tensor:
        """What the network reads of images in [-1, 1]."""
        pixels = (images.float() + 1) / 2
        if pixels.shape[-1] != self.size or pixels.shape[-2] != self.size:
            size = (self.size, self.size)
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=self.antialias)
        return (pixels - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(self.pixels(images))
        if features.shape[1] != self.grid**2:
            raise ValueError(
                f"the encoder gave {features.shape[1]} patches of an image of {self.size} px, expected "
                f"{self.grid**2}: set <part>.encoder.patch to its patch size"
            )
        return features

    def patches(self, pixels: Tensor) -> Tensor:
        """The patch vectors alone, (B, n, d)."""
        raise NotImplementedError


class HuggingFaceViT(_ViT):
    """A transformers model with all patch tokens in `last_hidden_state`: DINOv2, DINOv3, CLIP vision, I-JEPA.

    Class and register tokens, which come first, are dropped: what is left are the last g g vectors.

    Args:
        path: folder of `save_pretrained`; nothing is downloaded.
        dim, grid, patch: d, g and the patch edge in pixels.
        statistics: `imagenet` or `clip`.
        antialias: in resizing; REPA does without.
    """

    def __init__(
        self, *, path: str | None, dim: int, grid: int, patch: int, statistics: str, antialias: bool = False
    ) -> None:
        from transformers import AutoModel

        known = {"imagenet": IMAGENET, "clip": CLIP}
        if statistics not in known:
            raise ValueError(f"<part>.encoder.statistics must be one of {', '.join(known)}, got {statistics}")
        folder = local_folder(path, "<part>.encoder.path")
        network = AutoModel.from_pretrained(folder, local_files_only=True)
        network = getattr(network, "vision_model", network)
        if getattr(network.config, "mask_ratio", 0):
            raise ValueError(
                f"<part>.encoder.path={path}: {type(network).__name__} leaves patches out and mixes up the rest"
            )
        check_dim(network.config.hidden_size, dim, str(path))
        found = getattr(network.config, "patch_size", patch)
        if found != patch:
            raise ValueError(f"{path} has patches of {found} px: set <part>.encoder.patch={found}")
        sizes = {"dim": dim, "grid": grid, "patch": patch}
        super().__init__(network, **sizes, statistics=known[statistics], antialias=antialias)

    def patches(self, pixels: Tensor) -> Tensor:
        return self.network(pixel_values=pixels).last_hidden_state[:, -(self.grid**2) :]

    def summary(self, images: Tensor) -> Tensor:
        tokens = self.network(pixel_values=self.pixels(images)).last_hidden_state
        return tokens[:, 0] if tokens.shape[1] > self.grid**2 else tokens.mean(1)


class OpenCLIP(_ViT):
    """The image tower of an open_clip model; its patch vectors and class token before the projection.

    Args:
        name: the architecture, such as `ViT-L-14`; OpenAI's weights want its `-quickgelu` form.
        path: folder with the one file of weights that open_clip reads; nothing is downloaded.
        dim, grid, patch: d, g and the patch edge in pixels; g patch must be the image size of the architecture.
        antialias: in resizing; REPA does without.
    """

    def __init__(
        self, *, name: str, path: str | None, dim: int, grid: int, patch: int, antialias: bool = False
    ) -> None:
        option = "<part>.encoder.path"
        visual: Any = open_clip_model(name, only_file(path, option), option).visual
        if not hasattr(visual, "output_tokens"):
            raise ValueError(f"<part>.encoder.name={name} has no patch tokens: choose a ViT")
        visual.output_tokens, visual.proj = True, None
        super().__init__(visual, dim=dim, grid=grid, patch=patch, statistics=CLIP, antialias=antialias)

    def patches(self, pixels: Tensor) -> Tensor:
        _, tokens = self.network(pixels)
        check_dim(tokens.shape[-1], self.dim, "this open_clip tower")
        return tokens

    def summary(self, images: Tensor) -> Tensor:
        return self.network(self.pixels(images))[0]


def open_clip_model(name: str, weights: Path, option: str) -> CLIPNetwork:
    """A network of open_clip with the weights of a file, on the CPU.

    Args:
        name: of the architecture.
        option: that names the folder of the file, `<group>.path`, beside `<group>.name`.

    Raises:
        ValueError: there is no such architecture, or the weights are not those of it.
    """
    import open_clip

    named = f"{option.rpartition('.')[0]}.name={name}"
    known = open_clip.list_models()
    if ":" not in name and name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ValueError(
            f"{named} is no architecture of open_clip; choose one such as {', '.join(near or ['ViT-L-14'])}"
        )
    try:
        made = open_clip.create_model(name, pretrained=str(weights), require_pretrained=True)
    except Exception as error:  # a file of any content may come here
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"{option}: {weights} does not hold weights of {named} ({type(error).__name__}: {first})"
        ) from error
    return cast("CLIPNetwork", made)


def open_clip_reads(network: CLIPNetwork) -> tuple[int, Any, Any]:
    """Edge of the images that a network of open_clip reads, and the mean and std that it takes them by."""
    visual: Any = network.visual
    size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    return size, mean or CLIP[0], std or CLIP[1]


def only_file(path: str | None, option: str) -> Path:
    """The one file of weights in the folder that an option names.

    Raises:
        ValueError: naming the option, if there is no such folder, no such file, or several.
    """
    folder = local_folder(path, option)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in WEIGHT_FILES]
    if len(files) != 1:
        raise ValueError(
            f"{option}={folder}: wanted one file of weights ({', '.join(WEIGHT_FILES)}), found "
            f"{[file.name for file in files] or 'none'}"
        )
    return files[0]
