"""Whether the encoders of a finished model can carry new data at all: what they drop, no training brings back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from t2ilab.core.types import Condition
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source
from t2ilab.latents.base import Autoencoder, to_pixels
from t2ilab.text.base import Conditioner
from t2ilab.training.latent_rows import module_device, to_signed

IMAGES, TEXTS, TRIES = 64, 512, 4  # how much is looked at: images, captions, captions of a word
FREQUENT = 0.05  # of the captions that hold a word that counts
LEAST_CHANGE = 0.01  # of a condition, relative, when a word that is carried leaves the text
FILLERS = (  # words that show nothing, which a text encoder may well leave out
    "a an and are at by depicting drawing has image in is it its of on or photo photograph picture showing shows "
    "that the there this to with"
)
LEAST_SHARE = 0.5  # of what the originals show, and of the new words, that has to arrive


@torch.no_grad()
def check_concept(
    new: DataSet, old: Sequence[str], autoencoder: Autoencoder, conditioner: Conditioner
) -> None:
    """Refuses data whose images or words get lost in the encoders of the model that a stage starts from.

    Args:
        new: a data set.
        old: captions of the data before, as far as they are known: words in them do not count.

    Raises:
        ValueError: saying what is lost.
    """
    while hasattr(new, "main"):  # a mixture's and a curriculum's own: old images beside them say nothing
        new = new.main
    if new.world is not None and hasattr(new.val, "scene"):
        _check_images(new.val, new.world, autoencoder)
    known = set(FILLERS.split()) | _words(old)
    lost, words = lost_words(captions(new.train), known, conditioner)
    if len(lost) > (1 - LEAST_SHARE) * len(words):
        raise ValueError(
            f"data: the text encoder of init_from makes nothing of the new words {', '.join(sorted(lost)[:5])}: a "
            "text means the same to it without them, so no training can bind them to images. Start from a model "
            "whose conditioner passes words (conditioner.words=true, or one trained on any text), or use others"
        )


def _check_images(source: Any, world: Any, autoencoder: Autoencoder) -> None:
    """Has the judge read images before and after the autoencoder."""
    rows = range(min(IMAGES, len(source)))
    images, truth = source.images(rows), [source.scene(row) for row in rows]
    latents = autoencoder.encode(to_signed(images.to(module_device(autoencoder))))
    rebuilt = to_pixels(autoencoder.decode(latents)).cpu()
    shown, kept = (sum(s.passed for s in world.score_batch(truth, those)) for those in (images, rebuilt))
    if kept < LEAST_SHARE * shown:
        raise ValueError(
            f"data: the autoencoder of init_from loses what these images show: of {len(rows)} the judge recognises "
            f"{shown}, and {kept} of what comes back of them; start from a model whose autoencoder knows such images"
        )


def captions(source: Source) -> list[str]:
    """The captions of some images, evenly spaced over a source."""
    count = min(TEXTS, len(source))
    return [text for row in range(count) for text in source.captions(row * len(source) // count)]


def lost_words(texts: list[str], known: set[str], conditioner: Conditioner) -> tuple[set[str], set[str]]:
    """The frequent words of `texts` beside the known ones, of which a conditioner drops the first set.

    A word is dropped if |c(text) - c(text without it)| < |c(text)| / 100 for every text tried.

    Returns:
        the dropped ones and all of them.
    """
    count = Counter(word for text in texts for word in set(_split(text)) - known)
    words = {word for word, number in count.items() if number >= FREQUENT * len(texts)}
    lost = set()
    for word in words:
        having = [text for text in texts if word in _split(text)][:TRIES]
        without = [re.sub(rf"\b{re.escape(word)}\b\s*", "", text, flags=re.IGNORECASE) for text in having]
        if max(_changes(conditioner(having), conditioner(without))) < LEAST_CHANGE:
            lost.add(word)
    return lost, words


def _changes(one: Condition, other: Condition) -> list[float]:
    first, second = (_vector(condition) for condition in (one, other))
    return ((first - second).norm(dim=1) / first.norm(dim=1).clamp_min(1e-6)).tolist()


def _vector(condition: Condition) -> torch.Tensor:
    tokens = (condition.tokens * condition.mask[..., None]).float().flatten(1)
    return tokens if condition.pooled is None else torch.cat([tokens, condition.pooled.float()], 1)


def _split(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _words(texts: Sequence[str]) -> set[str]:
    return {word for text in texts for word in _split(text)}
