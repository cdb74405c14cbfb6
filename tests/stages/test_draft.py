"""A run that is stopped on its way leaves a report."""

from types import SimpleNamespace

import pytest

from t2ilab.eval.result import Evaluation, Metric
from t2ilab.measuring.wrap_up import marks
from tests.tiny import command


@pytest.mark.slow
def test_a_run_that_never_comes_to_its_end_has_a_report_with_its_images_and_says_how_far_it_came(
    tmp_path, monkeypatch
):
    def stopped(*_, **__):
        raise RuntimeError("stopped here")

    monkeypatch.setattr("t2ilab.stages.assembly.finish", stopped)
    with pytest.raises(RuntimeError, match="stopped here"):
        command("debug=tiny", run_dir=tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "This run is at step 4 of 4." in html
    head = html[: html.index("</header>")]
    assert head.count("wrong</span>") == 8 and "untrained network" in head and "real images" in head
    for text in ("Images over training", "Curves", "Learning rate", "Gradient norm", "The whole config"):
        assert text in html


def test_a_later_stage_stands_beside_what_was_measured_of_its_start_and_not_beside_eight_previews(tmp_path):
    real, old = (Metric(value, 0.0, 1.0, 300, "", "share", True) for value in (1.0, 0.77))
    path = tmp_path / "before.json"
    job = SimpleNamespace(config={"init_from": "run"}, run=SimpleNamespace(before=path))
    measure = SimpleNamespace(real_images=real)
    assert marks(job, measure, [tmp_path / "missing.png"]) == {"real images": real}
    Evaluation({"judge/overall": old}, {}).save(path)
    found = marks(job, measure, [tmp_path / "missing.png"])
    assert list(found) == ["before", "real images"] and found["before"].value == 0.77
