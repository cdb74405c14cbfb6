"""Conditions keep tokens, masks and pooled vectors together."""

import pytest
import torch

from t2ilab.core.types import Condition


def condition(rows: int, length: int, value: float, pooled: bool = True) -> Condition:
    mask = torch.ones(rows, length, dtype=torch.bool)
    return Condition(
        torch.full((rows, length, 3), value), mask, torch.full((rows, 2), value) if pooled else None
    )


def test_where_takes_all_parts_of_the_null_text_together():
    mixed = condition(3, 4, 1.0).where(torch.tensor([True, False, True]), condition(1, 2, 5.0))
    assert mixed.tokens[:, 0, 0].tolist() == [1.0, 5.0, 1.0]
    assert mixed.pooled[:, 0].tolist() == [1.0, 5.0, 1.0]
    assert mixed.mask.sum(1).tolist() == [4, 2, 4]


def test_cat_pads_the_shorter_text_with_masked_tokens():
    both = condition(2, 3, 1.0).cat(condition(1, 5, 2.0))
    assert both.tokens.shape == (3, 5, 3)
    assert both.mask.sum(1).tolist() == [3, 3, 5]
    assert both.tokens[0, 3:].abs().sum() == 0


def test_expand_repeats_one_text_and_indexing_selects_rows():
    assert len(condition(1, 3, 1.0).expand(4)) == 4
    rows = condition(3, 2, 1.0)
    rows.tokens[2] = 7.0
    assert rows[torch.tensor([2])].tokens.unique().tolist() == [7.0]


def test_a_dtype_leaves_the_mask_boolean():
    moved = condition(2, 2, 1.0).to(torch.float64)
    assert moved.tokens.dtype == torch.float64 and moved.mask.dtype == torch.bool


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="tokens"):
        Condition(torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="pad"):
        condition(1, 4, 0.0).padded(3)


def test_trimming_drops_the_positions_that_count_in_no_row():
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    tokens = torch.randn(2, 4, 3)
    short = Condition(tokens, mask, torch.ones(2, 5)).trimmed()
    assert torch.equal(short.tokens, tokens[:, :3]) and torch.equal(short.mask, mask[:, :3])
    assert torch.equal(short.pooled, torch.ones(2, 5))
