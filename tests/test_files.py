import pytest

from t2ilab.files import whole_file, whole_folder


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "folder/note.txt"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_ends_early_leaves_what_was_there_and_nothing_else(tmp_path, error):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(error), whole_file(path, sync=False) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "run/export"
    for text in ("first", "second"):
        with whole_folder(path) as temporary:
            (temporary / text).write_text(text)
            assert list(temporary.iterdir()) == [temporary / text] and temporary.parent == path.parent
        assert [file.read_text() for file in path.iterdir()] == [text]
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_whose_writing_ends_early_is_what_it_was(tmp_path, error):
    path = tmp_path / "export"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(error), whole_folder(path) as temporary:
        (temporary / "weights").write_text("half")
        raise error
    assert (path / "weights").read_text() == "old" and list(tmp_path.iterdir()) == [path]
