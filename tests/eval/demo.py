"""A report made of invented numbers and invented images, to look at: python -m tests.eval.demo OUT.html"""

import csv
import math
import sys
from pathlib import Path

import numpy as np
import torch

from t2ilab.eval.evaluator import Evaluator, Reference
from t2ilab.eval.grid import read_grid, save_grid
from t2ilab.eval.heldout import HeldOut
from t2ilab.eval.nfe import Drawn, nfe_curve
from t2ilab.eval.report import write_report
from t2ilab.eval.report_content import Cost, DataFacts, ExtraTable, Final, NextStep, ReportContent
from t2ilab.eval.result import Metric
from tests.eval.fakes import COLORS, ColorWorld, MeanFeatures, painter

CAPTIONS = tuple(f"a {c} square, number {k}" for k in range(25) for c in COLORS)


def loss_fn(shift):
    def fn(index, t, rng):
        return 0.3 + shift + 0.5 * (t - 0.6) ** 2 + 0.02 * rng.normal("eps", 1)[:, 0]

    return fn


def evaluations(seed=0):
    """Before and after: two painters of a lower and a higher prompt accuracy."""
    world = ColorWorld()
    evaluator = Evaluator(
        {"judge": world.prompts("test", 30, 0), "compose": world.prompts("compose", 15, 0)},
        Reference(painter(seed=9, size=32)(list(CAPTIONS), torch.arange(len(CAPTIONS))), CAPTIONS),
        MeanFeatures(),
        judge=world,
        heldout=HeldOut(40),
        samples_per_prompt=4,
    )
    meta = {"sampler": "euler", "steps": 20, "guidance": 2.0, "weights": "ema"}
    before = evaluator(painter(0.55, seed, size=32), loss_fn(0.08), meta)
    return before, evaluator(painter(0.8, seed, size=32), loss_fn(0.0), meta)


def write_metrics(path):
    rng = np.random.default_rng(0)
    names = ["t0.00-0.25", "t0.25-0.50", "t0.50-0.75", "t0.75-1.00"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "train/loss", *(f"train/loss_{n}" for n in names), "eval/judge/overall"])
        for step in range(10, 2501, 10):
            base = 0.28 + 1.5 * math.exp(-step / 250)
            bins = [base * factor * rng.lognormal(0, 0.06) for factor in (1.5, 0.8, 0.75, 1.05)]
            judge = f"{0.8 * (1 - math.exp(-step / 700)):.3f}" if step % 250 == 0 else ""
            writer.writerow([step, np.mean(bins), *bins, judge])
    return path


def write_previews(folder, size=64):
    prompts = [f"a {color} square{tail}" for tail in ("", " on a quiet background") for color in COLORS]
    noise = np.random.default_rng(1).integers(0, 256, (len(prompts), size, size, 3))
    clean = np.zeros_like(noise) + 238
    for k, prompt in enumerate(prompts):
        color = next(c for c in COLORS if c in prompt)
        clean[k, 14:50, 10 + 3 * k : 46 + 2 * k] = COLORS[color]
    paths = []
    for step in range(0, 2501, 250):
        share = math.exp(-step / 600)
        images = (share * noise + (1 - share) * clean).astype(np.uint8)
        paths.append(
            save_grid(folder / f"step_{step:06d}.png", images, prompts, columns=4, info={"step": step})
        )
    return paths


def curve():
    world = ColorWorld()
    prompts = world.prompts("test", 20, 0)
    exact = torch.randn(len(prompts), 2, 4, 4, generator=torch.Generator().manual_seed(0))
    wrong = torch.randn(len(prompts), 2, 4, 4, generator=torch.Generator().manual_seed(1))

    def draw(steps):
        images = painter(0.82 - 0.6 / steps)([p.text for p in prompts], torch.arange(len(prompts)))
        return Drawn(exact + wrong / steps, images, nfe=2 * steps)

    return nfe_curve(draw, [1, 2, 4, 8, 16, 32], prompts=prompts, judge=world, reference=exact)


def content(folder):
    """Every section filled."""
    before, after = evaluations()
    previews = write_previews(folder / "samples")
    last = read_grid(previews[-1])
    rights = [number % 3 != 2 for number in range(len(last.images))]
    return ReportContent(
        final=[Final(*shot) for shot in zip(last.captions, last.images, rights, strict=True)],
        marks={
            "untrained network": Metric(0.0, 0.0, 0.32, 8, "Wilson over prompts", "share", True),
            "real images": Metric(1.0, 0.94, 1.0, 64, "Wilson over held-out images", "share", True),
        },
        config={"seed": 0, "model": {"depth": 4}},
        title="A demonstration on invented data",
        stage="pretrain",
        subtitle="None of these numbers comes from a model. They show what a report looks like.",
        notes=["Test data: images and numbers on this page are made up."],
        facts={
            "Stage": "pretrain, from random weights",
            "Model": "dit_tiny, 1.9 M parameters",
            "Tokens": "64 per image, 8 x 8 x 8 latents",
            "Data": "scenes/general, 64 px",
            "Steps": "2,500 of 2,500",
            "Images seen": "160,000",
            "Parents": "autoencoder 3f1c09aa, encoder 77d0be12",
            "Hardware": "2 CPU cores, bf16 autocast",
            "Wall time": "4 min 51 s",
        },
        evaluation=after,
        before=before,
        before_name="parent",
        metrics_csv=write_metrics(folder / "metrics.csv"),
        density={"training": [(t, 6 * t * (1 - t)) for t in np.linspace(0.0025, 0.9975, 200).tolist()]},
        sampler_times=[1.0, 0.92, 0.8, 0.63, 0.4],
        previews=previews,
        nfe=curve(),
        data=DataFacts(
            1204,
            1187,
            {"corrupt": 3, "too small": 9, "without a caption": 5},
            {"corrupt": ["broken_17.jpg"], "too small": ["icons/a.png", "icons/b.png"]},
        ),
        costs=[
            Cost("Reading and encoding data", 31.0, "1,187 images, 38 a second"),
            Cost("Training", 291.0, "2,500 steps, 550 images/s"),
            Cost("Previews", 12.4, "11 times 8 images"),
            Cost("Evaluation", 48.2, "1,180 images, 20 steps each"),
        ],
        tables=[
            ExtraTable(
                "A table of the stage's own", ["setting", "loss"], [["lr 1e-3", "0.31"], ["lr 2e-3", "0.29"]]
            )
        ],
        command="python -m t2ilab stage=pretrain model=dit_tiny data=scenes seed=0 trainer.max_steps=2500",
        reproduce={"Version": "0.1.0 (8a064d4)", "Seed": 0, "torch": torch.__version__},
        next_steps=[
            NextStep(
                "Draw your own prompts",
                "python -m t2ilab stage=sample init_from=RUN prompts='[\"a red square\"]'",
            ),
            NextStep("Train longer", "python -m t2ilab recipe=scenes"),
        ],
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    print(write_report(target, content(target.parent)), target.stat().st_size, "bytes")
