"""The examples of docs/extending.md, written to files as the page says and run through the command line."""

import csv
import re
import sys
from pathlib import Path

import pytest

from tests.runs import run_here

PAGE = (Path(__file__).parents[1] / "docs/extending.md").read_text()
FILES = dict(re.findall(r"^`((?:my_package|conf)/\S+)`\n```\w+\n(.*?)^```$", PAGE, re.M | re.S))
SHORT = ("trainer.max_steps=3", "checkpoint.every=3", "stage.preview_every=3", "eval.heldout_images=4")


@pytest.fixture
def examples(tmp_path, monkeypatch, own_cache):
    """A way to run a command with the examples on the path; gives the rows of metrics.csv."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*options, steps=3):
        folder = tmp_path / "run"
        run_here(folder, f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *SHORT, *options)
        with (folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    yield run
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_the_page_has_an_example_of_everything_that_can_be_added():
    names = {name.partition("/")[2].removesuffix(".py") for name in FILES if name.startswith("my_package")}
    assert names == {"my_loss", "my_game", "my_term", "my_net", "my_stage"}
    assert len(FILES) == 10, "each with its yaml"


def test_an_objective_is_one_file_and_one_yaml(examples):
    rows = examples("loss=my_loss", "terms=[my_term]")
    assert len(rows) == 3 and all(float(row["train/my_term"]) > 0 for row in rows)
    assert float(rows[0]["train/loss"]) == pytest.approx(
        float(rows[0]["train/my_loss"]) + 0.01 * float(rows[0]["train/my_term"]), rel=1e-5
    )


def test_a_critic_beside_a_denoiser_is_one_file_and_one_yaml(examples):
    rows = examples("loss=my_game", "trainer.accumulate=2")
    for row in rows:
        total = float(row["train/distance"]) + 0.1 * float(row["train/realism"])
        assert float(row["train/loss"]) == pytest.approx(total, rel=1e-5)
        assert float(row["train/critic/grad_norm"]) > 0
    hinge = [float(row["train/critic/loss"]) for row in rows]
    assert hinge[2] < hinge[0], "the critic learns"
    assert "train/loss_t0.25-0.50" in rows[0], "noise bins are there with several players, too"


def test_a_model_starts_at_the_loss_of_a_network_that_says_nothing(examples):
    rows = examples("model=my_net", "terms=[my_term]")
    assert float(rows[0]["train/flow_matching"]) == pytest.approx(3.9, rel=0.3)


def test_a_stage_is_a_way_to_make_batches_and_a_yaml(examples):
    rows = examples("stage=my_stage")
    assert len(rows) == 3
