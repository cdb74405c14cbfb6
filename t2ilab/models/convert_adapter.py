"""Adapters in the names of others: diffusers, peft, and the tools that read kohya's layout.

A layer of ours may hold several published ones, one below the other (queries, keys, values). LoRA splits exactly:
each of them gets its rows of B, and of the norms m, with the same A. PiSSA is relative to weights that it has
changed; on those as they were it is a LoRA of twice the rank, W + s [B, -B0] [A; A0]. The products of LoHa and LoKr
do not split: they keep our layers. Equations in adapters.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from t2ilab.models import convert_pixart, convert_sd3
from t2ilab.models.adapters import LoRA
from t2ilab.models.convert import Part
from t2ilab.models.injection import adapter_state, injected
from t2ilab.models.mmdit import MMDiT
from t2ilab.models.pixart import PixArt
from t2ilab.models.unet import UNet

LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILES = ("adapter_model.safetensors", "adapter_config.json")
METADATA = "lora_adapter_metadata"  # where diffusers looks for rank and alpha in the header of the file


@dataclass(frozen=True)
class Published:
    """What a network of ours is called elsewhere.

    Attributes:
        component: its place in a pipeline: unet or transformer.
        kind: the class that computes the same, None where there is none and the names are ours.
        parts: the published tensors of every weight of ours.
    """

    component: str
    kind: str | None
    parts: Mapping[str, Part]


def published(network: nn.Module) -> Published:
    """The names of a network with or without an adapter."""
    names = [name.replace(".base_layer", "") for name, _ in network.named_parameters() if "lora_" not in name]
    weights = [name for name in names if name.endswith(".weight")]
    if isinstance(network, UNet):
        parts = [Part(name, (name.removeprefix("network."),)) for name in weights]
        return Published("unet", "UNet2DConditionModel", {part.ours: part for part in parts})
    kind = None
    parts = [Part(name, (name,)) for name in weights]
    for own, module, theirs in (
        (MMDiT, convert_sd3, "SD3Transformer2DModel"),
        (PixArt, convert_pixart, "PixArtTransformer2DModel"),
    ):
        if isinstance(network, own) and _computes_the_same(module, network):
            kind, parts = theirs, list(module.parts(network))
    return Published("transformer", kind, {part.ours: part for part in parts})


def as_lora(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The LoRA weights by published names, and the config that says rank and alpha.

    Raises:
        ValueError: the adapter is none of LoRA's kinds.
    """
    made = injected(network)
    if made is None or not isinstance(made.adapter, LoRA):
        raise ValueError("only adapters of the kinds lora, rslora, dora and pissa are LoRA weights")
    names, state = published(network), adapter_state(network)
    found: dict[str, Tensor] = {}
    targets = []
    for layer in made.layers:
        part = names.parts[f"{layer}.weight"]
        a, b = state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"]
        if f"{layer}.A0" in state:
            a = torch.cat([a, state[f"{layer}.A0"].to(a)])
            b = torch.cat([b, -state[f"{layer}.B0"].to(b)], 1)
        norms = state.get(f"{layer}.lora_magnitude_vector")
        split_norms = [None] * len(part.theirs) if norms is None else part.separated(norms)
        for theirs, rows, norm in zip(part.theirs, part.separated(b), split_norms, strict=True):
            name = theirs.removesuffix(".weight")
            targets.append(name)
            found[f"{name}.lora_A.weight"], found[f"{name}.lora_B.weight"] = a, rows
            if norm is not None:
                found[f"{name}.lora_magnitude_vector"] = norm
    factor = 2 if made.start else 1
    from peft import LoraConfig

    config = LoraConfig(
        r=factor * made.adapter.rank,
        lora_alpha=cast(int, factor * made.adapter.alpha),
        target_modules=sorted(targets),
        use_rslora=made.adapter.rslora,
        use_dora=made.adapter.dora,
    )
    return found, _plain(config)


def save_published(network: nn.Module, folder: Path) -> list[Path]:
    """Writes the adapter as others read it: LoRA's kinds for diffusers, LoHa and LoKr for peft.

    Returns:
        the files.
    """
    from safetensors.torch import save_file

    made = injected(network)
    assert made is not None
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(made.adapter, LoRA):
        weights, config = as_lora(network)
        component = published(network).component
        header = {f"{component}.{key}": value for key, value in config.items()}
        path = folder / LORA_FILE
        save_file(
            {
                f"{component}.{name}": value.detach().cpu().contiguous().clone()
                for name, value in weights.items()
            },
            path,
            metadata={"format": "pt", METADATA: json.dumps(header, sort_keys=True)},
        )
        return [path]
    prefix = "network." if isinstance(network, UNet) else ""
    layers = [layer.removeprefix(prefix) for layer in made.layers]
    own = {name: value for name, value in adapter_state(network).items() if name not in made.beside}
    weights = {f"base_model.model.{name.removeprefix(prefix)}": value for name, value in own.items()}
    paths = [folder / name for name in PEFT_FILES]
    save_file(
        {n: v.detach().cpu().contiguous() for n, v in weights.items()}, paths[0], metadata={"format": "pt"}
    )
    paths[1].write_text(json.dumps(_plain(made.adapter.config(layers)), indent=1, sort_keys=True) + "\n")
    return paths


def save_kohya(network: nn.Module, path: Path) -> Path:
    """Writes LoRA weights in kohya's layout: lora_down, lora_up and alpha of every layer, with _ for the dots.

    The scale there is alpha / rank, so alpha is s r for every kind; the norms of DoRA are `dora_scale`, (out, 1).
    """
    from safetensors.torch import save_file

    weights, config = as_lora(network)
    made, component = injected(network), published(network).component
    assert made is not None
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        layer, _, end = name.partition(".lora_")
        key = f"lora_{component}_{layer.replace('.', '_')}"
        value = weight.detach().cpu().contiguous().clone()
        if end == "magnitude_vector":
            found[f"{key}.dora_scale"] = value[:, None]
            continue
        found[f"{key}.lora_{'down' if end.startswith('A') else 'up'}.weight"] = value
        found[f"{key}.alpha"] = torch.tensor(made.adapter.scale * config["r"])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(found, path, metadata={"format": "pt", "ss_network_dim": str(config["r"])})
    return path


def _computes_the_same(module: Any, network: nn.Module) -> bool:
    try:
        module.export_config(network)
    except ValueError:  # it says which option the class lacks
        return False
    return True


def _plain(config: Any) -> dict[str, Any]:
    """What JSON can hold of a peft config."""
    found = {
        key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()
    }
    return json.loads(json.dumps(found, default=str))
