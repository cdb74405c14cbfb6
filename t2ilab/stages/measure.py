"""What is measured of a text-to-image model, during training, at its end and offline: one implementation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from t2ilab.eval.evaluator import Reference
from t2ilab.eval.heldout import output_loss
from t2ilab.eval.nfe import Drawn, NFEPoint, nfe_curve
from t2ilab.eval.plan import EvaluationPlan
from t2ilab.eval.result import Evaluation
from t2ilab.generate import TextToImage
from t2ilab.manifest import folder_digest
from t2ilab.sampling.ode import Heun
from t2ilab.stages.reconstruction import Reconstruction
from t2ilab.stages.rows import pictures_at_once, to_signed


class Measure:
    """The evaluation plan of `eval=`, with the pictures, prompts and networks it needs.

    Args:
        plan: the numbers.
        data: validation pictures and, where it exists, the known truth.
        device: where features are computed.
        reconstruction: what the autoencoder keeps of the images, which becomes a metric; None leaves it out.

    Attributes:
        caution: what to know before the numbers are believed; empty for nothing.
    """

    def __init__(
        self,
        plan: EvaluationPlan,
        data: Any,
        device: torch.device,
        *,
        reconstruction: Reconstruction | None = None,
    ) -> None:
        self.plan, self.data, self.reconstruction = plan, data, reconstruction
        scorer = plan.scorer(device=device) if plan.scorer else None
        if scorer is not None:
            scorer.digest = folder_digest(scorer.folder)
        self.caution = "" if data.world or not scorer else getattr(scorer, "caution", "")
        count = min(max(plan.reference_images, plan.caption_prompts), len(data.val))
        rows = range(count)
        captions = tuple(data.val.shown(row) for row in rows)
        reference = Reference(data.val.images(rows), captions) if count else None
        self.evaluator = plan.evaluator(
            world=data.world,
            reference=reference,
            features=scorer,
            heldout_size=len(data.val),
        )

    def __call__(self, generate: TextToImage, meta: dict[str, Any] | None = None) -> Evaluation:
        """All metrics of the plan; `meta` is what the evaluation shall say of the model."""
        generate = generate.with_(batch_size=self.plan.batch_size)

        def sample(prompts: list[str], rows: Tensor) -> Tensor:
            return generate(prompts, seed=self.plan.seed, rows=rows.tolist())

        denoiser = generate.denoiser
        predicts = f"{type(denoiser.prediction).__name__} on {type(denoiser.path).__name__}"
        evaluation = self.evaluator(sample, self._loss(generate), {"predicts": predicts} | (meta or {}))
        if self.reconstruction is not None:
            evaluation.metrics["reconstruction/psnr"] = self.reconstruction.metric()
        return evaluation

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
            exact = Heun(with_steps(generate.sampler, plan.nfe_reference_steps).grid)
            reference = _draw(generate, texts, plan.seed, sampler=exact).latents

        def draw(steps: int) -> Drawn:
            return _draw(generate, texts, plan.seed, sampler=with_steps(generate.sampler, steps))

        steps = [count for count in plan.nfe_steps if count > generate.guidance.still_steps]
        return nfe_curve(draw, steps, prompts=prompts, judge=world, reference=reference, seed=plan.seed)

    def _loss(self, generate: TextToImage) -> Any:
        count = min(self.plan.heldout_images, len(self.data.val))
        if count < 2:
            return None
        device = generate.device
        with torch.no_grad():
            pictures = self.data.val.images(range(count))
            parts = pictures.split(min(128, pictures_at_once(pictures[0, 0].numel())))
            signed = (to_signed(part.to(device)) for part in parts)
            latents = torch.cat([generate.autoencoder.encode(part).float() for part in signed])
            condition = generate.conditioner([self.data.val.shown(row) for row in range(count)])
        return output_loss(generate.denoiser, latents, condition.to(device))


def with_steps(sampler: Any, steps: int) -> Any:
    """The same sampler on a grid of another number of steps."""
    import copy

    other = copy.deepcopy(sampler)
    other.grid.steps = steps
    return other


def _draw(generate: TextToImage, texts: list[str], seed: int, *, sampler: Any) -> Drawn:
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
