"""What is left to learn at each noise level: python benchmarks/noise_levels.py RUN docs/lecture/noise_levels.png

Left: the loss of a finished model on validation images against t, mean (target - network)^2, and its middle half over
the images. Right: validation images with noise, and under each the model's best guess of the clean image from it. At
little noise only details are missing; at much noise the guess is the mean of all that the prompt allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from figures import COLOURS, plain, save
from torch import Tensor

from t2ilab.build import build
from t2ilab.core.rng import RowRng
from t2ilab.eval.grid import to_arrays
from t2ilab.export.denoiser import Artifact, load
from t2ilab.training.latent_rows import to_signed

IMAGES, TIMES = 64, 16
SHOWN, NOISE = 2, (0.2, 0.4, 0.6, 0.8, 0.95)


class Noisy:
    """Validation images of a run, their latents and texts, with one noise each."""

    def __init__(self, model: Artifact) -> None:
        source = build(model.manifest["data"]).val
        rows = range(min(IMAGES, len(source)))
        self.model = model
        self.x0 = model.autoencoder.encode(to_signed(source.images(rows)))
        self.condition = model.conditioner([source.shown(index) for index in rows])
        self.eps = RowRng(0, 0, torch.tensor(rows), len(rows)).normal("noise", *self.x0.shape[1:])

    def at(self, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """The noisy latents, the guess of the clean ones, and the loss of each row."""
        denoiser, t = self.model.denoiser, torch.full((len(self.x0),), time)
        x_t = denoiser.path.mix(self.x0, self.eps, t)
        estimate = denoiser(x_t, t, self.condition)
        error = estimate.output_error(self.x0, self.eps).square()
        return x_t, estimate.x0, estimate.mean(error)


@torch.no_grad()
def draw(run: Path, out: Path) -> None:
    noisy = Noisy(load(run))
    times = np.linspace(0.02, 0.98, TIMES)
    losses = torch.stack([noisy.at(float(time))[2] for time in times]).numpy()
    figure = plt.figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    axes = plain(left.subplots())
    low, high = np.quantile(losses, (0.25, 0.75), axis=1)
    axes.fill_between(times, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    axes.plot(times, losses.mean(1), color=COLOURS[0], linewidth=2)
    axes.set(xlabel="t  (0 data, 1 noise)", ylabel="loss on validation images", xlim=(0, 1), ylim=(0, None))
    panels = right.subplots(2 * SHOWN, len(NOISE))
    for column, time in enumerate(NOISE):
        x_t, guess, _ = noisy.at(time)
        for kind, latents in enumerate((x_t, guess)):
            for row, image in enumerate(to_arrays(noisy.model.generate.decode(latents[:SHOWN]))):
                panel = panels[2 * row + kind, column]
                panel.imshow(image, interpolation="nearest")
                panel.set(xticks=[], yticks=[])
                panel.set_ylabel(("with noise", "guess")[kind] if column == 0 else "")
        panels[0, column].set_title(f"t = {time:g}", fontsize=10)
    save(figure, out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
