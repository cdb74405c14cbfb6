"""The report's table of a run: what was trained on what, by which method, on which machine."""

from __future__ import annotations

import functools
import platform
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from t2ilab.build import Node
from t2ilab.measuring.measure import Measure
from t2ilab.pipeline import TextToImage
from t2ilab.training.fit import count
from t2ilab.training.job import Job
from t2ilab.training.learner import Learner


def parameters(stage: Learner) -> int:
    return sum(p.numel() for p in stage.student.parameters())


def trained(stage: Learner) -> int:
    """How many weights of the student train."""
    return sum(p.numel() for p in stage.student.parameters() if p.requires_grad)


def facts_table(job: Job, stage: Learner, generate: TextToImage, measure: Measure) -> dict[str, Any]:
    """The report's table of what was trained on what."""
    config = job.config

    def name(group: str) -> str:
        return config[group]["_target_"].rpartition(".")[2]

    channels, height, width = generate.latent_shape
    return {
        "stage": config["stage"]["name"],
        "model": f"{name('model')}, {count(parameters(stage))} parameters",
        "trains": f"{count(trained(stage))} weights, {trained(stage) / parameters(stage):.2%}",
        "latents": f"{channels} x {height} x {width}, {generate.tokens} tokens",
        "data": measure.data.summary(),
        "objective": f"{name('loss')} on the {name('path')} path, network predicts {name('prediction')}",
        **_perceptual(config["loss"]),
        "times": f"{name('timestep')}, shift {config['timestep'].get('shift', 1):g}",
        "optimizer": f"{name('optimizer')}, rate {config['optimizer'].get('lr', '-')}, {name('schedule')} schedule",
        "average of the weights": f"{name('ema')} {config['ema'].get('decay') or ''}".strip()
        if config["ema"]
        else "-",
        "batch": f"{stage.batch_size} images",
        "steps": f"{stage.steps_done:,} of {job.trainer.max_steps:,}",
        "seconds a step": f"{job.seconds / stage.steps_done:.3g}"
        if stage.steps_done and job.seconds
        else "-",
        "images seen": f"{stage.steps_done * stage.batch_size:,}",
        "sampler": f"{name('sampler')}, {_steps(config['sampler'])} steps",
        "guidance": f"{name('guidance')} {config['guidance'].get('scale', '')}".strip(),
        "precision": generate.precision,
        "hardware": f"{job.trainer.world} x {processor(generate.device)}",
        "memory": _memory(generate.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **_commit(),
    }


def _perceptual(loss: dict[str, Any]) -> dict[str, str]:
    """The perceptual distance of a loss and its network or file; nothing for a loss without one."""
    distance = loss.get("perceptual")
    if not distance:
        return {}
    seen = distance.get("net") or distance.get("path")
    return {"perceptual distance": f"{distance['_target_'].rpartition('.')[2]}, {seen}"}


def _steps(sampler: Node) -> Any:
    return (sampler.get("grid") or {}).get("steps", "-")


def processor(device: torch.device) -> str:
    """The name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    known = Path("/proc/cpuinfo")
    lines = known.read_text(errors="replace").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{device.type}, {names[0] if names else platform.processor() or platform.machine()}"


def _memory(device: torch.device) -> str:
    """The most that this process has held so far, of the GPU where one computes."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB at most on the GPU"
    unit = 1 if platform.system() == "Darwin" else 1024  # bytes there, KiB on Linux
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB at most"


@functools.cache
def _commit() -> dict[str, str]:
    """The commit that the code is checked out at; nothing where it is installed or there is no git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return {}
    told = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {"commit": told.stdout.strip()} if told.returncode == 0 else {}
