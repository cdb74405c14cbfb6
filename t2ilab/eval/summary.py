"""From what was read off the images to metrics and outcomes; no model and no image in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.alignment import Prompt, judge_scores
from t2ilab.eval.distribution import Moments, frechet_interval, kernel_interval
from t2ilab.eval.diversity import pairwise_distances
from t2ilab.eval.heldout import HeldOut, loss_bins
from t2ilab.eval.intervals import Interval, bootstrap
from t2ilab.eval.personal import Verdict
from t2ilab.eval.result import Metric, Outcomes, Stratum


@dataclass
class Reading:
    """What was read off the images of (a share of) one suite, rows in ascending order.

    Attributes:
        prompt: number of the prompt of each image, (n,).
        passed: verdict on each image, (n,), or None without a judge.
        features: (n, d), or None without an extractor.
        alignment: CLIP score of each image, (n,), or None.
        failure: in what way each image fails, empty where it passed, (n,), or None.
        close: whether each verdict hangs on a threshold of the judge, (n,), or None.
        probes: further numbers of each image by name, (n,).
        verdicts: further verdicts on each image by name, (n,).
    """

    prompt: np.ndarray
    passed: np.ndarray | None = None
    features: Tensor | None = None
    alignment: np.ndarray | None = None
    close: np.ndarray | None = None
    failure: np.ndarray | None = None
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    verdicts: dict[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def join(parts: Sequence[Reading]) -> Reading:
        """One reading of several; the copies of a prompt come from one part and stay in order."""
        prompt = np.concatenate([part.prompt for part in parts])
        order = np.argsort(prompt, kind="stable")

        def joined(name: str) -> np.ndarray | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else np.concatenate(values)[order]

        def by_name(kind: str) -> dict[str, np.ndarray]:
            values = [getattr(part, kind) for part in parts]
            return {key: np.concatenate([value[key] for value in values])[order] for key in values[0]}

        features = [part.features for part in parts if part.features is not None]
        return Reading(
            prompt[order],
            passed=joined("passed"),
            features=torch.cat(features)[order] if features else None,
            alignment=joined("alignment"),
            close=joined("close"),
            failure=joined("failure"),
            probes=by_name("probes"),
            verdicts=by_name("verdicts"),
        )


@dataclass
class Summary:
    """Metrics and outcomes as they are found.

    Attributes:
        seed: of the bootstrap.
        seen_by: the network behind the features, as a name for the reader.
    """

    seed: int
    seen_by: str = ""
    metrics: dict[str, Metric] = field(default_factory=dict)
    strata: tuple[Stratum, ...] = ()
    outcomes: dict[str, Outcomes] = field(default_factory=dict)

    def add_judge(self, suite: str, prompts: Sequence[Prompt], reading: Reading, copies: int) -> None:
        """`suite/overall` and `suite/<task>`: the share of images that passed."""
        if reading.passed is None:
            return
        tasks = [prompt.task for prompt in prompts]
        scores = reading.passed.reshape(-1, copies).mean(1)
        for key, interval in judge_scores(scores, tasks, seed=self.seed).items():
            note = f"; {copies} images per prompt" if copies > 1 else ""
            self.metrics[f"{suite}/{key}"] = metric_of(interval, note, better=True, unit="share")
        self.outcomes[suite] = Outcomes(scores, tuple(tasks), tuple(prompt.text for prompt in prompts))

    def add_close_calls(self, reading: Reading, copies: int) -> None:
        """`close_calls`: the share of images whose verdict hangs on a threshold of the judge."""
        if reading.close is not None:
            interval = bootstrap(reading.close.reshape(-1, copies).mean(1), seed=self.seed)
            note = "; images so near a threshold of the judge that its verdict could be the other one"
            self.metrics["close_calls"] = metric_of(interval, note, better=None, unit="share")

    def add_distribution(self, real: Tensor, reading: Reading, *, paired: bool) -> None:
        """`fd_clip` and `kid_clip` against the features of real images, (m, d), or of their captions (paired)."""
        if reading.features is None or min(len(real), len(reading.features)) < 2:
            return
        blocks = torch.from_numpy(reading.prompt)
        note = f"; {len(real)} reference images; {self.seen_by}"
        frechet = frechet_interval(Moments.of(real), reading.features, blocks)
        kernel = kernel_interval(real, reading.features, blocks, paired=paired, seed=self.seed)
        self.metrics["fd_clip"] = metric_of(frechet, f"{note}, biased up at small n", better=False)
        self.metrics["kid_clip"] = metric_of(kernel, note, better=False)

    def add_alignment(self, reading: Reading, copies: int) -> None:
        """`clip_score`, and `diversity` where a prompt was drawn more than once."""
        if reading.features is None or reading.alignment is None:
            return
        found = {"clip_score": reading.alignment.reshape(-1, copies).mean(1)}
        if copies > 1:
            found["diversity"] = pairwise_distances(reading.features.unflatten(0, (-1, copies))).numpy()
        self._add_means(found, f"; {self.seen_by}", better=True, what="prompts")

    def add_probes(self, reading: Reading, copies: int) -> None:
        """The probes under their own names; which end is better is known of the style and of rewards alone."""
        for key, values in reading.probes.items():
            found = {key: values.reshape(-1, copies).mean(1)}
            self._add_means(
                found,
                "",
                better=True if key == "style" or key.startswith("reward/") else None,
                what="prompts",
            )

    def add_verdicts(self, reading: Reading, verdicts: Mapping[str, Verdict], copies: int) -> None:
        """The shares of images on which further verdicts hold."""
        for key, values in reading.verdicts.items():
            shares = values.reshape(-1, copies).mean(1)
            interval = bootstrap(shares, seed=self.seed)
            self.metrics[key] = metric_of(interval, "", better=verdicts[key].better, unit="share")
            self.outcomes[key] = Outcomes(shares)

    def add_values(self, key: str, values: Tensor, *, better: bool | None) -> None:
        """One number of each image, as a metric."""
        note = f"; {self.seen_by}" if self.seen_by else ""
        self._add_means({key: values.double().numpy()}, note, better=better, what="images")

    def add_grid(self, key: str, losses: Tensor, *, better: bool | None = False) -> None:
        """One more number of each held-out image, the mean over its times, as a metric."""
        values = losses.mean(1).numpy()
        self._add_means({key: values}, "", better=better, what="images")
        if not values.any():  # no share, of which 0 of n would say something
            self.metrics[key] = Metric(0.0, None, None, len(values), "the same network", "", better)

    def add_loss(self, losses: Tensor, grid: HeldOut) -> None:
        """`loss/heldout`, `loss/t...` and the strata from all losses of the grid, (size, strata)."""
        found = {"loss/heldout": losses.mean(1).numpy()}
        found |= {f"loss/{key}": values for key, values in loss_bins(losses, grid.times()).items()}
        self._add_means(found, f"; {grid.strata} timesteps per image", better=False, what="images")
        self.strata = tuple(
            Stratum(low, high, metric_of(bootstrap(values, seed=self.seed, what="images"), "", better=False))
            for (low, high), values in zip(grid.ranges(), losses.T.numpy(), strict=True)
        )

    def _add_means(self, found: dict[str, np.ndarray], note: str, *, better: bool | None, what: str) -> None:
        for key, values in found.items():
            self.metrics[key] = metric_of(bootstrap(values, seed=self.seed, what=what), note, better=better)
            self.outcomes[key] = Outcomes(values)


def metric_of(interval: Interval, note: str, *, better: bool | None, unit: str = "") -> Metric:
    """The metric of an interval; `note` is added to how it was made."""
    low, high = interval.ends
    return Metric(interval.value, low, high, interval.n, interval.method + note, unit, better)
