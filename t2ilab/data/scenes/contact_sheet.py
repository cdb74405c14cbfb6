"""A sheet that shows the whole synthetic data set: `python -m t2ilab.data.scenes.contact_sheet docs/scenes.png`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from t2ilab.data.scenes.grammar import captions
from t2ilab.data.scenes.preferences import Preferences
from t2ilab.data.scenes.render import render
from t2ilab.data.scenes.sampler import sample_scene
from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, SHAPES, TEDDY, Object, Scene

IMAGE = 128  # pixels, rendered at this resolution
GAP, LABEL, TITLE = 12, 74, 26
COLUMNS = 9
INK, PAPER = (40, 40, 44), (252, 252, 250)

Row = tuple[str, list[tuple[Scene, str]]]


def rows() -> list[Row]:
    """Title and captioned scenes of every row."""
    return [
        ("the nine shapes, eight colours, five backgrounds and three styles", _vocabulary()),
        ("general, for pre-training: short captions", _examples("general", "train", "short")),
        ("general: long captions", _examples("general", "val", "long")),
        (
            "compose: holds a pair of colour and shape that never occurs in train",
            _examples("general", "compose"),
        ),
        ("curated: the best style, for fine-tuning", _examples("curated", "train")),
        ("teddy: a concept that is absent from general", _examples("teddy", "train")),
        ("subject: one particular bear, 5 images, and its class", _subject()),
        ("preferences: pairs for one prompt, the preferred one marked", _preferences()),
    ]


def contact_sheet() -> Image.Image:
    """The sheet as an image."""
    content = rows()
    width = GAP + COLUMNS * (IMAGE + GAP)
    height = GAP + len(content) * (TITLE + IMAGE + LABEL + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(15), ImageFont.load_default(11)
    for k, (title, examples) in enumerate(content):
        top = GAP + k * (TITLE + IMAGE + LABEL + GAP)
        pen.text((GAP, top), title, INK, large)
        for column, (scene, text) in enumerate(examples[:COLUMNS]):
            left = GAP + column * (IMAGE + GAP)
            sheet.paste(Image.fromarray(render(scene, IMAGE)), (left, top + TITLE))
            lines = textwrap.wrap(text, 21)[:5]
            pen.multiline_text((left, top + TITLE + IMAGE + 3), "\n".join(lines), INK, small, spacing=2)
    return sheet


def _vocabulary() -> list[tuple[Scene, str]]:
    examples = []
    for k, shape in enumerate((*SHAPES, TEDDY)):
        item = Object(shape, tuple(COLORS)[k % len(COLORS)], 32.0, 32.0, 11.5)
        style = ("flat", "shaded", "grainy")[k % 3]
        scene = Scene((item,), tuple(BACKGROUNDS)[k % len(BACKGROUNDS)], style, grain=k)
        examples.append((scene, f"{item.color} {shape}, {scene.background}, {style}"))
    return examples


def _examples(subset: str, split: str, kind: str = "short") -> list[tuple[Scene, str]]:
    scenes = [sample_scene(subset, split, i) for i in range(COLUMNS)]
    return [(scene, captions(scene, (kind,))[0]) for scene in scenes]


def _subject() -> list[tuple[Scene, str]]:
    own = [sample_scene("subject", "train", i) for i in range(5)]
    others = [sample_scene("class", "train", i) for i in range(COLUMNS - 5)]
    named = [(scene, captions(scene, ("instance",))[0]) for scene in own]
    return named + [(scene, captions(scene, ("short",))[0]) for scene in others]


def _preferences() -> list[tuple[Scene, str]]:
    pairs, examples = Preferences("train", size=COLUMNS // 2), []
    for pair in (pairs[i] for i in range(len(pairs))):
        for scene, preferred in zip(pair.scenes, (pair.label == 1, pair.label == 0), strict=True):
            examples.append((scene, ("+ " if preferred else "- ") + pair.prompt))
    return examples


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        raise SystemExit("usage: python -m t2ilab.data.scenes.contact_sheet FILE.png")
    path = Path(arguments[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet().save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
