"""Runs beside each other, from files that a test writes: no model is trained here."""

import json

import numpy as np
import pytest
import yaml

from t2ilab.eval.intervals import over_seeds
from t2ilab.eval.result import Evaluation, Metric, Outcomes
from t2ilab.eval.runs import differing, read_run, same_runs, short_names
from t2ilab.eval.side_by_side import SideBySide, curve_charts
from t2ilab.eval.sweep import read_sweep
from t2ilab.measuring.drawn import prompts_of
from t2ilab.stages.compare import drawn_images, opened, render

PROMPTS = 40


def evaluation(share, meta=None, flip=0):
    """Prompt accuracy of 40 prompts, of which the first `share` are right; `flip` of these are wrong."""
    values = (np.arange(PROMPTS) < round(share * PROMPTS)).astype(float)
    values[:flip] = 0.0
    metric = Metric(float(values.mean()), 0.0, 1.0, PROMPTS, "bootstrap over prompts", "share", True)
    loss = Metric(0.5 - share / 10, 0.3, 0.6, 64, "bootstrap over images", "", False)
    known = {"seed": 0, "samples_per_prompt": 1, "prompts_digest": "p", "predicts": "Velocity on Linear"}
    outcomes = {"judge": Outcomes(values)}
    return Evaluation({"judge/overall": metric, "loss/heldout": loss}, known | (meta or {}), outcomes)


def write_run(folder, share=0.5, *, losses=(1.0, 0.5), meta=None, flip=0, **options):
    folder.mkdir(parents=True)
    config = {"stage": {"name": "pretrain"}, "run_dir": str(folder), "command": "x", "seed": 0} | options
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluation(share, meta, flip).save(folder / "evaluation.json")
    rows = [f"{10 * k},{loss},{0.001},{100 + k}\n" for k, loss in enumerate(losses, 1)]
    (folder / "metrics.csv").write_text("step,train/loss,train/lr,train/images_per_s\n" + "".join(rows))
    (folder / "finished.json").write_text(json.dumps({"value": share, "files": [], "config": {}}))
    return folder


def pair(tmp_path, **second):
    one = write_run(tmp_path / "a/run", 0.5, model={"_target_": "t2ilab.models.dit.DiT", "depth": 4})
    other = write_run(
        tmp_path / "b/run", 0.75, losses=(1.0, 0.4), model={"_target_": "t2ilab.models.unet.UNet"}, **second
    )
    return opened([str(one), str(other)])


def test_names_are_the_part_of_the_paths_that_differs(tmp_path):
    assert short_names([tmp_path / "x/a/run", tmp_path / "x/b/run"]) == ["a", "b"]
    assert short_names([tmp_path / "x/a", tmp_path / "x/b"]) == ["a", "b"]
    long = short_names([tmp_path / ("1" * 40) / "r", tmp_path / ("2" * 40) / "r"])
    assert all(len(name) <= 26 for name in long) and len(set(long)) == 2


def test_what_is_no_run_folder_says_why(tmp_path):
    run = write_run(tmp_path / "run")
    wrong = {
        run / "evaluation.json": "it is a file",
        tmp_path / "no": "it is not there",
        tmp_path: "it holds no",
    }
    for path, why in wrong.items():
        with pytest.raises(ValueError, match=f"runs: {path} is no run folder: {why}"):
            opened([str(run), str(path)])


def test_the_manifest_of_an_export_that_is_damaged_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "export").mkdir()
    (run / "export/t2ilab.json").write_text("{")
    with pytest.raises(ValueError, match=r"runs: .*/export/t2ilab\.json is damaged"):
        drawn_images(opened([str(run), str(write_run(tmp_path / "other"))]), None, 0)


def test_an_option_that_is_empty_in_one_run_and_absent_in_another_does_not_differ(tmp_path):
    stages = [{"name": "pretrain"} | more for more in ({}, {"trusted": []}, {"trusted": None})]
    runs = [write_run(tmp_path / str(k), stage=stage, terms={}) for k, stage in enumerate(stages)]
    runs.append(write_run(tmp_path / "full", stage={"name": "pretrain", "trusted": ["own"]}))
    found = opened(list(map(str, runs)))
    assert differing(found[:3]) == {}
    assert differing(found) == {"stage.trusted": [None, None, None, ["own"]]}
    assert [name.split("/")[0] for name in same_runs(found)[0]] == ["0", "1", "2"]


def test_options_that_differ_are_listed_and_names_of_runs_are_not(tmp_path):
    found = differing(pair(tmp_path))
    assert found == {"model._target_": ["DiT", "UNet"], "model.depth": [4, None]}


def test_what_a_later_stage_takes_from_its_model_is_no_difference_and_the_page_says_so(tmp_path):
    model = {"_target_": "t2ilab.models.dit.DiT", "depth": 4}
    guidance = {"_target_": "t2ilab.core.guidance.CFG", "scale": 2.0}
    first = write_run(tmp_path / "first", model=model, guidance=guidance)
    later = {"init_from": str(first), "model": None, "guidance": guidance | {"scale": 3.0}}
    second = write_run(tmp_path / "second", **later)
    third = write_run(tmp_path / "third", model=model | {"depth": 6}, guidance=guidance)
    found = SideBySide.of(opened([str(first), str(second)]))
    assert list(found.options) == ["guidance.scale", "init_from"]
    assert SideBySide.of(opened([str(first), str(second), str(third)])).options["model.depth"] == [4, None, 6]
    page = render(found, [], {}, "again")
    assert "second takes model from the model that it started from" in page


def test_a_group_that_another_one_mentions_is_told_once_and_an_option_by_its_whole_name(tmp_path):
    for name, shift in (("0", 1.0), ("1", 2.2)):
        times = {"_target_": "times.Uniform", "shift": shift}
        loss = {"_target_": "losses.Flow", "timestep": times}
        write_run(tmp_path / name, timestep=times, loss=loss, sampler={"grid": {"shift": shift}})
    assert [group.name for group in read_sweep(tmp_path).groups] == [
        "sampler.grid.shift=1 timestep.shift=1",
        "sampler.grid.shift=2.2 timestep.shift=2.2",
    ]


def test_a_setting_is_called_by_what_was_typed_for_it_and_by_its_options_where_that_is_the_same(tmp_path):
    for number, (rate, seed) in enumerate([(0.01, 0), (0.01, 1), (0.02, 0), (0.02, 1)]):
        command = f"python -m t2ilab optimizer=adamw seed={seed} optimizer.lr={rate} 'prompts=[a b]'"
        own = {"optimizer": {"lr": rate, "warmup": 100 * rate}, "seed": seed}
        write_run(tmp_path / "typed" / str(number), command=command, **own)
        write_run(tmp_path / "same" / str(number), **own)
    assert [group.name for group in read_sweep(tmp_path / "typed").groups] == [
        "optimizer.lr=0.01",
        "optimizer.lr=0.02",
    ]
    assert [group.name for group in read_sweep(tmp_path / "same").groups] == [
        "optimizer.lr=0.01 optimizer.warmup=1",
        "optimizer.lr=0.02 optimizer.warmup=2",
    ]


def test_the_difference_of_paired_runs_is_made_prompt_by_prompt(tmp_path):
    found = SideBySide.of(pair(tmp_path))
    (change,) = [c for c in found.changes["b"] if c.key == "judge/overall"]
    assert change.paired and change.verdict == "better"
    assert change.difference.value == pytest.approx(0.25)
    assert 0 < change.difference.low < 0.25 < change.difference.high < 0.5, (
        "of pairs, narrower than both together"
    )
    told = found.to_json()
    assert told["baseline"] == "a"
    assert told["differences"]["b"]["judge/overall"]["value"] == pytest.approx(0.25)
    assert "judge/overall" in told["runs"][0]["metrics"]
    assert json.loads(json.dumps(told)) == told


def test_a_loss_of_another_target_is_not_compared_and_the_note_says_so(tmp_path):
    found = SideBySide.of(pair(tmp_path, meta={"predicts": "Eps on VP"}))
    assert [c.key for c in found.changes["b"]] == ["judge/overall"]
    assert any("Eps on VP" in note for note in found.notes)


def test_what_was_measured_with_another_network_is_not_compared(tmp_path):
    found = SideBySide.of(pair(tmp_path, meta={"prompts_digest": "q"}))
    assert not any(c.key == "judge/overall" for c in found.changes["b"])
    assert any("their prompts differ" in note for note in found.notes)


def test_the_page_shows_accuracy_differences_curves_and_options(tmp_path):
    runs = pair(tmp_path)
    html = render(SideBySide.of(runs), [], {}, "python -m t2ilab stage=compare")
    for text in (
        "Prompt accuracy",
        "judge/overall",
        "+25.0 %",
        "Training loss",
        "Learning rate",
        "UNet",
        "model.depth",
    ):
        assert text in html
    titles = [title for title, _ in curve_charts(runs)]
    assert titles == ["Training loss", "Learning rate", "Speed"]


@pytest.mark.parametrize(
    ("folders", "labels", "words"),
    [
        (["a/run"], None, "two run folders or more"),
        (["a/run", "a/run"], None, "given twice"),
        (["a/run", "nowhere"], None, "nowhere is no run folder: it is not there"),
        (["a/run", "b/run"], ["one"], "wanted 2 different names"),
    ],
)
def test_wrong_runs_are_refused_by_name(tmp_path, folders, labels, words):
    pair(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        opened([str(tmp_path / folder) for folder in folders], labels)
    assert str(error.value).startswith(("runs:", "stage.labels:"))


def test_runs_that_are_the_same_under_other_names_are_found_by_options_and_by_losses(tmp_path):
    for number, (rate, losses) in enumerate(
        [(1, (1.0, 0.5)), (1, (1.0, 0.5)), (2, (1.0, 0.5)), (3, (1.0, 0.4))]
    ):
        write_run(tmp_path / str(number), losses=losses, optimizer={"lr": rate}, name=f"job {number}")
    runs = [read_run(tmp_path / str(number)) for number in range(4)]
    assert same_runs(runs) == [("0", "1"), ("0", "1", "2")], "equal options; equal losses at every step"


def test_the_interval_over_seeds_is_students():
    found = over_seeds(np.array([0.4, 0.5, 0.6]))
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-5)
    assert over_seeds(np.array([0.4])).method.startswith("no interval")


def sweep_of(tmp_path, seeds=(0, 1, 2)):
    number = 0
    for rate, gain in ((0.01, 0.0), (0.02, 0.2)):
        for seed in seeds:
            share = 0.4 + gain + 0.1 * seed / max(1, len(seeds) - 1)
            folder = tmp_path / str(number)
            write_run(folder, share, losses=(1.0, 0.1 * number), optimizer={"lr": rate}, seed=seed)
            number += 1
    return read_sweep(tmp_path)


def test_jobs_that_differ_in_seeds_alone_are_one_row_with_an_interval_over_seeds(tmp_path):
    sweep = sweep_of(tmp_path)
    assert [group.name for group in sweep.groups] == ["optimizer.lr=0.01", "optimizer.lr=0.02"]
    assert [[run.name for run in group.runs] for group in sweep.groups] == [["0", "1", "2"], ["3", "4", "5"]]
    metric = sweep.groups[0].metric("judge/overall")
    assert metric.value == pytest.approx(0.45) and metric.n == 3 and "3 seeds" in metric.method
    assert metric.high - metric.value == pytest.approx(4.302653 * 0.05 / np.sqrt(3), rel=1e-4)


def test_rows_with_the_same_seeds_are_compared_seed_by_seed(tmp_path):
    for seed in (0, 1, 2):  # gains of 0.1, 0.2, 0.3 with seeds that are far apart
        write_run(tmp_path / str(seed), 0.1 + 0.2 * seed, optimizer={"lr": 1}, seed=seed)
        write_run(tmp_path / str(3 + seed), 0.2 + 0.3 * seed, optimizer={"lr": 2}, seed=seed)
    sweep = read_sweep(tmp_path)
    change = sweep.difference(sweep.groups[1], "judge/overall")
    assert change.difference.value == pytest.approx(0.2)
    half = change.difference.high - 0.2
    assert half == pytest.approx(4.302653 * 0.1 / np.sqrt(3), rel=1e-4), "of the gains, not of the two means"
    assert change.paired and "seed by seed" in change.difference.method
    assert sweep.difference(sweep.groups[0], "judge/overall") is None


def test_seeds_that_come_out_alike_are_not_taken_for_certainty(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / str(seed), 0.5, optimizer={"lr": 1}, seed=seed)
        write_run(tmp_path / str(2 + seed), 0.7, optimizer={"lr": 2}, seed=seed)
    sweep = read_sweep(tmp_path)
    metric = sweep.groups[0].metric("judge/overall")
    assert metric.low < metric.value < metric.high and "came out alike" in metric.method
    gap = sweep.difference(sweep.groups[1], "judge/overall").difference
    assert gap.low < gap.value < gap.high


def test_of_one_seed_the_interval_is_over_prompts_and_the_notes_say_so(tmp_path):
    sweep = sweep_of(tmp_path, seeds=(0,))
    assert sweep.difference(sweep.groups[1], "judge/overall").paired
    assert any("says nothing of other seeds" in note for note in sweep.notes())


def test_a_sweep_leaves_a_table_for_programs_and_a_page(tmp_path):
    import csv

    sweep = sweep_of(tmp_path)
    (tmp_path / "4/report.html").write_text("")
    table, html = sweep.write()
    rows = list(csv.DictReader(table.open()))
    assert [row["jobs"] for row in rows] == ["0 1 2", "3 4 5"]
    assert [row["optimizer.lr"] for row in rows] == ["0.01", "0.02"]
    assert float(rows[1]["judge/overall difference"]) == pytest.approx(0.2)
    text = html.read_text()
    assert "+20.0 %" in text
    assert 'href="4/report.html"' in text and 'href="3/report.html"' not in text, "3 has no report"


def test_jobs_that_are_the_same_run_are_pointed_out(tmp_path):
    write_run(tmp_path / "0", optimizer={"lr": 1})
    write_run(tmp_path / "1", optimizer={"lr": 1.0}, extra={"unused": 3})
    sweep = read_sweep(tmp_path)
    assert sweep.notes()[0] == "jobs 0 and 1 are the same run under other names"


def test_a_job_without_numbers_keeps_its_row(tmp_path):
    write_run(tmp_path / "0", optimizer={"lr": 1})
    write_run(tmp_path / "1", optimizer={"lr": 2})
    (tmp_path / "1/evaluation.json").unlink()
    sweep = read_sweep(tmp_path)
    assert "job 1 has no numbers" in sweep.notes()
    sweep.write()
    assert sweep.difference(sweep.groups[1], "judge/overall") is None


def test_the_folders_of_a_chains_steps_are_no_jobs(tmp_path):
    write_run(tmp_path / "0")
    write_run(tmp_path / "0/pretrain")
    assert [run.name for run in read_sweep(tmp_path).runs] == ["0"]
    assert read_sweep(tmp_path / "nothing") is None


def test_data_that_an_export_names_are_made_only_if_they_are_a_class_of_this_package():
    with pytest.raises(ValueError, match=r"names what is not a class of t2ilab: os\.system"):
        prompts_of([{"data": {"_target_": "os.system", "command": "true"}}])
