"""PixArt <-> diffusers' PixArtTransformer2DModel: settings and weights, both ways; the outputs are the same.

    options = import_options(published.config)
    network = PixArt(**options)
    network.load_state_dict(import_weights(published.state_dict(), network))

The published networks predict eps from the step k = 0 .. 999 of `path=ddpm_linear`, so their denoiser is made with
`**path.counted_from_zero`. They give a variance, too, in the second half of their channels, which nothing here reads,
so it is left behind; `import_options(config, variance=True)` makes a network that holds all weights and gives them
back bit for bit. The size and aspect conditions of PixArt-alpha at 1024 px are refused; alpha at 256 and 512 px and
Sigma have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from t2ilab.build import Config
from t2ilab.models.convert import (
    Part,
    from_published,
    layer,
    patches_in,
    patches_out,
    require,
    to_published,
    without_variance,
)
from t2ilab.models.pixart import PixArt

FIXED = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_type": "default",
    "use_additional_conditions": False,
}


def import_options(config: Config, *, variance: bool = False) -> dict[str, Any]:
    """Arguments of the PixArt that computes what a PixArtTransformer2DModel of this config does.

    Args:
        config: that of the published network.
        variance: keep the second half of its output channels, if it has one.
    Raises:
        ValueError: the config has something that our network lacks.
    """
    size, channels = config["sample_size"], config["in_channels"]
    width = config["num_attention_heads"] * config["attention_head_dim"]
    given = dict(config)
    if given.get("use_additional_conditions") is None:
        given["use_additional_conditions"] = size == 128  # diffusers' rule
    require("PixArtTransformer2DModel", given, FIXED | {"cross_attention_dim": width})
    if config["caption_channels"] is None:
        raise ValueError("PixArtTransformer2DModel with caption_channels=None cannot be converted")
    out, scale = config["out_channels"] or channels, config["interpolation_scale"]
    if out not in (channels, 2 * channels):
        raise ValueError(f"PixArtTransformer2DModel with out_channels={out} cannot be converted")
    return {
        "in_channels": channels,
        "input_size": size,
        "patch_size": config["patch_size"],
        "width": width,
        "depth": config["num_layers"],
        "heads": config["num_attention_heads"],
        "text_dim": config["caption_channels"],
        "pooled_dim": None,
        "norm_text": False,
        "learn_sigma": variance and out != channels,
        "mlp_ratio": 4.0,
        "activation": "gelu_tanh",
        "position_scale": float(max(size // 64, 1) if scale is None else scale),
    }


def export_config(network: PixArt) -> dict[str, Any]:
    """Arguments of the PixArtTransformer2DModel that computes what this network does.

    Raises:
        ValueError: the network has something that diffusers' class lacks; the option to change is named.
    """
    wanted = {
        "norm_text": False,
        "activation": "gelu_tanh",
        "mlp_ratio": 4.0,
        "pooled_dim": None,
        "overlap": 0,
    }
    require("PixArt", vars(network), wanted)
    return FIXED | {
        "num_attention_heads": network.heads,
        "attention_head_dim": network.width // network.heads,
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
        "num_layers": network.depth,
        "cross_attention_dim": network.width,
        "sample_size": network.positions.base * network.patch_size,
        "patch_size": network.patch_size,
        "interpolation_scale": network.positions.scale,
        "caption_channels": network.text_dim,
    }


def import_weights(state: Mapping[str, Tensor], network: PixArt) -> dict[str, Tensor]:
    """The state dict that `network` loads, made of that of a PixArtTransformer2DModel.

    A variance among the weights is dropped if the network has none.

    Raises:
        ValueError: the weights are those of another network.
    """
    if network.out_channels == network.in_channels:
        sizes = network.patch_size, network.in_channels
        last = ("proj_out.weight", "proj_out.bias")
        state = dict(state) | {name: without_variance(state[name], *sizes) for name in last if name in state}
    return from_published(parts(network), state)


def export_weights(network: PixArt) -> dict[str, Tensor]:
    """The state dict that a PixArtTransformer2DModel of `export_config(network)` loads."""
    return to_published(parts(network), network.state_dict())


def parts(network: PixArt) -> Iterator[Part]:
    """Which published tensors each of ours is made of."""
    yield from patches_in("pos_embed.proj", network.patch_size)
    yield from layer("time.hidden", "adaln_single.emb.timestep_embedder.linear_1")
    yield from layer("time.out", "adaln_single.emb.timestep_embedder.linear_2")
    yield from layer("modulation", "adaln_single.linear")
    yield from layer("text_in.hidden", "caption_projection.linear_1")
    yield from layer("text_in.out", "caption_projection.linear_2")
    for number in range(network.depth):
        ours, theirs = f"blocks.{number}", f"transformer_blocks.{number}"
        yield Part(f"{ours}.table", (f"{theirs}.scale_shift_table",))
        yield from layer(f"{ours}.attention.qkv", *(f"{theirs}.attn1.to_{part}" for part in "qkv"))
        yield from layer(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0")
        yield from layer(f"{ours}.cross.q", f"{theirs}.attn2.to_q")
        yield from layer(f"{ours}.cross.kv", f"{theirs}.attn2.to_k", f"{theirs}.attn2.to_v")
        yield from layer(f"{ours}.cross.out", f"{theirs}.attn2.to_out.0")
        yield from layer(f"{ours}.mlp.hidden", f"{theirs}.ff.net.0.proj")
        yield from layer(f"{ours}.mlp.out", f"{theirs}.ff.net.2")
    yield Part("final_table", ("scale_shift_table",))
    yield from patches_out("proj_out", network.patch_size)
