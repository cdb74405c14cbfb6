"""Closed forms of the sine-cosine positions."""

import math

import pytest
import torch

from t2ilab.models.positions import GridPositions, cropped_positions, grid_positions


def test_positions_hold_the_column_before_the_row_and_sines_before_cosines():
    table = grid_positions(8, 3, 5, base=5).view(3, 5, 8)
    row, column = 1, 4
    expected = []
    for coordinate in (column, row * 5 / 3):
        angles = [coordinate, coordinate / 100]
        expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(table[row, column], torch.tensor(expected))


def test_a_finer_grid_has_the_coarse_positions_among_its_own():
    coarse, fine = grid_positions(16, 4, 4, base=4), grid_positions(16, 8, 8, base=4)
    torch.testing.assert_close(fine.view(8, 8, 16)[::2, ::2].reshape(16, 16), coarse)


def test_positions_refuse_a_width_that_four_does_not_divide():
    with pytest.raises(ValueError, match=r"model\.width"):
        grid_positions(6, 2, 2, base=2)


def test_a_scale_of_two_halves_every_coordinate():
    scaled, plain = grid_positions(16, 8, 8, base=8, scale=2), grid_positions(16, 4, 4, base=4)
    torch.testing.assert_close(scaled.view(8, 8, 16)[::2, ::2].reshape(16, 16), plain)


def test_smaller_grids_are_the_middle_of_the_table_on_each_axis_for_itself():
    table = cropped_positions(16, 6, 6, base=4, size=6).view(6, 6, 16)
    torch.testing.assert_close(table, grid_positions(16, 6, 6, base=4).view(6, 6, 16))
    middle = cropped_positions(16, 2, 4, base=4, size=6).view(2, 4, 16)
    assert torch.equal(middle, table[2:4, 1:5])


def test_a_grid_beyond_the_table_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model\.position_max=6"):
        cropped_positions(16, 4, 7, base=4, size=6)


@pytest.mark.parametrize("size", [None, 12])
def test_the_usual_grid_is_kept_and_others_are_made(size):
    positions = GridPositions(16, 8, base=8, size=size)
    assert positions(8, 8) is positions.table
    assert not positions.state_dict()
    wide = positions(8, 12).view(8, 12, 16)
    if size is None:  # the rows as they were, the columns finer
        assert torch.equal(wide[:, 0], positions.table.view(8, 8, 16)[:, 0])
        torch.testing.assert_close(wide[:, 3::3], positions.table.view(8, 8, 16)[:, 2::2])
    else:  # as it was, with more at the sides
        assert torch.equal(wide[:, 2:10], positions.table.view(8, 8, 16))
