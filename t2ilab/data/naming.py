"""Which image a name means, and which one it may have meant where there is none of that name."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from functools import cached_property
from pathlib import PurePosixPath
from unicodedata import normalize

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def stem(path: str) -> str:
    """The path without its suffix."""
    return str(PurePosixPath(path).with_suffix(""))


class Names:
    """The images of a folder by name.

    The same letters may be written composed (NFC: Linux, Windows, most editors) or decomposed (NFD: a Mac's disk);
    both mean the image, and where both are there each means its own.

    Args:
        images: paths relative to the folder.
    """

    def __init__(self, images: Collection[str]) -> None:
        self.images = images if isinstance(images, (set, frozenset)) else set(images)
        self._forms: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        for image in sorted(self.images):
            self._stems.setdefault(stem(image), []).append(image)
            if not image.isascii():
                self._forms.setdefault(normalize("NFC", image), []).append(image)
                self._forms.setdefault("stem " + normalize("NFC", stem(image)), []).append(image)

    def image(self, name: str) -> str | None:
        """The image of this name, or None."""
        if name in self.images:
            return name
        found = [] if name.isascii() else self._forms.get(normalize("NFC", name), [])
        return found[0] if len(found) == 1 else None

    def owners(self, text_file: str) -> list[str]:
        """The images that a text file of this path belongs to: those that differ from it in the suffix only."""
        name = stem(text_file)
        if name in self._stems or name.isascii():
            return self._stems.get(name, [])
        return self._forms.get("stem " + normalize("NFC", name), [])

    def likely(self, name: str) -> tuple[str, str]:
        """Why a name of metadata means no image, in a few words, and the image that it may mean; "" for unknown."""
        path = posixpath.normpath(name.replace("\\", "/"))
        why, image = self._near(path)
        if WINDOWS.match(name):
            return "Windows path", image
        return ("absolute path", image) if path.startswith("/") else (why, image)

    def likely_owner(self, text_file: str) -> tuple[str, str]:
        """The same for a text file without an image."""
        name = stem(text_file)
        if self.image(name):
            return "suffix of the image in its name", name
        image = self._loose.get(_loose(name), "")
        return ("other case", image) if image else ("", "")

    def _near(self, path: str) -> tuple[str, str]:
        parts = path.split("/")
        if _loose(path) in self._loose:
            image = self._loose[_loose(path)]
            return ("other case" if _loose(path) == _loose(image) else "no suffix"), image
        if _loose(stem(path)) in self._loose:
            return "other suffix", self._loose[_loose(stem(path))]
        for first in range(1, len(parts)):
            found = self._loose.get(_loose("/".join(parts[first:])))
            if found:
                return "a folder too many", found
        found = self._last.get(_loose(parts[-1]), "")
        return ("another folder", found) if found else ("", "")

    @cached_property
    def _loose(self) -> dict[str, str]:
        """Images by name and by stem without regard to case and form; a whole name wins over a stem."""
        stems = {_loose(stem(image)): image for image in sorted(self.images, reverse=True)}
        return stems | {_loose(image): image for image in sorted(self.images, reverse=True)}

    @cached_property
    def _last(self) -> dict[str, str]:
        """Images by the last part of their path."""
        return {_loose(posixpath.basename(image)): image for image in sorted(self.images, reverse=True)}


def _loose(name: str) -> str:
    return normalize("NFKC", name).casefold()
