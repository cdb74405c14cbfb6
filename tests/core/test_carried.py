"""Vectors in further channels of maps that are neither square nor of as many channels as rows."""

import pytest
import torch

from t2ilab.core.carried import carried, carry

VECTORS = torch.arange(22.0).view(2, 11) + 1


def test_a_vector_lies_row_by_row_and_comes_back():
    maps = carry(VECTORS, 2, (3, 2))
    assert maps.shape == (2, 2, 3, 2)
    assert maps[0].flatten().tolist() == [*range(1, 12), 0]
    assert torch.equal(carried(maps, 11), VECTORS)


def test_only_vectors_with_room_are_carried():
    """One channel of 3 x 4 holds 12 numbers: not 13, though three channels of 4 x 4, or one of 4 x 4, would."""
    maps = torch.zeros(2, 1, 3, 4)
    assert carried(maps, 12).shape == (2, 12)
    for call in (lambda: carried(maps, 13), lambda: carry(torch.zeros(2, 13), 1, (3, 4))):
        with pytest.raises(ValueError, match=r"13 numbers needs 2 further channels of 3 x 4, got 1"):
            call()
