from pathlib import Path

import pytest
import torch
import yaml

from t2ilab.eval.evaluator import Reference
from t2ilab.eval.plan import EvaluationPlan
from tests.eval.fakes import ColorWorld, MeanFeatures, painter

CONF = Path(__file__).parents[2] / "conf" / "eval"


def options(name):
    values = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert values.pop("_target_") == "t2ilab.eval.plan.EvaluationPlan"
    assert {"/scorer@scorer": "embedded"} in values.pop("defaults")
    return values


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_option_of_the_group_builds_an_evaluator_of_the_world(name):
    plan = EvaluationPlan(**options(name))
    evaluator = plan.evaluator(world=ColorWorld(), features=MeanFeatures(), heldout_size=100)
    assert len(evaluator.suites["judge"]) == 6 * plan.prompts_per_task
    assert ("compose" in evaluator.suites) == (plan.compose_per_task > 0)
    assert evaluator.heldout.size == min(100, plan.heldout_images)


def test_own_data_takes_captions_as_prompts():
    captions = tuple(f"photo {k % 5}" for k in range(12))
    images = painter()(list(captions), torch.arange(12))
    plan = EvaluationPlan(**{**options("standard"), "reference_images": 10, "samples_per_prompt": 2})
    evaluator = plan.evaluator(reference=Reference(images, captions), features=MeanFeatures())
    assert [p.text for p in evaluator.suites["prompts"]] == list(captions[:5])
    assert len(evaluator.suites["captions"]) == 10
    assert list(evaluator(painter())) == ["fd_clip", "kid_clip", "clip_score", "diversity"]


@pytest.mark.parametrize("change", [{"samples_per_prompt": 0}, {"nfe_steps": [0]}, {"heldout_images": 1}])
def test_impossible_numbers_name_their_option(change):
    with pytest.raises(ValueError, match=f"eval.{next(iter(change))}|eval.reference_images"):
        EvaluationPlan(**{**options("quick"), **change})
