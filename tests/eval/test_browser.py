"""The report in a real browser: at the width of a desk and of a phone, light and dark; nothing cut, no error."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from t2ilab.chain.report import metric_rows
from t2ilab.eval.page import data_uri, duration, page, title_of
from t2ilab.eval.report import write_report
from t2ilab.eval.result import Evaluation, Metric
from t2ilab.eval.side_by_side import SideBySide
from t2ilab.measuring.drawn import Cell
from t2ilab.stages.compare import opened, render
from tests.eval import demo
from tests.eval.test_side_by_side import write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; apt-get install chromium"),
]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    "--virtual-time-budget=4000",
)
LOOK = """
function look() {
  const page = document.querySelector('iframe').contentDocument, width = WIDTH;
  const cut = [], small = [], spilled = [], sizes = [];
  for (const e of page.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (box.width && box.right > width + 1 && !e.closest('.scroll')) cut.push(e.tagName + '.' + e.className);
  }
  for (const e of page.querySelectorAll('.num, .value, .mark')) {
    const line = parseFloat(page.defaultView.getComputedStyle(e).lineHeight);
    if (e.getClientRects().length && e.getBoundingClientRect().height > 1.9 * line) small.push(e.textContent);
  }
  for (const e of page.querySelectorAll('.num, .value, .scale b, .r'))
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) spilled.push(e.textContent);
  const scrolled = [...page.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1);
  for (const e of page.querySelectorAll('svg.chart'))
    sizes.push(parseFloat(page.defaultView.getComputedStyle(e).fontSize) *
      e.getBoundingClientRect().width / e.viewBox.baseVal.width);
  const first = page.querySelector('img');
  document.title = JSON.stringify({
    wide: page.documentElement.scrollWidth, cut: cut.slice(0, 5), wrapped: small.slice(0, 5),
    spilled: spilled.slice(0, 5), letters: Math.min(...sizes),
    scrolled: scrolled.length,
    ground: page.defaultView.getComputedStyle(page.body.parentElement).backgroundColor,
    image: first ? [first.getBoundingClientRect().top, first.getBoundingClientRect().width] : null });
}
"""


def seen(page, folder, *, width, dark):
    """What a browser makes of a page in a frame of this width."""
    frame = folder / "frame.html"
    script = LOOK.replace("WIDTH", str(width))
    frame.write_text(
        f"<!doctype html><title>not yet</title><body style='margin:0'><script>{script}</script>"
        f"<iframe width={width} height=900 frameborder=0 onload='look()' srcdoc=\"{html.escape(page)}\"></iframe>"
    )
    mode = (
        ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    )
    command = [CHROMIUM, *FLAGS, *mode, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    told = subprocess.run(
        [*command, "--dump-dom", str(frame)], capture_output=True, text=True, timeout=120, check=True
    )
    errors = [line for line in told.stderr.splitlines() if "CONSOLE" in line]
    title = html.unescape(re.search(r"<title>(.*?)</title>", told.stdout, re.S)[1])
    return json.loads(title), errors


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder / "report.html", demo.content(folder)).read_text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_its_window_and_follows_light_and_dark(report, tmp_path, width, dark):
    found, errors = seen(report, tmp_path, width=width, dark=dark)
    assert errors == []
    assert found["wide"] <= width and found["cut"] == [], "no table or chart is cut"
    assert found["wrapped"] == [], "no number is parted from its unit"
    assert found["spilled"] == [], "no number is wider than its column"
    assert found["letters"] >= 9.5, "what stands in the charts can be read, also where they are small"
    shade = sum(map(int, re.findall(r"\d+", found["ground"])[:3])) / 3
    assert shade < 60 if dark else shade > 200


def test_the_first_screen_of_the_report_shows_a_large_image(report, tmp_path):
    found, _ = seen(report, tmp_path, width=1280, dark=False)
    top, size = found["image"]
    assert top < 700 and size >= 200


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_compared_runs_fits_its_window(tmp_path, width):
    runs = [
        write_run(tmp_path / name / "run", 0.5, optimizer={"lr": 1e-3 * k}) for k, name in enumerate("abc", 1)
    ]
    page = render(SideBySide.of(opened([str(run) for run in runs])), [], {}, "python -m t2ilab stage=compare")
    found, errors = seen(page, tmp_path, width=width, dark=False)
    assert errors == [] and found["wide"] <= width and found["cut"] == []


def life_cycle():
    """The page of seven steps on made-up numbers."""
    names = ["pretrain", "continue", "sft", "reward", "pairs", "preference", "distill"]
    drawing = [name for name in names if name not in ("reward", "pairs")]
    share = Metric(0.774, 0.731, 0.82, 300, "made up", "share", True)
    keys = ("judge/overall", "judge/color_attribution", "compose/color_attribution", "teddy/overall")
    rows = metric_rows({name: Evaluation(dict.fromkeys(keys, share)) for name in drawing})
    cell = Cell(np.zeros((64, 64, 3), np.uint8), True)
    line = {"stage": "sft", "digest": "0123456789ab", "steps": 1440, "seconds": 700.0, "has_report": True}
    return page(
        "lifecycle.html.j2",
        title="lifecycle",
        steps=[{"name": name} for name in names],
        drawing=drawing,
        prompts=["a small purple diamond on a white background", "two orange teddy bears"],
        images={name: [cell, cell] for name in drawing},
        tables=[(drawing, rows), (["reward"], metric_rows({"reward": Evaluation({"reward/nll": share})}))],
        title_of=title_of,
        lineage=[
            line
            | {
                "name": name,
                "from": {"init_from": "pretrain"},
                "parents": {"init_from": "ab"},
                "command": "x",
            }
            for name in names
        ],
        total=5000.0,
        command="python -m t2ilab recipe=lifecycle",
        image=lambda image: data_uri(image, 160),
        duration=duration,
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_life_cycle_shows_all_its_steps_without_scrolling_sideways(tmp_path, width):
    found, errors = seen(life_cycle(), tmp_path, width=width, dark=True)
    assert errors == [] and found["wide"] <= width and found["cut"] == []
    assert found["scrolled"] == 0 and found["spilled"] == [] and found["wrapped"] == []
