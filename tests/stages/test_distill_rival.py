"""A method of distillation with a critic of its own is one file and one yaml, which this test brings."""

import csv
import json
import sys

import pytest
import torch

from t2ilab.callbacks.checkpoint import newest_whole
from t2ilab.export.denoiser import load
from tests.runs import crash_here, run_here, same_run
from tests.tiny import finished_run

METHOD = '''
import torch

from t2ilab.objectives.distill.base import Distillation, Drawing
from t2ilab.objectives.hinge import discriminator_hinge, generator_hinge
from t2ilab.objectives.losses import Losses


class Rival(Distillation):
    """One step whose image a critic takes for a real one; the critic sees hidden states of the frozen teacher."""

    name = "rival"

    def __init__(self, critic, every):
        super().__init__()
        self.critic, self.every = critic, every

    def drawing(self, path):
        return Drawing("one_step", (1.0,))

    def turns(self, step):
        return ("critic", "student") if step % self.every == 0 else ("critic",)

    def seen(self, x0, batch, rng):
        t, eps = rng.uniform("level"), rng.normal("level noise", *x0.shape[1:])
        (tap,) = self.teacher.depths[:1]
        hidden = self.teacher(self.path.mix(x0, eps, t), t, batch.condition, [tap]).taps[tap]
        return self.critic.network(hidden.mean(1))

    def made(self, batch, rng):
        eps = rng.normal("noise", *batch.x0.shape[1:])
        return self.answer(eps, torch.ones(len(eps)), batch.condition, rng).x0

    def losses(self, batch, eps, scales, rng):
        return Losses({"rival": generator_hinge(self.seen(self.made(batch, rng), batch, rng))})

    def turn(self, player, batch, rng, kept):
        real, made = (self.seen(x0, batch, rng) for x0 in (batch.x0, self.made(batch, rng)))
        return Losses({"hinge": discriminator_hinge(real, made)})
'''
YAML = """
_target_: rival_method.Rival
every: 2
critic:
  _target_: t2ilab.objectives.turns.Player
  network: {_target_: torch.nn.Linear, in_features: 32, out_features: 1}
  optimizer: {_target_: torch.optim.AdamW, _partial_: true, lr: 1.0e-2}
  schedule: {_target_: t2ilab.training.schedule.Constant, warmup: 0}
  clip: 1.0
"""


@pytest.fixture
def options(tmp_path, monkeypatch, own_cache):
    (tmp_path / "conf/loss").mkdir(parents=True)
    (tmp_path / "conf/loss/rival.yaml").write_text(YAML)
    (tmp_path / "rival_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    yield (
        f"hydra.searchpath=[file://{tmp_path / 'conf'}]",
        "stage=distill",
        "loss=rival",
        f"init_from={finished_run()}",
        "trainer.max_steps=4",
        "checkpoint.every=2",
        "eval.prompts_per_task=0",
        "eval.compose_per_task=0",
        "stage.compare_steps=[]",
        "optimizer.lr=0.01",
    )
    sys.modules.pop("rival_method", None)


@pytest.mark.slow
def test_a_critic_beside_a_student_learns_is_not_exported_and_goes_on_bit_for_bit(options, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_here(whole, *options)
    with (whole / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"], "steps are those of the student"
    losses = [float(row["train/critic/loss"]) for row in rows]
    assert losses[0] == pytest.approx(2.0, abs=0.7) and losses[-1] != losses[0]
    student, teacher = (load(path).denoiser.backbone.state_dict() for path in (whole, finished_run()))
    assert student.keys() == teacher.keys(), "no critic in the export"
    assert any(not torch.equal(student[name], teacher[name]) for name in teacher)
    found = torch.load(newest_whole(whole / "checkpoints").path, weights_only=True)
    assert {name.split(".")[0] for name in found["state_dict"]} == {"student", "objective"}
    assert "objective.critic.network.weight" in found["state_dict"] and len(found["optimizer_states"]) == 2
    manifest = json.loads((whole / "export/t2ilab.json").read_text())
    assert manifest["nodes"]["sampler"]["kind"] == "one_step"
    assert load(whole).generate.trajectory(["a red circle"], seed=0, rows=[0]).nfe == 1
    crash_here(run, 3, *options)
    run_here(run, *options)
    same_run(run, whole)
