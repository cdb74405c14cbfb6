"""Arrays that are computed once, kept on disk, and read back by rows: latents and texts of static data.

A cache is a folder named by the sha256 of everything that determines its content. It holds one safetensors
file with one tensor per array, and `COMPLETE`, a manifest that is written last. Filling goes on in a folder
`<digest>.partial` beside it, under a file lock, and ends with a rename: a reader sees all of it or nothing.
A fill that was killed goes on where its last note of progress stands.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

Compute = Callable[[list[int]], Mapping[str, Tensor]]
Progress = Callable[[int, int], None]

FORMAT = 1
MANIFEST = "COMPLETE"
NOTE_SECONDS = 5.0  # between two notes of progress; each one waits for the disk

_NAMES = {  # of safetensors
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
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def canonical_json(key: Mapping[str, Any]) -> str:
    """One text per value: sorted names, no spaces, no NaN."""
    try:
        return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a cache key holds plain numbers, strings, lists and dicts only: {error}") from error


def digest_of(key: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `key`, in hexadecimal."""
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()


def cache_root(default: str | Path = "outputs/cache") -> Path:
    """The folder of all caches: `$T2ILAB_CACHE`, else `default`."""
    return Path(os.environ.get("T2ILAB_CACHE") or default).expanduser()


class ArrayCache:
    """A complete cache, open for reading.

    Args:
        folder: the cache's own folder.
        verify: also compare the sha256 of every file, which reads all of it.
    Raises:
        ValueError: the cache is absent, incomplete, or not what its manifest says.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self.key: dict[str, Any] = self.manifest["key"]
        self._arrays: dict[str, Tensor] | None = None
        for name, array in self.manifest["arrays"].items():
            path = self.folder / array["file"]
            size = path.stat().st_size if path.exists() else None
            if size != array["bytes"]:
                raise ValueError(f"{path} of array {name} has {size} bytes, its manifest says {array['bytes']}")
            if verify and _sha256(path).hexdigest() != array["sha256"]:
                raise ValueError(f"{path} of array {name} does not have the sha256 of its manifest")

    def __len__(self) -> int:
        return self.manifest["num_rows"]

    @property
    def names(self) -> list[str]:
        return list(self.manifest["arrays"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self._array(name).shape[1:])

    def rows(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        """The rows `indices` (n,) of an array as a new tensor (n, ...), by one gather from the mapped file."""
        return self._array(name).index_select(0, torch.as_tensor(indices, dtype=torch.int64))

    def _array(self, name: str) -> Tensor:
        if self._arrays is None:
            self._arrays = {
                name: _map_tensor(self.folder / array["file"], array)
                for name, array in self.manifest["arrays"].items()
            }
        if name not in self._arrays:
            raise ValueError(f"the cache {self.folder} holds {self.names}, not {name!r}")
        return self._arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}  # a copy in another process maps the files itself


def open_or_fill(
    root: str | Path,
    key: Mapping[str, Any],
    num_rows: int,
    compute: Compute,
    *,
    chunk: int = 256,
    progress: Progress | None = None,
    verify: bool = False,
) -> ArrayCache:
    """The cache of `key` below `root`, computed first if it is not there or is damaged.

    Several processes may ask at once: one fills, the others wait for it.

    Args:
        key: everything that determines the content, as plain values.
        compute: row numbers -> {array name: tensor (n, ...)}, on any device; called for consecutive chunks.
        progress: called with (rows done, rows in all) after each chunk.
        verify: check the sha256 of an existing cache.
    """
    if num_rows < 1 or chunk < 1:
        raise ValueError(f"a cache has rows and is filled by rows, got num_rows={num_rows}, chunk={chunk}")
    root = Path(root)
    key = json.loads(canonical_json({**key, "cache_format": FORMAT, "num_rows": num_rows}))
    folder = root / digest_of(key)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{folder.name}.lock"):
        if folder.exists():
            try:
                return _checked(ArrayCache(folder, verify=verify), key)
            except ValueError as error:
                log.warning("the cache is damaged and is made again: %s", error)
                shutil.rmtree(folder)
        _Fill(folder, key, num_rows).run(compute, chunk, progress)
        return ArrayCache(folder)


def _checked(cache: ArrayCache, key: Mapping[str, Any]) -> ArrayCache:
    names = sorted(cache.key.keys() | key.keys())
    differing = [name for name in names if cache.key.get(name) != key.get(name)]
    if differing:
        raise ValueError(f"{cache.folder} was made for another {', '.join(differing)}")
    return cache


class _Fill:
    """One run of the computation into the partial folder, new or continued."""

    def __init__(self, folder: Path, key: dict[str, Any], num_rows: int) -> None:
        self.folder, self.key, self.num_rows = folder, key, num_rows
        self.partial = folder.with_name(folder.name + ".partial")
        self.done = 0
        self.arrays: dict[str, dict[str, Any]] = {}
        self.files: dict[str, IO[bytes]] = {}
        self.hashes: dict[str, Any] = {}

    def run(self, compute: Compute, chunk: int, progress: Progress | None) -> None:
        try:
            self._resume()
            noted = time.monotonic()
            while self.done < self.num_rows:
                indices = list(range(self.done, min(self.done + chunk, self.num_rows)))
                self._append(compute(indices), indices)
                if progress is not None:
                    progress(self.done, self.num_rows)
                if time.monotonic() - noted > NOTE_SECONDS:
                    self._note()
                    noted = time.monotonic()
            self._sync()
        finally:
            for file in self.files.values():
                file.close()
        self._finish()

    def _resume(self) -> None:
        """Goes on from the last note if there is one that fits its files, else starts afresh."""
        try:
            note = json.loads((self.partial / "progress.json").read_text())
            files = {
                name: _open_at(self.partial / array["file"], _header_size(array) + note["done"] * _row_bytes(array))
                for name, array in note["arrays"].items()
            }
        except (OSError, ValueError, KeyError):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)
            return
        self.done, self.arrays, self.files = note["done"], note["arrays"], files
        self.hashes = {name: _sha256(Path(file.name)) for name, file in files.items()}
        log.warning("an interrupted cache goes on at row %d of %d", self.done, self.num_rows)

    def _append(self, chunk: Mapping[str, Tensor], indices: list[int]) -> None:
        tensors = {name: value.detach().to("cpu").contiguous() for name, value in chunk.items()}
        if not self.arrays:
            self._begin(tensors)
        got = {name: (_NAMES.get(value.dtype), list(value.shape)) for name, value in tensors.items()}
        wanted = {name: (a["dtype"], [len(indices), *a["shape"][1:]]) for name, a in self.arrays.items()}
        if got != wanted:
            raise ValueError(f"rows {indices[0]} to {indices[-1]} of the cache should be {wanted}, got {got}")
        for name, value in tensors.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"array {name} has values that are not finite in rows {indices[0]} to {indices[-1]}")
            data = value.reshape(-1).view(torch.uint8).numpy().data
            self.files[name].write(data)
            self.hashes[name].update(data)
        self.done += len(indices)

    def _begin(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise ValueError("a cache needs at least one array, the computation gave none")
        for number, (name, value) in enumerate(tensors.items()):
            if value.dtype not in _NAMES:
                raise ValueError(f"array {name} is of {value.dtype}; a cache stores {', '.join(_DTYPES)}")
            shape = [self.num_rows, *value.shape[1:]]
            self.arrays[name] = {"file": f"array{number}.safetensors", "dtype": _NAMES[value.dtype], "shape": shape}
        needed = sum(_row_bytes(array) * self.num_rows for array in self.arrays.values())
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"the cache needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; "
                "set T2ILAB_CACHE to a folder with more space",
                str(self.partial),
            )
        for name, array in self.arrays.items():
            header = _header(array)
            self.files[name] = _open_at(self.partial / array["file"], 0)
            self.files[name].write(header)
            self.hashes[name] = hashlib.sha256(header)

    def _sync(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def _note(self) -> None:
        self._sync()
        _write_json(self.partial / "progress.json", {"done": self.done, "arrays": self.arrays})

    def _finish(self) -> None:
        arrays = {
            name: {
                **array,
                "bytes": (self.partial / array["file"]).stat().st_size,
                "sha256": self.hashes[name].hexdigest(),
            }
            for name, array in self.arrays.items()
        }
        (self.partial / "progress.json").unlink(missing_ok=True)
        manifest = {"format": FORMAT, "key": self.key, "num_rows": self.num_rows, "arrays": arrays}
        _write_json(self.partial / MANIFEST, manifest)
        self.partial.rename(self.folder)
        _sync_folder(self.folder.parent)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that the system releases when the process ends, however it ends."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that fills the cache %s", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        named = digest_of(manifest["key"])
        if manifest["format"] != FORMAT or {"num_rows", "arrays"} - manifest.keys():
            raise ValueError(f"{folder / MANIFEST} is of another format")
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} holds no complete cache: {error!r}") from error
    if named != folder.name:
        raise ValueError(f"the key in {folder / MANIFEST} belongs to another cache, {named}")
    return manifest


def _header(array: Mapping[str, Any]) -> bytes:
    """Head of a safetensors file: its length in 8 bytes, then JSON padded to a multiple of 64 in all."""
    size = int(np.prod(array["shape"])) * _DTYPES[array["dtype"]].itemsize
    entry = {"dtype": array["dtype"], "shape": array["shape"], "data_offsets": [0, size]}
    text = json.dumps({"data": entry}).encode()
    text += b" " * (-(len(text) + 8) % 64)
    return len(text).to_bytes(8, "little") + text


def _header_size(array: Mapping[str, Any]) -> int:
    return len(_header(array))


def _row_bytes(array: Mapping[str, Any]) -> int:
    return int(np.prod(array["shape"][1:])) * _DTYPES[array["dtype"]].itemsize


def _map_tensor(path: Path, array: Mapping[str, Any]) -> Tensor:
    offset = _header_size(array)
    mapped = np.memmap(path, dtype=np.uint8, mode="c", offset=offset)  # "c": torch wants it writable
    return torch.from_numpy(mapped).view(_DTYPES[array["dtype"]]).view(array["shape"])


def _open_at(path: Path, size: int) -> IO[bytes]:
    """The file cut to `size` bytes, which it must have, for appending."""
    file = path.open("ab")
    if file.tell() < size:
        file.close()
        raise ValueError(f"{path} is shorter than {size} bytes")
    file.truncate(size)
    return file


def _sha256(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _write_json(path: Path, value: Any) -> None:
    """Writes to a temporary name, waits for the disk, renames."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
