"""What a stage learns from that is drawn or compared, while the data of the model that it starts from measure it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from t2ilab.build import Node
from t2ilab.data.cache import cache_root
from t2ilab.data.report import DataReport
from t2ilab.data.sets import DataSet
from t2ilab.data.source import RowProvider
from t2ilab.export.manifest import identity
from t2ilab.export.reader import Opened
from t2ilab.pairs import DrawnPairs
from t2ilab.text.base import Conditioner
from t2ilab.training.latent_rows import encode_texts


class Learned(ABC):
    """What is learned from in place of the images of the model's own data.

    Args:
        data: the data set of `data=`.
    """

    def __init__(self, data: DataSet) -> None:
        self.data = data

    def measured_by(self, own: DataSet) -> DataSet:
        """The data set of the run.

        Args:
            own: the data of the model that the stage starts from.
        """
        return MeasuredData(own, self.data)

    @abstractmethod
    def rows(self, encoders: Mapping[str, Any], nodes: Mapping[str, Node]) -> RowProvider:
        """What a training step reads.

        Args:
            encoders: `autoencoder` and `conditioner`, in evaluation mode; nodes: their config nodes.
        """


class MeasuredData(DataSet):
    """The images and prompts that measure a model, with something else in their place for training.

    Args:
        measured: the model's own data.
        learned: what is learned from.
    """

    holds = "pairs"

    def __init__(self, measured: DataSet, learned: DataSet) -> None:
        super().__init__(batch_size=learned.batch_size, workers=learned.workers)
        self.measured, self.learned = measured, learned
        self.train, self.val = measured.train, measured.val
        self.world, self.suites = measured.world, measured.suites

    def order(self, seed: int) -> Any:
        return self.learned.order(seed)

    def digest(self) -> str:
        return str(self.learned.digest())

    def preview_prompts(self) -> list[str]:
        return self.measured.preview_prompts()

    def image_splits(self) -> dict[str, dict[str, Any]]:
        return self.measured.image_splits()

    def report(self) -> DataReport | None:
        found: DataReport | None = self.learned.report()
        return found

    def facts(self) -> dict[str, Any]:
        return dict(self.learned.facts())

    def summary(self) -> str:
        return str(self.learned.summary())


class PairTexts:
    """Encoded prompts of rows.

    Args:
        texts: the prompt of each row.
        conditioner: in evaluation mode; node: its config node, a part of the key of the cache.
    """

    def __init__(self, texts: Sequence[str], conditioner: Conditioner, node: Node) -> None:
        distinct = list(dict.fromkeys(texts))
        numbers = {text: number for number, text in enumerate(distinct)}
        self.numbers = [numbers[text] for text in texts]
        self.texts = encode_texts(distinct, conditioner, identity(node), cache_root())

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Tokens, mask and pooled text of rows."""
        chosen = [self.numbers[index] for index in indices]
        found = {name: self.texts.rows(name, chosen) for name in self.texts.names}
        return {name: value if value.dtype == torch.bool else value.float() for name, value in found.items()}


def check_latents(pairs: DrawnPairs, model: Opened) -> None:
    """Refuses latents of another autoencoder, which would mean other images, or of another size.

    Args:
        model: that shall learn from them.

    Raises:
        ValueError: naming data.path.
    """
    drawn, where = pairs.pairs.manifest, f"data.path={pairs.pairs.folder}"
    if drawn["latent_shape"] != model.manifest["latent_shape"]:
        raise ValueError(
            f"{where}: these pairs are images of {drawn['resolution']} px, the model of init_from draws "
            f"{model.manifest['resolution']} px; draw pairs with this model"
        )
    if drawn["autoencoder"] != identity(model.nodes["autoencoder"]):
        raise ValueError(
            f"{where}: these pairs are latents of another autoencoder than that of init_from; draw pairs with this "
            "model or one that was trained from the same start"
        )
