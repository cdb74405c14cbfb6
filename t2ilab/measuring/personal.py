"""What a personalisation is measured by on any data: features of images, and what is kept of the class.

With f the feature of an image, all of length 1:

    personal/similarity         mean cosine of images of the subject's prompts and the subject's own images
    personal/class_similarity   the same of images of the class alone: what the subject has made of it
    personal/diversity          1 - mean cosine of different images of the class
    loss/heldout_class          held-out loss on images of the class, paired by noise and time: what it has forgotten

Source: Ruiz et al. 2022, arXiv 2208.12242, sections 4.1 and 4.3, by DINO and LPIPS; here by the scorer of eval=.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from t2ilab.data.personal import ClassImages, Retold, Subject
from t2ilab.data.sets import DataSet
from t2ilab.data.source import Source
from t2ilab.eval.alignment import FeatureExtractor
from t2ilab.eval.plan import EvaluationPlan
from t2ilab.eval.summary import Summary
from t2ilab.pipeline import TextToImage


@dataclass(frozen=True)
class Personal:
    """A subject and its class.

    Attributes:
        prompts: of the subject, in contexts.
        class_prompt: of the class alone.
        images: of the subject, uint8 (n, 3, h, w).
        kept: images of the class with its prompt, for the held-out loss; None where there are none.
        name: between the parts of the metrics' names, of the subjects behind the first one.
    """

    prompts: tuple[str, ...]
    class_prompt: str
    images: Tensor
    kept: Source | None
    name: str = ""

    @classmethod
    def all(cls, data: DataSet) -> list[Personal]:
        """What a data set knows of subjects; none if it is about none."""
        parts = getattr(data, "sets", {"": data})
        found = [cls.of(data, part) for part in parts.values() if isinstance(part, Subject)]
        return [
            one if number == 0 else replace(one, name=f"{number + 1}/")
            for number, one in enumerate(one for one in found if one is not None)
        ]

    @classmethod
    def of(cls, data: DataSet, subject: Subject) -> Personal | None:
        """What is known of one; None if its class is not."""
        if subject.class_caption is None:
            return None
        prompts = tuple(text for text in subject.prompts if subject.train.caption in text)
        images = subject.train.images(range(len(subject.train)))
        return cls(prompts, subject.class_caption, images, class_source(data, subject))

    def measure(
        self,
        generate: TextToImage,
        features: FeatureExtractor | None,
        plan: EvaluationPlan,
        *,
        first_row: int,
    ) -> Summary:
        """The metrics of features; none without an extractor, or for a plan that draws fewer than two captions.

        Args:
            first_row: of the noise; one prompt after the other, subject before class.
        """
        summary = Summary(plan.seed, getattr(features, "name", ""))
        count = plan.caption_prompts
        if features is None or count < 2:
            return summary
        asked = [self.prompts[row % len(self.prompts)] for row in range(count)]
        texts = [*asked, *[self.class_prompt] * count]
        rows = range(first_row, first_row + len(texts))
        drawn = unit(features, generate(texts, seed=plan.seed, rows=rows))
        own, others = drawn[:count], drawn[count:]
        real = unit(features, self.images)
        summary.add_values(f"personal/{self.name}similarity", (own @ real.T).mean(1), better=True)
        summary.add_values(f"personal/{self.name}class_similarity", (others @ real.T).mean(1), better=False)
        apart = 1 - (others @ others.T).fill_diagonal_(0).sum(1) / (count - 1)
        summary.add_values(f"personal/{self.name}diversity", apart, better=True)
        return summary


def class_source(data: DataSet, subject: Subject) -> Source | None:
    """Images of the class under its prompt: of the synthetic data set, or those that the model drew as it started."""
    assert subject.class_caption is not None
    if subject.world is not None:
        others = subject.world.SceneSource("class", "val", size=256, resolution=subject.train.resolution)
        return Retold(others, subject.class_caption)
    kept = [part for part in getattr(data, "sets", {}).values() if isinstance(part, ClassImages)]
    return next((part.train for part in kept if part.caption == subject.class_caption), None)


def unit(features: FeatureExtractor, images: Tensor) -> Tensor:
    """Features of images, of length 1, (n, d) float64 on the CPU."""
    parts = [features.images(part).double().cpu() for part in images.split(64)]
    return F.normalize(torch.cat(parts), dim=1)
