"""MMDiT <-> diffusers' SD3Transformer2DModel: settings and weights, both ways; the outputs are the same.

    options = import_options(published.config)
    network = MMDiT(**options)
    network.load_state_dict(import_weights(published.state_dict(), network))

Both are told 1000 t and predict the velocity eps - x0. What diffusers' class cannot express is refused: normalised
text, another GELU, rotary positions; and here the second attention of SD3.5-medium.
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
    swapped,
    to_published,
)
from t2ilab.models.mmdit import MMDiT

TABLE = "pos_embed.pos_embed"
ROUNDING = 2e-3  # of a table that was stored in half precision


def import_options(config: Config) -> dict[str, Any]:
    """Arguments of the MMDiT that computes what a SD3Transformer2DModel of this config does.

    Raises:
        ValueError: the config has something that MMDiT lacks.
    """
    patch, width = config["patch_size"], config["num_attention_heads"] * config["attention_head_dim"]
    channels, size = config["in_channels"], config["pos_embed_max_size"]
    wanted = {"dual_attention_layers": (), "out_channels": channels, "caption_projection_dim": width}
    given = dict(config) | {
        "dual_attention_layers": tuple(config.get("dual_attention_layers") or ()),
        "out_channels": config.get("out_channels") or channels,
    }
    require("SD3Transformer2DModel", given, wanted)
    if config["qk_norm"] not in (None, "rms_norm"):
        raise ValueError(f"SD3Transformer2DModel with qk_norm={config['qk_norm']!r} cannot be converted")
    return {
        "in_channels": channels,
        "input_size": config["sample_size"],
        "patch_size": patch,
        "width": width,
        "depth": config["num_layers"],
        "heads": config["num_attention_heads"],
        "text_dim": config["joint_attention_dim"],
        "pooled_dim": config["pooled_projection_dim"],
        "norm_text": False,
        "mlp_ratio": 4.0,
        "activation": "gelu_tanh",
        "qk_norm": config["qk_norm"] is not None,
        "positions": "sincos",
        "position_max": size,
        "position_base": None if size is None else config["sample_size"] // patch,
    }


def export_config(network: MMDiT) -> dict[str, Any]:
    """Arguments of the SD3Transformer2DModel that computes what this network does.

    Raises:
        ValueError: the network has something that diffusers' class lacks; the option to change is named.
    """
    wanted = {"norm_text": False, "activation": "gelu_tanh", "mlp_ratio": 4.0, "overlap": 0}
    require("MMDiT", vars(network), wanted)
    if network.positions is None or network.pooled_dim is None:
        raise ValueError("MMDiT can be converted with positions=sincos and pooled text only")
    return {
        "sample_size": network.positions.base * network.patch_size,
        "patch_size": network.patch_size,
        "in_channels": network.in_channels,
        "num_layers": network.depth,
        "attention_head_dim": network.width // network.heads,
        "num_attention_heads": network.heads,
        "joint_attention_dim": network.text_dim,
        "caption_projection_dim": network.width,
        "pooled_projection_dim": network.pooled_dim,
        "out_channels": network.in_channels,
        "pos_embed_max_size": network.positions.size,
        "dual_attention_layers": (),
        "qk_norm": "rms_norm" if network.qk_norm else None,
    }


def import_weights(state: Mapping[str, Tensor], network: MMDiT) -> dict[str, Tensor]:
    """The state dict that `network` loads, made of that of a SD3Transformer2DModel.

    Raises:
        ValueError: the weights are those of another network, or made for other positions.
    """
    rest = {name: tensor for name, tensor in state.items() if name != TABLE}
    if TABLE in state:
        table = _table(network)
        if table is None or table.shape != state[TABLE].shape:
            raise ValueError("the weights have another table of positions: see model.position_max")
        if (state[TABLE].float() - table.to(state[TABLE].device)).abs().max() > ROUNDING:
            raise ValueError("the weights have another table of positions: see model.position_base")
    return from_published(parts(network), rest)


def export_weights(network: MMDiT) -> dict[str, Tensor]:
    """The state dict that a SD3Transformer2DModel of `export_config(network)` loads."""
    state = to_published(parts(network), network.state_dict())
    table = _table(network)
    return state if table is None else {TABLE: table, **state}


def _table(network: MMDiT) -> Tensor | None:
    """diffusers keeps the table that smaller grids are cut from; here it is computed."""
    if network.positions is None or network.positions.size is None:
        return None
    return network.positions.made(network.positions.size, network.positions.size)[None]


def parts(network: MMDiT) -> Iterator[Part]:
    """Which published tensors each of ours is made of."""
    patch = network.patch_size
    yield from patches_in("pos_embed.proj", patch)
    for ours, theirs in (("time", "timestep_embedder"), ("pooled_in", "text_embedder")):
        yield from layer(f"{ours}.hidden", f"time_text_embed.{theirs}.linear_1")
        yield from layer(f"{ours}.out", f"time_text_embed.{theirs}.linear_2")
    yield from layer("text_in", "context_embedder")
    for number in range(network.depth):
        yield from _block(f"blocks.{number}", f"transformer_blocks.{number}", network, number)
    yield from swapped("final_modulation", "norm_out.linear")
    yield from patches_out("proj_out", patch)


def _block(ours: str, theirs: str, network: MMDiT, number: int) -> Iterator[Part]:
    last = number == network.depth - 1
    yield from layer(f"{ours}.image.modulation", f"{theirs}.norm1.linear")
    yield from layer(f"{ours}.image.attention.qkv", *(f"{theirs}.attn.to_{part}" for part in "qkv"))
    yield from layer(f"{ours}.image.attention.out", f"{theirs}.attn.to_out.0")
    yield from layer(f"{ours}.image.mlp.hidden", f"{theirs}.ff.net.0.proj")
    yield from layer(f"{ours}.image.mlp.out", f"{theirs}.ff.net.2")
    yield from layer(f"{ours}.text.attention.qkv", *(f"{theirs}.attn.add_{part}_proj" for part in "qkv"))
    if last:
        yield from swapped(f"{ours}.text.modulation", f"{theirs}.norm1_context.linear")
    else:
        yield from layer(f"{ours}.text.modulation", f"{theirs}.norm1_context.linear")
        yield from layer(f"{ours}.text.attention.out", f"{theirs}.attn.to_add_out")
        yield from layer(f"{ours}.text.mlp.hidden", f"{theirs}.ff_context.net.0.proj")
        yield from layer(f"{ours}.text.mlp.out", f"{theirs}.ff_context.net.2")
    if network.qk_norm:
        for stream, name in (("image", "norm"), ("text", "norm_added")):
            for part in "qk":
                own = f"{ours}.{stream}.attention.{part}_norm.weight"
                yield Part(own, (f"{theirs}.attn.{name}_{part}.weight",))
