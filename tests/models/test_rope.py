"""The properties that make rotary positions relative."""

import pytest
import torch

from t2ilab.models.rope import check_heads, rotate, rotations


def logits(q, k, rotation):
    """Of every pair of places, for the same query and key everywhere."""
    q, k = (rotate(part.expand(1, 1, len(rotation), -1), rotation)[0, 0] for part in (q, k))
    return q @ k.T


def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, generator=generator), torch.randn(16, generator=generator)


def test_a_pair_of_neighbours_is_turned_by_the_row_then_the_column_times_its_frequency():
    rotation = rotations(8, 3, 4, theta=100.0).view(3, 4, 4)
    x = torch.tensor([1.0, 0.0] * 4).expand(1, 1, 12, 8)
    turned = rotate(x, rotation.flatten(0, 1)).view(3, 4, 4, 2)
    angles = torch.tensor([2 * 1.0, 2 * 0.1, 3 * 1.0, 3 * 0.1])  # row 2, column 3, w = 1 and 100^(-1/2)
    torch.testing.assert_close(turned[2, 3], torch.stack([angles.cos(), angles.sin()], -1))


def test_logits_depend_on_the_difference_of_places_only():
    q, k = vectors()
    table = logits(q, k, rotations(16, 5, 6, theta=100.0)).view(5, 6, 5, 6)
    torch.testing.assert_close(table[:4, :4, :4, :4], table[1:, 2:, 1:, 2:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(table[0, 0, 1, 0], table[0, 0, 0, 1], atol=1e-3)
    assert not torch.allclose(table[0, 0, 0, 1], table[0, 1, 0, 0], atol=1e-3)


def test_rotation_keeps_norms_and_types():
    x = torch.randn(2, 3, 12, 16)
    rotation = rotations(16, 3, 4, theta=100.0)
    torch.testing.assert_close(rotate(x, rotation).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), rotation).dtype == torch.bfloat16


def test_text_and_the_first_place_are_not_turned():
    x = torch.randn(1, 2, 15, 16)
    turned = rotate(x, rotations(16, 3, 4, theta=100.0, text=3))
    assert torch.equal(turned[:, :, 12:], x[:, :, 12:])
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1:12], x[:, :, 1:12])


def test_cropping_a_grid_equals_building_the_smaller_one():
    large, small = rotations(16, 8, 12, theta=100.0), rotations(16, 5, 6, theta=100.0)
    assert torch.equal(large.view(8, 12, 8)[:5, :6].reshape(30, 8), small)


def test_heads_that_cannot_be_cut_into_two_axes_are_refused():
    with pytest.raises(ValueError, match=r"model\.width / model\.heads"):
        check_heads(6)
