"""What every one-player stage shares: the step, the optimiser, the counters.

Training data arrive as dicts that name their own place: `step` (the optimizer step they belong to) and `rows`
(their numbers inside the global batch). Every random number of a step is a function of (seed, purpose, step,
row), so a step does not depend on what was run before it, on the number of processes or on accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.objectives.base import Losses
from t2ilab.objectives.turns import OptimizerFactory
from t2ilab.optim.groups import rate


class Stage(LightningModule):
    """One network that learns (`student`), one optimizer, one scalar loss.

    Args:
        student: the network that learns; EMA, checkpoint and export follow it.
        seed: of the run.
        batch_size: rows of the global batch of an optimizer step.
        optimizer: (name, parameter) pairs -> optimizer.
        schedule: (step, total steps) -> factor on the learning rate.
        clip: largest gradient norm of the student, and of the helpers; 0 leaves gradients alone.
        helpers: what learns beside the student and is neither averaged nor exported, such as projectors.

    Attributes:
        steps_done: optimizer steps taken since the start of the stage.
        step_finished: whether the last micro-batch completed an optimizer step.
        record: per-row values of each term (detached) and the times of the last micro-batch.
        grad_norm: gradient norm before clipping, of the last optimizer step.
        lr: learning rate of the last optimizer step (of its first parameter group).
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        seed: int,
        batch_size: int,
        optimizer: OptimizerFactory,
        schedule: Callable[[int, int], float],
        clip: float,
        helpers: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if clip < 0:
            raise ValueError(f"trainer.clip must not be negative, got {clip}")
        self.student = student
        self.helpers = helpers or nn.Module()
        self.seed, self.batch_size, self.clip = seed, batch_size, clip
        self.make_optimizer, self.schedule = optimizer, schedule
        self.steps_done, self.step_finished = 0, False
        self.record: tuple[dict[str, Tensor], Tensor | None] = ({}, None)
        self.grad_norm, self.lr = torch.zeros(()), 0.0

    def losses(self, batch: dict[str, Any], rng: RowRng) -> Losses:
        """The terms of the loss for one micro-batch; each stage says its own."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        losses = self.losses(batch, RowRng(self.seed, batch["step"], batch["rows"], self.batch_size))
        total = losses.total
        terms = {"loss": total} | (losses.terms if len(losses.terms) > 1 else {})
        self.record = ({name: value.detach() for name, value in terms.items()}, losses.t)
        self.step_finished = False
        return total.mean()

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        """What moves the weights of the student and of the helpers."""
        learning = [*self.student.named_parameters(), *self.helpers.named_parameters(prefix="helpers")]
        return [self.make_optimizer([(name, p) for name, p in learning if p.requires_grad])]

    def configure_optimizers(self) -> dict[str, Any]:
        (optimizer,) = self.new_optimizers()
        total = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Sets the rates anew: a checkpoint holds those of the length that the run had when it was written."""
        for config in self.trainer.lr_scheduler_configs:
            schedule: Any = config.scheduler
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            for group, base, factor in zip(
                schedule.optimizer.param_groups, schedule.base_lrs, factors, strict=True
            ):
                group["lr"] = base * factor

    def trial_step(self, batch: dict[str, Any]) -> Tensor:
        """Leaves gradients behind, to see how long that takes; returns a number to wait for."""
        loss = self.training_step(batch, 0)
        loss.backward()
        return loss

    def trial_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """What a step does with the gradients: clips them and moves the weights."""
        clip_gradients(self.student.parameters(), self.clip)
        clip_gradients(self.helpers.parameters(), self.clip)
        optimizers[0].step()

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        self.grad_norm = clip_gradients(self.student.parameters(), self.clip)
        clip_gradients(self.helpers.parameters(), self.clip)

    def optimizer_step(
        self, epoch: int, index: int, optimizer: Any, closure: Callable[[], Any] | None = None
    ) -> None:
        self.lr = rate(optimizer.param_groups[0])  # before the schedule moves on
        super().optimizer_step(epoch, index, optimizer, closure)
        self.steps_done += 1
        self.step_finished = True
        self.trainer.datamodule.step = self.steps_done  # where a checkpoint of this step goes on

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["t2ilab"] = {"steps_done": self.steps_done}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counts micro-batches by the present accumulation, since Lightning steps where it divides their number."""
        self.steps_done = checkpoint["t2ilab"]["steps_done"]
        if self.automatic_optimization:
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            more = self.steps_done * self.trainer.accumulate_grad_batches - counts["ready"]
            counts |= {name: number + more for name, number in counts.items()}


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> Tensor:
    """Scales gradients to the norm `largest` if theirs is larger (0: never); returns their norm before."""
    parameters = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters]).detach()
    if largest:
        nn.utils.clip_grads_with_norm_(parameters, largest, norm)
    return norm
