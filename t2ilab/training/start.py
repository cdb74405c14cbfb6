"""Where a stage starts from: the finished model of `init_from`, read by one loader for every later stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from t2ilab.build import Config, build
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.frozen import Frozen
from t2ilab.core.numbers import tell
from t2ilab.export.manifest import as_parent, base_folder
from t2ilab.export.reader import Opened, OpenedAdapter, describe_export
from t2ilab.models.injection import WithoutAdapter, inject, injected
from t2ilab.runs.finished_model import sampler_node
from t2ilab.runs.meeting import meet

INHERITED = ("model", "path", "prediction", "autoencoder", "conditioner")


@dataclass(frozen=True)
class Start:
    """A finished model that a stage begins with.

    Attributes:
        opened: its export, whose files are `unchanged` before they are read.
        digest: sha256 of its manifest, which holds those of all its files.
        adapter: the config node of what alone shall train; None for all weights.
        merged: whether an adapter of the model is added to its base; else it is the one that trains on.
    """

    opened: Opened
    digest: str
    adapter: dict[str, Any] | None = None
    merged: bool = True

    @classmethod
    def of(cls, config: Config) -> Start:
        """The model of a config's `init_from`, by its manifest.

        Raises:
            ValueError: none is named; it is unfinished or of another kind; or the config does not fit it.
        """
        name = config["stage"]["name"]
        if not config["init_from"]:
            raise ValueError(f"stage={name} starts from a finished model: init_from=<run or export folder>")
        stage = config["stage"]
        opened = describe_export(config["init_from"], trusted=tuple(stage["trusted"]), base=stage.get("base"))
        kept = isinstance(opened, OpenedAdapter) and opened.adapter is not None
        merged = stage.get("merge_adapter", True) or not kept
        if config.get("adapter") and not merged:
            raise ValueError(
                f"init_from={config['init_from']} is an adapter, which trains on without adapter=; "
                "stage.merge_adapter=true adds it to its base first, and the new one to both"
            )
        adapter = config.get("adapter") if merged else opened.manifest["adapter"]
        start = cls(opened, as_parent(opened.folder, opened.manifest)["digest"], adapter, merged)
        found = build(config["stage"]).unfit({**config, **start.parts(config)}, ())
        if found:
            raise ValueError(f"init_from={config['init_from']}: " + "; ".join(found))
        return start

    @cached_property
    def unchanged(self) -> bool:
        """True, once all files of the model have been read and found to be those that were exported.

        Several processes meet before: reading may take longer than they would wait for each other later.

        Raises:
            ValueError: one has changed.
        """
        meet()
        self.opened.check_files()
        return True

    @property
    def parent(self) -> dict[str, str]:
        """The model as the run folder, the checkpoints and the export of its child name it."""
        return as_parent(self.opened.folder, self.opened.manifest) | {"digest": self.digest}

    @property
    def noted(self) -> dict[str, Any]:
        """Which model a run begins with, for its options: the folder of init_from may hold another one later."""
        return {"parents": [self.parent]}

    @property
    def data(self) -> dict[str, Any] | None:
        """The node of the data that the model was trained on."""
        return self.opened.manifest.get("data")

    def own_data(self) -> dict[str, Any]:
        """The same, which measures a stage that learns from something else.

        Raises:
            ValueError: the export does not say it.
        """
        if self.data is None:
            raise ValueError(
                f"init_from={self.opened.folder}: the export does not say its data, which measure the run"
            )
        return self.data

    def parts(self, config: Config) -> dict[str, Any]:
        """The config nodes that the model decides; its sampler and guidance where the config chooses none."""
        nodes, manifest = self.opened.nodes, self.opened.manifest
        return {
            **{name: nodes[name] for name in INHERITED},
            "sampler": sampler_node(config, manifest),
            "guidance": config["guidance"] or nodes["guidance"],
            "adapter": self.adapter,
        }

    def other_times(self, config: Config) -> str | None:
        """What to say where a loss draws other times than the model was trained with; None if it does not."""
        manifest = self.opened.manifest
        old = manifest.get("timestep") or manifest.get("config", {}).get("timestep")
        new = config["timestep"]
        if not (old and new and "timestep" in config["loss"]) or old == new:
            return None
        names = [name for name in old | new if old.get(name) != new.get(name)]
        if "_target_" in names:
            was, now = (node["_target_"].rpartition(".")[2] for node in (old, new))
            return f"times: {now} here, {was} when the model of init_from was trained (timestep=)"
        was, now = (" ".join(f"timestep.{name}={node.get(name)}" for name in names) for node in (old, new))
        return f"times: {now} here, {was} when the model of init_from was trained"

    def student(self, reads: Sequence[str] = ()) -> Denoiser:
        """The network to train, on the CPU, with the averaged weights, which were evaluated.

        Args:
            reads: numbers that it shall be told, see `core/numbers.py`.
        """
        if not self.merged:
            return self.opened.denoiser()
        student = self.plain()
        new_inputs = tell(student.backbone, reads, self.opened.nodes["conditioner"])
        if self.adapter:
            inject(student.backbone, build(self.adapter), self.base, new_inputs)
        return student

    @property
    def base(self) -> dict[str, Any]:
        """What the export of an adapter says of itself and of this model as its base.

        Raises:
            ValueError: this model is an adapter itself whose base is not where the next one would look for it.
        """
        own: dict[str, str] | None = self.opened.manifest.get("base")
        if own and base_folder(self.opened.folder, own) is None:
            raise ValueError(
                f"init_from={self.opened.folder}: the base of this adapter has moved, and a new adapter on both "
                "would not find it: export both as one model first, stage=export with this init_from and stage.base"
            )
        base = {name: self.parent[name] for name in ("path", "digest")}
        return {"node": self.adapter, "base": base, "conditioner": self.opened.nodes["conditioner"]}

    def plain(self) -> Denoiser:
        """The network that the stage starts from, without what it adds."""
        return self.opened.merged()

    def frozen(self) -> Frozen:
        """The same network as it is, for a teacher or a reference."""
        return Frozen(self.plain())

    def reference(self, student: Denoiser, device: torch.device) -> Any:
        """The model that the stage starts from, which a loss holds the student against.

        It is the student with its adapter switched off, where that is this model: no second network in memory. An
        adapter that began inside the weights, or that trains on, needs a frozen copy, as a student without one.
        """
        made = injected(student.backbone)
        fresh = self.merged and made is not None and not made.adapter.begins_inside and not made.beside
        return WithoutAdapter(student, student.backbone) if fresh else self.frozen().to(device)


class WeightChange:
    """How far the weights of a network have moved since this was made: |w - w_start| / |w_start|, of all together."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.start = {name: p.detach().clone() for name, p in network.named_parameters()}

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """`weight_change`; 0 for the weights of the start, to the last bit."""
        moved, whole = 0.0, 0.0
        for name, p in self.network.named_parameters():
            first = self.start[name].double()
            moved += float((p.double() - first).square().sum())
            whole += float(first.square().sum())
        return {"weight_change": math.sqrt(moved / whole)}
