"""CLIPs of three kinds behind one interface, with gradients: the built-in one, open_clip's and transformers'.

A reward looks at images in [0, 1] of any size; how they are resized and normalised is the CLIP's own affair. Tensors
are resized with antialiasing; an image library's resizing differs in the last digits.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.features.vit import CLIP as STATISTICS
from t2ilab.features.vit import only_file, open_clip_model, open_clip_reads
from t2ilab.text.towers import TwoTowers

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from transformers import CLIPModel


class Towers(nn.Module, ABC):
    """Images and texts as vectors of one space.

    Attributes:
        dim: E, the width of that space.
        network: what learns, if anything does.
        beside: how the names of its weights begin that neither vector depends on; they never learn.
    """

    dim: int
    network: nn.Module
    beside: ClassVar[tuple[str, ...]] = ("logit_",)

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (B, L) int64, on the CPU."""

    @abstractmethod
    def texts(self, ids: Tensor) -> Tensor:
        """Vectors (B, E) of token ids (B, L)."""

    @abstractmethod
    def images(self, images: Tensor) -> Tensor:
        """Vectors (B, E) of images (B, 3, h, w) in [0, 1]."""

    @abstractmethod
    def blocks(self) -> list[Sequence[nn.Module]]:
        """The transformer blocks of the image tower and of the text tower, first to last."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes what `open_towers` reads back."""

    def train_last(self, layers: int | None) -> None:
        """Leaves only the last blocks of both towers, and what comes behind them, to training.

        Args:
            layers: how many blocks of each; None for all of both towers.

        Raises:
            ValueError: it is negative.
        """
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not name.startswith(self.beside))
        if layers is None:
            return
        if layers < 0:
            raise ValueError(f"model.layers must be null (all) or 0 and more, got {layers}")
        self.requires_grad_(False)
        for tower in self.blocks():
            for block in list(tower)[max(0, len(tower) - layers) :]:
                block.requires_grad_(True)
        for parameter in self.behind():
            parameter.requires_grad_(layers > 0)

    @abstractmethod
    def behind(self) -> Iterable[nn.Parameter]:
        """What comes behind the blocks: last norms and projections."""


class EmbeddedTowers(Towers):
    """The CLIP of this package, or another that `stage=encoder` made."""

    network: TwoTowers
    beside = ("clip.logit_", "reader.")

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = TwoTowers.load(folder)
        self.dim = self.network.sizes["embed_dim"]

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return self.network.tokenizer(list(prompts))[0]

    def texts(self, ids: Tensor) -> Tensor:
        return self.network.encode_text(ids, ids != self.network.tokenizer.pad_id).pooled

    def images(self, images: Tensor) -> Tensor:
        size = self.network.sizes["image_size"]
        return self.network.encode_image(resized(images.float() * 2 - 1, size)).pooled

    def blocks(self) -> list[Sequence[nn.Module]]:
        clip = self.network.clip
        return [clip.visual.transformer.resblocks, clip.transformer.resblocks]

    def behind(self) -> Iterable[nn.Parameter]:
        clip = self.network.clip
        norms = [*clip.visual.ln_post.parameters(), *clip.ln_final.parameters()]
        return [*norms, clip.visual.proj, clip.text_projection]

    def save(self, folder: Path) -> None:
        self.network.save(folder)


class OpenCLIPTowers(Towers):
    """An architecture of open_clip with a file of its weights (HPS v2 and the LAION models come so)."""

    network: CLIP
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, folder: Path, option: str) -> None:
        super().__init__()
        import open_clip

        self.name = name
        self.network = open_clip_model(name, only_file(str(folder), option), option)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.size, mean, std = open_clip_reads(self.network)
        self.dim = int(self.network.text_projection.shape[-1])
        _keep_statistics(self, mean, std)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenizer(list(prompts)).long()

    def texts(self, ids: Tensor) -> Tensor:
        return self.network.encode_text(ids)

    def images(self, images: Tensor) -> Tensor:
        return self.network.encode_image((resized(images.float(), self.size) - self.mean) / self.std)

    def blocks(self) -> list[Sequence[nn.Module]]:
        return [self.network.visual.transformer.resblocks, self.network.transformer.resblocks]

    def behind(self) -> Iterable[nn.Parameter]:
        network = self.network
        norms = [*network.visual.ln_post.parameters(), *network.ln_final.parameters()]
        return [*norms, network.visual.proj, network.text_projection]

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")


class TransformersTowers(Towers):
    """A CLIPModel folder of transformers, with its tokenizer (PickScore comes so)."""

    network: CLIPModel
    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, option: str) -> None:
        super().__init__()
        from transformers import AutoTokenizer, CLIPModel

        try:
            read: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{option}={folder} holds no whole CLIPModel with its tokenizer ({error})"
            ) from error
        self.network, info = read
        if info["missing_keys"]:
            raise ValueError(
                f"{option}={folder} lacks weights of a CLIPModel: {sorted(info['missing_keys'])[:3]}"
            )
        config: Any = self.network.config
        self.size, self.dim = config.vision_config.image_size, config.projection_dim
        self.length = config.text_config.max_position_embeddings
        _keep_statistics(self, *STATISTICS)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": self.length}
        return self.tokenizer(list(prompts), return_tensors="pt", **options).input_ids

    def texts(self, ids: Tensor) -> Tensor:
        return self.network.text_projection(self.network.text_model(ids).pooler_output)

    def images(self, images: Tensor) -> Tensor:
        pixels = (resized(images.float(), self.size) - self.mean) / self.std
        return self.network.visual_projection(self.network.vision_model(pixels).pooler_output)

    def blocks(self) -> list[Sequence[nn.Module]]:
        return [self.network.vision_model.encoder.layers, self.network.text_model.encoder.layers]

    def behind(self) -> Iterable[nn.Parameter]:
        network = self.network
        norms = [network.vision_model.post_layernorm, network.text_model.final_layer_norm]
        parts = [*norms, network.visual_projection, network.text_projection]
        return [parameter for part in parts for parameter in part.parameters()]

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def open_towers(path: str | None, name: str | None = None, *, option: str = "reward.path") -> Towers:
    """The CLIP in a folder, on the CPU and in evaluation mode; nothing is downloaded.

    Args:
        path: the folder; one that begins with "assets/" lies inside this package.
        name: an architecture of open_clip, such as `ViT-H-14`, if the folder holds weights of one; else the folder's
            config.json says what it is.
        option: that names the folder, for errors.

    Raises:
        ValueError: there is no such folder, or it holds no CLIP.
    """
    folder = local_folder(path, option)
    if name is not None:
        return OpenCLIPTowers(name, folder, option).eval()
    file = folder / "config.json"
    config: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if config.get("model_type") == "clip":
        return TransformersTowers(folder, option).eval()
    if "embed_dim" in config and "text_width" in config:
        return EmbeddedTowers(folder).eval()
    owner = option.rpartition(".")[0]
    raise ValueError(
        f"{option}={folder} holds no CLIP that can be told by its config.json: wanted one of this package or of "
        f"transformers; weights of open_clip need {owner}.name=<architecture>, such as ViT-H-14"
    )


def resized(images: Tensor, size: int) -> Tensor:
    """Square images of this size: the shorter edge resized (bicubic, antialiased), the middle cut out."""
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    shape = (max(size, round(height * scale)), max(size, round(width * scale)))
    images = F.interpolate(images, size=shape, mode="bicubic", antialias=True)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    return images[..., top : top + size, left : left + size]


def _keep_statistics(towers: nn.Module, mean: Any, std: Any) -> None:
    for name, values in (("mean", mean), ("std", std)):
        towers.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
