"""The commands of docs/lecture.md build on each other, and each can be tried small."""

import re
import shlex
from pathlib import Path

import pytest

from t2ilab.config.composition import checked, jobs_of
from t2ilab.config.overrides import as_typed

PAGE = (Path(__file__).parents[1] / "docs/lecture.md").read_text()
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("python -m t2ilab")]


TRAINING = [line for line in COMMANDS if not re.search("stage=(compare|evaluate)|recipe=lifecycle", line)]


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAINING)
def test_a_training_command_of_the_lecture_can_be_tried_small(line):
    words = [word for word in shlex.split(line, comments=True)[3:] if word != "-m"]
    given = re.search(r"trainer\.max_steps=(\d+)", line)
    for own in jobs_of(as_typed([*words, "debug=tiny"], sweep=True)):
        assert checked(own)["trainer"]["max_steps"] == (int(given[1]) if given else 4)


def test_the_lecture_compares_and_draws_from_runs_that_an_earlier_line_makes():
    made: set[str] = set()
    for line in COMMANDS:
        asked = re.findall(r"lecture/[\w-]+", " ".join(re.findall(r"(?:runs=\[|init_from=)\S+", line)))
        assert set(asked) <= made, line
        made |= set(re.findall(r"(?:run_dir|sweep\.dir)=(lecture/[\w-]+)", line))
    assert len(made) > 8
