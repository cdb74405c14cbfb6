"""The one implementation of evaluation: during training, at its end, and offline.

An Evaluator holds questions (prompts, reference pictures, held-out grid) and no state of a model. It asks a
`sample_fn` for pictures by global row number, so the noise of a picture is a function of (seed, prompt, copy) and
neither the batch size, the number of processes, nor the moment of the call changes the result.

    evaluator = Evaluator(prompts, reference, features, judge=scenes, samples_per_prompt=4, seed=0)
    evaluation = evaluator(sample_fn, loss_fn)

Rows: the suites come in their given order, `captions` (the reference's) last; inside a suite the row of copy c of
prompt p is offset + p * copies + c.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.alignment import FeatureExtractor, Judge, Prompt, clip_scores, judge_scores
from t2ilab.eval.distribution import Moments, frechet_interval, kernel_interval
from t2ilab.eval.diversity import pairwise_distances
from t2ilab.eval.gallery import Gallery, describe, thumbnail
from t2ilab.eval.grid import to_arrays
from t2ilab.eval.heldout import HeldOut, LossFn, loss_bins
from t2ilab.eval.intervals import Interval, bootstrap
from t2ilab.eval.result import Evaluation, Example, Metric, Outcomes

SampleFn = Callable[[list[str], Tensor], Tensor]
"""(texts of n pictures, their global rows (n,) int64) -> uint8 images (n, 3, h, w)"""

_CAPTIONS = "captions"


@dataclass(frozen=True)
class Text:
    """A prompt that nobody can judge: the caption of a picture that a user brought."""

    text: str
    task: str = "caption"

    def passed(self, judgement: Any) -> bool:
        """Never asked."""
        raise TypeError("a plain caption has no rule to judge a picture by")


@dataclass(frozen=True)
class Reference:
    """Pictures of the validation split.

    Attributes:
        images: uint8 (m, 3, h, w).
        captions: one per picture; pictures of these texts are compared with `images`. Without captions the pictures
            of the first suite are, which then also differ by what they show.
    """

    images: Tensor
    captions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(f"reference pictures must be uint8 (m, 3, h, w), got {_shape(self.images)}")
        if self.captions and len(self.captions) != len(self.images):
            raise ValueError(
                f"{len(self.images)} reference pictures need as many captions, got {len(self.captions)}"
            )


@dataclass
class Suite:
    """What one process found in its share of a suite, rows in ascending order.

    Attributes:
        prompt: number of the prompt of each picture, (n,).
        passed: verdict on each picture, (n,), or None without a judge.
        features: (n, d), or None without an extractor.
        alignment: CLIP score of each picture, (n,), or None.
    """

    prompt: np.ndarray
    passed: np.ndarray | None
    features: Tensor | None
    alignment: np.ndarray | None


@dataclass
class Collected:
    """One process' share of an evaluation; plain tensors and arrays, so it can be sent to another process."""

    suites: dict[str, Suite]
    gallery: Gallery
    losses: Tensor | None = None


@dataclass
class Evaluator:
    """Asks for pictures and measures them; see the module docstring.

    Attributes:
        prompts: suites by name ({"judge": [...], "compose": [...]}); a plain list is the suite `judge`.
        reference: pictures for the distribution metrics, or None.
        features: extractor for distribution, CLIP score and diversity, or None.
        judge: reads pictures (the module t2ilab.data.scenes), or None where there is no known truth.
        heldout: the grid of the held-out loss, or None.
        samples_per_prompt: copies of each prompt in the suites; the reference's captions are drawn once, or as often
            as the suites when there is no suite.
        seed: of the bootstrap; recorded as the seed of the noise, which `sample_fn` makes.
        batch_size: pictures asked for at a time (rounded to whole prompts).
        keep: examples per task for the report: (best, worst).
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
    suites: dict[str, list[Prompt]] = field(init=False)
    _reference_features: Tensor | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if self.samples_per_prompt < 1 or self.batch_size < 1:
            raise ValueError(
                f"eval.samples_per_prompt and eval.batch_size must be at least 1, got {self.samples_per_prompt} "
                f"and {self.batch_size}"
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
        """Number of pictures that one evaluation draws."""
        return sum(len(prompts) * self.copies(name) for name, prompts in self.suites.items())

    def copies(self, suite: str) -> int:
        """Pictures per prompt of a suite."""
        return 1 if suite == _CAPTIONS and len(self.suites) > 1 else self.samples_per_prompt

    def offset(self, suite: str) -> int:
        """Global row of the first picture of a suite."""
        names = list(self.suites)
        return sum(len(self.suites[name]) * self.copies(name) for name in names[: names.index(suite)])

    @torch.no_grad()
    def collect(
        self, sample_fn: SampleFn | None, loss_fn: LossFn | None = None, *, rank: int = 0, world: int = 1
    ) -> Collected:
        """Draws and reads the prompts rank, rank + world, ... of every suite; rank 0 also does the held-out loss.

        Send the parts of all ranks to one process and give them to `summarise`.
        """
        gallery = Gallery(*self.keep)
        suites = {}
        if sample_fn is not None:
            for name in self.suites:
                numbers = torch.arange(rank, len(self.suites[name]), world)
                if len(numbers):
                    suites[name] = self._collect_suite(name, numbers, sample_fn, gallery)
        losses = None
        if self.heldout is not None and loss_fn is not None and rank == 0:
            losses = self.heldout(loss_fn)
        return Collected(suites, gallery, losses)

    def summarise(self, parts: Sequence[Collected], meta: Mapping[str, Any] | None = None) -> Evaluation:
        """Metrics of all parts together."""
        gallery = Gallery(*self.keep)
        for part in parts:
            gallery.merge(part.gallery)
        metrics: dict[str, Metric] = {}
        outcomes: dict[str, Outcomes] = {}
        suites = {name: _merge([p.suites[name] for p in parts if name in p.suites]) for name in self.suites}
        suites = {name: suite for name, suite in suites.items() if suite is not None}
        for name, suite in suites.items():
            self._add_judge(name, suite, metrics, outcomes)
        if suites:
            self._add_distribution(suites, metrics)
            self._add_alignment(suites, metrics, outcomes)
        for losses in (part.losses for part in parts if part.losses is not None):
            self._add_loss(losses, metrics, outcomes)
        return Evaluation(metrics, {**self.describe(), **(meta or {})}, outcomes, gallery.examples())

    def describe(self) -> dict[str, Any]:
        """What the numbers depend on as far as the evaluator knows; the caller adds sampler, guidance and weights."""
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
            "features": None if self.features is None else type(self.features).__name__,
            "features_digest": _text(getattr(self.features, "digest", None)),
            "heldout": None if self.heldout is None else asdict(self.heldout),
            "versions": _versions(),
        }

    def _collect_suite(self, name: str, numbers: Tensor, sample_fn: SampleFn, gallery: Gallery) -> Suite:
        copies, offset, prompts = self.copies(name), self.offset(name), self.suites[name]
        parts = []
        for chunk in numbers.split(max(1, self.batch_size // copies)):
            rows = (offset + chunk[:, None] * copies + torch.arange(copies)).flatten()
            asked = [prompts[int(p)] for p in chunk.repeat_interleave(copies)]
            images = sample_fn([prompt.text for prompt in asked], rows)
            _check_images(images, len(rows))
            parts.append(self._read(name, chunk.repeat_interleave(copies).numpy(), asked, images, gallery))
        merged = _merge(parts)
        assert merged is not None
        return merged

    def _read(
        self, name: str, numbers: np.ndarray, asked: list[Prompt], images: Tensor, gallery: Gallery
    ) -> Suite:
        """Verdicts, features and scores of one batch of whole prompts."""
        features = alignment = passed = None
        if self.features is not None:
            features = self.features.images(images).float().cpu()
            texts = list(dict.fromkeys(prompt.text for prompt in asked))
            by_text = dict(zip(texts, self.features.texts(texts).float().cpu(), strict=True))
            alignment = clip_scores(features, torch.stack([by_text[p.text] for p in asked])).numpy()
        if self.judge is not None and name != _CAPTIONS:
            judged = list(self.judge.judge_batch(images))
            passed = np.array([p.passed(j) for p, j in zip(asked, judged, strict=True)], dtype=bool)
            self._offer(name, numbers, asked, images, judged, passed, alignment, gallery)
        return Suite(numbers, passed, features, alignment)

    def _offer(
        self,
        name: str,
        numbers: np.ndarray,
        asked: list[Prompt],
        images: Tensor,
        judged: list[Any],
        passed: np.ndarray,
        alignment: np.ndarray | None,
        gallery: Gallery,
    ) -> None:
        copies = self.copies(name)
        pictures = to_arrays(images)
        for start in range(0, len(asked), copies):
            rows = slice(start, start + copies)
            example = Example(
                suite=name,
                task=asked[start].task,
                prompt=asked[start].text,
                pictures=tuple(thumbnail(picture).copy() for picture in pictures[rows]),
                passed=tuple(bool(p) for p in passed[rows]),
                seen=tuple(describe(j) for j in judged[rows]),
                score=float(passed[rows].mean()),
            )
            gallery.add(
                example, 0.0 if alignment is None else float(alignment[rows].mean()), int(numbers[start])
            )

    def _add_judge(
        self, name: str, suite: Suite, metrics: dict[str, Metric], outcomes: dict[str, Outcomes]
    ) -> None:
        if suite.passed is None:
            return
        tasks = [prompt.task for prompt in self.suites[name]]
        scores = suite.passed.reshape(-1, self.copies(name)).mean(1)
        for key, interval in judge_scores(scores, tasks, seed=self.seed).items():
            metrics[f"{name}/{key}"] = _metric(interval, unit="share", better=True)
        outcomes[name] = Outcomes(scores, tuple(tasks), tuple(prompt.text for prompt in self.suites[name]))

    def _add_distribution(self, suites: dict[str, Suite], metrics: dict[str, Metric]) -> None:
        suite = suites.get(_CAPTIONS, next(iter(suites.values())))
        if self.reference is None or self.features is None or suite.features is None:
            return
        real, blocks = self._reference(), torch.from_numpy(suite.prompt)
        if min(len(real), len(suite.features)) < 2:
            return
        note = f"; {len(real)} reference pictures"
        moments = Moments.of(real)
        metrics["fd_clip"] = _metric(
            frechet_interval(moments, suite.features, blocks),
            better=False,
            note=note + ", biased up at small n",
        )
        metrics["kid_clip"] = _metric(
            kernel_interval(real, suite.features, blocks, seed=self.seed), better=False, note=note
        )

    def _add_alignment(
        self, suites: dict[str, Suite], metrics: dict[str, Metric], outcomes: dict[str, Outcomes]
    ) -> None:
        name, suite = next(iter(suites.items()))
        copies = self.copies(name)
        if suite.features is None or suite.alignment is None:
            return
        found = {"clip_score": suite.alignment.reshape(-1, copies).mean(1)}
        if copies > 1:
            found["diversity"] = pairwise_distances(suite.features.unflatten(0, (-1, copies))).numpy()
        for key, values in found.items():
            metrics[key] = _metric(bootstrap(values, seed=self.seed), better=True)
            outcomes[key] = Outcomes(values)

    def _add_loss(self, losses: Tensor, metrics: dict[str, Metric], outcomes: dict[str, Outcomes]) -> None:
        assert self.heldout is not None
        values = {"loss/heldout": losses.mean(1).numpy()}
        values |= {f"loss/{key}": bin_ for key, bin_ in loss_bins(losses, self.heldout.times()).items()}
        for key, value in values.items():
            metrics[key] = _metric(
                bootstrap(value, seed=self.seed),
                better=False,
                note=f"; {self.heldout.strata} times a picture",
            )
            outcomes[key] = Outcomes(value)

    def _reference(self) -> Tensor:
        """Features of the reference, computed once: they depend on nothing that a call could change."""
        assert self.reference is not None and self.features is not None
        if self._reference_features is None:
            batches = self.reference.images.split(self.batch_size)
            self._reference_features = torch.cat(
                [self.features.images(batch).float().cpu() for batch in batches]
            )
        return self._reference_features


def _merge(parts: Sequence[Suite]) -> Suite | None:
    """One suite from several, rows in ascending order of the prompt (copies stay together and in order)."""
    if not parts:
        return None
    prompt = np.concatenate([part.prompt for part in parts])
    order = np.argsort(prompt, kind="stable")

    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        return torch.cat(values)[order] if isinstance(values[0], Tensor) else np.concatenate(values)[order]

    return Suite(prompt[order], joined("passed"), joined("features"), joined("alignment"))


def _metric(interval: Interval, *, unit: str = "", better: bool, note: str = "") -> Metric:
    low, high = (None, None) if "no interval" in interval.method else (interval.low, interval.high)
    return Metric(interval.value, low, high, interval.n, interval.method + note, unit, better)


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
