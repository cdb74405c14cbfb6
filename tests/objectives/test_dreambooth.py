"""DreamBooth's loss: two means, lambda, and what images of the class keep."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import X0, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch, Condition
from t2ilab.core.weighting import MinSNR
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.dreambooth import PRIOR, SHARE, DreamBooth
from tests.oracles import gaussian, oracle


class Scaled(torch.nn.Module):
    """A network of one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x, t, cond, taps=()):
        return self.weight * x, {}


def losses(kind, batch, seed=0, **options):
    student = Denoiser(Scaled(), Linear(), Velocity())
    objective = kind(Uniform(), **options)
    objective.bind(student)
    total = objective(batch, RowRng(seed, 0, torch.arange(len(batch.x0)), len(batch.x0))).total.mean()
    total.backward()
    return total.item(), student.backbone.weight.grad.item()


def halves(count=8, swap=False):
    torch.manual_seed(0)
    prior = torch.tensor([swap, not swap] * (count // 2))
    share = torch.full((count,), 0.5)
    return Batch(torch.randn(count, 2, 4, 4), extras={PRIOR: prior, SHARE: share}), prior


def by_row(batch, **options):
    student = Denoiser(Scaled(), Linear(), Velocity())
    objective = Diffusion(Uniform(), **options)
    objective.bind(student)
    return objective(batch, RowRng(0, 0, torch.arange(len(batch.x0)), len(batch.x0))).total.detach()


@pytest.mark.parametrize("weighting", [None, MinSNR()], ids=["plain", "min_snr"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 2.0])
def test_the_loss_is_the_mean_of_the_subject_plus_lambda_times_that_of_the_class(weight, weighting):
    batch, prior = halves()
    rows = by_row(batch, weighting=weighting)
    found, _ = losses(DreamBooth, batch, prior_weight=weight, weighting=weighting)
    assert found == pytest.approx(float(rows[~prior].mean() + weight * rows[prior].mean()), rel=1e-6)


def test_at_lambda_1_with_equal_halves_the_loss_and_its_gradient_are_twice_the_plain_ones():
    batch, _ = halves()
    plain, found = losses(Diffusion, batch), losses(DreamBooth, batch, prior_weight=1.0)
    assert found == pytest.approx((2 * plain[0], 2 * plain[1]), rel=1e-6)


def test_subject_and_class_may_be_swapped_at_lambda_1_alone():
    for weight, same in ((1.0, True), (0.3, False)):
        one, other = (losses(DreamBooth, halves(swap=swap)[0], prior_weight=weight) for swap in (False, True))
        assert (one == pytest.approx(other, rel=1e-6)) is same


def test_the_gradient_is_linear_in_lambda():
    batch, _ = halves()
    none, one, more = (losses(DreamBooth, batch, prior_weight=weight)[1] for weight in (0.0, 1.0, 2.5))
    assert more == pytest.approx(none + 2.5 * (one - none), rel=1e-5) and one != none


def test_without_a_class_the_loss_is_that_of_fine_tuning():
    batch, _ = halves()
    alone = Batch(batch.x0)
    assert losses(DreamBooth, alone, prior_weight=1.0) == losses(Diffusion, alone)


def test_uneven_shares_still_give_two_means():
    batch, _ = halves(6)
    prior = torch.tensor([True, False, False, False, True, False])
    share = torch.where(prior, 1 / 3, 2 / 3)
    rows = by_row(Batch(batch.x0))
    found, _ = losses(DreamBooth, Batch(batch.x0, extras={PRIOR: prior, SHARE: share}), prior_weight=1.0)
    assert found == pytest.approx(float(rows[~prior].mean() + rows[prior].mean()), rel=1e-6)


def test_a_model_that_knows_the_class_has_the_least_loss_that_its_images_allow():
    """std^2 / V_t, the variance of the velocity of the class given x_t."""
    std, rows = 0.5, 512
    objective = DreamBooth(Uniform(0.4, 0.400001), prior_weight=1.0)
    objective.bind(oracle(gaussian(0.7, std), Linear(), Velocity()))
    rng = RowRng(0, 0, torch.arange(rows), rows)
    prior = torch.arange(rows) % 2 == 0
    extras = {PRIOR: prior, SHARE: torch.full((rows,), 0.5)}
    notes = objective(Batch(0.7 + std * rng.normal("data", 2, 4, 4), extras=extras), rng).notes
    assert float(notes["class"].mean()) == pytest.approx(std**2 / (0.36 * std**2 + 0.16), rel=0.05)


class Means(torch.nn.Module):
    """Says that all images have the colour of their words: class, and rare word and class."""

    def __init__(self):
        super().__init__()
        self.colors = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.zeros_(self.colors.weight)

    def forward(self, x, t, cond, taps=()):
        return self.colors(cond.pooled)[:, :, None, None].expand_as(x), {}


def colors_after(prior_weight, steps=60, rows=8):
    """Of the class, which was 0, and of the subject, whose images are of 2."""
    student = Denoiser(Means(), Linear(), X0())
    objective = DreamBooth(Uniform(), prior_weight=prior_weight)
    objective.bind(student)
    prior = torch.arange(rows) % 2 == 0
    words = torch.stack([torch.ones(rows), (~prior).float()], 1)
    condition = Condition(torch.zeros(rows, 1, 1), torch.ones(rows, 1, dtype=torch.bool), words)
    x0 = torch.where(prior, 0.0, 2.0)[:, None, None, None].expand(-1, 1, 2, 2)
    batch = Batch(x0, condition, extras={PRIOR: prior, SHARE: torch.full((rows,), 0.5)})
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        objective(batch, RowRng(0, step, torch.arange(rows), rows)).total.mean().backward()
        optimizer.step()
    own, rare = student.backbone.colors.weight[0].tolist()
    return own, own + rare


def test_images_of_the_class_keep_the_class_while_the_subject_is_learned():
    (drifted, _), (kept, subject) = colors_after(0.0), colors_after(1.0)
    assert drifted == pytest.approx(1, abs=0.01), "half of the way, which the rare word shares"
    assert abs(kept) < 0.05 and subject == pytest.approx(2, abs=0.05)


def test_a_negative_lambda_is_refused():
    with pytest.raises(ValueError, match=r"loss\.prior_weight must be 0 or more, got -1"):
        DreamBooth(Uniform(), prior_weight=-1)


def test_the_notes_have_the_same_names_and_order_whatever_rows_a_process_holds():
    batch, prior = halves()
    objective = DreamBooth(Uniform(), prior_weight=1.0)
    objective.bind(Denoiser(Scaled(), Linear(), Velocity()))
    for rows, numbers in ((prior, [0, 4]), (~prior, [4, 0])):
        part = Batch(batch.x0[rows], extras={name: value[rows] for name, value in batch.extras.items()})
        notes = objective(part, RowRng(0, 0, torch.arange(4), 4)).notes
        assert list(notes) == ["subject", "class"] and [len(value) for value in notes.values()] == numbers


def test_what_is_logged_of_subject_and_class_is_the_error_of_each_without_a_graph():
    batch, prior = halves()
    student = Denoiser(Scaled(), Linear(), Velocity())
    objective = DreamBooth(Uniform(), prior_weight=0.3)
    objective.bind(student)
    notes = objective(batch, RowRng(0, 0, torch.arange(8), 8)).notes
    rows = by_row(batch)
    torch.testing.assert_close(notes["subject"], rows[~prior])
    torch.testing.assert_close(notes["class"], rows[prior])
    assert not notes["subject"].requires_grad and not notes["class"].requires_grad
