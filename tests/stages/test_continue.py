"""Stages that start from a finished model: what they take from it, what they refuse, and that they resume exactly."""

import csv
import json
import shutil
import signal

import pytest
import torch

from t2ilab.build import build
from t2ilab.config import composition
from t2ilab.config.composition import checked
from t2ilab.core.types import Condition
from t2ilab.data.mixture import Mixture
from t2ilab.eval.compare import BeforeAfter
from t2ilab.eval.result import Evaluation
from t2ilab.export.manifest import MANIFEST, digest_of_parent, file_digest
from t2ilab.latents.identity import Identity
from t2ilab.measuring.carries import FILLERS, captions, check_concept, lost_words
from t2ilab.stages.replay import with_replay
from t2ilab.text.random import RandomText
from t2ilab.training.start import Start
from tests.runs import crash_here, finish, run_here, same_run, signal_at, start, weights
from tests.tiny import command, finished_run

RAW, EMA = "transformer/raw.safetensors", "transformer/diffusion_pytorch_model.safetensors"
SHORT = ("debug=tiny", "trainer.max_steps=2", "stage.preview_every=2")
SMALL = "eval.prompts_per_task=0", "eval.compose_per_task=0", "eval.reference_images=0"


def manifest(run):
    return json.loads((run / "export" / MANIFEST).read_text())


def by_file(run, file):
    return {name.split(":")[1]: value for name, value in weights(run).items() if name.startswith(file)}


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    run = tmp_path_factory.mktemp("continue") / "run"
    options = ("stage=continue", f"init_from={finished_run()}", "data.subset=teddy", "stage.replay=0.25")
    command(*SHORT, *SMALL, *options, run_dir=run)
    return run


def test_a_model_goes_on_from_its_average_and_names_where_it_comes_from(continued, tmp_path):
    command(*SHORT, *SMALL, "stage=sft", f"init_from={continued}", run_dir=tmp_path / "sft")
    for run, parent, stage in (
        (continued, finished_run(), "pretrain"),
        (tmp_path / "sft", continued, "continue"),
    ):
        (entry,) = manifest(run)["parents"]
        digest = file_digest(parent / "export" / MANIFEST)
        assert entry == {"path": str(parent / "export"), "digest": digest, "stage": stage}
    config = json.loads(json.dumps(composition.compose(["stage=sft"])))
    assert config["data"]["subset"] == "curated" and config["data"]["caption_kinds"] == ["long"]


def test_the_export_says_the_old_data_among_the_new(continued):
    data = manifest(continued)["data"]
    assert data["weights"] == {"new": 0.75, "old": 0.25} and data["val"] == "new"
    assert {name: source["subset"] for name, source in data["sources"].items()} == {
        "new": "teddy",
        "old": "general",
    }


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_stage_of_rate_0_gives_its_parent_back_bit_for_bit_and_changes_nothing(tmp_path):
    run, parent = tmp_path / "run", by_file(finished_run(), EMA)
    command(*SHORT, "stage=sft", f"init_from={finished_run()}", "optimizer.lr=0", run_dir=run)
    for file in (RAW, EMA):
        found = by_file(run, file)
        assert found.keys() == parent.keys()
        assert all(torch.equal(found[name], parent[name]) for name in parent)
    assert [row["train/weight_change"] for row in rows(run)] == ["0", "0"]
    changes = json.loads((run / "changes.json").read_text())
    assert {"judge/overall", "loss/heldout", "clip_score", "saturation", "style", "drift"} <= changes.keys()
    assert {key: change["difference"] for key, change in changes.items() if change["difference"]} == {}
    assert all(
        set(change) == {"before", "after", "difference", "low", "high", "n"} for change in changes.values()
    )
    before, after = (Evaluation.load(run / name).scalars() for name in ("before.json", "evaluation.json"))
    assert before == pytest.approx(after, abs=0, nan_ok=True)


def test_a_stage_says_what_it_changed_of_the_old_data_and_of_the_new(continued):
    changes = json.loads((continued / "changes.json").read_text())
    assert changes["drift"]["before"] == 0 < changes["drift"]["after"] == changes["drift"]["difference"]
    for key in ("loss/heldout", "loss/heldout_old"):
        gap = changes[key]
        assert gap["after"] - gap["before"] == pytest.approx(gap["difference"])
        assert gap["low"] <= gap["difference"] <= gap["high"] and gap["n"] == 4
    assert changes["loss/heldout"]["before"] != changes["loss/heldout_old"]["before"]
    assert (
        0
        < float(rows(continued)[0]["train/weight_change"])
        < float(rows(continued)[1]["train/weight_change"])
        < 1
    )
    html = (continued / "report.html").read_text()
    assert html.index("<h2>Before and after</h2>") < html.index("<h2>What was trained</h2>")
    assert 'id="images"' not in html  # the first and the last images are those of before and after


def test_before_is_measured_once_and_again_only_for_another_plan(continued, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("t2ilab.measuring.evaluation_cache.cache_root", lambda: tmp_path)
    run = shutil.copytree(continued, tmp_path / "run")
    options = ("data.subset=teddy", "stage.replay=0.25")
    started(finished_run(), run, *options, "trainer.max_steps=3")
    assert "measuring the model before" not in capsys.readouterr().out
    fresh = BeforeAfter.of(*(Evaluation.load(run / name) for name in ("before.json", "evaluation.json")))
    assert (
        json.loads((run / "changes.json").read_text()) == fresh.to_json()
    )  # not a digit that the files do not hold
    started(finished_run(), run, *options, "trainer.max_steps=3", "eval.heldout_images=6")
    assert "measuring the model before" in capsys.readouterr().out
    assert json.loads((run / "changes.json").read_text())["loss/heldout"]["n"] == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["stage=continue"], "init_from: this stage needs a run or export folder"),
        (["stage=sft", "init_from=x", "model=dit_s"], "model: the model of init_from decides it: omit it"),
        (
            ["stage=sft", "init_from=x", "conditioner=random"],
            "conditioner: the model of init_from decides it",
        ),
        (["stage=continue", "init_from=x", "recipe=scenes"], "model: the model of init_from decides it"),
        (["stage=continue", "init_from=x", "stage.replay=1"], "stage.replay must be at least 0 and below 1"),
        (
            ["stage=pretrain", "optimizer=adamw", "optimizer.lr=0"],
            "optimizer.lr=0 leaves random weights as they are",
        ),
    ],
)
def test_options_that_do_not_fit_a_start_from_a_model_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        composition.checked(options)


def test_what_debug_chooses_of_a_model_is_left_to_the_model():
    config = composition.checked(["stage=sft", "debug=tiny", "init_from=x"])
    assert config["model"] is None and config["conditioner"] is None
    assert config["trainer"]["max_steps"] == 4


def started(parent, run, *options):
    command(*SHORT, *SMALL, "stage=continue", f"init_from={parent}", *options, run_dir=run)


def test_folders_that_are_no_finished_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        started(tmp_path / "nothing", tmp_path / "run")
    unfinished = shutil.copytree(finished_run(), tmp_path / "unfinished")
    shutil.rmtree(unfinished / "export")
    with pytest.raises(ValueError, match="give the folder of a finished run"):
        started(unfinished, tmp_path / "run")
    other = shutil.copytree(finished_run(), tmp_path / "other")
    path = other / "export" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": "autoencoder"}))
    with pytest.raises(
        ValueError, match="is an export of kind autoencoder; a denoiser or adapter is needed here"
    ):
        started(other, tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_parent_that_was_replaced_since_is_refused_and_one_that_was_moved_is_not(continued, tmp_path):
    run = shutil.copytree(continued, tmp_path / "run")
    parent = shutil.copytree(finished_run(), tmp_path / "parent")
    options = ("data.subset=teddy", "stage.replay=0.25", "trainer.max_steps=3")
    started(parent, run, *options)  # another place
    path = parent / "export" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 17}))
    with pytest.raises(
        ValueError, match=r"is not the model that the run .* began with \(its digest differs\)"
    ):
        started(parent, run, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], None),
        (["timestep.shift=7"], "times: timestep.shift=7 here, timestep.shift=2.2 when the model"),
        (["timestep=uniform"], "times: Uniform here, LogitNormal when the model"),
        (["stage=distill", "loss=lcm", "timestep=uniform"], None),  # it has levels of its own
    ],
)
def test_a_run_says_where_it_draws_other_times_than_the_model_was_trained_with(options, said):
    own = checked(["stage=sft", f"init_from={finished_run()}", *options])
    told = Start.of(own).other_times(own)
    assert told is None if said is None else (told or "").startswith(said)


def test_replay_opens_mixtures_and_keeps_the_shares():
    new = {
        "_target_": "t2ilab.data.sets.Scenes",
        "subset": "curated",
        "resolution": 64,
        "batch_size": 8,
        "workers": 0,
    }
    old = with_replay(new | {"subset": "teddy"}, new | {"subset": "general"}, 0.25)
    mixed = with_replay(new, old, 0.5)
    assert mixed["weights"] == {"new": 0.5, "old_new": 0.375, "old_old": 0.125}
    assert [mixed["sources"][name]["subset"] for name in mixed["weights"]] == ["curated", "teddy", "general"]
    assert all(source["_partial_"] and "batch_size" not in source for source in mixed["sources"].values())
    assert with_replay(new, old, 0) == new
    with pytest.raises(ValueError, match="=0 trains without"):
        with_replay(new, {**new, "path": "/nowhere/at/all"}, 0.5)
    with pytest.raises(ValueError, match="holds images of one shape"):
        with_replay({**new, "buckets": {"_target_": "x"}}, new, 0.5)


def test_parents_of_exports_of_the_first_version_are_read():
    assert digest_of_parent({"path": "x", "sha256": "abc"}) == digest_of_parent(
        {"path": "x", "digest": "abc"}
    )


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("stage", [("stage=continue", "data.subset=teddy"), ("stage=sft",)])
def test_a_crashed_stage_ends_as_if_it_had_not_crashed(stage, tmp_path):
    options = (
        *stage,
        *SMALL,
        f"init_from={finished_run()}",
        "trainer.max_steps=7",
        "checkpoint.every=3",
        "logger.every=2",
    )
    run_here(tmp_path / "whole", *options)
    for step in (2, 5):  # before the first checkpoint, and after it
        crash_here(tmp_path / "run", step, *options)
    run_here(tmp_path / "run", *options)
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.proof
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("stage", [("stage=continue", "data.subset=teddy"), ("stage=sft",)])
def test_a_stage_killed_at_any_moment_goes_on_bit_for_bit(stage, tmp_path):
    length = ("trainer.max_steps=60", "checkpoint.every=5", "logger.every=2", "stage.preview_every=7")
    options = (*stage, *SMALL, f"init_from={finished_run()}", *length)
    finish(tmp_path / "whole", *options)
    for step in (4, 12, 20):
        assert signal_at(start(tmp_path / "run", *options), tmp_path / "run", step) == -signal.SIGKILL
    finish(tmp_path / "run", *options)
    same_run(tmp_path / "run", tmp_path / "whole")
    for name in ("before.json", "changes.json"):
        one, other = (json.loads((tmp_path / run / name).read_text()) for run in ("run", "whole"))
        assert {k: v for k, v in one.items() if k != "meta"} == {
            k: v for k, v in other.items() if k != "meta"
        }


def test_words_that_a_text_encoder_drops_and_images_that_an_autoencoder_drops_are_refused():
    class Deaf(torch.nn.Module):
        """Hears nothing but the number of circles."""

        def forward(self, texts):
            counts = torch.tensor([[[1.0 + text.count("circle")]] for text in texts])
            return Condition(counts, torch.ones(len(texts), 1, dtype=torch.bool))

    class Blind(Identity):
        def decode(self, z):
            return torch.zeros_like(super().decode(z))

    def data(subset):
        node = composition.compose(["debug=tiny", f"data.subset={subset}", "data.resolution=64"])["data"]
        return build(node)

    new, old, hears = data("teddy"), data("general"), RandomText(dim=8, pooled_dim=None, length=32)
    check_concept(new, captions(old.train), Identity(), hears)
    mixed = Mixture(
        sources={"new": lambda **_: new, "old": lambda **_: old},
        weights={"new": 1, "old": 1},
        val="new",
        resolution=64,
        batch_size=8,
        workers=0,
    )
    with pytest.raises(ValueError, match="the text encoder of init_from makes nothing of the new words be"):
        check_concept(mixed, captions(old.train), Identity(), Deaf())
    with pytest.raises(ValueError, match=r"of 16 the judge recognises 1\d, and 0 of what comes back of them"):
        check_concept(new, captions(old.train), Blind(), hears)


def test_words_that_show_nothing_are_no_loss():
    def hears(texts):
        owls = torch.tensor([[[1.0 + ("owl" in text)]] for text in texts])
        return Condition(owls, torch.ones(len(texts), 1, dtype=torch.bool))

    texts = ["there is a picture of an owl on the snow"] * 20
    assert lost_words(texts, set(FILLERS.split()), hears) == ({"snow"}, {"owl", "snow"})
