"""Images of all formats, and ways in which files come to harm."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

FORMS = {  # what `Image.save` is told
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {"quality": 90}),
    "progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "webp": ("WEBP", {}),
    "webp lossless": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {}),
    "tiff lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "avif": ("AVIF", {}),
}
CODED = (
    "png",
    "jpeg",
    "progressive",
    "webp",
    "webp lossless",
    "gif",
    "tiff lzw",
    "avif",
)  # zeros are no image


def photograph(width=96, height=72, seed=0):
    """Gradients with noise, so that every part of a file has something to say."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * y) % 256], axis=-1)
    noise = np.random.default_rng(seed).integers(0, 40, pixels.shape)
    return Image.fromarray((pixels * 0.8 + noise).clip(0, 255).astype(np.uint8))


def file_of(kind, image=None):
    form, options = FORMS[kind]
    file = io.BytesIO()
    (image or photograph()).save(file, form, **options)
    return file.getvalue()


def zeros_from(data, share):
    """As a download leaves a file whose place was set aside before."""
    cut = int(share * len(data))
    return data[:cut] + bytes(len(data) - cut)


def harmed(data, chance: random.Random):
    """One of many things that happen to files."""
    at = chance.randrange(len(data))
    length = chance.choice((1, 2, 16, 300))
    ways = (
        lambda: data[:at],
        lambda: zeros_from(data, chance.random()),
        lambda: data[:at] + chance.randbytes(len(data) - at),
        lambda: data[:at] + chance.randbytes(length) + data[at + length :],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + data[at : at + length] * 3 + data[at + length :],
        lambda: data[: at % 64] + chance.randbytes(4) + data[at % 64 + 4 :],  # sizes and counts of the head
        lambda: data[at:] + data[:at],
        lambda: data + chance.randbytes(length),
    )
    return chance.choice(ways)()


def png_with(*chunks, after=33):
    """A PNG with more chunks, of (kind, data) or (kind, data, checksum), behind its header."""
    whole = file_of("png")
    parts = [
        struct.pack(">I", len(data))
        + kind
        + data
        + (rest[0] if rest else zlib.crc32(kind + data).to_bytes(4))
        for kind, data, *rest in chunks
    ]
    return whole[:after] + b"".join(parts) + whole[after:]


def jpeg_with(*segments):
    """A JPEG with more segments of (marker, data) behind its first mark."""
    whole = file_of("jpeg")
    parts = [b"\xff" + bytes([m]) + struct.pack(">H", len(data) + 2) + data for m, data in segments]
    return whole[:2] + b"".join(parts) + whole[2:]


def exif(*entries):
    """EXIF of (tag, type, count, value of at most four bytes or more)."""
    extra, body, place = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        pointer = struct.pack("<I", place + len(extra))
        body += struct.pack("<HHI", tag, kind, count) + (
            value.ljust(4, b"\0") if len(value) <= 4 else pointer
        )
        extra += b"" if len(value) <= 4 else value
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4) + extra


def tiff_with(entries, strip, width, height):
    """A TIFF of one strip with these entries (tag, type, number) beside size and place."""
    usual = {
        256: (4, width),
        257: (4, height),
        259: (3, 1),
        277: (3, 1),
        278: (4, height),
        279: (4, len(strip)),
    }
    tags = usual | {tag: (kind, number) for tag, kind, number in entries}
    tags[273] = (4, 8 + 2 + 12 * (len(tags) + 1) + 4)
    body = b"".join(
        struct.pack("<HHII", tag, kind, 1, number) for tag, (kind, number) in sorted(tags.items())
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + strip
