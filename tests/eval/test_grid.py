import numpy as np
import pytest
import torch

from t2ilab.eval.grid import draw_grid, read_grid, save_grid, to_arrays


def some_images(n, h=16, w=24):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, h, w), dtype=np.uint8))


@pytest.mark.parametrize("captions", [(), ("a red circle",) * 5, ("a very long caption " * 9,) * 5])
@pytest.mark.parametrize("columns", [1, 2, None])
def test_grid_gives_the_pixels_back(tmp_path, captions, columns):
    images = some_images(5)
    path = save_grid(tmp_path / "a" / "grid.png", images, captions, columns=columns, info={"step": 500})
    grid = read_grid(path)
    assert np.array_equal(grid.images, to_arrays(images))
    assert grid.captions == tuple(captions)
    assert grid.info == {"step": 500}
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_large_images_are_not_enlarged(tmp_path):
    from PIL import Image

    images = some_images(2, 200, 200)
    path = save_grid(tmp_path / "grid.png", images, columns=2)
    assert Image.open(path).size == (2 * 206 + 6, 206 + 6)
    assert np.array_equal(read_grid(path).images, to_arrays(images))


def test_other_images_are_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="not a grid"):
        read_grid(tmp_path / "x.png")
    with pytest.raises(ValueError, match="uint8"):
        to_arrays(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="as many captions"):
        save_grid(tmp_path / "y.png", some_images(2), ["one"])


def test_captions_in_other_alphabets_are_drawn_letter_by_letter():
    letters = "üßéøżčñЖя"
    drawn = [np.asarray(draw_grid(np.zeros((1, 16, 16, 3), np.uint8), [letter])[0]) for letter in letters]
    assert len({image.tobytes() for image in drawn}) == len(letters)  # no two are the same empty box
