"""How several players learn in one stage: whose turn it is, and a gradient that reaches no one else.

A global batch serves the players that `objective.turns(step)` names, one after the other. A turn is

    g <- mean over all rows of d loss / d (parameters of the player),    by micro-batches, over all processes;
    clip g; one step of the player's own optimizer along g.

Gradients are asked for (`torch.autograd.grad`), not left behind by `backward`: they come into being for the player in
turn only, whatever networks its loss runs through. A term whose weight follows from its gradient (`turns.Balance`) is
gathered by itself, so that its weight is that of the whole batch.

A step is a turn of the student: schedules, `steps_done`, checkpoints, EMA and metrics follow it. A batch without one
moves the data on and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from t2ilab.data.source import Rows
from t2ilab.objectives.losses import Losses
from t2ilab.objectives.turns import STUDENT, Player
from t2ilab.optim.groups import rate
from t2ilab.training.step import Record, clip_gradients

if TYPE_CHECKING:
    from t2ilab.training.learner import Learner

Groups = dict[str, tuple[Tensor, ...]]  # gradients of a player's parameters, for each group of terms
_REST = "rest"  # the group of the terms that are added as they are


class Turns:
    """The players of a learner, each with its own optimizer, schedule and clipping.

    Attributes:
        seats: every player by name, the student first.
        learning: names and parameters of each player that learn in its turn.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner, self.objective = learner, learner.objective
        own = Player(
            learner.student, optimizer=learner.make_optimizer, schedule=learner.schedule, clip=learner.clip
        )
        self.seats = {STUDENT: own} | self.objective.players
        self.learning = {
            name: [(n, p) for n, p in seat.network.named_parameters() if p.requires_grad]
            for name, seat in self.seats.items()
        }
        self.learning[STUDENT] = learner.learning()

    def play(self, rows: Rows) -> None:
        """All turns of one global batch."""
        learner, players = self.learner, self.objective.turns(rows["step"])
        assert players.count(STUDENT) <= 1, f"a batch is one step of the student at most, not {players}"
        learner.record = Record({})
        parts = split(rows, learner.accumulate)
        kept: list[dict[str, Tensor]] = [{} for _ in parts]
        for number, player in enumerate(players):
            gathered, losses = self.gather(player, parts, kept, number)
            gradient, weights = self.weighed(player, self.over_processes(gathered))
            norm = self.move(player, gradient)
            self.note(player, losses, weights, norm)
        learner.step_finished = STUDENT in players
        learner.steps_done += learner.step_finished
        learner.go_on_at(rows["step"] + 1)

    def trial(self, rows: Rows) -> Tensor:
        """Leaves the gradients of one global batch behind; returns a number to wait for."""
        parts = split(rows, self.learner.accumulate)
        kept: list[dict[str, Tensor]] = [{} for _ in parts]
        for number, player in enumerate(self.objective.turns(rows["step"])):
            gradients, _ = self.gather(player, parts, kept, number)
            for (_, p), gradient in zip(self.learning[player], gradients[_REST], strict=True):
                p.grad = _laid_out(gradient, p)
        return gradients[_REST][0].sum()

    def gather(
        self, player: str, parts: list[Rows], kept: list[dict[str, Tensor]], number: int
    ) -> tuple[Groups, list[Losses]]:
        """Gradients of the mean over the rows of this process in turn `number` of the batch, and the losses."""
        parameters = [p for _, p in self.learning[player]]
        total: Groups = {}
        seen = []
        for part, own in zip(parts, kept, strict=True):
            rng = self.learner.rng(part)
            batch = self.learner.to_batch(part, rng)
            rng = rng if player == STUDENT else rng.fold(player).fold(number)
            losses = self.objective(batch, rng, player, own)
            own.update(losses.kept)
            groups = self.groups(player, losses)
            for name, value in groups.items():
                mean, more = value.mean() / len(parts), name != next(reversed(groups))
                with self.full_precision():
                    found = torch.autograd.grad(mean, parameters, retain_graph=more, materialize_grads=True)
                total[name] = tuple(torch._foreach_add(total[name], found)) if name in total else found
            seen.append(replace(losses, terms={k: v.detach() for k, v in losses.terms.items()}, kept={}))
        return total, seen

    def groups(self, player: str, losses: Losses) -> dict[str, Tensor]:
        """The sum of the terms with weights of their own, and every balanced term by itself, (B,) each."""
        balanced, terms = self.objective.balances(player), losses.weighted
        rest = [value for name, value in terms.items() if name not in balanced]
        return {_REST: torch.stack(rest).sum(0)} | {k: v for k, v in terms.items() if k in balanced}

    def over_processes(self, gradients: Groups) -> Groups:
        """The mean of the gradients of all processes."""
        if self.learner.trainer.world_size == 1:
            return gradients
        everything = [value for group in gradients.values() for value in group]
        flat = torch.cat([value.flatten() for value in everything])
        flat = self.learner.trainer.strategy.reduce(flat, reduce_op="mean")
        pieces = iter(flat.split([value.numel() for value in everything]))
        return {
            name: tuple(next(pieces).view_as(value) for value in group) for name, group in gradients.items()
        }

    def weighed(self, player: str, gradients: Groups) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The gradient of the whole loss, and the weights of the balanced terms in it."""
        place = {id(p): k for k, (_, p) in enumerate(self.learning[player])}
        rest, weights = gradients[_REST], {}
        total = rest
        for name, balance in self.objective.balances(player).items():
            if name in gradients:
                k = place[id(balance.layer)]
                weights[name] = balance(rest[k], gradients[name][k])
                total = tuple(a + weights[name] * b for a, b in zip(total, gradients[name], strict=True))
        return total, weights

    def move(self, player: str, gradients: Sequence[Tensor]) -> Tensor:
        """One step of the player's optimizer; returns the norm of the gradient before it was clipped.

        Lightning counts the steps of optimizers in its own wrapping. It is shown the student's only, so that
        `trainer.global_step` and `max_steps` mean steps of the student.
        """
        seat, parameters = self.seats[player], [p for _, p in self.learning[player]]
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = _laid_out(gradient, p)
        norm = clip_gradients(parameters, seat.clip)
        optimizer = self.optimizer_of(player)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * seat.schedule(
                self.learner.steps_done, self.learner.trainer.max_steps
            )
        if player == STUDENT:
            self.learner.lr, self.learner.grad_norm = rate(optimizer.param_groups[0]), norm
        with self.full_precision():
            (optimizer if player == STUDENT else optimizer.optimizer).step()
        for p in parameters:
            p.grad = None
        return norm

    def note(self, player: str, losses: list[Losses], weights: Mapping[str, Tensor], norm: Tensor) -> None:
        """Adds a turn to the record; the terms of a rival are named `rival/term`."""
        rows = {name: torch.cat([part.terms[name] for part in losses]) for name in losses[0].terms}
        counted = Losses(rows, weights=losses[0].weights).weighted
        loss = torch.stack([weights.get(name, 1.0) * value for name, value in counted.items()]).sum(0)
        rows = {"loss": loss} | (rows if len(rows) > 1 else {})
        main = list(rows)[min(1, len(rows) - 1)]
        if player != STUDENT:
            rows = {f"{player}/{k}": v for k, v in (rows | {"grad_norm": norm.view(1)}).items()}
        rows |= {f"{name}_weight": weight.view(1) for name, weight in weights.items()}
        rows |= {name: torch.cat([part.notes[name] for part in losses]) for name in losses[0].notes}
        before, t, earlier = self.learner.record
        if player == STUDENT and losses[0].t is not None:
            t = torch.cat([part.t for part in losses if part.t is not None])
        twice = {k: torch.cat([before[k], v]) for k, v in rows.items() if k in before}
        self.learner.record = Record({**before, **rows, **twice}, t, main if player == STUDENT else earlier)

    def new_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for every player."""
        return [seat.optimizer(self.learning[name]) for name, seat in self.seats.items()]

    def with_rates(self, optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
        """The same, each group of which notes the rate that schedules are factors on."""
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers

    def optimizer_of(self, player: str) -> Any:
        """The player's optimizer, in Lightning's wrapping."""
        found = self.learner.optimizers()
        return found[list(self.seats).index(player)] if isinstance(found, list) else found

    def full_precision(self) -> torch.autocast:
        """Outside of autocast, in which Lightning calls `training_step`: for what is not a forward pass."""
        return torch.autocast(self.learner.device.type, enabled=False)

    def trial_update(self, optimizers: list[torch.optim.Optimizer]) -> None:
        """Clips the gradients that are there and moves the weights."""
        for (name, seat), optimizer in zip(self.seats.items(), optimizers, strict=True):
            parameters = [p for _, p in self.learning[name] if p.grad is not None]
            if parameters:
                clip_gradients(parameters, seat.clip)
                optimizer.step()


def _laid_out(gradient: Tensor, p: nn.Parameter) -> Tensor:
    """The gradient with the strides of its parameter, which optimizers may rely on after a `backward`."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)


def split(batch: Rows, count: int) -> list[dict[str, Any]]:
    """`count` micro-batches of equal size; what is no tensor goes into each.

    Raises:
        ValueError: the rows cannot be shared equally.
    """
    rows = len(batch["rows"])
    if rows % count:
        raise ValueError(
            f"{rows} rows in each process cannot be cut into trainer.accumulate={count} micro-batches: "
            "data.batch_size must be a multiple of processes times trainer.accumulate"
        )
    cut = {name: value.split(rows // count) for name, value in batch.items() if isinstance(value, Tensor)}
    return [batch | {name: pieces[k] for name, pieces in cut.items()} for k in range(count)]
