"""docs/defaults.md: the numbers that it says are the default are those of the files it names."""

import re

import pytest
import yaml

from t2ilab.config import composition

CONF = composition.conf_folder()
PAGE = (CONF.parent / "docs/defaults.md").read_text()
ROW = re.compile(r"^\| `(?P<file>[\w/]+)` `(?P<key>[\w.]+)` \| (?P<here>[^|]+) \|", re.M)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE)]


def value_of(row):
    """The value under a dotted key; a key of a file may be named `null`, too."""
    node = yaml.safe_load((CONF / f"{row['file']}.yaml").read_text())
    for key in row["key"].split("."):
        node = node[key]
    return node


def said(row):
    """A remark in brackets behind the value is none of it."""
    text = re.sub(r" \(.*\)$", "", row["here"].strip())
    return yaml.safe_load(text)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['file']} {row['key']}")
def test_the_default_that_the_page_names_is_that_of_the_file(row):
    assert value_of(row) == said(row)


def test_the_page_names_values_of_every_group_it_speaks_of():
    groups = {row["file"].split("/")[0] for row in ROWS}
    assert {"timestep", "weighting", "ema", "optimizer", "terms", "routing", "sampler", "guidance"} <= groups
    assert len(ROWS) == len({(row["file"], row["key"]) for row in ROWS}) > 60
    options = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(options) == len(ROWS), "every row that begins with an option is read"
