"""The parts of a run that trains a denoiser, each made of its config nodes: rows, image maker, feature encoders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.averages.snapshots import EARLY
from t2ilab.build import Node, build
from t2ilab.core.denoiser import Denoiser
from t2ilab.data.joined import JoinedRows
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source
from t2ilab.export.denoiser import packages
from t2ilab.export.manifest import identity
from t2ilab.export.weak_model import provide
from t2ilab.latents.base import Autoencoder
from t2ilab.objectives.base import Objective
from t2ilab.pipeline import TextToImage
from t2ilab.training.job import Job, freeze
from t2ilab.training.latent_rows import LatentRows, images_at_once, joined_rows, module_device, to_signed

PARTS = ("model", "path", "prediction", "autoencoder", "conditioner", "sampler", "guidance")


def rows_of(
    nodes: Mapping[str, Node],
    data: DataSet,
    encoders: Mapping[str, Any],
    features: Mapping[str, Any],
    *,
    seed: int,
) -> JoinedRows:
    """Latents, texts and features of all sources, from the cache or encoded now.

    Raises:
        ValueError: latents are far from unit variance.
    """
    check_latents(data.train, encoders["autoencoder"])
    digests = {name: identity(nodes[name]) for name in encoders}
    encode = partial(LatentRows, **encoders, identity=digests, seed=seed, features=features)
    return joined_rows(data.sources(), encode)


def image_maker(
    nodes: Mapping[str, Node], job: Job, denoiser: Denoiser, encoders: Mapping[str, Any], resolution: int
) -> TextToImage:
    """How previews, evaluations and the export draw, around the network in training."""
    autoencoder = encoders["autoencoder"]
    edge = resolution // autoencoder.factor
    generate = TextToImage(
        denoiser,
        **encoders,
        sampler=build(nodes["sampler"]),
        guidance=build(nodes["guidance"]),
        latent_shape=(autoencoder.channels, edge, edge),
        precision=job.trainer.precision,
    )
    early = job.run.averages / EARLY  # there is none yet, and guidance=early waits for it
    provide(
        generate.guidance,
        nodes,
        generate.latent_shape,
        early=early,
        device=generate.device,
        trusted=packages(nodes),
    )
    generate.check()
    return generate


def feature_encoders(
    objective: Objective, nodes: Mapping[str, Node] | None, device: torch.device
) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """The encoders that terms want clean images seen by, with what identifies their output, by the term's name."""
    made = {name: term.make_encoder for name, term in objective.terms.each.items()}
    return {
        name: (freeze(make(), device), identity((nodes or {})[name]["encoder"]))
        for name, make in made.items()
        if make is not None
    }


@torch.no_grad()
def check_latents(source: Source, autoencoder: Autoencoder, sample: int = 256) -> Tensor:
    """Refuses latents whose scale is off: a wrong factor would spoil training without any other sign.

    Raises:
        ValueError: the std over the first images is below 1/2 or above 2.
    """
    device = module_device(autoencoder)
    parts = torch.arange(min(sample, len(source))).split(images_at_once(source.resolution**2))
    images = (to_signed(source.images(part.tolist()).to(device)) for part in parts)
    latents = torch.cat([autoencoder.encode(part).float().cpu() for part in images])
    std = latents.std()
    if not 0.5 < std < 2:
        raise ValueError(
            f"autoencoder: the latents have std {std:.3f}, it should be near 1: for these images choose "
            f"{autoencoder.fitting(latents) or 'another autoencoder'}"
        )
    return std
