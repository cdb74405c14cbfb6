"""Averages of several widths, and one that was not kept made from their snapshots."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from t2ilab.averages.power_ema import PowerEMA
from t2ilab.averages.snapshots import header, load_posthoc, posthoc_width
from t2ilab.core.posthoc import factor, order_of
from t2ilab.export.denoiser import load
from t2ilab.export.reader import WEIGHTS
from tests.runs import crash_here, run_here, same_run
from tests.tiny import command, finished_run


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def walk(network, steps, first=0):
    """Weights on a random walk: after `first` steps of it, yields at each further step."""
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        for p in network.parameters():
            p.data.add_(0.1 * torch.randn(p.shape, generator=generator))
        network.norm.running_mean.fill_(float(step))
        if step > first:
            yield step


def averages(widths, steps, folder=None, **options):
    """The PowerEMA of a walk, kept like the trainer does."""
    torch.manual_seed(0)
    network, ema = Network(), PowerEMA(sigma_rel=widths, **{"every": steps} | options)
    for step in walk(network, steps):
        ema.follow(network)
        if folder:
            ema.keep(folder, step, steps)
    return network, ema


def test_every_width_is_the_running_average_with_its_own_factors():
    torch.manual_seed(0)
    network, widths = Network(), [0.05, 0.2]
    expected = [0.0, 0.0]
    for step in walk(network, 30):
        for k, width in enumerate(widths):
            beta = factor(order_of(width), step)
            expected[k] = beta * expected[k] + (1 - beta) * network.layer.weight.detach().double()
    _, ema = averages(widths, 30)
    for shadow, value in zip([ema.shadow, *ema.others], expected, strict=True):
        torch.testing.assert_close(shadow["layer.weight"].double(), value, rtol=1e-5, atol=1e-6)
        assert shadow["norm.running_mean"].tolist() == [30.0, 30.0]
    assert not torch.equal(ema.shadow["layer.weight"], ema.others[0]["layer.weight"])


def test_after_one_step_every_width_is_the_network():
    network, ema = averages([0.05, 0.2], 1)
    for shadow in (ema.shadow, *ema.others):
        assert torch.equal(shadow["layer.weight"], network.layer.weight)


def test_the_first_width_is_the_one_that_is_evaluated():
    network, ema = averages([0.2, 0.05], 20)
    with ema.applied(network):
        assert torch.equal(network.layer.weight, ema.shadow["layer.weight"])
    _, alone = averages([0.2], 20)
    assert torch.equal(alone.shadow["layer.weight"], ema.shadow["layer.weight"])


def test_a_saved_average_goes_on_bit_for_bit():
    _, whole = averages([0.05, 0.1, 0.2], 12)
    _, first = averages([0.05, 0.1, 0.2], 7)
    resumed = PowerEMA(sigma_rel=[0.05, 0.1, 0.2], every=5)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.manual_seed(0)
    network = Network()
    for _ in walk(network, 12, first=7):
        resumed.follow(network)
    for one, other in zip([whole.shadow, *whole.others], [resumed.shadow, *resumed.others], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_snapshots_are_written_every_so_many_steps_and_at_the_end(tmp_path):
    _, ema = averages([0.05, 0.1], 25, tmp_path, every=10, snapshot_at=0.2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "early.safetensors",
        *(f"step_{step:08d}_{width}.safetensors" for step in (10, 20, 25) for width in ("0.05", "0.1")),
    ]
    assert header(tmp_path / names[-1]) == {"step": 25, "sigma_rel": 0.1}
    assert torch.equal(load_file(tmp_path / names[-1])["layer.weight"], ema.others[0]["layer.weight"])


@pytest.mark.parametrize("width", [0.07, 0.15])
def test_a_width_that_was_not_kept_is_made_from_the_snapshots(tmp_path, width):
    averages([0.05, 0.1], 400, tmp_path, every=25)
    _, kept = averages([width], 400)
    network = Network()
    error = load_posthoc(network, tmp_path, width, step=400)
    assert error < 0.02
    made, wanted = network.layer.weight.detach(), kept.shadow["layer.weight"]
    torch.testing.assert_close(made, wanted, rtol=0, atol=2e-3)
    assert network.norm.running_mean.tolist() == [400.0, 400.0]
    near = load_file(tmp_path / "step_00000400_0.05.safetensors")["layer.weight"]
    assert (made - wanted).norm() < 0.1 * (near - wanted).norm()


def test_a_width_that_was_kept_comes_back_and_so_does_an_earlier_end(tmp_path):
    averages([0.05, 0.1], 100, tmp_path, every=25)
    network = Network()
    for step in (75, 100):
        load_posthoc(network, tmp_path, 0.1, step=step)
        stored = load_file(tmp_path / f"step_{step:08d}_0.1.safetensors")
        torch.testing.assert_close(network.layer.weight.data, stored["layer.weight"], rtol=1e-6, atol=1e-6)
        assert network.norm.running_mean.tolist() == [float(step)] * 2


def test_widths_that_the_snapshots_cannot_make_and_missing_ones_are_refused(tmp_path):
    averages([0.05, 0.1], 100, tmp_path, every=50)
    with pytest.raises(ValueError, match=r"stage.weights=posthoc:0.01: .* an error of \d+% only"):
        load_posthoc(Network(), tmp_path, 0.01, step=100)
    for folder, step in ((tmp_path, 99), (tmp_path / "nowhere", 100)):
        with pytest.raises(ValueError, match=rf"needs the snapshots of ema=power in .* up to step {step}"):
            load_posthoc(Network(), folder, 0.07, step=step)


@pytest.mark.parametrize("weights", ["best", "posthoc:", "posthoc:wide", "posthoc:0.3", "posthoc:-1", "0.07"])
def test_weights_that_do_not_exist_are_refused(weights):
    with pytest.raises(ValueError, match=r"stage.weights must be ema, raw or posthoc:<sigma_rel>"):
        posthoc_width(weights)


def test_the_width_is_read_from_the_option():
    assert [posthoc_width(weights) for weights in ("ema", "raw", "posthoc:0.07")] == [None, None, 0.07]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_rel": [0.05, 0.3]}, "ema.sigma_rel"),
        ({"sigma_rel": []}, "ema.sigma_rel"),
        ({"sigma_rel": [0.1, 0.1]}, "ema.sigma_rel"),
        ({"every": 0}, "ema.every"),
        ({"snapshot_at": 1.5}, "ema.snapshot_at"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        PowerEMA(**{"sigma_rel": [0.05], "every": 5} | options)


RUN = ("ema=power", "ema.every=3", "trainer.max_steps=13", "checkpoint.every=5", "schedule=constant")


@pytest.fixture(scope="module")
def run(tmp_path_factory, own_cache):
    folder = tmp_path_factory.mktemp("power") / "run"
    run_here(folder, *RUN)
    return folder


def test_a_run_that_crashed_keeps_the_same_averages_bit_for_bit(run, tmp_path):
    crash_here(tmp_path / "run", 8, *RUN)  # snapshots of steps 3 and 6, checkpoint of step 5
    assert (tmp_path / "run/averages/step_00000006_0.1.safetensors").is_file()
    run_here(tmp_path / "run", *RUN)
    same_run(tmp_path / "run", run)
    one, other = (
        {path.name: path.read_bytes() for path in folder.glob("averages/*.safetensors")}
        for folder in (tmp_path / "run", run)
    )
    assert any(
        (tmp_path / "run/averages").glob("step_00000006*.earlier*")
    )  # those past the checkpoint are kept
    assert len(one) == 10 and one == other


def test_the_command_line_evaluates_any_width_of_a_run(run, tmp_path):
    plan = ("eval=quick", "eval.prompts_per_task=1", "eval.caption_prompts=4", "eval.heldout_images=4")
    losses = {}
    for weights in ("ema", "posthoc:0.05", "posthoc:0.1", "posthoc:0.07"):
        folder = tmp_path / weights.replace(":", "")
        command("stage=evaluate", f"init_from={run}", f"stage.weights={weights}", *plan, run_dir=folder)
        found = json.loads((folder / "evaluation.json").read_text())
        losses[weights] = found["loss/heldout"]["value"]
        assert found["meta"]["weights"] == weights
    assert losses["posthoc:0.05"] == pytest.approx(losses["ema"], rel=1e-5)
    low, high = sorted([losses["posthoc:0.05"], losses["posthoc:0.1"]])
    assert low < losses["posthoc:0.07"] < high


def test_an_export_away_from_its_run_has_no_snapshots(run, tmp_path):
    made = load(run, weights="posthoc:0.07").denoiser.backbone.state_dict()
    own = load_file(run / "export" / WEIGHTS)
    assert any(not torch.equal(made[name], own[name]) for name in own)
    shutil.copytree(run / "export", tmp_path / "moved/export")
    for path in (tmp_path / "moved", finished_run()):
        with pytest.raises(ValueError, match=r"posthoc:0.07 needs the snapshots of ema=power"):
            load(path, weights="posthoc:0.07")
