"""Textual inversion, pivotal tuning, and a text encoder that trains: what moves, and what is saved."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.callbacks.checkpoint import newest_whole
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Condition
from t2ilab.export.denoiser import load
from t2ilab.export.manifest import MANIFEST, file_digest
from t2ilab.objectives.diffusion import Diffusion
from t2ilab.stages.assembly import other_text
from t2ilab.stages.export import check_kohya
from t2ilab.stages.live_text import LiveTexts
from t2ilab.stages.personalize import Personalize
from tests.objectives.distill.distributions import line
from tests.oracles import texts
from tests.runs import crash_here, run_here, same_run
from tests.tiny import command, finished_run

SHORT = ("debug=tiny", "stage=personalize", "trainer.max_steps=2", "stage.preview_every=2", "data=subject")
SMALL = (*SHORT, "data.resolution=32", "data.batch_size=4", "stage.class_images=4", "data.val_size=4")
INVERT = ("loss=textual_inversion", "loss.vectors=2", "loss.init_word=red circle")
PROMPTS = ["a zwx teddy bear", "a red circle"]


def manifest(run):
    return json.loads((run / "export" / MANIFEST).read_text())


def same(one, other):
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.pooled, other.pooled)


@pytest.fixture(scope="module")
def inverted(tmp_path_factory):
    run = tmp_path_factory.mktemp("inverted") / "run"
    command(*SMALL, *INVERT, f"init_from={finished_run()}", run_dir=run)
    return run


def test_the_vectors_of_the_word_alone_are_learned_and_exported(inverted):
    found, base = load(inverted), load(finished_run())
    state = base.denoiser.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in found.denoiser.state_dict().items())
    assert torch.equal(found.conditioner.text_encoder.words, base.conditioner.words)
    words = load_file(inverted / "export/learned/learned_embeds.safetensors")
    assert set(words) == {"zwx"} and words["zwx"].shape == (2, 16)
    moved = words["zwx"] - base.conditioner.vectors("red circle")[""]
    assert 0 < moved.abs().max() < 0.1
    about = manifest(inverted)
    assert about["kind"] == "adapter" and about["adapter"] is None
    assert about["base"]["digest"] == about["parents"][0]["digest"]
    assert not (inverted / "class_images").exists()


def test_prompts_with_the_word_are_read_with_its_vectors(inverted, tmp_path):
    found, base = load(inverted).conditioner, load(finished_run()).conditioner
    assert not same(found(PROMPTS[:1]), base(PROMPTS[:1])) and same(found(PROMPTS[1:]), base(PROMPTS[1:]))
    command("stage=sample", f"init_from={inverted}", f'prompts=["{PROMPTS[0]}"]', run_dir=tmp_path / "drawn")
    command("stage=export", f"init_from={inverted}", run_dir=tmp_path / "whole")
    assert manifest(tmp_path / "whole")["kind"] == "denoiser"
    assert same(load(tmp_path / "whole").conditioner(PROMPTS), found(PROMPTS))
    words = inverted / "export/learned/learned_embeds.safetensors"
    assert same(load([str(finished_run()), str(words)]).conditioner(PROMPTS), found(PROMPTS))
    with pytest.raises(ValueError, match="the average is kept alone"):
        load(inverted, weights="raw")
    with pytest.raises(
        ValueError, match=r"adapter_scale=0\.5: .* has learned a word alone, which is there or not"
    ):
        load(inverted, scales=0.5)
    assert same(load(inverted, scales=1).conditioner(PROMPTS), found(PROMPTS))


def test_a_checkpoint_holds_the_word_and_neither_network_nor_table(inverted):
    found = torch.load(newest_whole(inverted / "checkpoints").path, weights_only=True)
    assert [name for name in found["state_dict"] if name.startswith("student.")] == [
        "student.text.text_encoder.rows"
    ]


def test_pivotal_tuning_goes_on_with_the_word(inverted, tmp_path, capsys):
    before = load(inverted).conditioner
    run = tmp_path / "lora"
    command(*SMALL, f"init_from={inverted}", "adapter=lora", "adapter.rank=2", run_dir=run)
    found = load(run)
    assert manifest(run)["base"]["path"] == str(inverted / "export")
    assert not torch.equal(found.conditioner.learned()["zwx"], before.learned()["zwx"])
    blend = load([str(run)], scales=0.0)
    assert same(blend.conditioner(PROMPTS), found.conditioner(PROMPTS))
    capsys.readouterr()
    check_kohya({"init_from": str(run), "stage": {"adapter_scale": None}})
    assert f"trained with it: those are in {run / 'export'}" in capsys.readouterr().out
    for scale, said in (("0.5", True), ("1", False)):
        command("stage=export", f"init_from={run}", f"stage.adapter_scale={scale}", run_dir=tmp_path / scale)
        told = f"were trained with it are used as they lie in {run / 'export'}"
        assert (told in capsys.readouterr().out) is said


def test_a_word_and_an_adapter_of_one_base_are_drawn_with_together(inverted, tmp_path):
    options = ("debug=tiny", "stage=sft", "adapter=lora", "adapter.rank=2", "trainer.max_steps=1")
    command(*options, f"init_from={finished_run()}", run_dir=tmp_path / "lora")
    both, alone = load([str(inverted), str(tmp_path / "lora")]), load(tmp_path / "lora")
    assert same(both.conditioner(PROMPTS), load(inverted).conditioner(PROMPTS))
    drawn = [model.generate.latents(PROMPTS[1:], seed=0, rows=[0]) for model in (both, alone)]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=1e-4)
    several, run = f"init_from=[{inverted},{tmp_path / 'lora'}]", tmp_path / "both"
    command("stage=export", several, "stage.adapter_scale=[1,0.5]", run_dir=run)
    about = manifest(run)
    assert [one["scale"] for one in about["parents"]] == [1.0, 0.5] and about["learned_text"]
    assert about["trained_by"] == "personalize + sft" and about["steps"] == 3
    with pytest.raises(ValueError, match="was trained on different data: say with data="):
        command("stage=evaluate", f"init_from={run}", run_dir=tmp_path / "measured")
    with pytest.raises(ValueError, match="the average is kept alone"):
        load([str(tmp_path / "lora"), str(inverted)], weights="raw")
    words = inverted / "export/learned/learned_embeds.safetensors"
    command("stage=export", f"init_from=[{finished_run()},{words}]", run_dir=tmp_path / "worded")
    assert [one["digest"] for one in manifest(tmp_path / "worded")["parents"]] == [
        manifest(inverted)["base"]["digest"],
        file_digest(words),
    ]


def test_a_word_that_shall_stay_stays_in_a_whole_model(inverted, tmp_path):
    run = tmp_path / "run"
    command(*SMALL, f"init_from={inverted}", "stage.word_lr=0", "loss.prior_weight=0", run_dir=run)
    assert manifest(run)["kind"] == "denoiser" and not manifest(run)["learned_text"]
    assert same(load(run).conditioner(PROMPTS), load(inverted).conditioner(PROMPTS))


def test_words_that_train_on_make_the_text_encoder_another_one():
    plain, worded = {"_target_": "x"}, {"_target_": "y", "text_encoder": {"_target_": "x"}}
    cases = [
        (plain, plain, {"word_lr": 0.1}, False),
        (worded, worded, {"word_lr": 0.0, "text_lr": None}, False),
        (worded, worded, {"word_lr": 0.1}, True),
        (worded, plain, {"word_lr": 0.0}, True),
        (plain, plain, {"text_lr": 1e-5}, True),
        (plain, plain, {}, False),
    ]
    for own, before, stage, other in cases:
        start = SimpleNamespace(opened=SimpleNamespace(nodes={"conditioner": before}))
        assert other_text({"conditioner": own, "stage": stage}, start) is other


@pytest.fixture(scope="module")
def worded(tmp_path_factory):
    """A model that is told the words of the built-in text encoder."""
    run = tmp_path_factory.mktemp("worded") / "run"
    sizes = ("conditioner.dim=96", "conditioner.pooled_dim=96", "conditioner.length=32")
    command("debug=tiny", "conditioner=scenes_words", *sizes, "trainer.max_steps=2", run_dir=run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("own", [INVERT, ("stage.text_lr=0.001", "adapter=lora", "adapter.rank=2")])
def test_what_trains_of_the_text_goes_on_bit_for_bit(own, worded, tmp_path, own_cache):
    options = (*SMALL[1:2], *SMALL[3:], *own, f"init_from={worded}")
    run_here(tmp_path / "whole", *options)
    crash_here(tmp_path / "died", 3, *options)
    run_here(tmp_path / "died", *options)
    same_run(tmp_path / "died", tmp_path / "whole")


def test_a_trained_text_encoder_is_the_one_exported(worded, tmp_path):
    run = tmp_path / "run"
    command(*SMALL, f"init_from={worded}", "stage.text_lr=0.001", "stage.condition_dropout=0.1", run_dir=run)
    found, base = load(run).conditioner, load(worded).conditioner
    own, old = found.state_dict(), base.state_dict()
    moved = {name for name in own if not torch.equal(own[name], old[name])}
    assert "towers.clip.transformer.resblocks.0.attn.in_proj_weight" in moved
    assert not [name for name in moved if "visual" in name or "logit_scale" in name]
    saved = load_file(run / "export/text_encoder/model.safetensors")
    assert all(torch.equal(saved[name.removeprefix("towers.")], own[name]) for name in own)
    assert not same(found(PROMPTS), base(PROMPTS))
    again = tmp_path / "again"  # the encoder of an adapter's run is that of the run before
    command(
        *SMALL,
        f"init_from={run}",
        "adapter=lora",
        "adapter.rank=2",
        "loss.prior_weight=0",
        run_dir=again,
    )
    assert "conditioner" not in manifest(again)["nodes"]
    assert same(load(again).conditioner(PROMPTS), found(PROMPTS))


def test_a_text_encoder_that_learns_drops_nothing_out_in_texts_or_the_empty_one():
    class Telling(torch.nn.Module):
        """Its vectors say whether it is in training mode, in which others drop numbers out."""

        def forward(self, prompts):
            tokens = torch.full((len(prompts), 1, 1), float(self.training))
            return Condition(tokens, torch.ones(len(prompts), 1, dtype=torch.bool))

        def null(self, rows):
            return self([""] * rows)

    common = {"seed": 0, "batch_size": 2, "optimizer": None, "schedule": None, "clip": 0.0}
    stage = Personalize(line(), Diffusion(Uniform()), null=texts(1), condition_dropout=0.5, **common)
    stage.live = LiveTexts(Telling(), ("a zwx dog",), (2,))
    index = torch.arange(2)
    for _ in range(2):
        stage.live.conditioner.train()
        batch = stage.to_batch({"x0": torch.zeros(2, 2, 4, 4), "index": index}, RowRng(0, 0, index, 2))
        assert not batch.null.tokens.any() and not batch.condition.tokens.any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["adapter=lora"], "trains a word alone; omit adapter="),
        (["stage.text_lr=1e-5"], r"stage\.text_lr: loss=textual_inversion trains a word alone"),
        (["stage.word_lr=0"], r"stage\.word_lr must be positive"),
        (["loss=dreambooth", "stage.text_lr=1e-5", "optimizer=prodigy"], "Prodigy finds one rate"),
        (["optimizer=muon"], "Muon has one rate"),
        (["ema=power"], "snapshots are of networks alone"),
        (["loss.vectors=0"], r"loss\.vectors must be at least 1"),
    ],
)
def test_what_does_not_go_with_a_word_alone_is_refused(options, said, tmp_path):
    base = (*SMALL, "loss=textual_inversion", f"init_from={finished_run()}")
    with pytest.raises(ValueError, match=said):
        command(*base, *options, run_dir=tmp_path / "run")


def test_a_word_alone_is_learned_by_no_other_stage(tmp_path):
    with pytest.raises(ValueError, match="loss=textual_inversion is for stage=personalize"):
        command("debug=tiny", "loss=textual_inversion", run_dir=tmp_path / "run")


def test_an_encoder_without_weights_cannot_be_trained(tmp_path):
    with pytest.raises(ValueError, match=r"stage\.text_lr: RandomText has no weights that could train"):
        command(
            *SMALL,
            f"init_from={finished_run()}",
            "stage.text_lr=1e-5",
            "loss.prior_weight=0",
            run_dir=tmp_path / "r",
        )
