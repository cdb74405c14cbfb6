"""The life cycle by its own command: killed anywhere it goes on, bit for bit, and it ends in one page."""

import contextlib
import json
import re
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from t2ilab.eval.grid import read_grid
from tests.runs import finish, said, start, wait_for

pytestmark = pytest.mark.proof
STEPS = ("pretrain", "continue", "sft", "reward", "pairs", "preference", "distill")
MODELS = tuple(step for step in STEPS if step not in ("reward", "pairs"))
COMMAND = ("recipe=lifecycle", "debug=tiny", "prompts=[a red circle,a blue star]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, own_cache):
    """A life cycle that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "chain"
    finish(folder, tiny=COMMAND)
    return folder


def weights(folder, step):
    return load_file(folder / step / "export/transformer/diffusion_pytorch_model.safetensors")


def processes_of(folder):
    """Command lines of living processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has just ended
            line = path.read_bytes().decode(errors="replace").replace("\0", " ")
            found += [line] if str(folder) in line else []
    return found


def wait_for_nobody(folder, seconds=30.0):
    end = time.monotonic() + seconds
    while left := processes_of(folder):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def test_every_step_starts_from_the_one_before_and_one_page_compares_them(whole):
    record = json.loads((whole / "chain.json").read_text())
    assert tuple(record) == STEPS
    assert record["continue"]["parents"]["init_from"] == record["pretrain"]["export"]
    assert record["sft"]["parents"]["init_from"] == record["continue"]["export"]
    manifest = json.loads((whole / "sft/export/t2ilab.json").read_text())
    assert manifest["parents"][0]["digest"] == record["continue"]["export"]
    parents = record["preference"]["parents"]
    assert parents == {
        "init_from": record["sft"]["export"],
        "data.path": record["pairs"]["export"],
        "eval.rewards.learned.path": record["reward"]["export"],
    }
    changes = json.loads((whole / "preference/changes.json").read_text())
    assert changes["reward/learned"]["difference"] is not None and changes["reward/trained"]["n"] > 0
    page = (whole / "lifecycle.html").read_text()
    for step in MODELS:
        assert f'href="{step}/report.html"' in page and record[step]["export"][:12] in page
    assert "http" not in re.sub(r"http://www.w3.org\S*", "", page)
    grid = read_grid(whole / "lifecycle.png")
    assert grid.captions[: len(MODELS)] == tuple(f"{step}: a red circle" for step in MODELS)


def test_given_again_every_step_is_skipped(whole):
    before = {step: (whole / step / "export/t2ilab.json").stat().st_mtime_ns for step in STEPS}
    told = finish(whole, tiny=COMMAND)
    assert told.count("done before, nothing it depends on has changed") == len(STEPS)
    assert {step: (whole / step / "export/t2ilab.json").stat().st_mtime_ns for step in STEPS} == before


@pytest.mark.parametrize("step", ["continue", "sft"])
def test_killed_anywhere_it_leaves_no_process_and_goes_on_bit_for_bit(whole, tmp_path, step):
    folder = tmp_path / "chain"
    process = start(folder, tiny=COMMAND)
    wait_for((folder / step / "metrics.csv").is_file, process, folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for_nobody(folder)
    told = finish(folder, tiny=COMMAND)
    assert told.count("done before") == STEPS.index(step)
    for name in MODELS:
        ours, theirs = weights(folder, name), weights(whole, name)
        assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_step_and_chain_with_its_status(tmp_path, number):
    folder = tmp_path / "chain"
    process = start(folder, tiny=(*COMMAND, "trainer.max_steps=2000"))
    wait_for((folder / "pretrain/metrics.csv").is_file, process, folder)
    process.send_signal(number)
    assert process.wait(120) == 128 + number
    assert "to go on" in said(folder) and "Traceback" not in said(folder)
    wait_for_nobody(folder)
