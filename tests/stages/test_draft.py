"""A run that is stopped on its way leaves a report."""

import pytest

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
