"""`stage=distill` killed with -9 before and after a round of halving ends as if nobody had killed it, bit for bit."""

import pytest
import torch

from tests.runs import finish, run_here, same_run, signal_at, start
from tests.tiny import finished_run

pytestmark = [pytest.mark.proof, pytest.mark.usefixtures("own_cache")]


def test_a_student_that_is_killed_around_its_rounds_ends_as_if_it_had_not_been(tmp_path):
    options = (
        "stage=distill",
        "loss=progressive",
        "loss.first=8",
        "loss.last=2",
        f"init_from={finished_run()}",
        "trainer.max_steps=60",  # rounds begin with steps 20 and 40
        "checkpoint.every=7",
        "stage.preview_every=1000",
        "stage.compare_steps=[]",
        "eval.prompts_per_task=0",
        "eval.compose_per_task=0",
    )
    run_here(tmp_path / "whole", *options)
    for step in (16, 45):  # goes on at steps 14, before a round, and 42, in the last one
        process = start(tmp_path / "run", *options)
        assert signal_at(process, tmp_path / "run", step) == -9
    finish(tmp_path / "run", *options)
    same_run(tmp_path / "run", tmp_path / "whole")
    newest = max((tmp_path / "run/checkpoints").glob("*.ckpt"))
    state = torch.load(newest, weights_only=True)["state_dict"]
    assert int(state["objective.before.updates"]) == 2, "the student of the second round taught the third"
