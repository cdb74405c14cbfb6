"""`stage=distill`: students of a finished model, from the command to the image."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.callbacks.checkpoint import newest_whole
from t2ilab.config import composition
from t2ilab.core.guidance import NoGuidance
from t2ilab.eval.grid import read_grid, to_arrays
from t2ilab.export.denoiser import load
from t2ilab.export.manifest import MANIFEST
from t2ilab.objectives.distill.progressive import Progressive
from t2ilab.objectives.roles import Roles
from t2ilab.objectives.turns import Player
from t2ilab.pairs import PairFiles
from t2ilab.sampling.student import Student
from t2ilab.stages.distill import Distill
from t2ilab.stages.noise_pairs import NoiseRows
from t2ilab.stages.pairs import noise_free
from tests.objectives.distill.distributions import line, teacher
from tests.oracles import texts
from tests.runs import crash_here, run_here, same_run
from tests.tiny import command, finished_run, workplace

SHORT = ("debug=tiny", "stage=distill", "stage.preview_every=2")
SMALL = (
    "eval.prompts_per_task=0",
    "eval.compose_per_task=0",
    "eval.reference_images=0",
    "eval.nfe_per_task=1",
    "stage.compare_steps=[1]",
)
METHODS = {
    "progressive": (
        "loss.first=4",
        "loss.last=1",
        "eval.reference_images=12",
        "stage.compare_steps=[1,2]",
    ),
    "guidance": ("loss.scales=[1,4]",),
    "consistency": ("levels@loss.levels=ect", "loss.teacher=false"),
    "lcm": ("loss.steps=2",),
    "kd": ("loss.keep=0.5",),
    "scm": ("loss.warmup=2",),
}
RARE = tuple(name for name in METHODS if name != "progressive")
SLOW = pytest.mark.slow
REACHED = ("judge", "fd_clip", "diversity", "sharpness", "seconds")
OF_PAIRS = {
    "reflow": ("loss.steps=2", "terms=[perceptual]"),
    "instaflow": ("loss.warmup=0.5",),  # two of its four steps look at images
}


def manifest(run):
    return json.loads((run / "export" / MANIFEST).read_text())


def pairs_of(teacher, *options):
    """The run folder of noise and images that a model drew, made once per process; read only."""
    run = teacher.with_name(f"{teacher.name}-pairs")
    if not run.exists():
        few = ("stage.prompts=6", "stage.images=2", "stage.skip_evaluated=false")
        command("stage=pairs", "reward=none", f"init_from={teacher}", *few, *options, run_dir=run)
    return run


def student_of(method, *options, teacher=None):
    """The run folder of a student, made once per process; read only."""
    teacher = teacher or finished_run()
    run = workplace() / f"student-{method}-of-{teacher.name}"
    if not run.exists():
        data = ("data=pairs", f"data.path={pairs_of(teacher)}", "data.batch_size=4")
        own = [*OF_PAIRS[method], *data] if method in OF_PAIRS else METHODS[method]
        command(*SHORT, *SMALL, f"loss={method}", f"init_from={teacher}", *own, *options, run_dir=run)
    return run


@pytest.mark.parametrize("method", ["progressive", *OF_PAIRS, *(pytest.param(m, marks=SLOW) for m in RARE)])
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
        assert made.manifest["diffusers"]["set_timesteps"] == {"sigmas": list(made.sampler.grid.given)}
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


def test_a_student_of_pairs_learns_from_the_noise_and_the_images_of_its_teacher():
    run, pairs = student_of("reflow"), PairFiles(pairs_of(finished_run()))
    said = manifest(run)
    assert said["pairs"]["digest"] == pairs.parent["digest"] and said["pairs"]["guidance"]["scale"] == 2.0
    assert said["data"]["_target_"].endswith("Scenes"), "what the next stage measures it by"
    assert "Euler in 2 steps, guidance CFG 2" in (run / "report.html").read_text()
    rows = NoiseRows(SimpleNamespace(pairs=pairs), range(6))
    rows.texts = SimpleNamespace(rows=lambda indices: {})
    found = rows.fetch([4, 1, 4], [0, 1, 3])
    for name, key in (("latents", "x0"), ("noise", "eps")):
        each = [pairs.rows(name, [row])[0, copy].float() for row, copy in ((4, 0), (1, 1), (4, 1))]
        assert torch.equal(found[key], torch.stack(each))
    assert "ClipDistance, assets/" in (student_of("instaflow") / "report.html").read_text()
    lines = (run / "metrics.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    parts = float(row["train/reflow"]) + 0.1 * float(row["train/perceptual"])
    assert 0 < float(row["train/perceptual"]) < 4 and float(row["train/loss"]) == pytest.approx(
        parts, rel=1e-4
    )


ADAPTER = ("adapter=lora", "adapter.rank=2", "optimizer.lr=0.02")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lcm", "consistency"])
def test_a_student_may_be_an_adapter_which_is_drawn_without_options(method, tmp_path):
    run = tmp_path / "run"
    own = ("loss.steps=2", "loss.decay=0.9") if method == "lcm" else METHODS[method]
    command(*SHORT, *SMALL, f"loss={method}", f"init_from={finished_run()}", *own, *ADAPTER, run_dir=run)
    said, made, base = manifest(run), load(run), load(finished_run())
    assert said["kind"] == "adapter" and said["base"]["path"] == str(finished_run() / "export")
    assert isinstance(made.sampler, Student) and made.sampler.kind == "renoise"
    command("stage=sample", f"init_from={run}", "prompts=[a red circle]", run_dir=tmp_path / "drawn")
    assert (tmp_path / "drawn/samples/grid.png").is_file()
    saved = load_file(run / "export/adapter/weights.safetensors")
    inputs = {name for name in saved if name.startswith("number_embed.")}
    found = torch.load(newest_whole(run / "checkpoints").path, weights_only=True)["state_dict"]
    assert all("lora_" in name or "number_embed" in name or "updates" in name for name in found), (
        "no base in it"
    )
    published = load_file(run / "export/pytorch_lora_weights.safetensors")
    assert published and all("lora_" in name for name in published)
    scheduler = json.loads((run / "export/scheduler/scheduler_config.json").read_text())
    assert scheduler["_class_name"] == said["diffusers"]["scheduler"] == "FlowMatchLCMScheduler"
    if method == "consistency":
        assert not inputs and made.denoiser.reads == ()
        return
    assert inputs and list(made.denoiser.reads) == said["reads"] == ["guidance"]
    assert any(bool(saved[name].any()) for name in inputs), "the scale's input learns in full"
    told = [name for name in found if name.startswith("objective.slow")]
    assert any("lora_" in name for name in told) and any("number_embed" in name for name in told)
    off, on = (load([str(run)], scales=scale).generate for scale in (0.0, 1.0))
    noise = {"seed": 3, "rows": [0]}
    plain = base.generate.with_(sampler=made.sampler, guidance=NoGuidance())
    assert torch.equal(off.latents(["a red circle"], **noise), plain.latents(["a red circle"], **noise))
    exact = made.generate.latents(["a red circle"], **noise)
    torch.testing.assert_close(on.latents(["a red circle"], **noise), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_student_of_kd_may_be_any_preset_of_its_teachers_kind(tmp_path):
    run = tmp_path / "run"
    smaller = ("model=dit_nano", "model.depth=1", "model.width=16", "model.patch_size=8")
    command(*SHORT, *SMALL, "loss=kd", f"init_from={finished_run()}", *smaller, run_dir=run)
    made, teacher = load(run).denoiser.backbone, load(finished_run()).denoiser.backbone
    assert (made.depth, made.width, teacher.depth, teacher.width) == (1, 16, 2, 32)
    assert manifest(run)["nodes"]["model"]["in_channels"] == 3, "what the teacher's latents decide"
    command(*SHORT, *SMALL, "loss=kd", f"init_from={finished_run()}", *smaller, run_dir=run)  # finished
    for options, said in (
        (["model=mmdit_tiny"], "would be a MMDiT and its teacher is a DiT"),
        (
            ["model=dit_nano", "model.patch_size=4"],
            "hidden states of patches of 4 and of 8 cannot be compared",
        ),
        (["adapter=lora"], "adapter: loss=kd makes another network"),
    ):
        with pytest.raises(ValueError, match=said):
            command(*SHORT, "loss=kd", f"init_from={finished_run()}", *options, run_dir=tmp_path / "other")


@pytest.mark.slow
def test_a_reflowed_model_is_reflowed_again_by_pairs_of_its_own(tmp_path):
    first = student_of("reflow")
    again = student_of("reflow", teacher=first)
    drawn = PairFiles(pairs_of(first)).manifest
    assert drawn["sampler"]["kind"] == "ode" and drawn["guidance"]["_target_"].endswith("NoGuidance")
    assert manifest(again)["parents"][0]["path"] == str(first / "export")
    with pytest.raises(ValueError, match="drew these pairs, which is another model than that of init_from"):
        data = ("data=pairs", f"data.path={pairs_of(finished_run())}")
        command(*SHORT, "loss=reflow", f"init_from={first}", *data, run_dir=tmp_path / "run")


def test_images_that_do_not_follow_from_their_noise_are_no_pairs_of_noise_and_image(tmp_path):
    teacher = shutil.copytree(finished_run(), tmp_path / "teacher")
    noisy = pairs_of(teacher, "sampler=dpmpp_2m_sde", "sampler.grid.steps=2")
    scored = tmp_path / "scored"
    own = ("reward=clip_score", "stage.prompts=4", "stage.images=2", "stage.skip_evaluated=false")
    command("stage=pairs", *own, f"init_from={teacher}", run_dir=scored)
    foreign = shutil.copytree(noisy, tmp_path / "foreign")
    sampler = {"sampler": {"_target_": "os.system"}}
    (foreign / "export" / MANIFEST).write_text(json.dumps(manifest(foreign) | sampler))
    for folder, said in (
        (noisy, "drawn with noise on the way"),
        (scored, "a reward chose these images"),
        (foreign, r"data\.path=.* names what is not a class of t2ilab: os\.system"),
    ):
        with pytest.raises(ValueError, match=said):
            data = ("data=pairs", f"data.path={folder}", "loss=reflow")
            command(*SHORT, *data, f"init_from={teacher}", run_dir=tmp_path / "run")


def test_images_drawn_without_a_reward_have_no_noise_on_the_way_unless_asked_for(capsys):
    grid = {"_target_": "t2ilab.sampling.grid.Grid", "steps": 3, "shift": 2.0}
    sde = {"_target_": "t2ilab.sampling.dpm.DPMSolverPP2M", "eta": 1.0, "grid": grid}
    found = noise_free(sde)
    assert found["eta"] == 0 and found["grid"] == grid and "without noise" in capsys.readouterr().out
    euler = {"_target_": "t2ilab.sampling.ode.Euler", "grid": grid}
    renoise = {"_target_": "t2ilab.sampling.student.Student", "kind": "renoise", "times": [1.0, 0.5]}
    assert noise_free(euler) == euler and noise_free(renoise) == renoise


def test_the_evaluation_compares_student_and_teacher_at_the_same_steps():
    run = student_of("progressive")
    found = json.loads((run / "evaluation.json").read_text())
    for who, each in (("", 1), ("teacher/", 2)):  # guidance takes two evaluations a step
        for steps in (1, 2):
            names = {f"{who}nfe/{name}@{steps}" for name in REACHED}
            assert names <= found.keys() and found[f"{who}nfe/judge@{steps}"]["n"] == 6
            assert found[f"{who}nfe/evaluations@{steps}"]["value"] == each * steps
        assert found[f"{who}seconds"]["value"] > 0
    page, grid = (run / "report.html").read_text(), read_grid(run / "few_steps.png")
    assert "Student and teacher at few steps" in page and page.count("student, 2 steps") == 4
    assert len(grid.images) == 4 * 2 * 2 and grid.info["steps"] == [1, 2]
    student = load(run).generate
    (own,) = to_arrays(student([grid.info["prompts"][0]], seed=0))  # its own single step
    assert (grid.images[2] == own).all(), "the second row is the student's, of the first prompt"
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
        (["loss=kd", "model=dit_s", "model.width=0.5"], "model.width: wanted int, got 0.5"),
        (["loss.first=6"], "times a power of 2"),
        (["loss=lcm", "loss.scale=2"], "choose loss.scale, one for all, or loss.scales"),
        (["stage.compare_steps=[0]"], "stage.compare_steps must be positive"),
        (
            ["optimizer=schedule_free", "schedule=constant"],
            "optimizer: loss=progressive begins anew in every",
        ),
        (["loss=consistency", "loss.teacher=false", "loss.scale=2"], "which loss.teacher=false leaves out"),
        (["loss=reflow"], "stage=distill with loss=reflow reads pairs, these data hold images"),
        (["data=pairs", "data.path=."], "stage=distill with loss=progressive reads images, these data hold"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        composition.checked(["stage=distill", "init_from=x", *options])


def test_a_method_of_distillation_is_refused_where_there_is_no_teacher():
    with pytest.raises(ValueError, match=r"loss=progressive imitates a teacher: choose stage=distill"):
        composition.checked(["debug=tiny", "loss=progressive"])


def test_another_length_of_a_run_with_rounds_is_another_run(tmp_path):
    run = shutil.copytree(student_of("progressive"), tmp_path / "run")
    options = ("loss=progressive", f"init_from={finished_run()}", *METHODS["progressive"])
    with pytest.raises(ValueError, match=r"loss\.total: was 4, now 6"):
        command(*SHORT, *SMALL, *options, "trainer.max_steps=6", run_dir=run)


def test_the_rate_of_a_student_follows_the_rounds_beside_a_rival_too():
    def optimizer(named):
        return torch.optim.SGD([p for _, p in named], lr=1.0)

    method = Progressive(first=4, last=1, total=6, shift=None, start=1.0, scale=None)
    method.rival = Player(
        torch.nn.Linear(1, 1), optimizer=optimizer, schedule=lambda step, total: 1.0, clip=0.0
    )
    stage = Distill(
        line(),
        method,
        roles=Roles(teacher=teacher()),
        null=texts(1),
        condition_dropout=0.0,
        seed=0,
        batch_size=4,
        optimizer=optimizer,
        schedule=lambda step, total: step / total,
        clip=0.0,
    )
    for schedule in (stage.schedule, stage.turns.seats["student"].schedule):
        assert [schedule(step, 6) for step in range(6)] == [0.0, 0.5] * 3


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
