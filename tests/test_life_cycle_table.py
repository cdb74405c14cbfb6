"""benchmarks/life_cycle.py: its rows fit the code, and its cells say what the evaluations say."""

import argparse
import sys

import numpy as np
import pytest

from t2ilab.config import composition
from t2ilab.eval.result import Evaluation, Metric, Outcomes


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(composition.conf_folder().parent / "benchmarks"))
        import life_cycle

        yield life_cycle
    for name in ("life_cycle", "launch", "tables", "settings", "curves"):
        sys.modules.pop(name, None)


def measured(values):
    share = Metric(float(np.mean(values)), None, None, len(values), "mean", "share", True)
    plain = Metric(0.3, None, None, 1, "mean")
    return Evaluation(
        {"teddy/overall": share, "style": plain}, outcomes={"teddy": Outcomes(np.array(values))}
    )


def test_every_row_passes_the_check(tables):
    for row in tables.ROWS.values():
        composition.checked([*row.own, "init_from=somewhere", "seed=1", "trainer.threads=1", *tables.PLAN])


def test_a_cell_of_several_seeds_compares_each_prompt_with_the_mean_of_its_seeds(tables):
    before, one, other = measured([0, 0, 0, 1]), measured([1, 1, 0, 1]), measured([1, 1, 1, 1])
    assert tables.cell(before, [other], "teddy/overall").startswith("25.0 -> 100.0: +75.0 (")
    text = tables.cell(before, [one, other], "teddy/overall")
    assert text.startswith("25.0 -> 87.5: +62.5 (") and text.endswith("[+50.0, +75.0]")
    assert tables.cell(before, [one], "style") == "0.300 -> 0.300: +0.000"
    assert tables.cell(before, [one], "judge/overall") == "-"


def test_rows_start_from_their_parent_and_claims_have_every_seed(tables, tmp_path, monkeypatch):
    trained = []

    def launch(folder, overrides, *, done, threads):
        trained.append(
            (folder.relative_to(tmp_path), next(o for o in overrides if o.startswith("init_from=")))
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / done).touch()
        return folder

    monkeypatch.setattr(tables, "launch", launch)
    names = [tables.CONTINUED, "600 steps without replay", "sft on curated images"]
    args = argparse.Namespace(
        base=tmp_path / "base",
        seeds=[3, 5],
        jobs=1,
        threads=1,
        only=names,
        options=[],
        measure=[],
        out=tmp_path,
    )
    made = tables.Runs(args).all()
    assert [len(folders) for folders in made.values()] == [2, 1, 2]
    continued = tmp_path / "continue_on_bears/seed3"
    assert [path.name for path, _ in trained] == ["seed3", "seed3", "seed5", "seed3", "seed5"]
    assert {start for _, start in trained[:3]} == {f"init_from={tmp_path / 'base'}"}
    assert {start for _, start in trained[3:]} == {f"init_from={continued}"}
