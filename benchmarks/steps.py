"""Quality against steps: python benchmarks/steps.py RUN docs/lecture/steps.png [--per-task 24]

A finished model draws the same test prompts from the same noise with more and more network evaluations (those of the
conditional and of the empty text count as one). Left: the prompt accuracy of three samplers, with 95 % intervals.
Right: images of Euler at each number of steps; a green frame says that the image shows what its prompt asks for.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import COLOURS, plain, save

from t2ilab.data import scenes
from t2ilab.eval.grid import to_arrays
from t2ilab.eval.intervals import wilson
from t2ilab.export.denoiser import Artifact, load
from t2ilab.measuring.drawn import judged
from t2ilab.sampling.base import Sampler
from t2ilab.sampling.dpm import DPMSolverPP2M
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Euler, Heun

EVALUATIONS = (1, 2, 4, 8, 16, 32)
SHOWN = 4
FRAMES = {True: "#1a7f37", False: "#cf222e"}


def samplers(shift: float | None) -> dict[str, dict[int, Sampler]]:
    """By name and network evaluations; Heun takes two a step but for the last, which is one of Euler."""
    return {
        "Euler": {n: Euler(Grid(n, shift)) for n in EVALUATIONS},
        "Heun": {2 * n - 1: Heun(Grid(n, shift)) for n in (1, 2, 4, 8, 16)},
        "DPM-Solver++(2M)": {n: DPMSolverPP2M(Grid(n, shift)) for n in EVALUATIONS},
    }


def images_of(model: Artifact, sampler: Sampler, prompts: list[str]) -> np.ndarray:
    """One image of each prompt, always from the same noise."""
    return to_arrays(model.generate.with_(sampler=sampler)(prompts, seed=0))


@torch.no_grad()
def draw(run: Path, out: Path, per_task: int) -> None:
    model = load(run)
    asked = [prompt.text for prompt in scenes.prompts("test", per_task, 0)]
    shown = asked[:: len(asked) // SHOWN][:SHOWN]
    figure = plt.figure(figsize=(10.5, 3.7), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.35))
    axes = plain(left.subplots())
    panels = right.subplots(SHOWN, len(EVALUATIONS))
    for (name, own), color in zip(samplers(model.sampler.grid.shift).items(), COLOURS, strict=False):
        images = {n: images_of(model, sampler, asked) for n, sampler in own.items()}
        right_ones = [sum(map(bool, judged(found, asked))) for found in images.values()]
        limits = np.array([wilson(count, len(asked)) for count in right_ones]).T
        shares = np.array(right_ones) / len(asked)
        bars = 100 * abs(limits - shares)
        axes.errorbar(list(images), 100 * shares, bars, marker="o", ms=4, capsize=2, color=color, label=name)
        print(name, dict(zip(images, (100 * shares).round(1).tolist(), strict=True)))
        if name == "Euler":
            show(panels, {n: found[:: len(asked) // SHOWN] for n, found in images.items()}, shown)
    axes.set_xscale("log", base=2)
    axes.set(xticks=EVALUATIONS, xticklabels=EVALUATIONS, xlabel="network evaluations")
    axes.set(ylabel="prompt accuracy, %", ylim=(0, 100))
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save(figure, out)


def show(panels: np.ndarray, images: dict[int, np.ndarray], prompts: list[str]) -> None:
    """Rows are prompts, columns are numbers of steps."""
    for column, (steps, found) in enumerate(images.items()):
        panels[0, column].set_title(f"{steps} step{'s' if steps > 1 else ''}", fontsize=10)
        rights = judged(found[: len(prompts)], prompts)
        for panel, image, right in zip(panels[:, column], found, rights, strict=False):
            panel.imshow(image, interpolation="nearest")
            panel.set(xticks=[], yticks=[])
            for spine in panel.spines.values():
                spine.set(color=FRAMES.get(right, "white"), linewidth=2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-task", type=int, default=24, help="test prompts of each task")
    given = parser.parse_args()
    draw(given.run, given.out, given.per_task)


if __name__ == "__main__":
    main()
