"""Adapters written by others, added to a network of ours: files of diffusers, peft and kohya's tools.

With W a published weight, as a matrix of its rows, and s = alpha / r (alpha / sqrt(r) if rank-stabilised):

    LoRA    W + s B A                        DoRA    m V / |V| by rows, V = W + s B A
    LoHa    W + s (B1 A1) * (B2 A2)          LoKr    W + s C (x) D, each a matrix or a product of two

A layer of ours may hold several published ones: each changes its rows. Where a file does not name alpha it is the
rank, as its readers take it; in a LoKr of two whole matrices that is nowhere in the file, and s is 1 (LyCORIS writes
it as alpha). DoRA's norms may be those of columns there, (1, in). Equations and sources in adapters.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.build import Config
from t2ilab.models.convert_adapter import LORA_FILE, METADATA, PEFT_FILES, published

FILES = (PEFT_FILES[0], LORA_FILE)  # as peft and diffusers call what they write into a folder
ENDS = {  # how a factor's name ends in some file, and what it is
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_A.default.weight": "A",
    "lora_B.default.weight": "B",
    "lora.down.weight": "A",
    "lora.up.weight": "B",
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "lora_magnitude_vector": "norms",
    "lora_magnitude_vector.weight": "norms",
    "dora_scale": "norms",
    "alpha": "alpha",
    **{name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
    **{name: name for name in ("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")},
}
PREFIXES = ("base_model.model.", "unet.", "transformer.", "lora_unet_", "lora_transformer_", "lycoris_")
TEXT = ("text_encoder", "lora_te", "text_model")
FAITHFUL = (True, False, "gaussian", "kaiming", "orthogonal", "eva")  # inits that leave the base as it is


@dataclass(frozen=True)
class ForeignAdapter:
    """What a file says.

    Attributes:
        path: the file.
        layers: factors of each layer by what they are, under the name that the file has for it, without prefix.
        config: r, lora_alpha and use_rslora where the file says them.
    """

    path: Path
    layers: Mapping[str, Mapping[str, Tensor]]
    config: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> ForeignAdapter:
        """The adapter in a .safetensors file, or in a folder of peft or diffusers.

        Raises:
            ValueError: it holds none, or one of a kind that is not known.
        """
        from safetensors import safe_open
        from safetensors.torch import load_file

        path = Path(path)
        inside = (path / name for name in FILES if (path / name).is_file())
        file = next(inside, path)
        if not file.is_file():
            raise ValueError(f"init_from: there is no file {file}")
        with safe_open(file, framework="pt") as opened:
            header = dict(opened.metadata() or {})
        layers: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_file(file).items():
            name, kind = _factor(key, file)
            layers.setdefault(name, {})[kind] = tensor.float()
        if not layers:
            raise ValueError(f"init_from: {file} holds no adapter")
        return cls(file, layers, _config(file, header))

    def scale(self, name: str) -> float:
        """s of a layer."""
        factors, config = self.layers[name], self.config
        rank = _rank(factors, config)
        if rank is None:
            return 1.0
        alpha = float(factors["alpha"]) if "alpha" in factors else _alpha(name, config, rank)
        return alpha / (rank**0.5 if config.get("use_rslora") else rank)

    def changed(self, name: str, weight: Tensor) -> Tensor:
        """The weight of a published layer with the adapter."""
        factors = self.layers[name]
        whole = weight.flatten(1).float()
        moved = whole + self.scale(name) * _product(factors, self.path).reshape(whole.shape)
        moved = moved.reshape(weight.shape)
        return (_with_norms(moved, factors["norms"]) if "norms" in factors else moved).to(weight)


@torch.no_grad()
def add_adapter(network: nn.Module, adapter: ForeignAdapter, scale: float = 1.0) -> nn.Module:
    """The network with W + scale (W' - W) in place of W, W' that with the adapter; in place.

    Raises:
        ValueError: the file names layers that the network does not have, or of other shapes.
    """
    parts = published(network).parts
    places = {
        theirs.removesuffix(".weight"): (ours, number)
        for ours, part in parts.items()
        for number, theirs in enumerate(part.theirs)
    }
    whole = {ours.removesuffix(".weight").removeprefix("network."): (ours, None) for ours in parts}
    known: dict[str, tuple[str, int | None]] = {**whole, **places}
    known |= {name.replace(".", "_"): place for name, place in list(known.items())}
    missing = sorted(set(adapter.layers) - set(known))
    if missing:
        raise ValueError(
            f"init_from: {adapter.path} is an adapter of another network: there are no layers "
            f"{', '.join(missing[:3])}; {len(missing)} of its {len(adapter.layers)} are not known"
        )
    own = dict(network.named_parameters())
    for name in adapter.layers:
        ours, number = known[name]
        part, weight = parts[ours], own[ours]
        tensors: list[Tensor] = [weight] if number is None else list(part.separated(weight))
        place = number or 0
        try:
            changed = adapter.changed(name, tensors[place])
        except RuntimeError as error:
            raise ValueError(f"init_from: {adapter.path} does not fit the layer {name}: {error}") from error
        tensors[place] = torch.lerp(tensors[place], changed, scale)
        weight.copy_(tensors[0] if number is None else part.join(tensors))
    return network


def _factor(key: str, file: Path) -> tuple[str, str]:
    """The layer and the kind of a tensor of a file."""
    if key.startswith(TEXT):
        raise ValueError(
            f"init_from: {file} adapts a text encoder too ({key}), which is not read: of networks alone"
        )
    for end, kind in sorted(ENDS.items(), key=lambda item: -len(item[0])):
        if key.endswith(f".{end}"):
            name = key.removesuffix(f".{end}")
            for prefix in PREFIXES:
                name = name.removeprefix(prefix)
            return name, kind
    raise ValueError(f"init_from: {file} holds {key}, which belongs to no LoRA, DoRA, LoHa or LoKr")


def _config(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """What the header or peft's config beside the file says.

    Raises:
        ValueError: the adapter is relative to other weights than those of the base.
    """
    beside = file.parent / PEFT_FILES[1]
    if METADATA in header:
        found = json.loads(header[METADATA])
        found = {re.sub(r"^(unet|transformer)\.", "", key): value for key, value in found.items()}
    elif file.name == PEFT_FILES[0] and beside.is_file():
        found = json.loads(beside.read_text())
    else:
        return {}
    init = found.get("init_lora_weights", True)
    if init not in FAITHFUL:
        raise ValueError(
            f"init_from: {file} began inside the weights ({init}), and is relative to others than the base's: "
            "convert it to a plain LoRA first"
        )
    return found


def _rank(factors: Mapping[str, Tensor], config: Config) -> int | None:
    """r of a layer; None where no factor and no config has it."""
    for kind, axis in (("A", 0), ("hada_w1_b", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0)):
        if kind in factors:
            return factors[kind].shape[axis]
    return int(config["r"]) if "r" in config else None


def _alpha(name: str, config: Config, rank: int) -> float:
    """That of the layer, of all layers, or the rank."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.){pattern}$", name):
            return float(alpha)
    return float(config.get("lora_alpha", config.get("alpha", rank)))


def _with_norms(weight: Tensor, norms: Tensor) -> Tensor:
    """The weight with these norms of its rows, (out,) or (out, 1, ...), or of its columns, (1, in, ...)."""
    axis = 1 if norms.dim() > 1 and tuple(norms.shape[:2]) == (1, weight.shape[1]) else 0
    others = [number for number in range(weight.dim()) if number != axis]
    sizes = [-1 if number == axis else 1 for number in range(weight.dim())]
    return norms.reshape(sizes) * weight / weight.norm(dim=others, keepdim=True)


def _product(factors: Mapping[str, Tensor], path: Path) -> Tensor:
    """What is added to the weight, but for s."""

    def either(kind: str) -> Tensor:
        found = factors[kind] if kind in factors else factors[f"{kind}_a"] @ factors[f"{kind}_b"]
        return found.flatten(1)  # of a kernel, whose places lie behind the channel that they are of

    try:
        if "A" in factors:
            return factors["B"].flatten(1) @ factors["A"].flatten(1)
        if "hada_w1_a" in factors:
            return either("hada_w1") * either("hada_w2")
        return torch.kron(either("lokr_w1"), either("lokr_w2"))
    except KeyError as error:
        raise ValueError(f"init_from: {path} lacks a factor of a layer: {error}") from error
