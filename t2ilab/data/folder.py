"""`data=folder`: a folder of images with captions, of any sizes and modes.

Every image is read and decoded once before training; what is wrong with one is said then, by name, and
training never meets it. What was learnt is kept, so the next start only looks at what has changed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import torch
from torch import Tensor

from t2ilab.data import decode
from t2ilab.data.cache import digest_of
from t2ilab.data.scan import Scan
from t2ilab.data.source import Source, checked_weights

SPLITS = ("train", "val")


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
        used, drops = scan.sort_out(self.min_size)
        members = _split(used, val_share)
        self.report = scan.report(used, drops, members, self.min_size)
        if not used:
            raise ValueError(
                f"data.path={path}: none of {len(scan.images)} images can be used\n{self.report.text()}"
            )
        if not members[split]:
            raise ValueError(
                f"data.path={path}: no image is in split {split} (used images: {len(used)}, "
                f"val_share={val_share}); it takes two images and data.val_share above 0"
            )
        self.folder = scan.folder
        self.paths = members[split]
        self._captions = [scan.captions.by_image[image] for image in self.paths]
        self._kinds = [scan.captions.kinds[image] for image in self.paths]
        self.sizes = [(scan.checked[image].height, scan.checked[image].width) for image in self.paths]
        self._hashes = [scan.checked[image].sha256 for image in self.paths]

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
