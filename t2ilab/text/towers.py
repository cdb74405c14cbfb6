"""A small CLIP (Radford et al. 2021, arXiv 2103.00020): open_clip's towers with an own tokenizer.

The towers are open_clip's modules; their forward passes are written out here, so that padding is masked in
the text tower (which sees the whole text, there is no causal mask), every layer can be read, and the
attention kernel is the one of core/attention.py.

Shapes: B batch, L text tokens, N patches, D width of a tower, E the common space of images and texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t2ilab.core.attention import attend, merge_heads, split_heads
from t2ilab.text.reader import Reader, Told
from t2ilab.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from open_clip.model import CLIP


class Sizes(TypedDict):
    """The arguments that towers of this shape are made with again."""

    embed_dim: int
    image_size: int
    patch_size: int
    image_width: int
    image_layers: int
    image_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    slots: int
    choices: list[int]
    whole_choices: list[int]


@dataclass(frozen=True)
class Features:
    """What a tower says.

    Attributes:
        tokens: one vector per patch or text token, (B, N or L, D).
        pooled: one vector in the common space, (B, E).
        told: of texts, the reader's logits; None without a reader.
    """

    tokens: Tensor
    pooled: Tensor
    told: Told | None = None


def _clip(sizes: Sizes, tokenizer: Tokenizer) -> CLIP:
    """OpenCLIP's network of these sizes."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    image = CLIPVisionCfg(
        layers=sizes["image_layers"],
        width=sizes["image_width"],
        head_width=sizes["image_width"] // sizes["image_heads"],
        patch_size=sizes["patch_size"],
        image_size=sizes["image_size"],
    )
    text = CLIPTextCfg(
        context_length=tokenizer.length,
        vocab_size=len(tokenizer),
        width=sizes["text_width"],
        heads=sizes["text_heads"],
        layers=sizes["text_layers"],
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.end_id,
        pool_type="eos",
        no_causal_mask=True,
    )
    return CLIP(sizes["embed_dim"], image, text)


class TwoTowers(nn.Module):
    """Image tower (a ViT) and text tower with a common space.

    Args:
        tokenizer: gives the vocabulary and the text length.
        embed_dim: E.
        image_size, patch_size: pixels of an image and of a patch.
        image_width, image_layers, image_heads: the image tower.
        text_width, text_layers, text_heads: the text tower.
        slots, choices, whole_choices: of the reader of what a caption names; 0 and () to do without.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        embed_dim: int = 96,
        image_size: int = 64,
        patch_size: int = 8,
        image_width: int = 96,
        image_layers: int = 4,
        image_heads: int = 3,
        text_width: int = 96,
        text_layers: int = 3,
        text_heads: int = 3,
        slots: int = 0,
        choices: Sequence[int] = (),
        whole_choices: Sequence[int] = (),
    ) -> None:
        super().__init__()
        for name, width, heads in (("image", image_width, image_heads), ("text", text_width, text_heads)):
            if width % heads:
                raise ValueError(f"{name}_width must be divisible by {name}_heads, got {width} and {heads}")
        if image_size % patch_size:
            raise ValueError(f"image_size must be divisible by patch_size, got {image_size} and {patch_size}")
        self.tokenizer = tokenizer
        self.sizes: Sizes = {
            "embed_dim": embed_dim,
            "image_size": image_size,
            "patch_size": patch_size,
            "image_width": image_width,
            "image_layers": image_layers,
            "image_heads": image_heads,
            "text_width": text_width,
            "text_layers": text_layers,
            "text_heads": text_heads,
            "slots": slots,
            "choices": list(choices),
            "whole_choices": list(whole_choices),
        }
        self.clip = _clip(self.sizes, tokenizer)
        self.reader: Reader | None = None
        if slots:
            self.reader = Reader(
                dim=text_width,
                pooled_dim=embed_dim,
                slots=slots,
                choices=choices,
                whole_choices=whole_choices,
            )

    @property
    def log_temperature(self) -> Tensor:
        """log of the factor on cosine similarities, a parameter; it starts at log(1 / 0.07)."""
        return self.clip.logit_scale

    def encode_text(self, ids: Tensor, mask: Tensor, *, skip: int = 0) -> Features:
        """Features of texts; vectors of padding are 0.

        Args:
            ids, mask: (B, L) from the tokenizer.
            skip: how many of the last layers the tokens leave out; with 0 they pass the final norm. The
                training of the towers looks at the last layer's <end> token, and with a reader at the tokens
                of the layer before, so 1 is the better choice for tokens. `pooled` always comes from the last
                layer, what is told of things from the one before.
        """
        clip, length = self.clip, ids.shape[1]
        longest = int(mask.sum(1).max())
        ids, mask = ids[:, :longest], mask[:, :longest]
        layers = [clip.token_embedding(ids) + clip.positional_embedding[:longest]]
        for block in clip.transformer.resblocks:
            layers.append(run_block(block, layers[-1], mask))
        last = clip.ln_final(layers[-1])
        end = (ids == self.tokenizer.end_id).int().argmax(1)
        pooled = last[torch.arange(len(last), device=last.device), end] @ clip.text_projection
        tokens = (layers[-1 - skip] if skip else last) * mask[..., None]
        told = None if self.reader is None else self.reader(layers[-2], mask, pooled)
        return Features(F.pad(tokens, (0, 0, 0, length - longest)), pooled, told)

    def encode_image(self, images: Tensor) -> Features:
        """Features of images (B, 3, h, w) in [-1, 1], h and w the tower's image_size."""
        tokens = self.image_tokens(images)
        return Features(tokens[:, 1:], tokens[:, 0] @ self.clip.visual.proj)

    def image_tokens(self, images: Tensor) -> Tensor:
        """The class token and the patches behind the last norm, (B, 1 + N, D)."""
        tokens: Tensor = self.clip.visual.ln_post(self.image_layers(images)[-1])
        return tokens

    def image_layers(self, images: Tensor) -> list[Tensor]:
        """What every block of the image tower gives, (B, 1 + N, D) each, the first token the class token's."""
        size = self.sizes["image_size"]
        if tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"the image tower wants (B, 3, {size}, {size}), got {tuple(images.shape)}")
        visual = self.clip.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, N, D)
        first = visual.class_embedding.expand(len(x), 1, -1).to(x.dtype)
        layers = [visual.ln_pre(torch.cat([first, x], 1) + visual.positional_embedding)]
        for block in visual.transformer.resblocks:
            layers.append(run_block(block, layers[-1], None))
        return layers[1:]

    def fitted(self, images: Tensor) -> Tensor:
        """Images of any size, resized to the one that the image tower reads."""
        size = self.sizes["image_size"]
        if images.shape[-2:] == (size, size):
            return images
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Writes config.json, model.safetensors (weights as `dtype`) and tokenizer.json."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.sizes, "length": self.tokenizer.length}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save(folder / "tokenizer.json")
        weights = {
            name: value.detach().to("cpu", dtype).contiguous() for name, value in self.state_dict().items()
        }
        save_file(weights, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> TwoTowers:
        """Reads what `save` wrote, as float32 and in evaluation mode."""
        from safetensors.torch import load_file

        folder = Path(folder)
        config = _read(folder / "config.json")
        tokenizer = Tokenizer.load(folder / "tokenizer.json", length=config.pop("length"))
        towers = cls(tokenizer=tokenizer, **config)
        weights = load_file(_existing(folder / "model.safetensors"))
        towers.load_state_dict({name: value.float() for name, value in weights.items()})
        return towers.eval()


class ResidualBlock(Protocol):
    """What `run_block` reads of open_clip's `ResidualAttentionBlock`."""

    attn: nn.MultiheadAttention
    ln_1: nn.Module
    ln_2: nn.Module
    ls_1: nn.Module
    ls_2: nn.Module
    mlp: nn.Module


def run_block(block: ResidualBlock, x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, L, D) through a residual block of open_clip; mask (B, L) bool, true where a token counts."""
    x = x + block.ls_1(self_attention(block.attn, block.ln_1(x), mask))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def self_attention(attn: nn.MultiheadAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    """What `attn(x, x, x)` computes with `mask` on the keys, through `attend`."""
    q, k, v = F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
    q, k, v = (split_heads(part, attn.num_heads) for part in (q, k, v))
    return attn.out_proj(merge_heads(attend(q, k, v, mask)))


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"{file.parent} holds no CLIP of this project: {file.name} is missing")
    return file


def _read(file: Path) -> dict[str, Any]:
    return json.loads(_existing(file).read_text())
