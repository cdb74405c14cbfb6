"""Writes a folder of real photographs with captions: of many things and as untidy as real folders are, or of one cat.

    python examples/photos.py photos
    python -m t2ilab data=folder data.path=photos

    python examples/photos.py cat --cat
    python -m t2ilab recipe=photos data=folder data.path=cat data.caption="a photo of a cat"

The photographs are those inside the scikit-image and scikit-learn packages; nothing is downloaded. Those of many
things are saved in many formats and modes, some captions are text files and some rows of metadata, and a few files
have something wrong with them, so that the data report has something to say. Those of the cat are forty cut-outs of
one photograph, at many places and sizes, without captions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ORIENTATION = 0x0112  # the EXIF tag


def as_is(photo: Image.Image, path: Path) -> None:
    photo.save(path)


def lying(photo: Image.Image, path: Path) -> None:
    """As a phone saves an upright photograph: on its side, with a note to turn it."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)


def cut_out(photo: Image.Image, path: Path) -> None:
    """A round image with transparent corners that hide green pixels."""
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).ellipse((0, 0, photo.width - 1, photo.height - 1), fill=255)
    hidden = Image.composite(photo, Image.new("RGB", photo.size, "green"), mask)
    hidden.putalpha(mask)
    hidden.save(path)


def palette(photo: Image.Image, path: Path) -> None:
    photo.quantize(256).save(path)


def cmyk(photo: Image.Image, path: Path) -> None:
    photo.convert("CMYK").save(path, quality=95)


def sixteen_bits(photo: Image.Image, path: Path) -> None:
    grey = np.asarray(photo.convert("L"), dtype=np.uint16)
    Image.fromarray(grey * np.uint16(257)).save(path)


def grey_with_alpha(photo: Image.Image, path: Path) -> None:
    photo.convert("LA").save(path)


Save = Callable[[Image.Image, Path], None]

PHOTOS: list[tuple[str, str, Save, list[str]]] = [  # source, name in the folder, how, captions
    (
        "skimage/astronaut.png",
        "astronaut.jpg",
        lying,
        ["a smiling astronaut in an orange suit", "a portrait"],
    ),
    ("skimage/chelsea.png", "cat.png", palette, ["the face of a ginger cat", "a cat looks to the side"]),
    (
        "skimage/coffee.png",
        "coffee.png",
        cut_out,
        ["a cup of coffee on a wooden table", "coffee with a spoon"],
    ),
    ("skimage/rocket.jpg", "rocket.jpg", as_is, ["a rocket on its launch pad at night", "a rocket"]),
    ("skimage/camera.png", "camera.png", sixteen_bits, ["a man behind a camera on a tripod"]),
    ("skimage/moon.png", "moon.png", grey_with_alpha, ["craters on the moon", "the surface of the moon"]),
    ("skimage/hubble_deep_field.jpg", "galaxies.bmp", as_is, ["many distant galaxies on black"]),
    ("skimage/motorcycle_left.png", "motorcycle.webp", as_is, ["a red motorcycle in a garage"]),
    ("skimage/coins.png", "coins.tif", as_is, ["rows of old coins"]),
    ("skimage/clock_motion.png", "clock.gif", as_is, ["a clock, blurred by motion"]),
    ("sklearn/china.jpg", "places/palace.jpg", cmyk, ["a Chinese palace under a blue sky"]),
    (
        "sklearn/flower.jpg",
        "places/flower.png",
        as_is,
        ["an orange flower", "a dahlia in front of dark leaves"],
    ),
    ("skimage/grass.png", "places/grass.jpg", as_is, ["a lawn seen from above"]),
    ("skimage/gravel.png", "places/gravel.jpg", as_is, ["grey gravel"]),
    ("skimage/brick.png", "places/bricks.jpg", as_is, ["a wall of bricks"]),
    ("skimage/retina.jpg", "places/retina.jpg", as_is, ["the retina of a human eye"]),
]


def photo(source: str) -> Image.Image:
    """One of the photographs that ship with scikit-image and scikit-learn."""
    package, name = source.split("/")
    inside = {"skimage": "data", "sklearn": "datasets/images"}[package]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit("the photographs come with two packages: pip install scikit-image scikit-learn")
    with Image.open(Path(found.origin).parent / inside / name) as image:
        return image.copy()


def write(folder: Path) -> None:
    """The photographs with their captions: text files at the top, metadata in `places/`."""
    (folder / "places").mkdir(parents=True, exist_ok=True)
    rows = []
    for source, name, save, captions in PHOTOS:
        path = folder / name
        save(photo(source), path)
        if path.parent == folder:
            path.with_suffix(".txt").write_text("\n".join(captions) + "\n")
        else:
            rows.append({"file_name": path.name, "text": captions})
    (folder / "places" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def spoil(folder: Path) -> None:
    """What goes wrong in real folders: a cut download, a thumbnail, a missing image, a missing caption."""
    whole = (folder / "rocket.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "cut.txt").write_text("a download that did not end\n")
    photo("skimage/chelsea.png").resize((18, 12)).save(folder / "thumbnail.png")
    (folder / "thumbnail.txt").write_text("a very small cat\n")
    (folder / "lost.txt").write_text("a caption whose image is gone\n")
    photo("skimage/page.png").save(folder / "page.png")


def cats(folder: Path, count: int = 40) -> None:
    """Square cut-outs of the photograph of a cat, from 180 px to its whole height of 300 px."""
    folder.mkdir(parents=True, exist_ok=True)
    whole, draw = photo("skimage/chelsea.png").convert("RGB"), random.Random(0)
    for number in range(count):
        edge = draw.randint(180, whole.height)
        left, top = draw.randint(0, whole.width - edge), draw.randint(0, whole.height - edge)
        whole.crop((left, top, left + edge, top + edge)).save(folder / f"cat{number:02d}.jpg", quality=95)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a folder of real photographs.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cat", action="store_true", help="forty photographs of one cat, without captions")
    given = parser.parse_args()
    folder = given.folder
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    if given.cat:
        cats(folder)
        print(f"40 photographs of a cat are in {folder}; now try")
        print(
            f'python -m t2ilab recipe=photos data=folder data.path={folder} data.caption="a photo of a cat"'
        )
        return
    write(folder)
    spoil(folder)
    print(f"{len(PHOTOS)} photographs with captions and 4 faulty files are in {folder}; now try")
    print(f"python -m t2ilab data=folder data.path={folder}")


if __name__ == "__main__":
    main()
