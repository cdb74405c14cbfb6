"""`stage=distill`: students of a finished model, from the command to the picture."""

import json
import shutil

import pytest
import torch

from t2ilab import composition
from t2ilab.artifact import load
from t2ilab.manifest import MANIFEST
from t2ilab.sampling.student import Student
from tests.runs import crash_here, run_here, same_run
from tests.tiny import command, finished_run, workplace

SHORT = ("debug=tiny", "stage=distill", "stage.preview_every=2")
SMALL = (
    "eval.prompts_per_task=0",
    "eval.compose_per_task=0",
    "eval.reference_images=0",
    "eval.nfe_per_task=1",
)
METHODS = {
    "progressive": ("loss.first=4", "loss.last=1"),
    "guidance": ("loss.scales=[1,4]",),
    "consistency": ("levels@loss.levels=ect", "loss.teacher=false"),
    "lcm": ("loss.steps=2",),
    "kd": ("loss.keep=0.5",),
    "scm": ("loss.warmup=2",),
}
OF_PAIRS = ("reflow", "instaflow")


def manifest(run):
    return json.loads((run / "export" / MANIFEST).read_text())


def student_of(method, *options):
    """The run folder of a student, made once per process; read only."""
    run = workplace() / f"student-{method}"
    if not run.exists():
        command(
            *SHORT,
            *SMALL,
            f"loss={method}",
            f"init_from={finished_run()}",
            *METHODS[method],
            *options,
            run_dir=run,
        )
    return run


@pytest.mark.parametrize("method", METHODS)
def test_a_student_of_every_method_is_drawn_from_its_export_without_options(method, tmp_path):
    run = student_of(method)
    command(
        "stage=sample", f"init_from={run}", "prompts=[a red circle]", "stage.copies=1", run_dir=tmp_path / "p"
    )
    assert (tmp_path / "p/samples/grid.png").is_file()
    made = load(run)
    if method in ("guidance", "kd"):
        assert type(made.sampler).__name__ == "Euler"
        assert made.guidance.scale == (2.5 if method == "guidance" else 2.0)
    else:
        assert isinstance(made.sampler, Student)
        assert made.manifest["nodes"]["sampler"]["times"] == list(made.sampler.grid.given)
    assert made.denoiser.reads == (("guidance",) if method in ("guidance", "lcm") else ())
    drawn = made.generate.trajectory(["a red circle"], seed=0, rows=[0])
    assert drawn.nfe == (4 if method == "kd" else made.sampler.grid.steps)  # guidance takes two evaluations
    if method == "kd":
        assert made.denoiser.backbone.depth == 1 and load(finished_run()).denoiser.backbone.depth == 2
    (parent,) = manifest(run)["parents"]
    assert parent["path"] == str(finished_run() / "export")


def test_every_method_is_made_above_or_learns_from_pairs():
    files = (composition.conf_folder() / "loss").glob("*.yaml")
    assert {path.stem for path in files if ".distill." in path.read_text()} == {*METHODS, *OF_PAIRS}


def test_the_evaluation_compares_student_and_teacher_at_the_same_steps():
    run = student_of("progressive")
    found = json.loads((run / "evaluation.json").read_text())
    for steps in (1, 2, 4, 8):
        assert {f"nfe/judge@{steps}", f"teacher/nfe/judge@{steps}"} <= found.keys()
    for name in ("straightness", "teacher/straightness", "consistency_error"):
        assert found[name]["value"] >= 0
    before, changes = (json.loads((run / name).read_text()) for name in ("before.json", "changes.json"))
    assert before["meta"]["sampler"]["_target_"].endswith("Euler")  # the teacher's own
    assert before["meta"]["guidance"]["_target_"].endswith("CFG")
    assert found["meta"]["sampler"]["kind"] == "ode" and "drift" in changes


def test_a_teacher_that_is_copied_without_learning_gives_itself(tmp_path):
    run = tmp_path / "run"
    command(
        *SHORT,
        *SMALL,
        f"init_from={finished_run()}",
        "loss=guidance",
        "optimizer.lr=0",
        "trainer.max_steps=2",
        run_dir=run,
    )
    student, teacher = (load(path).denoiser.state_dict() for path in (run, finished_run()))
    assert all(torch.equal(student[name], teacher[name]) for name in teacher)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["loss=flow_matching"], "loss: stage=distill cannot use FlowMatching"),
        (["model=dit_s"], "model: the model of init_from decides it"),
        (["loss.first=6"], "times a power of 2"),
        (["loss=lcm", "loss.scale=2"], "choose loss.scale, one for all, or loss.scales"),
        (["stage.compare_steps=[0]"], "stage.compare_steps must be positive"),
        (["loss=consistency", "loss.teacher=false", "loss.scale=2"], "which loss.teacher=false leaves out"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        composition.checked(["stage=distill", "init_from=x", *options])


@pytest.mark.parametrize("method", OF_PAIRS)
def test_a_method_that_learns_from_pairs_is_refused(method, tmp_path):
    with pytest.raises(
        ValueError, match=rf"loss={method} learns from noise and image of one draw, which stage=distill"
    ):
        command(*SHORT, f"loss={method}", f"init_from={finished_run()}", run_dir=tmp_path / "run")


def test_a_method_of_distillation_is_refused_where_there_is_no_teacher():
    with pytest.raises(ValueError, match=r"loss=progressive imitates a teacher: choose stage=distill"):
        composition.checked(["debug=tiny", "loss=progressive"])


def test_another_length_of_a_run_with_rounds_is_another_run(tmp_path):
    run = shutil.copytree(student_of("progressive"), tmp_path / "run")
    options = ("loss=progressive", f"init_from={finished_run()}", *METHODS["progressive"])
    with pytest.raises(ValueError, match=r"loss\.total: was 4, now 6"):
        command(*SHORT, *SMALL, *options, "trainer.max_steps=6", run_dir=run)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    "method", [("loss=progressive", "loss.first=8", "loss.last=2"), ("loss=lcm", "loss.decay=0.5")]
)
def test_a_crashed_student_ends_as_if_it_had_not_crashed_also_across_a_round(method, tmp_path):
    options = (
        "stage=distill",
        *method,
        *SMALL,
        f"init_from={finished_run()}",
        "trainer.max_steps=7",
        "checkpoint.every=3",  # rounds begin with steps 3 and 5
        "logger.every=2",
        "stage.compare_steps=[]",
    )
    run_here(tmp_path / "whole", *options)
    for step in (2, 3, 5):
        crash_here(tmp_path / "run", step, *options)
    run_here(tmp_path / "run", *options)
    same_run(tmp_path / "run", tmp_path / "whole")
