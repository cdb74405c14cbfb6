"""The conditioner without files."""

import pytest
import torch

from t2ilab.text.random import RandomText


def test_the_same_words_have_the_same_vectors_and_others_do_not():
    first, second = RandomText(dim=64, pooled_dim=64, length=6), RandomText(dim=64, pooled_dim=64, length=6)
    one, two = first(["a red star", "a blue star"]), second(["a red star", "a blue star"])
    assert torch.equal(one.tokens, two.tokens) and torch.equal(one.pooled, two.pooled)
    assert torch.equal(one.tokens[0, 0], one.tokens[1, 0])
    assert not torch.allclose(one.tokens[0, 1], one.tokens[1, 1])
    assert not torch.equal(
        one.tokens, RandomText(dim=64, pooled_dim=64, length=6, seed=1)(["a red star"] * 2).tokens
    )


def test_the_order_of_words_is_in_the_tokens_and_not_in_pooled():
    text = RandomText(dim=64, pooled_dim=64, length=6)
    one, two = text(["red blue"]), text(["blue red"])
    assert not torch.allclose(one.tokens, two.tokens)
    torch.testing.assert_close(one.pooled, two.pooled)


def test_tokens_have_unit_variance_and_padding_is_zero():
    cond = RandomText(dim=4096, pooled_dim=None, length=6)(["one two three"])
    assert cond.mask.tolist() == [[True] * 4 + [False] * 2] and cond.pooled is None
    torch.testing.assert_close(cond.tokens[0, :4].var(-1), torch.ones(4), atol=0.15, rtol=0)
    assert not cond.tokens[0, 4:].any()


def test_the_null_condition_is_the_empty_prompt_with_one_token():
    text = RandomText(dim=8, pooled_dim=8, length=6)
    null, empty = text.null(3), text(["", "", ""])
    assert torch.equal(null.tokens, empty.tokens) and torch.equal(null.pooled, empty.pooled)
    assert null.mask.sum(1).tolist() == [1, 1, 1]


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match=r"conditioner\.pooled_dim"):
        RandomText(dim=8, pooled_dim=4, length=6)
    with pytest.raises(ValueError, match="positive"):
        RandomText(dim=8, pooled_dim=None, length=0)
    with pytest.raises(ValueError, match="list of strings"):
        RandomText(dim=8, pooled_dim=None, length=4)("a red star")
