"""The captions of a folder of images: text files beside the images, and Hugging Face metadata files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from t2ilab.core.characters import whole
from t2ilab.data.metadata import ANY, METADATA, Row, is_foreign, is_metadata, remedy, rows
from t2ilab.data.naming import Names
from t2ilab.data.report import Drop, Reason

SIDECAR = "txt"  # the kind of the lines of text files
BREAK = re.compile(r"\r\n|\r|\n")  # ends a line; other separators of Unicode are characters like any other
FOLD = re.compile(r"(?:[ \t]*(?:\r\n|\r|\n))+[ \t]*")
GIVEN = "data.caption"  # the kind of the caption that the option gives to an image without one


@dataclass
class Captions:
    """What was found.

    Attributes:
        by_image: the captions of each image, by its path relative to the folder.
        kinds: the kind of each of them.
        faults: why an image that has a caption somewhere has none that can be used.
        ignored: captions that belong to no image, or to one that metadata have named before.
        mended: captions that are used with U+FFFD in the place of broken characters.
        strays: how many rows of metadata name no image, by the likely reason.
    """

    by_image: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[str, Drop] = field(default_factory=dict)
    ignored: list[Drop] = field(default_factory=list)
    mended: list[Drop] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)

    def add(self, image: str, texts: Iterable[str], where: str, kind: str) -> None:
        """Gives an image the captions that it does not have yet; none of them is a fault."""
        texts = [FOLD.sub(" ", text).strip(" \t\r\n") for text in texts]
        texts = [text for text in texts if text.strip()]  # wide or narrow spaces alone are no caption
        if any(whole(text) != text for text in texts):
            texts = [whole(text) for text in texts]
            self.mended.append(Drop(where, Reason.BROKEN_CHARACTER))
        if not texts:
            self.faults.setdefault(image, Drop(image, Reason.EMPTY_CAPTION, where))
            return
        known = self.by_image.setdefault(image, [])
        known += [text for text in dict.fromkeys(texts) if text not in known]
        kinds = self.kinds.setdefault(image, [])
        kinds += [kind] * (len(known) - len(kinds))

    def give(self, images: Iterable[str], text: str) -> None:
        """Gives `text` to every image that has no caption; one whose own caption cannot be read keeps its fault."""
        for image in images:
            fault = self.fault(image)
            if fault is not None and fault.reason in (Reason.NO_CAPTION, Reason.EMPTY_CAPTION):
                self.add(image, [text], GIVEN, GIVEN)

    def begin(self, prefix: str) -> None:
        """Puts `prefix` and a space before every caption."""
        for image, texts in self.by_image.items():
            self.by_image[image] = [f"{prefix} {text}" for text in texts]

    def fault(self, image: str) -> Drop | None:
        """Why the image cannot be used for want of a caption, or None."""
        if image in self.by_image:
            return None
        return self.faults.get(image, Drop(image, Reason.NO_CAPTION))


def collect(
    folder: Path, files: list[str], images: set[str], column: str | None, kinds: Collection[str] = ()
) -> Captions:
    """All captions of `images` among `files` (paths relative to `folder`).

    An image takes its metadata row and the lines of its text file; both count where both exist. An empty
    caption beside a good one does no harm.

    Args:
        column: the column of the metadata with captions; None takes `text`, else `caption`.
        kinds: if given, only these: columns of the metadata by name, and "txt", the lines of the text files.
    Raises:
        ValueError: a metadata file that cannot be understood, or a kind that no image has.
    """
    captions, names = Captions(), Names(images)
    metadata = [path for path in files if is_metadata(path)]
    found = (row for path in metadata for row in rows(folder, path, column, kinds, names))
    _add_metadata(captions, found, names)
    for path in files:
        if path.lower().endswith(".txt") and (not kinds or SIDECAR in kinds):
            _add_sidecar(captions, folder, path, names, SIDECAR if kinds else ANY)
        elif is_foreign(path):
            captions.ignored.append(Drop(path, Reason.UNSUPPORTED, remedy(path)))
    lost = set(kinds) - {kind for found in captions.kinds.values() for kind in found}
    if lost:
        raise ValueError(
            f"data.caption_weights.{min(lost)}: no image in {folder} has such a caption; kinds are the columns of "
            f"{' / '.join(METADATA)}, and {SIDECAR} for the lines of text files"
        )
    return captions


def _add_metadata(captions: Captions, found: Iterable[Row], names: Names) -> None:
    seen: dict[str, str] = {}
    for row in found:
        image = names.image(row.name)
        if image is None:
            why, near = names.likely(row.name)
            captions.strays[why or "nothing of that name"] += 1
            detail = f"no image {row.name}" + (f"; {_hint(why, near)}" if why else "")
            captions.ignored.append(Drop(row.where, Reason.CAPTION_WITHOUT_IMAGE, detail))
        elif image in seen:
            detail = f"{image} is also in {seen[image]}"
            captions.ignored.append(Drop(row.where, Reason.DUPLICATE_PATH, detail))
        else:
            seen[image] = row.where
            for kind, texts in row.texts.items():
                captions.add(image, texts, row.where, kind)


def _add_sidecar(captions: Captions, folder: Path, path: str, names: Names, kind: str) -> None:
    owners = names.owners(path)
    if not owners:
        why, near = names.likely_owner(path)
        captions.ignored.append(Drop(path, Reason.CAPTION_WITHOUT_IMAGE, _hint(why, near) if why else ""))
        return
    try:
        lines = lines_of(folder / path)
    except (OSError, ValueError) as error:
        for image in owners:
            captions.faults[image] = Drop(image, Reason.UNREADABLE_CAPTION, f"{path}: {error}")
        return
    for image in owners:
        captions.add(image, lines, path, kind)


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, with or without a byte order mark, ended as on any system.

    Raises:
        OSError, ValueError: it cannot be read, or is not UTF-8.
    """
    if not path.is_file():
        raise ValueError("not a regular file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(BREAK.split(data[: error.start].decode("latin-1")))
        raise ValueError(f"line {line} is not UTF-8; save it as UTF-8") from error
    if "\0" in text:
        raise ValueError("NUL characters; it is not whole or not UTF-8")
    return BREAK.split(text)


def _hint(why: str, near: str) -> str:
    return f"{why}: there is {near}" if near else why
