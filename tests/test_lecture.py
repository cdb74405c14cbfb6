"""Every command of docs/lecture.md is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from t2ilab.chain import command_line as chain
from t2ilab.config.composition import checked, jobs_of
from t2ilab.config.overrides import as_typed

PAGE = (Path(__file__).parents[1] / "docs/lecture.md").read_text()
COMMANDS = [line for line in PAGE.splitlines() if line.startswith("python -m t2ilab")]


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_lecture_passes_the_check(line):
    words = shlex.split(line, comments=True)[3:]
    sweep = "-m" in words
    options = as_typed([word for word in words if word != "-m"], sweep=sweep)
    if chain.is_chain(options):
        options = chain.sorted_out(options)
    for own in jobs_of(options) if sweep else [options]:
        assert checked(own)["stage"]["name"]


def test_the_lecture_compares_and_draws_from_runs_that_an_earlier_line_makes():
    made: set[str] = set()
    for line in COMMANDS:
        asked = re.findall(r"lecture/[\w-]+", " ".join(re.findall(r"(?:runs=\[|init_from=)\S+", line)))
        assert set(asked) <= made, line
        made |= set(re.findall(r"(?:run_dir|sweep\.dir)=(lecture/[\w-]+)", line))
    assert len(made) > 8
