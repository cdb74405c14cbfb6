"""Arrays that are computed once, kept on disk, and read back by rows: latents and texts of static data.

A cache is a folder named by the sha256 of everything that determines its content. It holds one safetensors
file per array, and `COMPLETE`, a manifest that is written last. Filling goes on in a folder
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
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from t2ilab.core.folders import expanded
from t2ilab.data.arrayfile import NAMES, ArrayFile, bytes_of
from t2ilab.files import whole_file

log = logging.getLogger(__name__)

Compute = Callable[[list[int]], Mapping[str, Tensor]]
Progress = Callable[[int, int], None]

FORMAT = 1
MANIFEST = "COMPLETE"
NOTE_SECONDS = 5.0  # between two notes of progress; each one waits for the disk


def canonical_json(key: Mapping[str, Any]) -> str:
    """One text per value: sorted names, no spaces, no NaN."""
    try:
        return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"a cache key holds plain numbers, strings, lists and dicts only: {error}"
        ) from error


def digest_of(key: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of `key`, in hexadecimal."""
    return hashlib.sha256(canonical_json(key).encode()).hexdigest()


def cache_root(default: str | Path = "outputs/cache") -> Path:
    """The folder of all caches: `$T2ILAB_CACHE`, else `default`."""
    return Path(expanded(os.environ.get("T2ILAB_CACHE") or str(default)))


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
        manifest = _read_manifest(self.folder)
        self.key: dict[str, Any] = manifest["key"]
        self.num_rows: int = manifest["num_rows"]
        self.arrays = _array_files(manifest["arrays"])
        self._mapped: dict[str, Tensor] = {}
        for name, array in self.arrays.items():
            path = self.folder / array.file
            size = path.stat().st_size if path.exists() else 0
            if size != array.size():
                raise ValueError(f"{path} of array {name} has {size} bytes instead of {array.size()}")
            if verify and _sha256(path).hexdigest() != manifest["sha256"][name]:
                raise ValueError(f"{path} of array {name} does not have the sha256 of its manifest")

    def __len__(self) -> int:
        return self.num_rows

    @property
    def names(self) -> list[str]:
        return list(self.arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row."""
        return self._array(name).shape[1:]

    def rows(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        """Rows `indices` (n,) of an array as a new tensor (n, ...): one gather from the mapped file."""
        if name not in self._mapped:
            self._mapped[name] = self._array(name).map(self.folder)
        return self._mapped[name].index_select(0, torch.as_tensor(indices, dtype=torch.int64))

    def _array(self, name: str) -> ArrayFile:
        if name not in self.arrays:
            raise ValueError(f"the cache {self.folder} holds {self.names}, not {name!r}")
        return self.arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}  # a copy in another process maps the files itself


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

    Several processes may ask at once: one fills, the others wait for it. A complete one is read without a lock, also
    from a disk that cannot be written to: it came into being by a rename.

    Args:
        key: everything that determines the content, as plain values.
        compute: row numbers -> {array name: tensor (n, ...)}, on any device; called for consecutive chunks.
        progress: called with (rows done, rows in all) after each chunk.
        verify: check the sha256 of an existing cache.
    Raises:
        OSError: the cache has to be computed and cannot be written, with what to change.
    """
    if num_rows < 1 or chunk < 1:
        raise ValueError(f"a cache needs rows and is filled by rows, got num_rows={num_rows}, chunk={chunk}")
    root = Path(root)
    key = json.loads(canonical_json({**key, "cache_format": FORMAT, "num_rows": num_rows}))
    folder = root / digest_of(key)
    if folder.exists():
        with suppress(ValueError):  # a damaged one is named below, by the one process that makes it again
            return ArrayCache(folder, verify=verify)
    with _writable(root), locked(root / f"{folder.name}.lock"):
        if folder.exists():
            try:
                return ArrayCache(folder, verify=verify)
            except ValueError as error:
                log.warning("a cache is damaged and is made again: %s", error)
                shutil.rmtree(folder)
        _Fill(folder, key, num_rows).run(compute, chunk, progress)
        return ArrayCache(folder)


@contextmanager
def _writable(root: Path) -> Iterator[None]:
    """The folder of all caches, made; says what to change where it cannot be written to."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        advice = "set T2ILAB_CACHE to a folder that can be"
        raise OSError(
            error.errno,
            f"{error.strerror}; the cache is not complete and cannot be written: {advice}",
            str(root),
        ) from error


class _Fill:
    """One run of the computation into the partial folder, from its beginning or from the last note."""

    def __init__(self, folder: Path, key: Mapping[str, Any], num_rows: int) -> None:
        self.folder, self.key, self.num_rows = folder, key, num_rows
        self.partial = folder.with_name(folder.name + ".partial")
        self.done = 0
        self.arrays: dict[str, ArrayFile] = {}
        self.files: dict[str, IO[bytes]] = {}
        self.hashes: dict[str, Any] = {}

    def run(self, compute: Compute, chunk: int, progress: Progress | None) -> None:
        self._resume()
        noted = time.monotonic()
        try:
            while self.done < self.num_rows:
                indices = list(range(self.done, min(self.done + chunk, self.num_rows)))
                self._append(compute(indices), indices)
                if progress is not None:
                    progress(self.done, self.num_rows)
                if time.monotonic() - noted > NOTE_SECONDS:
                    self._note()
                    noted = time.monotonic()
            self._sync()
        except BaseException:
            with suppress(OSError):
                self._note()  # what is done stays done, also after Ctrl-C
            raise
        finally:
            for file in self.files.values():
                with suppress(OSError):
                    file.close()
        self._finish()

    def _resume(self) -> None:
        """Goes on from the last note if there is one that fits its files, else starts afresh."""
        try:
            note = json.loads((self.partial / "progress.json").read_text())
            self.arrays = _array_files(note["arrays"])
            for name, array in self.arrays.items():
                self.files[name] = array.open(self.partial, note["done"])
                self.hashes[name] = _sha256(self.partial / array.file)
            self.done = note["done"]
            log.warning("an interrupted cache goes on at row %d of %d", self.done, self.num_rows)
        except (OSError, ValueError, KeyError, TypeError):
            self.arrays, self.files, self.hashes = {}, {}, {}
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)

    def _append(self, chunk: Mapping[str, Tensor], indices: list[int]) -> None:
        tensors = {name: value.detach().to("cpu").contiguous() for name, value in chunk.items()}
        if not self.arrays:
            self._begin(tensors)
        span = f"rows {indices[0]} to {indices[-1]}"
        got = {name: (NAMES.get(value.dtype), tuple(value.shape)) for name, value in tensors.items()}
        wanted = {
            name: (array.dtype, (len(indices), *array.shape[1:])) for name, array in self.arrays.items()
        }
        if got != wanted:
            raise ValueError(f"{span} of a cache should be {wanted}, got {got}")
        for name, value in tensors.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"{span} of a cache: array {name} has values that are not finite")
        for name, value in tensors.items():
            data = bytes_of(value)
            self.files[name].write(data)
            self.hashes[name].update(data)
        self.done += len(indices)

    def _begin(self, tensors: Mapping[str, Tensor]) -> None:
        """Opens the files, now that names, types and shapes are known."""
        unknown = [f"{name} ({value.dtype})" for name, value in tensors.items() if value.dtype not in NAMES]
        if unknown or not tensors:
            raise ValueError(
                f"a cache stores arrays of {', '.join(map(str, NAMES))}, got {unknown or 'none'}"
            )
        arrays = {
            name: ArrayFile(f"{number}.safetensors", NAMES[value.dtype], (self.num_rows, *value.shape[1:]))
            for number, (name, value) in enumerate(tensors.items())
        }
        needed = sum(array.size() for array in arrays.values())
        free = shutil.disk_usage(self.partial).free
        if needed > free:
            message = f"a cache needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
            advice = "set T2ILAB_CACHE to a folder with more space"
            raise OSError(errno.ENOSPC, f"{message}; {advice}", str(self.partial))
        self.arrays = arrays
        self.files = {name: array.create(self.partial) for name, array in arrays.items()}
        self.hashes = {name: hashlib.sha256(array.header) for name, array in arrays.items()}

    def _sync(self) -> None:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())

    def _note(self) -> None:
        if self.done:
            self._sync()
            arrays = {name: asdict(array) for name, array in self.arrays.items()}
            _write_json(self.partial / "progress.json", {"done": self.done, "arrays": arrays})

    def _finish(self) -> None:
        (self.partial / "progress.json").unlink(missing_ok=True)
        manifest = {
            "format": FORMAT,
            "key": self.key,
            "num_rows": self.num_rows,
            "arrays": {name: asdict(array) for name, array in self.arrays.items()},
            "sha256": {name: digest.hexdigest() for name, digest in self.hashes.items()},
        }
        _write_json(self.partial / MANIFEST, manifest)
        self.partial.rename(self.folder)
        _sync_folder(self.folder.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that the system releases when the process ends, however it ends."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that holds %s", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        named = digest_of(manifest["key"])
        if manifest["format"] != FORMAT or {"num_rows", "arrays", "sha256"} - manifest.keys():
            raise KeyError("format")
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} holds no complete cache ({error!r})") from error
    if named != folder.name:
        raise ValueError(f"the key in {folder / MANIFEST} is that of another cache, {named}")
    return manifest


def _array_files(plain: Mapping[str, Any]) -> dict[str, ArrayFile]:
    return {
        name: ArrayFile(value["file"], value["dtype"], tuple(value["shape"])) for name, value in plain.items()
    }


def _sha256(path: Path) -> Any:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256")


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
