"""Faults of an image file that its decoder is content with: what never came, or came otherwise, is drawn as well.

Of what is not compressed (BMP, PPM, plain TIFF) nothing of the kind can be told: black is made of zeros.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from t2ilab.data.essential import JPEG, PNG, essential

# Coded pixels never end in so many zeros; a file that was made as large as it will be and then filled does.
ZEROS = 64
UNFINISHED = "its end is zeros, as of a download or copy that was not finished"


def fault(data: bytes) -> str:
    """What is the matter with the pixels of a file, or "" for nothing that can be seen without decoding them."""
    if data.startswith(PNG):
        return next(_broken_chunks(data), "")
    ends_in_zeros = data.endswith(bytes(ZEROS))
    if data.startswith(JPEG):
        bare = essential(data) if ends_in_zeros else None  # without EXIF, whose thumbnail has an end mark too
        return UNFINISHED if bare is not None and b"\xff\xd9" not in bare.data else ""
    return UNFINISHED if any(part.endswith(bytes(ZEROS)) for part in _coded(data)) else ""


def _broken_chunks(data: bytes) -> Iterator[str]:
    """Critical chunks of a PNG whose checksum is wrong; Pillow does not test that of the pixels."""
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        checksum = data[end : end + 4]
        critical = not kind[0] & 32  # a capital letter
        if critical and len(checksum) == 4 and checksum != zlib.crc32(data[at + 4 : end]).to_bytes(4):
            yield f"the checksum of its chunk {kind.decode('latin-1')} is wrong"
        at = len(data) if kind == b"IEND" else end + 4


def _coded(data: bytes) -> Iterator[bytes]:
    """The coded pixels of a still WebP or an AVIF."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        at = 12
        while at + 8 <= len(data):
            kind, length = struct.unpack_from("<4sI", data, at)
            if kind in (b"VP8 ", b"VP8L"):
                yield data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2
    elif data[4:12] in (b"ftypavif", b"ftypavis"):
        at = 0
        while at + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, at)
            if kind == b"mdat":
                yield data[at + 8 : at + length]
            at += length if length >= 8 else len(data)  # 0: to the end; 1: longer than any image
