"""A run in phases that is stopped before, at or after a change goes on bit for bit."""

import os
import re
import shutil
import signal

import pytest
import torch

from t2ilab.callbacks.checkpoint import newest_whole, step_of
from t2ilab.core.timestep import LogitNormal
from t2ilab.runs.outcome import Interrupted
from tests.photographs import folder_of_shapes
from tests.runs import (
    after_step,
    crash_here,
    finish,
    losses,
    run_here,
    said,
    same_run,
    signal_at,
    start,
    steps,
)

pytestmark = pytest.mark.usefixtures("own_cache")
COMMON = (
    "trainer.max_steps=13",
    "trainer.accumulate=2",
    "checkpoint.every=3",
    "logger.every=2",
    "stage.preview_every=13",
)
# steps 0 to 5 at 32 px with short captions and much dropout, 6 to 12 at 64 px; a checkpoint lies on the change
PHASES = (
    "data.resolution=64",
    "curriculum=resolution",
    "+curriculum.phases.low.data.caption_weights={short:1,long:0,paraphrase:0}",
    "+curriculum.phases.low.condition_dropout=0.5",
    *COMMON,
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    run_here(folder, *PHASES)
    return folder


def test_every_step_sees_the_data_times_and_dropout_of_its_phase(reference, tmp_path, monkeypatch):
    """Of twice 4 rows a step about half have no text while the dropout is 0.5, and about a tenth later."""
    from t2ilab.objectives.flow_matching import FlowMatching

    shifted = {shift: LogitNormal(shift=shift, uniform_share=0.1, stratified=True) for shift in (1.1, 2.2)}
    edges, empty = {}, {}
    forward = FlowMatching.forward

    def noting(self, batch, rng, **turn):
        found = forward(self, batch, rng, **turn)
        edges.setdefault(rng.step, set()).add(batch.x0.shape[-1])
        empty.setdefault(rng.step, {}).update(
            zip(rng.rows.tolist(), batch.condition.mask.sum(1).tolist(), strict=True)
        )
        assert torch.equal(found.t, shifted[1.1 if rng.step < 6 else 2.2](rng))
        return found

    monkeypatch.setattr(FlowMatching, "forward", noting)
    run_here(tmp_path / "run", *PHASES)
    same_run(tmp_path / "run", reference)
    assert edges == {step: {32 if step < 6 else 64} for step in range(13)}
    shares = [
        sum(tokens == 1 for step in part for tokens in empty[step].values()) / (8 * len(part))
        for part in (range(6), range(6, 13))
    ]
    assert 0.3 < shares[0] < 0.7 and shares[1] < 0.25


def test_a_run_that_crashes_around_a_change_of_phase_ends_as_if_it_had_not(reference, tmp_path, capsys):
    for step in (
        4,
        6,
        7,
        10,
    ):  # before it; right after the last step of the phase; in the first step of the next
        crash_here(tmp_path / "run", step, *PHASES)
    run_here(tmp_path / "run", *PHASES)
    same_run(tmp_path / "run", reference)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("phase ")]
    begun = [
        "phase 1",
        "phase 1",
        "phase 1",
        "phase 2",
        "phase 2",
        "phase 2",
    ]  # started, on from 3, 3, 6 and 9
    assert [line.split(" of 2")[0] for line in lines] == begun


@pytest.mark.parametrize("step", [5, 6, 7])
def test_a_signal_around_a_change_of_phase_loses_nothing(reference, tmp_path, step):
    folder = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        after_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted, match=f"stopped at step {step} of 13"):
            run_here(folder, *PHASES)
    assert step_of(newest_whole(folder / "checkpoints").path) == step
    run_here(folder, *PHASES)
    same_run(folder, reference)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashed") / "run"
    crash_here(folder, 8, *PHASES)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("curriculum.phases.low.share=0.3", "curriculum.phases.full.share=0.7"),
            r"other options:\n.*curriculum\.phases\.low\.share: was 0\.5, now 0\.3",
        ),
        (("curriculum.phases.low.timestep.shift=1",), r"low\.timestep\.shift: was 'follow', now 1"),
        (
            ("trainer.max_steps=20",),
            r"the training data or its order has changed \(phases was .*'from step': 6",
        ),
    ],
)
def test_a_changed_curriculum_is_not_continued(crashed, tmp_path, options, message):
    folder = shutil.copytree(crashed, tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        run_here(folder, *PHASES, *options)


def test_the_report_and_the_export_know_the_phases(reference):
    html = (reference / "report.html").read_text()
    assert html.count('class="mark"') == 2 and ">full</text>" in html
    noise = html.partition('<section id="noise">')[2].partition("</section>")[0]
    assert "Times drawn by each phase of training" in noise
    assert re.findall(r'class="name r\d"[^>]*>(\w+)<', noise) in (["low", "full"], ["full", "low"])
    manifest = (reference / "export" / "t2ilab.json").read_text()
    assert '"follow"' in manifest


@pytest.fixture
def seen(monkeypatch):
    """{step: latents of its last micro-batch} of the runs of a test."""
    from t2ilab.objectives.flow_matching import FlowMatching

    found, forward = {}, FlowMatching.forward

    def noting(self, batch, rng, **turn):
        found[rng.step] = batch.x0
        return forward(self, batch, rng, **turn)

    monkeypatch.setattr(FlowMatching, "forward", noting)
    return found


def crashed_at(ends, folder, *options):
    """A run that dies after each of these steps and is continued from the checkpoint before."""
    for step in ends:
        crash_here(folder, step, *options)
    run_here(folder, *options)
    return folder


def test_a_change_to_squares_and_then_to_shapes_is_continued_bit_for_bit(tmp_path, seen):
    """Steps 0 to 5 at 16 px, 6 to 9 squares of 32 px, 10 to 19 wide, tall and square."""
    options = (
        "data=folder_buckets",
        f"data.path={folder_of_shapes(tmp_path / 'pictures', 36)}",
        "data.buckets.multiple=8",
        "data.val_share=0.15",
        "curriculum=aspect",
        *(
            f"curriculum.phases.{name}.share={share}"
            for name, share in (("low", 0.3), ("square", 0.2), ("shapes", 0.5))
        ),
        *COMMON,
        "trainer.max_steps=20",
    )
    run_here(tmp_path / "whole", *options)
    shapes = [tuple(seen[step].shape[-2:]) for step in range(20)]
    assert shapes[:10] == [(16, 16)] * 6 + [(32, 32)] * 4
    assert set(shapes[10:]) == {(32, 32), (24, 40), (40, 24)}
    same_run(crashed_at((5, 7, 11), tmp_path / "run", *options), tmp_path / "whole")


def test_a_change_of_the_mixture_is_continued_bit_for_bit(tmp_path, seen):
    """Of 8 rows 1 is curated in steps 0 to 7, 4 are in steps 8 to 12; each as in a run with these weights alone."""
    mixture = (
        "data=mixture",
        "data.sources.general.size=48",
        "data.sources.general.val_size=16",
        "data.sources.curated.size=16",
        *COMMON,
    )
    options = (*mixture, "curriculum=quality")
    run_here(tmp_path / "whole", *options)
    phased = dict(seen)
    for name, weights, part in (
        ("broad", "{general:0.9,curated:0.1}", range(8)),
        ("fine", "{general:0.5,curated:0.5}", range(8, 13)),
    ):
        run_here(tmp_path / name, *mixture, f"data.weights={weights}")
        assert [step for step in range(13) if torch.equal(seen[step], phased[step])] == list(part)
    same_run(crashed_at((7, 9), tmp_path / "run", *options), tmp_path / "whole")


@pytest.mark.parametrize(
    ("rule", "few"), [("masking", 4), pytest.param("tread", 8, marks=pytest.mark.slow), ("sprint", 4)]
)
def test_the_end_without_routing_is_continued_bit_for_bit(rule, few, tmp_path, monkeypatch):
    """Of 16 tokens some stay in steps 0 to 7, all do in 8 to 12."""
    from t2ilab.core.denoiser import Denoiser

    options = (
        "model.depth=3",
        f"routing@model.routing={rule}",
        "curriculum=unmask",
        "curriculum.phases.masked.share=0.6",
        "curriculum.phases.full.share=0.4",
        *COMMON,
    )
    counts, routes = {}, Denoiser.routes

    def noting(self, rng, x):
        drawn = routes(self, rng, x)
        counts[rng.step] = drawn["kept"].shape[1] if "kept" in drawn else 16
        return drawn

    monkeypatch.setattr(Denoiser, "routes", noting)
    run_here(tmp_path / "whole", *options)
    assert counts == {step: few if step < 8 else 16 for step in range(13)}
    same_run(crashed_at((7, 9), tmp_path / "run", *options), tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("terms=[repa,sra]", "data.workers=2"),
        ("optimizer=muon", "model=unet_tiny", "model.widths=[32,32]", "model.attention=[false,false]"),
    ],
    ids=" ".join,
)
def test_other_parts_change_phases_as_exactly(tmp_path, options):
    run_here(tmp_path / "whole", *PHASES, *options)
    for step in (5, 7):
        crash_here(tmp_path / "run", step, *PHASES, *options)
    run_here(tmp_path / "run", *PHASES, *options)
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_kill_9_on_both_sides_of_a_change_with_workers_that_run_ahead(tmp_path):
    folder, whole = tmp_path / "run", tmp_path / "whole"
    options = (*PHASES, "trainer.max_steps=60", "data.workers=2", "checkpoint.every=7")
    run_here(whole, *options)
    for step in (24, 28, 36):
        assert signal_at(start(folder, *options), folder, step) == -signal.SIGKILL
    finish(folder, *options)
    assert said(folder).count("continuing from") == 3
    same_run(folder, whole)
    assert steps(folder)[-1] == 60 and losses(folder)[60] == losses(whole)[60]
