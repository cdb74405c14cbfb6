"""From the bytes of an image file to RGB of one size, whatever the file's mode.

Not done: colour management. Values are taken as sRGB, and an embedded ICC profile is ignored.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = frozenset([".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"])
FOREIGN = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".svg",
        ".psd",
        ".ico",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
        ".tga",
        ".exr",
        ".hdr",
        ".ppm",
    ]
)
VERSION = f"1 with Pillow {PIL.__version__}"  # of the pixels: raise the number when a change here alters them

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)


class CorruptImage(Exception):
    """The bytes are not a whole image."""


class UnsupportedImage(Exception):
    """The bytes may be an image, but not of a kind that is read here."""


@dataclass(frozen=True)
class Decoded:
    """A picture, upright, in RGB, and what its file said.

    Attributes:
        image: the picture; smaller than the file's if it was decoded at a reduced scale.
        width, height: of the upright picture at full scale.
        kind: file format and mode, such as "JPEG CMYK".
    """

    image: Image.Image
    width: int
    height: int
    kind: str


def decode(data: bytes, *, at_least: int | None = None) -> Decoded:
    """The (first) picture of an image file: upright, RGB, transparent parts over white.

    Args:
        data: the whole file.
        at_least: the shorter side that is needed; a JPEG of more than four times that is decoded at a
            reduced scale, which is several times faster.
    Raises:
        CorruptImage, UnsupportedImage: with a sentence for the user.
    """
    if not data:
        raise CorruptImage("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            short, long = sorted(image.size)
            kind = f"{image.format} {image.mode}"
            if at_least is not None:
                image.draft(None, (2 * at_least, 2 * at_least))
            image.load()
            upright = ImageOps.exif_transpose(image)
            width, height = (long, short) if upright.width > upright.height else (short, long)
            return Decoded(to_rgb(upright), width, height, kind)
    except UnidentifiedImageError as error:
        raise CorruptImage("no known image format") from error
    except Image.DecompressionBombError as error:
        raise UnsupportedImage(str(error)) from error
    except BROKEN as error:
        raise CorruptImage(str(error) or type(error).__name__) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of 8 bits: alpha is composited on white, 16-bit grey is scaled and not clipped."""
    if image.mode == "LAB":
        raise UnsupportedImage("mode LAB; save it as RGB")
    if image.mode[0] in "IF":
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", straight.size, "white"), straight).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def fit(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of the picture, as large as it may be, at `height` x `width` pixels.

    One antialiased Lanczos pass.
    """
    if image.width * height >= image.height * width:  # wider than asked for
        box = (image.height * width / height, image.height)
    else:
        box = (image.width, image.width * height / width)
    left, top = (image.width - box[0]) / 2, (image.height - box[1]) / 2
    return image.resize(
        (width, height), Image.Resampling.LANCZOS, box=(left, top, left + box[0], top + box[1])
    )


def to_tensor(image: Image.Image) -> Tensor:
    """(3, h, w) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (also inside 32), or floats in [0, 1], as 8-bit grey."""
    values = np.asarray(image, dtype=np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= top):
        raise UnsupportedImage(f"grey values of mode {image.mode} outside 0 .. {top:g}; save it with 8 bits")
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))
