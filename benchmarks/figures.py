"""What the figures of docs/lecture.md share: their colours, plain axes and small files."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = ("#1b7083", "#c4662c", "#5f7d2c", "#7a5aa6", "#a33b5b", "#4c4a45")


def plain(axes: plt.Axes) -> plt.Axes:
    """Without the lines at the top and at the right."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def save(figure: Figure, path: Path) -> None:
    """As a PNG of at most 255 colours, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(255).save(path, optimize=True)
    print(path)
