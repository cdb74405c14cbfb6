"""`stage=pretrain` from options to a finished folder: on the synthetic data set and on a folder of photographs."""

import csv
import html
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from t2ilab.config.composition import checked
from t2ilab.core.phased import Phased
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Condition
from t2ilab.latents.identity import Identity
from t2ilab.measuring.next_steps import next_steps
from t2ilab.measuring.wrap_up import density
from t2ilab.objectives.base import NOTHING, Losses, Objective
from t2ilab.objectives.flow_matching import FlowMatching
from t2ilab.runs.folder import RunDir
from t2ilab.stages.parts import check_latents
from t2ilab.stages.pretrain import Pretrain, make_denoiser
from tests.photographs import folder_of_shapes, photograph
from tests.tiny import CPU, command, finished_run

LOSS = {"_target_": "t2ilab.objectives.flow_matching.FlowMatching"}
FEW = ["debug=tiny", "trainer.max_steps=2", "checkpoint.every=2", "stage.preview_every=2"]


def test_a_finished_run_holds_everything_that_was_promised():
    run = RunDir(finished_run())
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4
    assert config["command"] == "python -m t2ilab debug=tiny"
    with run.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert {"train/loss", "train/lr", "train/grad_norm", "train/images_per_s"} <= rows[0].keys()
    assert [path.name for path in sorted(run.samples.glob("*.png"))] == [
        "step_00000000.png",
        "step_00000004.png",
    ]
    assert json.loads(run.evaluation.read_text())["judge/overall"]["n"] == 6
    assert (run.export / "t2ilab.json").is_file()
    assert [path.name for path in sorted(run.checkpoints.glob("*.ckpt"))] == [
        "step_00000002.ckpt",
        "step_00000004.ckpt",
    ]


def test_the_report_is_one_file_that_asks_for_nothing_from_outside():
    html = RunDir(finished_run()).report.read_text()
    assert "python -m t2ilab debug=tiny" in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", html)
    assert "judge" in html


def test_the_report_draws_the_times_of_training_and_of_the_sampler():
    html = RunDir(finished_run()).report.read_text()
    assert "LogitNormal, shift 2.2" in html
    section = html.partition('<section id="noise">')[2].partition("</section>")[0]
    assert [f"at {t}" in section for t in ("1<", "0.6875<", "0.125<")] == [
        True
    ] * 3  # 1 and 0.6875: two shifted steps
    assert "density against t" in section


def test_the_density_of_the_report_is_that_of_the_objective():
    drawn = density(SimpleNamespace(objective=FlowMatching(Uniform(0.25, 0.75))), points=8)
    curve = [(t, 2.0 if 0.25 < t < 0.75 else 0.0) for t in [k / 8 + 1 / 16 for k in range(8)]]
    assert drawn == {"training": curve}
    assert density(SimpleNamespace(objective=None)) == density(SimpleNamespace()) == {}


def test_the_report_draws_the_density_of_every_phase():
    """Times t' = a t / (1 + (a - 1) t) of uniform t have the density a / (a - (a - 1) t')^2."""
    phased = Phased([0, 5, 8], [Uniform(shift=2.0), Uniform(shift=4.0), Uniform(shift=4.0)])
    drawn = density(SimpleNamespace(objective=FlowMatching(phased)), ["low", "square", "shapes"], points=50)
    assert list(drawn) == ["low", "square, shapes"]
    for curve, a in zip(drawn.values(), (2.0, 4.0), strict=True):
        assert [p for _, p in curve] == pytest.approx([a / (a - (a - 1) * t) ** 2 for t, _ in curve])
        assert sum(p for _, p in curve) / len(curve) == pytest.approx(1.0, abs=2e-3)


def test_the_first_loss_is_that_of_a_network_that_says_nothing():
    """velocity loss of the zero output: 1 + E x0^2, since v = eps - x0."""
    from t2ilab.build import build
    from t2ilab.training.latent_rows import to_signed

    config = checked(["debug=tiny"])
    data = build(config["data"])
    pixels = 2.0 * to_signed(data.train.images(range(48)))
    with RunDir(finished_run()).metrics.open(newline="") as file:
        first = float(next(csv.DictReader(file))["train/loss"])
    assert first == pytest.approx(1 + float(pixels.square().mean()), rel=0.15)


def test_the_seed_decides_the_first_weights_and_nothing_else_does():
    config = checked(["debug=tiny"])
    one, again = make_denoiser(config).state_dict(), make_denoiser(config).state_dict()
    torch.rand(7)
    assert all(torch.equal(one[name], again[name]) for name in one)
    other = make_denoiser(config | {"seed": 1}).state_dict()
    assert any(not torch.equal(one[name], other[name]) for name in one)


class Constant(Objective):
    """Stands for any objective: notes the condition that it is given."""

    def forward(self, batch, rng, player="student", kept=NOTHING):
        return Losses({"constant": batch.x0.flatten(1).mean(1)})


def stage_with(dropout):
    from t2ilab.training.schedule import Constant as Flat

    config = checked(["debug=tiny"])
    null = Condition(
        torch.full((1, 3, 4), -1.0), torch.tensor([[True, False, False]]), torch.full((1, 4), -1.0)
    )
    common = {"seed": 0, "batch_size": 64, "optimizer": torch.optim.SGD, "schedule": Flat(), "clip": 1.0}
    return Pretrain(make_denoiser(config), Constant(), null=null, condition_dropout=dropout, **common)


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_the_text_of_a_share_of_the_rows_is_replaced_by_the_empty_one(dropout):
    from t2ilab.core.rng import RowRng

    stage, n = stage_with(dropout), 2000
    batch = {
        "x0": torch.zeros(n, 3, 8, 8),
        "tokens": torch.ones(n, 3, 4),
        "mask": torch.ones(n, 3, dtype=torch.bool),
        "pooled": torch.ones(n, 4),
    }
    seen = stage.to_batch(batch, RowRng(0, 0, torch.arange(n), n)).condition
    dropped = (seen.tokens[:, 0] == -1).all(1)
    assert float(dropped.float().mean()) == pytest.approx(dropout, abs=0.03)
    assert torch.equal((seen.pooled == -1).all(1), dropped)
    assert torch.equal(seen.mask.sum(1) == 1, dropped)


def test_texts_are_cut_to_the_longest_of_a_micro_batch_before_they_move():
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    batch = {"x0": torch.zeros(2, 3, 8, 8), "tokens": torch.randn(2, 4, 5), "mask": mask, "step": 3}
    stage = stage_with(0.5)
    cut = stage.on_before_batch_transfer(batch, 0)
    assert torch.equal(cut["tokens"], batch["tokens"][:, :3]) and torch.equal(cut["mask"], mask[:, :3])
    assert cut["x0"] is batch["x0"] and cut["step"] == 3
    assert stage.null.tokens.shape == (1, 1, 4), "nor does the empty text make them longer"


def test_a_share_of_dropped_texts_outside_zero_to_one_is_refused():
    with pytest.raises(ValueError, match=r"stage\.condition_dropout must be in \[0, 1\], got 1.5"):
        stage_with(1.5)


class Noise:
    """A source whose images are even noise, of std 1 / sqrt(3) in [-1, 1]."""

    resolution = 32

    def __len__(self):
        return 2000

    def images(self, indices):
        generator = torch.Generator().manual_seed(len(indices))
        return torch.randint(0, 256, (len(indices), 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("scale", "fine"), [(0.95, True), (3.0, True), (0.8, False), (4.0, False)])
def test_latents_of_another_scale_are_refused(scale, fine):
    if fine:
        assert float(check_latents(Noise(), Identity(scale=scale))) == pytest.approx(scale / 3**0.5, rel=0.01)
    else:
        with pytest.raises(ValueError, match=r"std .* choose autoencoder\.scale=1\.7[23]"):
            check_latents(Noise(), Identity(scale=scale))


@pytest.fixture
def folder(tmp_path):
    """Fourteen good images and one of each thing that goes wrong."""
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(14):
        mode = ("RGB", "L", "P")[number % 3]
        photograph(place / f"photo{number}.png", number, mode=mode)
        (place / f"photo{number}.txt").write_text(f"photograph number {number}\n")
    photograph(place / "tiny.png", 20, size=(6, 6))
    (place / "tiny.txt").write_text("a thumbnail")
    photograph(place / "silent.png", 21)
    (place / "broken.png").write_bytes((place / "photo0.png").read_bytes()[:60])
    (place / "broken.txt").write_text("a cut download")
    (place / "lost.txt").write_text("a caption without image")
    return place


def on_folder(place, run_dir, *options):
    command(*FEW, "data=folder", f"data.path={place}", "data.val_share=0.4", *options, run_dir=run_dir)


def test_a_folder_of_photographs_is_trained_measured_and_reported(folder, tmp_path, capsys):
    on_folder(folder, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    report = json.loads((run.path / "data_report.json").read_text())
    assert (report["found"], report["used"]) == (17, 14)
    assert report["found"] == report["used"] + len(report["images"])
    dropped = {drop["path"]: drop["reason"] for drop in report["images"]}
    assert dropped == {"tiny.png": "too small", "silent.png": "no caption", "broken.png": "corrupt"}
    assert [drop["path"] for drop in report["captions"]] == ["lost.txt"]
    html = run.report.read_text()
    for name in (*dropped, "lost.txt"):
        assert name in html, name
    said = capsys.readouterr().out
    assert "17 images found = 14 used + 3 dropped" in said
    assert said.index("17 images found") < said.index("training pretrain on")
    found = json.loads(run.evaluation.read_text())
    assert "judge/overall" not in found, "nobody knows the truth of photographs"
    assert found["loss/heldout"]["value"] > 0
    assert found["loss/train"]["n"] == min(4, report["used"] - found["loss/heldout"]["n"])
    assert "No sign that it has learned its training images by heart: the loss is" in html
    assert found["clip_score"]["n"] > 0
    assert "by the built-in CLIP, which has only seen synthetic images" in said
    first, second = said.split("by the built-in CLIP", 1)
    assert "loss/heldout" in first and "clip_score" not in first, "no headline"
    assert "clip_score" in second
    headline = html[html.index('class="headline"') : html.index("</dl>")]
    assert "Held-out loss" in headline and "CLIP score" not in headline
    assert found["reconstruction/psnr"]["unit"] == "dB"
    assert re.search(r"dB \(PSNR\) of \d+ training images", said) and run.reconstructions.is_file()
    assert "What the autoencoder keeps" in html


def test_photographs_of_several_shapes_are_trained_on_in_their_shapes(tmp_path, monkeypatch, capsys):
    from t2ilab.objectives.flow_matching import FlowMatching

    place, seen = folder_of_shapes(tmp_path / "photos", 45), []
    forward = FlowMatching.forward

    def noting(self, batch, rng, **turn):
        seen.append((rng.step, tuple(batch.x0.shape)))
        return forward(self, batch, rng, **turn)

    monkeypatch.setattr(FlowMatching, "forward", noting)
    options = (
        "data=folder_buckets",
        "data.buckets.multiple=8",
        "trainer.max_steps=6",
        "stage.preview_every=6",
    )
    on_folder(place, tmp_path / "run", *options, "data.val_share=0.1", "trainer.accumulate=2")
    trained = seen[-12:]
    assert [step for step, _ in trained] == [step for step in range(6) for _ in range(2)]
    assert all(first == second for (_, first), (_, second) in zip(trained[::2], trained[1::2], strict=True))
    assert {shape for _, shape in trained} == {(4, 3, 24, 40), (4, 3, 40, 24), (4, 3, 32, 32)}
    assert "height x width: 40 x 24: " in capsys.readouterr().out
    assert "height x width: 40 x 24: " in RunDir(tmp_path / "run").report.read_text()


def test_a_model_of_photographs_draws_and_is_measured_again(folder, tmp_path):
    on_folder(folder, tmp_path / "run")
    command(
        *("stage=sample", f"init_from={tmp_path / 'run'}", "prompts=[photograph number 3]", "stage.copies=1"),
        run_dir=tmp_path / "drawn",
    )
    assert (tmp_path / "drawn/samples/000_0_photograph-number-3.png").is_file()
    command(
        *("stage=evaluate", f"init_from={tmp_path / 'run'}", "eval=quick", "eval.samples_per_prompt=1"),
        *("eval.caption_prompts=4", "eval.heldout_images=4", "eval.heldout_strata=4"),
        run_dir=tmp_path / "measured",
    )
    own, again = (json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("run", "measured"))
    assert own["loss/heldout"] == again["loss/heldout"]


@pytest.mark.slow
def test_real_photographs_in_an_untidy_folder_are_trained_on(tmp_path):
    from examples.photos import PHOTOS, spoil, write

    write(tmp_path / "photos")
    spoil(tmp_path / "photos")
    on_folder(tmp_path / "photos", tmp_path / "run")
    report = json.loads((tmp_path / "run/data_report.json").read_text())
    assert report["used"] == len(PHOTOS)
    assert report["found"] == report["used"] + len(report["images"])
    assert {drop["path"] for drop in report["images"]} == {"cut.jpg", "thumbnail.png", "page.png"}
    assert [drop["path"] for drop in report["captions"]] == ["lost.txt"]


def test_an_empty_folder_is_refused_by_name(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"data\.path=.*photos: no images in it"):
        on_folder(tmp_path / "photos", tmp_path / "run")


def test_a_missing_folder_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(ValueError, match=r"data\.path: there is no folder .*nowhere"):
        on_folder(tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_commands_for_what_to_do_next_can_be_copied_whatever_the_folder_is_called():
    run = SimpleNamespace(path=Path("my runs/a"), relative=str)
    config = {"command": "python -m t2ilab trainer.max_steps=2 run_dir=a seed=3", "loss": LOSS}
    job = SimpleNamespace(run=run, config=config, trainer=SimpleNamespace(max_steps=2))
    steps = next_steps(job, SimpleNamespace(preview_prompts=lambda: ['a cat\'s "face"']))
    draw, measure, longer = (shlex.split(step.command)[3:] for step in steps)
    assert draw == ["stage=sample", "init_from=my runs/a", 'prompts=["a cats face"]']
    assert measure == ["stage=evaluate", "init_from=my runs/a", "eval=full"]
    assert longer == ["seed=3", "run_dir=my runs/a", "trainer.max_steps=4"]


def test_a_run_whose_length_divides_it_offers_no_command_that_would_be_refused():
    ask = SimpleNamespace(preview_prompts=lambda: ["a cat"])
    for changes in (
        {"curriculum": {"phases": {}}},
        {"loss": {"_target_": "t2ilab.objectives.distill.progressive.Progressive", "total": 2}},
    ):
        config = {"command": "python -m t2ilab", "loss": LOSS, **changes}
        job = SimpleNamespace(run=RunDir("a"), config=config | {"init_from": None}, trainer=SimpleNamespace())
        assert [step.text for step in next_steps(job, ask)] == [
            "Draw your own prompts",
            "Measure again, with more prompts",
        ]


STUDENT = ("stage=distill", "loss=consistency", "levels@loss.levels=ect", "loss.teacher=false")
LEAST = ("eval.prompts_per_task=0", "eval.compose_per_task=0", "eval.nfe_per_task=1", "trainer.max_steps=2")


@pytest.mark.parametrize("kind", [(), STUDENT], ids=["default", "a loss that knows the length"])
def test_the_command_for_longer_training_goes_on_with_the_run_that_had_no_run_dir_in_its_command(
    tmp_path, kind
):
    own = ("debug=tiny", *kind, *([f"init_from={finished_run()}"] if kind else []), *LEAST)
    command(*own, run_dir=tmp_path)
    page = html.unescape((tmp_path / "report.html").read_text())
    offered = re.search(r"<h3>Train longer</h3><pre>python -m t2ilab (.*?)</pre>", page)[1]
    config = checked([*CPU, *shlex.split(offered)])
    command(*shlex.split(offered), run_dir=Path(config["run_dir"]))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()[1:]
    assert [line.partition(",")[0] for line in lines] == ["1", "2", "3", "4"]
    assert (tmp_path / "checkpoints/step_00000002.ckpt").is_file()  # what it went on from


def test_images_without_captions_are_refused_with_the_forms_that_are_read(tmp_path):
    (tmp_path / "photos").mkdir()
    photograph(tmp_path / "photos/one.png", 0)
    with pytest.raises(ValueError, match=r"no caption for any of them; write name\.txt beside"):
        on_folder(tmp_path / "photos", tmp_path / "run")


def test_unreadable_images_only_are_refused_with_the_report(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / f"photos/{number}.jpg").write_bytes(b"not an image")
        (tmp_path / f"photos/{number}.txt").write_text("an image")
    with pytest.raises(ValueError, match="none of 3 images can be used") as caught:
        on_folder(tmp_path / "photos", tmp_path / "run")
    assert "3 images found = 0 used + 3 dropped" in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data\.path"):
        on_folder(tmp_path / "photos.zip", tmp_path / "run")
