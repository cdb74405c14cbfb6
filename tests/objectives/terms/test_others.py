"""Weights of terms, the dispersive loss and self-alignment."""

import math

import pytest
import torch
from torch import nn

from t2ilab.core.timestep import Uniform
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.roles import Roles
from t2ilab.objectives.terms.base import TermInput, TermWeight
from t2ilab.objectives.terms.dispersive import Dispersive
from t2ilab.objectives.terms.sra import SRA
from tests.objectives.terms.students import ROWS, awake, batch_of, dit, rng_of

ALWAYS = TermWeight(0.5, total=100)


@pytest.mark.parametrize(
    ("weight", "values"),
    [
        (TermWeight(2.0, total=100), {0: 2.0, 50: 2.0, 100: 2.0}),
        (TermWeight(2.0, total=100, stop=0.4), {0: 2.0, 39: 2.0, 40: 0.0, 99: 0.0}),
        (TermWeight(2.0, total=100, stop=0.4, shape="linear"), {0: 2.0, 10: 1.5, 30: 0.5, 40: 0.0}),
        (TermWeight(2.0, total=100, shape="cosine"), {0: 2.0, 50: 1.0, 100: 0.0, 25: 1 + math.sqrt(0.5)}),
    ],
)
def test_a_weight_follows_its_schedule(weight, values):
    assert {step: weight(step) for step in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"value": -1.0}, "value"),
        ({"stop": 0.0}, "stop"),
        ({"stop": 1.5}, "stop"),
        ({"shape": "step"}, "shape"),
    ],
)
def test_a_weight_out_of_range_is_refused(options, name):
    with pytest.raises(ValueError, match=f"weight.{name}"):
        TermWeight(**({"value": 1.0, "total": 10} | options))


def dispersive(hidden, tau=0.5):
    term, student = Dispersive(ALWAYS, tap=None, tau=tau), dit()
    term.bind(student)
    batch = batch_of(None, len(hidden))
    estimate = student(batch.x0, torch.full((len(hidden),), 0.5), batch.condition)
    estimate.taps[term.taps[0]] = hidden
    return term(TermInput(batch, batch.x0, estimate.t, estimate, rng_of(rows=len(hidden))))


def test_equal_states_disperse_to_zero_and_far_ones_to_minus_the_log_of_their_number():
    torch.testing.assert_close(dispersive(torch.ones(6, 4, 3)), torch.zeros(6))
    far = 1e3 * torch.eye(6)[:, :, None].expand(6, 6, 2)
    torch.testing.assert_close(dispersive(far), torch.full((6,), -math.log(6)))


def test_two_states_disperse_by_their_distance_per_dimension():
    hidden = torch.zeros(2, 4, 3)
    hidden[1] += 0.6  # squared distance 0.36 in each of 12 dimensions
    expected = math.log((1 + math.exp(-0.36 / 0.7)) / 2)
    torch.testing.assert_close(dispersive(hidden, tau=0.7), torch.full((2,), expected))


def test_dispersion_is_the_logarithm_of_the_mean_over_all_pairs():
    """Three states at 0, 1 and 3: squared distances 1, 4 and 9, and three times 0; not a mean of logarithms."""
    hidden = torch.tensor([0.0, 1.0, 3.0])[:, None, None].expand(3, 4, 3)
    pairs = 3 + 2 * sum(math.exp(-distance / 0.5) for distance in (1.0, 4.0, 9.0))
    torch.testing.assert_close(dispersive(hidden), torch.full((3,), math.log(pairs / 9)))


def test_dispersion_ignores_the_order_of_rows_and_a_common_shift():
    hidden = torch.randn(5, 4, 3)
    order = torch.randperm(5)
    torch.testing.assert_close(dispersive(hidden[order]), dispersive(hidden))
    torch.testing.assert_close(dispersive(hidden + 2.0), dispersive(hidden), rtol=1e-4, atol=1e-5)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"terms\.dispersive\.tau"):
        Dispersive(ALWAYS, tap=None, tau=0.0)


def sra(student, averaged=dict, **options):
    term = SRA(ALWAYS, tap=options.pop("tap", None), teacher_tap=options.pop("teacher_tap", None), **options)
    objective = FlowMatching(Uniform(), terms={"sra": term})
    objective.bind(student, Roles(averaged=averaged))
    return term, objective


def test_a_student_that_is_its_own_teacher_at_the_same_time_and_place_agrees():
    student = awake(dit())
    term, objective = sra(student, tap="block2", teacher_tap="block2", reach=0.0)
    term.head = nn.Identity()
    losses = objective(batch_of(None), rng_of())
    torch.testing.assert_close(losses.terms["sra"], torch.full((ROWS,), -1.0))


def test_the_teacher_is_the_average_and_gets_no_gradient():
    student, other = awake(dit()), awake(dit())
    shadow = {name: 1.5 * value.detach() for name, value in other.named_parameters()}
    shadow |= dict(other.named_buffers())
    for averaged, same in ((dict, True), (lambda: shadow, False)):
        term, objective = sra(student, averaged, tap="block1", teacher_tap="block1", reach=0.0)
        term.head = nn.Identity()
        loss = objective(batch_of(None), rng_of()).terms["sra"]
        assert torch.allclose(loss, torch.tensor(-1.0), atol=1e-5) == same
    assert loss.requires_grad and not any(value.requires_grad for value in shadow.values())
    loss.mean().backward()
    behind = [p.grad for p in student.backbone.blocks[1].parameters()]
    assert all(grad is None for grad in behind), "a later block than the tap got a gradient"


def test_a_student_that_is_its_own_teacher_teaches_without_a_gradient():
    student = awake(dit())
    _, objective = sra(student, tap="block1", teacher_tap="block2")
    objective(batch_of(None), rng_of()).terms["sra"].mean().backward()
    reached = [{p.grad is not None for p in block.parameters()} for block in student.backbone.blocks]
    assert True in reached[0] and reached[1] == {False}


def test_terms_read_the_place_that_the_model_names_early_and_the_teacher_the_late_one():
    student = dit(depth=6)
    early, late = student.depths
    assert early != late
    term, _ = sra(student)
    assert (term.taps, term.late) == ((early,), late)
    term = Dispersive(ALWAYS, tap=None)
    term.bind(student)
    assert term.taps == (early,)


def test_the_teacher_sees_less_noise():
    student = awake(dit())
    times = []
    student.backbone.register_forward_pre_hook(lambda module, inputs: times.append(inputs[1].clone()))
    _, objective = sra(student, reach=0.5)
    objective(batch_of(None), rng_of())
    own, taught = times
    assert bool((taught <= own).all()) and bool((taught < own).any()) and bool((taught >= 0).all())
    assert bool((own - taught <= 500.0 + 1e-3).all())


def test_it_refuses_a_reach_outside_the_unit_interval():
    with pytest.raises(ValueError, match=r"terms\.sra\.reach"):
        SRA(ALWAYS, tap=None, teacher_tap=None, reach=1.5)
