"""`stage=evaluate`: the same numbers as the run's own evaluation, from the export alone."""

import json
import shutil

import pytest

from t2ilab.pipeline import TextToImage
from tests.features.test_scorer import tiny_clip
from tests.tiny import command, finished_run

SAME_PLAN = [  # what debug=tiny measures with
    *("eval=quick", "eval.prompts_per_task=1", "eval.samples_per_prompt=1", "eval.caption_prompts=4"),
    *("eval.heldout_images=4", "eval.heldout_strata=4"),
]


def evaluate(folder, *options, plan=SAME_PLAN, init_from=None):
    command("stage=evaluate", f"init_from={init_from or finished_run()}", *plan, *options, run_dir=folder)
    return json.loads((folder / "evaluation.json").read_text())


def numbers(evaluation):
    return {key: metric for key, metric in evaluation.items() if key != "meta"}


@pytest.fixture(scope="module")
def own():
    return json.loads((finished_run() / "evaluation.json").read_text())


def test_the_numbers_are_those_of_the_run_itself(own, tmp_path):
    again = evaluate(tmp_path)
    assert numbers(again) == numbers(own)
    assert again["meta"]["outcomes"] == own["meta"]["outcomes"]
    differing = {key for key in again["meta"] if again["meta"][key] != own["meta"].get(key)}
    assert differing == {"export", "model"}
    assert {"report.html", "evaluation.json"} <= {path.name for path in tmp_path.iterdir()}


def test_a_moved_export_gives_the_same_numbers(own, tmp_path):
    shutil.copytree(finished_run() / "export", tmp_path / "moved")
    assert numbers(evaluate(tmp_path / "out", init_from=tmp_path / "moved")) == numbers(own)


def test_the_metrics_of_the_six_tasks_have_value_interval_and_count(own):
    tasks = ("overall", "single_object", "two_objects", "counting", "colors", "position", "color_attribution")
    for task in tasks:
        metric = own[f"judge/{task}"]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1
        assert metric["n"] == (6 if task == "overall" else 1)


def test_raw_weights_another_sampler_and_another_seed_are_heard(own, tmp_path):
    for number, options in enumerate((["stage.weights=raw"], ["seed=3"])):
        other = evaluate(tmp_path / str(number), *options)
        assert other["loss/heldout"]["value"] != own["loss/heldout"]["value"], options
    other = evaluate(tmp_path / "sampler", "sampler=heun", "sampler.grid.steps=2")
    assert other["loss/heldout"] == own["loss/heldout"], "the held-out loss has no sampler"
    assert other["clip_score"] != own["clip_score"]
    assert other["meta"]["sampler"]["_target_"].endswith("Heun")


def test_the_seed_of_an_evaluation_is_that_of_its_questions(own, tmp_path):
    other = evaluate(tmp_path, "seed=3")
    assert other["meta"]["seed"] == 3
    assert other["meta"]["prompts_digest"] != own["meta"]["prompts_digest"]


def test_another_plan_asks_other_questions(tmp_path):
    plan = [*SAME_PLAN, "eval.prompts_per_task=2", "eval.compose_per_task=1", "eval.heldout_images=0"]
    found = evaluate(tmp_path, plan=plan)
    assert found["judge/overall"]["n"] == 12
    assert found["compose/overall"]["n"] == 6
    assert "loss/heldout" not in found


def test_other_data_of_the_same_size_are_measured_and_of_another_size_refused(own, tmp_path):
    data = ["data=scenes", "data.size=8", "data.val_size=8", "data.subset=curated"]
    other = evaluate(tmp_path / "curated", *data, "data.resolution=32")
    assert other["loss/heldout"]["value"] != own["loss/heldout"]["value"]
    with pytest.raises(ValueError, match=r"set data\.resolution=32"):
        evaluate(tmp_path / "large", *data, "data.resolution=64")


@pytest.mark.parametrize("known", [True, False])
def test_images_that_are_not_those_of_the_run_are_said_everywhere(known, tmp_path, capsys):
    shutil.copytree(finished_run() / "export", tmp_path / "export")
    path = tmp_path / "export/t2ilab.json"
    manifest = json.loads(path.read_text())
    if known:
        manifest["pictures"]["val"] |= {"number": 5, "digest": "of others"}
    else:
        del manifest["pictures"]
        manifest["data_digest"] = "of others"
    path.write_text(json.dumps(manifest))
    found = evaluate(tmp_path / "out", init_from=tmp_path / "export")
    printed = capsys.readouterr().out
    said = "differ from those of the run (" + ("val: 5 then, 16 now)" if known else "all of them together)")
    assert said in printed and "on other images than its run's" in " ".join(printed.split())
    assert said in found["meta"]["other_pictures"]
    assert said in (tmp_path / "out/report.html").read_text()


def test_the_images_of_the_run_and_those_chosen_on_purpose_are_told_apart(tmp_path, monkeypatch):
    from PIL import Image

    from t2ilab.data.sets import Folder
    from t2ilab.stages.evaluate import other_images

    def folder(**options):
        usual = {"val_share": 0.3, "caption_column": None, "min_size": None, "batch_size": 2, "workers": 0}
        return Folder(path=str(tmp_path / "data"), resolution=16, **usual | options)

    def add(number):
        Image.new("RGB", (20, 20), (number, 9, 9)).save(tmp_path / f"data/{number}.png")
        (tmp_path / f"data/{number}.txt").write_text(f"image {number}")

    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for number in range(6):
        add(number)
    manifest = {"pictures": folder().image_splits()}
    assert other_images(manifest, folder(), given=False) == ""
    assert other_images(manifest, folder(), given=True) == ""
    add(6)
    changed = other_images(manifest, folder(), given=False)
    assert "has changed since" in changed and "data=..." in changed
    assert "the data given here" in other_images(manifest, folder(), given=True)
    (tmp_path / "data/6.png").unlink()
    assert other_images(manifest, folder(), given=False) == "", "a lonely caption changes no image"
    (tmp_path / "data/3.txt").write_text("another caption")
    assert "differ from those of the run" in other_images(manifest, folder(), given=False)


def test_distribution_and_curve_are_measured_on_request(tmp_path):
    plan = [*SAME_PLAN, "eval.reference_images=8", "eval.nfe_steps=[1,2]", "eval.nfe_per_task=1"]
    found = evaluate(tmp_path, *["eval.nfe_reference_steps=3"], plan=plan)
    assert found["fd_clip"]["value"] > 0
    assert "kid_clip" in found
    report = (tmp_path / "report.html").read_text()
    assert "Steps and quality" in report and "Error of the sampler" in report and ">Error</th>" in report


def test_another_clip_measures_alignment_and_none_leaves_it_out(own, tmp_path):
    name, _ = tiny_clip(tmp_path / "clip")
    chosen = ["scorer@eval.scorer=open_clip", f"eval.scorer.name={name}"]
    other = evaluate(tmp_path / "other", *chosen, f"eval.scorer.path={tmp_path / 'clip' / 'weights'}")
    assert other["clip_score"]["value"] != own["clip_score"]["value"]
    assert other["clip_score"]["method"].endswith(f"open_clip's {name}")
    assert other["meta"]["features_digest"] != own["meta"]["features_digest"]
    assert other["judge/overall"] == own["judge/overall"]
    assert "clip_score" not in evaluate(tmp_path / "none", "eval.scorer=null")


def test_the_fine_solution_begins_where_the_sampler_does(tmp_path):
    """An eps network has no say at t = 1; the reference must not ask it there."""
    plan = [*SAME_PLAN, "eval.nfe_steps=[1,2]", "eval.nfe_per_task=1", "eval.nfe_reference_steps=3"]
    options = ("prediction=eps", "sampler.grid.start=0.98", "trainer.max_steps=1", "checkpoint.every=1")
    command("debug=tiny", *options, *plan, run_dir=tmp_path / "run")
    assert "Error of the sampler" in (tmp_path / "run/report.html").read_text()


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_only_a_sampler_without_noise_has_an_error(tmp_path, monkeypatch, eta):
    from t2ilab.stages import evaluate as stage

    drawn, write = [], stage.write_report

    def watched(path, content):
        drawn.extend(content.nfe)
        return write(path, content)

    monkeypatch.setattr(stage, "write_report", watched)
    plan = [*SAME_PLAN, "eval.nfe_steps=[1,4]", "eval.nfe_per_task=1", "eval.nfe_reference_steps=3"]
    evaluate(tmp_path, "sampler=dpmpp_2m_sde", f"sampler.eta={eta}", plan=plan)
    assert [point.steps for point in drawn] == [1, 4] and all(point.quality for point in drawn)
    assert [point.error is None for point in drawn] == [eta > 0] * 2
    report = (tmp_path / "report.html").read_text()
    assert "Steps and quality" in report
    words = ("Error of the sampler", ">Error</th>", "fine solution")
    assert [word in report for word in words] == [eta == 0] * 3


def test_the_curve_leaves_out_what_a_rule_with_still_steps_cannot_draw(tmp_path, monkeypatch):
    from t2ilab.stages import evaluate as stage

    drawn = []
    monkeypatch.setattr(stage, "write_report", lambda path, content: drawn.extend(content.nfe))
    plan = [*SAME_PLAN, "eval.nfe_steps=[1,2,3]", "eval.nfe_per_task=1", "eval.nfe_reference_steps=3"]
    evaluate(tmp_path, "guidance=cfg_zero", plan=plan)
    assert [(point.steps, point.nfe) for point in drawn] == [(2, 2), (3, 4)]  # two a step, none in the first


def test_an_autoencoder_is_refused(tmp_path):
    shutil.copytree(finished_run() / "export", tmp_path / "export")
    path = tmp_path / "export/t2ilab.json"
    path.write_text(path.read_text().replace('"kind": "denoiser"', '"kind": "autoencoder"'))
    with pytest.raises(
        ValueError, match="is an export of kind autoencoder; a denoiser or adapter is needed here"
    ):
        evaluate(tmp_path / "out", init_from=tmp_path / "export")


def test_images_are_drawn_as_many_at_a_time_as_asked_for(tmp_path, monkeypatch):
    seen, trajectory = [], TextToImage.trajectory

    def watched(self, prompts, **options):
        seen.append(len(prompts))
        return trajectory(self, prompts, **options)

    monkeypatch.setattr(TextToImage, "trajectory", watched)
    curve = [
        "eval.nfe_steps=[2]",
        "eval.nfe_per_task=2",
        "eval.nfe_reference_steps=2",
        "eval.prompts_per_task=2",
    ]
    evaluate(tmp_path / "few", *curve, "eval.batch_size=3")
    assert max(seen) == 3
    prompts = 'prompts=["a red circle","a blue star"]'
    options = ["stage=sample", f"init_from={finished_run()}", prompts, "stage.copies=4", "stage.batch_size=5"]
    seen.clear()
    command(*options, run_dir=tmp_path / "sample")
    assert seen == [5, 3]
