"""The contact sheet is written by one command."""

import pytest
from PIL import Image

from t2ilab.data.scenes.contact_sheet import COLUMNS, main, rows


def test_the_sheet_shows_every_subset_and_is_written_where_told(tmp_path):
    main([str(tmp_path / "new" / "sheet.png")])
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.mode == "RGB" and min(sheet.size) > 1000
    titles = " ".join(title for title, _ in rows())
    words = ("general", "compose", "curated", "teddy", "subject", "preferences")
    assert all(word in titles for word in words)
    assert all(0 < len(examples) <= COLUMNS for _, examples in rows())


def test_a_missing_file_name_is_answered_by_the_usage():
    with pytest.raises(SystemExit, match="usage"):
        main([])
