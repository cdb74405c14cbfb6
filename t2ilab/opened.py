"""An export as its manifest describes it, found whole and fit for this version before anything of it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from t2ilab.build import NothingToCall, build, locate, targets
from t2ilab.check import problems
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.null_text import add_null_text
from t2ilab.manifest import absolute, check_references, read_manifest

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
OWN = "t2ilab"
# built as they are; the denoiser is put together
PARTS = ("conditioner", "autoencoder", "sampler", "guidance")


@dataclass(frozen=True)
class Opened:
    """What an export of kind `denoiser` says, found whole and fit for this version, before anything is built.

    Attributes:
        folder, manifest: the export.
        nodes: the config nodes of its parts, with paths of this machine.
    """

    folder: Path
    manifest: dict[str, Any]
    nodes: dict[str, Any]

    def denoiser(self, weights: str, new: Sequence[str] = ()) -> Denoiser:
        """The denoiser with the weights of one of its files, on the CPU; `new` as in `load_weights`."""
        backbone = build(self.nodes["model"])
        add_null_text(backbone, self.nodes["conditioner"])
        load_weights(backbone, self.folder / weights, new)
        path, prediction = build(self.nodes["path"]), build(self.nodes["prediction"])
        times = {
            "time_scale": self.manifest["time_scale"],
            "time_offset": self.manifest.get("time_offset", 0.0),
        }
        return Denoiser(backbone, path, prediction, **times)


def open_export(path: str | Path, *, trusted: tuple[str, ...] = ()) -> Opened:
    """The export at a run or export folder, checked; for `trusted` and what is raised see `artifact.load`."""
    folder, manifest = read_manifest(path, kind="denoiser")
    nodes = {name: absolute(node, folder) for name, node in manifest["nodes"].items()}
    _refuse_foreign(nodes | {"data": manifest.get("data")}, trusted, path)
    _refuse_misfits(nodes, path)
    check_references(manifest["references"], path)
    return Opened(folder, manifest, nodes)


def load_weights(network: nn.Module, path: Path, new: Sequence[str] = ()) -> None:
    """Strict loading with the names that do not fit in the error.

    Args:
        new: beginnings of names that the file need not hold, and that stay as they are.

    Raises:
        ValueError: the file lacks another one, holds more, or has other shapes.
    """
    from safetensors.torch import load_file

    weights = load_file(path)
    own = network.state_dict()
    fresh = {name: own[name] for name in own.keys() - weights.keys() if name.startswith(tuple(new))}
    try:
        network.load_state_dict(weights | fresh, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} does not fit the model that the manifest describes: {error}"
        ) from error


def _refuse_foreign(nodes: dict[str, Any], trusted: tuple[str, ...], path: Any) -> None:
    """A manifest may name classes of this package only: not what its modules import, nor functions."""
    named = [target for target in targets(list(nodes.values())) if not _is_of(target, trusted)]
    foreign = [target for target in named if not _is_of(target, (OWN,)) or not _is_own_class(target, path)]
    if foreign:
        raise ValueError(
            f"init_from={path} names what is not a class of t2ilab: {', '.join(foreign)}; if you trust it, give "
            f"stage.trusted=[{foreign[0].partition('.')[0]}], or trusted= in t2ilab.artifact.load"
        )


def _is_of(target: str, packages: tuple[str, ...]) -> bool:
    return target.partition(".")[0] in packages


def _is_own_class(target: str, path: Any) -> bool:
    try:
        found = locate(target)
    except NothingToCall:
        return False
    except ValueError as error:
        raise ValueError(
            f"init_from={path}: made by another version of t2ilab, or damaged; {error}"
        ) from error
    return isinstance(found, type) and _is_of(found.__module__, (OWN,))


def _refuse_misfits(nodes: dict[str, Any], path: Any) -> None:
    missing = [name for name in ("model", "path", "prediction", *PARTS) if name not in nodes]
    found = [f"{name}: missing" for name in missing] + problems(nodes)
    if found:
        raise ValueError(
            f"init_from={path}: the manifest does not fit this version of t2ilab: {'; '.join(found)}"
        )
