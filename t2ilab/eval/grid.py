"""Grids of images as PNG files that know their own layout.

A grid is for people: captions stand under the images, small images are enlarged by a whole factor. It is
for programs too: the layout is stored in the file, so that `read_grid` gives the very pixels back (the report
builds its "over training" rows from the previews of a run).
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2ilab.files import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_KEY = "t2ilab-grid"
_GAP, _LINE, _FONT, _CAPTION_LINES = 6, 14, 12, 2
_SMALLEST = 128  # size that images are enlarged to at least
_PAPER, _INK = (250, 249, 247), (70, 68, 64)


@dataclass(frozen=True)
class Grid:
    """Images with what belongs to them.

    Attributes:
        images: uint8 (n, h, w, 3).
        captions: one per image, or empty.
        info: anything plain, for instance {"step": 500}.
    """

    images: np.ndarray
    captions: tuple[str, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)


def to_arrays(images: Tensor | np.ndarray) -> np.ndarray:
    """uint8 (n, 3, h, w) tensor or (n, h, w, 3) array to an (n, h, w, 3) array."""
    array = images if isinstance(images, np.ndarray) else images.detach().cpu().permute(0, 2, 3, 1).numpy()
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(
            "images must be uint8, (n, 3, h, w) tensors or (n, h, w, 3) arrays; "
            f"got {array.dtype}, as an array {array.shape}"
        )
    return np.ascontiguousarray(array)


def draw_grid(
    images: Tensor | np.ndarray, captions: Sequence[str] = (), *, columns: int | None = None
) -> tuple[Image, dict[str, Any]]:
    """The grid as a PIL image, and its layout; small images are enlarged by a whole factor.

    Args:
        columns: images in a row; None for a nearly square grid.
    """
    from PIL import Image, ImageDraw

    arrays = to_arrays(images)
    count, height, width = arrays.shape[:3]
    if captions and len(captions) != count:
        raise ValueError(f"{count} images need as many captions, got {len(captions)}")
    columns = min(count, columns or int(np.ceil(np.sqrt(count))))
    scale = max(1, -(-_SMALLEST // max(height, width)))
    cell_w, cell_h = width * scale, height * scale
    below = _LINE * _CAPTION_LINES + 4 if captions else 0
    pitch = (cell_w + _GAP, cell_h + _GAP + below)
    rows = -(-count // columns)
    canvas = Image.new("RGB", (columns * pitch[0] + _GAP, rows * pitch[1] + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(canvas), _font("".join(captions))
    for k, image in enumerate(arrays):
        left, top = _GAP + k % columns * pitch[0], _GAP + k // columns * pitch[1]
        canvas.paste(Image.fromarray(image.repeat(scale, 0).repeat(scale, 1)), (left, top))
        if captions:
            text = _fit(captions[k], cell_w, pen, font)
            pen.multiline_text((left, top + cell_h + 2), text, fill=_INK, font=font, spacing=2)
    layout = {
        "n": count,
        "columns": columns,
        "size": [height, width],
        "scale": scale,
        "pitch": pitch,
        "gap": _GAP,
    }
    return canvas, layout


def save_grid(
    path: str | Path,
    images: Tensor | np.ndarray,
    captions: Sequence[str] = (),
    *,
    columns: int | None = None,
    info: dict[str, Any] | None = None,
) -> Path:
    """Writes a PNG atomically and returns its path; `info` (plain values) travels in the file."""
    from PIL.PngImagePlugin import PngInfo

    path = Path(path)
    canvas, layout = draw_grid(images, captions, columns=columns)
    text = PngInfo()
    text.add_itxt(_KEY, json.dumps({**layout, "captions": list(captions), "info": info or {}}))
    with whole_file(path, sync=False) as temporary:
        canvas.save(temporary, format="PNG", pnginfo=text)
    return path


def read_grid(path: str | Path) -> Grid:
    """The images, captions and info of a file written by `save_grid`, pixel for pixel."""
    from PIL import Image

    with Image.open(path) as file:
        stored = getattr(file, "text", {}).get(_KEY)
        if stored is None:
            raise ValueError(f"{path} is not a grid of this project: it carries no layout")
        canvas = np.asarray(file.convert("RGB"))
    layout = json.loads(stored)
    (height, width), (step_x, step_y) = layout["size"], layout["pitch"]
    scale, gap, columns = layout["scale"], layout["gap"], layout["columns"]
    images = np.empty((layout["n"], height, width, 3), dtype=np.uint8)
    for k in range(layout["n"]):
        left, top = gap + k % columns * step_x, gap + k // columns * step_y
        images[k] = canvas[top : top + height * scale : scale, left : left + width * scale : scale]
    return Grid(images, tuple(layout["captions"]), layout["info"])


def _font(text: str) -> Any:
    """Pillow's own for ASCII; else matplotlib's DejaVu Sans, which knows most alphabets, but no Chinese."""
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default(_FONT)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", _FONT - 1)


def _fit(text: str, width: int, pen: Any, font: Any) -> str:
    """At most two lines that fit under an image, shortened by an ellipsis."""
    per_line = max(8, int(width / (pen.textlength("abcdefghij klmnop", font=font) / 17)))
    lines = textwrap.wrap(text, per_line) or [""]
    if len(lines) > _CAPTION_LINES:
        lines = [*lines[: _CAPTION_LINES - 1], lines[_CAPTION_LINES - 1][: max(1, per_line - 3)] + "..."]
    return "\n".join(lines)
