"""README and docs: every link leads somewhere, and every command is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from t2ilab.chain import command_line as chain
from t2ilab.config.composition import checked, jobs_of
from t2ilab.config.overrides import as_typed

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(page):
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_of_it(name):
    page = PAGES[name]
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text())
    for link in ("".join(pair) for pair in links):
        if link.startswith("http"):
            continue
        path, _, heading = link.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), link
        assert not heading or heading in anchors(other), link


def commands(text):
    """The lines of a page that start a run, as one would copy them."""
    whole = text.replace("\\\n", " ")
    lines = [line.strip() for line in whole.splitlines()]
    inline = re.findall(r"`(python -m t2ilab [^`]+)`", FENCED.sub("", text).replace("\n", " "))
    asking = re.compile(r"python -m t2ilab (show|-sc|.*--)")
    return [
        line
        for line in (*lines, *inline)
        if line.startswith("python -m t2ilab ") and "`" not in line and not asking.match(line)
    ]


COMMANDS = [(name, line) for name, page in PAGES.items() for line in commands(page.read_text())]
ABSENT = ": there is no folder "  # DIR, RUN and /models are for the reader to fill in


@pytest.mark.slow
@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_a_command_of_a_page_passes_the_check(name, line):
    words = shlex.split(line, comments=True)[3:]
    sweep = "-m" in words
    options = as_typed([word for word in words if word != "-m"], sweep=sweep)
    if chain.is_chain(options):
        options = chain.sorted_out(options)
    for own in jobs_of(options) if sweep else [options]:
        try:
            assert checked(own)["stage"]["name"]
        except ValueError as error:
            _, *faults = str(error).splitlines()
            assert faults and all(ABSENT in fault for fault in faults), error


def test_there_are_commands_of_every_stage():
    said = " ".join(line for _, line in COMMANDS)
    stages = {file.stem for file in (ROOT / "conf/stage").glob("*.yaml")} - {"pretrain", "chain", "encoder"}
    assert {stage for stage in stages if f"stage={stage}" not in said} == set()
    assert len(COMMANDS) > 90


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_a_command_can_be_copied_into_any_shell(name, line):
    """zsh takes an unquoted bracket for a pattern of file names, and a word behind the command for an option."""
    assert "[" not in re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", line), line
    assert all("=" in word or word == "-m" for word in shlex.split(line, comments=True)[3:]), line
