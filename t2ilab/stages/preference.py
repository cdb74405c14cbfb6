"""`stage=preference`: a finished model learns from pairs of images of which one is preferred (DPO and its family).

The pairs are latents that `stage=pairs` drew, or images that somebody compared, which are encoded first. What is
measured before and after are the images and prompts of the model's own data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from lightning import seed_everything
from torch import Tensor

from t2ilab.build import Config, Node, build
from t2ilab.callbacks.progress import ticker
from t2ilab.core.denoiser import Denoiser
from t2ilab.data.cache import ArrayCache, cache_root, open_or_fill
from t2ilab.data.comparison_source import Comparisons, ends
from t2ilab.data.order import EpochOrder
from t2ilab.data.sets import DataSet
from t2ilab.export.manifest import identity
from t2ilab.latents.base import Autoencoder
from t2ilab.measuring.before import since
from t2ilab.measuring.held_out import rewards_for
from t2ilab.models.injection import injected, line
from t2ilab.pairs import DrawnPairs, PairFiles
from t2ilab.runs.machine import device_of
from t2ilab.stages.assembly import Assembly, train
from t2ilab.stages.learned import MeasuredData, PairTexts, check_latents
from t2ilab.stages.pairs import evaluated_texts
from t2ilab.stages.parts import PARTS, image_maker
from t2ilab.stages.pretrain import learner
from t2ilab.text.base import Conditioner
from t2ilab.training.fit import count
from t2ilab.training.job import Job, freeze
from t2ilab.training.latent_rows import images_at_once, module_device, to_signed
from t2ilab.training.phases import phases_of
from t2ilab.training.start import Start


def run(config: Config) -> float | None:
    """Trains the model of init_from on pairs; returns judge/overall (or minus the held-out loss without a judge)."""
    start = Start.of(config)
    inherited = start.parts(config) | {"data": start.own_data()}
    with Job.open(config, start=start, inherited=inherited) as job:
        if (value := job.finished()) is not None:
            return value
        parts = assemble(job, start, config["data"])
        reference = cast(Denoiser, start.reference(parts.denoiser, parts.device))
        stage = learner(job, parts, roles=replace(parts.roles(job), reference=reference))
        return train(job, parts, stage, start)


class PreferenceData(MeasuredData):
    """The images and prompts that measure a model, with pairs in their place for training.

    Args:
        measured: the model's own data.
        pairs: what is learned from.
        number: of the pairs that are.
    """

    def __init__(self, measured: DataSet, pairs: DataSet, number: int) -> None:
        super().__init__(measured, pairs)
        self.number = number

    def order(self, seed: int) -> Any:
        return EpochOrder(self.number, self.batch_size, seed)

    def summary(self) -> str:
        return f"{self.number} of {self.learned.summary()}"


def assemble(job: Job, start: Start, node: Node) -> Assembly:
    """The parts of a run on pairs; those of the model as they are.

    Args:
        node: of the pairs.
    """
    config = job.config
    nodes = {name: config[name] for name in PARTS}
    pairs, device = build(node), device_of(job.trainer)
    if isinstance(pairs, DrawnPairs):
        pairs.refuse_unscored()
        check_latents(pairs, start.opened)
    measured = build(start.own_data())
    job.say_data(pairs)
    texts, latents = learned_from(pairs)
    kept = unseen(texts, measured) if config["stage"]["skip_evaluated"] else list(range(len(texts)))
    data = PreferenceData(measured, pairs, len(kept))
    job.check_data(data)
    autoencoder, conditioner = (freeze(build(nodes[name]), device) for name in ("autoencoder", "conditioner"))
    rewards = rewards_for(pairs, measured) if job.first else {}
    look = job.say_reconstruction(data.train, autoencoder) if job.first else None
    old = since(start, data.val.resolution) if job.first else None
    seed_everything(config["seed"], verbose=False)  # of what is random in an adapter
    denoiser = start.student().to(device)
    if job.first and injected(denoiser.backbone):
        print(line(denoiser.backbone, count), flush=True)

    def encode() -> PairRows:
        return PairRows(
            latents(autoencoder, nodes["autoencoder"]), texts, conditioner, nodes["conditioner"], kept
        )

    encoders = {"autoencoder": autoencoder, "conditioner": conditioner}
    generate = image_maker(nodes, job, denoiser, encoders, data.train.resolution)
    null = conditioner.null(1)
    phases = phases_of(config)
    loss = build(config["loss"])
    return Assembly(nodes, phases, data, denoiser, loss, encode, null, generate, device, look, old, rewards)


Latents = Callable[[Autoencoder, Node], ArrayCache | PairFiles]
"""(autoencoder, its config node) -> rows (n, 2, C, H, W) of the array `latents`; images are encoded now."""


def learned_from(pairs: DataSet) -> tuple[list[str], Latents]:
    """The prompt of each pair, and what gives their latents.

    Raises:
        ValueError: all are ties.
    """
    if isinstance(pairs, DrawnPairs):
        return pairs.pairs.prompts(), lambda autoencoder, node: pairs.pairs
    source = cast(Comparisons, pairs.train)
    kept, sides = ends(source.ranks(range(len(source))))
    if not len(kept):
        raise ValueError(
            f"data: all {len(source)} comparisons are ties, so there is nothing to prefer: choose others, or "
            "data.ties=0 of data=scenes_preferences"
        )
    return source.prompts(kept.tolist()), partial(encoded, source, kept, sides)


def unseen(texts: list[str], measured: DataSet) -> list[int]:
    """Numbers of the pairs whose prompt no evaluation draws; says how many others there are.

    Raises:
        ValueError: none is left.
    """
    taken = evaluated_texts(measured)
    kept = [number for number, text in enumerate(texts) if text not in taken]
    if not kept:
        raise ValueError(
            f"data: evaluations draw the prompts of all {len(texts)} pairs, so that none is left to learn from: "
            "stage.skip_evaluated=false keeps them, and the run must then be measured by other prompts"
        )
    if len(kept) < len(texts):
        share = 1 - len(kept) / len(texts)
        print(
            f"{len(texts) - len(kept)} pairs left out ({share:.0%}), whose prompts evaluations draw",
            flush=True,
        )
    return kept


class PairRows:
    """Latents and encoded prompts of pairs, winners first, by row numbers.

    Args:
        latents: gives rows (n, 2, C, H, W) of the array `latents`.
        texts: the prompt of each row.
        conditioner: in evaluation mode; node: its config node, a part of the key of the cache.
        kept: which of all pairs are read, the others are left out.
    """

    def __init__(
        self,
        latents: ArrayCache | PairFiles,
        texts: list[str],
        conditioner: Conditioner,
        node: Node,
        kept: list[int],
    ) -> None:
        self.latents, self.kept = latents, kept
        self.texts = PairTexts([texts[row] for row in kept], conditioner, node)

    def __len__(self) -> int:
        return len(self.texts)

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        latents = self.latents.rows("latents", [self.kept[index] for index in indices]).float()
        return {"x0": latents[:, [0, -1]]} | self.texts.rows(indices)  # of a ranking the best and the worst


@torch.no_grad()
def encoded(
    source: Comparisons, kept: Tensor, sides: Tensor, autoencoder: Autoencoder, node: Node
) -> ArrayCache:
    """Latents of two images of some comparisons.

    Args:
        kept: numbers of the comparisons, (n,).  sides: of their best and worst image, (n, 2).
    """
    device = module_device(autoencoder)

    def compute(rows: list[int]) -> dict[str, Tensor]:
        images = source.images(kept[rows].tolist())
        both = images[torch.arange(len(rows))[:, None], sides[rows]]
        latents = autoencoder.encode(to_signed(both.flatten(0, 1).to(device)))
        return {"latents": latents.unflatten(0, (-1, 2)).half()}

    key = {"kind": "pairs", "source": source.digest(), "autoencoder": identity(node)}
    chunk = max(1, images_at_once(source.resolution**2) // 2)
    tick = ticker("encoding pairs")
    return open_or_fill(cache_root(), key, len(kept), compute, chunk=chunk, progress=tick)
