"""What is measured of a text-to-image model, during training, at its end and offline: one implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from t2ilab.callbacks.progress import ticker
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.types import Condition
from t2ilab.data.sets import DataSet, Folder
from t2ilab.data.source import Source
from t2ilab.eval.evaluator import Reference, RewardFn
from t2ilab.eval.grid import to_arrays
from t2ilab.eval.heldout import HeldOut, output_drift, output_loss
from t2ilab.eval.nfe import Drawn, NFEPoint, nfe_curve
from t2ilab.eval.plan import NO_REWARDS, EvaluationPlan
from t2ilab.eval.result import Evaluation, Metric
from t2ilab.eval.summary import Summary
from t2ilab.export.manifest import folder_digest
from t2ilab.measuring.drawn import judged, share
from t2ilab.measuring.personal import Personal
from t2ilab.pipeline import TextToImage
from t2ilab.rewards.base import Reward
from t2ilab.sampling.base import Sampler
from t2ilab.sampling.ode import Heun
from t2ilab.text.base import Conditioner
from t2ilab.training.latent_rows import images_at_once, to_signed
from t2ilab.training.reconstruction import Reconstruction

REAL_IMAGES = 64  # held-out images that stand for the truth on the scale of prompt accuracy


@dataclass(frozen=True)
class Since:
    """The model that a stage started from.

    Attributes:
        denoiser: makes it, with the weights that the stage began with.
        data: what it was trained on, or None if that is not on this machine.
        conditioner: makes its text encoder, where that may train; None where it does not.
    """

    denoiser: Callable[[], Denoiser]
    data: DataSet | None
    conditioner: Callable[[], Conditioner] | None = None

    @property
    def suites(self) -> tuple[str, ...]:
        return () if self.data is None else tuple(self.data.suites)


class Measure:
    """The evaluation plan of `eval=`, with the images, prompts and networks it needs.

    Args:
        plan: the numbers.
        data: validation images and, where it exists, the known truth.
        device: where features are computed.
        reconstruction: what the autoencoder keeps of the images, which becomes a metric; None leaves it out.
        since: the model that a stage starts from: side effects are measured too, and what is forgotten of its data.
        rewards: score the images too, beside those of the plan, by name.

    Attributes:
        caution: what to know before the numbers are believed; empty for nothing.

    Raises:
        ValueError: nothing would be measured, or a scorer's or reward's files are none.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        data: DataSet,
        device: torch.device,
        *,
        reconstruction: Reconstruction | None = None,
        since: Since | None = None,
        rewards: Mapping[str, nn.Module] = NO_REWARDS,
    ) -> None:
        plan.check(judged=data.world is not None, images=len(data.val))
        self.plan, self.data, self.reconstruction, self.since = plan, data, reconstruction, since
        self.personal = Personal.all(data)
        scorer = plan.scorer(device=device) if plan.scorer else None
        if scorer is not None:
            scorer.digest = folder_digest(scorer.folder)
        self.caution = "" if data.world or not scorer else getattr(scorer, "caution", "")
        count = min(max(plan.reference_images, plan.caption_prompts), len(data.val))
        rows = range(count)
        self.rewards = {name: on_device(one, device) for name, one in {**plan.rewards, **rewards}.items()}
        captions = tuple(data.val.shown(row) for row in rows)
        reference = Reference(data.val.images(rows), captions) if count else None
        self.evaluator = plan.evaluator(
            world=data.world,
            reference=reference,
            features=scorer,
            heldout_size=len(data.val),
            further=list(dict.fromkeys([*data.suites, *(since.suites if since else ())])),
            probes=since is not None,
            rewards={name: scored(one, device) for name, one in self.rewards.items()},
        )
        asked = [prompt.text for prompt in next(iter(self.evaluator.suites.values()), ())]
        for one in self.rewards.values():
            if isinstance(one, Reward):
                one.check(asked)

    @cached_property
    def real_images(self) -> Metric | None:
        """Prompt accuracy of held-out images with their own captions: what the judge says of the truth."""
        rows = range(min(REAL_IMAGES, len(self.data.val)))
        if not self.data.world or not rows:
            return None
        captions = [self.data.val.shown(row) for row in rows]
        return share(judged(to_arrays(self.data.val.images(rows)), captions), "held-out images")

    def __call__(self, generate: TextToImage, meta: dict[str, Any] | None = None) -> Evaluation:
        """All metrics of the plan; `meta` is what the evaluation shall say of the model."""
        generate = generate.with_(batch_size=self.plan.batch_size)

        tick, drawn = ticker("images drawn to measure", ends=False), 0

        def sample(prompts: list[str], rows: Tensor) -> Tensor:
            nonlocal drawn
            images = generate(prompts, seed=self.plan.seed, rows=rows.tolist())
            drawn += len(images)
            tick(drawn, self.evaluator.rows)
            return images

        denoiser = generate.denoiser
        predicts = f"{type(denoiser.prediction).__name__} on {type(denoiser.path).__name__}"
        evaluation = self.evaluator(sample, self._loss(generate), {"predicts": predicts} | (meta or {}))
        first = self.evaluator.rows
        for subject in self.personal:
            evaluation = added(evaluation, self._personal(generate, subject, first))
            first += 2 * self.plan.caption_prompts
        if isinstance(self.data, Folder) and evaluation.get("loss/heldout"):
            evaluation = added(evaluation, self._on_training_images(generate, self.data.folder))
        if self.reconstruction is not None:
            evaluation.metrics["reconstruction/psnr"] = self.reconstruction.metric()
        return evaluation if self.since is None else self._side_effects(evaluation, generate, self.since)

    def _side_effects(self, evaluation: Evaluation, generate: TextToImage, since: Since) -> Evaluation:
        """With the loss on the data of the model that the stage started from, and how far it has moved from it."""
        summary, grid = Summary(self.plan.seed), self.evaluator.heldout
        if since.data is not None and min(self.plan.heldout_images, len(since.data.val)) > 1:
            old = self._heldout(generate, since.data.val)
            size = HeldOut(len(old[0]), self.plan.heldout_strata, seed=self.plan.seed)
            summary.add_grid("loss/heldout_old", size(output_loss(generate.denoiser, *old)))
        if grid is not None:
            first = since.denoiser().to(generate.device).eval()
            latents, condition = self._heldout(generate, self.data.val)
            told = None if since.conditioner is None else self._texts(since.conditioner(), self.data.val)
            told = None if told is None else told.to(generate.device)
            moved = output_drift(generate.denoiser, first, latents, condition, told)
            summary.add_grid("drift", grid(moved), better=None)
        return added(evaluation, summary)

    def _on_training_images(self, generate: TextToImage, source: Source) -> Summary:
        """The loss on images that were trained on, by the rule of the held-out loss: the gap is learned by heart."""
        latents, condition = self._heldout(generate, source)
        summary, grid = (
            Summary(self.plan.seed),
            HeldOut(len(latents), self.plan.heldout_strata, seed=self.plan.seed),
        )
        summary.add_grid("loss/train", grid(output_loss(generate.denoiser, latents, condition)))
        return summary

    def _personal(self, generate: TextToImage, personal: Personal, first_row: int) -> Summary:
        """What a personalisation does to the features of images, and to the loss on the class."""
        features = self.evaluator.features
        summary = personal.measure(generate, features, self.plan, first_row=first_row)
        kept = personal.kept
        if kept is not None and min(self.plan.heldout_images, len(kept)) > 1:
            latents, condition = self._heldout(generate, kept)
            grid = HeldOut(len(latents), self.plan.heldout_strata, seed=self.plan.seed)
            key = f"loss/heldout_class{personal.name.rstrip('/')}"
            summary.add_grid(key, grid(output_loss(generate.denoiser, latents, condition)))
        return summary

    def curve(self, generate: TextToImage) -> list[NFEPoint]:
        """Quality and, without noise on the way, the error against network evaluations; same prompts and noise."""
        plan = self.plan
        if not plan.nfe_steps:
            return []
        generate = generate.with_(batch_size=plan.batch_size)
        world = self.data.world
        prompts = list(world.prompts("test", plan.nfe_per_task, plan.seed)) if world else None
        texts = [prompt.text for prompt in prompts] if prompts else self.data.preview_prompts()
        reference = None  # other noise leads elsewhere, at any number of steps
        if not generate.sampler.is_stochastic:
            exact = Heun(generate.sampler.at(plan.nfe_reference_steps).grid)
            reference = draw_all(generate, texts, plan.seed, sampler=exact).latents

        def draw(steps: int) -> Drawn:
            return draw_all(generate, texts, plan.seed, sampler=generate.sampler.at(steps))

        steps = [count for count in plan.nfe_steps if count > generate.guidance.still_steps]
        return nfe_curve(draw, steps, prompts=prompts, judge=world, reference=reference, seed=plan.seed)

    def _loss(self, generate: TextToImage) -> Any:
        if min(self.plan.heldout_images, len(self.data.val)) < 2:
            return None
        return output_loss(generate.denoiser, *self._heldout(generate, self.data.val))

    @torch.no_grad()
    def _heldout(self, generate: TextToImage, source: Source) -> tuple[Tensor, Condition]:
        """Latents and texts of as many of these images as are held out to measure."""
        count, device = min(self.plan.heldout_images, len(source)), generate.device
        images = source.images(range(count))
        parts = images.split(min(128, images_at_once(images[0, 0].numel())))
        signed = (to_signed(part.to(device)) for part in parts)
        latents = torch.cat([generate.autoencoder.encode(part).float() for part in signed])
        return latents, self._texts(generate.conditioner, source).to(device)

    def _texts(self, conditioner: Conditioner, source: Source) -> Condition:
        """The texts of held-out images."""
        count = min(self.plan.heldout_images, len(source))
        condition: Condition = conditioner([source.shown(row) for row in range(count)])
        return condition


def added(evaluation: Evaluation, summary: Summary) -> Evaluation:
    """The evaluation with further metrics and their outcomes."""
    return replace(
        evaluation,
        metrics=evaluation.metrics | summary.metrics,
        outcomes=evaluation.outcomes | summary.outcomes,
    )


def on_device(reward: nn.Module, device: torch.device) -> nn.Module:
    """The reward on a device, frozen."""
    return reward.to(device).eval().requires_grad_(False)


def scored(reward: nn.Module, device: torch.device) -> RewardFn:
    """By a reward on a device, for images of any."""
    return lambda images, prompts: reward(images.to(device), prompts)


def draw_all(generate: TextToImage, texts: list[str], seed: int, *, sampler: Sampler) -> Drawn:
    """One image of each text, from noise that is a function of (seed, its number)."""
    maker = generate.with_(sampler=sampler)
    parts, nfe = [], 0
    for start in range(0, len(texts), maker.batch_size):
        rows = list(range(start, min(start + maker.batch_size, len(texts))))
        trajectory = maker.trajectory([texts[row] for row in rows], seed=seed, rows=rows)
        parts.append(trajectory.x)
        nfe = trajectory.nfe
    latents = torch.cat(parts)
    return Drawn(
        latents, torch.cat([maker.decode(part).cpu() for part in latents.split(maker.batch_size)]), nfe
    )
