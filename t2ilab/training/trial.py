"""A model's pass over the latents that it will be given, on the meta device: shapes alone, no arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from t2ilab.build import Config, build
from t2ilab.config.limits import on_meta
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Condition


def unfit_latents(denoiser: Denoiser, config: Config, data: Mapping[str, Any], *, step: int = 0) -> list[str]:
    """What is wrong with a forward pass, in some step, of each shape of image that the node `data` gives.

    Parts of a user's own that do not say their sizes are not asked.
    """
    autoencoder, conditioner = config["autoencoder"], config["conditioner"]
    sizes = (autoencoder.get("channels"), autoencoder.get("factor"), data.get("resolution"))
    length, dim, pooled_dim = (conditioner.get(key) for key in ("length", "dim", "pooled_dim"))
    if None in (*sizes, length, dim):
        return []
    channels, factor, resolution = sizes
    with on_meta():
        pooled = torch.empty(1, pooled_dim) if pooled_dim else None
        text = Condition(torch.empty(1, length, dim), torch.ones(1, length, dtype=torch.bool), pooled)
    try:
        shapes = [(resolution, resolution)]
        if data.get("buckets"):
            shapes = build(data["buckets"]).shapes(resolution)
    except ValueError as error:
        return [str(error)]
    if any(edge % factor for shape in shapes for edge in shape):
        option = "buckets.multiple" if data.get("buckets") else "resolution"
        return [f"data.{option} must be a multiple of autoencoder.factor={factor}"]
    for height, width in shapes:
        found = _one_pass(denoiser, (channels, height // factor, width // factor), text, step)
        if found:
            return [found]
    return []


def _one_pass(denoiser: Denoiser, latent: tuple[int, int, int], text: Condition, step: int) -> str | None:
    """What is wrong with a forward pass on shapes alone."""
    with on_meta():
        latents = torch.empty(1, *latent)
        try:
            out = denoiser(latents, torch.full((1,), 0.5), text).out
        except (ValueError, TypeError, RuntimeError) as error:
            pooled_dim = None if text.pooled is None else text.pooled.shape[1]
            length, dim = text.tokens.shape[1:]
            return (
                f"model: it does not take latents {' x '.join(map(str, latent))} with texts {length} x {dim} "
                f"(pooled: {pooled_dim}): {error}"
            )
    if out.shape != latents.shape:
        sigma = "; no objective reads a variance: model.learn_sigma=false" * (out.shape[1] == 2 * latent[0])
        return f"model: its output has {out.shape[1]} channels, the latents have {latent[0]}{sigma}"
    try:
        denoiser.routes(RowRng(0, step, torch.zeros(1, dtype=torch.int64, device="meta"), 1), latents)
    except ValueError as error:
        return str(error)
    return None
