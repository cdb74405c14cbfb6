"""Encoders side by side: where their vectors stand, and what does not fit together."""

import pytest
import torch

from t2ilab.text.random import RandomText
from t2ilab.text.several import Several

PROMPTS = ["a red circle", "a red circle above a blue star", ""]


def encoders(**lengths):
    sizes = {"one": 4, "two": 6, "wide": 12}
    return {
        name: RandomText(dim=dim, pooled_dim=dim, length=lengths.get(name, 5), seed=dim)
        for name, dim in sizes.items()
    }


def several(tokens, pooled, *, made=None, **sizes):
    made = made or encoders(wide=7)
    named = {name for row in tokens for name in row} | set(pooled)
    sizes = {"dim": 12, "pooled_dim": 10, "length": 12} | sizes
    return Several(
        encoders={name: made[name] for name in sorted(named)}, tokens=tokens, pooled=pooled, **sizes
    )


def test_a_row_stands_side_by_side_filled_up_with_zeros_and_rows_one_behind_the_other():
    made = encoders(wide=7)
    found = several([["one", "two"], ["wide"]], ["two", "one"], made=made)(PROMPTS)
    one, two, wide = (made[name](PROMPTS) for name in ("one", "two", "wide"))
    assert torch.equal(found.tokens[:, :5, :4], one.tokens)
    assert torch.equal(found.tokens[:, :5, 4:10], two.tokens)
    assert not found.tokens[:, :5, 10:].any()
    assert torch.equal(found.tokens[:, 5:], wide.tokens)
    assert torch.equal(found.mask, torch.cat([one.mask, wide.mask], 1))
    assert torch.equal(found.pooled, torch.cat([two.pooled, one.pooled], 1))


def test_without_pooled_there_is_none_and_an_encoder_may_give_its_pooled_vector_only():
    assert several([["wide"]], [], pooled_dim=None, length=7)(PROMPTS).pooled is None
    found = several([["wide"]], ["one"], pooled_dim=4, length=7)(PROMPTS)
    assert found.tokens.shape == (3, 7, 12) and found.pooled.shape == (3, 4)


def test_the_null_condition_is_that_of_all_together():
    zeros = several([["one", "two"]], ["two"], dim=10, pooled_dim=6, length=5, null="zeros")
    null = zeros.null(2)
    assert not null.tokens.any() and not null.pooled.any()
    assert torch.equal(null.mask, zeros(["", ""]).mask)
    assert several([["wide"]], ["one"], pooled_dim=4, length=7).null().pooled.any()


def test_the_shortest_encoder_decides_how_many_prompts_are_cut():
    made = encoders(one=4, two=8, wide=3)
    assert several([["one"], ["two"]], [], made=made, dim=6, pooled_dim=None).cut(PROMPTS) == 1
    assert several([["two"], ["wide"]], [], made=made, pooled_dim=None, length=11).cut(PROMPTS) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": [["one", "wide"]], "pooled": []}, r"encoders of one row need one length.*'wide': 7"),
        ({"tokens": [[]], "pooled": ["one"]}, r"have to name all of one"),
        ({"tokens": [], "pooled": ["one"]}, r"have to name all of one"),
        ({"tokens": [["one"]], "pooled": [], "dim": 5, "length": 4}, r"conditioner\.dim=5, found 4"),
        ({"tokens": [["wide"]], "pooled": [], "null": "none"}, r"pooled_dim=10, found None"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        several(**options)


def test_an_encoder_that_is_not_read_or_not_there_or_has_a_null_of_its_own_is_refused():
    made = encoders()
    sizes = {"dim": 4, "pooled_dim": None, "length": 5, "pooled": []}
    with pytest.raises(ValueError, match="have to name all of one, two, wide, and nothing else"):
        Several(encoders=made, tokens=[["one"]], **sizes)
    with pytest.raises(ValueError, match="have to name all of one, and nothing else"):
        Several(encoders={"one": made["one"]}, tokens=[["one", "three"]], **sizes)
    plain = {"one": RandomText(dim=4, pooled_dim=None, length=5)}
    with pytest.raises(ValueError, match=r"conditioner\.pooled names one, which has no pooled vector"):
        Several(encoders=plain, tokens=[["one"]], **sizes | {"pooled": ["one"]})
    plain["one"].null_text = "zeros"
    with pytest.raises(ValueError, match=r"conditioner\.encoders\.one\.null=zeros would not be read"):
        Several(encoders=plain, tokens=[["one"]], **sizes)
    with pytest.raises(ValueError, match=r"conditioner\.null must be one of empty, zeros, learned"):
        Several(
            encoders={"one": RandomText(dim=4, pooled_dim=None, length=5)},
            tokens=[["one"]],
            **sizes,
            null="no",
        )
