"""The first losses of every method, stage and model, held against a table that was made before a change.

    python benchmarks/losses.py            # compares with losses.json, exit status 1 where a loss differs
    python benchmarks/losses.py --write    # makes losses.json anew
    python benchmarks/losses.py --only terms model

A change of shape changes no loss, by no bit, on one machine. On another than that which made the table they differ
from the first step on, since latents are encoded in bf16 where the processor has it (by 1e-3, those with a critic by
more): make the table there from the code before, in a work tree of its own with PYTHONPATH=<that work tree>, then
compare. Each case is a run of the command line at a tiny size that ends with its last training step; one thread,
about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import torch

from t2ilab.config.composition import checked

TABLE = Path(__file__).with_name("losses.json")
MACHINE = (
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.precision=fp32",
    "checkpoint.every=100000",
)
TINY = ("debug=tiny", "stage.preview_every=100000", "sampler.grid.start=0.98", *MACHINE)
AUTOENCODER = ("debug=tiny_autoencoder", "data.resolution=32", "data.batch_size=8", *MACHINE)
ADVERSARIAL = (*AUTOENCODER, "loss=adversarial_reconstruction", "loss.start_step=2")
ENCODER = (
    *("stage=encoder", "data.size=64", "data.val_size=16", "data.resolution=32", "data.batch_size=8"),
    *("optimizer=adamw", "schedule.warmup=1", "logger.every=1", *MACHINE),
    *("model.image_layers=1", "model.text_layers=1", "stage.tokenizer.vocab_size=300"),
)
LATENTS = (*TINY, "autoencoder=scenes", "data.resolution=64")
SMALL = {  # of models that are too large as they are
    "dit": ("model.width=32", "model.depth=3", "model.heads=2"),
    "mmdit": ("model.width=32", "model.depth=3", "model.heads=2"),
    "pixart": ("model.width=32", "model.depth=3", "model.heads=2"),
    "single": ("model.width=32", "model.depth=3", "model.heads=2", "model.kv_heads=2"),
    "unet": ("model.widths=[16,16]", "model.attention=[true,true]", "model.head_dim=8", "model.groups=4"),
}
MODELS = (
    "dit_s",
    "dit_b",
    "dit_tiny",
    "mmdit_tiny",
    "mmdit_s",
    "mmdit_sd3",
    "pixart_tiny",
    "pixart_s",
    "pixart_xl",
)
MODELS += ("single_tiny", "single_lumina2", "unet_tiny", "unet_s", "unet_sd15")
ROUTED = {"dit_tiny": "tread", "pixart_tiny": "sprint", "mmdit_tiny": "masking", "single_tiny": "sprint"}


def model(name: str) -> Sequence[str]:
    small = SMALL[name.partition("_")[0]]
    more = ("model.layers=1", "model.depths=1") if name == "unet_sd15" else ()
    more += ("model.activation=gelu",) if name.startswith("dit_") else ()  # as when the table was made
    return (*LATENTS, f"model={name}", *small, *more)


def cases() -> Iterator[tuple[str, int, Sequence[str]]]:
    """Name, steps and options of every run."""
    yield "loss/flow_matching", 100, TINY
    yield "loss/diffusion", 100, (*TINY, "loss=diffusion", "prediction=eps")
    yield "loss/score_matching", 100, (*TINY, "loss=score_matching", "prediction=score", "path=vp_linear")
    yield "loss/likelihood", 10, (*TINY, "loss=score_matching", "prediction=eps", "loss.likelihood=true")
    yield "loss/reconstruction", 100, AUTOENCODER
    yield "loss/reconstruction_noise", 10, (*AUTOENCODER, "loss.noise=0.3")
    yield "loss/adversarial_reconstruction", 40, ADVERSARIAL
    yield "loss/adversarial_accumulated", 10, (*ADVERSARIAL, "trainer.accumulate=2")
    yield "loss/adversarial_learned_variance", 10, (*ADVERSARIAL, "loss.learned_variance=true")
    yield "loss/adversarial_aligned", 10, (*ADVERSARIAL, "latent_alignment@loss.latent_alignment=va_vae")
    yield "loss/adversarial_fixed_weight", 10, (*ADVERSARIAL, "loss.adaptive=false")
    yield "loss/perceptual_alone", 10, (*ADVERSARIAL, "loss.discriminator=null")
    yield "loss/contrastive", 30, ENCODER
    yield "loss/contrastive_alone", 10, (*ENCODER, "stage.reading=0")
    for name in ("x0", "eps", "v", "edm"):
        yield f"prediction/{name}", 10, (*TINY, f"prediction={name}")
        yield f"prediction/{name}_diffusion", 5, (*TINY, f"prediction={name}", "loss=diffusion")
    for name in ("trig", "vp_cosine", "scaled_linear", "ddpm_linear", "vp_linear"):
        yield f"path/{name}", 5, (*TINY, f"path={name}", "loss=diffusion", "prediction=v")
    yield "path/ve", 5, (*TINY, "path=ve", "loss=diffusion", "prediction=edm", "timestep=log_normal")
    for name in ("cos_map", "edm", "likelihood", "min_snr", "p2", "sigma_sqrt", "sigmoid", "uncertainty"):
        yield f"weighting/{name}", 10, (*TINY, f"weighting@loss.weighting={name}")
    for name in ("beta", "cosmap", "log_normal", "loss_aware", "mode", "uniform"):
        yield f"timestep/{name}", 10, (*TINY, f"timestep={name}")
    for name in ("repa", "irepa", "sra", "dispersive"):
        older = ("terms.irepa.normalise=1.0",) if name == "irepa" else ()  # as when the table was made
        yield f"terms/{name}", 20, (*LATENTS, "model.patch_size=1", f"terms=[{name}]", *older)
    yield "terms/repa_stopped", 10, (*LATENTS, "terms=[repa]", "terms.repa.weight.stop=0.5")
    vector = ("model.class_dim=${autoencoder.encoder.dim}", "model.class_channels=2", "terms=[repa,reg]")
    yield "terms/reg", 10, (*model("dit_tiny"), "autoencoder=scenes_reg", *vector)
    yield "terms/routed", 10, (*model("dit_tiny"), "routing@model.routing=tread", "terms=[repa,sra]")
    for name in MODELS:
        yield f"model/{name}", 10, model(name)
    for name, rule in ROUTED.items():
        yield f"routing/{name}_{rule}", 10, (*model(name), f"routing@model.routing={rule}")
    yield (
        "model/dit_contexts",
        5,
        (*model("dit_s"), "model.context=cross", "model.positions=rope", "model.qk_norm=true"),
    )
    yield (
        "model/dit_skips",
        5,
        (*model("dit_s"), "model.context=kv", "model.skips=true", "model.positions=rope"),
    )
    masked = ("routing@model.routing=masking", "curriculum=unmask")
    yield "curriculum/unmask", 20, (*model("dit_tiny"), *masked)
    yield "curriculum/resolution", 10, (*TINY, "data.resolution=64", "curriculum=resolution")
    for name in ("adamw", "adafactor", "muon"):
        yield f"optimizer/{name}", 10, (*TINY, f"optimizer={name}")
    yield "trainer/accumulate", 10, (*TINY, "trainer.accumulate=2")


class Trained(BaseException):
    """Ends a run behind its last training step."""


def losses(options: Sequence[str], steps: int, folder: Path) -> list[float]:
    """train/loss of each step of a run."""
    from t2ilab.training import job
    from t2ilab.training.pace import Pace

    fit = job.fit

    def only(*arguments: object, **more: object) -> None:
        fit(*arguments, **more)  # type: ignore[arg-type]
        raise Trained

    config = checked([*options, "logger.every=1", f"trainer.max_steps={steps}", f"run_dir={folder}"])
    module, _, function = config["stage"]["job"].rpartition(".")
    quick = patch.object(job, "settle_threads", lambda *_: Pace({0: 1.0}, threads=1))
    silent = contextlib.redirect_stdout(io.StringIO())
    with patch.object(job, "fit", only), quick, silent, contextlib.suppress(Trained):
        getattr(importlib.import_module(module), function)(config | {"command": "losses"})
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file)]


def compared(found: Mapping[str, list[float]], wanted: Mapping[str, list[float]], rtol: float) -> list[str]:
    """A line for every case whose losses differ by more than `rtol` of their size."""
    lines = []
    for name, values in found.items():
        before = wanted.get(name, [])
        pairs = list(zip(values, before, strict=False))
        apart = [abs(a - b) / max(abs(b), 1e-12) for a, b in pairs]
        if len(values) != len(before):
            lines.append(f"{name}: {len(values)} losses, the table has {len(before)}")
        elif max(apart) > rtol:
            first = next(k for k, value in enumerate(apart) if value > rtol)
            change = f"was {before[first]!r}, is {values[first]!r}"
            lines.append(f"{name}: step {first + 1} {change}; at most {max(apart):.2e} apart")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="make the table anew")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names")
    parser.add_argument("--rtol", type=float, default=0.0, help="relative difference that is allowed")
    chosen = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["T2ILAB_CACHE"] = str(Path(place) / "cache")
        for name, steps, options in cases():
            if chosen.only and not name.startswith(tuple(chosen.only)):
                continue
            began = time.perf_counter()
            found[name] = losses(options, steps, Path(place) / name.replace("/", "_"))
            print(f"{name:40} {found[name][-1]:.6f}  {time.perf_counter() - began:.1f} s", flush=True)
    if chosen.write:
        made = {"torch": torch.__version__, "machine": platform.machine(), "losses": found}
        TABLE.write_text(json.dumps(made, indent=0) + "\n")
        return 0
    lines = compared(found, json.loads(TABLE.read_text())["losses"], chosen.rtol)
    print("\n".join(lines) or f"all losses of {len(found)} cases are those of the table")
    return len(lines) > 0


if __name__ == "__main__":
    sys.exit(main())
