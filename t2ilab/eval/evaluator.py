"""The one implementation of evaluation: during training, at its end, and offline.

An Evaluator holds questions (prompts, reference images, held-out grid) and no state of a model. It asks a
`sample_fn` for images by global row number, so the noise of an image is a function of (seed, prompt, copy)
and neither the batch size, the number of processes, nor the moment of the call changes the result.

    evaluator = Evaluator(prompts, reference, features, judge=scenes, samples_per_prompt=4, seed=0)
    evaluation = evaluator(sample_fn, loss_fn)

Rows: the suites come in their given order, `captions` (the reference's) last; inside a suite the row of
copy c of prompt p is offset + p * copies + c.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.alignment import FeatureExtractor, Judge, Prompt, clip_scores
from t2ilab.eval.gallery import Gallery
from t2ilab.eval.heldout import HeldOut, LossFn
from t2ilab.eval.personal import Verdict
from t2ilab.eval.probes import Probe
from t2ilab.eval.result import Evaluation
from t2ilab.eval.summary import Reading, Summary

if TYPE_CHECKING:
    from t2ilab.data.scenes.judge import Judgement

SampleFn = Callable[[list[str], Tensor], Tensor]
"""(texts of n images, their global rows (n,) int64) -> uint8 images (n, 3, h, w)"""

RewardFn = Callable[[Tensor, Sequence[str]], Tensor]
"""(float images (n, 3, h, w) in [0, 1], their prompts) -> scores (n,), more is better"""

_CAPTIONS = "captions"


@dataclass(frozen=True)
class Text:
    """A prompt that nobody can judge: the caption of an image that a user brought."""

    text: str
    task: str = "caption"

    def passed(self, judgement: Judgement) -> bool:
        """Never asked."""
        raise TypeError("a plain caption has no rule to judge an image by")


@dataclass(frozen=True)
class Reference:
    """Images of the validation split.

    Attributes:
        images: uint8 (m, 3, h, w).
        captions: one per image; images of these texts are compared with `images`. Without captions the
            images of the first suite are, which then also differ by what they show.
    """

    images: Tensor
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"reference images must be uint8 (m, 3, h, w), got {_shape(self.images)}")
        if self.captions and len(self.captions) != len(self.images):
            raise ValueError(
                f"{len(self.images)} reference images need as many captions, got {len(self.captions)}"
            )


@dataclass
class Collected:
    """One process' share of an evaluation; plain tensors and arrays, so it can be sent to another process."""

    readings: dict[str, Reading]
    gallery: Gallery
    losses: Tensor | None = None


@dataclass
class Evaluator:
    """Asks for images and measures them; see the module docstring.

    Attributes:
        prompts: suites by name ({"judge": [...], "compose": [...]}); a plain list is the suite `judge`.
        reference: images for the distribution metrics, or None.
        features: extractor for distribution, CLIP score and diversity, or None.
        judge: reads images (the module t2ilab.data.scenes), or None where there is no known truth.
        heldout: the grid of the held-out loss, or None.
        samples_per_prompt: copies of each prompt in the suites; the reference's captions are drawn once, or
            as often as the suites when there is no suite.
        seed: of the bootstrap; recorded as the seed of the noise, which `sample_fn` makes.
        batch_size: images asked for at a time (rounded to whole prompts).
        keep: examples per task for the report: (best, worst).
        probes: further numbers of the images of the first suite, by name; the keys of metrics.
        rewards: score images for their prompts, by name; the metrics are `reward/<name>`, of the first suite.
        verdicts: further ones on the judged images of a suite, by its name and the key of the metric.
    """

    prompts: Mapping[str, Sequence[Prompt]] | Sequence[Prompt]
    reference: Reference | None = None
    features: FeatureExtractor | None = None
    judge: Judge | None = None
    heldout: HeldOut | None = None
    samples_per_prompt: int = 4
    seed: int = 0
    batch_size: int = 64
    keep: tuple[int, int] = (1, 2)
    probes: Mapping[str, Probe] = field(default_factory=dict)
    rewards: Mapping[str, RewardFn] = field(default_factory=dict)
    verdicts: Mapping[str, Mapping[str, Verdict]] = field(default_factory=dict)
    suites: dict[str, list[Prompt]] = field(init=False)
    _reference_features: Tensor | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 1 or self.batch_size < 1:
            raise ValueError(
                "eval.samples_per_prompt and eval.batch_size must be at least 1, "
                f"got {self.samples_per_prompt} and {self.batch_size}"
            )
        given = self.prompts if isinstance(self.prompts, Mapping) else {"judge": self.prompts}
        self.suites = {name: list(prompts) for name, prompts in given.items() if len(prompts)}
        if _CAPTIONS in self.suites:
            raise ValueError(f"the name {_CAPTIONS!r} is taken by the reference's captions: rename the suite")
        if self.reference is not None and self.reference.captions and self.features is not None:
            self.suites[_CAPTIONS] = [Text(caption) for caption in self.reference.captions]
        if not self.suites and self.heldout is None:
            raise ValueError(
                "nothing to evaluate: give prompts, a reference with captions and features, or heldout"
            )

    def __call__(
        self, sample_fn: SampleFn | None, loss_fn: LossFn | None = None, meta: Mapping[str, Any] | None = None
    ) -> Evaluation:
        """Measures one model in this process. `meta` is added to what the evaluation says of itself."""
        return self.summarise([self.collect(sample_fn, loss_fn)], meta)

    @property
    def rows(self) -> int:
        """Number of images that one evaluation draws."""
        return sum(len(prompts) * self.copies(name) for name, prompts in self.suites.items())

    def copies(self, suite: str) -> int:
        """Images per prompt of a suite."""
        return 1 if suite == _CAPTIONS and len(self.suites) > 1 else self.samples_per_prompt

    def offset(self, suite: str) -> int:
        """Global row of the first image of a suite."""
        names = list(self.suites)
        return sum(len(self.suites[name]) * self.copies(name) for name in names[: names.index(suite)])

    @torch.no_grad()
    def collect(
        self, sample_fn: SampleFn | None, loss_fn: LossFn | None = None, *, rank: int = 0, world: int = 1
    ) -> Collected:
        """Draws and reads the prompts rank, rank + world, ... of every suite; rank 0 also the held-out loss.

        Send the parts of all ranks to one process and give them to `summarise`.
        """
        gallery = Gallery(*self.keep)
        readings = {}
        if sample_fn is not None:
            for name in self.suites:
                numbers = torch.arange(rank, len(self.suites[name]), world)
                if len(numbers):
                    readings[name] = self._read_suite(name, numbers, sample_fn, gallery)
        losses = None
        if self.heldout is not None and loss_fn is not None and rank == 0:
            losses = self.heldout(loss_fn)
        return Collected(readings, gallery, losses)

    def summarise(self, parts: Sequence[Collected], meta: Mapping[str, Any] | None = None) -> Evaluation:
        """Metrics of all parts together."""
        summary, gallery, readings = Summary(self.seed, self.seen_by), Gallery(*self.keep), {}
        for name, prompts in self.suites.items():
            own = [part.readings[name] for part in parts if name in part.readings]
            if own:
                readings[name] = Reading.join(own)
                summary.add_judge(name, prompts, readings[name], self.copies(name))
        if readings:
            first = next(iter(readings))
            if self.reference is not None and self.features is not None:
                drawn = readings.get(_CAPTIONS, readings[first])
                summary.add_distribution(self._reference(), drawn, paired=_CAPTIONS in readings)
            summary.add_alignment(readings[first], self.copies(first))
            summary.add_probes(readings[first], self.copies(first))
        for name in readings.keys() & self.verdicts.keys():
            summary.add_verdicts(readings[name], self.verdicts[name], self.copies(name))
        for part in parts:
            gallery.merge(part.gallery)
            if part.losses is not None and self.heldout is not None:
                summary.add_loss(part.losses, self.heldout)
        if readings:
            summary.add_close_calls(readings[first], self.copies(first))
        meta = {**self.describe(), **(meta or {})}
        if readings and (failures := self._failures(first, readings[first])):
            meta["failures"] = failures
        return Evaluation(summary.metrics, meta, summary.outcomes, gallery.examples(), summary.strata)

    @property
    def seen_by(self) -> str:
        """The name of the network behind distances and CLIP score; empty for none."""
        return "" if self.features is None else getattr(self.features, "name", type(self.features).__name__)

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on, as far as known here; the caller adds sampler, guidance and weights."""
        texts = {name: [(p.text, p.task) for p in prompts] for name, prompts in self.suites.items()}
        return {
            "seed": self.seed,
            "samples_per_prompt": self.samples_per_prompt,
            "prompts": {name: len(prompts) for name, prompts in self.suites.items()},
            "prompts_digest": _digest(repr(texts).encode()),
            "reference": None if self.reference is None else len(self.reference.images),
            "reference_digest": None
            if self.reference is None
            else _digest(self.reference.images.cpu().numpy().tobytes()),
            "features": self.seen_by or None,
            "features_digest": _text(getattr(self.features, "digest", None)),
            "heldout": None if self.heldout is None else asdict(self.heldout),
            "versions": _versions(),
        }

    def _failures(self, suite: str, reading: Reading) -> dict[str, dict[str, int]]:
        """How many images of each task fail in which way, the most frequent first."""
        if reading.failure is None:
            return {}
        counts: dict[str, Counter[str]] = {}
        for number, kind in zip(reading.prompt, reading.failure, strict=True):
            own = counts.setdefault(self.suites[suite][int(number)].task, Counter())
            own.update([str(kind)] if kind else [])
        return {task: dict(own.most_common()) for task, own in counts.items()}

    def _read_suite(self, name: str, numbers: Tensor, sample_fn: SampleFn, gallery: Gallery) -> Reading:
        copies, offset, prompts = self.copies(name), self.offset(name), self.suites[name]
        parts = []
        for chunk in numbers.split(max(1, self.batch_size // copies)):
            rows = (offset + chunk[:, None] * copies + torch.arange(copies)).flatten()
            asked = [prompts[int(p)] for p in chunk.repeat_interleave(copies)]
            images = sample_fn([prompt.text for prompt in asked], rows)
            _check_images(images, len(rows))
            reading = Reading(chunk.repeat_interleave(copies).numpy())
            self._read_features(reading, asked, images)
            judged = None
            if self.judge is not None and name != _CAPTIONS:
                judged = list(self.judge.judge_batch(images))
                reading.passed = np.array(
                    [p.passed(j) for p, j in zip(asked, judged, strict=True)], dtype=bool
                )
                kind = getattr(self.judge, "failure", None)
                if kind is not None:
                    found = zip(asked, judged, reading.passed, strict=True)
                    reading.failure = np.array(["" if right else kind(p, j) for p, j, right in found])
                reading.close = np.array([getattr(j, "close", False) for j in judged], dtype=bool)
                reading.verdicts = {
                    key: np.array([one.holds(p, j) for p, j in zip(asked, judged, strict=True)], dtype=bool)
                    for key, one in self.verdicts.get(name, {}).items()
                }
                gallery.offer(name, asked, images, judged, reading, copies=copies)
            if name == next(iter(self.suites)):
                probed = {key: probe(images, judged) for key, probe in self.probes.items()}
                # a probe of the judge says nothing about captions, which have none
                reading.probes = {key: one for key, one in probed.items() if len(one)}
                texts = [prompt.text for prompt in asked]
                reading.probes |= {
                    f"reward/{key}": reward(images.float() / 255, texts).cpu().numpy()
                    for key, reward in self.rewards.items()
                }
            parts.append(reading)
        return Reading.join(parts)

    def _read_features(self, reading: Reading, asked: list[Prompt], images: Tensor) -> None:
        if self.features is None:
            return
        reading.features = self.features.images(images).float().cpu()
        texts = list(dict.fromkeys(prompt.text for prompt in asked))
        by_text = dict(zip(texts, self.features.texts(texts).float().cpu(), strict=True))
        reading.alignment = clip_scores(
            reading.features, torch.stack([by_text[p.text] for p in asked])
        ).numpy()

    def _reference(self) -> Tensor:
        """Features of the reference, computed once: they depend on nothing that a call could change."""
        assert self.reference is not None and self.features is not None
        if self._reference_features is None:
            batches = self.reference.images.split(self.batch_size)
            self._reference_features = torch.cat(
                [self.features.images(batch).float().cpu() for batch in batches]
            )
        return self._reference_features


def _check_images(images: Tensor, count: int) -> None:
    wanted = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[:2] == (count, 3)
    if not wanted:
        raise ValueError(f"sample_fn must return uint8 images ({count}, 3, h, w), got {_shape(images)}")


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _text(value: Any) -> str | None:
    value = value() if callable(value) else value
    return None if value is None else str(value)


def _versions() -> dict[str, str]:
    import t2ilab

    return {
        "t2ilab": t2ilab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
