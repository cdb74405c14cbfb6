"""`stage=reward`: comparisons to a reward that another run reads."""

import json

import pytest
import torch

from t2ilab.data.scenes import Preferences
from t2ilab.eval.preferences import preference_metrics
from t2ilab.rewards.model import Learned, RewardModel
from t2ilab.stages.reward import measured, scored
from tests.data.test_preference_files import pick, write
from tests.runs import FOUNDATION, crash_here, losses, run_here, same_run
from tests.tiny import command, finished_run

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = (
    "stage=reward",
    *FOUNDATION,
    "data.size=24",
    "data.val_size=40",
    "model.width=8",
    "trainer.max_steps=5",
)


UNCERTAIN = ("loss=gaussian_utility", "model.uncertain=true")
ON_SAMPLES = ("stage.samples_prompts=3", "stage.samples_images=2")


@pytest.mark.parametrize(
    "options",
    [
        UNCERTAIN,
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("loss=plackett_luce", "data.images=3", "model.head=cosine"), marks=pytest.mark.slow),
    ],
)
def test_a_reward_learns_measures_itself_and_goes_on_bit_for_bit(tmp_path, options):
    folder = tmp_path / "whole"
    if options == UNCERTAIN:
        options = (*options, *ON_SAMPLES, f"stage.samples_from={finished_run()}")
    value = run_here(folder, *SMALL, *options, tiny=[])
    rows = losses(folder)
    assert len(rows) == 5 and all(0 <= float(row["train/accuracy"]) <= 1 for row in rows.values())
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["reward/accuracy"]["value"] == value
    assert 0.7 < evaluation["reward/best_accuracy"]["value"] < 1
    for name in ("nll", "ece", "temperature"):
        assert evaluation[f"reward/{name}"]["value"] >= 0
    for name in ("position", "length", "saturation"):
        assert -1 <= evaluation[f"reward/{name}_bias"]["value"] <= 1
    own, best = (evaluation[f"reward/expected_{name}"]["value"] for name in ("accuracy", "best"))
    assert own <= best == pytest.approx(evaluation["reward/best_accuracy"]["value"])
    if UNCERTAIN[0] in options:
        own, best = (evaluation[f"reward/{name}@samples"]["value"] for name in ("accuracy", "best_accuracy"))
        assert 0 < own <= best < 1 and evaluation["reward/nll_spread"]["value"] > 0
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "reward" and manifest["evaluation"]["reward/accuracy"] == value
    crash_here(tmp_path / "run", 3, *SMALL, *options, tiny=[])
    run_here(tmp_path / "run", *SMALL, *options, tiny=[])
    same_run(tmp_path / "run", folder)
    same_as_measured(folder, value)
    if not options:
        options = [f"reward.path={folder}", "stage.prompts=4", "stage.images=2", "stage.skip_evaluated=false"]
        pairs = tmp_path / "pairs"
        command("stage=pairs", f"init_from={finished_run()}", "reward=learned", *options, run_dir=pairs)
        assert json.loads((pairs / "export/t2ilab.json").read_text())["kind"] == "pairs"


@pytest.mark.slow
def test_a_reward_and_a_model_learn_from_parquet_files_of_people(tmp_path):
    write(
        tmp_path / "data/train.parquet", [pick(1.0, 0.0), pick(0.0, 1.0), pick(0.5, 0.5), pick(1.0, 0.0)] * 3
    )
    write(
        tmp_path / "data/validation.parquet",
        [pick(1.0, 0.0, caption="b"), pick(0.0, 1.0, caption="a b c")] * 3,
    )
    files = ("data=preferences", f"data.path={tmp_path / 'data'}", "data.batch_size=4", "data.resolution=32")
    short = ("stage=reward", *FOUNDATION, *files, "model.width=8", "trainer.max_steps=2")
    value = run_here(tmp_path / "run", *short, tiny=[])
    assert value == 0.5, "each image wins as often as it loses"
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert report["pairs"] == {"decided": 15, "ties": 3} and report["used"] == {"train": 12, "val": 6}
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert "reward/expected_accuracy" not in evaluation, "nobody knows the odds"
    options = ["stage=preference", "debug=tiny", f"init_from={finished_run()}", *files]
    command(*options, run_dir=tmp_path / "preferred")
    assert json.loads((tmp_path / "preferred/data_report.json").read_text())["found"] == 18
    page = (tmp_path / "preferred/report.html").read_text()
    assert "18 comparisons found = 18 used" in page and "15 decided, 3 ties" in page


def same_as_measured(folder, value):
    """The reward that is read back says what the run measured, and has a gradient."""
    reward = Learned(path=str(folder))
    source = Preferences("val", size=40, resolution=32, ties=0.5)
    images, prompts = source.images(range(40)).float() / 255, source.prompts(range(40))
    each = torch.stack([reward(images[:, side], prompts) for side in (0, 1)], 1)
    ranks = source.ranks(range(40))
    d = (each[:, 0] - each[:, 1]) * (ranks[:, 1] - ranks[:, 0]).sign()
    found = preference_metrics(d[ranks[:, 0] != ranks[:, 1]], None)
    assert found["reward/accuracy"].value == pytest.approx(value, abs=1e-6)
    assert each.mean().abs() < 1e-4 and each.std() == pytest.approx(1, abs=1e-3)
    inputs = images[:2, 0].clone().requires_grad_()
    reward(inputs, prompts[:2]).sum().backward()
    assert inputs.grad.abs().flatten(1).sum(1).min() > 0


class Oracle(torch.nn.Module):
    """Knows the utilities of the images that it is shown."""

    def __init__(self, source):
        super().__init__()
        self.towers = type("Towers", (), {"tokens": staticmethod(lambda texts: torch.zeros(len(texts), 1))})
        self.each = self.left = [one.utilities for one in (source[i] for i in range(len(source)))]

    def forward(self, images, ids):
        now, self.left = (
            self.left[: len(images)],
            self.left[len(images) :] or self.each,
        )  # from the first again
        return torch.tensor(now)


@pytest.mark.parametrize("ties", [0.0, 0.5])
def test_a_reward_that_knows_the_utilities_is_as_right_as_any_can_be(ties):
    source = Preferences("val", size=2000, resolution=32, ties=ties)
    found, scores = measured(Oracle(source), source)
    best = found["reward/best_accuracy"].value
    assert found["reward/accuracy"].value == pytest.approx(best, abs=0.025)
    expected = found["reward/expected_accuracy"].value
    assert expected == pytest.approx(best) == found["reward/expected_best"].value
    assert abs(found["reward/position_bias"].value) < 0.03 and found["reward/saturation_bias"].value == 0
    assert found["reward/temperature"].value == pytest.approx(1, abs=0.2), "log odds are what utilities mean"
    assert found["reward/ece"].value < 0.03 and scores.shape == (4000,)


def test_only_the_last_blocks_learn_if_so_asked():
    model = RewardModel(path="assets/encoder", head="mlp", width=8, layers=1)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any(".visual.transformer.resblocks.3." in name for name in learning)
    assert not any(".resblocks.0." in name or "token_embedding" in name for name in learning)
    frozen = RewardModel(path="assets/encoder", head="mlp", width=8, layers=0)
    assert {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad} == {"mlp"}
    with pytest.raises(ValueError, match=r"model\.layers must be null"):
        RewardModel(path="assets/encoder", head="mlp", width=8, layers=-1)
    with pytest.raises(ValueError, match=r"model\.head must be one of cosine, mlp"):
        RewardModel(path="assets/encoder", head="linear", width=8)


def test_scores_are_those_of_each_image_alone():
    model = RewardModel(path="assets/encoder", head="mlp", width=8).eval()
    source = Preferences("val", size=4, resolution=32, images=3)
    every, _ = scored(model, source)
    ids = model.towers.tokens(source.prompts([2]))
    alone = model(source.images([2])[:, 1:2].float() / 255, ids)
    assert every[2, 1].item() == pytest.approx(alone.item(), abs=1e-5)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"loss=gaussian_utility .*model\.uncertain=true"):
        command("stage=reward", "loss=gaussian_utility", run_dir=tmp_path)
    with pytest.raises(ValueError, match="loss=bradley_terry teaches no spread"):
        command("stage=reward", "model.uncertain=true", run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"model\.uncertain=true needs model\.head=mlp"):
        RewardModel(path="assets/encoder", head="cosine", width=8, uncertain=True)
    with pytest.raises(ValueError, match=r"stage\.samples_images must be at least 2"):
        command("stage=reward", "stage.samples_images=1", run_dir=tmp_path)
    with pytest.raises(ValueError, match=r"stage\.samples_from"):
        command("stage=reward", *SMALL[1:], f"stage.samples_from={tmp_path}", run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="stage=reward reads comparisons, these data hold images"):
        command("stage=reward", "data=scenes", run_dir=tmp_path)
    with pytest.raises(ValueError, match="loss: stage=reward cannot use FlowMatching"):
        command("stage=reward", "loss=flow_matching", run_dir=tmp_path)
    with pytest.raises(ValueError, match="model: stage=pretrain cannot use RewardModel"):
        command("model=reward_clip", run_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"reward\.path=.* is an export of kind denoiser; a reward is needed"
    ):
        Learned(path=str(finished_run()))
