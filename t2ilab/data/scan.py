"""Reads a folder of images once: the images, their captions, and what is wrong with any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from t2ilab.core.characters import printable, whole
from t2ilab.core.folders import expanded
from t2ilab.data.cache import cache_root
from t2ilab.data.captions import Captions, collect
from t2ilab.data.metadata import ANY, COLUMNS, METADATA
from t2ilab.data.report import BY_KIND, STRAYS, DataReport, Drop, Reason
from t2ilab.data.verify import Checked, check_images, is_image, walk


@dataclass(frozen=True)
class Scan:
    """What was found in a folder, the same for every split and resolution.

    Attributes:
        images: relative paths, sorted.
        captions: of the images.
        checked: what each image file is, by path.
    """

    folder: Path
    images: list[str]
    captions: Captions
    checked: dict[str, Checked]

    @staticmethod
    def of(
        path: str,
        caption_column: str | None = None,
        caption_weights: Mapping[str, float] | None = None,
        *,
        caption: str | None = None,
        caption_prefix: str | None = None,
        cache: str = "outputs/cache",
        threads: int = 4,
    ) -> Scan:
        """Reads the folder; arguments as of FolderSource.

        Raises:
            ValueError: there is no folder, image or caption.
        """
        folder = _existing(path)
        closed: list[Drop] = []
        files = sorted(walk(folder, closed))
        images = [file for file in files if is_image(file)]
        if not images:
            raise ValueError(f"data.path={path}: no images in it ({len(files)} other files); see data.path")
        if caption_weights is not None and caption_column is not None:
            raise ValueError("data.caption_weights names the columns itself: leave data.caption_column null")
        given, prefix = (
            _text(f"data.{name}", text)
            for name, text in (("caption", caption), ("caption_prefix", caption_prefix))
        )
        captions = collect(folder, files, set(images), caption_column, list(caption_weights or ()))
        captions.ignored += closed
        if given:
            captions.give(images, given)
        if prefix:
            captions.begin(prefix)
        if not captions.by_image:
            raise ValueError(_no_captions(path, len(images), captions))
        return Scan(
            folder, images, captions, check_images(folder, images, cache=cache_root(cache), threads=threads)
        )

    def sort_out(self, min_size: int) -> tuple[list[str], list[Drop]]:
        """Each image is used, or dropped for the first reason that holds."""
        used, drops = [], []
        for image in self.images:
            look, fault = self.checked[image], self.captions.fault(image)
            if look.reason:
                drops.append(Drop(image, Reason(look.reason), look.detail))
            elif min(look.width, look.height) < min_size:
                detail = f"{look.width} x {look.height}, data.min_size is {min_size}"
                drops.append(Drop(image, Reason.TOO_SMALL, detail))
            elif fault is not None:
                drops.append(fault)
            else:
                used.append(image)
        return used, drops

    def report(
        self, used: list[str], drops: list[Drop], splits: Mapping[str, list[str]], min_size: int
    ) -> DataReport:
        """What is told of the folder, given what `sort_out` and `split` say."""
        return DataReport(
            path=printable(str(self.folder)),
            found=len(self.images),
            used=len(used),
            images=tuple(drops),
            captions=tuple(self.captions.ignored),
            mended=tuple(self.captions.mended),
            splits={name: len(paths) for name, paths in splits.items()},
            facts={"min_size": min_size, **self.facts(used)},
        )

    def facts(self, used: list[str]) -> dict[str, Any]:
        """Numbers about the used images that a reader of the report may want."""
        if not used:
            return {}
        shorter = sorted(min(self.checked[image].width, self.checked[image].height) for image in used)
        found: dict[str, Any] = {
            "shorter side, pixels": {"least": shorter[0], "median": median(shorter), "most": shorter[-1]},
            "kinds": dict(Counter(self.checked[image].kind for image in used).most_common()),
            "captions": sum(len(self.captions.by_image[image]) for image in used),
        }
        if self.captions.strays:
            found[STRAYS] = dict(self.captions.strays.most_common())
        having = Counter(kind for image in used for kind in set(self.captions.kinds[image]))
        return found | ({BY_KIND: dict(having.most_common())} if set(having) != {ANY} else {})


def _text(option: str, text: str | None) -> str | None:
    """The text of an option, or None where it is not set."""
    if text is not None and not text.strip():
        raise ValueError(f"{option} must be words or null, got {text!r}")
    if text is not None and whole(text) != text:
        raise ValueError(f"{option}={printable(text)} holds a character that is not whole: write it in UTF-8")
    return text and text.strip()


def _existing(path: str) -> Path:
    folder = Path(expanded(path)) if path else None
    if folder is None or not folder.is_dir():
        what = "not a folder" if folder is not None and folder.exists() else "no such folder"
        raise ValueError(f"data.path={path}: {what}; give a folder of images with captions: data.path=DIR")
    return folder.resolve()


def _no_captions(path: str, found: int, captions: Captions) -> str:
    faults = Counter(str(fault.reason) for fault in captions.faults.values())
    why = "".join(f", {number} with: {reason}" for reason, number in faults.items())
    said = f"data.path={path}: {found} images{why}, and no caption for any of them"
    if captions.strays:
        reasons = ", ".join(f"{reason}: {number}" for reason, number in captions.strays.most_common())
        first = [drop for drop in captions.ignored if drop.detail.startswith("no image")][:3]
        rows = "".join(f"\n  {drop.path}: {drop.detail}" for drop in first)
        return (
            f"{said}; {captions.strays.total()} {STRAYS} ({reasons}), such as{rows}\n"
            "column file_name holds paths relative to the folder of its file, as they are written there"
        )
    unread = "".join(
        f"; {drop.path} {drop.detail}" for drop in captions.ignored if drop.reason is Reason.UNSUPPORTED
    )
    return (
        f"{said}{unread}; write name.txt beside "
        f"name.jpg, or {' / '.join(METADATA)} with the columns file_name and {' or '.join(COLUMNS)}, or give all of "
        "them one with data.caption='a photo of ...'"
    )
