"""benchmarks/tables.py: its settings fit the code, and the steps it says are saved are those of known curves."""

import csv
import json
import sys

import pytest

from t2ilab import cli
from t2ilab.config import composition


@pytest.fixture(scope="module")
def tables():
    folder = str(composition.conf_folder().parent / "benchmarks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import tables

        yield tables
    for name in ("tables", "settings", "curves"):
        sys.modules.pop(name)


def written(folder, scores):
    with (folder / "evaluations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("step", "judge/overall"), *((100 * (n + 1), s) for n, s in enumerate(scores))])
    return folder


def test_a_curve_of_scores_is_the_nearest_rising_one(tables, tmp_path):
    """Pool adjacent violators, by hand: (0.5, 0.3) meet at 0.4, and (0.8, 0.7, 0.6) at 0.7."""
    curve = tables.curve(written(tmp_path, [0.1, 0.5, 0.3, 0.8, 0.7, 0.6, 0.9]))
    steps, scores = zip(*curve, strict=True)
    assert steps == (0, 100, 200, 300, 400, 500, 600, 700)
    assert scores == pytest.approx((0.0, 0.1, 0.4, 0.4, 0.7, 0.7, 0.7, 0.9))


def test_a_level_is_reached_on_the_line_between_two_points(tables):
    steps_to = sys.modules["curves"].steps_to
    curve = [(0, 0.0), (100, 0.2), (200, 0.2), (300, 0.6)]
    assert steps_to(0.1, curve) == pytest.approx(50)
    assert steps_to(0.2, curve) == pytest.approx(100)
    assert steps_to(0.5, curve) == pytest.approx(275)
    with pytest.raises(ValueError, match=r"ends at 0\.6"):
        steps_to(0.7, curve)


def test_steps_saved_are_measured_at_the_highest_score_of_both(tables):
    slow, fast = [(0, 0.0), (100, 0.2), (400, 0.4)], [(0, 0.0), (100, 0.4), (400, 0.8)]
    assert tables.ratios([fast], [slow]) == pytest.approx([4.0])
    assert tables.ratios([slow], [fast]) == pytest.approx([0.25])
    assert tables.ratios([fast, slow], [fast, slow]) == pytest.approx([1.0, 1.0])
    assert tables.saved([fast, fast], [slow, slow]) == "4.000 ± 0.000 x"


def test_no_steps_are_saved_where_a_seed_never_has_a_prompt_right(tables):
    never, fast = [(0, 0.0), (400, 0.0)], [(0, 0.0), (100, 0.4), (400, 0.8)]
    assert tables.ratios([fast], [never]) == pytest.approx([float("nan")], nan_ok=True)
    assert tables.saved([fast, fast], [never, fast]) == "-"


def test_a_finished_run_counts_only_for_the_command_that_made_it(tables, tmp_path):
    folder = tmp_path / "seed0"
    folder.mkdir()
    own = [
        *tables.MEASURED,
        *tables.QUIET,
        "seed=0",
        "trainer.max_steps=7",
        "trainer.threads=1",
        f"run_dir={folder}",
    ]
    (folder / "config.yaml").write_text(f"command: {cli.command_line(own)}\n")
    (folder / "evaluation.json").write_text("{}")
    assert tables.train(folder, ["seed=0"], 7) == folder
    for overrides, steps in ((["seed=0"], 8), (["seed=1"], 7)):
        with pytest.raises(ValueError, match="holds the run of another command"):
            tables.train(folder, overrides, steps)


def test_the_pace_of_two_phases_is_that_of_both(tables):
    """Ten steps in 1 s at first and in 3 s later: 0.2 s a step; slower parts, as the first, are the machine's."""
    assert tables.pace([0.0, 2.0, 3.0, 6.0, 10.0]) == pytest.approx(0.2)
    assert tables.pace([0.0, 1.5, 2.5, 3.5, 5.0]) == pytest.approx(0.1)


def test_a_column_is_empty_where_a_run_has_no_such_metric(tables, tmp_path, monkeypatch, capsys):
    """Columns come from evaluation.json and from the last row of metrics.csv; scores in percent."""

    def done(run_dir, overrides, steps):
        run_dir.mkdir(parents=True)
        scores = {
            key: {"value": 0.25} for key in tables.TABLES["repa_unet"].columns.values() if "judge" in key
        }
        (run_dir / "evaluation.json").write_text(json.dumps({**scores, "meta": {}}))
        rows = (
            ["step,train/irepa", "1,-0.1", "2,-0.5"] if "terms=[irepa]" in overrides else ["step", "1", "2"]
        )
        (run_dir / "metrics.csv").write_text("\n".join(rows) + "\n")
        return written(run_dir, [0.1, 0.2])

    monkeypatch.setattr(tables, "train", done)
    monkeypatch.setattr(
        sys, "argv", ["tables.py", "repa_unet", "--out", str(tmp_path), "--only", "U-Net", "U-Net, iREPA"]
    )
    tables.main()
    *_, plain, aligned = capsys.readouterr().out.splitlines()
    assert plain == "| U-Net | 720 | 25.0 ± 0.0 | 25.0 ± 0.0 | 25.0 ± 0.0 |  |  |  |"
    assert "| 25.0 ± 0.0 | -0.500 ± 0.000 | 0.0 ± 0.0 | 1.000 ± 0.000 x |" in aligned


def test_the_best_sampler_has_the_highest_mean_and_the_options_of_its_setting(tables, tmp_path, monkeypatch):
    """Of two seeds: the run's own (0.5, 0.3), one sampler (0.4, 0.6), another (0.7, 0.1); means 0.4, 0.5, 0.4."""
    scores = {"one": [0.4, 0.6], "other": [0.7, 0.1]}
    called = []

    def done(folder, overrides, *last):
        called.append([f"run_dir={folder}", *overrides])
        folder.mkdir(parents=True)
        score = scores[folder.name][int(folder.parts[-3][-1])]
        (folder / "evaluation.json").write_text(json.dumps({"judge/overall": {"value": score}, "meta": {}}))

    monkeypatch.setattr(tables, "run", done)
    own = ["path=trig", "sampler.grid.start=0.9"]
    samplers = {"one": ["sampler=heun"], "other": ["sampler=ddpm"]}
    seeds = [tables.drawn(tmp_path / f"seed{seed}", own, samplers) for seed in (0, 1)]
    setting = tables.Setting("name", 7, [{"judge/overall": 0.5}, {"judge/overall": 0.3}], [], seeds)
    one, other, best = tables.by_sampler(setting)
    assert one.startswith("50.0 ± ") and other.startswith("40.0 ± ") and best == "one"
    assert called[0] == [
        f"run_dir={tmp_path}/seed0/drawn/one",
        "stage=evaluate",
        f"init_from={tmp_path}/seed0",
        "sampler.grid.start=0.9",
        "sampler=heun",
    ]


@pytest.mark.parametrize(
    "arguments", [["--only", "typo"], ["--seeds", *map(str, range(9))], ["--steps", "0"]]
)
def test_arguments_that_no_table_can_follow_are_refused_before_any_run(
    tables, tmp_path, monkeypatch, arguments
):
    monkeypatch.setattr(sys, "argv", ["tables.py", "times", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit):
        tables.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_setting_of_every_table_is_a_run_that_the_check_lets_through(tables):
    own = {tuple(setting) for table in tables.TABLES.values() for setting in table.settings.values()}
    assert len(own) > 20
    for setting in sorted(own):
        composition.checked([*tables.MEASURED, *tables.QUIET, *setting])
    for table in tables.TABLES.values():
        for sampler in table.samplers.values():
            composition.checked([*tables.MEASURED, "stage=evaluate", "init_from=RUN", *sampler])


def test_baselines_stand_before_what_is_compared_with_them(tables):
    for table in tables.TABLES.values():
        names = list(table.settings)
        for setting, baseline in table.baselines.items():
            assert table.every > 0 and names.index(baseline) < names.index(setting)
