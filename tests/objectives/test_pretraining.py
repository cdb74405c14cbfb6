"""Flow matching, diffusion and score matching on distributions whose losses are known."""

import math

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import VE, Linear, Trig, VPCosine, VPLinear
from t2ilab.core.prediction import EDM, X0, Eps, Score, V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import LogitNormal, Uniform
from t2ilab.core.types import Batch
from t2ilab.core.uncertainty import Uncertainty
from t2ilab.core.weighting import Likelihood, MinSNR
from t2ilab.core.weighting import Uniform as EvenWeight
from t2ilab.objectives.base import weighted_error
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.objectives.score_matching import ScoreMatching
from tests.oracles import Recorder, Silent, gaussian, loss_at, oracle, texts

ROWS, SHAPE = 256, (4, 8, 8)
COUNT = ROWS * math.prod(SHAPE)


def name(thing):
    return type(thing).__name__


def data(mean: float = 0.0, std: float = 1.0, rows: int = ROWS, shape=SHAPE) -> tuple[Batch, RowRng]:
    rng = RowRng(11, 3, torch.arange(rows), rows)
    return Batch(mean + std * rng.normal("data", *shape), texts(rows), texts(1)), rng


def bound(objective, denoiser):
    objective.bind(denoiser)
    return objective


def mean_loss(objective, denoiser, batch, rng) -> float:
    (values,) = bound(objective, denoiser)(batch, rng).terms.values()
    return float(values.double().mean())


def silent(path, prediction) -> Denoiser:
    return Denoiser(Silent(), path, prediction)


@pytest.mark.parametrize("timestep", [Uniform(), Uniform(0.3, 0.4), LogitNormal(1.0, 0.5)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 2.0)])
def test_first_velocity_loss_is_one_plus_the_second_moment_for_any_times(timestep, mean, std):
    batch, rng = data(mean, std)
    expected = 1 + std**2 + mean**2
    spread = (2 * (1 + std**2) ** 2 + 4 * mean**2 * (1 + std**2)) ** 0.5
    loss = mean_loss(FlowMatching(timestep), silent(Linear(), Velocity()), batch, rng)
    assert loss == pytest.approx(expected, abs=5 * spread / COUNT**0.5)


@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), EDM(1.0)], ids=name)
@pytest.mark.parametrize("path", [Linear(), VPCosine()], ids=name)
def test_the_loss_is_that_of_the_velocity_whatever_the_network_predicts(path, prediction):
    """One estimate of the data, wrong by a mean of 0.3, in the words of five predictions."""
    batch, rng = data()
    found, wanted = (
        bound(FlowMatching(Uniform(0.2, 0.8)), oracle(gaussian(0.3, 1.0), path, words))(batch, rng).terms
        for words in (prediction, Velocity())
    )
    torch.testing.assert_close(found["flow_matching"], wanted["flow_matching"], rtol=1e-3, atol=1e-4)


def test_first_velocity_loss_of_unit_data_is_two_for_every_row():
    batch, rng = data()
    losses = bound(FlowMatching(Uniform()), silent(Linear(), Velocity()))(batch, rng)
    values = losses.terms["flow_matching"]
    assert values.shape == losses.t.shape == (ROWS,)
    assert float((values - 2.0).abs().max()) < 6 * (8 / math.prod(SHAPE)) ** 0.5


@pytest.mark.parametrize(
    ("path", "prediction", "expected"),
    [
        (VPLinear(), Eps(), 1.0),
        (VPLinear(), X0(), 1.0),
        (VPCosine(), V(), 1.0),
        (Trig(), Velocity(), math.pi**2 / 4),
        (VE(), EDM(1.0), 1.0),
        (Linear(), EDM(1.0), 1.0),
    ],
    ids=name,
)
def test_first_losses_of_the_other_targets(path, prediction, expected):
    batch, rng = data()
    loss = mean_loss(Diffusion(Uniform()), silent(path, prediction), batch, rng)
    assert loss == pytest.approx(expected, abs=5 * expected * (2 / COUNT) ** 0.5)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_a_perfect_velocity_model_reaches_the_floor_of_pi_s_over_two(std):
    batch, rng = data(0.0, std)
    denoiser = oracle(gaussian(0.0, std), Linear(), Velocity())
    loss = mean_loss(FlowMatching(Uniform(stratified=True)), denoiser, batch, rng)
    assert loss == pytest.approx(math.pi * std / 2, rel=0.02)


def test_floor_for_logit_normal_times_has_its_known_value():
    batch, rng = data()
    denoiser = oracle(gaussian(0.0, 1.0), Linear(), Velocity())
    assert mean_loss(FlowMatching(LogitNormal(stratified=True)), denoiser, batch, rng) == pytest.approx(
        1.7413, rel=0.02
    )


@pytest.mark.parametrize("path", [Linear(), Trig(), VPLinear()], ids=name)
@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity()], ids=name)
def test_floors_at_one_time_are_the_posterior_variances(path, prediction):
    std, t = 0.5, torch.full((ROWS,), 0.4)
    batch, rng = data(0.0, std)
    objective = bound(Diffusion(Uniform(0.1, 0.9)), oracle(gaussian(0.0, std), path, prediction))
    loss = float(loss_at(objective, batch, rng.normal("noise", *SHAPE), t).mean())
    a, s = float(path.alpha(t[0])), float(path.sigma(t[0]))
    variance = a**2 * std**2 + s**2
    determinant = float(prediction.determinant(path, t[0]))
    assert loss == pytest.approx(determinant**2 * std**2 / variance, rel=0.03)


@pytest.mark.parametrize("path", [Linear(), Trig()], ids=name)
@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM()], ids=name)
def test_flow_matching_is_the_squared_error_of_the_velocity_whatever_is_predicted(path, prediction):
    x0, eps, wrong = torch.randn(3, 8, 2, 3, 3, dtype=torch.float64)
    t = torch.linspace(0.2, 0.8, 8, dtype=torch.float64)
    x_t = path.mix(x0, eps, t)
    estimate = prediction.resolve(path, prediction.target(path, x0, eps, t) + 0.1 * wrong, x_t, t)
    expected = (estimate.velocity() - Velocity().target(path, x0, eps, t)).square().flatten(1).mean(1)
    torch.testing.assert_close(weighted_error(estimate, x0, eps, space=Velocity()), expected)


def test_x0_network_with_velocity_loss_has_the_clamped_weight_of_jit():
    x0, eps = torch.randn(2, 4, 1, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.0, 0.01, 0.05, 0.5], dtype=torch.float64)
    estimate = X0().resolve(Linear(), x0 + 0.1, Linear().mix(x0, eps, t), t)
    loss = weighted_error(estimate, x0, eps, space=Velocity())
    torch.testing.assert_close(loss, 0.01 / t.clamp(min=0.05) ** 2)


@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM()], ids=name)
def test_min_snr_means_the_same_training_for_every_prediction(prediction):
    path = VPLinear()
    x0, eps, wrong = torch.randn(3, 8, 2, 3, 3, dtype=torch.float64)
    t = torch.linspace(0.2, 0.8, 8, dtype=torch.float64)
    x_t = path.mix(x0, eps, t)
    out = X0().resolve(path, x0 + 0.1 * wrong, x_t, t).read(prediction)
    loss = weighted_error(
        prediction.resolve(path, out, x_t, t), x0, eps, space=prediction, weighting=MinSNR(5.0)
    )
    expected = path.log_snr(t).exp().clamp(max=5) * 0.01 * wrong.square().flatten(1).mean(1)
    torch.testing.assert_close(loss, expected)


def test_importance_weights_undo_the_density_of_the_times():
    """Times of density p with weight 1 / p have the expectation of uniform times."""
    rows = 20000
    batch, rng = data(0.0, 0.5, rows, (1, 1, 1))
    denoiser = oracle(gaussian(0.0, 0.5), Linear(), Velocity())
    sampler = LogitNormal(0.5, 1.2, uniform_share=0.2)
    losses = bound(FlowMatching(sampler), denoiser)(batch, rng)
    weighted = losses.terms["flow_matching"] / sampler.log_density(losses.t).exp()
    assert float(weighted.mean()) == pytest.approx(math.pi / 4, rel=0.08)
    assert float(losses.terms["flow_matching"].mean()) != pytest.approx(math.pi / 4, rel=0.02)


@pytest.mark.parametrize("prediction", [Eps(), Score(), Velocity()], ids=name)
def test_score_matching_is_the_weighted_error_of_the_score(prediction):
    path = VPLinear()
    x0, eps, wrong = torch.randn(3, 8, 2, 3, 3)
    batch = Batch(x0, texts(8), texts(1))
    t = torch.linspace(0.2, 0.8, 8)

    class Wrong(torch.nn.Module):
        def forward(self, x, time, cond, taps=()):
            return prediction.target(path, x0, eps, t) + 0.1 * wrong, {}

    denoiser = Denoiser(Wrong(), path, prediction)
    s = path.sigma(t)
    estimate = denoiser(path.mix(x0, eps, t), t, None)
    error = (estimate.score() + eps / s.view(-1, 1, 1, 1)).square().flatten(1).mean(1)
    simple = loss_at(bound(ScoreMatching(Uniform()), denoiser), batch, eps, t)
    torch.testing.assert_close(simple, s**2 * error, rtol=1e-4, atol=1e-6)
    likelihood = loss_at(bound(ScoreMatching(Uniform(), likelihood=True), denoiser), batch, eps, t)
    torch.testing.assert_close(likelihood, path.squared_diffusion(t) / 2 * error, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("likelihood", [False, True])
def test_at_the_noise_of_ve_a_score_network_has_the_loss_of_an_eps_network(likelihood):
    """sigma reaches 80: no bound on weights may stand between them."""
    path, (x0, eps, wrong) = VE(), torch.randn(3, 8, 2, 3, 3)
    t = path.time_of_log_snr(
        -2 * torch.tensor([0.01, 0.1, 1, 5, 19, 30, 60, 79], dtype=torch.float64).log()
    ).float()
    batch = Batch(x0, texts(8), texts(1))

    class Wrong(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def forward(self, x, time, cond, taps=()):
            return self.scale.view(-1, 1, 1, 1) * (eps + 0.1 * wrong), {}

    scales = {Eps(): torch.ones(8), Score(): -1 / path.sigma(t)}
    losses = [
        loss_at(
            bound(ScoreMatching(Uniform(), likelihood=likelihood), Denoiser(Wrong(scale), path, prediction)),
            batch,
            eps,
            t,
        )
        for prediction, scale in scales.items()
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=0)
    if not likelihood:
        torch.testing.assert_close(losses[0], 0.01 * wrong.square().flatten(1).mean(1), rtol=1e-3, atol=0)


def test_first_score_matching_loss_is_one_and_the_likelihood_weight_is_used():
    batch, rng = data()
    assert mean_loss(ScoreMatching(Uniform()), silent(VPLinear(), Eps()), batch, rng) == pytest.approx(
        1, abs=0.03
    )
    timestep = Uniform(0.5, 0.500001)
    t = torch.tensor(0.5)
    expected = float(Likelihood()(t, VPLinear()))
    loss = mean_loss(ScoreMatching(timestep, likelihood=True), silent(VPLinear(), Eps()), batch, rng)
    assert loss == pytest.approx(expected, rel=0.03)


def test_diffusion_in_a_named_space_is_its_squared_error():
    batch, rng = data()
    t, eps = torch.full((ROWS,), 0.5), rng.normal("noise", *SHAPE)
    denoiser = silent(VPLinear(), Eps())
    plain = loss_at(bound(Diffusion(Uniform()), denoiser), batch, eps, t)
    in_x0 = loss_at(bound(Diffusion(Uniform(), space=X0()), denoiser), batch, eps, t)
    torch.testing.assert_close(in_x0, plain * float(VPLinear().log_snr(t[0]).neg().exp()))
    reweighted = loss_at(bound(Diffusion(Uniform(), EvenWeight(X0())), denoiser), batch, eps, t)
    torch.testing.assert_close(reweighted, in_x0)


def test_permuting_the_batch_permutes_the_losses():
    batch, _ = data(rows=8)
    objective = bound(FlowMatching(Uniform()), Denoiser(Recorder(), Linear(), Velocity()))
    eps, t = torch.randn(8, *SHAPE), torch.rand(8)
    order = torch.randperm(8)
    loss = loss_at(objective, batch, eps, t)
    mixed = Batch(batch.x0[order], batch.condition[order], batch.null)
    torch.testing.assert_close(loss_at(objective, mixed, eps[order], t[order]), loss[order])


def test_rotating_data_and_noise_does_not_change_the_loss():
    batch, _ = data(rows=4)
    objective = bound(FlowMatching(Uniform()), oracle(gaussian(0.0, 1.0), Linear(), Velocity()))
    eps, t = torch.randn(4, *SHAPE), torch.rand(4)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]

    def rotate(x):
        return (x.flatten(2) @ rotation).view_as(x)

    turned = loss_at(objective, Batch(rotate(batch.x0), batch.condition, batch.null), rotate(eps), t)
    torch.testing.assert_close(turned, loss_at(objective, batch, eps, t), rtol=1e-4, atol=1e-5)


def test_micro_batches_have_the_losses_of_the_whole_batch():
    batch, rng = data(rows=12)
    objective = bound(FlowMatching(LogitNormal(stratified=True)), Denoiser(Recorder(), Linear(), Velocity()))
    whole = objective(batch, rng)
    rows = slice(5, 9)
    part = Batch(batch.x0[rows], batch.condition[rows], batch.null)
    micro = objective(part, rng[rows])
    torch.testing.assert_close(micro.terms["flow_matching"], whole.terms["flow_matching"][rows])
    assert torch.equal(micro.t, whole.t[rows])


def test_a_distribution_of_times_sees_the_main_losses_without_their_graph():
    class Curious(Uniform):
        def observe(self, loss, t):
            seen.append((loss, t))

    seen = []
    batch, rng = data(rows=4)
    objective = bound(FlowMatching(Curious()), Denoiser(torch.nn.Identity(), Linear(), Velocity()))
    scale = torch.ones((), requires_grad=True)
    objective.student.backbone.forward = lambda x, time, cond, taps=(): (scale * x, {})
    losses = objective(batch, rng)
    ((loss, t),) = seen
    assert losses.terms["flow_matching"].requires_grad and not loss.requires_grad
    assert torch.equal(loss, losses.terms["flow_matching"]) and torch.equal(t, losses.t)


def test_a_distribution_of_times_sees_what_errors_count_and_not_what_a_learned_weight_adds():
    class Curious(Uniform):
        def observe(self, loss, t):
            seen.append(loss)

    seen = []
    batch, rng = data(rows=4)
    weighting = Uncertainty()
    torch.nn.init.constant_(weighting.linear.bias, -3.0)  # the loss is negative
    denoiser = silent(Linear(), Velocity())
    main = bound(FlowMatching(Curious(), weighting), denoiser)(batch, rng).terms["flow_matching"]
    error = bound(FlowMatching(Uniform()), denoiser)(batch, rng).terms["flow_matching"]
    torch.testing.assert_close(seen[0], error * math.exp(3.0))
    torch.testing.assert_close(main, seen[0] - 3.0)


def test_runs_that_differ_in_the_times_see_the_same_noise():
    batch, rng = data(rows=4)
    first, second = Recorder(), Recorder()
    for backbone, timestep in ((first, Uniform(0.5, 0.500001)), (second, LogitNormal())):
        bound(FlowMatching(timestep), Denoiser(backbone, Linear(), Velocity(), time_scale=1.0))(batch, rng)

    def noise(backbone):
        ((x, t, _),) = backbone.calls
        t = t.view(-1, 1, 1, 1)
        return (x - (1 - t) * batch.x0) / t

    torch.testing.assert_close(noise(first), noise(second), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("objective", "path", "prediction"),
    [
        (FlowMatching(Uniform()), VPLinear(), Velocity()),
        (FlowMatching(Uniform()), VPCosine(), V()),
        (FlowMatching(LogitNormal()), VE(), EDM()),
        (Diffusion(Uniform()), Linear(), Score()),
        (Diffusion(Uniform()), VPLinear(), Velocity()),
        (Diffusion(Uniform(), space=Score()), Linear(), Eps()),
        (Diffusion(Uniform()), VE(), V()),
    ],
)
def test_unbounded_targets_are_refused_when_bound_and_name_the_options(objective, path, prediction):
    with pytest.raises(ValueError, match=r"loss=.*path=.*timestep.low"):
        objective.bind(silent(path, prediction))


@pytest.mark.parametrize("prediction", [EDM(1.0), EDM(0.5), X0(), Eps()], ids=name)
def test_the_targets_of_edm_are_bounded_on_the_ve_path(prediction):
    Diffusion(Uniform()).bind(silent(VE(), prediction))


def test_a_range_of_times_away_from_the_singular_end_is_accepted():
    FlowMatching(Uniform(0.01, 1.0)).bind(silent(VPLinear(), Velocity()))
    FlowMatching(Uniform(), MinSNR()).bind(silent(VPLinear(), Velocity()))


def test_wrong_options_and_a_wrong_order_of_calls_are_refused():
    with pytest.raises(ValueError, match=r"loss\.max_weight"):
        FlowMatching(Uniform(), max_weight=0.0)
    batch, rng = data(rows=4)
    with pytest.raises(RuntimeError, match="bind"):
        FlowMatching(Uniform())(batch, rng)
    with pytest.raises(ValueError, match="rows"):
        bound(FlowMatching(Uniform()), silent(Linear(), Velocity()))(batch, rng[:2])


@pytest.mark.parametrize("prediction", [X0(), Eps(), V(), Velocity(), Score(), EDM()], ids=name)
@pytest.mark.parametrize("path", [Linear(), VPCosine(), VE()], ids=name)
@pytest.mark.parametrize("weighting", [None, MinSNR(), Likelihood()], ids=name)
def test_losses_and_gradients_are_finite_at_both_ends(path, prediction, weighting):
    x0, eps = torch.randn(2, 2, 1, 2, 2)
    t = torch.tensor([0.0, 1.0])
    out = torch.randn(2, 1, 2, 2, requires_grad=True)
    estimate = prediction.resolve(path, out, path.mix(x0, eps, t), t)
    space = weighting.space if weighting else Eps()
    loss = weighted_error(estimate, x0, eps, space=space, weighting=weighting)
    if isinstance(prediction, Score):
        loss = loss[1:]  # the score itself has no value without noise
    loss.sum().backward()
    assert loss.isfinite().all() and out.grad.isfinite().all()


def test_the_objective_owns_no_parameters_and_gradients_reach_the_student():
    conv = torch.nn.Conv2d(4, 4, 1)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x, time, cond, taps=()):
            return self.conv(x), {}

    batch, rng = data(rows=4)
    objective = bound(FlowMatching(Uniform()), Denoiser(Net(), Linear(), Velocity()))
    assert not list(objective.parameters()) and not objective.state_dict()
    objective(batch, rng).terms["flow_matching"].mean().backward()
    assert conv.weight.grad.abs().sum() > 0
