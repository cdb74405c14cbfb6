"""benchmarks/preferences.py: its settings fit the code, and its cells say what changes.json says."""

import json
import sys
from pathlib import Path

import pytest

from t2ilab.config import composition


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(composition.conf_folder().parent / "benchmarks"))
        import preferences

        yield preferences
    for name in ("preferences", "tables", "settings", "curves"):
        sys.modules.pop(name)


def test_every_loss_has_a_setting_on_both_kinds_of_pairs_and_all_pass_the_check(tables, tmp_path):
    settings = tables.family("somewhere", tmp_path)
    assert len(settings) == 1 + 2 * len(tables.LOSSES) and next(iter(settings)) == tables.CONTINUED
    kinds = {Path(path).stem for path in (composition.conf_folder() / "loss").glob("*.yaml")}
    assert set(tables.LOSSES) <= kinds
    for name in (tables.CONTINUED, "dpo/drawn", "sft_winners/world"):
        composition.checked([*settings[name], *tables.MEASURED])
    probe = (*tables.MEASURED, *tables.UNMEASURED)
    composition.checked([*settings["kto/drawn"], *probe])


def test_every_reward_model_sees_equally_many_images_and_passes_the_check(tables):
    for own in tables.rewards("somewhere").values():
        config = composition.checked(own)
        data = config["data"]
        assert data["size"] * data["images"] == 40_000 and data["batch_size"] * data["images"] == 128
        assert data["val_size"] == 10_000


def test_a_cell_is_a_difference_with_its_interval_in_points_or_in_the_metric_own_unit(tables, tmp_path):
    change = {"difference": 0.081, "low": 0.052, "high": 0.11, "before": 0.5, "after": 0.4}
    assert tables.with_interval(change, True) == "+8.1 (5.2 .. 11.0)"
    assert tables.with_interval(change | {"low": None}, False) == "+0.081"
    assert tables.with_interval({}, True) == ""
    metrics = {"judge/overall": change, "diversity": change, "drift": change}
    (tmp_path / "changes.json").write_text(json.dumps(metrics))
    (tmp_path / "metrics.csv").write_text("step,train/seconds\n10,30\n20,90\n")
    cells = tables.row("dpo/drawn", tmp_path, None)
    assert cells[:4] == ["dpo/drawn", "20", "1.5", "+8.1 (5.2 .. 11.0)"] and cells[-3:] == [
        "80 %",
        "0.4000",
        "",
    ]
