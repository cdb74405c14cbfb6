"""`data=folder`: a folder of images with captions, of any sizes and modes.

Every image is read and decoded once before training; what is wrong with one is said then, by name, and
training never meets it. What was learnt is kept, so the next start only looks at what has changed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from t2ilab.core.characters import printable, whole
from t2ilab.core.folders import expanded
from t2ilab.data import decode
from t2ilab.data.cache import cache_root, digest_of
from t2ilab.data.captions import Captions, collect
from t2ilab.data.metadata import ANY, COLUMNS, METADATA
from t2ilab.data.report import BY_KIND, STRAYS, DataReport, Drop, Reason
from t2ilab.data.source import Source, checked_weights
from t2ilab.data.verify import Checked, check_images, is_image, walk

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Scan:
    """One look at a folder, whichever split and resolution it is for.

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
        """Looks; arguments as of FolderSource.

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


class FolderSource(Source):
    """The usable images of a folder, each resized until its shorter side fits and cropped to the middle.

    Captions come from `name.txt` beside `name.jpg` (one per line) or from `metadata.jsonl` / `.csv` / `.parquet`
    with a column `file_name` (the Hugging Face imagefolder form), in the folder or in those within it.

    Args:
        path: the folder.
        resolution: height and width of the images in pixels.
        split: "train" or "val"; an image's split depends on its relative path only, save that neither
            split stays empty where there are two images.
        val_share: expected share of the images that are in "val".
        caption_column: the metadata column with the captions; None takes `text`, else `caption`.
        caption_weights: how likely captions of each kind are; kinds are columns of the metadata, and `txt` for
            the lines of text files, and only those named are read. Captions of one kind share its weight; an
            image that has none of a kind with weight draws among all that it has.
        caption: the caption of an image that has none.
        caption_prefix: words, such as the name of a subject, that stand before every caption.
        min_size: an image whose shorter side has fewer pixels is dropped; None means half the resolution.
        cache: folder of what is learnt about the files; `$T2ILAB_CACHE` wins.
        threads: images decoded at once.
        scan: what `Scan.of` found in this very folder, if somebody has looked already.

    Attributes:
        report: the DataReport of the whole folder.
        sizes: height and width of each image, upright.
    Raises:
        ValueError: there is nothing to train on; the message names the option.
    """

    def __init__(
        self,
        path: str,
        resolution: int = 64,
        *,
        split: str = "train",
        val_share: float = 0.05,
        caption_column: str | None = None,
        caption_weights: Mapping[str, float] | None = None,
        caption: str | None = None,
        caption_prefix: str | None = None,
        min_size: int | None = None,
        cache: str = "outputs/cache",
        threads: int = 4,
        scan: Scan | None = None,
    ) -> None:
        _check_options(resolution, split, val_share, threads)
        self.resolution = resolution
        self.split = split
        self.threads = threads
        self.min_size = resolution // 2 if min_size is None else min_size
        if caption_weights is not None:
            self.caption_weights = checked_weights(caption_weights, list(caption_weights))
        scan = scan or Scan.of(
            path,
            caption_column,
            caption_weights,
            caption=caption,
            caption_prefix=caption_prefix,
            cache=cache,
            threads=threads,
        )
        self.folder, images, captions, checked = scan.folder, scan.images, scan.captions, scan.checked
        used, drops = _sort_out(images, checked, captions, self.min_size)
        members = _split(used, val_share)
        self.report = DataReport(
            path=printable(str(self.folder)),
            found=len(images),
            used=len(used),
            images=tuple(drops),
            captions=tuple(captions.ignored),
            mended=tuple(captions.mended),
            splits={name: len(paths) for name, paths in members.items()},
            facts={"min_size": self.min_size, **_facts(used, checked, captions)},
        )
        if not used:
            raise ValueError(
                f"data.path={path}: none of {len(images)} images can be used\n{self.report.text()}"
            )
        if not members[split]:
            raise ValueError(
                f"data.path={path}: no image is in split {split} (used images: {len(used)}, "
                f"val_share={val_share}); it takes two images and data.val_share above 0"
            )
        self.paths = members[split]
        self._captions = [captions.by_image[image] for image in self.paths]
        self._kinds = [captions.kinds[image] for image in self.paths]
        self.sizes = [(checked[image].height, checked[image].width) for image in self.paths]
        self._hashes = [checked[image].sha256 for image in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def images(self, indices: Sequence[int]) -> Tensor:
        return self.images_at(indices, self.resolution, self.resolution)

    def images_at(self, indices: Sequence[int], height: int, width: int) -> Tensor:
        """Images of another shape, uint8 (n, 3, height, width), decoded by several threads."""
        if not len(indices):
            return torch.empty(0, 3, height, width, dtype=torch.uint8)
        with ThreadPoolExecutor(min(self.threads, len(indices))) as pool:
            return torch.stack(list(pool.map(lambda index: self._image(index, height, width), indices)))

    def captions(self, index: int) -> list[str]:
        return list(self._captions[index])

    def weights(self, index: int) -> list[float] | None:
        if self.caption_weights is None:
            return None
        number = Counter(self._kinds[index])
        found = [self.caption_weights.get(kind, 0.0) / number[kind] for kind in self._kinds[index]]
        return found if any(found) else None

    def digest(self) -> str:
        """Of names, bytes and captions of the images, and of how pixels are made from them."""
        return self._digest

    def image_digest(self) -> str:
        return self._image_digest

    @cached_property
    def _image_digest(self) -> str:
        return digest_of({"pictures": self._hashes, "resolution": self.resolution, "decoder": decode.VERSION})

    @cached_property
    def _digest(self) -> str:
        content = list(zip(self.paths, self._hashes, self._captions, strict=True))
        return digest_of({"content": content, "resolution": self.resolution, "decoder": decode.VERSION})

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "path": str(self.folder),
            "split": self.split,
            "captions": sum(map(len, self._captions)),
            "min_size": self.min_size,
        }

    def _image(self, index: int, height: int, width: int) -> Tensor:
        path = self.folder / self.paths[index]
        try:
            image = decode.decode(path.read_bytes(), at_least=max(height, width)).image
        except (OSError, decode.CorruptImage, decode.UnsupportedImage) as error:
            raise ValueError(
                f"{path} was good when training started and cannot be read now: {error}"
            ) from error
        return decode.to_tensor(decode.fit(image, height, width))


def split_position(path: str) -> float:
    """A number in [0, 1) that depends on the relative path only; images below `val_share` validate."""
    return (
        int.from_bytes(hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()) / 2**64
    )


def _check_options(resolution: int, split: str, val_share: float, threads: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= val_share < 1:
        raise ValueError(f"data.val_share must be at least 0 and below 1, got {val_share}")
    if resolution < 1:
        raise ValueError(f"data.resolution must be at least 1, got {resolution}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")


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


def _sort_out(
    images: list[str], checked: dict[str, Checked], captions: Captions, min_size: int
) -> tuple[list[str], list[Drop]]:
    """Each image is used or dropped for the first reason that holds."""
    used, drops = [], []
    for image in images:
        look = checked[image]
        short = min(look.width, look.height)
        fault = captions.fault(image)
        if look.reason:
            drops.append(Drop(image, Reason(look.reason), look.detail))
        elif short < min_size:
            detail = f"{look.width} x {look.height}, data.min_size is {min_size}"
            drops.append(Drop(image, Reason.TOO_SMALL, detail))
        elif fault is not None:
            drops.append(fault)
        else:
            used.append(image)
    return used, drops


def _split(used: list[str], val_share: float) -> dict[str, list[str]]:
    """Members by position; with two images or more and a share above 0, at least one in each.

    Of twenty or more two validate: fewer give no held-out loss.
    """
    ranked = sorted(used, key=lambda image: (split_position(image), image))
    number = sum(split_position(image) < val_share for image in ranked)
    if len(used) > 1 and val_share > 0:
        least = 2 if len(used) >= 20 else 1
        number = min(max(number, least), len(used) - 1)
    val = set(ranked[:number]) if len(used) > 1 else set()
    return {"train": [i for i in used if i not in val], "val": [i for i in used if i in val]}


def _facts(used: list[str], checked: dict[str, Checked], captions: Captions) -> dict[str, Any]:
    """Numbers about the used images that a reader of the report may want."""
    if not used:
        return {}
    shorter = sorted(min(checked[image].width, checked[image].height) for image in used)
    facts = {
        "shorter side, pixels": {"least": shorter[0], "median": median(shorter), "most": shorter[-1]},
        "kinds": dict(Counter(checked[image].kind for image in used).most_common()),
        "captions": sum(len(captions.by_image[image]) for image in used),
    }
    having = Counter(kind for image in used for kind in set(captions.kinds[image]))
    if captions.strays:
        facts[STRAYS] = dict(captions.strays.most_common())
    return facts | ({BY_KIND: dict(having.most_common())} if set(having) != {ANY} else {})
