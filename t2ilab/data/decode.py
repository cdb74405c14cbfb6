"""From the bytes of an image file to RGB of one size, whatever the file's mode.

Not done: colour management. Values are taken as sRGB, and an embedded ICC profile is ignored.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError, features
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from t2ilab.data.essential import TIFF, essential
from t2ilab.data.wholeness import fault

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"]
)
RAW = (".dng", ".cr2", ".nef", ".arw")  # of cameras
FOREIGN = frozenset(
    [*RAW, ".heic", ".heif", ".jxl", ".jp2", ".svg", ".psd", ".ico", ".tga", ".exr", ".hdr", ".ppm"]
)
VERSION = f"1 with Pillow {PIL.__version__}"  # of the pixels: raise the number when a change here alters them

READ = frozenset(  # formats, whatever the suffix
    ["AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "QOI", "TIFF", "WEBP"]
)
ELSEWHERE = (  # what other programs read, as the first bytes tell
    (re.compile(rb"^.{4}ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"^.{4}ftypavi[fs]", re.DOTALL), "AVIF"),
    (re.compile(rb"^.{4}ftyp", re.DOTALL), "a video"),
    (re.compile(rb"^(\xff\x0a|\0\0\0\x0cJXL )"), "JPEG XL"),
    (re.compile(rb"^%PDF"), "a PDF"),
    (re.compile(rb"<svg", re.IGNORECASE), "SVG"),
)
ORIENTATION = 0x0112  # of EXIF; how what is stored becomes upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class CorruptImage(Exception):
    """The bytes are not a whole image."""


class UnsupportedImage(Exception):
    """The bytes may be an image, but not of a kind that is read here."""


@dataclass(frozen=True)
class Decoded:
    """An image, upright, in RGB, and what its file said.

    Attributes:
        image: the image; smaller than the file's if it was decoded at a reduced scale.
        width, height: of the upright image at full scale.
        kind: file format and mode, such as "JPEG CMYK".
    """

    image: Image.Image
    width: int
    height: int
    kind: str


def decode(data: bytes, *, at_least: int | None = None) -> Decoded:
    """The (first) image of an image file: upright, RGB, transparent parts over white.

    A file whose pixels are whole is read whatever stands beside them.

    Args:
        data: the whole file.
        at_least: the shorter side that is needed; a JPEG of more than four times that is decoded at a
            reduced scale, which is several times faster.
    Raises:
        CorruptImage, UnsupportedImage: with a sentence for the user.
        MemoryError: there is no room for it.
    """
    if not data:
        raise CorruptImage("the file is empty")
    if what := fault(data):
        raise CorruptImage(what)
    try:
        return _decode(data, b"", at_least)
    except (UnsupportedImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises of nearly any kind, and so do the libraries below it
        why, bare = _sentence(data, error), essential(data)
        if bare is None:
            raise CorruptImage(why) from error
    try:
        return _decode(bare.data, bare.exif, at_least)
    except (UnsupportedImage, MemoryError):
        raise
    except Exception as error:
        raise CorruptImage(why) from error


def _decode(data: bytes, exif: bytes, at_least: int | None) -> Decoded:
    try:
        opened = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise UnsupportedImage(f"more than {limit:,} pixels; save it smaller") from error
    with opened as image:
        _refuse(image)
        kind = f"{image.format} {image.mode}"
        short, long = sorted(image.size)
        if at_least is not None:
            image.draft(None, (2 * at_least, 2 * at_least))
        image.load()
        upright = _upright(image, exif)
        width, height = (long, short) if upright.width > upright.height else (short, long)
        return Decoded(to_rgb(upright), width, height, kind)


def _refuse(image: Image.Image) -> None:
    """Raises UnsupportedImage for what Pillow opens and would not read right, before any pixel is read."""
    if image.format not in READ:
        raise UnsupportedImage(f"format {image.format}; save it as png, jpg or webp")
    if min(image.size) < 1:
        raise CorruptImage(f"it has {image.width} x {image.height} pixels")
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits, planes, inverted = max(tags.get(258, (1,))), tags.get(284, 1) == 2, tags.get(262) == 0
        if 2 in tags.get(339, (1,)):
            raise UnsupportedImage("a TIFF of signed numbers; save it as png")
        if bits not in (1, 2, 4, 8, 16, 32) or (inverted and bits > 8):
            how = ", white is 0" if inverted else ""
            raise UnsupportedImage(f"a TIFF of {bits} bits{how}; save it as png")
        if planes and (bits > 8 or image.mode == "LA"):
            raise UnsupportedImage(
                f"a TIFF of {image.mode} with {bits} bits in separate planes; save it as png"
            )


def _upright(image: Image.Image, exif: bytes) -> Image.Image:
    """The image as its EXIF orientation says; EXIF that cannot be read says nothing."""
    try:
        tags = image.getexif()
        if exif:
            tags.load(exif)
        turn = TURNS.get(tags.get(ORIENTATION, 1))
    except Exception:  # of any kind, from bytes of any kind: the pixels are whole all the same
        turn = None
    return image if turn is None else image.transpose(turn)


def _sentence(data: bytes, error: Exception) -> str:
    """What is wrong, for the user; Pillow says of a format that it knows only that it is none."""
    if not isinstance(error, UnidentifiedImageError):
        return str(error) or type(error).__name__
    if data.startswith(TIFF):
        try:
            TiffImageFile(io.BytesIO(data)).close()
        except Exception as why:
            if isinstance(why, IndexError) or "unknown pixel mode" in str(why):
                raise UnsupportedImage("a TIFF of a kind that is not read here; save it as png") from error
            return str(why) or type(why).__name__
    name = next((name for magic, name in ELSEWHERE if magic.search(data[:256])), "")
    if name == "AVIF" and features.check("avif"):
        return "a broken AVIF"
    if name:
        raise UnsupportedImage(f"it is {name}, whatever its suffix; save it as png, jpg or webp") from error
    return "no known image format"


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
    """The middle of the image, as large as it may be, at `height` x `width` pixels.

    One antialiased Lanczos pass.
    """
    if image.width * height >= image.height * width:  # wider than asked for
        box = (image.height * width / height, float(image.height))
    else:
        box = (float(image.width), image.width * height / width)
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
