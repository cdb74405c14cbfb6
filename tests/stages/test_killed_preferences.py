"""`kill -9` in the stages of preferences: the same command goes on, and ends where one that nobody disturbed does."""

import signal

import pytest

from tests.runs import FOUNDATION, finish, losses, same_run, signal_at, start, wait_for
from tests.tiny import finished_run

pytestmark = pytest.mark.proof
REWARD = (
    "stage=reward",
    *FOUNDATION,
    "data.size=24",
    "data.val_size=40",
    "model.width=8",
    "trainer.max_steps=30",
)


def base():
    return f"init_from={finished_run()}"


def pairs_command():
    sizes = ("stage.prompts=40", "stage.images=2", "stage.shard=2", "stage.skip_evaluated=false")
    return ("stage=pairs", base(), "reward=clip_score", "trainer.threads=1", *sizes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, own_cache):
    """Pairs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("drawn") / "pairs"
    finish(folder, tiny=pairs_command())
    return folder


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "export/shards").iterdir())}


def killed_and_whole(folder, command, step=5):
    """The folder of a run that was killed after a step and went on, and that of one that was not."""
    whole, killed = folder / "whole", folder / "killed"
    finish(whole, tiny=command)
    assert signal_at(start(killed, tiny=command), killed, step) == -signal.SIGKILL
    assert step <= max(losses(killed)) < max(losses(whole)), "it was killed on the way"
    finish(killed, tiny=command)
    return killed, whole


def test_a_reward_that_is_killed_goes_on_bit_for_bit(tmp_path, own_cache):
    killed, whole = killed_and_whole(tmp_path, REWARD)
    same_run(killed, whole)
    assert (killed / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()


def test_a_model_that_learns_from_pairs_and_is_killed_goes_on_bit_for_bit(drawn, tmp_path):
    options = (
        "stage=preference",
        "debug=tiny",
        "data=pairs",
        f"data.path={drawn}",
        "stage.skip_evaluated=false",
    )
    same_run(*killed_and_whole(tmp_path, (*options, base(), "trainer.max_steps=30")))


def test_pairs_that_are_killed_go_on_behind_their_last_whole_file_bit_for_bit(drawn, tmp_path):
    folder = tmp_path / "pairs"
    process = start(folder, tiny=pairs_command())
    made = folder / "export/shards"
    wait_for(lambda: made.is_dir() and len(list(made.glob("*.safetensors"))) >= 3, process, folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in made.glob("*.safetensors")}
    assert 3 <= len(before) < len(shards(drawn)), "it was killed on the way"
    finish(folder, tiny=pairs_command())
    assert shards(folder) == shards(drawn)
    assert all((made / name).stat().st_mtime_ns == time for name, time in before.items())
