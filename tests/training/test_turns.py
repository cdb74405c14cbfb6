"""Two small networks that learn in turns, through Lightning's own loop."""

import pytest
import torch
from lightning import Callback, Trainer
from torch import nn

from t2ilab.averages.ema import EMA
from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.data.module import DataModule
from t2ilab.data.order import EpochOrder
from t2ilab.objectives.base import NOTHING, Losses, Objective
from t2ilab.objectives.turns import STUDENT, Balance, Player
from t2ilab.runs.machine import TrainerOptions
from t2ilab.training.fit import accumulation
from t2ilab.training.learner import Learner
from t2ilab.training.pace import paces
from t2ilab.training.turns import split

ROWS = 8


class Watched(torch.optim.SGD):
    """Notes at every step which parameters anywhere have a gradient, and the rate."""

    def __init__(self, named, lr, seen, everybody):
        super().__init__([p for _, p in named], lr=lr)
        self.seen, self.everybody = seen, everybody

    def step(self, closure=None):
        names = [name for name, p in self.everybody if p.grad is not None]
        self.seen.append((names, self.param_groups[0]["lr"]))
        return super().step(closure)


class Game(Objective):
    """The student wants s(x) small and c(s(x)) large, the critic c(s(x)) small; an offset learns with the student.

    Args:
        schedule: batch number -> players.
        balanced: whether the student's second term is weighed by its gradient.
    """

    def __init__(
        self, order=lambda step: (STUDENT, "critic"), *, balanced=False, critic_clip=0.0, optimizer=None
    ):
        super().__init__()
        torch.manual_seed(1)
        self.order, self.balanced = order, balanced
        self.offset = nn.Parameter(torch.zeros(()))
        self.critic = Player(
            nn.Linear(3, 1),
            optimizer=optimizer or (lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
            schedule=lambda step, total: 1.0 - step / total,
            clip=critic_clip,
        )

    def turns(self, step):
        return self.order(step)

    def balances(self, player):
        if not self.balanced or player != STUDENT:
            return {}
        return {"score": Balance(self.student.weight, weight=0.5, largest=1e4)}

    def forward(self, batch, rng, player=STUDENT, kept=NOTHING):
        if player == "critic":
            made = kept.get("made", batch.x0[:, :3])
            score = self.critic.network(made).squeeze(1)
            return Losses({"score": score}, notes={"draw": rng.uniform("draw")})
        made = self.student(batch.x0) + self.offset
        score = self.critic.network(made).squeeze(1)
        terms = {"size": made.square().mean(1), "score": -score}
        return Losses(terms, rng.uniform("t"), kept={"made": made.detach()})


class Plain(Learner):
    """The rows are the batch."""

    def to_batch(self, rows, rng):
        return Batch(rows["x"])


class Rows:
    def __len__(self):
        return 4 * ROWS

    def fetch(self, indices, epochs):
        x = torch.arange(4.0 * ROWS * 4, dtype=torch.float64).view(-1, 4).sin()
        return {"x": x[indices]}


def stage(objective=None, *, accumulate=1, clip=0.0, optimizer=None, student=None):
    torch.manual_seed(0)
    objective, student = (objective or Game()).double(), student or nn.Linear(4, 3).double()
    return Plain(
        student,
        objective,
        accumulate=accumulate,
        seed=0,
        batch_size=ROWS,
        optimizer=optimizer or (lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
        schedule=lambda step, total: 1.0 / (1 + step),
        clip=clip,
    )


def train(one, steps=3, callback=None, checkpoint=None):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[callback] if callback else [],
    )
    data = DataModule(Rows(), EpochOrder(4 * ROWS, ROWS, 0))
    trainer.fit(one, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def weights(one):
    return {name: value.clone() for name, value in one.state_dict().items()}


def batch(step=0):
    order = EpochOrder(4 * ROWS, ROWS, 0)
    return next(iter(DataModule(Rows(), order).loader())) | {"step": step}


def test_each_gradient_reaches_exactly_the_player_in_turn():
    seen, everybody = [], []

    def watched(named):
        return Watched(named, 0.1, seen, everybody)

    one = stage(Game(optimizer=watched), optimizer=watched)
    everybody += one.named_parameters()
    before = weights(one)
    train(one, 1)
    assert [names for names, _ in seen] == [
        ["student.weight", "student.bias", "objective.offset"],
        ["objective.critic.network.weight", "objective.critic.network.bias"],
    ]
    assert all(p.grad is None for p in one.parameters())
    assert all((value != before[name]).any() for name, value in weights(one).items())


def test_a_player_without_a_turn_stays_as_it_is():
    one = stage(Game(lambda step: (STUDENT,)))
    before = weights(one)
    train(one, 2)
    changed = [name for name, value in weights(one).items() if not torch.equal(value, before[name])]
    assert changed == ["student.weight", "student.bias", "objective.offset"]


class Numbers(Objective):
    """The student lowers s r, its rival raises it."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.rival = Player(
            nn.ParameterList([torch.tensor(3.0)]),
            optimizer=lambda named: torch.optim.SGD([p for _, p in named], lr=0.5),
            schedule=lambda step, total: 1.0,
            clip=0.0,
        )

    def turns(self, step):
        return self.order

    def forward(self, batch, rng, player=STUDENT, kept=NOTHING):
        sign = 1.0 if player == STUDENT else -1.0
        value = sign * self.student[0] * self.rival.network[0]
        return Losses({"value": value.expand(len(batch.x0))})


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ((STUDENT, "rival"), (2.0 - 0.5 * 3.0, 3.0 + 0.5 * 0.5)),
        (("rival", STUDENT), (2.0 - 0.5 * 4.0, 4.0)),
        (("rival", "rival", STUDENT), (2.0 - 0.5 * 5.0, 5.0)),
    ],
)
def test_each_turn_sees_what_the_turns_before_have_made_of_the_others(order, expected):
    one = Plain(
        nn.ParameterList([torch.tensor(2.0)]),
        Numbers(order),
        accumulate=1,
        seed=0,
        batch_size=ROWS,
        optimizer=lambda named: torch.optim.SGD([p for _, p in named], lr=0.5),
        schedule=lambda step, total: 1.0,
        clip=0.0,
    )
    train(one, 1)
    assert (one.student[0].item(), one.objective.rival.network[0].item()) == pytest.approx(expected)


def test_optimizers_see_gradients_laid_out_like_their_parameters():
    """Asked for, the gradient of a weight that is used transposed comes transposed."""
    layouts = []

    class Looking(torch.optim.SGD):
        def step(self, closure=None):
            layouts.extend((p.grad.stride(), p.stride()) for p in self.param_groups[0]["params"])
            return super().step(closure)

    class Transposed(nn.Linear):
        def forward(self, x):
            return (self.weight.T[:, None] * x.T[:, :, None]).sum(0)

    game = Game()
    game.offset.requires_grad_(False)
    one = stage(
        game,
        optimizer=lambda named: Looking([p for _, p in named], lr=0.1),
        student=Transposed(4, 3, bias=False).double(),
    )
    terms = one.objective(Batch(batch()["x"]), RowRng(0, 0, torch.arange(ROWS), ROWS)).terms
    assert torch.autograd.grad(terms["size"].sum(), one.student.weight)[0].stride() != (4, 1)
    train(one, 1)
    assert layouts == [((4, 1), (4, 1))]


@pytest.mark.parametrize("balanced", [False, True])
def test_accumulation_gives_the_same_updates_as_one_batch(balanced):
    whole = stage(Game(balanced=balanced), clip=0.3)
    train(whole)
    for pieces in (2, 8):
        cut = stage(Game(balanced=balanced), accumulate=pieces, clip=0.3)
        train(cut)
        for name, value in weights(whole).items():
            torch.testing.assert_close(weights(cut)[name], value, rtol=1e-12, atol=1e-14)
        for name, value in whole.record.rows.items():
            torch.testing.assert_close(cut.record.rows[name], value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(cut.record.t, whole.record.t)


def test_a_balanced_term_is_added_with_the_weight_that_its_gradient_asks_for():
    one = stage(Game(lambda step: (STUDENT,), balanced=True))
    terms = one.objective(Batch(batch()["x"]), RowRng(0, 0, torch.arange(ROWS), ROWS)).terms
    size, score = (
        torch.autograd.grad(terms[name].mean(), one.student.weight, retain_graph=True)[0]
        for name in ("size", "score")
    )
    weight = 0.5 * size.norm() / (score.norm() + 1e-4)
    total = terms["size"] + weight * terms["score"]
    expected = torch.autograd.grad(total.mean(), list(one.student.parameters()))
    before = [p.detach().clone() for p in one.student.parameters()]
    train(one, 1)
    for p, old, gradient in zip(one.student.parameters(), before, expected, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * gradient)
    rows = one.record.rows
    torch.testing.assert_close(rows["score_weight"], weight.detach().view(1))
    torch.testing.assert_close(rows["loss"], total.detach())


def every_other(step):
    return ("critic", STUDENT) if step % 2 else ("critic",)


def test_steps_are_turns_of_the_student_for_everything_that_counts_them():
    class Counting(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, module, *_):
            self.seen.append((module.step_finished, module.steps_done, trainer.global_step))

    counting, seen, everybody = Counting(), [], []

    def watched(named):
        return Watched(named, 1.0, seen, everybody)

    one = stage(Game(every_other, optimizer=watched), optimizer=watched)
    everybody += one.named_parameters()
    trainer = train(one, 3, counting)
    assert counting.seen == [
        (False, 0, 0),
        (True, 1, 1),
        (False, 1, 1),
        (True, 2, 2),
        (False, 2, 2),
        (True, 3, 3),
    ]
    assert trainer.datamodule.step == 6  # the data have moved on with every batch
    rates = [(names[0].split(".")[0], rate) for names, rate in seen]
    assert rates == [  # 1 - step / total of the critic, 1 / (1 + step) of the student, step the student's
        ("objective", 1.0),
        ("objective", 1.0),
        ("student", 1.0),
        ("objective", pytest.approx(2 / 3)),
        ("objective", pytest.approx(2 / 3)),
        ("student", 1 / 2),
        ("objective", pytest.approx(1 / 3)),
        ("objective", pytest.approx(1 / 3)),
        ("student", pytest.approx(1 / 3)),
    ]
    assert one.lr == pytest.approx(1 / 3)


def test_a_game_with_fewer_turns_of_the_student_is_resumed_bit_for_bit(tmp_path):
    def adam(named):
        return torch.optim.Adam([p for _, p in named], lr=0.1)

    def new():
        return stage(Game(every_other, optimizer=adam), optimizer=adam)

    class Stop(Callback):
        def on_train_batch_end(self, trainer, module, *_):
            if module.step_finished and module.steps_done == 2:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    whole, again = new(), new()
    train(whole, 5, Stop())
    trainer = train(again, 5, checkpoint=tmp_path / "two.ckpt")
    assert again.steps_done == whole.steps_done == trainer.global_step == 5
    assert trainer.datamodule.step == 10
    for name, value in weights(whole).items():
        assert torch.equal(weights(again)[name], value), name


def test_every_player_is_clipped_to_its_own_norm():
    def moved(**clips):
        one = stage(Game(critic_clip=clips.pop("critic", 0.0)), **clips)
        before = {n: p.detach().clone() for n, p in one.named_parameters()}
        train(one, 1)
        step = {n: p.detach() - before[n] for n, p in one.named_parameters()}
        norms = [
            torch.stack([value.norm() for n, value in step.items() if ("critic" in n) == critic])
            .norm()
            .item()
            for critic in (False, True)
        ]
        return norms, one

    (student, critic), free = moved()
    assert student > 0.1 * 0.01 and critic > 0.1 * 0.02
    (clipped, untouched), one = moved(clip=0.01)
    assert clipped == pytest.approx(0.1 * 0.01, rel=1e-4)
    assert one.grad_norm == free.grad_norm == pytest.approx(student / 0.1)  # what is noted is the norm before
    (untouched, clipped), one = moved(critic=0.02)
    assert untouched == pytest.approx(student) and clipped == pytest.approx(0.1 * 0.02, rel=1e-4)
    assert one.record.rows["critic/grad_norm"].item() == pytest.approx(critic / 0.1, rel=0.2)


def test_the_record_names_what_belongs_to_whom():
    one = stage()
    train(one, 1)
    rows, t, _ = one.record
    assert {name: len(value) for name, value in rows.items()} == {
        "loss": ROWS,
        "size": ROWS,
        "score": ROWS,
        "critic/loss": ROWS,
        "critic/grad_norm": 1,
        "draw": ROWS,
    }
    assert torch.equal(rows["loss"], rows["size"] + rows["score"]) and len(t) == ROWS
    assert not any(value.requires_grad for value in rows.values())


def test_a_rival_draws_anew_in_each_of_its_turns_and_the_student_as_if_it_were_alone():
    one = stage(Game(lambda step: ("critic", "critic", STUDENT)))
    train(one, 1)
    rows, t, _ = one.record
    first, second = rows["draw"].split(ROWS)
    names = batch()["rows"]
    plain = RowRng(0, 0, names, ROWS)
    assert torch.equal(t, plain.uniform("t"))
    for found in (first, second):
        assert not torch.equal(found, plain.uniform("draw"))
    assert not torch.equal(first, second)


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused_by_name():
    whole = {"x": torch.arange(8.0), "rows": torch.arange(8), "step": 3}
    parts = split(whole, 4)
    assert [part["rows"].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert all(part["step"] == 3 for part in parts) and torch.equal(parts[2]["x"], whole["x"][4:6])
    with pytest.raises(ValueError, match=r"trainer.accumulate=3.*data.batch_size"):
        split(whole, 3)


def test_the_trainer_gathers_no_micro_batches_for_a_stage_that_gathers_its_own():
    assert accumulation(stage(), TrainerOptions(max_steps=1, accumulate=4)) == 1


def test_the_estimate_of_the_time_leaves_no_trace():
    one = stage()
    before = weights(one)
    options = TrainerOptions(max_steps=10, accelerator="cpu", precision="fp32")
    (pace,) = paces(one, {0: batch()}, options, EMA(decay=0.9), threads=[1])
    assert 0 < pace.mean < 60
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())
    assert one.steps_done == 0 and all(p.grad is None for p in one.parameters())


def test_two_turns_of_the_student_with_one_batch_are_a_mistake():
    with pytest.raises(AssertionError, match="one step of the student at most"):
        train(stage(Game(lambda step: (STUDENT, STUDENT))), 1)
