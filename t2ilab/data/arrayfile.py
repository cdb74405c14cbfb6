"""One array in one safetensors file, written row by row and read through a memory map.

Any safetensors reader opens it (the tensor is called `data`); what is added here is appending, which a
killed run needs to go on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

NAMES = {  # of the types in a safetensors header
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


@dataclass(frozen=True)
class ArrayFile:
    """The form of the array in a file.

    Attributes:
        file: its name inside the cache folder.
        dtype: in the words of safetensors, such as "F16".
        shape: of the whole array, rows first.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * DTYPES[self.dtype].itemsize

    @property
    def header(self) -> bytes:
        """The head of the file: 8 bytes with the length of the rest, JSON, blanks to a multiple of 64."""
        size = self.shape[0] * self.row_bytes
        entry = {"dtype": self.dtype, "shape": list(self.shape), "data_offsets": [0, size]}
        text = json.dumps({"data": entry}).encode()
        text += b" " * (-(len(text) + 8) % 64)
        return len(text).to_bytes(8, "little") + text

    def size(self, rows: int | None = None) -> int:
        """Bytes of the file with this many rows, or with all."""
        return len(self.header) + self.row_bytes * (self.shape[0] if rows is None else rows)

    def map(self, folder: Path) -> Tensor:
        """The whole array without reading it."""
        # "c", copy on write: torch wants it writable
        mapped = np.memmap(folder / self.file, dtype=np.uint8, mode="c", offset=len(self.header))
        return torch.from_numpy(mapped).view(DTYPES[self.dtype]).view(self.shape)

    def open(self, folder: Path, rows: int) -> IO[bytes]:
        """The file for appending, cut behind row `rows`.

        Raises:
            ValueError: the file has fewer rows.
        """
        path = folder / self.file
        size = self.size(rows)
        if not path.exists() or path.stat().st_size < size:
            raise ValueError(f"{path} has fewer than {rows} rows")
        file = path.open("ab")
        file.truncate(size)
        return file

    def create(self, folder: Path) -> IO[bytes]:
        """A new file with its header, for appending."""
        file = (folder / self.file).open("wb")
        file.write(self.header)
        return file


def bytes_of(rows: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return rows.reshape(-1).view(torch.uint8).numpy().data
