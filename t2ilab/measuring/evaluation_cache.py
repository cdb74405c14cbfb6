"""Evaluations that need not be made again: of the same weights, by the same plan and code, on the same machine.

Runs that start from one model, as the jobs of a sweep or the seeds of a table, all measure it before their first
step. The first of them keeps what it found in the cache, the others read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t2ilab.build import Config
from t2ilab.config.names import is_path_option, leaves
from t2ilab.data.cache import cache_root, digest_of
from t2ilab.eval.result import Evaluation
from t2ilab.export.manifest import folder_digest, package_digest
from t2ilab.measuring.facts import processor
from t2ilab.measuring.measure import Measure
from t2ilab.pipeline import TextToImage

# groups whose options the numbers depend on
NODES = (
    "model",
    "adapter",
    "path",
    "prediction",
    "conditioner",
    "autoencoder",
    "data",
    "eval",
    "stage",
    "parents",
)


def cache_file(config: Config, measure: Measure, generate: TextToImage, meta: Mapping[str, Any]) -> Path:
    """The file of the cache that holds, or will hold, this evaluation.

    Its name is a digest of all that the numbers depend on: the weights of all networks that draw and of the rewards,
    sampler and guidance, prompts and images that are asked for, the options of data, measuring and stage with the
    files that they name, the code, the processor and its threads.

    Args:
        meta: what the evaluation will say of the model, its sampler and guidance among it.
    """
    data, since = measure.data, measure.since
    networks: dict[str, nn.Module] = {
        "denoiser": generate.denoiser,
        "conditioner": generate.conditioner,
        "autoencoder": generate.autoencoder,
        **measure.rewards,
    }
    nodes = {name: config.get(name) for name in NODES} | dict(meta)
    depends = {
        "nodes": nodes,
        "files": {name: folder_digest(folder) for name, folder in _folders(nodes)},
        "weights": weights_digest(networks),
        "shape": generate.latent_shape,
        "asked": measure.evaluator.describe(),
        "images": [data.digest(), data.image_splits(), since and since.data and since.data.image_splits()],
        "subjects": [
            (one.prompts, one.class_prompt, one.kept and one.kept.digest()) for one in measure.personal
        ],
        "code": package_digest(),
        "on": [processor(generate.device), torch.get_num_threads(), torch.__version__],
    }
    return cache_root() / "before" / f"{digest_of(json.loads(json.dumps(depends, default=str)))}.json"


def store(evaluation: Evaluation, file: Path) -> None:
    """Writes an evaluation into the cache; where that cannot be written, the run goes on without."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        evaluation.save(file)
    except OSError as error:
        print(f"note: later runs from this model will measure it again: {error}", flush=True)


def _folders(nodes: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The folders that the nodes name, but for those of images, which the data know by digests of their own."""
    for name, value in leaves({group: node for group, node in nodes.items() if group != "data"}):
        if is_path_option(name) and isinstance(value, str) and Path(value).is_dir():
            yield name, Path(value)


def weights_digest(networks: Mapping[str, nn.Module]) -> str:
    """sha256 over the weights of several networks."""
    found = hashlib.sha256()
    for part, network in networks.items():
        for name, tensor in network.state_dict().items():
            found.update(f"{part}.{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
