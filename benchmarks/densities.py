"""The densities of the training times in one figure: python benchmarks/densities.py docs/densities.png

The numbers are those of conf/timestep; the shift of 3 stands for whatever `timestep.shift` is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch

from t2ilab.core.beta import Beta
from t2ilab.core.timestep import CosMap, LogitNormal, LogNormal, Mode, TimeDistribution, Uniform

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BELLS = {
    "logit_normal, no shift": LogitNormal(),
    "log_normal (EDM)": LogNormal(mean=-0.507, std=1.2),
    "logit_normal, shift 3": LogitNormal(shift=3.0),
    "logit_normal, shift 3, uniform_share 0.1": LogitNormal(shift=3.0, uniform_share=0.1),
}
OTHERS = {
    "mode, scale 1.29": Mode(scale=1.29),
    "cosmap": CosMap(),
    "beta 1.5, 1": Beta(1.5, 1.0, low=0.001),
}
COLORS = ("#1b7083", "#5f7d2c", "#c4662c", "#7a5aa6")
STYLES = ("-", "-", "-", "--")


def draw(path: Path) -> None:
    """Two panels with the same axes; the uniform density is the dotted line in both."""
    figure, panels = plt.subplots(1, 2, figsize=(9.0, 3.7), sharey=True, layout="constrained")
    for panel, samplers in zip(panels, (BELLS, OTHERS), strict=True):
        draw_densities(panel, samplers)
    panels[0].set_ylabel("density")
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def draw_densities(panel: plt.Axes, samplers: dict[str, TimeDistribution]) -> None:
    t = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)[1:-1]
    panel.plot(t, Uniform().log_density(t).exp(), ":", color="#1f1c18", label="uniform")
    for (name, sampler), color, style in zip(samplers.items(), COLORS, STYLES, strict=False):
        panel.plot(t, sampler.log_density(t).exp(), style, color=color, linewidth=1.8, label=name)
    panel.set(xlabel="t (0 clean, 1 noise)", xlim=(0, 1), ylim=(0, 4), xticks=[0, 0.25, 0.5, 0.75, 1])
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9, loc="upper left")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
