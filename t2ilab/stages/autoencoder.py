"""`stage=autoencoder`: trains a small AutoencoderKL on images and measures what it keeps of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from t2ilab.build import Config, build
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Rows
from t2ilab.eval.report import write_report
from t2ilab.eval.report_content import Cost, ExtraTable, ReportContent
from t2ilab.export.manifest import as_parent, read_manifest
from t2ilab.export.reader import load_weights
from t2ilab.latents.base import per_channel, to_pixels
from t2ilab.latents.kl import KL, BaseKL, recorded_statistics
from t2ilab.latents.principal import reduced
from t2ilab.measuring.wrap_up import data_facts
from t2ilab.training.job import Job
from t2ilab.training.latent_rows import ImageRows, images_at_once, module_device, to_signed
from t2ilab.training.learner import Learner
from t2ilab.training.reconstruction import psnr

MEASURED = 8192  # validation images at most
SHOWN = 16  # of them, in the grid, at most


class AutoencoderLearner(Learner):
    """An autoencoder learns, alone or with others, or its decoder does."""

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        return Batch(to_signed(rows["images"]))


def run(config: Config) -> float:
    """Trains, calibrates the latents to unit variance, measures, and writes the export; returns the PSNR."""
    frozen = config["stage"]["freeze_encoder"]
    if frozen and not config["init_from"]:
        raise ValueError("stage.freeze_encoder=true keeps the encoder of init_from=<run>, which is missing")
    parents = parents_of(config["init_from"])
    with Job.open({**config, "parents": parents} if parents else config) as job:
        if (value := job.finished()) is not None:
            return value
        data = build(config["data"])
        job.say_data(data)
        job.check_data(data)
        torch.manual_seed(config["seed"])
        student = build(config["autoencoder"])
        if parents:
            begin_as(student, Path(parents[0]["path"]) / "vae")
        if frozen:
            student.freeze_encoder()
        stage = AutoencoderLearner(student, build(config["loss"]), **job.common(data))
        rows = ImageRows(data.train, seed=config["seed"])
        resolution = data.train.resolution
        job.fit(stage, rows, data, what="autoencoder", tokens=(resolution // student.factor) ** 2)
        if not job.first:
            return 0.0
        with job.ema.applied(student):
            done = finished(student, rows, frozen=frozen, principal=config["stage"]["principal"])
            measured = measure(done, data)
            image_pairs(done, data, job.run.samples / "reconstructions.png")
            job.finish_network(
                "autoencoder",
                measured,
                lambda folder: done.save(folder / "vae", dtype=torch.float16),
                parents=parents,
            )
        report(job, stage, data, measured)
        print(json.dumps(measured, indent=1))
        return job.close(float(measured["psnr"]))


def parents_of(path: str | None) -> list[dict[str, str]]:
    """The exported autoencoder that a run starts from, if a path is given, found whole.

    Raises:
        ValueError: the export is of another kind, or damaged.
    """
    return [] if path is None else [as_parent(*read_manifest(path, kind="autoencoder"))]


def begin_as(student: KL, folder: Path) -> None:
    """Loads weights, strictly, scale and shift of an autoencoder of the same shape.

    Raises:
        ValueError: it is of another shape.
    """
    load_weights(student.network, folder / "diffusion_pytorch_model.safetensors")
    scale, shift = recorded_statistics(json.loads((folder / "config.json").read_text()))
    student.scale.copy_(per_channel(scale, student.channels, "scale"))
    student.shift.copy_(per_channel(shift, student.channels, "shift"))


def finished(student: KL, rows: ImageRows, *, frozen: bool, principal: int | None) -> BaseKL:
    """What is exported: weights as they are stored, and latents of unit variance on (at most 4096) training images.

    Args:
        frozen: scale and shift are those of an earlier run, and stay.
        principal: keep so many principal directions of the latents only.
    """
    half(student.eval())
    if frozen and principal is None:
        return student
    images = rows.images.rows("images", range(min(4096, len(rows))))
    device = module_device(student)
    means, log_variances = posteriors(student, images)
    if principal is None:
        student.calibrate(means)
        return student
    small = reduced(student.cpu(), means, log_variances, principal)
    half(small)
    return small.to(device)


def half(network: torch.nn.Module) -> None:
    """Rounds weights to fp16, as they will be stored, so that what is measured is what is kept."""
    for value in network.parameters():
        value.data.copy_(value.data.half())


@torch.no_grad()
def posteriors(network: BaseKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-variances of uint8 images, in fp32, on the CPU."""
    device = module_device(network)
    parts = [network.posterior(to_signed(part.to(device))) for part in images.split(batch_of(images))]
    return torch.cat([mean.cpu() for mean, _ in parts]), torch.cat([spread.cpu() for _, spread in parts])


@torch.no_grad()
def passed(network: BaseKL, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled latents and reconstructions (uint8) of uint8 images, in fp32, on the CPU."""
    mean, _ = network.posterior(to_signed(images.to(module_device(network))))
    return ((mean - network.shift) * network.scale).cpu(), to_pixels(network.reconstruct(mean)).cpu()


def batch_of(images: Tensor) -> int:
    """How many of the images go through an autoencoder at a time."""
    return min(128, images_at_once(images[0, 0].numel()))


def measure(network: BaseKL, data: DataSet) -> dict[str, Any]:
    """PSNR of up to 8192 validation images and, where the truth is known, how often the judge reads them right."""
    count = min(MEASURED, len(data.val))
    parts, latents, right = [], [], []
    for rows in torch.arange(count).split(batch_of(data.val.images([0]))):
        images = data.val.images(rows.tolist())
        scaled, rebuilt = passed(network, images)
        latents.append(scaled)
        parts.append(psnr(images, rebuilt))
        if data.world is not None:
            scenes = [cast(SceneSource, data.val).scene(index) for index in rows.tolist()]
            right += [score.passed for score in data.world.score_batch(scenes, rebuilt)]
    ratios = torch.cat(parts)
    found: dict[str, Any] = {
        "pictures": count,
        "psnr": round(float(ratios.mean()), 3),
        "psnr_low_1_percent": round(float(ratios.quantile(0.01)), 3),
        "latent_std": round(float(torch.cat(latents).std()), 4),
    }
    return found | ({"judge_right": sum(right) / count} if data.world is not None else {})


def report(job: Job, stage: Learner, data: DataSet, measured: dict[str, Any]) -> None:
    """Writes report.html: what was trained, the losses of all players, what was measured."""
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in measured.items()]
    name = type(stage.objective).__name__
    content = ReportContent(
        title=f"autoencoder: {data.summary()}",
        stage=job.config["stage"]["name"],
        subtitle=f"{stage.steps_done} steps of {stage.batch_size} images with {name}",
        metrics_csv=job.run.metrics,
        data=data_facts(data),
        tables=[ExtraTable("What it keeps of images that it has not seen", ("measure", "value"), rows)],
        costs=[Cost("training", job.seconds, f"{stage.steps_done} steps of {stage.batch_size} images")],
        command=job.config["command"],
    )
    print(f"report: {job.run.relative(write_report(job.run.report, content))}")


def image_pairs(network: BaseKL, data: DataSet, path: Path) -> None:
    """A grid of up to 16 validation images, each beside its reconstruction."""
    from t2ilab.eval.grid import save_grid

    images = data.val.images(range(min(SHOWN, len(data.val))))
    rebuilt = torch.cat([passed(network, part)[1] for part in images.split(batch_of(images))])
    save_grid(path, torch.stack([images, rebuilt], 1).flatten(0, 1), columns=8)
