"""What a run learned, in one figure: previews of its start, of an early step and of its end, each image judged.

    python benchmarks/strip.py RUN docs/strip.png [--steps 0 500 1440] [--images 8]

Rows are steps, columns are prompts, always from the same noise. A green frame says that the image shows what its
prompt asks for, a red one that it does not, by the judge of the synthetic data set; no frame: it cannot tell.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from t2ilab.eval.grid import Grid, read_grid
from t2ilab.measuring.drawn import judged

SCALE, GAP, FRAME, LABEL, CAPTION = 2, 12, 4, 78, 62
PAPER, INK = (255, 255, 255), (40, 40, 40)
COLOURS = {True: (26, 127, 55), False: (207, 34, 46), None: PAPER}


def strip(grids: list[Grid], names: list[str], images: int) -> Image.Image:
    """One row per grid, named at its left, the prompts below the last."""
    size = grids[0].images.shape[1] * SCALE
    pitch = size + GAP
    canvas = Image.new("RGB", (LABEL + images * pitch, len(grids) * pitch + CAPTION), PAPER)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for row, (grid, name) in enumerate(zip(grids, names, strict=True)):
        top = GAP // 2 + row * pitch
        pen.text((4, top + size // 2 - 8), name, fill=INK, font=font)
        found = judged(grid.images[:images], grid.captions[:images])
        for column, (image, right) in enumerate(zip(grid.images[:images], found, strict=True)):
            left = LABEL + GAP // 2 + column * pitch
            box = (left - FRAME, top - FRAME, left + size + FRAME - 1, top + size + FRAME - 1)
            pen.rectangle(box, fill=COLOURS[right])
            canvas.paste(Image.fromarray(image).resize((size, size), Image.Resampling.NEAREST), (left, top))
    for column, caption in enumerate(grids[0].captions[:images]):
        place = (LABEL + GAP // 2 + column * pitch, len(grids) * pitch + 2)
        lines = textwrap.wrap(caption, size // 7, max_lines=4, placeholder=" ...")
        pen.multiline_text(place, "\n".join(lines), fill=INK, font=ImageFont.load_default(12), spacing=2)
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--steps", type=int, nargs="*", help="of previews; default: the first, the next, the last"
    )
    parser.add_argument("--images", type=int, default=8)
    given = parser.parse_args()
    files = sorted((given.run / "samples").glob("step_*.png"))
    steps = given.steps or [int(file.stem[5:]) for file in (*files[:2], files[-1])]
    grids = [read_grid(given.run / f"samples/step_{step:08d}.png") for step in steps]
    names = ["noise" if step == 0 else f"step {step:,}" for step in steps]
    images = min(given.images, len(grids[0].images))
    strip(grids, names, images).save(given.out, optimize=True)
    print(given.out)


if __name__ == "__main__":
    main()
