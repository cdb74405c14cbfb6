import re
from html.parser import HTMLParser

import numpy as np
import pytest

from t2ilab.eval import report
from t2ilab.eval.grid import save_grid
from t2ilab.eval.page import data_uri, duration
from t2ilab.eval.report import over_training, render, write_report
from t2ilab.eval.report_content import DataFacts, ReportContent
from tests.eval import demo

SECTIONS = (
    "what",
    "images",
    "judge",
    "examples",
    "loss",
    "noise",
    "steps",
    "metrics",
    "data",
    "cost",
    "again",
    "next",
)
VOID = {"meta", "img", "br", "line", "circle", "path"}


class Wellformed(HTMLParser):
    """Fails on a tag that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    content = demo.content(folder)
    return content, write_report(folder / "report.html", content).read_text()


def test_report_shows_every_section_and_is_wellformed(full):
    _, html = full
    for section in SECTIONS:
        assert f'<section id="{section}">' in html
        assert f'href="#{section}"' in html
    parser = Wellformed()
    parser.feed(html)
    assert parser.open == []


def test_report_needs_nothing_beside_itself(full):
    _, html = full
    assert len(html.encode()) < report.LIMIT
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html
    assert "url(" not in html


def test_report_states_numbers_with_their_intervals(full):
    content, html = full
    for key in ("judge/overall", "judge/counting", "compose/overall", "fd_clip", "loss/heldout"):
        metric = content.evaluation[key]
        assert metric.number(metric.value) in html
        assert metric.number(metric.low, False) + " to " + metric.number(metric.high, False) in html
    assert "python -m t2ilab stage=pretrain model=dit_tiny" in html
    assert "1,204 images found = 1,187 used + 3 corrupt + 9 too small + 5 without a caption" in html


def test_report_draws_the_held_out_loss_at_every_stratum(full):
    content, html = full
    chart = re.search(r'<svg[^>]*aria-label="held-out loss against t .*?</svg>', html)[0]
    for name, evaluation in (("this run", content.evaluation), ("parent", content.before)):
        notes = re.findall(rf"<title>{name}: ([\d.]+) at [\d.]+</title>", chart)
        assert len(notes) == len(evaluation.strata) == 8
        mean = sum(map(float, notes)) / 8
        assert mean == pytest.approx(evaluation["loss/heldout"].value, rel=1e-3), "printed with 4 digits"


def test_report_of_nothing_says_so_and_shows_no_section():
    html = render(ReportContent(title="Nothing yet"))
    assert "Quality was not measured" in html
    assert "<section" not in html


def test_text_of_users_is_escaped():
    html = render(ReportContent(title="<script>alert(1)</script>", facts={"a<b": "c & d"}, command="x='<y>'"))
    assert "<script" not in html
    assert "&lt;y&gt;" in html


def test_missing_files_leave_their_section_out(tmp_path):
    content = ReportContent(title="t", metrics_csv=tmp_path / "no.csv", previews=[tmp_path / "no.png"])
    assert "<section" not in render(content)


def test_large_images_are_shrunk_until_the_file_is_small(tmp_path):
    rng = np.random.default_rng(0)
    previews = [
        save_grid(
            tmp_path / f"step_{k}.png",
            rng.integers(0, 256, (8, 160, 160, 3), dtype=np.uint8),
            ["noise"] * 8,
            info={"step": k},
        )
        for k in range(7)
    ]
    path = write_report(tmp_path / "report.html", ReportContent(title="t", previews=previews))
    assert 100_000 < path.stat().st_size < report.LIMIT


def test_images_over_training_keep_first_and_last_and_even_gaps(tmp_path):
    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    paths = []
    for step in range(0, 1300, 100):
        images[:] = step // 10
        paths.append(save_grid(tmp_path / f"{step}.png", images, ["a", "b", "c"], info={"step": step}))
    shown = over_training(paths[::-1])
    assert shown.steps == [0, 200, 400, 600, 800, 1000, 1200]
    assert shown.left_out == 6
    assert shown.prompts == ["a", "b", "c"]
    assert [int(image[0, 0, 0]) for image in shown.images[1]] == [step // 10 for step in shown.steps]


def test_small_images_travel_without_loss():
    import base64
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    head, body = data_uri(image, 160).split(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), image)


def test_images_that_vanish_without_a_reason_are_refused():
    with pytest.raises(ValueError, match="10 images found, but 8 used"):
        DataFacts(10, 8, {"corrupt": 1})


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_read_like_speech(seconds, text):
    assert duration(seconds) == text
