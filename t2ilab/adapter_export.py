"""The export of an adapter: its weights, the digest of the model that it belongs to, and files that others read.

    export/  t2ilab.json                                     (kind adapter; base: path and digest)
             adapter/weights.safetensors  adapter/raw.safetensors   (EMA and raw, in peft's names for our layers)
             pytorch_lora_weights.safetensors                (LoRA's kinds, for diffusers)
             adapter_model.safetensors  adapter_config.json  (LoHa and LoKr, for peft)

The average is that of the factors, not of their product; EMA weights are what was evaluated and what others read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from t2ilab.generate import TextToImage
from t2ilab.manifest import write_manifest
from t2ilab.models.adapters import adapter_state, injected
from t2ilab.models.convert_adapter import save_published
from t2ilab.opened import ADAPTER, ADAPTER_RAW

DRAWS = ("sampler", "guidance")  # what an adapter's run may choose anew; the rest is the base's


def save_adapter(
    folder: Path,
    generate: TextToImage,
    *,
    nodes: dict[str, Any],
    facts: dict[str, Any],
    raw: dict[str, Tensor],
) -> dict[str, Any]:
    """Writes an export of kind adapter and returns its manifest; the arguments are those of `artifact.save`."""
    from safetensors.torch import save_file

    network = generate.denoiser.backbone
    made = injected(network)
    assert made is not None
    (folder / ADAPTER).parent.mkdir(parents=True, exist_ok=True)
    for name, state in ((ADAPTER, None), (ADAPTER_RAW, raw)):
        weights = adapter_state(network, state)
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}, folder / name
        )
    save_published(network, folder)
    about = {
        "adapter": made.notes["node"],
        "base": made.notes["base"],
        "nodes": {name: nodes[name] for name in DRAWS},
        "references": {},
        "reads": list(generate.denoiser.reads),
        "latent_shape": list(generate.latent_shape),
        "precision": generate.precision,
    }
    return write_manifest(folder, "adapter", facts | about)
