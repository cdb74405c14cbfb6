"""What every training stage shares: the step, the optimizers, the counters.

Training data arrive as dicts that name their own place: `step` (the global batch they belong to) and `rows` (their
numbers inside it). Every random number of a step is a function of (seed, purpose, step, row), so a step does not
depend on what was run before it, on the number of processes or on accumulation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.source import Rows
from t2ilab.models.injection import frozen_names
from t2ilab.objectives.base import Objective
from t2ilab.objectives.roles import NOBODY, Roles
from t2ilab.objectives.turns import STUDENT, OptimizerFactory
from t2ilab.optim.groups import rate
from t2ilab.training.step import Record, clip_gradients
from t2ilab.training.turns import Turns


class Learner(LightningModule):
    """A student learns by an objective; a stage adds how the rows of its data become a `Batch`.

    While the student plays alone Lightning optimizes; with other players, or terms whose weight follows from their
    gradient, `turns.py` does.

    Args:
        student: the network that learns; EMA, checkpoint and export follow it.
        objective: the method. What else learns in it is neither averaged nor exported.
        roles: what the objective may look at beside its student.
        seed: of the run.
        batch_size: rows of the global batch of an optimizer step.
        optimizer: (name, parameter) pairs -> optimizer.
        schedule: (step, total steps) -> factor on the learning rate.
        clip: largest gradient norm of the student, and of what learns beside it; with other players of both together.
            0 leaves gradients alone.
        accumulate: micro-batches of a step.

    Attributes:
        steps_done: optimizer steps of the student since the start of the stage.
        step_finished: whether the last (micro-)batch completed an optimizer step of the student.
        record: of the last (micro-)batch.
        grad_norm: gradient norm before clipping, of the last optimizer step.
        lr: learning rate of the last optimizer step (of its first parameter group).
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        *,
        seed: int,
        batch_size: int,
        optimizer: OptimizerFactory,
        schedule: Callable[[int, int], float],
        clip: float,
        accumulate: int = 1,
        roles: Roles = NOBODY,
    ) -> None:
        super().__init__()
        if clip < 0:
            raise ValueError(f"trainer.clip must not be negative, got {clip}")
        objective.bind(student, roles)
        self.student, self.objective = student, objective
        self.seed, self.batch_size, self.clip, self.accumulate = seed, batch_size, clip, accumulate
        self.make_optimizer, self.schedule = optimizer, schedule
        self.steps_done, self.step_finished = 0, False
        self.record, self.grad_norm, self.lr = Record({}), torch.zeros(()), 0.0
        self.turns = Turns(self) if objective.players or objective.balances(STUDENT) else None
        self.automatic_optimization = self.turns is None

    def to_batch(self, rows: Rows, rng: RowRng) -> Batch:
        """The rows of a micro-batch as the objective sees them; each stage says its own.

        Args:
            rng: the student's, whoever's turn it is.
        """
        raise NotImplementedError

    def rng(self, rows: Rows) -> RowRng:
        """The random numbers of these rows."""
        return RowRng(self.seed, rows["step"], rows["rows"], self.batch_size)

    def training_step(self, rows: Rows, index: int) -> Tensor | None:
        if self.turns is not None:
            self.turns.play(rows)
            return None
        rng = self.rng(rows)
        losses = self.objective(self.to_batch(rows, rng), rng)
        total = losses.total
        several = losses.terms if len(losses.terms) > 1 else {}
        seen = {name: value.detach() for name, value in ({"loss": total} | several | losses.notes).items()}
        self.record = Record(seen, losses.t, next(iter(several), "loss"))
        self.step_finished = False
        return total.mean()

    def trial_step(self, rows: Rows) -> Tensor:
        """Leaves gradients behind, to see how long that takes; returns a number to wait for."""
        if self.turns is not None:
            return self.turns.trial(rows)
        loss = self.training_step(rows, 0)
        assert loss is not None
        loss.backward()
        return loss

    def trial_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """What a step does with the gradients: clips them and moves the weights."""
        if self.turns is not None:
            self.turns.trial_update(optimizers)
            return
        clip_gradients(self.student.parameters(), self.clip)
        clip_gradients(self.objective.parameters(), self.clip)
        optimizers[0].step()

    def learning(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that learn in the student's turns."""
        beside = [(f"objective.{name}", p) for name, p in self.objective.beside_student()]
        return [(name, p) for name, p in [*self.student.named_parameters(), *beside] if p.requires_grad]

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        """What moves the weights of the student and of what learns beside it; with turns one for each player."""
        return [self.make_optimizer(self.learning())] if self.turns is None else self.turns.new_optimizers()

    def configure_optimizers(self) -> Any:
        optimizers = self.new_optimizers()
        if self.turns is not None:
            return self.turns.with_rates(optimizers)
        (optimizer,) = optimizers
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

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        self.grad_norm = clip_gradients(self.student.parameters(), self.clip)
        clip_gradients(self.objective.parameters(), self.clip)

    def optimizer_step(
        self, epoch: int, index: int, optimizer: Any, closure: Callable[[], object] | None = None
    ) -> None:
        self.lr = rate(optimizer.param_groups[0])  # before the schedule moves on
        super().optimizer_step(epoch, index, optimizer, closure)
        self.steps_done += 1
        self.step_finished = True
        self.go_on_at(self.steps_done)

    def go_on_at(self, step: int) -> None:
        """Tells the data where a checkpoint of this step goes on."""
        cast(Any, self.trainer).datamodule.step = step  # Lightning sets it without declaring it

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out what the base of an adapter gives back."""
        checkpoint["t2ilab"] = {"steps_done": self.steps_done}
        for name in self.given():
            del checkpoint["state_dict"][name]

    def given(self) -> set[str]:
        """Names of weights that come with the model that an adapter belongs to, and never change.

        Those of a copy of the student that shares them (a target network) are among them.
        """
        backbone = getattr(self.student, "backbone", None)
        names = set() if backbone is None else frozen_names(backbone)
        if not names:
            return names
        own = {f"student.backbone.{name}" for name in names}
        state = self.state_dict()
        places = {state[name].data_ptr() for name in own if state[name].numel()}
        return own | {name for name, value in state.items() if value.numel() and value.data_ptr() in places}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counts micro-batches by the present accumulation, since Lightning steps where it divides their number."""
        self.steps_done = checkpoint["t2ilab"]["steps_done"]
        state = checkpoint["state_dict"]
        for name in [name for name in state if name.startswith("helpers.")]:  # as it was called in t2ilab 0.1
            state[name.replace("helpers", "objective", 1)] = state.pop(name)
        own, given = self.state_dict(), self.given()
        state.update({name: own[name] for name in given})
        if self.automatic_optimization:
            counts = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
            more = self.steps_done * self.trainer.accumulate_grad_batches - counts["ready"]
            counts |= {name: number + more for name, number in counts.items()}
