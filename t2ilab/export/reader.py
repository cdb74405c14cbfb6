"""Reads an export: its manifest, files and classes are checked before any network is built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from t2ilab.build import Node, NothingToCall, build, locate, targets
from t2ilab.config.check import problems
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.null_text import add_null_text
from t2ilab.core.numbers import add_numbers, tell
from t2ilab.export.manifest import (
    absolute,
    as_parent,
    base_folder,
    check_files,
    check_present,
    check_references,
    manifest_of,
)
from t2ilab.models.injection import merge, restore
from t2ilab.text.learned import without_words

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ADAPTER = "adapter/weights.safetensors"
ADAPTER_RAW = "adapter/raw.safetensors"
OWN = "t2ilab"
PARTS = ("conditioner", "autoencoder", "sampler", "guidance")  # built by their nodes, unlike the denoiser


@dataclass(frozen=True)
class Opened:
    """An export of kind `denoiser` whose manifest was checked, before any network is built.

    Attributes:
        folder, manifest: the export.
        nodes: the config nodes of its parts, with paths of this machine.
    """

    folder: Path
    manifest: dict[str, Any]
    nodes: dict[str, Any]

    @property
    def whole(self) -> bool:
        """Whether it holds all weights of its network."""
        return True

    def check_files(self) -> None:
        """Reads all its files, and the folders that it refers to, which takes minutes for large ones.

        Raises:
            ValueError: one has changed since the export.
        """
        check_files(self.folder, self.manifest, f"init_from={self.folder}")
        check_references(self.manifest["references"], self.folder)

    @property
    def parents(self) -> list[dict[str, Any]]:
        """What it is made of, as an export made from it names that."""
        return [dict(as_parent(self.folder, self.manifest))]

    @property
    def unscaled_texts(self) -> list[Path]:
        """Adapters with another factor than 1 whose words or text encoder, which have none, were trained too."""
        return []

    def denoiser(self, weights: str = WEIGHTS) -> Denoiser:
        """The denoiser with the weights of one of its files, on the CPU."""
        backbone = build(self.nodes["model"])
        add_null_text(backbone, self.nodes["conditioner"])
        add_numbers(backbone, self.manifest.get("reads", ()), self.nodes["conditioner"])
        load_weights(backbone, self.folder / weights)
        path, prediction = build(self.nodes["path"]), build(self.nodes["prediction"])
        times = {
            "time_scale": self.manifest["time_scale"],
            "time_offset": self.manifest.get("time_offset", 0.0),
        }
        return Denoiser(backbone, path, prediction, **times)

    def merged(self, weights: str = WEIGHTS) -> Denoiser:
        """The same as a network without an adapter."""
        return self.denoiser(weights)


@dataclass(frozen=True)
class OpenedAdapter(Opened):
    """An export of kind `adapter` with the model that it belongs to.

    Attributes:
        nodes: of the base, and of what the adapter's run drew with.
        base: the model; if that is an adapter itself, merged with its own base.
    """

    base: Opened

    @property
    def whole(self) -> bool:
        return False

    def check_files(self) -> None:
        super().check_files()
        self.base.check_files()

    @property
    def adapter(self) -> dict[str, Any] | None:
        """The config node of the adapter; None where a word alone was learned."""
        node: dict[str, Any] | None = self.manifest["adapter"]
        return node

    def denoiser(self, weights: str = WEIGHTS) -> Denoiser:
        """The base with the adapter in it, which alone would train on."""
        from safetensors.torch import load_file

        found = self.base.merged()
        if self.adapter is None:
            return found
        notes = {
            "node": self.adapter,
            "base": self.manifest["base"] | {"path": str(self.base.folder.absolute())},  # it may have moved
            "conditioner": self.base.nodes["conditioner"],
        }
        state = load_file(self.folder / (ADAPTER if weights == WEIGHTS else ADAPTER_RAW))
        new_inputs = tell(found.backbone, self.manifest.get("reads", ()), self.nodes["conditioner"])
        restore(found.backbone, build(self.adapter), state, notes, new_inputs)
        return found

    def merged(self, weights: str = WEIGHTS) -> Denoiser:
        found = self.denoiser(weights)
        merge(found.backbone)
        return found


def open_export(path: str | Path, *, trusted: tuple[str, ...] = (), base: str | None = None) -> Opened:
    """The export at a run or export folder, all of it checked; for `trusted` and errors see `denoiser.load`."""
    found = describe_export(path, trusted=trusted, base=base)
    found.check_files()
    return found


def describe_export(path: str | Path, *, trusted: tuple[str, ...] = (), base: str | None = None) -> Opened:
    """What the manifest of an export says, checked, and all its files there; `check_files` holds them against it.

    Args:
        trusted: packages, besides this one, whose classes it may name.
        base: folder of the model that an adapter belongs to; None for where it lay, or lies by its digest.
    """
    folder, manifest = manifest_of(path, kind=("denoiser", "adapter"))
    check_present(folder, manifest, f"init_from={path}")
    if manifest["kind"] == "adapter":
        return _open_adapter(folder, manifest, path, trusted=trusted, base=base)
    if base is not None:
        raise ValueError(
            f"stage.base={base}: init_from={path} is a whole model and has no base; omit stage.base"
        )
    nodes = {name: absolute(node, folder) for name, node in manifest["nodes"].items()}
    refuse_foreign(nodes | {"data": manifest.get("data")}, trusted, f"init_from={path}")
    _refuse_misfits(nodes, path)
    return Opened(folder, manifest, nodes)


@contextlib.contextmanager
def named(option: str, path: str | Path | None) -> Iterator[None]:
    """Errors inside about the export at `path` name the option that it was given by."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(f"init_from={path}", f"{option}={path}")) from error


def _open_adapter(
    folder: Path, manifest: dict[str, Any], path: str | Path, *, trusted: tuple[str, ...], base: str | None
) -> OpenedAdapter:
    """With its base, whose digest has to be that of the manifest."""
    record = manifest["base"]
    place = base or base_folder(folder, record)
    if place is None:
        raise ValueError(
            f"init_from={path} is an adapter of the model that lay in {record['path']}, which is not there: say "
            "where it is with stage.base=<run or export folder>"
        )
    with named("stage.base" if base else "init_from", place):
        model = describe_export(place, trusted=trusted)
    if as_parent(model.folder, model.manifest)["digest"] != record["digest"]:
        raise ValueError(
            f"init_from={path} is an adapter of another model than the one in {place} (its digest differs): give the "
            "right one with stage.base=<run or export folder>"
        )
    own = {name: absolute(node, folder) for name, node in manifest["nodes"].items()}
    if own.get("conditioner", {}).get("text_encoder", ...) is None:  # words beside the base's text encoder
        own["conditioner"]["text_encoder"] = without_words(model.nodes["conditioner"])
    nodes = model.nodes | own
    refuse_foreign({"adapter": manifest["adapter"], **own}, trusted, f"init_from={path}")
    _refuse_misfits(nodes, path)
    sizes = {name: model.manifest.get(name, 0.0) for name in ("time_scale", "time_offset")}
    return OpenedAdapter(folder, sizes | manifest | {"nodes": nodes}, nodes, model)


def load_weights(network: nn.Module, path: Path) -> None:
    """Strict loading with the names that do not fit in the error.

    Raises:
        ValueError: the file lacks a name, holds more, or has other shapes.
    """
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path), strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path.name} does not fit the model that the manifest describes: {error}"
        ) from error


def refuse_foreign(nodes: Mapping[str, Node], trusted: tuple[str, ...], where: str) -> None:
    """A manifest may name classes of this package only: not what its modules import, nor functions.

    Args:
        trusted: further packages.  where: the option that names the manifest, with its value.

    Raises:
        ValueError: it names something else.
    """
    named = [target for target in targets(list(nodes.values())) if not _is_of(target, trusted)]
    foreign = [target for target in named if not _is_of(target, (OWN,)) or not _is_own_class(target, where)]
    if foreign:
        raise ValueError(
            f"{where} names what is not a class of t2ilab: {', '.join(foreign)}; if you trust it, give "
            f"stage.trusted=[{foreign[0].partition('.')[0]}], or trusted= in t2ilab.export.denoiser.load"
        )


def _is_of(target: str, packages: tuple[str, ...]) -> bool:
    return target.partition(".")[0] in packages


def _is_own_class(target: str, where: str) -> bool:
    try:
        found = locate(target)
    except NothingToCall:
        return False
    except ValueError as error:
        raise ValueError(f"{where}: made by another version of t2ilab, or damaged; {error}") from error
    return isinstance(found, type) and _is_of(found.__module__, (OWN,))


def _refuse_misfits(nodes: Mapping[str, Node], path: str | Path) -> None:
    missing = [name for name in ("model", "path", "prediction", *PARTS) if name not in nodes]
    found = [f"{name}: missing" for name in missing] + problems(nodes)
    if found:
        raise ValueError(
            f"init_from={path}: the manifest does not fit this version of t2ilab: {'; '.join(found)}"
        )
