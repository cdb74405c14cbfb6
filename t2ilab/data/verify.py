"""One look at every file of a folder: which are images, which of these are whole, and how large they are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from t2ilab.data import decode
from t2ilab.data.cache import digest_of, locked
from t2ilab.data.report import Drop, Reason
from t2ilab.files import whole_file

log = logging.getLogger(__name__)

Item = TypeVar("Item")
LOOK = 2  # raise it when a look finds other faults than before: then all files are looked at again


@dataclass(frozen=True)
class Checked:
    """What one look at an image file found.

    Attributes:
        size, mtime: of the file, bytes and nanoseconds; another value means another look.
        sha256: of the file.
        width, height, kind: as in `decode.Decoded`; 0 and "" if it could not be decoded.
        reason, detail: why it could not, or "".
    """

    size: int
    mtime: int
    sha256: str = ""
    width: int = 0
    height: int = 0
    kind: str = ""
    reason: str = ""
    detail: str = ""


def walk(folder: Path, unreadable: list[Drop] | None = None) -> Iterator[str]:
    """Relative paths of all files, hidden ones left out; links to folders are followed, once each.

    Args:
        unreadable: gets the folders that cannot be looked into.
    """
    visited: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        if unreadable is not None:
            place = os.path.relpath(error.filename, folder)
            unreadable.append(Drop(place, Reason.UNREADABLE_FOLDER, error.strerror or ""))

    for root, folders, files in os.walk(folder, followlinks=True, onerror=note):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield (Path(root) / name).relative_to(folder).as_posix()


def suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def is_image(path: str) -> bool:
    """Whether the name is that of an image, of a kind that is read here or not."""
    return suffix(path) in decode.SUFFIXES | decode.FOREIGN


def check_images(folder: Path, images: list[str], *, cache: Path, threads: int) -> dict[str, Checked]:
    """What there is to know about each image; only those that are new or have changed are read."""
    identity = {"folder": str(folder), "decoder": decode.VERSION, "look": LOOK}
    index = cache / f"folder-{digest_of(identity)[:16]}.json"
    with _alone(index):
        return _check_images(folder, images, index, threads)


@contextmanager
def _alone(index: Path) -> Iterator[None]:
    """Several processes of a run look at once: one does, the others wait and then read what it has learnt."""
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that cannot be written keeps nothing, and is no reason to stop
            index.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(index.with_suffix(".lock")))
        yield


def _check_images(folder: Path, images: list[str], index: Path, threads: int) -> dict[str, Checked]:
    known = _read_index(index)
    checked: dict[str, Checked] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # of tags that nobody needs, file by file
            looks = pool.map(lambda image: _check(folder / image, known.get(image)), images)
            for image, look in zip(images, watched(looks, number=len(images)), strict=True):
                checked[image] = look
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for what nobody has begun
        if any(look is not known.get(image) for image, look in checked.items()):
            every = known | checked
            _write_index(index, {image: every[image] for image in images if image in every})
    return checked


def watched(items: Iterable[Item], what: str = "images", number: int | None = None) -> Iterator[Item]:
    """The same items, saying every few seconds how many were looked at, and of a known number how long it takes."""
    start = shown = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            left = "" if number is None else f", {(number - done) * (shown - start) / done:.0f} s left"
            of = "" if number is None else f" of {number:,}"
            print(f"looked at {done:,}{of} {what}{left}", flush=True)


def _check(path: Path, known: Checked | None) -> Checked:
    try:
        status = path.stat()
        if known is not None and (known.size, known.mtime) == (status.st_size, status.st_mtime_ns):
            return known
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
            return Checked(-1, -1, reason=Reason.CORRUPT, detail="not a regular file")
        return _looked_at(path, status)
    except OSError as error:
        return Checked(-1, -1, reason=Reason.CORRUPT, detail=error.strerror or str(error))
    except MemoryError:  # not kept: another time there may be more
        return Checked(-1, -1, reason=Reason.UNSUPPORTED, detail="it does not fit in memory")


def _looked_at(path: Path, status: os.stat_result) -> Checked:
    data = path.read_bytes()
    file = (status.st_size, status.st_mtime_ns, hashlib.sha256(data).hexdigest())
    if suffix(path.name) in decode.FOREIGN:
        return Checked(*file, reason=Reason.UNSUPPORTED, detail="save it as png, jpg or webp")
    try:
        decoded = decode.decode(data, at_least=1)
    except decode.CorruptImage as error:
        return Checked(*file, reason=Reason.CORRUPT, detail=str(error))
    except decode.UnsupportedImage as error:
        return Checked(*file, reason=Reason.UNSUPPORTED, detail=str(error))
    return Checked(*file, width=decoded.width, height=decoded.height, kind=decoded.kind)


def _read_index(path: Path) -> dict[str, Checked]:
    try:
        return {name: Checked(**value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # absent or damaged: everything is looked at again


def _write_index(path: Path, checked: dict[str, Checked]) -> None:
    kept = {name: asdict(look) for name, look in checked.items() if look.size >= 0}
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(kept))
    except OSError as error:
        log.warning("what was learnt about the images is not kept, the next start looks again: %s", error)
