"""What a curriculum shows when: python benchmarks/phases.py docs/lecture/curriculum.png [OVERRIDE ...]

The phases of `curriculum=resolution`, or of the one that is given, from left to right, each as wide as its share of
the steps: images with captions as a step of it reads them, and below the density of its timesteps.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import COLOURS, plain, save
from matplotlib.figure import SubFigure

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.eval.grid import to_arrays
from t2ilab.training.phases import Phase, phases_of

MOST = 3.0  # of the axis of densities, the same in all phases


def show(figure: SubFigure, phase: Phase, title: str, images: int) -> None:
    """Images and captions of one phase, and its density of times."""
    source = build(phase.data).train
    above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    above.suptitle(title, fontsize=11)
    for number, panel in enumerate(np.atleast_1d(above.subplots(1, images))):
        panel.imshow(to_arrays(source.images([number]))[0], interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.set_xlabel("\n".join(textwrap.wrap(source.shown(number), 18)[:3]), fontsize=8)
    axes, t = plain(below.subplots()), torch.linspace(0, 1, 501, dtype=torch.float64)[1:-1]
    axes.fill_between(
        t, build(phase.timestep).log_density(t).exp(), color=COLOURS[0], alpha=0.25, linewidth=0
    )
    axes.plot(t, build(phase.timestep).log_density(t).exp(), color=COLOURS[0])
    axes.set(xlim=(0, 1), ylim=(0, MOST), xlabel="t  (0 data, 1 noise)", ylabel="how often drawn")


def draw(out: Path, overrides: list[str]) -> None:
    chosen = overrides or ["curriculum=resolution"]
    config = composition.checked(chosen)
    phases, steps = phases_of(config), config["trainer"]["max_steps"]
    ends = [phase.first for phase in phases[1:]] + [steps]
    figure = plt.figure(figsize=(10.5, 4.2), layout="constrained")
    shares = [end - phase.first for phase, end in zip(phases, ends, strict=True)]
    parts = np.atleast_1d(figure.subfigures(1, len(phases), width_ratios=shares))
    for part, phase, end in zip(parts, phases, ends, strict=True):
        title = f"steps {phase.first:,} to {end:,}, {phase.name}: {phase.data['resolution']} px"
        show(part, phase, title, images=max(2, round(8 * (end - phase.first) / steps)))
    save(figure, out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), sys.argv[2:])
