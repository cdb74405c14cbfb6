"""Images of a class for prior preservation, drawn once by the model that a personalisation starts from.

    class_images/  00000.png 00001.png ...  manifest.json

The manifest says which model drew them, of which prompts, by which sampler and seed, and the sha256 of every file.
In the run's own folder another model, prompt, size or sampler draws them anew; in a folder that is named they are
refused, and so is any other file: nothing is taken or passed over silently. Image k is a function of (seed, k), of
prompt k mod n of n, and its noise is not that of any evaluation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ilab.data.cache import locked
from t2ilab.data.order import counter_hash
from t2ilab.export.denoiser import packages
from t2ilab.export.manifest import file_digest, write_json
from t2ilab.stages.sample import write_image
from t2ilab.training.job import Job
from t2ilab.training.start import Start

MANIFEST = "manifest.json"


def class_images(job: Job, start: Start, folder: Path, prompts: Sequence[str], *, own: bool) -> None:
    """Makes sure that the folder holds the images of this run's class; of several processes one draws them.

    Args:
        own: whether the folder is the run's own, which may be drawn anew.

    Raises:
        ValueError: the folder is not the run's own and holds others.
    """
    recipe = recipe_of(job, start, prompts)
    if not differing(folder, recipe):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):  # the others wait, and find them
        if not own:
            refuse_others(job, start, folder, prompts)
        if differing(folder, recipe):
            draw(job, start, folder, recipe)


def refuse_others(job: Job, start: Start, folder: Path, prompts: Sequence[str]) -> None:
    """Refuses a folder with other files than the images of this run's class: such as photographs of one's own.

    Raises:
        ValueError: naming stage.class_folder.
    """
    found = differing(folder, recipe_of(job, start, prompts))
    if found and any(not file.name.startswith(".") for file in folder.glob("*")):
        raise ValueError(
            f"stage.class_folder={folder} holds other files than the images that this run would draw "
            f"({'; '.join(found)}): it is for images that another run has drawn, not for your own; choose another "
            "folder, or omit it"
        )


def recipe_of(job: Job, start: Start, prompts: Sequence[str]) -> dict[str, Any]:
    """What decides the images."""
    config = job.config
    seed = counter_hash("class images", config["seed"]) % 2**32
    return {
        "model": start.digest,
        "prompt": prompts[0] if len(prompts) == 1 else list(prompts),
        "count": config["stage"]["class_images"],
        "resolution": config["data"]["resolution"],
        "sampler": config["sampler"],
        "guidance": config["guidance"],
        "seed": seed,
    }


def differing(folder: Path, recipe: dict[str, Any]) -> list[str]:
    """What of a folder's images is not as the recipe wants it; nothing if they are these images, whole."""
    path = folder / MANIFEST
    if not path.is_file():
        return ["there is no manifest of them"]
    try:
        manifest = json.loads(path.read_text())
        files = dict(manifest.pop("files"))
    except (ValueError, KeyError, TypeError) as error:
        return [f"{MANIFEST} is damaged: {error!r}"]
    wanted = json.loads(json.dumps(recipe))
    found = [
        f"{key}: {json.dumps(manifest.get(key))} there, {json.dumps(wanted.get(key))} here"
        for key in {**manifest, **wanted}
        if manifest.get(key) != wanted.get(key)
    ]
    there = {file.name for file in folder.glob("*.png")}
    found += [f"{name} is missing or no image of them" for name in sorted(there ^ set(files))[:3]]
    return found or [
        f"{name} has changed" for name, digest in files.items() if file_digest(folder / name) != digest
    ]


def draw(job: Job, start: Start, folder: Path, recipe: dict[str, Any]) -> None:
    """Draws the images; the manifest comes last."""
    import time

    from t2ilab.callbacks.progress import duration, ticker
    from t2ilab.export.denoiser import load
    from t2ilab.runs.finished_model import drawing
    from t2ilab.runs.machine import device_of

    config, count = job.config, recipe["count"]
    for old in (folder / MANIFEST, *folder.glob("*.png")):
        old.unlink(missing_ok=True)
    base, trusted = getattr(start.opened, "base", None), packages(start.opened.nodes)
    model = load(
        start.opened.folder,
        device=device_of(job.trainer),
        trusted=trusted,
        base=None if base is None else str(base.folder),
    )
    guidance = None if config["guidance"] == model.nodes["guidance"] else config["guidance"]
    generate = drawing(model, config["sampler"], guidance, trusted=trusted)
    generate = generate.with_(precision=job.trainer.precision)
    began, tick = time.perf_counter(), ticker("drawing images of the class")
    names: list[str] = []
    prompts = [recipe["prompt"]] if isinstance(recipe["prompt"], str) else recipe["prompt"]
    asked = [prompts[number % len(prompts)] for number in range(count)]
    for batch in generate.batches(asked, seed=recipe["seed"]):
        for image in batch:
            names.append(f"{len(names):05d}.png")
            write_image(folder / names[-1], image.permute(1, 2, 0).numpy())
        tick(len(names), count)
    files = {name: file_digest(folder / name) for name in names}
    write_json(folder / MANIFEST, recipe | {"files": files})
    seconds = duration(time.perf_counter() - began)
    told = repr(prompts[0]) if len(prompts) == 1 else f"{len(prompts)} prompts of the class"
    print(f"{count} images of {told} in {job.run.relative(folder)}, {seconds}", flush=True)
