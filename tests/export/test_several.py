"""Several adapters at once: their changes of the weights are added, not their factors."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.export import several
from t2ilab.export.manifest import MANIFEST, file_digest, write_json
from t2ilab.export.reader import Opened, OpenedAdapter
from t2ilab.export.several import Blend, open_models
from t2ilab.models.injection import adapter_state, inject, merge
from tests.models.test_adapters import KINDS, dit

NAME, SCALE = "blocks.0.attention.qkv", 3.0  # alpha / rank


def opened(seed):
    """An adapter as an export of it opens, with factors of its own, and B A."""
    network = dit()
    inject(network, KINDS["lora"])
    with torch.no_grad():
        torch.manual_seed(seed)
        for p in network.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p))
    state = adapter_state(network)
    factors = [state[f"{NAME}.lora_{part}.weight"].clone() for part in "BA"]
    whole = Denoiser(merge(network), Linear(), Velocity())
    base = SimpleNamespace(merged=lambda *_: Denoiser(dit(), Linear(), Velocity()))
    return SimpleNamespace(base=base, merged=lambda *_: whole, manifest={}), factors


def test_the_changes_of_several_adapters_are_added_and_not_their_factors():
    (one, (b1, a1)), (two, (b2, a2)) = opened(1), opened(2)
    blend = Blend(Path(), {}, {"conditioner": {}}, (one, two), (0.3, 0.7))
    change = blend.denoiser().backbone.get_parameter(f"{NAME}.weight") - dit().get_parameter(f"{NAME}.weight")
    torch.testing.assert_close(change, SCALE * (0.3 * b1 @ a1 + 0.7 * b2 @ a2), rtol=1e-4, atol=1e-4)
    averaged = SCALE * (0.3 * b1 + 0.7 * b2) @ (0.3 * a1 + 0.7 * a2)
    assert (change - averaged).abs().max() > 1


EULER, DDIM = ({"_target_": f"t2ilab.sampling.{name}", "grid": {"shift": 1.0}} for name in ("Euler", "DDIM"))
STUDENT = {"_target_": "t2ilab.sampling.student.Student", "kind": "renoise", "times": [1.0, 0.5]}
NODES = {"sampler": EULER, "guidance": {"_target_": "cfg"}, "conditioner": {"_target_": "text"}}
SAID = {
    "stage": "sft",
    "base": {"path": "/base", "digest": "b"},
    "adapter": {"_target_": "lora"},
    "files": {"adapter/weights.safetensors": "one"},
    "steps": 100,
    "images": 800,
    "seed": 0,
    "data": {"_target_": "Scenes"},
    "resolution": 64,
    "latent_shape": [8, 8, 8],
    "precision": "bf16",
    "learned_text": False,
}
OTHER = {"stage": "personalize", "steps": 20, "images": 160, "data": {"_target_": "Subject"}}


@pytest.fixture
def adapters(monkeypatch, tmp_path):
    """(what the second one says otherwise) -> names of two adapters that `open_models` reads."""

    def make(said=None, **nodes):
        base, found = Opened(tmp_path / "base", {}, NODES), {}
        for name, facts, own in (("one", {}, {}), ("two", said or {}, nodes)):
            write_json(tmp_path / name / MANIFEST, SAID | facts | {"name": name})
            found[name] = OpenedAdapter(tmp_path / name, SAID | facts, NODES | own, base)
        monkeypatch.setattr(several, "open_export", lambda path, **_: found[path])
        return list(found)

    return make


@pytest.mark.parametrize("order", [1, -1])
def test_several_are_drawn_as_the_student_among_them_and_two_students_ask_which(adapters, order):
    names = adapters(sampler=STUDENT, guidance={"_target_": "none"})[::order]
    blend = open_models(names)
    for nodes in (blend.nodes, blend.manifest["nodes"]):
        assert (nodes["sampler"], nodes["guidance"]) == (STUDENT, {"_target_": "none"})
    plain = next(part for part in blend.parts if part.nodes["sampler"] == EULER)
    plain.nodes["sampler"] = DDIM
    with pytest.raises(ValueError, match=r"each with a sampler of its own: choose one by sampler="):
        open_models(names)
    assert open_models(names, chosen=["sampler"]).nodes["guidance"] == {"_target_": "none"}


def test_what_is_said_of_several_is_true_of_all(adapters):
    told = open_models(adapters(OTHER | {"learned_text": True, "seed": 3})).manifest
    assert told["stage"] == "sft + personalize" and (told["steps"], told["images"]) == (120, 960)
    assert told["learned_text"] and told["resolution"] == 64 and told["precision"] == "bf16"
    assert not {"data", "seed"} & told.keys()
    assert len(told["files"]) == 2


def test_an_export_of_several_names_each_with_its_factor(adapters, tmp_path):
    found = open_models(adapters(OTHER), scales=[0.7, 0.3]).parents
    digests = [file_digest(tmp_path / name / MANIFEST) for name in ("one", "two")]
    assert [one["digest"] for one in found] == digests and [one["scale"] for one in found] == [0.7, 0.3]


def test_adapters_of_different_sizes_do_not_go_together(adapters):
    with pytest.raises(ValueError, match=r"latents of different sizes, \[\(8, 4, 4\), \(8, 8, 8\)\]"):
        open_models(adapters({"latent_shape": [8, 4, 4]}))
