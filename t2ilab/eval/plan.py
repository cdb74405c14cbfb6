"""How much is measured: the config group `eval`, and how an Evaluator follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from t2ilab.eval.evaluator import Evaluator, Reference, RewardFn, Text
from t2ilab.eval.heldout import HeldOut
from t2ilab.eval.personal import VERDICTS
from t2ilab.eval.probes import ANY, JUDGED

if TYPE_CHECKING:
    from t2ilab.eval.alignment import FeatureExtractor, Prompt

NO_REWARDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class EvaluationPlan:
    """How much, and by which CLIP; the stage brings images, prompts and networks.

    Attributes:
        prompts_per_task: judged prompts for each of the six tasks (synthetic data set only).
        compose_per_task: the same for unseen attribute combinations; 0 leaves them out.
        samples_per_prompt: copies of each prompt.
        reference_images: validation images for fd_clip and kid_clip, each with one image drawn from its
            caption.
        caption_prompts: captions used as prompts where there is no judge (own data).
        heldout_images, heldout_strata: size of the held-out grid; 0 images leave the loss out.
        nfe_steps: step counts of the quality curve; empty leaves it out.
        nfe_per_task: judged prompts per task at each of its points.
        nfe_reference_steps: Heun steps of the reference solution, for samplers without noise.
        seed: of prompts, noise, times and bootstrap; the same for runs that are to be compared.
        batch_size: images drawn at a time; changes nothing but memory.
        scorer: device -> the CLIP behind distances, CLIP score and diversity; None leaves them out.
        other_noise: whether the judged prompts are drawn a second time from other noise, as the suite `other_noise`.
        rewards: that score the images of the first suite, by name.
    """

    prompts_per_task: int
    compose_per_task: int
    samples_per_prompt: int
    reference_images: int
    caption_prompts: int
    heldout_images: int
    heldout_strata: int
    nfe_steps: Sequence[int]
    nfe_per_task: int
    nfe_reference_steps: int
    seed: int = 0
    batch_size: int = 64
    scorer: Callable[..., Any] | None = None
    other_noise: bool = False
    rewards: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "compose_per_task",
            "reference_images",
            "heldout_images",
            "caption_prompts",
            "prompts_per_task",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"eval.{name} must be 0 or more, got {getattr(self, name)}")
        for name in (
            "samples_per_prompt",
            "heldout_strata",
            "batch_size",
            "nfe_per_task",
            "nfe_reference_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"eval.{name} must be at least 1, got {getattr(self, name)}")
        if self.reference_images == 1 or self.heldout_images == 1:
            raise ValueError("eval.reference_images and eval.heldout_images must be 0 or at least 2, got 1")
        if any(steps < 1 for steps in self.nfe_steps):
            raise ValueError(f"eval.nfe_steps must be positive step counts, got {list(self.nfe_steps)}")

    def check(self, *, judged: bool | None, images: int | None = None) -> None:
        """Refuses a plan by which nothing would be measured.

        Args:
            judged: whether the data have prompts and a judge of their own; None if that is not known yet.
            images: held-out ones; None if their number is not known yet.

        Raises:
            ValueError: naming what to raise.
        """
        there = math.inf if images is None else images
        options = [] if judged is False else ["prompts_per_task", "compose_per_task"]
        options += [] if judged else ["caption_prompts"]
        options += ["reference_images"] if self.scorer else []
        options += ["heldout_images"] if there > 1 else []
        if any(getattr(self, name) for name in options):
            return
        raise ValueError(
            f"eval: nothing would be measured: {', '.join(f'eval.{name}=0' for name in options)}; raise one of them, "
            "or choose eval=quick"
        )

    def world_prompts(self, world: Any, further: Sequence[str] = ()) -> dict[str, list[Prompt]]:
        """The judged suites of the synthetic data set (the module t2ilab.data.scenes).

        Args:
            further: splits of its prompts that become suites of their own, such as teddy.
        """
        wanted = {"judge": ("test", self.prompts_per_task), "compose": ("compose", self.compose_per_task)}
        wanted |= {name: (name, self.prompts_per_task) for name in further}
        wanted |= {"other_noise": wanted["judge"]} if self.other_noise else {}  # of other rows
        return {
            name: list(world.prompts(split, per_task, self.seed))
            for name, (split, per_task) in wanted.items()
            if per_task
        }

    def evaluator(
        self,
        *,
        world: Any | None = None,
        reference: Reference | None = None,
        features: FeatureExtractor | None = None,
        heldout_size: int = 0,
        further: Sequence[str] = (),
        probes: bool = False,
        rewards: Mapping[str, RewardFn] = NO_REWARDS,
    ) -> Evaluator:
        """What this plan asks for, as far as the given parts allow it.

        Args:
            world: prompts and judge of the synthetic data set, or None: then the reference's captions are the
                prompts.
            heldout_size: number of held-out latents that the stage can compute a loss on.
            further: as in `world_prompts`.
            probes: whether style, saturation and high frequencies of the images are measured too.
            rewards: beside those of the plan, by name, on the device of the images.
        """
        if world is not None:
            suites: dict[str, list[Prompt]] = self.world_prompts(world, further)
        else:
            captions = () if reference is None else reference.captions[: self.caption_prompts]
            suites = {"prompts": [Text(caption) for caption in dict.fromkeys(captions)]}
        images = min(self.heldout_images, heldout_size)
        heldout = HeldOut(images, self.heldout_strata, seed=self.seed) if images > 1 else None
        return Evaluator(
            suites,
            self._cut(reference),
            features,
            judge=world,
            heldout=heldout,
            samples_per_prompt=self.samples_per_prompt,
            seed=self.seed,
            batch_size=self.batch_size,
            probes=(ANY if world is None else ANY | JUDGED) if probes else {},
            rewards={**self.rewards, **rewards},
            verdicts=VERDICTS if "subject" in suites else {},
        )

    def _cut(self, reference: Reference | None) -> Reference | None:
        if reference is None or self.reference_images == 0:
            return None
        count = self.reference_images
        return Reference(reference.images[:count], reference.captions[:count])
