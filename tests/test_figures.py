"""The figures of docs/lecture.md: each with the command that draws it, small, and of the formulas that it says."""

import re
import sys

import pytest
import torch

from t2ilab.config import composition
from t2ilab.core.path import Linear, VPLinear

ROOT = composition.conf_folder().parent


@pytest.fixture(scope="module")
def trajectories():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import trajectories

        yield trajectories
    for name in ("trajectories", "figures"):
        sys.modules.pop(name)


def test_every_figure_of_the_lecture_is_small_and_stands_above_the_command_that_draws_it():
    text = (ROOT / "docs/lecture.md").read_text()
    figures = re.findall(r"!\[[^\]]+\]\(([\w/]+\.png)\)", text)
    assert sorted((ROOT / "docs/lecture").iterdir()) == sorted(
        ROOT / "docs" / name for name in figures if name.startswith("lecture/")
    )
    for name in figures:
        below = text[text.index(f"({name})") :]
        script = re.match(r"[^`]*`python (benchmarks/\w+\.py) [^`]*`", below.replace("\n", " "))
        assert script and f"docs/{name}" in script[0] and (ROOT / script[1]).is_file(), name
        assert (ROOT / "docs" / name).stat().st_size < 300_000, name


@pytest.mark.parametrize("path", [Linear(), VPLinear()], ids=["flow", "diffusion"])
def test_the_two_gaussians_move_as_their_density_says(trajectories, path):
    """dp/dt = -d(p v)/dx, by finite differences, away from both ends."""
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    t, h = torch.tensor([0.3, 0.6], dtype=torch.float64), 1e-5
    net = trajectories.TwoGaussians(path)
    v = torch.stack([net(x.view(-1, 1, 1, 1), time.expand(len(x)), None)[0].flatten() for time in t], 1)
    p = trajectories.density(path, t, x)
    torch.testing.assert_close(torch.trapezoid(p, x, dim=0), torch.ones(2, dtype=torch.float64))
    change = (trajectories.density(path, t + h, x) - trajectories.density(path, t - h, x)) / (2 * h)
    flow = torch.gradient(p * v, spacing=(x,), dim=0)[0]
    torch.testing.assert_close(change[1:-1], -flow[1:-1], atol=2e-3, rtol=0)
