import json
from types import SimpleNamespace

import pytest
import torch

from t2ilab.build import build
from t2ilab.data.scenes.dataset import SceneSource
from t2ilab.data.scenes.variants import VariantSource
from t2ilab.measuring import clip_probes
from t2ilab.measuring.clip_probes import _probe
from t2ilab.objectives.contrastive import Contrastive
from t2ilab.stages.encoder import EncoderLearner, with_questions
from t2ilab.training.latent_rows import ImageRows
from tests.runs import FOUNDATION, crash_here, losses, run_here, same_run

TERMS = ("loss", "contrastive", "reading")
pytestmark = pytest.mark.usefixtures("own_cache")
SMALL = (
    "stage=encoder",
    *FOUNDATION,
    "data.size=64",
    "data.val_size=100",
    "model.embed_dim=16",
    "model.image_width=16",
    "model.image_layers=1",
    "model.image_heads=2",
    "model.text_width=16",
    "model.text_layers=1",
    "model.text_heads=2",
    "trainer.max_steps=5",
)


def test_an_encoder_learns_measures_itself_and_goes_on_bit_for_bit(tmp_path):
    folder = tmp_path / "whole"
    value = run_here(folder, *SMALL, tiny=[])
    rows = [{name: float(row[f"train/{name}"]) for name in TERMS} for row in losses(folder).values()]
    assert len(rows) == 5
    assert all(row["loss"] == pytest.approx(row["contrastive"] + row["reading"], rel=1e-4) for row in rows)
    assert rows[-1]["reading"] < rows[0]["reading"]  # what a caption asks for is the same for every image
    manifest = json.loads((folder / "export/t2ilab.json").read_text())
    assert manifest["kind"] == "encoder" and manifest["evaluation"]["retrieval_of_100"] == value
    for name in ("near_miss", "things_read", "picture_color", "text_color", "text_relation"):
        assert 0 <= manifest["evaluation"][name] <= 1
    crash_here(tmp_path / "run", 3, *SMALL, tiny=[])
    run_here(tmp_path / "run", *SMALL, tiny=[])
    same_run(tmp_path / "run", folder)


def test_a_near_miss_shows_a_caption_of_the_kind_of_its_image(tmp_path):
    from t2ilab.config.composition import checked

    weights = "data.caption_weights={short:0,long:1,paraphrase:0}"
    data = build(checked(["stage=encoder", "data.size=20", weights])["data"])
    near = VariantSource.of(data.train)
    texts = ImageRows(near, seed=0, cache=tmp_path).texts(list(range(20)), [0] * 20)
    assert texts == [near.captions(index)[1] for index in range(20)], "the second one is the long one"


def test_an_encoder_is_asked_long_captions_whatever_captions_it_has_learned(monkeypatch):
    asked = []

    def seen(student, images, texts):
        asked.append(texts)
        return torch.randn(2, len(texts), 4).unbind(0)

    monkeypatch.setattr(clip_probes, "features", seen)
    monkeypatch.setattr(clip_probes, "token_features", lambda student, texts: torch.randn(len(texts), 4))
    short, long = (SceneSource(size=100, resolution=32, caption_kinds=(kind,)) for kind in ("short", "long"))
    clip_probes.retrieval(None, short, VariantSource.of(short))
    clip_probes.probes(None, SimpleNamespace(train=short, val=short))
    assert asked == 4 * [[long.captions(row)[0] for row in range(100)]]
    few = SceneSource(size=20, resolution=32)
    assert clip_probes.retrieval(None, few, VariantSource.of(few)).keys() == {"retrieval_of_20", "near_miss"}


def test_an_encoder_without_a_known_world_is_refused_by_name(tmp_path):
    from PIL import Image

    for name in "ab":
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("an image")
    with pytest.raises(ValueError, match=r"data=scenes"):
        run_here(tmp_path / "run", "stage=encoder", "data=folder", f"data.path={tmp_path}", tiny=[])


class Towers(torch.nn.Module):
    """Images and texts that are vectors already."""

    tokenizer = type("Tokenizer", (), {"pad_id": 0})

    def __init__(self):
        super().__init__()
        self.log_temperature = torch.nn.Parameter(torch.tensor(1.0))

    def encode_image(self, pixels):
        return type("Features", (), {"pooled": pixels.flatten(1)})

    def encode_text(self, ids, mask):
        assert torch.equal(mask, ids != 0)
        return type("Features", (), {"pooled": ids.float()})


def test_every_row_brings_two_pairs_and_equal_texts_are_found_by_their_ids():
    seen = {}

    class Recorder(Contrastive):
        def compared(self, images, texts, scale, same):
            seen.update(images=images, texts=texts, scale=scale, same=same)
            return torch.arange(len(texts)).float()

    common = {"seed": 0, "batch_size": 2, "optimizer": None, "schedule": None, "clip": 0.0}
    student = with_questions(Towers(), reading=0.0)
    stage = EncoderLearner(student, Recorder(largest=100.0), **common)
    images = torch.randint(0, 255, (2, 2, 3, 2, 2), dtype=torch.uint8)
    ids = torch.tensor(
        [[[1, 2, 0], [3, 4, 0]], [[1, 2, 0], [5, 0, 0]]]
    )  # the plain texts of both rows are equal
    losses = stage.objective(stage.to_batch({"images": images, "ids": ids}, None), None)
    assert seen["images"].shape == (4, 12) and seen["scale"].item() == pytest.approx(torch.e)
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = True
    assert torch.equal(seen["same"], expected)
    assert losses.terms["contrastive"].tolist() == [0.5, 2.5]  # the mean of a row's two


def test_a_probe_reads_what_is_linear_and_not_what_is_absent():
    class Scene:
        def __init__(self, label):
            self.label = label

    labels = torch.randint(0, 3, (400,)).tolist()
    scenes = [Scene(str(label)) for label in labels]
    told = torch.nn.functional.one_hot(torch.tensor(labels), 3).float() @ torch.randn(
        3, 6
    ) + 0.01 * torch.randn(400, 6)
    noise = torch.randn(400, 6)

    def sides(x):
        return [(scenes[:300], x[:300]), (scenes[300:], x[300:])]

    assert _probe(sides(told), 1, lambda scene: scene.label) == 1.0
    assert _probe(sides(noise), 1, lambda scene: scene.label) < 0.6
    some = _probe(sides(told), 1, lambda scene: scene.label if scene.label != "2" else None)
    assert some == 1.0
