"""ImageReward: what people prefer by a BLIP whose text tower looks at the image, and a head on its first token."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from t2ilab.core.folders import local_folder
from t2ilab.features.vit import CLIP, only_file
from t2ilab.rewards.aesthetic import linear_maps, read_state
from t2ilab.rewards.base import Reward
from t2ilab.rewards.towers import resized

if TYPE_CHECKING:
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

Network = TypeVar("Network", bound=nn.Module)

# Of its scores on the authors' data: they come out standardised.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LENGTH = 35  # tokens of a prompt
HEAD_WIDTH = 64  # numbers per head of every ViT that BLIP comes with
TEXT_SIZES = (  # what med_config.json says of the text tower
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "layer_norm_eps",
    "hidden_act",
    "pad_token_id",
)
VISION = {  # names of BLIP's own code to those of transformers
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.(\d+)\.attn\.qkv\.": r"encoder.layers.\1.self_attn.qkv.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layers.\1.self_attn.projection.",
    r"^blocks\.(\d+)\.norm([12])\.": r"encoder.layers.\1.layer_norm\2.",
    r"^blocks\.(\d+)\.mlp\.": r"encoder.layers.\1.mlp.",
}


class ImageReward(Reward):
    """(MLP(first token of text(prompt, image)) - mean) / std.

    The MLP's maps follow each other without activations, as in the released code. Everything but the tokenizer is in
    the released file; sizes of the image tower are read off its weights.

    Args:
        path: folder with the one file of weights (ImageReward.pt), med_config.json beside it, and the tokenizer of
            bert-base-uncased (vocab.txt).

    Raises:
        ValueError: one of them is missing, or the weights are those of something else.
    Source: Xu et al. 2023, arXiv 2304.05977, github.com/THUDM/ImageReward; Li et al. 2022 (BLIP), arXiv 2201.12086.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, *, path: str | None) -> None:
        super().__init__()
        folder = local_folder(path, "reward.path")
        for name, what in (("med_config.json", "the text tower's sizes"), ("vocab.txt", "its tokenizer")):
            if not (folder / name).is_file():
                raise ValueError(f"reward.path={path}: {name} is missing, which holds {what}")
        from transformers import BertTokenizer

        state = read_state(only_file(path, "reward.path"))
        self.tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
        self.vision = vision_tower(_under(state, "blip.visual_encoder.", path))
        width = self.vision.config.hidden_size
        self.text = text_tower(_under(state, "blip.text_encoder.", path), folder / "med_config.json", width)
        self.head = linear_maps(_under(state, "mlp.layers.", path))
        for name, values in (("pixel_mean", CLIP[0]), ("pixel_std", CLIP[1])):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
        tokens = self.tokenizer(list(prompts), **options).to(images.device)
        config: Any = self.vision.config
        pixels = resized(images.float(), config.image_size)
        seen = self.vision((pixels - self.pixel_mean) / self.pixel_std).last_hidden_state
        said = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        )
        return (self.head(said.last_hidden_state[:, 0].float())[:, 0] - MEAN) / STD


def vision_tower(state: Mapping[str, Tensor]) -> BlipVisionModel:
    """transformers' BLIP image tower with the weights of a ViT as BLIP names them."""
    from transformers import BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel

    for name in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight"):
        if name not in state:
            raise ValueError(f"reward.path: the weights are not those of ImageReward: they hold no {name}")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    edge = math.isqrt(state["pos_embed"].shape[1] - 1)
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        num_attention_heads=max(1, width // HEAD_WIDTH),
        image_size=edge * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # of BLIP's code; transformers' default is another
    )
    return _loaded(BlipVisionModel(config), {_renamed(name): value for name, value in state.items()})


def text_tower(state: Mapping[str, Tensor], sizes: Path, image_width: int) -> BlipTextModel:
    """transformers' BLIP text tower, which attends to the image, by the released med_config.json."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    try:
        told = json.loads(sizes.read_text())
    except ValueError as error:
        raise ValueError(f"reward.path: {sizes} is damaged ({error})") from error
    given: dict[str, Any] = {name: told[name] for name in TEXT_SIZES if name in told}
    given |= {"bos_token_id": None, "sep_token_id": None, "eos_token_id": None}  # nothing is generated
    config = BlipTextConfig(encoder_hidden_size=image_width, is_decoder=True, **given)
    own = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    return _loaded(BlipTextModel(config, add_pooling_layer=False), own)


def _renamed(name: str) -> str:
    return next((re.sub(old, new, name) for old, new in VISION.items() if re.search(old, name)), name)


def _under(state: Mapping[str, Tensor], prefix: str, path: str | None) -> dict[str, Tensor]:
    found = {
        name.removeprefix(prefix): value.float() for name, value in state.items() if name.startswith(prefix)
    }
    if not found:
        raise ValueError(
            f"reward.path={path}: the weights hold no {prefix}*, wanted those of ImageReward; they hold "
            f"{sorted(state)[:3]}"
        )
    return found


def _loaded(network: Network, state: Mapping[str, Tensor]) -> Network:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"reward.path: the weights are not those of ImageReward: {error}") from error
    return network
