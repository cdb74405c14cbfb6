"""DiT <-> the checkpoints of the official code (facebookresearch/DiT): settings and weights, both ways.

    state = torch.load(file, weights_only=True)
    network = DiT(**import_options(state, heads=16))
    network.load_state_dict(import_weights(state, network))

They predict eps from the step k = 0 .. 999 of `path=ddpm_linear`, so their denoiser is made with
`**path.counted_from_zero`. A variance, which they give too and nothing here reads, is left behind unless
`variance=True` keeps it. Labels are given by `dit.label_condition`. SiT's checkpoints have the same names, but
predict data less noise from a time that runs the other way, which no denoiser here does. diffusers'
DiTTransformer2DModel holds the same weights, but spaces the frequencies of its time embedding otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from t2ilab.models.blocks import ACTIVATIONS
from t2ilab.models.convert import (
    Part,
    from_published,
    layer,
    patches_in,
    patches_out,
    to_published,
    without_variance,
)
from t2ilab.models.dit import DiT

POSITIONS = "pos_embed"


def import_options(state: Mapping[str, Tensor], *, heads: int, variance: bool = False) -> dict[str, Any]:
    """Arguments of the DiT that computes what the official one with these weights does.

    Args:
        state: the published state dict.
        heads: attention heads, which weights do not tell: 6, 12, 16, 16 for S, B, L, XL.
        variance: keep the second half of its output channels.
    Raises:
        ValueError: these are no weights of a DiT.
    """
    try:
        width, channels, patch, _ = state["x_embedder.proj.weight"].shape
        places, rows = state[POSITIONS].shape[1], len(state["y_embedder.embedding_table.weight"])
        out = len(state["final_layer.linear.bias"])
    except KeyError as error:
        raise ValueError(f"these are no weights of the official DiT: {error} is missing") from error
    depth = sum(name.endswith(".attn.qkv.weight") for name in state)
    return {
        "in_channels": channels,
        "input_size": math.isqrt(places) * patch,
        "patch_size": patch,
        "width": width,
        "depth": depth,
        "heads": heads,
        "num_classes": rows - 1,
        "learn_sigma": variance and out == 2 * channels * patch**2,
        "mlp_ratio": len(state["blocks.0.mlp.fc1.bias"]) / width,
        "activation": "gelu_tanh",
    }


def import_weights(state: Mapping[str, Tensor], network: DiT) -> dict[str, Tensor]:
    """The state dict that `network` loads; a variance is dropped if the network has none.

    Raises:
        ValueError: the weights are those of another network.
    """
    channels = _channels(network)
    rest = {name: tensor for name, tensor in state.items() if name != POSITIONS}  # computed here
    if network.out_channels == channels:
        for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
            rest[name] = without_variance(rest[name], network.patch_size, channels)
    return from_published(_parts(network), rest)


def export_weights(network: DiT) -> dict[str, Tensor]:
    """The state dict that the official DiT of the same sizes loads.

    Raises:
        ValueError: the network has something that the official one lacks.
    """
    if (
        network.positions is None
        or network.blocks[0].get_submodule("mlp").activation is not ACTIVATIONS["gelu_tanh"]
    ):
        raise ValueError("DiT can be converted with positions=sincos and activation=gelu_tanh only")
    edge = network.positions.base
    return {
        POSITIONS: network.positions.made(edge, edge)[None],
        **to_published(_parts(network), network.state_dict()),
    }


def _channels(network: DiT) -> int:
    return network.patch_in.in_features // network.patch_size**2


def _parts(network: DiT) -> Iterator[Part]:
    yield from patches_in("x_embedder.proj", network.patch_size)
    yield from layer("time.hidden", "t_embedder.mlp.0")
    yield from layer("time.out", "t_embedder.mlp.2")
    yield Part("labels.weight", ("y_embedder.embedding_table.weight",))
    for number in range(network.depth):
        name = f"blocks.{number}"
        yield from layer(f"{name}.modulation", f"{name}.adaLN_modulation.1")
        yield from layer(f"{name}.attention.qkv", f"{name}.attn.qkv")
        yield from layer(f"{name}.attention.out", f"{name}.attn.proj")
        yield from layer(f"{name}.mlp.hidden", f"{name}.mlp.fc1")
        yield from layer(f"{name}.mlp.out", f"{name}.mlp.fc2")
    yield from layer("final_modulation", "final_layer.adaLN_modulation.1")
    yield from patches_out("final_layer.linear", network.patch_size)
