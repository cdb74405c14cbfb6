"""A learned null text: it stands where rows are blank, learns there, and travels with the network."""

import pytest
import torch

from t2ilab.core.denoiser import Denoiser
from t2ilab.core.null_text import NAME, NullText, add_null_text
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.types import Condition
from tests.models import families

NODE = {"null": "learned", "length": 5, "dim": 12, "pooled_dim": 6}


def network(**node):
    made = families.trained("dit joint")
    add_null_text(made, NODE | node)
    return Denoiser(made, Linear(), Velocity())


def blank(rows=1):
    mask = torch.ones(rows, 5, dtype=torch.bool)
    return Condition(torch.zeros(rows, 5, 12), mask, torch.zeros(rows, 6), mask[:, 0])


def inputs(rows=2):
    return torch.randn(rows, 4, 8, 8), torch.tensor([0.9, 0.2])[:rows]


def test_blank_rows_read_the_learned_vectors_and_others_their_text():
    denoiser, cond = network(), families.condition()
    null = getattr(denoiser.backbone, NAME)
    x, t = inputs()
    keep = torch.tensor([True, False])
    out = denoiser(x, t, cond.where(keep, blank())).out
    given = Condition(null.tokens, torch.ones(1, 5, dtype=torch.bool), null.pooled)
    torch.testing.assert_close(out, denoiser(x, t, cond.where(keep, given)).out)
    torch.testing.assert_close(out[:1], denoiser(x, t, cond).out[:1])
    both = denoiser(x.repeat(2, 1, 1, 1), t.repeat(2), cond.cat(blank(2))).out
    torch.testing.assert_close(both[3], out[1], atol=1e-5, rtol=1e-5)


def test_blankness_stays_with_its_rows():
    cond = families.condition().where(torch.tensor([False, True]), blank())
    assert cond.blank.tolist() == [True, False]
    assert cond[[1, 0]].blank.tolist() == [False, True]
    assert cond.trimmed().padded(9).to(torch.float64).blank.tolist() == [True, False]
    assert cond.cat(families.condition()).blank.tolist() == [True, False, False, False]
    assert blank().expand(3).blank.all() and families.condition().cat(families.condition()).blank is None


def test_a_gradient_reaches_the_vectors_from_blank_rows_and_is_zero_without_any():
    denoiser, (x, t) = network(), inputs()
    null = getattr(denoiser.backbone, NAME)
    for cond, reached in ((families.condition(), False), (blank(2), True)):
        denoiser.zero_grad()
        denoiser(x, t, cond).out.square().sum().backward()
        assert bool(null.tokens.grad.any()) == bool(null.pooled.grad.any()) == reached


def test_it_is_there_only_where_it_is_asked_for_and_a_network_without_it_refuses_blank_rows():
    plain = network(null="empty")
    assert not hasattr(plain.backbone, NAME)
    with pytest.raises(ValueError, match=r"conditioner\.null=learned needs a model that has learned it"):
        plain(*inputs(), blank(2))
    assert {f"{NAME}.tokens", f"{NAME}.pooled"} <= set(network().backbone.state_dict())


def test_it_starts_as_normal_numbers_over_the_root_of_the_width():
    made = NullText(200, 64, 4096)
    assert made.tokens.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert made.pooled is not None and made.pooled.std().item() == pytest.approx(1 / 64, rel=0.05)
