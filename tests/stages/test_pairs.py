"""`stage=pairs` and `stage=preference`: what is drawn, kept, dropped, and learned from."""

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.callbacks import progress
from t2ilab.config.composition import compose
from t2ilab.data.comparison_source import ends
from t2ilab.data.scenes import Preferences
from t2ilab.data.sets import Scenes
from t2ilab.export.denoiser import load
from t2ilab.measuring.held_out import rewards_for
from t2ilab.pairs import DrawnPairs, PairFiles, chosen
from t2ilab.stages import pairs as stage
from t2ilab.stages.preference import unseen
from t2ilab.training.start import Start
from tests.runs import crash_here, losses, run_here, same_run
from tests.tiny import command, finished_run

SMALL = ("stage.prompts=6", "stage.images=3", "stage.shard=4", "stage.skip_evaluated=false")


def draw(folder, *options):
    command("stage=pairs", f"init_from={finished_run()}", *SMALL, *options, run_dir=folder)
    return PairFiles(folder)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All images of six prompts, without a reward."""
    folder = tmp_path_factory.mktemp("all")
    return folder, draw(folder, "reward=none")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The best and worst of six prompts by the CLIP score, which knows no ties."""
    folder = tmp_path_factory.mktemp("pairs")
    return folder, draw(folder, "reward=clip_score")


def test_without_a_reward_everything_is_kept_with_its_noise(drawn):
    folder, files = drawn
    assert len(files) == 6 and sorted(files.names) == ["latents", "noise", "prompts", "rows"]
    assert files.rows("latents", [0]).shape == (1, 3, *files.manifest["latent_shape"])
    assert sorted(path.name for path in (folder / "export/shards").iterdir()) == [
        "00000.safetensors",
        "00001.safetensors",
    ]
    assert len(set(files.texts)) == 6
    generate = load(finished_run()).generate.with_(stream="pairs")
    rows = files.rows("rows", [5])[0].tolist()
    noise = generate.rng(0, rows).normal("noise", *generate.latent_shape)
    assert torch.equal(files.rows("noise", [5])[0], noise.half())
    again = generate.latents([files.prompts()[5]] * 3, seed=0, rows=rows)
    assert (files.rows("latents", [5])[0].float() - again).abs().max() < 0.01


def test_what_is_kept_is_the_best_and_the_worst_of_what_was_drawn(drawn, pairs):
    (_, every), (_, files) = drawn, pairs
    assert files.rows("latents", range(6)).shape[1] == 2
    scores = files.all_of("scores")
    assert (scores[:, 0] > scores[:, 1]).all()
    for row in range(6):
        assert set(files.rows("rows", [row])[0].tolist()) <= set(every.rows("rows", [row])[0].tolist())
    facts = files.manifest
    assert facts["kind"] == "pairs" and facts["kept"] == 6 and facts["ties"] == 0
    assert facts["parents"][0]["stage"] == "pretrain" and facts["reward"]["_target_"].endswith("CLIPScore")
    assert facts["sampler"]["_target_"].endswith("Euler") and facts["guidance"]


def test_no_image_is_one_that_an_evaluation_draws():
    generate = load(finished_run()).generate
    for rows in ([0], [7]):
        evaluated = generate.rng(0, rows).normal("noise", *generate.latent_shape)
        own = generate.with_(stream=stage.STREAM).rng(0, rows).normal("noise", *generate.latent_shape)
        assert not torch.equal(evaluated, own)
        assert abs(torch.corrcoef(torch.stack([evaluated.flatten(), own.flatten()]))[0, 1]) < 0.2


def test_a_stopped_run_goes_on_behind_its_last_whole_file(pairs, tmp_path, monkeypatch):
    folder, files = pairs
    shutil.copytree(folder, tmp_path / "run")
    second = tmp_path / "run/export/shards/00001.safetensors"
    second.unlink()
    (second.parent / ".00001.safetensors.77.tmp").touch()
    (tmp_path / "run/export/t2ilab.json").unlink()
    seen = []
    real = stage.Drawer.__call__
    monkeypatch.setattr(
        stage.Drawer, "__call__", lambda self, *given: seen.append(list(given[0])) or real(self, *given)
    )
    again = draw(tmp_path / "run", "reward=clip_score")
    assert seen == [[4, 5]], "the first four prompts are not drawn again"
    assert again.manifest["files"] == files.manifest["files"]


def test_files_that_are_there_take_no_part_in_the_time_left(tmp_path, monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    real, small = stage.Drawer.__call__, ("reward=clip_score", "stage.shard=1")

    def slow(self, *given):
        clock.now += 100.0
        return real(self, *given)

    monkeypatch.setattr(stage.Drawer, "__call__", slow)
    draw(tmp_path / "run", *small)
    for number in (4, 5):
        (tmp_path / f"run/export/shards/{number:05d}.safetensors").unlink()
    capsys.readouterr()
    draw(tmp_path / "run", *small)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("drawing prompts")]
    assert told == [
        "drawing prompts: 4/6",
        "drawing prompts: 5/6, about 1:40 left",
        "drawing prompts: 6/6",
    ]


def test_other_options_do_not_go_on_in_the_same_folder(pairs):
    with pytest.raises(ValueError, match=r"holds a run with other options"):
        draw(pairs[0], "reward=clip_score", "stage.images=4")


def test_ties_are_dropped_and_counted_and_no_pair_at_all_is_an_error(tmp_path):
    arrays = {"prompts": torch.arange(3), "latents": torch.arange(9.0).view(3, 3)}
    scores = torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.5]])
    kept = chosen(scores, arrays, keep="ends", least_gap=0.0)
    assert kept.ties == 1 and kept.arrays["prompts"].tolist() == [0, 2]
    assert kept.arrays["latents"].tolist() == [[1, 0], [8, 7]]
    assert kept.arrays["scores"].tolist() == [[2, 0], [0.5, 0]]
    assert chosen(scores, arrays, keep="ends", least_gap=1.0).arrays["prompts"].tolist() == [0]
    everything = chosen(scores, arrays, keep="all", least_gap=0.0)
    assert everything.arrays["latents"].tolist() == [[1, 2, 0], [8, 6, 7]]
    with pytest.raises(ValueError, match="all 6 prompts are ties"):
        draw(tmp_path, "stage.least_gap=1000")


def test_prompts_are_those_of_training_without_those_of_evaluations():
    shared = {
        "subset": "general",
        "resolution": 32,
        "caption_kinds": ["short"],
        "batch_size": 8,
        "workers": 0,
    }
    data = Scenes(size=300, val_size=50, seed=0, jitter=0.0, **shared)
    taken = stage.evaluated_texts(data)
    texts, skipped = stage.training_prompts(data, 60, 0, True)
    assert len(texts) == len(set(texts)) == 60 and skipped > 0
    assert not taken & set(texts)
    assert taken & set(stage.training_prompts(data, 60, 0, False)[0]), "which they are without the check"


@pytest.mark.parametrize("loss", ["dpo", "mapo"])
def test_a_model_learns_from_its_own_pairs(loss, pairs, tmp_path):
    options = ["stage=preference", "debug=tiny", "data=pairs", f"data.path={pairs[0]}", f"loss={loss}"]
    options += ["stage.skip_evaluated=false", "+reward@eval.rewards.mine=judge"]
    command(*options, f"init_from={finished_run()}", "data.batch_size=4", run_dir=tmp_path)
    first = (tmp_path / "metrics.csv").read_text().splitlines()
    row = dict(zip(first[0].split(","), first[1].split(","), strict=True))
    assert float(row["train/margin"]) == (0.0 if loss == "dpo" else pytest.approx(0, abs=1.0))
    if loss == "dpo":
        assert float(row["train/loss"]) == pytest.approx(0.693147, abs=1e-5), "log 2 at the start"
        assert float(row["train/accuracy"]) == 0.5
    manifest = json.loads((tmp_path / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "denoiser" and manifest["parents"][0]["stage"] == "pretrain"
    assert manifest["data"]["_target_"].endswith("Scenes"), "what the next stage measures it by"
    changes = json.loads((tmp_path / "changes.json").read_text())
    beside = {
        "reward/trained",
        "reward/utility",
        "reward/mine",
        "other_noise/overall",
        "judge/overall",
        "drift",
    }
    assert all(changes[name]["difference"] is not None for name in beside)
    assert 0 <= changes["reward/utility"]["before"] <= 6 and changes["drift"]["before"] == 0
    weights = load_file(tmp_path / "export/transformer/diffusion_pytorch_model.safetensors")
    before = load_file(finished_run() / "export/transformer/diffusion_pytorch_model.safetensors")
    assert any(not torch.equal(weights[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", ["lora", pytest.param("pissa", marks=pytest.mark.slow)])
def test_an_adapter_is_held_against_its_base_switched_off_unless_it_began_inside_it(
    kind, pairs, tmp_path, monkeypatch, capsys
):
    copies = []
    real = Start.frozen
    monkeypatch.setattr(Start, "frozen", lambda self: copies.append(1) or real(self))
    options = ["stage=preference", "debug=tiny", "data=pairs", f"data.path={pairs[0]}", f"adapter={kind}"]
    options += ["adapter.rank=2", "stage.skip_evaluated=false", "optimizer.lr=0.02", "data.batch_size=4"]
    command(*options, f"init_from={finished_run()}", run_dir=tmp_path)
    first, last = (losses(tmp_path)[step] for step in (1, 4))
    assert float(first["train/loss"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(first["train/margin"]) == pytest.approx(0, abs=1e-7)
    assert kind == "pissa" or float(first["train/margin"]) == 0.0, "the same network, to the last bit"
    assert float(last["train/margin"]) != 0
    assert len(copies) == (kind == "pissa"), (
        "no second network in memory where the adapter can be switched off"
    )
    manifest = json.loads((tmp_path / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "adapter" and manifest["base"]["path"] == str(finished_run() / "export")
    assert "adapter: LoRA of rank 2" in capsys.readouterr().out


@pytest.mark.slow
def test_an_adapter_whose_run_dies_goes_on_bit_for_bit(pairs, tmp_path, own_cache):
    options = ("stage=preference", f"init_from={finished_run()}", "data=pairs", f"data.path={pairs[0]}")
    options += ("adapter=lora", "adapter.rank=2", "stage.skip_evaluated=false", "optimizer.lr=0.02")
    run_here(tmp_path / "whole", *options)
    crash_here(tmp_path / "run", 3, *options)
    run_here(tmp_path / "run", *options)
    same_run(tmp_path / "run", tmp_path / "whole")


def test_a_model_learns_from_the_preferences_of_the_world_without_prompts_of_evaluations(tmp_path, capsys):
    options = ["data=scenes_preferences", "data.size=40", "data.val_size=4", "data.images=3", "data.ties=1.5"]
    command("stage=preference", "debug=tiny", *options, f"init_from={finished_run()}", run_dir=tmp_path)
    assert (tmp_path / "export/t2ilab.json").is_file()
    said = capsys.readouterr().out
    left_out = int(said.split(" pairs left out (")[0].rsplit("\n", 1)[-1])
    decided = len(ends(Preferences("train", size=40, resolution=32, images=3, ties=1.5).ranks(range(40)))[0])
    assert 0 < left_out < decided < 40 and f"encoding pairs: {decided}/{decided}" in said
    assert json.loads((tmp_path / "changes.json").read_text())["reward/trained"]["before"] >= 0


def test_pairs_of_which_evaluations_draw_every_prompt_are_refused():
    class Measured:
        world, suites, val = None, (), [0]

    Measured.val = type("Val", (), {"__len__": lambda self: 1, "shown": lambda self, index: "a"})()
    assert unseen(["a", "b", "a", "c"], Measured) == [1, 3]
    with pytest.raises(ValueError, match=r"all 2 pairs.*stage\.skip_evaluated=false"):
        unseen(["a", "a"], Measured)


def test_rewards_that_were_combined_are_measured_apart_and_foreign_ones_refused(monkeypatch):
    node = compose(["stage=pairs", "reward=combined"])["reward"]

    class Drawn(DrawnPairs):
        def __init__(self, node):
            self.pairs = type("Files", (), {"manifest": {"reward": node}, "folder": "drawn"})()

    on_world = type("Measured", (), {"world": object()})()
    assert list(rewards_for(Drawn(node), on_world)) == ["trained_judge", "trained_clip_score", "utility"]
    own = type("Measured", (), {"world": None})()
    assert list(rewards_for(Drawn(node), own)) == ["trained_clip_score"], "the judge knows its grammar only"
    with pytest.raises(ValueError, match=r"chosen by os\.system"):
        rewards_for(Drawn({"_target_": "os.system", "command": "true"}), own)


def test_images_without_a_reward_are_no_pairs(drawn, tmp_path):
    with pytest.raises(ValueError, match="drawn with reward=null"):
        options = ["data=pairs", f"data.path={drawn[0]}", f"init_from={finished_run()}"]
        command("stage=preference", "debug=tiny", *options, run_dir=tmp_path)


def test_data_that_a_stage_cannot_read_are_refused_by_what_they_hold(pairs, tmp_path):
    own = ["data=pairs", f"data.path={pairs[0]}"]
    with pytest.raises(ValueError, match="stage=pretrain reads images, these data hold pairs"):
        command(*own, run_dir=tmp_path)
    with pytest.raises(ValueError, match="stage=preference reads pairs or comparisons, these data hold im"):
        command("stage=preference", "data=scenes", f"init_from={finished_run()}", run_dir=tmp_path)
    with pytest.raises(ValueError, match="loss: stage=preference cannot use FlowMatching"):
        command(
            "stage=preference", *own, "loss=flow_matching", f"init_from={finished_run()}", run_dir=tmp_path
        )
    with pytest.raises(ValueError, match="loss=dpo compares the student with a frozen copy"):
        command("loss=dpo", run_dir=tmp_path)
    with pytest.raises(ValueError, match="trainer: stage=preference compares"):
        command(
            "stage=preference",
            *own,
            "loss=kto",
            "trainer.accumulate=2",
            f"init_from={finished_run()}",
            run_dir=tmp_path,
        )
