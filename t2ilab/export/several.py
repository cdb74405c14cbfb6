"""Models made of several files: adapters of one base, or a model with adapter files of other tools."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t2ilab.build import Node
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.numbers import tell
from t2ilab.export.manifest import MANIFEST, as_parent, file_digest, identity
from t2ilab.export.reader import WEIGHTS, Opened, OpenedAdapter, open_export
from t2ilab.models.read_adapter import FILES, ForeignAdapter, add_adapter
from t2ilab.text.learned import FILE as LEARNED_FILE
from t2ilab.text.learned import is_learned, with_words, without_words

DRAWS = ("sampler", "guidance")  # what an adapter's run may choose anew; the rest is the base's


@dataclass(frozen=True)
class Blend(Opened):
    """Several adapters of one base, each with a factor: W + sum_i s_i (W_i - W), of all weights W.

    Attributes:
        manifest: what those of all parts say, see `together`.
    """

    parts: tuple[OpenedAdapter, ...]
    scales: tuple[float, ...]

    @property
    def whole(self) -> bool:
        return False

    @property
    def parents(self) -> list[dict[str, Any]]:
        named = (as_parent(part.folder, part.manifest) for part in self.parts)
        return [name | {"scale": scale} for name, scale in zip(named, self.scales, strict=True)]

    @property
    def unscaled_texts(self) -> list[Path]:
        return [
            part.folder
            for part, scale in zip(self.parts, self.scales, strict=True)
            if scale != 1 and part.nodes["conditioner"] != part.base.nodes["conditioner"]
        ]

    @torch.no_grad()
    def denoiser(self, weights: str = WEIGHTS) -> Denoiser:
        found = self.parts[0].base.merged()
        told = [name for part in self.parts for name in part.manifest.get("reads", ())]
        tell(found.backbone, told, self.nodes["conditioner"])  # inputs that say nothing yet
        state = found.state_dict()
        total = {name: value.clone() for name, value in state.items()}
        for part, scale in zip(self.parts, self.scales, strict=True):
            for name, value in part.merged(weights).state_dict().items():
                if value.is_floating_point():
                    total[name] += scale * (value - state[name])
        found.load_state_dict(total)
        return found


@dataclass(frozen=True)
class WithFiles(Opened):
    """A model with adapter files of other tools, each with a factor, and files of words."""

    base: Opened
    files: tuple[ForeignAdapter, ...]
    scales: tuple[float, ...]
    words: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return False

    @property
    def parents(self) -> list[dict[str, Any]]:
        found = [
            _as_parent(file.path) | {"scale": s} for file, s in zip(self.files, self.scales, strict=True)
        ]
        return [*self.base.parents, *found, *(_as_parent(Path(path)) for path in self.words)]

    def denoiser(self, weights: str = WEIGHTS) -> Denoiser:
        found = self.base.merged(weights)
        for file, scale in zip(self.files, self.scales, strict=True):
            add_adapter(found.backbone, file, scale)
        return found


def open_models(
    paths: str | Sequence[str],
    *,
    base: str | None = None,
    scales: float | Sequence[float] | None = None,
    trusted: tuple[str, ...] = (),
    chosen: Collection[str] = (),
) -> Opened:
    """One export, adapters of one base at once, or a model with files of adapters that others have written.

    Args:
        base: as in `open_export`.
        scales: factor on each adapter or file; None for 1.
        chosen: which of sampler and guidance the caller puts others in place of.

    Raises:
        ValueError: as `open_export`; several that are no adapters, or of different bases, sizes or ways to draw;
            another number of factors.
    """
    several = [paths] if isinstance(paths, str) else list(paths)
    if any(map(is_foreign, several)):
        return _open_files(several, base=base, scales=scales, trusted=trusted)
    opened = [open_export(path, trusted=trusted, base=base) for path in several]
    if len(opened) == 1 and scales is None:
        return opened[0]
    parts = tuple(one for one in opened if isinstance(one, OpenedAdapter))
    if len(parts) < len(opened):
        whole = next(p for p, one in zip(several, opened, strict=True) if one not in parts)
        raise ValueError(
            f"init_from={paths}: stage.adapter_scale and lists are for adapters, and {whole} is a whole model"
            + ("; an adapter brings its model along, so leave that out" if parts else "")
        )
    factors = _factors(scales, len(parts), "adapters")
    _refuse_shares_of_words(parts, factors)
    digests = {part.manifest["base"]["digest"] for part in parts}
    if len(digests) > 1:
        raise ValueError(f"init_from={paths}: these adapters belong to different models")
    sizes = sorted({tuple(part.manifest["latent_shape"]) for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"init_from={paths}: these adapters draw latents of different sizes, {sizes}")
    nodes = parts[0].nodes | _draws(parts, paths, chosen) | {"conditioner": _joined_words(parts, paths)}
    return Blend(parts[0].folder, together(parts) | {"nodes": nodes}, nodes, parts, factors)


def together(parts: Sequence[Opened]) -> dict[str, Any]:
    """The manifest of several: what each of theirs says alike, and the steps and images of all.

    What differs, such as the data, is said of none; a text that one has learned is learned in all of them.
    """
    told = [part.manifest for part in parts]
    alike = {key: value for key, value in told[0].items() if all(one.get(key) == value for one in told)}
    return alike | {
        "stage": " + ".join(dict.fromkeys(str(one["stage"]) for one in told)),
        **{name: sum(one[name] for one in told) for name in ("steps", "images")},
        "latent_shape": told[0]["latent_shape"],
        "precision": alike.get("precision", "fp32"),
        "learned_text": any(one.get("learned_text") for one in told),
        "files": {
            f"{number}/{name}": digest
            for number, one in enumerate(told, 1)
            for name, digest in one["files"].items()
        },
    }


def _draws(
    parts: Sequence[OpenedAdapter], paths: str | Sequence[str], chosen: Collection[str]
) -> dict[str, Node]:
    """Sampler and guidance of the adapters that have others than the base: a student's belong to its weights.

    Raises:
        ValueError: two have different ones, and none is chosen.
    """
    found = {}
    for name in DRAWS:
        base = parts[0].base.nodes[name]
        own = [part.nodes[name] for part in parts if identity(part.nodes[name]) != identity(base)]
        if name not in chosen and any(identity(node) != identity(own[0]) for node in own):
            raise ValueError(
                f"init_from={paths}: these adapters draw with different parts, each with a {name} of its own: choose "
                f"one by {name}="
            )
        found[name] = own[0] if own else base
    return found


def _as_parent(path: Path) -> dict[str, Any]:
    """How an export names a file of another tool that it was made with."""
    file = next((path / name for name in FILES if (path / name).is_file()), path)
    return {"path": str(path.absolute()), "digest": file_digest(file), "stage": "file"}


def is_foreign(path: str) -> bool:
    """Whether a path is an adapter file of another tool, or a folder with one, and no run or export."""
    place = Path(path)
    holds = any((place / name).is_file() for name in FILES)
    return path.endswith(".safetensors") or (holds and not (place / MANIFEST).is_file())


def _open_files(
    paths: Sequence[str],
    *,
    base: str | None,
    scales: float | Sequence[float] | None,
    trusted: tuple[str, ...],
) -> Opened:
    """A model with the files behind it: adapters of a network, and vectors of words.

    Raises:
        ValueError: the first is a file, or another one is none; or another number of factors.
    """
    first, *rest = paths
    if is_foreign(first) or not all(map(is_foreign, rest)):
        raise ValueError(
            f"init_from={list(paths)}: a model comes first, and files of adapters alone behind it: "
            "init_from=[RUN,FILE.safetensors]"
        )
    model = open_export(first, trusted=trusted, base=base)
    words = [path for path in rest if Path(path).name == LEARNED_FILE]
    files = tuple(ForeignAdapter.read(path) for path in rest if path not in words)
    factors = _factors(scales, len(files), "files")
    nodes = model.nodes
    if words:
        node = nodes["conditioner"]
        own = [node["learned"]] if is_learned(node) else []
        folders = [*own, *(str(Path(path).parent.resolve()) for path in words)]
        nodes = nodes | {"conditioner": with_words(node, learned=folders)}
    return WithFiles(model.folder, model.manifest, nodes, model, files, factors, tuple(words))


def _factors(scales: float | Sequence[float] | None, count: int, what: str) -> tuple[float, ...]:
    found = [1.0] * count if scales is None else [scales] if isinstance(scales, int | float) else scales
    if len(found) != count:
        raise ValueError(f"stage.adapter_scale needs one factor for each of {count} {what}, got {scales}")
    return tuple(map(float, found))


def _refuse_shares_of_words(parts: Sequence[OpenedAdapter], factors: Sequence[float]) -> None:
    """A factor scales weights of the network: an adapter of a word alone has none.

    Raises:
        ValueError: such an adapter has another factor than 1.
    """
    for part, factor in zip(parts, factors, strict=True):
        if part.adapter is None and factor != 1:
            raise ValueError(
                f"stage.adapter_scale={factor:g}: {part.folder} has learned a word alone, which is there or not: "
                "give it 1, or omit stage.adapter_scale"
            )


def _joined_words(parts: Sequence[OpenedAdapter], paths: str | Sequence[str]) -> Node:
    """The text encoder of several adapters: the one that all have, with the words of each.

    Raises:
        ValueError: they have different ones.
    """
    nodes = [part.nodes["conditioner"] for part in parts]
    inner = without_words(nodes[0])
    if any(without_words(node) != inner for node in nodes):
        raise ValueError(f"init_from={paths}: the text encoders of these adapters differ, as one was trained")
    learned = list(dict.fromkeys(node["learned"] for node in nodes if is_learned(node)))
    return with_words(inner, learned=learned) if learned else inner
