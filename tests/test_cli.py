"""The command line as a user meets it: quick answers, suggestions, exit codes, any directory."""

import os
import re
import shlex
import signal
import time

import hydra
import pytest
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf

from t2ilab import cli
from t2ilab.config import composition
from t2ilab.config.names import dotted
from t2ilab.config.other_tools import OPTIONS, STAGES
from tests.tiny import command, finished_run, in_new_process

HEAVY = ("torch", "lightning", "numpy", "diffusers", "transformers", "open_clip", "pydantic", "PIL")


def heavy_imports(stderr):
    """The heavy packages among what `python -X importtime` says was imported."""
    modules = re.findall(r"^import time:.*\|\s*([\w.]+)$", stderr, flags=re.MULTILINE)
    assert "hydra" in modules
    return sorted({name.split(".")[0] for name in modules} & set(HEAVY))


def explained(*overrides):
    """The answer to a command line that does not compose."""
    with (
        pytest.raises((HydraException, ValueError)) as caught,
        hydra.initialize_config_dir(str(composition.conf_folder()), version_base="1.3"),
    ):
        hydra.compose("config", overrides=list(overrides))
    return cli.explain(caught.value, list(overrides))


@pytest.mark.parametrize(
    ("arguments", "status", "stream", "answer"),
    [
        (["--help"], 0, "stdout", "Train, measure and use text-to-image models."),
        (["modle=dit_xl"], 2, "stderr", "error: unknown option modle; did you mean model?"),
        (
            ["trainer.max_step=3"],
            2,
            "stderr",
            "unknown option trainer.max_step; did you mean trainer.max_steps?",
        ),
        (["model=dit_x"], 2, "stderr", "error: there is no model=dit_x; did you mean model=dit_"),
    ],
)
def test_help_and_misspelt_options_answer_without_importing_anything_heavy(
    arguments, status, stream, answer, tmp_path
):
    done = in_new_process("-X", "importtime", "-m", "t2ilab", *arguments, cwd=tmp_path)
    assert done.returncode == status
    assert answer in getattr(done, stream)
    assert heavy_imports(done.stderr) == []
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_tells_how_to_begin_and_where_the_groups_are(tmp_path):
    text = in_new_process("-m", "t2ilab", "--help", cwd=tmp_path).stdout
    assert "stage=sample init_from=RUN" in text
    assert "python -m t2ilab show" in text


@pytest.mark.parametrize(
    ("overrides", "answer"),
    [
        (["modle=dit_xl"], "unknown option modle; did you mean model?"),
        (["seeed=1"], "unknown option seeed; did you mean seed?"),
        (["batch_size=3"], "unknown option batch_size; did you mean data.batch_size?"),
        (["optimiser.lr=1"], "unknown option optimiser.lr; did you mean optimizer.lr?"),
        (["guidance.scle=1"], "unknown option guidance.scle; did you mean guidance.scale?"),
        (["sampler=ddim", "sampler.etaa=1"], "unknown option sampler.etaa; did you mean sampler.eta?"),
        (
            ["weighting@loss.weighting=min_snr", "loss.weighting.gama=3"],
            "unknown option loss.weighting.gama; did you mean loss.weighting.gamma?",
        ),
        (["shift=flux"], "shift is a part of timestep: choose it with shift@timestep.shift=flux"),
        (
            ["data.path=images"],
            "data.path is an option of data=folder, data=folder_buckets, data=pairs, data=preferences, which this "
            "command does not choose",
        ),
        (
            ["routing@model.routing=tread", "model=unet_tiny"],
            "the model that this command chooses has no routing; these have: model=dit_b, model=dit_l, "
            "model=dit_nano, model=dit_s, model=dit_tiny, model=dit_xl, model=mmdit_b, model=mmdit_s, "
            "model=mmdit_sd3, model=mmdit_tiny, model=pixart_s, model=pixart_tiny, model=pixart_xl, "
            "model=single_lumina2, model=single_tiny",
        ),
        (
            ["loss=score_matching", "weighting@loss.weighting=min_snr"],
            "the loss that this command chooses has no weighting; these have: loss=diffusion, loss=dreambooth, "
            "loss=flow_matching, loss=textual_inversion",
        ),
        (
            ["routing@modle.routing=tread", "model=dit_tiny"],
            "unknown option routing@modle.routing; did you mean routing@model.routing?",
        ),
        (
            ["model=dit(2)"],
            """model=dit(2): this cannot be read; what holds special characters is quoted: 'model="dit(2)"'""",
        ),
        (
            ["dit_xl"],
            "dit_xl: not an option; write option=value or group=choice, and quote what holds spaces",
        ),
        (
            ["optimizer.lr=1,2"],
            "optimizer.lr=1,2: with -m these are several runs; as a list it is 'optimizer.lr=[1,2]', as one text "
            """'optimizer.lr="1,2"'""",
        ),
        (["sampler=null"], "sampler=null: make a choice, or omit the group with ~sampler"),
        (["steps=100"], "unknown option steps; here it is trainer.max_steps"),
        (["stage.steps=100"], "unknown option stage.steps; here it is trainer.max_steps"),
        (["stage=sample", "steps=8"], "unknown option steps; here it is sampler.grid.steps"),
        (["stage=export", "output=DIR"], "unknown option output; here it is run_dir"),
        (["stage=sft", "adapter=lora", "lora.rank=8"], "unknown option lora.rank; here it is adapter.rank"),
        (["learning_rate=1e-4"], "unknown option learning_rate; here it is optimizer.lr"),
        (["sampler.steps=8"], "unknown option sampler.steps; did you mean sampler.grid.steps?"),
    ],
)
def test_a_misspelt_option_gets_a_suggestion(overrides, answer):
    assert explained(*overrides) == answer


def test_what_other_tools_call_an_option_is_one_that_there_is():
    chosen = (
        ["stage=pretrain"],
        ["stage=personalize", "data=folder", "adapter=lora"],
        ["stage=preference", "data=pairs"],
        ["stage=sample"],
        ["sampler=euler"],
    )
    known = {key for one in chosen for key in dotted(OmegaConf.to_container(composition.composed(one)))}
    assert set(OPTIONS.values()) <= known
    assert not known & set(OPTIONS), "what is an option here needs no other name"


@pytest.mark.parametrize(("typed", "meant"), STAGES.items())
def test_a_method_named_as_a_stage_is_answered_with_its_stage(typed, meant):
    assert explained(f"stage={typed}").startswith(f"there is no stage={typed}; did you mean {meant}?")
    for group, choice in (item.split("=") for item in meant.split()):
        assert (composition.conf_folder() / group / f"{choice}.yaml").is_file()


def test_an_option_of_a_part_that_the_stage_takes_from_the_export_is_explained():
    answer = explained("stage=sample", "sampler.grid.steps=8")
    assert answer.startswith("sampler.grid.steps is an option of sampler=ddim, sampler=ddpm")
    assert answer.endswith("; choose one in place of the sampler that the model has")
    assert explained("sampler=student", "sampler.grid.steps=8").endswith("which this command does not choose")


@pytest.mark.parametrize("group", ["model", "stage", "data", "recipe", "debug", "eval"])
def test_a_wrong_choice_of_a_group_lists_the_choices(group):
    answer = explained(f"{group}=nonsense")
    assert answer.startswith(f"there is no {group}=nonsense")
    listed = set(answer.rpartition("the choices are: ")[2].split(", "))
    assert listed == {file.stem for file in (composition.conf_folder() / group).glob("*.yaml")}


def test_a_wrong_choice_of_a_weighting_lists_the_weightings():
    answer = explained("weighting@loss.weighting=minsnr")
    assert answer.startswith("there is no weighting=minsnr; did you mean weighting=min_snr?")


def test_an_override_without_an_equals_sign_is_answered_in_one_line(tmp_path):
    done = in_new_process("-m", "t2ilab", "dit_xl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "dit_xl" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def main(monkeypatch, capsys, tmp_path):
    """`python -m t2ilab *arguments` from an empty folder in this process: (exit status, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["t2ilab", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, capsys.readouterr().err

    return call


def test_faults_of_the_options_go_to_stderr_with_status_2_and_leave_no_trace_of_a_run(main, tmp_path):
    status, said = main("ema.decay=2", "run_dir=here", "model=dit_tiny")
    assert status == 2
    assert "error: 1 problem in the options:\n  - ema.decay must be in [0, 1), got 2" in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_refused_command_leaves_the_record_of_an_earlier_run_alone(main, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/config.yaml").write_text("seed: 7\n")
    assert main("ema.decay=2", "run_dir=here", "model=dit_tiny")[0] == 2
    assert [path.name for path in (tmp_path / "here").rglob("*")] == ["config.yaml"]
    assert (tmp_path / "here/config.yaml").read_text() == "seed: 7\n"


def test_a_refused_command_leaves_no_folder_behind(main, tmp_path):
    assert main("ema.decay=2", "model=dit_tiny")[0] == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not list(tmp_path.glob("outputs/pretrain/default/*"))


@pytest.mark.parametrize("place", ["/dev/null", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_one_error(main, place):
    status, said = main("debug=tiny", f"run_dir={place}")
    assert status == 2
    assert said.startswith("error: run_dir: ") and "choose a folder" in said and "Traceback" not in said


def test_one_folder_for_several_runs_is_refused(main):
    status, said = main("-m", "debug=tiny", "seed=0,1", "run_dir=here")
    assert status == 2
    assert "error: run_dir: with -m every job has a folder of its own; say where with hydra.sweep.dir" in said


def test_a_fault_of_the_last_job_of_a_sweep_is_found_before_the_first_one_starts(main, tmp_path):
    status, said = main("-m", "debug=tiny", "optimizer.lr=0.001,-1", "seed=0,1", "hydra.sweep.dir=both")
    assert status == 2
    assert "job 2, debug=tiny optimizer.lr=-1 seed=0" in said and "job 3, " in said and "job 0" not in said
    assert "optimizer.lr must not be negative, got -1" in said
    assert not (tmp_path / "both").exists()


def test_a_sweep_of_runs_with_several_processes_is_refused_where_each_would_start_the_sweep(main, tmp_path):
    several = ("-m", "debug=tiny", "seed=0,1", "trainer.devices=2", "hydra.sweep.dir=both")
    status, said = main(*several)
    assert status == 2 and "trainer.devices: the processes of a job would start the whole sweep again" in said
    assert not (tmp_path / "both").exists()


def test_sweeps_over_choices_by_pattern_and_from_a_folder_of_ones_own_are_checked_as_well(main, tmp_path):
    own = tmp_path / "own/model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text((composition.conf_folder() / "model/dit_nano.yaml").read_text())
    wrong = ("debug=tiny", "optimizer.lr=-1,-2")
    status, said = main("--config-dir", str(own.parent), "-m", "model=mine", *wrong)
    assert status == 2 and "model=mine debug=tiny optimizer.lr=-2: 1 problem" in said
    status, said = main("-m", "model=glob(dit_n*)", *wrong)
    assert status == 2 and "job 1, model=dit_nano debug=tiny optimizer.lr=-2: 1 problem" in said


def test_a_fault_found_while_running_is_one_error_with_status_2(main):
    status, said = main("stage=sample", "init_from=nowhere", "prompts=[a]", "run_dir=here")
    assert status == 2
    assert said.strip().startswith("error: init_from=nowhere: there is no such folder")
    assert said.strip().endswith("(T2ILAB_TRACEBACK=1 shows where it was raised)")


def test_what_is_not_a_fault_of_the_user_keeps_its_traceback(main, monkeypatch):
    def broken(config):
        raise KeyError("a bug")

    monkeypatch.setattr("t2ilab.stages.sample.run", broken)
    with pytest.raises(KeyError, match="a bug"):
        main("stage=sample", "init_from=nowhere", "prompts=[a]", "run_dir=here")


def test_an_interrupted_run_says_how_to_go_on_and_keeps_its_status(main, monkeypatch):
    from t2ilab.runs.outcome import Interrupted

    def stopped(config):
        raise Interrupted("stopped at step 3; give the same command again", 143)

    monkeypatch.setattr("t2ilab.stages.sample.run", stopped)
    status, said = main("stage=sample", "init_from=nowhere", "prompts=[a]", "run_dir=here")
    assert (status, said) == (143, "stopped at step 3; give the same command again\n")


def test_a_sweep_goes_on_past_jobs_that_fail_and_lists_them_at_its_end(main, monkeypatch):
    def run(config):
        ran.append(config["seed"])
        if config["seed"] == 1:
            raise ValueError("the loss is inf")
        if config["seed"] == 2:
            raise KeyError("a bug")

    ran = []
    monkeypatch.setattr("t2ilab.stages.sample.run", run)
    status, said = main("-m", "stage=sample", "init_from=nowhere", "prompts=[a]", "seed=0,1,2,3")
    assert status == 2 and ran == [0, 1, 2, 3]
    *_, head, first, second = said.strip().splitlines()
    assert head == "error: 2 jobs of this sweep failed:"
    assert first.startswith("  job 1, stage=sample init_from=nowhere prompts=[a] seed=1 (in multirun/")
    assert first.endswith("/1): the loss is inf")
    assert " seed=2 (" in second and second.endswith("KeyError: 'a bug'")
    assert said.count("Traceback") == 1, "a bug shows where it is"


def test_a_signal_ends_a_sweep_and_what_failed_before_is_told(main, monkeypatch):
    from t2ilab.runs.outcome import Interrupted

    def run(config):
        ran.append(config["seed"])
        raise ValueError("no") if config["seed"] == 0 else Interrupted("stopped", 130)

    ran = []
    monkeypatch.setattr("t2ilab.stages.sample.run", run)
    status, said = main("-m", "stage=sample", "init_from=nowhere", "prompts=[a]", "seed=0,1,2")
    assert status == 130 and ran == [0, 1]
    assert "error: 1 job of this sweep failed:\n  job 0, " in said


def test_a_sweep_that_asks_for_values_is_told_of_failures_by_an_exception(main, monkeypatch):
    def run(config):
        raise ValueError("the loss is inf")

    monkeypatch.setattr("t2ilab.stages.sample.run", run)
    monkeypatch.setattr(cli, "_goes_on", lambda: False)  # as where another sweeper or launcher is chosen
    status, said = main("-m", "stage=sample", "init_from=nowhere", "prompts=[a]", "seed=0,1")
    assert status == 2 and said.strip().splitlines()[-1].endswith("seed=0: the loss is inf")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_any_stage_is_one_line(main, monkeypatch, number, status):
    def run(config):
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("t2ilab.stages.sample.run", run)
    code, said = main("stage=sample", "init_from=nowhere", "prompts=[a]", "run_dir=here")
    assert (code, said) == (status, "\nstopped, what was finished is kept\n")


def test_out_of_memory_is_one_sentence(main, monkeypatch):
    def run(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("t2ilab.stages.sample.run", run)
    status, said = main("stage=sample", "init_from=nowhere", "prompts=[a]", "run_dir=here")
    assert status == 2 and "lower stage.batch_size=64" in said and "Traceback" not in said


def test_a_traceback_is_there_for_who_asks(tmp_path):
    done = in_new_process("-m", "t2ilab", "modle=dit_xl", cwd=tmp_path, T2ILAB_TRACEBACK="1")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_the_recorded_command_survives_a_shell():
    options = ["prompts=['a red circle', \"it's\"]", "run_dir=a b", "seed=3"]
    assert shlex.split(cli.command_line(options)) == ["python", "-m", "t2ilab", *options]


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """The config that `python -m t2ilab *arguments` would run."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        taken = []
        monkeypatch.setattr("sys.argv", ["t2ilab", *arguments])
        monkeypatch.setattr(cli, "run", taken.append)
        cli.main()
        return taken[0]

    return call


def test_the_recorded_command_names_the_folder_of_own_choices_and_makes_the_same_run(noted, tmp_path):
    (tmp_path / "mine/ema").mkdir(parents=True)
    own = "_target_: t2ilab.averages.ema.EMA\ndecay: 0.5\nwarmup: 10.0\nsnapshot_at: null\n"
    (tmp_path / "mine/ema/short.yaml").write_text(own)
    config = noted("--config-dir", "mine", "debug=tiny", "ema=short", "run_dir=a (b)")
    words = shlex.split(config["command"])
    assert words[:3] == ["python", "-m", "t2ilab"]
    assert words[3:5] == ["--config-dir", str(tmp_path / "mine")]
    again = noted(*words[3:])
    assert again == config
    assert config["run_dir"] == str(tmp_path / "a (b)")


def test_the_command_of_a_sweep_s_job_is_that_of_one_run(noted):
    config = noted("-m", "debug=tiny", "seed=3,4", "hydra.sweep.dir=both")
    assert config["command"] == "python -m t2ilab debug=tiny seed=3"


def test_a_saved_config_is_the_same_run_again_in_a_new_folder(noted, tmp_path):
    options = ["debug=tiny", "model=dit_nano", "terms=[repa]", "seed=5", "prompts=['5 ${x} $']"]
    config = noted(*[*options[:-1], r"prompts=['5 \${x} $']"], "run_dir=old")
    assert config["prompts"] == ["5 ${x} $"]
    (tmp_path / "old/config.yaml").write_text(yaml.safe_dump(config))
    for arguments in (["--config-dir", "old"], ["--config-path", "old", "--config-name", "config"]):
        again = noted(*arguments)
        assert {**again, "run_dir": "", "command": ""} == {**config, "run_dir": "", "command": ""}
        assert again["run_dir"] != config["run_dir"]
        repeated = noted(*shlex.split(again["command"])[3:], "run_dir=new", "optimizer.lr=0.5")
        assert repeated["optimizer"]["lr"] == 0.5 and repeated["model"] == config["model"]


def test_a_group_of_a_saved_config_can_be_chosen_anew(noted, tmp_path):
    config = noted("debug=tiny", "model=dit_nano", "run_dir=old")
    (tmp_path / "old/config.yaml").write_text(yaml.safe_dump(config))
    again = noted("--config-dir", "old", "ema=none", "run_dir=new")
    assert again["ema"]["decay"] == 0.0
    assert again["model"] == config["model"]


def test_the_run_folder_can_be_fixed_and_is_otherwise_named_by_stage_and_time():
    assert re.fullmatch(
        r"outputs/pretrain/default/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", composition.compose([])["run_dir"]
    )
    assert composition.compose(["run_dir=there"])["run_dir"] == "there"


@pytest.mark.parametrize(
    ("overrides", "steps"), [(["debug=tiny"], 4), (["debug=tiny", "trainer.max_steps=7"], 7)]
)
def test_the_command_line_wins_over_debug_which_wins_over_the_defaults(overrides, steps):
    assert composition.compose(overrides)["trainer"]["max_steps"] == steps
    assert composition.compose([])["trainer"]["max_steps"] > 100


def test_a_recipe_wins_over_the_stage_and_the_command_line_over_the_recipe():
    config = composition.compose(["recipe=assets_autoencoder"])
    assert config["stage"]["name"] == "autoencoder"
    assert config["optimizer"]["_target_"].endswith("MuonAdamW")
    assert composition.compose(["recipe=assets_autoencoder", "data.batch_size=5"])["data"]["batch_size"] == 5


@pytest.mark.slow
def test_a_run_works_from_any_directory_and_says_what_it_does(tmp_path):
    arguments = ["-m", "t2ilab", "debug=tiny", "run_dir=here", "trainer.accelerator=cpu"]
    done = in_new_process(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout
    assert (
        "training pretrain on scenes/general, 48 images at 32 px: 67 k parameters, 16 tokens per image"
        in lines
    )
    for name in ("config.yaml", "metrics.csv", "evaluation.json", "report.html", "export/t2ilab.json"):
        assert (tmp_path / "here" / name).is_file(), name
    assert sorted((tmp_path / "here/samples").glob("*.png"))
    assert lines.rstrip().splitlines()[-1] == "report: here/report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]


@pytest.mark.slow
def test_two_values_of_an_option_make_two_runs(tmp_path):
    run = finished_run()
    done = in_new_process(
        *("-m", "t2ilab", "-m", "stage=sample", f"init_from={run}", "prompts=[a red circle]", "seed=0,1"),
        *("stage.copies=1", "hydra.sweep.dir=both"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    images = [(tmp_path / f"both/{n}/samples/000_0_a-red-circle.png").read_bytes() for n in (0, 1)]
    assert images[0] != images[1]


def test_running_in_this_process_takes_the_same_road(tmp_path):
    config = command(
        *("stage=sample", f"init_from={finished_run()}", "prompts=[a red circle]", "stage.copies=1"),
        run_dir=tmp_path,
    )
    assert config["command"].startswith("python -m t2ilab stage=sample init_from=")
    assert (tmp_path / "samples/000_0_a-red-circle.png").is_file()
