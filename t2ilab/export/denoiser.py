"""The export: what one stage hands to the next, complete and checked.

An export is a folder in diffusers' layout. `t2ilab.json` says what it is: the kind, the config nodes from which
the parts are rebuilt, the sha256 of every file, the parents, what was measured. `load` rebuilds from the
manifest alone, loads strictly, and refuses what does not fit with the option to change.

    export/  model_index.json  t2ilab.json
             transformer/config.json  transformer/diffusion_pytorch_model.safetensors   (EMA weights)
             transformer/raw.safetensors                                                (raw weights)
             transformer/early.safetensors        (averaged ones of an early step, if ema.snapshot_at was given)
             vae/  text_encoder/  scheduler/scheduler_config.json
             guide/                                             (the weaker model of guidance=autoguidance)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.averages.snapshots import load_posthoc, posthoc_width
from t2ilab.build import Node, build, targets
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.precision import as_exported
from t2ilab.export.adapter import save_adapter
from t2ilab.export.manifest import base_folder, carry, read_manifest, write_json, write_manifest
from t2ilab.export.reader import PARTS, WEIGHTS, Opened
from t2ilab.export.scheduler import scheduler_config, scheduler_facts, scheduler_of
from t2ilab.export.several import open_models
from t2ilab.export.text import learns, save_text
from t2ilab.export.weak_model import carried, provide
from t2ilab.latents.kl import BaseKL
from t2ilab.models.injection import injected
from t2ilab.pipeline import TextToImage

GPU_ROUNDING = 0.05  # of latents of unit variance, after all steps of a sampler in bf16
RAW = "transformer/raw.safetensors"
EARLY = "transformer/early.safetensors"  # with the names of the whole denoiser


@dataclass(frozen=True)
class Artifact:
    """A loaded export of kind `denoiser`.

    Attributes:
        denoiser, conditioner, autoencoder, sampler, guidance: ready to use, networks in evaluation mode.
        generate: prompts -> images, with exactly these parts.
        nodes: the config nodes of the parts, with paths of this machine.
        manifest: what `t2ilab.json` says.
        path: the export folder.
        opened: what it was built from.
    """

    denoiser: Denoiser
    conditioner: nn.Module
    autoencoder: nn.Module
    sampler: Any
    guidance: Any
    generate: TextToImage
    nodes: dict[str, Any]
    manifest: dict[str, Any]
    path: Path
    opened: Opened


def load(
    path: str | Path,
    *,
    weights: str = "ema",
    device: torch.device | str = "cpu",
    trusted: tuple[str, ...] = (),
    base: str | None = None,
    scales: float | Sequence[float] | None = None,
    chosen: Collection[str] = (),
) -> Artifact:
    """Everything that makes images, from a run or export folder, or from several of adapters.

    Args:
        base, scales, chosen: of adapters, as in `open_models`.
        weights: `ema` (what was evaluated), `raw`, or `posthoc:<sigma_rel>` of a run with ema=power.
        trusted: packages, besides this one, whose classes the manifest may name.

    Raises:
        ValueError: as read_manifest; or a class of a package that is not trusted; or weights that do not fit.
    """
    width = posthoc_width(weights)
    opened = open_models(
        path if isinstance(path, list) else str(path),
        trusted=trusted,
        base=base,
        scales=scales,
        chosen=chosen,
    )
    folder, manifest, nodes = opened.folder, opened.manifest, opened.nodes
    if weights != "ema" and manifest.get("learned_text"):
        raise ValueError(
            f"stage.weights={weights}: of a trained text encoder the average is kept alone; choose ema"
        )
    if width is not None and not opened.whole:
        raise ValueError(
            f"stage.weights={weights} is for whole models, and init_from={path} is an adapter: choose ema or raw"
        )
    try:
        denoiser = opened.denoiser(RAW if weights == "raw" else WEIGHTS)
        if width is not None:
            load_posthoc(denoiser, folder.parent / "averages", width, step=manifest["steps"])
        parts = {name: build(nodes[name]) for name in PARTS}
    except ValueError as error:
        raise ValueError(f"init_from={path}: {error}") from error
    for network in (denoiser, parts["conditioner"], parts["autoencoder"]):
        network.to(device).eval()
    shape = tuple(manifest["latent_shape"])
    provide(parts["guidance"], nodes, shape, early=early_of(folder), device=device, trusted=trusted)
    generate = TextToImage(
        denoiser,
        **parts,
        latent_shape=shape,
        precision=as_exported(manifest["precision"], torch.device(device)),
    )
    return Artifact(
        denoiser, **parts, generate=generate, nodes=nodes, manifest=manifest, path=folder, opened=opened
    )


def early_of(folder: Path) -> Path | None:
    """The early snapshot that an export keeps, if it does."""
    return folder / EARLY if (folder / EARLY).is_file() else None


def save(
    folder: Path,
    generate: TextToImage,
    *,
    nodes: Mapping[str, Node],
    facts: dict[str, Any],
    raw: dict[str, Tensor],
    early: Path | None = None,
) -> dict[str, Any]:
    """Writes an export of kind denoiser, or adapter if the denoiser has one or a word alone was learned.

    Args:
        generate: the parts, the denoiser carrying the weights that were evaluated.
        nodes: resolved config nodes of model, path, prediction, conditioner, autoencoder, sampler, guidance.
        facts: what else the manifest shall say (stage, parents, steps, images, evaluation ...).
        raw: state dict of the backbone without averaging.
        early: the file of an early snapshot, if the export shall keep one.

    Returns:
        its manifest.
    """
    if injected(generate.denoiser.backbone) or generate.conditioner.base_notes:
        return save_adapter(folder, generate, nodes=nodes, facts=facts, raw=raw)
    for name in ("transformer", "scheduler"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    backbone = generate.denoiser.backbone
    save_weights(backbone.state_dict(), folder / WEIGHTS)
    save_weights(raw, folder / RAW)
    if early is not None:
        shutil.copyfile(early, folder / EARLY)
    write_json(folder / "transformer/config.json", {"_class_name": type(backbone).__name__, **nodes["model"]})
    write_json(folder / "scheduler/scheduler_config.json", scheduler_config(nodes))
    references: dict[str, str] = {}
    encoder = carry(nodes["autoencoder"], folder, "vae", references)
    guide = carried(generate.guidance, nodes["guidance"], folder, references)
    text = save_text(generate.conditioner, nodes["conditioner"], folder, references)
    nodes = {**nodes, "autoencoder": encoder, "guidance": guide, "conditioner": text}
    config = folder / "vae/config.json"
    if isinstance(generate.autoencoder, BaseKL) and config.is_file():
        generate.autoencoder.record(config)
    write_json(folder / "model_index.json", _index(nodes, folder))
    own = {
        "nodes": nodes,
        "references": references,
        "time_scale": generate.denoiser.time_scale,
        "time_offset": generate.denoiser.time_offset,
        "reads": list(generate.denoiser.reads),
        "latent_shape": list(generate.latent_shape),
        "precision": generate.precision,
        "learned_text": bool(facts.get("learned_text")) or learns(generate.conditioner),
        **scheduler_facts(nodes),
    }
    return write_manifest(folder, "denoiser", facts | own)


def check_parity(folder: Path, generate: TextToImage, prompts: list[str]) -> float:
    """Largest difference of latents between these parts and the export read back, from the same noise.

    Raises:
        ValueError: if there is any; on a GPU, where kernels may be chosen anew, if it is more than rounding.
    """
    rows = list(range(len(prompts)))
    _, manifest = read_manifest(folder, kind=("denoiser", "adapter"))
    trusted = _known(folder, manifest)  # it ran here: no stranger
    loaded = load(folder, device=generate.device, trusted=trusted).generate
    again = loaded.with_(precision=generate.precision)  # a load here may choose another
    own, read = (maker.latents(prompts, seed=0, rows=rows) for maker in (generate, again))
    difference = float((own - read).abs().max())
    if not difference <= (0.0 if generate.device.type == "cpu" else GPU_ROUNDING):  # nan is no parity
        raise ValueError(
            f"the export in {folder} makes other images than the run (latents differ by {difference:g})"
        )
    return difference


def _known(folder: Path, manifest: dict[str, Any]) -> tuple[str, ...]:
    """The packages whose classes an export and its bases name."""
    own = packages(manifest["nodes"])
    place = base_folder(folder, manifest["base"]) if "base" in manifest else None
    return own if place is None else (*own, *_known(*read_manifest(place, kind=("denoiser", "adapter"))))


def packages(nodes: Mapping[str, Node]) -> tuple[str, ...]:
    """The packages whose classes the nodes name."""
    return tuple({name.partition(".")[0] for name in targets(list(nodes.values()))})


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def _index(nodes: Mapping[str, Node], folder: Path) -> dict[str, Any]:
    """diffusers' table of contents: for each part its library and class."""

    def entry(node: Node) -> list[str]:
        module, _, name = node["_target_"].rpartition(".")
        return [module, name]

    scheduler = scheduler_of(nodes).name
    vae = folder / "vae/config.json"
    itself = "vae" not in nodes["autoencoder"]  # and not a part of one
    known_vae = itself and vae.is_file() and json.loads(vae.read_text())["_class_name"] == "AutoencoderKL"
    return {
        "_class_name": "TextToImage",
        "_diffusers_version": version("diffusers"),
        "transformer": entry(nodes["model"]),
        "vae": ["diffusers", "AutoencoderKL"] if known_vae else entry(nodes["autoencoder"]),
        "text_encoder": entry(nodes["conditioner"]),
        "scheduler": entry(nodes["sampler"]) if scheduler is None else ["diffusers", scheduler],
    }
