"""An autoencoder that is fitted on the images of a run before anything is encoded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from t2ilab.build import Node
from t2ilab.data.cache import locked
from t2ilab.data.source import Source
from t2ilab.latents.base import Autoencoder
from t2ilab.latents.pca import PCA, fitted_on
from t2ilab.runs.folder import RunDir
from t2ilab.runs.ranks import is_first_process
from t2ilab.training.latent_rows import images_at_once, to_signed

IMAGES = 4096  # at most, evenly spaced
PIXELS = 2**26  # of them together, at most: 16,384 at 64 px, 256 at 512 px


def fitted(
    nodes: Mapping[str, Node], autoencoder: Autoencoder, source: Source, run: RunDir
) -> Mapping[str, Node]:
    """Fits `autoencoder` on training images if it has to be; its node then names the folder of weights in the run's.

    A run that goes on reads what its first start has fitted, so its latents stay the same to the last bit.
    """
    if not (isinstance(autoencoder, PCA) and autoencoder.unfitted):
        return nodes
    folder = run.path / "autoencoder"
    node = {**nodes["autoencoder"], "path": str(folder)}
    with locked(run.path / "autoencoder.lock"):  # of several processes the first one to come fits
        images = source.image_digest()
        if fitted_on(folder) != images:
            if is_first_process():
                print("fitting the autoencoder to the training images ...", flush=True)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            autoencoder.fit(_images(source))
            autoencoder.save(partial, images=images)
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
        else:
            autoencoder.load(folder)
    return {**nodes, "autoencoder": node}


def _images(source: Source) -> Iterator[Tensor]:
    """Images in [-1, 1], evenly spaced over the source, a batch at a time."""
    count = min(len(source), IMAGES, max(64, PIXELS // source.resolution**2))
    for rows in (torch.arange(count) * len(source) // count).split(images_at_once(source.resolution**2)):
        yield to_signed(source.images(rows.tolist()))
