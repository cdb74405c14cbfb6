"""Callbacks, profilers and loggers of Lightning that a config names, and what they are shown."""

import csv

import pytest
from lightning import Callback
from lightning.pytorch.profilers import SimpleProfiler

from t2ilab.callbacks.mirror import CallbackRows
from t2ilab.config.composition import checked
from t2ilab.eval.grid import read_grid
from t2ilab.runs.outcome import Interrupted
from t2ilab.training.loggers import callbacks_of, profiler_in
from tests.runs import last_step, run_here, same_weights
from tests.tiny import ROOT, in_new_process

pytestmark = pytest.mark.usefixtures("own_cache")
STATS = "+callbacks.mine._target_=lightning.pytorch.callbacks.DeviceStatsMonitor"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run with everything named at once; gives its folder and that of the same run with nothing named."""
    folder = tmp_path_factory.mktemp("watched")
    names = ("callbacks=[learning_rate,model_summary]", "trainer.profiler=simple", STATS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2ILAB_CACHE", str(folder / "cache"))
        run_here(folder / "plain")
        run_here(folder / "watched", *names)
        run_here(folder / "tensorboard", "logger=tensorboard", STATS)
    return folder


def test_what_callbacks_log_is_a_file_where_no_logger_is_chosen(watched):
    with (watched / "watched/callbacks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = rows[0].keys() | rows[-1].keys()
    assert len(rows) >= 3 and any("cpu_percent" in name for name in columns)
    assert any(name.startswith("lr-") for name in columns)
    assert not any(name.startswith("train/") for name in columns), "those are in metrics.csv"
    assert not (watched / "plain/callbacks.csv").exists()


def test_a_profiler_leaves_its_result_in_the_run_folder(watched):
    (profile,) = (watched / "watched").glob("*profile*.txt")
    assert "run_training_batch" in profile.read_text()
    assert not list((watched / "plain").glob("*profile*"))


def test_watching_changes_no_bit_of_the_training(watched):
    same_weights(watched / "watched", watched / "plain")
    same_weights(watched / "tensorboard", watched / "plain")


def test_tensorboard_is_shown_each_prompt_with_its_image_and_the_files_of_the_end(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = watched / "tensorboard"
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    first, *_, last = sorted((folder / "samples").glob("step_*.png"))
    prompts = read_grid(first).captions
    tags = events.Tags()
    assert sorted(tags["images"]) == sorted(f"preview/{k}" for k in range(len(prompts)))
    images = events.Images("preview/1")
    assert [image.step for image in images] == [int(path.stem[5:]) for path in (first, last)]
    texts = {
        tag.removesuffix("/text_summary"): events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in tags["tensors"]
    }
    assert [texts[f"preview/{k}"] for k in range(len(prompts))] == list(prompts)
    assert (folder / "export/t2ilab.json").read_text() in texts["t2ilab"]
    assert "report.html" in texts["report"] and "loss/heldout" in texts["evaluation"]
    assert any("cpu_percent" in tag for tag in tags["scalars"])


class StopsAfterTwo(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        trainer.should_stop = module.steps_done >= 2


def test_a_run_that_a_callback_stops_goes_on(tmp_path, watched):
    run = tmp_path / "run"
    with pytest.raises(
        Interrupted, match=r"(?s)a callback stopped the run at step 2 of 4.*run_dir="
    ) as caught:
        run_here(run, f"+callbacks.mine._target_={__name__}.StopsAfterTwo")
    assert caught.value.status == 0 and last_step(run) == 2
    run_here(run)
    same_weights(run, watched / "plain")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+callbacks.mine._target_=lightning.pytorch.callbacks.Nothing",
            "callbacks.mine.*cannot be imported",
        ),
        ("+callbacks.mine._target_=torch.nn.ReLU", "callbacks.mine: torch.nn.ReLU is no lightning"),
        ("+callbacks.mine=5", "callbacks: wanted a choice"),
        (
            "+callbacks.a._target_=lightning.pytorch.callbacks.ModelCheckpoint",
            "callbacks.a: .*checkpoint.every",
        ),
        ("+callbacks.a._target_=lightning.pytorch.callbacks.TQDMProgressBar", "callbacks.a: .*own progress"),
        ("trainer.profiler=fast", "trainer.profiler must be one of simple"),
        ("trainer.profiler={_target_: torch.nn.ReLU}", "trainer.profiler must be"),
        ("logger.mirror={_target_: torch.nn.ReLU, _partial_: true}", "logger.mirror: torch.nn.ReLU is no"),
        ("logger.mirror={_target_: lightning.pytorch.loggers.CSVLogger, save_dir: x}", "_partial_: true"),
        ("trainer.devices=some", "trainer.devices: wanted"),
    ],
)
def test_what_cannot_watch_a_run_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message):
        checked(["debug=tiny", override])


def test_a_callback_with_an_unknown_option_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"did you mean callbacks.device_stats.cpu_stats"):
        checked(["debug=tiny", "callbacks=[device_stats]", "+callbacks.device_stats.cpu_stat=true"])


def test_a_function_that_makes_no_callback_is_refused():
    with pytest.raises(ValueError, match=r"callbacks.mine must make a Callback of Lightning, it made dict"):
        callbacks_of({"mine": {"_target_": "builtins.dict"}})


def test_a_profiler_of_ones_own_keeps_its_place(tmp_path):
    own = profiler_in(tmp_path, SimpleProfiler(dirpath=tmp_path / "there", filename="mine"))
    assert (own.dirpath, own.filename) == (tmp_path / "there", "mine")
    assert profiler_in(tmp_path, "pytorch").dirpath == tmp_path and profiler_in(tmp_path, None) is None


def test_rows_of_callbacks_are_one_for_each_step(tmp_path):
    rows = CallbackRows(tmp_path / "callbacks.csv")
    for values, step in (({"a": 1}, 1), ({"b": 2}, 1), ({"a": 3}, 2)):
        rows.log_metrics(values, step=step)
    rows.finalize("success")
    assert rows.path.read_text() == "step,a,b\n1,1,2\n2,3,\n"


def test_a_logger_is_named_by_its_target(tmp_path):
    folder = tmp_path / "run"
    run_here(
        folder, "logger.mirror={_target_: lightning.pytorch.loggers.CSVLogger, _partial_: true, name: own}"
    )
    (rows,) = folder.glob("own/*/metrics.csv")
    assert "train/loss" in rows.read_text()


@pytest.mark.slow
def test_a_callback_of_ones_own_by_the_command(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lightning import Callback\n\n\nclass Hello(Callback):\n"
        "    def on_train_start(self, trainer, module):\n        print('hello from a callback')\n"
    )
    command = ["-m", "t2ilab", "debug=tiny", "run_dir=here", "+callbacks.mine._target_=mine.Hello"]
    done = in_new_process(*command, cwd=tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}")
    assert done.returncode == 0 and "hello from a callback" in done.stdout, done.stderr
