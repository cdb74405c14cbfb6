"""`stage=sample`: prompts to PNG files with a finished model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ilab.build import Config, build, targets
from t2ilab.core.autoguidance import Autoguidance
from t2ilab.core.guidance import CFG, Guidance
from t2ilab.eval.grid import save_grid
from t2ilab.files import whole_file
from t2ilab.pipeline import TextToImage
from t2ilab.runs.finished_model import open_model
from t2ilab.runs.folder import RunDir
from t2ilab.runs.outcome import Interrupted
from t2ilab.signals import Stopped

GRID = "grid.png"
JUDGED = "t2ilab.data.sets.Scenes"  # what a model must have been trained on for the judge to speak
ROWS_PER_PROMPT = 65536  # noise rows set aside for each prompt, so that an image does not depend on `copies`


def run(config: Config) -> None:
    """Draws `copies` images of each prompt; image k of prompt p is a function of (seed, p, k)."""
    prompts, copies = config["prompts"], config["stage"]["copies"]
    if not prompts:
        raise ValueError("stage=sample needs prompts='[\"a red circle above a blue star\"]'")
    folder = RunDir(config["run_dir"])
    names = [image_name(prompt, p, k) for p, prompt in enumerate(prompts) for k in range(copies)]
    check_folder(folder, names)
    folder.check(config)
    check_number(config["stage"]["negative_prompts"], len(prompts))
    if config["guidance"]:
        negatives(config["stage"]["negative_prompts"], len(prompts), copies, build(config["guidance"]))
    artifact, generate = open_model(config)
    with folder.claimed():
        folder.remember(config)
        texts = [prompt for prompt in prompts for _ in range(copies)]
        rows = [p * ROWS_PER_PROMPT + k for p in range(len(prompts)) for k in range(copies)]
        shape = latent_shape(generate, config["stage"]["height"], config["stage"]["width"])
        generate = generate.with_(batch_size=config["stage"]["batch_size"], latent_shape=shape)
        against = negatives(config["stage"]["negative_prompts"], len(prompts), copies, generate.guidance)
        batches = generate.batches(texts, seed=config["seed"], rows=rows, negative=against)
        images = torch.cat(drawn(folder, names, batches))
        grid = save_grid(folder.samples / GRID, images, texts, columns=copies)
        if JUDGED in targets(artifact.manifest.get("data")):
            print(verdicts(prompts, copies, images))
        print(
            f"{len(texts)} images in {folder.relative(folder.samples)}, all in one: {folder.relative(grid)}"
        )


def check_number(negatives: Sequence[str] | None, prompts: int) -> None:
    """Raises ValueError where there are neither one negative prompt nor as many as prompts."""
    if negatives and len(negatives) not in (1, prompts):
        raise ValueError(
            f"stage.negative_prompts must be one text or one for each of {prompts} prompts, got {len(negatives)}"
        )


def negatives(given: Sequence[str] | None, prompts: int, copies: int, guidance: Guidance) -> list[str] | None:
    """The negative text of every image; None for the empty one.

    Raises:
        ValueError: the guidance compares with no other text.
    """
    if not given:
        return None
    if not isinstance(guidance, CFG) or isinstance(guidance, Autoguidance):
        raise ValueError(
            "stage.negative_prompts take the place of the empty text in guidance, which this model's does not use: "
            "choose guidance=cfg"
        )
    each = list(given) * (prompts if len(given) == 1 else 1)
    return [text for text in each for _ in range(copies)]


def drawn(folder: RunDir, names: list[str], batches: Iterator[Tensor]) -> list[Tensor]:
    """The batches of images, each image written as soon as it is there.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, saying how many are kept.
    """
    made: list[Tensor] = []
    written = 0
    try:
        for batch in batches:
            made.append(batch)
            for image in batch:
                write_image(folder.samples / names[written], image.permute(1, 2, 0).numpy())
                written += 1
    except Stopped as stopped:
        raise Interrupted(
            f"\nstopped, {written} of {len(names)} images are kept in {folder.relative(folder.samples)}",
            stopped.status,
        ) from None
    return made


def latent_shape(generate: TextToImage, height: int | None, width: int | None) -> tuple[int, int, int]:
    """(C, H, W) of latents of images of this size; None for the size of training.

    Raises:
        ValueError: an edge is no multiple of what the autoencoder and the network's patches make of it.
    """
    channels, *edges = generate.latent_shape
    patch = int(getattr(generate.denoiser.backbone, "patch_size", 1))
    step = generate.autoencoder.factor * patch
    for name, pixels in (("height", height), ("width", width)):
        if pixels and pixels % step:
            raise ValueError(f"stage.{name}={pixels} must be a multiple of {step}, one token of this model")
    rows, columns = (
        pixels // generate.autoencoder.factor if pixels else edge
        for pixels, edge in zip((height, width), edges, strict=True)
    )
    return channels, rows, columns


def image_name(prompt: str, number: int, copy: int) -> str:
    """The file of one image, named by its prompt."""
    words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:60]
    return f"{number:03d}_{copy}_{words}.png"


def check_folder(folder: RunDir, names: list[str]) -> None:
    """Refuses a run folder with images of other prompts, which would lie among the new ones.

    Raises:
        ValueError: naming run_dir.
    """
    others = {path.name for path in folder.samples.glob("*.png")} - {*names, GRID}
    if others:
        raise ValueError(
            f"run_dir={folder.path} holds images of another command, such as {min(others)}: choose another run_dir"
        )


def write_image(path: Path, image: np.ndarray) -> None:
    """One PNG, whole or not at all."""
    from PIL import Image

    with whole_file(path, sync=False) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def verdicts(prompts: list[str], copies: int, images: Any) -> str:
    """What the judge of the synthetic data set says, for prompts it understands."""
    from t2ilab.data import scenes

    if images.shape[-1] != images.shape[-2]:
        return "images that are not square are not judged"
    lines = []
    for number, prompt in enumerate(prompts):
        wanted = scenes.parse(prompt)
        if wanted is None:
            lines.append(f"{prompt}: outside the grammar of the synthetic data set, not judged")
            continue
        own = images[number * copies : (number + 1) * copies]
        scores = scenes.score_batch([wanted] * copies, own)
        lines.append(f"{prompt}: {sum(score.passed for score in scores)} of {copies} show it")
    return "\n".join(lines)
