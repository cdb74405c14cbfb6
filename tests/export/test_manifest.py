"""What decides the output of an encoder, and how its files travel in an export."""

from pathlib import Path

import pytest

from t2ilab.export import manifest
from t2ilab.export.manifest import MANIFEST, absolute, carry, export_folder, identity


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_text("a")
    return source


def test_the_identity_of_an_encoder_names_no_place(folder, tmp_path):
    assert identity({"_target_": "x", "dim": 3}) == {"_target_": "x", "dim": 3}
    assert identity({"_target_": "x", "path": None}) == {"_target_": "x", "path": None}
    other = folder.rename(tmp_path / "elsewhere")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "weights").write_text("a")
    assert identity({"path": str(folder)}) == identity({"path": str(other)})


@pytest.mark.parametrize(
    "node",
    [
        lambda path: {"path": path},
        lambda path: {"tokenizer_path": path},
        lambda path: {"vae": {"path": path}, "encoder": {"dim": 3}},
    ],
    ids=["path", "tokenizer", "inner node"],
)
def test_the_identity_of_an_encoder_holds_the_content_of_its_files(folder, node):
    first = identity(node(str(folder)))
    assert identity(node(str(folder))) == first
    (folder / "weights").write_text("b")
    assert identity(node(str(folder))) != first


def test_files_of_inner_nodes_travel_each_in_a_folder_of_its_own(folder, tmp_path):
    export = tmp_path / "export"
    node = {"vae": {"path": str(folder), "tokenizer_path": str(folder)}, "encoder": {"dim": 3}, "path": None}
    carried = carry(node, export, "autoencoder", {})
    assert carried == {
        "vae": {"path": "./vae", "tokenizer_path": "./vae_tokenizer"},
        "encoder": {"dim": 3},
        "path": None,
    }
    found = absolute(carried, export)
    assert identity(found) == identity(node)


def test_tokenizers_of_several_encoders_do_not_meet_in_one_folder(tmp_path):
    encoders = {}
    for name in ("clip_l", "t5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.json").write_text(name)
        encoders[name] = {"path": str(tmp_path / name), "tokenizer_path": str(tmp_path / name)}
    export = tmp_path / "export"
    found = absolute(carry({"encoders": encoders}, export, "text_encoder", {}), export)
    for name, node in found["encoders"].items():
        assert [(Path(folder) / "words.json").read_text() for folder in node.values()] == [name, name]


def test_large_files_are_referred_to_by_place_and_content(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "CARRY_BYTES", 0)
    references = {}
    carried = carry({"vae": {"path": str(folder)}}, tmp_path / "export", "autoencoder", references)
    assert carried == {"vae": {"path": str(folder)}}
    manifest.check_references(references, "RUN")
    (folder / "weights").write_text("b")
    with pytest.raises(ValueError, match=r"source, which has changed since the export"):
        manifest.check_references(references, "RUN")


def test_a_large_file_is_read_again_only_when_it_has_changed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(manifest, "REMEMBERED_BYTES", 1)
    read, digest = [], manifest.file_digest
    monkeypatch.setattr(manifest, "file_digest", lambda path: (read.append(path.name), digest(path))[1])
    first = manifest.folder_digest(folder)
    assert manifest.folder_digest(folder) == first and read == ["weights"]
    (folder / "weights").write_text("other")
    assert manifest.folder_digest(folder) != first and read == ["weights"] * 2
    monkeypatch.setattr(manifest, "REMEMBERED_BYTES", 1000)
    assert manifest.folder_digest(folder) == manifest.folder_digest(folder) and len(read) == 4


def test_a_parent_is_named_by_a_path_that_holds_in_every_folder(tmp_path, monkeypatch):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / manifest.MANIFEST).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert manifest.as_parent(Path("export"), {"stage": "sft"})["path"] == str(tmp_path / "export")


def test_a_path_beside_the_folder_of_a_run_is_answered_by_what_lies_there(tmp_path):
    for name in ("base", "tuned"):
        (tmp_path / "runs" / name / "export").mkdir(parents=True)
        (tmp_path / "runs" / name / "export" / MANIFEST).write_text("{}")
    assert export_folder(tmp_path / "runs/base") == export_folder(tmp_path / "runs/base/export")
    with pytest.raises(ValueError, match=r"init_from=.*t2ilab\.json is a file: give the folder of its run"):
        export_folder(tmp_path / "runs/base/export" / MANIFEST)
    with pytest.raises(ValueError, match=r"init_from=.*runs holds 2 finished runs \(base, tuned\): give"):
        export_folder(tmp_path / "runs")
