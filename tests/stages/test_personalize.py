"""`stage=personalize`: what it trains on, how the images of the class are kept, and which words it refuses."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.build import build
from t2ilab.data.personal import Named, data_node
from t2ilab.export.manifest import MANIFEST
from t2ilab.stages.class_images import differing
from t2ilab.stages.personalize import class_folders, old_captions, say_folders
from t2ilab.text.random import RandomText
from t2ilab.text.rare import not_rare, rare_word
from tests.photographs import photograph
from tests.tiny import command, finished_run

TINY = ("debug=tiny", "stage=personalize", "trainer.max_steps=2", "stage.preview_every=2", "data=subject")
SMALL = ("data.resolution=32", "data.batch_size=4", "stage.class_images=6", "data.val_size=4")


def test_a_rare_word_is_one_token_and_no_word_of_the_captions():
    text = RandomText(dim=4, pooled_dim=None, length=4)
    assert (
        not_rare(text, ["a dog", "a cat"], "dog")
        == "is a word of 1 of 2 captions that the model was trained on"
    )
    assert not_rare(text, [], "two words") == "is no single word"
    assert rare_word(text, ["a zwx"], None) == "sks"
    with pytest.raises(ValueError, match=r"stage\.token=dog is a word of 2 of 2"):
        rare_word(text, ["a dog", "the Dog"], "dog")
    assert rare_word(text, ["a dog"] * 4096, None, taken=["zwx", "sks"]) == "ohwx", "however many captions"


def test_each_class_has_a_folder_of_its_own_whatever_its_punctuation(tmp_path):
    def folders(*names):
        subjects = [Named(f"w{number}", name, None) for number, name in enumerate(names)]
        found = class_folders({"stage": {"class_folder": None}, "run_dir": str(tmp_path)}, subjects)
        return {name: str(folder.relative_to(tmp_path.resolve())) for name, folder in found.items()}

    assert folders("guide dog", "cat") == {
        "guide dog": "class_images/guide_dog",
        "cat": "class_images/cat",
    }
    found, turned = folders("guide dog", "guide-dog", "cat"), folders("guide-dog", "cat", "guide dog")
    assert len(set(found.values())) == 3 and found == turned
    assert found["cat"] == "class_images/cat"
    assert found["guide-dog"].startswith("class_images/guide_dog_")


def test_the_tokens_of_a_word_are_those_of_the_text_encoder():
    from t2ilab.config.composition import compose

    text = build(compose(["conditioner=scenes_words"])["conditioner"])
    assert not_rare(text, [], "zwx") == ""
    assert "is not one token of the text encoder but 4" in not_rare(text, [], "dog")


def test_half_of_every_batch_is_of_the_class(tmp_path):
    from t2ilab.config.composition import compose
    from t2ilab.stages.sample import write_image

    for number in range(3):
        write_image(tmp_path / f"{number}.png", torch.zeros(32, 32, 3, dtype=torch.uint8).numpy())
    node = compose(["data=subject", "data.resolution=32", "data.batch_size=4"])["data"]
    data = build(data_node(node, [Named("zwx", "teddy bear")], {"teddy bear": tmp_path}))
    assert list(data.quotas.values()) == [2, 2]
    assert {len(source) for source in data.sources()} == {5, 3}
    subject, others = data.sources()
    assert subject.captions(0) == ["a zwx teddy bear"] and others.captions(0) == ["a teddy bear"]
    for step in range(4):
        _, rows = data.order(0).arrays(step)
        assert sum(rows >= len(subject)) == 2


@pytest.fixture(scope="module")
def personal(tmp_path_factory):
    run = tmp_path_factory.mktemp("personal") / "run"
    command(*TINY, *SMALL, f"init_from={finished_run()}", "adapter=lora", "adapter.rank=2", run_dir=run)
    return run


def test_a_subject_is_learned_and_its_export_says_so(personal):
    found = json.loads((personal / "export" / MANIFEST).read_text())
    assert found["kind"] == "adapter" and found["stage"] == "personalize"
    assert found["data"]["sources"]["class"]["caption"] == "a teddy bear"
    header = (personal / "metrics.csv").read_text().splitlines()[0]
    assert "train/subject" in header and "train/class" in header
    changes = json.loads((personal / "changes.json").read_text())
    assert {"subject/overall", "teddy/overall", "drift", "loss/heldout_class"} <= changes.keys()
    assert {"mark", "context", "leak", "leak_described", "similarity", "class_similarity", "diversity"} == {
        name.removeprefix("personal/") for name in changes if name.startswith("personal/")
    }
    assert found["weights"]["trained"] < 0.03 * found["weights"]["all"] and found["seconds"] > 0


def test_captions_of_its_own_subject_make_no_word_common_also_of_a_model_that_was_exported_anew(personal):
    told = json.loads((personal / "export" / MANIFEST).read_text())
    start = SimpleNamespace(data=told["data"], opened=SimpleNamespace(manifest=told))
    assert old_captions(start) == []
    start.opened.manifest = told | {"stage": "export", "trained_by": "personalize"}
    assert old_captions(start) == []


def test_the_images_of_the_class_are_drawn_once_and_never_taken_for_others(personal, tmp_path, capsys):
    folder = personal / "class_images"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["prompt"] == "a teddy bear" and len(manifest["files"]) == 6
    recipe = {key: value for key, value in manifest.items() if key != "files"}
    assert differing(folder, recipe) == []
    for key in recipe:
        assert any(line.startswith(f"{key}: ") for line in differing(folder, recipe | {key: "another"}))
    options = (*TINY, *SMALL, f"init_from={finished_run()}", f"stage.class_folder={folder}")
    with pytest.raises(
        ValueError,
        match=r"holds other files than the images that this run would draw .*count: 6 there, 7 here",
    ):
        command(*options, "stage.class_images=7", run_dir=tmp_path / "run")
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    command(*options, run_dir=tmp_path / "again")
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*.png")} == before
    assert "images of 'a teddy bear' in" not in capsys.readouterr().out
    name = min(before)
    kept = name.read_bytes()
    name.write_bytes(kept + b" ")
    assert differing(folder, recipe) == [f"{name.name} has changed"]
    name.write_bytes(kept)


def test_images_of_the_class_are_drawn_for_prompts_of_ones_own_and_learned_under_these(tmp_path):
    run, told = tmp_path / "run", ["a red teddy bear", "a teddy bear and a blue star"]
    command(*TINY, *SMALL, f"init_from={finished_run()}", f"stage.class_prompts={told}", run_dir=run)
    manifest = json.loads((run / "class_images/manifest.json").read_text())
    assert manifest["prompt"] == told and len(manifest["files"]) == 6
    data = build(json.loads((run / "export/t2ilab.json").read_text())["data"])
    images = data.sources()[1]
    assert [images.captions(index) for index in range(3)] == [[told[0]], [told[1]], [told[0]]]
    assert data.sets["class"].caption == "a teddy bear", "by which the class is measured"


def test_without_a_prior_no_image_of_the_class_is_drawn(tmp_path):
    options = (*TINY, *SMALL, f"init_from={finished_run()}", "loss.prior_weight=0")
    command(*options, run_dir=tmp_path / "run")
    assert not (tmp_path / "run/class_images").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["data.subset=general", "data.size=8"], "learns one subject"),
        (["stage.token=sks"], "the prompts that measure data=subject say zwx"),
        (["stage.class_prompts=[a red dog]"], "stage.class_prompts: 'a red dog' does not name teddy bear"),
        (["stage.class_prompts=[an ateddy bear]"], "does not name teddy bear"),
        (
            ["stage.class_images=1", "stage.class_prompts=[a teddy bear,two teddy bears]"],
            "stage.class_images=1 are fewer than stage.class_prompts, which are 2",
        ),
        (
            ["loss.prior_weight=0", "stage.class_prompts=[two teddy bears]"],
            "stage.class_prompts: no images of the class are learned from",
        ),
        (["loss=textual_inversion", "stage.class_folder=kept"], "stage.class_folder: no images of the class"),
        (["stage.class_images=0"], "stage.class_images must be at least 1"),
        (["loss.prior_weight=-1"], "loss.prior_weight must be 0 or more"),
    ],
)
def test_what_cannot_be_personalised_is_refused(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        command(*TINY, *SMALL, f"init_from={finished_run()}", *options, run_dir=tmp_path / "run")


def test_a_folder_of_photographs_needs_the_name_of_its_class(tmp_path):
    options = (
        "debug=tiny",
        "stage=personalize",
        f"init_from={finished_run()}",
        "data=folder",
        f"data.path={tmp_path}",
    )
    with pytest.raises(ValueError, match=r"stage\.class_name: say what the subject is"):
        command(*options, run_dir=tmp_path / "run")


def test_a_folder_of_photographs_without_captions_is_personalised(tmp_path):
    (tmp_path / "dog").mkdir()
    for number in range(5):
        photograph(tmp_path / f"dog/{number}.png", number)
    options = ("data=folder", f"data.path={tmp_path / 'dog'}", "data.batch_size=4", "data.val_share=0.3")
    own = ("stage.class_name=dog", "stage.class_images=4", "adapter=lora", "adapter.rank=2")
    command(*TINY[:-1], *options, *own, f"init_from={finished_run()}", run_dir=tmp_path / "run")
    found = json.loads((tmp_path / "run/export" / MANIFEST).read_text())
    assert found["kind"] == "adapter" and found["data"]["sources"]["class"]["caption"] == "a dog"
    assert found["data"]["sources"]["subject"]["caption"] == "a zwx dog"
    changes = json.loads((tmp_path / "run/changes.json").read_text())
    assert {"personal/similarity", "personal/diversity", "loss/heldout_class"} <= changes.keys()
    assert not {"personal/mark", "personal/leak"} & changes.keys()


def test_images_of_several_folders_that_become_one_subject_are_pointed_out(tmp_path, capsys):
    for name in ("10_zwx dog", "10_sks cat"):
        (tmp_path / name).mkdir()
        photograph(tmp_path / name / "0.JPG", 0)
        say_folders(Named("zwx", "dog"), {"path": str(tmp_path)})
    assert capsys.readouterr().out == (
        f"note: the images of 2 folders in {tmp_path} (10_sks cat, 10_zwx dog) are all 'a zwx dog'; stage.subjects "
        "teaches each a word of its own\n"
    )


def test_several_subjects_are_learned_at_once(tmp_path):
    folders = {name: tmp_path / name for name in ("dog", "cat")}
    for place, name in enumerate(folders):
        folders[name].mkdir()
        for number in range(3):
            photograph(folders[name] / f"{number}.png", 10 * place + number)
    options = (
        *TINY[:-1],
        "data=folder",
        f"data.path={folders['dog']}",
        "data.batch_size=4",
        "data.val_share=0.3",
    )
    own = ("stage.class_name=dog", "stage.class_images=3", "adapter=lora", "adapter.rank=2")
    more = f"stage.subjects=[{{path:{folders['cat']},class_name:cat}}]"
    run = tmp_path / "run"
    command(*options, *own, more, f"init_from={finished_run()}", run_dir=run)
    found = json.loads((run / "export" / MANIFEST).read_text())
    sources = found["data"]["sources"]
    assert [one["caption"] for one in sources.values()] == ["a zwx dog", "a sks cat", "a dog", "a cat"]
    assert {len(list((run / "class_images" / name).glob("*.png"))) for name in folders} == {3}
    changes = json.loads((run / "changes.json").read_text())
    assert {"personal/similarity", "personal/2/similarity", "loss/heldout_class2"} <= changes.keys()
    inverted = ("loss=textual_inversion", "loss.init_word=animal", f"init_from={finished_run()}")
    command(*options, own[0], more, *inverted, run_dir=tmp_path / "words")
    words = load_file(tmp_path / "words/export/learned/learned_embeds.safetensors")
    assert set(words) == {"zwx", "sks"} and not torch.equal(words["zwx"], words["sks"])
    with pytest.raises(ValueError, match=r"stage\.subjects: each needs path and class_name"):
        command(
            *options,
            *own,
            "stage.subjects=[{path:CAT}]",
            f"init_from={finished_run()}",
            run_dir=tmp_path / "no",
        )
