"""The weaker model of a guidance rule: another export (autoguidance), or an early snapshot of the model (early)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from t2ilab.build import Node
from t2ilab.core.autoguidance import Autoguidance, EarlyGuidance
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.guidance import Guidance
from t2ilab.export.manifest import carry, export_folder, identity
from t2ilab.export.reader import Opened, describe_export, load_weights, named

SHARED = ("autoencoder", "conditioner", "path")  # what both models have to read alike


def provide(
    guidance: Guidance,
    nodes: Mapping[str, Node],
    latent_shape: tuple[int, ...],
    *,
    early: Path | None,
    device: torch.device | str,
    trusted: tuple[str, ...] = (),
) -> None:
    """Hands the weaker model to a rule that guides by one; leaves other rules as they are.

    Args:
        nodes: config nodes of the guided model's parts, with paths of this machine.
        latent_shape: (C, H, W) of the guided model.
        early: file of the early snapshot, which need not be there yet; None if there will be none.
        trusted: packages, besides this one, whose classes the other export may name.

    Raises:
        ValueError: there is no such export or snapshot, or it reads other latents, texts or noise.
    """
    other = weaker(guidance, nodes, latent_shape, early=early, trusted=trusted)
    if isinstance(guidance, EarlyGuidance) and early is not None:
        guidance.find = EarlySelf(early)
    elif isinstance(guidance, Autoguidance) and other is not None:
        model = _read(guidance.path, other).to(device).eval().requires_grad_(False)
        guidance.find = lambda denoiser: model


def weaker(
    guidance: Guidance,
    nodes: Mapping[str, Node],
    latent_shape: tuple[int, ...],
    *,
    early: Path | None,
    trusted: tuple[str, ...] = (),
) -> Opened | None:
    """The other export that a rule guides by, if it does, before its files are read; arguments as of `provide`."""
    if isinstance(guidance, EarlyGuidance) and early is None:
        raise ValueError(
            "guidance=early needs the early snapshot of a run with ema.snapshot_at=0.25 (or another "
            "share), which this one has not kept: choose another guidance"
        )
    if isinstance(guidance, EarlyGuidance) or not isinstance(guidance, Autoguidance):
        return None
    path = guidance.path
    if not path:
        raise ValueError("guidance.path=<run or export folder> is needed: a smaller or less trained model")
    with named("guidance.path", path):
        opened = describe_export(path, trusted=trusted)
    theirs = tuple(opened.manifest["latent_shape"])
    if theirs != tuple(latent_shape):
        raise ValueError(
            f"guidance.path={path} makes latents {theirs}, the guided model {tuple(latent_shape)}"
        )
    for name in SHARED:
        if opened.nodes[name] != nodes[name] and identity(opened.nodes[name]) != identity(nodes[name]):
            raise ValueError(
                f"guidance.path={path} was trained with another {name} than the model that it shall guide"
            )
    return opened


def carried(guidance: Guidance, node: Node, folder: Path, references: dict[str, str]) -> dict[str, Any]:
    """The node of a rule whose weaker model travels in the export `folder`, or is referred to if it is large."""
    if node.get("path") and isinstance(guidance, Autoguidance):  # maybe that of a run
        node = {**node, "path": str(export_folder(node["path"], "guidance.path"))}
    return carry(node, folder, "guide", references)


class EarlySelf:
    """(denoiser) -> the same with the weights of a snapshot, or None while the file is not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: Denoiser | None = None

    def __call__(self, denoiser: Denoiser) -> Denoiser | None:
        if self.made is None and self.path.is_file():
            made = copy.deepcopy(denoiser)
            made.zero_grad(set_to_none=True)
            load_weights(made, self.path)
            self.made = made.eval().requires_grad_(False)
        return self.made


def _read(path: str | None, opened: Opened) -> Denoiser:
    """The averaged denoiser of the export at `path`."""
    with named("guidance.path", path):
        opened.check_files()
        return opened.denoiser()
