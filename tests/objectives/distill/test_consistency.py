"""Consistency methods on Gaussian trajectories, and their schedules against the papers."""

import math
from itertools import pairwise

import pytest
import torch

from t2ilab.core.discrete import Discrete
from t2ilab.core.path import VE, Linear, Trig, VPCosine, like_rows
from t2ilab.core.prediction import EDM, X0, Eps, V, Velocity
from t2ilab.core.rng import RowRng
from t2ilab.objectives.distill import consistency
from t2ilab.objectives.distill.base import Follower
from t2ilab.objectives.distill.consistency import Consistency, pseudo_huber
from t2ilab.objectives.distill.lcm import LCM
from t2ilab.objectives.distill.levels import EasyLevels, EvenLevels, KarrasLevels, last_time
from t2ilab.sampling.student import Student
from tests.objectives.distill.distributions import SHAPE, batch_of, bound, exact, flow, line, teacher
from tests.oracles import oracle, texts

KARRAS = {
    "growth": "constant",
    "first": 2,
    "last": 40,
    "total": 100,
    "sigma_min": 0.004,
    "sigma_max": 160.0,
    "rho": 7.0,
    "mean": None,
    "std": None,
    "weighted": False,
    "shift": None,
}
EASY = {"mean": -0.4, "std": 2.0, "q": 2.0, "stages": 8, "total": 800, "sigma_max": 160.0, "shift": None}


def method(kind=Consistency, levels=None, **more):
    options = {"teacher": True, "decay": None, "huber": None, "steps": 2, "scale": None, "scales": None}
    return kind(levels=levels or KarrasLevels(**KARRAS), **options | more)


@pytest.mark.parametrize("prediction", [Velocity(), V(), Eps(), EDM(1.0)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("path", [Linear(), Trig(), VPCosine()], ids=lambda p: type(p).__name__)
def test_at_time_0_a_consistency_function_is_the_identity_whatever_the_network_says(path, prediction):
    x = batch_of()[0].x0
    found = line(path, prediction)(x, torch.zeros(16, dtype=torch.float64), texts(16)).x0
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


def test_a_network_that_predicts_x0_is_refused():
    with pytest.raises(ValueError, match="predicts x0 is no consistency function"):
        bound(method(), line(prediction=X0()))


def exactly(estimate, r):
    """The step of the exact trajectory in place of one of DDIM."""
    path = estimate.path
    alpha, sigma = (like_rows(f(r), estimate.x_t) for f in (path.alpha, path.sigma))
    end = flow(estimate.x_t, *(like_rows(f(estimate.t), estimate.x_t) for f in (path.alpha, path.sigma)))
    return alpha * 0.7 + torch.sqrt(alpha**2 * 0.25 + sigma**2) / 0.5 * (end - 0.7)


@pytest.mark.parametrize("kind", [Consistency, LCM])
@pytest.mark.parametrize("path", [Linear(), Trig()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("levels", [KarrasLevels(**KARRAS), EvenLevels(50, 2.2), EasyLevels(**EASY)])
def test_the_exact_function_has_no_loss_along_exact_trajectories(kind, path, levels, monkeypatch):
    monkeypatch.setattr(consistency, "moved", exactly)
    batch, rng = batch_of()
    for wrong, compare in ((0.0, lambda loss: loss < 1e-4), (0.05, lambda loss: loss > 1e-6)):
        student = oracle(exact(wrong), path, Velocity())
        losses = bound(method(kind, levels), student, teacher(path))(batch, rng)
        (loss,) = losses.terms.values()
        assert compare(float(loss.max())), float(loss.max())


def test_with_a_teacher_that_steps_the_loss_of_the_exact_function_falls_with_finer_levels():
    batch, rng = batch_of()
    student = oracle(exact(), Linear(), Velocity())
    coarse, fine = (
        float(bound(method(levels=EvenLevels(count, 1.0), huber=0.0), student)(batch, rng).total.mean())
        for count in (10, 100)
    )
    assert fine < 0.05 * coarse


def test_training_without_a_teacher_uses_the_same_noise_at_both_times():
    student = line()
    batch, rng = batch_of()
    made = bound(method(teacher=False), student)
    made(batch, rng)
    (x_r, r, _), (x_t, t, _) = student.backbone.calls
    eps = rng.normal("noise", *SHAPE)
    torch.testing.assert_close(x_r, Linear().mix(batch.x0, eps, r))
    torch.testing.assert_close(x_t, Linear().mix(batch.x0, eps, t))
    step = x_t + like_rows(r - t, x_t) * (x_t - batch.x0) / like_rows(t, x_t)  # Euler, the data as denoiser
    torch.testing.assert_close(x_r, step, rtol=1e-5, atol=1e-5)


def test_training_has_the_expected_gradient_of_distillation():
    """The mean of x_r at the same noise, given x_t, is the teacher's step, and this student is affine in x."""
    batch, rng = batch_of(rows=4096)
    found = []
    for taught in (True, False):
        student = line()
        made = bound(method(teacher=taught, levels=EvenLevels(20, 1.0), huber=1e3), student)
        made(batch, rng).total.sum().backward()
        found.append([float(student.backbone.a.grad), float(student.backbone.b.grad)])
    assert found[0] == pytest.approx(found[1], rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_function_that_lcm_is_after_has_the_mean_of_the_guided_teacher(scale):
    """mean_null + s (mean - mean_null) with the standard scale s, which is not LCM's w."""

    def student(own):
        def distribution(x, alpha, sigma, cond):
            x0 = flow(x, alpha, sigma, mean=0.7 + own * like_rows(cond.pooled[:, 0], x))
            return x0, (x - alpha * x0) / sigma.clamp(min=1e-12)

        return oracle(distribution, Linear(), Velocity())

    batch, rng = batch_of(value=0.8)
    right, *wrong = (
        float(bound(method(LCM, EvenLevels(200, 1.0), scale=scale), student(own))(batch, rng).total.mean())
        for own in (scale, scale - 1, scale + 1)
    )
    assert right < 0.1 * min(wrong)


def test_no_gradient_passes_through_the_target():
    student = line()
    batch, rng = batch_of()
    made = bound(method(teacher=False, levels=EvenLevels(4, 1.0), huber=0.0), student)
    made(batch, rng).total.sum().backward()
    found = float(student.backbone.b.grad)
    frozen = Follower(student)
    (x_r, r, _), (x_t, t, _) = student.backbone.calls[:2]
    wanted = torch.where(like_rows(r > 0, x_r), frozen(x_r, r, batch.condition).x0, x_r)
    student.backbone.b.grad = None
    pseudo_huber(student(x_t, t, batch.condition).x0, wanted, 0.0).sum().backward()
    assert float(student.backbone.b.grad) == pytest.approx(found)


def test_a_slow_target_follows_once_per_step_and_lies_in_the_checkpoint():
    student = line(a=0.0)
    made = bound(method(decay=0.5, teacher=False), student)
    batch, _ = batch_of()
    for step, value in ((0, 0.0), (0, 0.0), (1, 1.0), (1, 5.0), (2, 2.0)):
        with torch.no_grad():
            student.backbone.a.fill_(value)
        made(batch, RowRng(7, step, torch.arange(16), 16))
    assert float(made.slow.network.backbone.a) == 1.25  # 0, then 0.5 (0 + 1), then 0.5 (0.5 + 2)
    assert {"slow.network.backbone.a", "slow.updates"} <= made.state_dict().keys()
    assert all(not p.requires_grad for p in made.parameters())


def test_the_distances_are_those_of_the_papers():
    a, b = batch_of()[0].x0, batch_of(seed=9)[0].x0
    norm = (a - b).square().flatten(1).sum(1)
    torch.testing.assert_close(pseudo_huber(a, b, 0.3), (norm + 0.09).sqrt() - 0.3)
    torch.testing.assert_close(pseudo_huber(a, b, 0.0), norm.sqrt())
    made = method(LCM, huber=0.1)
    torch.testing.assert_close(made.distance(a, b), (((a - b) ** 2 + 0.01).sqrt() - 0.1).flatten(1).mean(1))
    assert float(method().distance(a, a).max()) == float(pseudo_huber(a, a, 0.0).max()) == 0.0
    assert float(method(LCM, huber=0.0).distance(a, a).max()) == 0.0


def test_the_constant_of_the_distance_grows_with_the_root_of_the_numbers_of_an_image():
    a, b = batch_of(rows=1)[0].x0, batch_of(rows=1, seed=9)[0].x0
    for made in (method(), method(huber=None)):
        c = consistency.HUBER * math.sqrt(math.prod(SHAPE))
        torch.testing.assert_close(made.distance(a, b), pseudo_huber(a, b, c), rtol=1e-12, atol=0.0)


def test_an_answer_of_a_copy_or_of_the_teacher_has_no_graph():
    """Also where nobody has frozen the teacher, and the state that it is asked about has a gradient."""
    taught, student = line(), line()
    made = bound(method(), student, taught)
    batch, _ = batch_of()
    x, t = batch.x0.clone().requires_grad_(), torch.full((16,), 0.5, dtype=torch.float64)
    copy = Follower(student)
    copy.follow(student, 1, 0.5)
    assert not any(p.requires_grad for p in copy.parameters())
    for estimate in (made.guided(batch, x, t), copy(x, t, batch.condition)):
        assert not estimate.out.requires_grad


def test_data_of_twice_the_std_of_ict_have_twice_its_distance():
    """In iCT's units, std 0.5, c is 0.00054 sqrt(D); here the same images have std 1."""
    a, b = (0.5 * batch_of(seed=seed)[0].x0 for seed in (0, 9))
    b = a + torch.logspace(-4, 0, len(a)).view(-1, 1, 1, 1) * (b - a)  # errors far below c and far above
    theirs = pseudo_huber(a, b, 0.00054 * math.sqrt(a[0].numel()))
    torch.testing.assert_close(method().distance(2 * a, 2 * b), 2 * theirs)


def test_levels_grow_as_in_consistency_training_and_in_ict():
    root = KarrasLevels(**KARRAS | {"growth": "root", "last": 200, "total": 1000})
    assert [root.count(step) for step in (0, 250, 1000)] == [
        2,
        math.ceil((0.25 * (201**2 - 4) + 4) ** 0.5 - 1) + 1,
        201,
    ]
    ict = KarrasLevels(**KARRAS | {"growth": "double", "first": 10, "last": 1280, "total": 400_000})
    assert [ict.count(50_000 * k) for k in range(9)] == [11, 21, 41, 81, 161, 321, 641, 1281, 1281]


def test_noise_levels_are_karras_and_their_chances_those_of_ict():
    levels = KarrasLevels(**KARRAS | {"mean": -0.4, "std": 2.0, "weighted": True})
    sigma, chances = levels.levels(11), levels.chances(11)
    assert float(sigma[0]) == pytest.approx(0.004) and float(sigma[-1]) == pytest.approx(160.0)
    assert float(chances.sum()) == pytest.approx(1.0)
    density = torch.distributions.Normal(-0.4, 2.0).cdf(sigma.log()).diff()
    torch.testing.assert_close(chances, density / density.sum())
    pair = levels.pairs(RowRng(0, 5, torch.arange(512), 512), Linear())
    s_t, s_r = (time.double() / (1 - time.double()) for time in (pair.t, pair.r))
    torch.testing.assert_close(pair.weight.double(), 1 / (s_t - s_r), rtol=1e-2, atol=1e-3)
    assert bool((pair.t > pair.r).all())


def test_without_a_distribution_every_pair_of_levels_is_as_likely_and_both_ends_are_drawn():
    levels = KarrasLevels(**KARRAS | {"last": 11})
    assert levels.chances(11).tolist() == pytest.approx([0.1] * 10)

    class Ends:
        """The least and the largest draw; ten tenths sum to less than the latter."""

        step = 0

        def uniform(self, purpose, dtype):
            return torch.tensor([0.0, 1 - 2.0**-53], dtype=dtype)

    pair, sigma = levels.pairs(Ends(), Linear()), levels.levels(11)
    for found, wanted in ((pair.r, sigma[[0, 9]]), (pair.t, sigma[[1, 10]])):
        torch.testing.assert_close(found.double() / (1 - found.double()), wanted, rtol=1e-3, atol=1e-5)


def test_pairs_of_easy_levels_are_a_level_and_its_lower_one_with_the_weight_of_their_distance():
    levels = EasyLevels(**EASY)
    for step in (0, 300):
        pair = levels.pairs(RowRng(0, step, torch.arange(256), 256), Linear())
        high = pair.t.double() / (1 - pair.t.double())
        low = levels.lower(high, levels.stage(step))
        torch.testing.assert_close(pair.r.double() / (1 - pair.r.double()), low, rtol=1e-2, atol=1e-4)
        torch.testing.assert_close(pair.weight.double(), 1 / (high - low), rtol=1e-2, atol=1e-4)
        assert bool((pair.r == 0).any()) == (step == 0) and bool((pair.r > 0).any())


def test_even_levels_are_neighbours_on_the_grid_and_reach_both_of_its_ends():
    pair = EvenLevels(5, 1.0).pairs(RowRng(0, 5, torch.arange(512), 512), Linear())
    assert {round(5 * float(t), 5) for t in pair.t} == {1, 2, 3, 4, 5}
    torch.testing.assert_close(pair.t - pair.r, torch.full_like(pair.t, 0.2))
    assert bool((pair.weight == 1).all())


def test_easy_levels_begin_as_denoising_and_come_nearer():
    levels = EasyLevels(**EASY)
    sigma = torch.logspace(-3, 2, 50, dtype=torch.float64)
    gaps = [sigma - levels.lower(sigma, stage) for stage in range(8)]
    assert float(levels.lower(sigma, 0)[sigma < 1].max()) == 0.0  # compared with the data
    for wide, narrow in pairwise(gaps):
        assert bool((narrow <= wide).all())
    assert all(bool((gap > 0).all()) for gap in gaps)
    for stage in range(8):  # the paper's levels are half as large
        paper = sigma * (1 - 2.0 ** -(stage + 1) * (1 + 8 * torch.sigmoid(-sigma)))
        torch.testing.assert_close(levels.lower(2 * sigma, stage), 2 * paper.clamp(min=0))
    assert [levels.stage(step) for step in (0, 99, 100, 799, 900)] == [0, 0, 1, 7, 7]


def test_the_scale_that_the_student_is_told_is_that_of_the_teacher():
    student, taught = line(), teacher()
    made = bound(method(LCM, EvenLevels(50, 1.0), scales=[1.0, 4.0]), student, taught)
    batch, rng = batch_of(value=1.0)
    seen = []
    monitored = made.guided
    made.guided = lambda b, x, t, scales: seen.append(scales) or monitored(b, x, t, scales)
    made(batch, rng)
    for _, _, cond in student.backbone.calls:
        assert torch.equal(cond.numbers["guidance"], seen[0])
    assert 1.0 <= float(seen[0].min()) < float(seen[0].max()) <= 4.0
    t = torch.full((16,), 0.5, dtype=torch.float64)
    with_text, without = (taught(batch.x0, t, c).out for c in (batch.condition, texts(16)))
    w = like_rows(seen[0] - 1, batch.x0)  # LCM's
    torch.testing.assert_close(
        made.guided(batch, batch.x0, t, seen[0]).out, with_text + w * (with_text - without)
    )
    assert made.drawing(Linear()).scale == 2.5


def test_lcm_is_drawn_at_times_of_its_grid_with_the_scale_it_is_told():
    made = bound(method(LCM, EvenLevels(50, 2.2), scales=[1.0, 4.0], steps=4), line())
    times = made.drawing(Linear()).times
    grid = {round(2.2 * (i / 50) / (1 + 1.2 * i / 50), 9) for i in range(1, 51)}
    assert len(times) == 4 and times[0] == 1.0 and {round(time, 9) for time in times} <= grid
    for levels in (KarrasLevels(**KARRAS), EasyLevels(**EASY)):
        first = method(levels=levels, steps=3).drawing(Linear()).times[0]
        assert first == pytest.approx(160 / 161)


@pytest.mark.parametrize("levels", [KarrasLevels(**KARRAS), EasyLevels(**EASY)])
def test_more_noise_than_the_path_has_is_refused(levels):
    scaled = Discrete(0.00085, 0.012, power=2.0)
    with pytest.raises(ValueError, match=r"loss\.levels\.sigma_max=160\.0 .*path=Discrete .* ends at 14\.61"):
        method(levels=levels).drawing(scaled)
    levels.sigma_max = 14.6
    assert 0.999 < method(levels=levels).drawing(scaled).times[0] <= 1


def test_the_noise_at_the_very_end_of_a_path_is_not_more_than_it_has():
    assert last_time(50.0, VE(50.0)) == 1.0


@pytest.mark.parametrize("times", [[1.0], [1.0, 0.5], [0.9, 0.6, 0.3]])
def test_renoising_with_the_exact_function_draws_the_data_with_any_times(times):
    student = oracle(exact(), Linear(), Velocity())
    rng = RowRng(3, 0, torch.arange(512), 512)
    x = Student("renoise", times)(
        student, rng.normal("noise", *SHAPE, dtype=torch.float64), texts(512), rng=rng
    ).x
    assert float(x.mean()) == pytest.approx(0.7, abs=0.04 if times[0] == 1 else 0.1)
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)
