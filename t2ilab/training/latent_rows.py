"""What a training step reads: images or latents with texts, by row numbers.

Static data are encoded once. Latents are posterior means in fp16; texts are kept as token vectors in fp16, one
row per distinct caption, so that twenty thousand images of few captions cost a few hundred rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.build import Node
from t2ilab.callbacks.progress import ticker
from t2ilab.core.precision import autocast, resolved
from t2ilab.data.cache import ArrayCache, cache_root, digest_of, open_or_fill
from t2ilab.data.joined import JoinedRows
from t2ilab.data.order import caption_choice
from t2ilab.data.source import Source
from t2ilab.latents.base import Autoencoder
from t2ilab.runs.ranks import is_first_process
from t2ilab.text.base import Conditioner

PIXELS_AT_ONCE = 2**22  # an autoencoder's first layer makes a hundred times as many numbers of them
FEATURES = "features/"  # what the names of features in a batch begin with


def to_signed(images: Tensor) -> Tensor:
    """uint8 images to [-1, 1]."""
    return images.float() / 127.5 - 1


def images_at_once(pixels: int) -> int:
    """How many images of so many pixels an encoder gets at a time, 1 to 256: 64 at 256 px, 4 at 1024 px."""
    return max(1, min(256, PIXELS_AT_ONCE // pixels))


class ImageRows:
    """Images and captions as they are, images kept as bytes in the cache: for stage=autoencoder and encoder."""

    def __init__(self, source: Source, *, seed: int, cache: Path | None = None) -> None:
        self.source, self.seed = source, seed
        key = {"kind": "pictures", "source": source.image_digest()}
        self.images = open_or_fill(
            cache or cache_root(),
            key,
            len(source),
            lambda rows: {"images": source.images(rows)},
            progress=ticker("rendering"),
        )

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        return {"images": self.images.rows("images", indices)}

    def texts(self, indices: list[int], epochs: list[int]) -> list[str]:
        """The caption that each row shows in its epoch."""
        found = []
        for index, epoch in zip(indices, epochs, strict=True):
            texts, weights = self.source.captions(index), self.source.weights(index)
            found.append(texts[caption_choice(self.seed, epoch, index, weights or len(texts))])
        return found


class LatentRows:
    """Latents and encoded captions of a source, from a cache that is filled once.

    Args:
        source: images and captions.
        autoencoder, conditioner: encoders in evaluation mode, on one device.
        identity: the config nodes of both, with the digests of their weights: what the cache's key says of them.
        seed: of the run; chooses the caption of each visit.
        features: encoders of the images with what identifies them, by name; a batch holds what they say as
            `features/<name>`.
    """

    def __init__(
        self,
        source: Source,
        *,
        autoencoder: Autoencoder,
        conditioner: Conditioner,
        identity: Mapping[str, Node],
        seed: int,
        features: Mapping[str, tuple[nn.Module, Node]] | None = None,
        cache: Path | None = None,
    ) -> None:
        self.seed = seed
        root = cache or cache_root()
        self.latents = encode_latents(source, autoencoder, identity["autoencoder"], root)
        self.features = {
            name: encode_features(source, encoder, node, root)
            for name, (encoder, node) in (features or {}).items()
        }
        texts, self.options = distinct_captions(source)
        self.weights = [source.weights(index) for index in range(len(source))]
        self.texts = encode_texts(texts, conditioner, identity["conditioner"], root)

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.latents.shape("latents")

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        pairs = zip(indices, epochs, strict=True)
        chosen = [
            self.options[i][caption_choice(self.seed, epoch, i, self.weights[i] or len(self.options[i]))]
            for i, epoch in pairs
        ]
        found = {name: self.texts.rows(name, chosen) for name in self.texts.names}
        found |= {
            f"{FEATURES}{name}": cache.rows("features", indices) for name, cache in self.features.items()
        }
        return {"x0": self.latents.rows("latents", indices).float()} | {
            name: value if value.dtype == torch.bool else value.float() for name, value in found.items()
        }


def joined_rows(sources: Sequence[Source], encode: Callable[[Source], LatentRows]) -> JoinedRows:
    """The rows of all sources one behind the other; equal sources are encoded once and share what is in memory."""
    made: dict[str, LatentRows] = {}
    rows = []
    for source in sources:
        key = digest_of({"source": source.digest(), "weights": source.caption_weights})
        made[key] = made.get(key) or encode(source)
        rows.append(made[key])
    return JoinedRows(rows)


def distinct_captions(source: Source) -> tuple[list[str], list[list[int]]]:
    """All captions once, and for each image the numbers of its captions."""
    numbers: dict[str, int] = {}
    options = [
        [numbers.setdefault(text, len(numbers)) for text in source.captions(index)]
        for index in range(len(source))
    ]
    return list(numbers), options


def encode_latents(source: Source, autoencoder: Autoencoder, identity: Node, root: Path) -> ArrayCache:
    """Scaled latents of every image, fp16."""
    key = {"kind": "latents", "autoencoder": identity}
    return _encoded(source, autoencoder, autoencoder.encode, key, root, "encoding images")


def encode_features(source: Source, encoder: nn.Module, identity: Node, root: Path) -> ArrayCache:
    """What an encoder sees in every image, one vector per patch, fp16."""
    return _encoded(
        source, encoder, encoder, {"kind": "features", "encoder": identity}, root, "looking at images"
    )


@torch.no_grad()
def _encoded(  # noqa: PLR0917 all of them say what is done
    source: Source,
    network: nn.Module,
    encode: Callable[[Tensor], Tensor],
    key: dict[str, Any],
    root: Path,
    doing: str,
) -> ArrayCache:
    """What `encode` of a network makes of every image, fp16, as the array that the key's kind names."""
    device = module_device(network)
    precision = resolved("auto", device)

    def compute(rows: list[int]) -> dict[str, Tensor]:
        images = to_signed(source.images(rows).to(device))
        with autocast(device, precision):
            return {key["kind"]: encode(images).to(torch.float16)}

    whole = key | {"source": source.image_digest(), "precision": precision}
    chunk = images_at_once(source.resolution**2)
    return open_or_fill(root, whole, len(source), compute, chunk=chunk, progress=ticker(doing))


@torch.no_grad()
def encode_texts(texts: list[str], conditioner: Conditioner, identity: Node, root: Path) -> ArrayCache:
    """Token vectors (fp16), masks and pooled vectors of every text."""
    device = module_device(conditioner)
    precision = resolved("auto", device)

    def compute(rows: list[int]) -> dict[str, Tensor]:
        with autocast(device, precision):
            condition = conditioner([texts[row] for row in rows])
        arrays = {"tokens": condition.tokens.to(torch.float16), "mask": condition.mask}
        return arrays | ({} if condition.pooled is None else {"pooled": condition.pooled.to(torch.float16)})

    named = digest_of({"texts": texts})
    key = {"kind": "texts", "texts": named, "conditioner": identity, "precision": precision}
    made = open_or_fill(root, key, len(texts), compute, progress=ticker("encoding texts"))
    if is_first_process():
        say_cuts(texts[:10_000], conditioner)
    return made


def say_cuts(texts: list[str], conditioner: Conditioner) -> None:
    """Prints how many of the texts lose their end, if more than one in a hundred does."""
    share = conditioner.cut(texts) / max(len(texts), 1)
    if share > 0.01:
        where = f"conditioner.length={conditioner.length} and are cut there"
        print(f"note: {share:.0%} of the captions are longer than {where}", flush=True)


def module_device(module: nn.Module) -> torch.device:
    """Device of the first parameter or buffer; CPU if there is none."""
    return next((value.device for value in (*module.parameters(), *module.buffers())), torch.device("cpu"))
