"""The export of an adapter: its weights, the digest of the model that it belongs to, and files that others read.

    export/  t2ilab.json                                     (kind adapter; base: path and digest)
             adapter/weights.safetensors  adapter/raw.safetensors   (EMA and raw, in peft's names for our layers)
             pytorch_lora_weights.safetensors                (LoRA's kinds, for diffusers)
             adapter_model.safetensors  adapter_config.json  (LoHa and LoKr, for peft)
             scheduler/scheduler_config.json                 (of a student)
             guide/                                          (the weaker model of guidance=autoguidance)
             learned/  text_encoder/                         (words, a trained text encoder: text.py)

Where a word alone was learned there are no weights of an adapter. The average is that of the factors, not of their
product; EMA weights are what was evaluated and what others read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from t2ilab.build import Node
from t2ilab.export.manifest import write_json, write_manifest
from t2ilab.export.reader import ADAPTER, ADAPTER_RAW
from t2ilab.export.scheduler import scheduler_config, scheduler_facts
from t2ilab.export.text import learns, save_change
from t2ilab.export.weak_model import carried
from t2ilab.models.convert_adapter import save_published
from t2ilab.models.injection import adapter_state, injected
from t2ilab.pipeline import TextToImage


def save_adapter(
    folder: Path,
    generate: TextToImage,
    *,
    nodes: Mapping[str, Node],
    facts: dict[str, Any],
    raw: dict[str, Tensor],
) -> dict[str, Any]:
    """Writes an export of kind adapter and returns its manifest; the arguments are those of `denoiser.save`."""
    from safetensors.torch import save_file

    network, references = generate.denoiser.backbone, dict[str, str]()
    made = injected(network)
    notes = generate.conditioner.base_notes if made is None else made.notes
    assert notes is not None, "neither an adapter nor learned words"
    for name, state in ((ADAPTER, None), (ADAPTER_RAW, raw)) if made else ():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        weights = adapter_state(network, state)
        save_file(
            {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}, folder / name
        )
    if made:
        save_published(network, folder)
    told = scheduler_facts(nodes)
    if told:  # a student: its times are no less a part of it than its weights
        (folder / "scheduler").mkdir(exist_ok=True)
        write_json(folder / "scheduler/scheduler_config.json", scheduler_config(nodes))
    text = save_change(generate.conditioner, nodes["conditioner"], notes["conditioner"], folder, references)
    guide = carried(generate.guidance, nodes["guidance"], folder, references)
    about = {
        "adapter": notes["node"],
        "base": notes["base"],
        "nodes": {"sampler": nodes["sampler"], "guidance": guide} | text,
        "references": references,
        "reads": list(generate.denoiser.reads),
        "latent_shape": list(generate.latent_shape),
        "precision": generate.precision,
        "learned_text": learns(generate.conditioner),
        **told,
    }
    return write_manifest(folder, "adapter", facts | about)
