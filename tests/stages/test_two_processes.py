"""Stages that start from a model, killed on two processes, end as the same run does on one, to float tolerance."""

import signal

import pytest

from tests.runs import FOUNDATION, finish, losses, said, signal_at, start, steps, weights
from tests.tiny import finished_run

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("own_cache")]
TWO = ("trainer.devices=2", "trainer.accelerator=cpu")
SMALL = ("eval.prompts_per_task=0", "eval.compose_per_task=0", "eval.reference_images=0")
SHORT = (
    "debug=tiny",
    *SMALL,
    "trainer.max_steps=24",
    "checkpoint.every=5",
    "logger.every=2",
    "stage.preview_every=100",
)
STAGES = {
    "continue with replay": ("stage=continue", "data.subset=teddy", "stage.replay=0.25"),
    "fine-tuning of a LoRA": ("stage=sft", "adapter=lora", "adapter.rank=2"),
    "dreambooth": ("stage=personalize", "data=subject", "stage.class_images=6"),
    "progressive distillation": (
        "stage=distill",
        "loss=progressive",
        "loss.first=4",
        "loss.last=2",
        "stage.compare_steps=[]",
    ),
    "textual inversion": (
        "stage=personalize",
        "data=subject",
        "stage.class_images=6",
        "loss=textual_inversion",
    ),
    "latent consistency": ("stage=distill", "loss=lcm", "stage.compare_steps=[]"),
}


def killed_on_two(folder, options, step=8):
    """A run on two processes whose first one is killed after a step, which goes on with both."""
    process = start(folder, *TWO, tiny=options)
    assert signal_at(process, folder, step) == -signal.SIGKILL
    assert step <= max(losses(folder)) < 24, "it was killed on the way"
    told = finish(folder, *TWO, tiny=options)
    assert "continuing from" in told and "Traceback" not in told and "warning" not in told.lower(), told
    assert told.count("another process of this run has ended") == 1, told


def nearly_the_same(folder, reference):
    """Equal up to the rounding of sums that are taken in another order, which steps of AdamW and Muon enlarge."""
    assert steps(folder) == steps(reference)
    for step, row in losses(reference).items():
        for name, cell in row.items():
            other = losses(folder)[step][name]
            assert cell == other or float(other) == pytest.approx(float(cell), rel=2e-3, abs=1e-5), (
                step,
                name,
            )
    one, other = weights(folder), weights(reference)
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name].float() - other[name].float()).abs().max() < 2e-3, name


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_that_are_killed_end_where_one_does(stage, tmp_path):
    options = (*SHORT, *STAGES[stage], f"init_from={finished_run()}")
    finish(tmp_path / "alone", tiny=options)
    killed_on_two(tmp_path / "two", options)
    nearly_the_same(tmp_path / "two", tmp_path / "alone")
    assert said(tmp_path / "two").count("report:") == 1


def test_preferences_and_rewards_on_two_processes_end_where_one_does(tmp_path):
    drawn = ("stage=pairs", f"init_from={finished_run()}", "reward=clip_score", "trainer.threads=1")
    finish(
        tmp_path / "pairs", tiny=(*drawn, "stage.prompts=16", "stage.images=2", "stage.skip_evaluated=false")
    )
    pairs = ("data=pairs", f"data.path={tmp_path / 'pairs'}", "stage.skip_evaluated=false")
    for name, options in {
        "dpo": (*SHORT, "stage=preference", *pairs, f"init_from={finished_run()}"),
        "reward": (
            "stage=reward",
            *FOUNDATION,
            "data.size=24",
            "data.val_size=40",
            "model.width=8",
            "trainer.max_steps=24",
        ),
    }.items():
        finish(tmp_path / name, tiny=options)
        killed_on_two(tmp_path / f"{name}_two", options)
        nearly_the_same(tmp_path / f"{name}_two", tmp_path / name)
