"""What of an image file its pixels need, without the text, profiles and tags that stand beside them.

A reader may stumble over these where every viewer shows the image: over a text chunk that is longer than it likes,
a tag of an unexpected type, a checksum of something that nobody looks at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PNG, JPEG, TIFF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", (b"II*\0", b"MM\0*")
EXIF = b"Exif\0\0"
ADOBE, COMMENT, SCAN = 0xEE, 0xFE, 0xDA  # markers of JPEG; Adobe's names the colour transform
TIFF_TAGS = frozenset([254, *range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 292, 293, 317, 320])
TIFF_TAGS |= frozenset([*range(322, 326), *range(330, 340), 347, *range(512, 522), *range(529, 533)])
# what decides the pixels: TIFF 6.0 and its technical notes


@dataclass(frozen=True)
class Essential:
    """The bytes of an image that Pillow reads the pixels from, and its EXIF (as Pillow wants it), or b""."""

    data: bytes
    exif: bytes


def essential(data: bytes) -> Essential | None:
    """The file without what its pixels do not need; None if it is of another kind, or too broken to tell."""
    for magic, reduced in ((PNG, _png), (JPEG, _jpeg), (TIFF, _tiff)):
        if data.startswith(magic):
            try:
                return reduced(data)
            except (struct.error, IndexError):
                return None
    return None


def _png(data: bytes) -> Essential:
    """Critical chunks and tRNS; they keep their checksums, which a reader tests."""
    kept, exif, at = [PNG], b"", len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"eXIf":
            exif = EXIF + data[at + 8 : at + 8 + length]
        elif kind == b"tRNS" or not kind[0] & 32:  # a capital letter: critical
            kept.append(data[at : at + 12 + length])
        at = len(data) if kind == b"IEND" else at + 12 + length
    return Essential(b"".join(kept), exif)


def _jpeg(data: bytes) -> Essential:
    """All segments but those of applications (save JFIF's and Adobe's) and comments, then the scans as they are."""
    kept, exif, at = [JPEG], b"", len(JPEG)
    while data[at] == 0xFF and data[at + 1] != SCAN:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment = data[at : at + 2 + length]
        if segment[4:].startswith(EXIF):
            exif = segment[4:]
        if not (0xE1 <= marker <= 0xEF or marker == COMMENT) or marker == ADOBE:
            kept.append(segment)
        at += 2 + length
    return Essential(b"".join([*kept, data[at:]]), exif)


def _tiff(data: bytes) -> Essential:
    """The same file with another first directory, of the entries that decide the pixels, at its end."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (number,) = struct.unpack_from(order + "H", data, start)
    entries = [data[start + 2 + 12 * place : start + 14 + 12 * place] for place in range(number)]
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in TIFF_TAGS]
    place = len(data) + len(data) % 2
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    padded = data[8:] + bytes(len(data) % 2)
    return Essential(data[:4] + struct.pack(order + "I", place) + padded + directory, b"")
