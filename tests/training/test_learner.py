from types import SimpleNamespace

import pytest
import torch
from torch import nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch, Condition
from t2ilab.objectives.base import NOTHING, Losses, Objective
from t2ilab.stages.pretrain import Pretrain
from t2ilab.training.learner import Learner
from t2ilab.training.schedule import WarmupStableDecay

COMMON = {"seed": 3, "batch_size": 8, "optimizer": None, "schedule": lambda step, total: 1.0}


class Lines(Objective):
    """Two terms per row: the prediction for the row's number, and a draw of its stream, which counts twice."""

    def forward(self, batch, rng, player="student", kept=NOTHING):
        out, draw = self.student(batch.x0).squeeze(1), rng.uniform("draw")
        terms = {"fit": out.square(), "draw": draw}
        return Losses(terms, rng.uniform("t"), weights={"draw": 2.0}, notes={"size": out.detach().abs()})


class Plain(Learner):
    def to_batch(self, rows, rng):
        return Batch(rows["x"])


def stage(network=None, objective=None, **options):
    return Plain(network or nn.Linear(4, 1), objective or Lines(), **COMMON | {"clip": 1.0} | options)


def batch(rows, step=5):
    x = torch.arange(32.0).view(8, 4) / 32
    return {"x": x[rows], "rows": torch.tensor(rows), "step": step}


def test_the_loss_is_the_mean_over_rows_of_the_sum_of_terms():
    one = stage()
    loss = one.training_step(batch(list(range(8))), 0)
    terms, t, main = one.record
    draw = RowRng(3, 5, torch.arange(8), 8).uniform("draw")
    assert torch.equal(terms["draw"], draw)
    assert torch.equal(terms["loss"], terms["fit"] + 2 * terms["draw"]) and main == "fit"
    assert torch.equal(terms["size"].square(), terms["fit"]), "notes are logged, too"
    assert loss.item() == pytest.approx(
        (one.student(batch(list(range(8)))["x"]).square().mean() + 2 * draw.mean()).item()
    )
    assert not any(value.requires_grad for value in terms.values()) and t.shape == (8,)


def test_a_row_has_the_same_loss_in_whatever_micro_batch_it_comes():
    one = stage()
    one.training_step(batch(list(range(8))), 0)
    whole = one.record.rows["loss"]
    for rows in ([0, 1, 2], [5], [7, 3]):
        one.training_step(batch(rows), 0)
        assert torch.allclose(one.record.rows["loss"], whole[rows], rtol=1e-6)
    one.training_step(batch([0], step=6), 0)
    assert one.record.rows["draw"][0] != RowRng(3, 5, torch.arange(8), 8).uniform("draw")[0]


@pytest.mark.parametrize(("clip", "factor"), [(1.0, 0.2), (5.0, 1.0), (50.0, 1.0), (0.0, 1.0)])
def test_gradients_are_scaled_to_the_norm_and_the_norm_before_is_kept(clip, factor):
    one = stage(nn.ParameterList([torch.zeros(2), torch.zeros(1), torch.zeros(3)]), clip=clip)
    one.student[0].grad, one.student[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([-4.0])
    one.configure_gradient_clipping(None)
    assert one.grad_norm.item() == pytest.approx(5.0)
    assert one.student[0].grad.tolist() == pytest.approx([3 * factor, 0], rel=1e-5)
    assert one.student[1].grad.tolist() == pytest.approx([-4 * factor], rel=1e-5)
    assert one.student[2].grad is None


def test_a_negative_clip_is_refused_by_name():
    with pytest.raises(ValueError, match=r"trainer.clip"):
        stage(clip=-1.0)


def test_the_optimizer_gets_the_named_parameters_that_learn_and_follows_the_schedule():
    seen = []

    def make(named):
        seen.extend(name for name, _ in named)
        return torch.optim.SGD([p for _, p in named], lr=2.0)

    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    network[0].weight.requires_grad_(False)
    one = stage(network, optimizer=make, schedule=WarmupStableDecay(1, decay=0.5))
    one.trainer = SimpleNamespace(max_steps=4)
    found = one.configure_optimizers()
    assert seen == ["0.bias", "1.weight", "1.bias"]
    rates = []
    for _ in range(4):
        rates.append(found["optimizer"].param_groups[0]["lr"])
        found["optimizer"].step()
        found["lr_scheduler"]["scheduler"].step()
    assert rates == [1.0, 2.0, 2.0, 1.0]
    assert found["lr_scheduler"]["interval"] == "step"


def test_a_stage_that_makes_no_batch_of_its_rows_cannot_train():
    with pytest.raises(NotImplementedError):
        Learner(nn.Linear(4, 1), Lines(), **COMMON, clip=1.0).training_step(batch([0]), 0)


class Reader(Objective):
    """An objective that notes the condition it is given."""

    def forward(self, batch, rng, player="student", kept=NOTHING):
        self.batch, self.player = batch, player
        return Losses({"loss": batch.x0.flatten(1).mean(1)})


def condition(n, value):
    return Condition(
        torch.full((n, 2, 3), value), torch.ones(n, 2, dtype=torch.bool), torch.full((n, 3), value)
    )


def dropped(rows, *, share, step=0, seed=1, total=4096):
    """Which of the rows lost their text."""
    reader, network = Reader(), nn.Linear(1, 1)
    one = Pretrain(
        network,
        reader,
        null=condition(1, 0.0),
        condition_dropout=share,
        **COMMON | {"clip": 0.0, "seed": seed},
    )
    text = condition(len(rows), 1.0)
    given = {
        "x0": torch.zeros(len(rows), 1, 2, 2),
        "tokens": text.tokens,
        "mask": text.mask,
        "pooled": text.pooled,
    }
    made = one.to_batch(given, RowRng(seed, step, torch.as_tensor(rows), total))
    assert reader.student is network
    tokens, pooled = made.condition.tokens, made.condition.pooled
    assert torch.equal(tokens[:, 0, 0], pooled[:, 0])  # all of a condition goes together
    return pooled[:, 0] == 0


ROWS = list(range(4096))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_condition_dropout_takes_its_share_of_the_texts(share):
    lost = dropped(ROWS, share=share).float().mean().item()
    assert abs(lost - share) <= 4 * (share * (1 - share) / len(ROWS)) ** 0.5


def test_condition_dropout_is_a_function_of_seed_step_and_row_only():
    whole = dropped(ROWS, share=0.3)
    assert torch.equal(dropped(ROWS[100:164], share=0.3), whole[100:164])
    assert torch.equal(dropped(ROWS[::-1], share=0.3), whole.flip(0))
    assert torch.equal(dropped(ROWS, share=0.3), whole)
    for change in ({"step": 1}, {"seed": 2}):
        agreement = (dropped(ROWS, share=0.3, **change) == whole).float().mean().item()
        assert abs(agreement - (0.3**2 + 0.7**2)) < 0.04  # as of independent draws
    assert bool(
        (whole | ~dropped(ROWS, share=0.1)).all()
    )  # a larger share takes more of the same rows' texts


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_impossible_condition_dropout_is_refused_by_name(share):
    with pytest.raises(ValueError, match=r"stage.condition_dropout"):
        dropped([0], share=share)
