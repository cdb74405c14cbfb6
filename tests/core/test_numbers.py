"""Numbers that a network is told beside the text: silent at first, then added by the formula."""

import torch

from t2ilab.core.numbers import DEFAULTS, FREQUENCIES, SCALE, NumberInputs
from t2ilab.core.types import Condition

NAME = next(iter(DEFAULTS))


def test_a_number_adds_its_cosines_and_sines_to_every_token():
    made = NumberInputs([NAME], 3, None)
    cond = Condition(torch.randn(2, 4, 3), torch.ones(2, 4, dtype=torch.bool))
    value = DEFAULTS[NAME] + torch.tensor([0.0, 0.01])
    told = Condition(cond.tokens, cond.mask, numbers={NAME: value})
    assert torch.equal(made(told).tokens, cond.tokens), "silent at first"
    with torch.no_grad():
        made.layers[f"{NAME}_tokens"].weight.copy_(torch.ones(3, 2 * FREQUENCIES))
    added = made(told).tokens - cond.tokens
    angles = SCALE * 0.01 * 10 ** torch.linspace(0, -4, FREQUENCIES)
    assert torch.equal(added[0], torch.zeros(4, 3)), "the default says nothing"
    torch.testing.assert_close(
        added[1], (angles.cos() - 1 + angles.sin()).sum().expand(4, 3), rtol=1e-3, atol=1e-3
    )
