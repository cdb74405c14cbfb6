"""What version 0.1 wrote by `debug=tiny model.width=16 model.depth=1 terms=[repa] trainer.max_steps=2`."""

from pathlib import Path

import pytest
import yaml

from t2ilab.config.check import problems
from t2ilab.export.denoiser import load
from tests.tiny import command

EARLIER = Path(__file__).parent / "exports/version_0_1"


def test_a_model_that_an_earlier_version_exported_draws_the_same_image():
    """Mean, spread and first numbers of the image that version 0.1 drew."""
    image = load(EARLIER).generate(["a red circle"], seed=0, rows=[0]).double()
    assert image.shape == (1, 3, 32, 32)
    assert image.mean().item() == pytest.approx(128.246, abs=0.05)
    assert image.std().item() == pytest.approx(59.915, abs=0.05)
    first = [94, 185, 122, 75, 255, 204, 75, 193, 116, 63, 131, 74]
    assert image.flatten()[:12].tolist() == pytest.approx(first, abs=1)


def test_every_option_of_an_earlier_version_is_one_of_today():
    """Newer options may be missing in it: the files of conf bring those."""
    config = yaml.safe_load((EARLIER / "config.yaml").read_text())
    nodes = {name: node for name, node in config.items() if isinstance(node, dict) and "_target_" in node}
    assert {"stage", "loss", "model", "data", "trainer", "sampler"} <= nodes.keys()
    assert [line for line in problems(nodes) if not line.endswith(": missing")] == []


def test_an_earlier_export_is_what_a_stage_of_today_begins_with(tmp_path):
    options = ("stage=sample", f"init_from={EARLIER}", "prompts=[a red circle]", "stage.copies=1")
    command(*options, run_dir=tmp_path / "run")
    assert list((tmp_path / "run/samples").glob("000_0_*.png"))
