import pytest
import torch

from t2ilab.eval.nfe import Drawn, NFEPoint, nfe_curve, trajectory_error
from tests.eval.fakes import ColorWorld, painter


def test_error_is_zero_for_the_reference_and_two_for_unrelated_latents():
    a, b = torch.randn(200, 4, 4, 4), torch.randn(200, 4, 4, 4)
    assert trajectory_error(a, a).max() == 0
    assert trajectory_error(a, b).mean() == pytest.approx(2, rel=0.1)


def test_curve_reports_quality_error_and_evaluations_of_each_step_count():
    world = ColorWorld()
    prompts = world.prompts("test", 5, 0)
    exact = torch.randn(len(prompts), 2, 4, 4)

    def draw(steps):
        images = painter(1 - 1 / steps)([p.text for p in prompts], torch.arange(len(prompts)))
        return Drawn(exact * (1 + 1 / steps), images, nfe=2 * steps)

    points = nfe_curve(draw, [1, 4, 16], prompts=prompts, judge=world, reference=exact)
    assert [p.nfe for p in points] == [2, 8, 32]
    for point in points:
        assert point.error.value == pytest.approx(1 / point.steps**2, rel=1e-4)
    assert points[0].quality.value < points[1].quality.value <= points[2].quality.value
    assert [NFEPoint.from_json(p.to_json()) for p in points] == points


def test_curve_without_a_judge_has_the_error_only():
    x = torch.randn(4, 2, 4, 4)
    (point,) = nfe_curve(lambda steps: Drawn(x, None, steps), [3], reference=x)
    assert point.quality is None
    assert point.error.value == 0
