"""Images for tests of folders."""

import numpy as np
from PIL import Image


def photograph(path, seed, size=(50, 40), mode="RGB"):
    """Smooth colours with a wide range, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


def folder_of_shapes(place, count):
    """As many wide, tall and square images with captions, in a new folder."""
    place.mkdir()
    for number in range(count):
        photograph(place / f"{number}.png", number, size=[(60, 36), (36, 60), (40, 40)][number % 3])
        (place / f"{number}.txt").write_text(f"photograph number {number}")
    return place
