"""The loss of the vector that travels with an image, beside that of the image."""

import dataclasses

import pytest
import torch

from t2ilab.core.carried import carried
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import VE, Linear
from t2ilab.core.prediction import Score, Velocity
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch
from t2ilab.eval.heldout import output_loss
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.terms.base import TermWeight
from t2ilab.objectives.terms.reg import REG
from tests.models import families
from tests.models.families import condition
from tests.models.test_class_token import VECTOR
from tests.objectives.terms.students import rng_of

WEIGHT = TermWeight(0.03, total=100)


def student(make=families.trained, **options):
    return Denoiser(make("dit joint", **VECTOR | options), Linear(), Velocity())


def batch(rows=4):
    x0 = torch.randn(rows, 6, 8, 8, generator=torch.Generator().manual_seed(5))
    return Batch(x0, condition(rows), condition(1), {})


def losses(network, given):
    objective = FlowMatching(Uniform(), terms={"reg": REG(WEIGHT)})
    objective.bind(network)
    return objective, objective(given, rng_of(rows=4))


def test_a_silent_network_has_two_of_each_loss_as_for_data_and_noise_of_unit_variance():
    found = [
        losses(student(families.small), batch_of_step)[1]
        for batch_of_step in (dataclasses.replace(batch(), x0=torch.randn(4, 6, 8, 8)) for _ in range(40))
    ]
    for name in ("flow_matching", "reg"):
        assert torch.cat([one.terms[name].detach() for one in found]).mean() == pytest.approx(2, abs=0.1)


def test_each_loss_is_the_squared_error_of_its_own_numbers():
    network, given = student(), batch()
    objective, found = losses(network, given)
    t, eps = objective.draw(given, rng_of(rows=4))
    error = network(Linear().mix(given.x0, eps, t), t, given.condition).out - (eps - given.x0)
    torch.testing.assert_close(found.terms["flow_matching"], error[:, :4].square().flatten(1).mean(1))
    torch.testing.assert_close(found.terms["reg"], carried(error[:, 4:], 100).square().mean(1))
    total = found.terms["flow_matching"] + 0.03 * found.terms["reg"]
    torch.testing.assert_close(found.total, total)


def test_a_score_network_is_held_to_the_noise_of_the_vector():
    network, given = Denoiser(families.trained("dit joint", **VECTOR), VE(), Score()), batch()
    objective = Diffusion(Uniform(0.1, 0.9), terms={"reg": REG(WEIGHT)})
    objective.bind(network)
    found = objective(given, rng_of(rows=4)).terms["reg"]
    t, eps = objective.draw(given, rng_of(rows=4))
    noise = network(VE().mix(given.x0, eps, t), t, given.condition).eps
    torch.testing.assert_close(found, carried((noise - eps)[:, 4:], 100).square().mean(1))


def test_targets_of_a_vector_without_bounds_are_refused():
    network = Denoiser(families.small("dit joint", **VECTOR), VE(), Velocity())
    with pytest.raises(ValueError, match=r"terms=\[reg\] regresses on Velocity on path=VE"):
        REG(WEIGHT).bind(network)


def test_neither_loss_reaches_the_output_layer_of_the_other():
    network = student(families.small)
    _, found = losses(network, batch())
    layers = network.backbone.final.weight, network.backbone.class_token.out.weight
    for name, own in (("flow_matching", 0), ("reg", 1)):
        loss = found.terms[name].sum()
        reached = torch.autograd.grad(loss, layers, retain_graph=True, allow_unused=True)
        assert reached[own].abs().sum() > 0
        assert reached[1 - own] is None or reached[1 - own].count_nonzero() == 0


def test_the_heldout_loss_is_that_of_the_image():
    network, given = student(families.small), batch()
    loss = output_loss(network, given.x0, given.condition)
    t = torch.full((4,), 0.5)
    changed = given.x0.clone()
    changed[:, 4:] += 3.0
    other = output_loss(network, changed, given.condition)
    index = torch.arange(4)
    torch.testing.assert_close(loss(index, t, rng_of(rows=4)), other(index, t, rng_of(rows=4)))


@pytest.mark.parametrize("weight", [TermWeight(0.0, total=9), TermWeight(0.03, total=9, stop=0.5)])
def test_a_vector_that_is_not_trained_to_the_end_is_refused(weight):
    with pytest.raises(ValueError, match=r"terms\.reg\.weight must be positive to the end"):
        REG(weight)


def test_a_model_that_reads_no_vector_is_refused():
    with pytest.raises(ValueError, match=r"terms\.reg needs.*recipe=reg"):
        REG(WEIGHT).bind(Denoiser(families.small("dit joint"), Linear(), Velocity()))
