"""Reading captions back: the loss by hand and what it cannot see."""

import math

import pytest
import torch

from t2ilab.objectives.reading import Answers, Reading
from t2ilab.text.reader import Told

SIZES = {"pooled_dim": 6, "slots": 2, "choices": (3, 4), "whole_choices": (5,)}


def random_case(batch=4):
    generator = torch.Generator().manual_seed(1)

    def numbers(*shape, below):
        return torch.randint(0, below, shape, generator=generator)

    right = torch.stack([numbers(batch, 2, below=3), numbers(batch, 2, below=4)], -1)
    told = Told(torch.randn(batch, 2, 7, generator=generator), torch.randn(batch, 5, generator=generator))
    pooled = torch.randn(batch, 6, generator=generator)
    return told, pooled, Answers(right, right.flip(1), numbers(batch, 1, below=5))


def test_without_a_clue_every_answer_costs_the_log_of_its_choices():
    reading = Reading(**SIZES)
    torch.nn.init.zeros_(reading.pooled_head.weight)
    torch.nn.init.zeros_(reading.pooled_head.bias)
    told, pooled, right = random_case()
    told = Told(0 * told.things, 0 * told.whole)
    per_slot = math.log(3) + math.log(4)
    expected = (4 * per_slot + math.log(5)) / 9  # two slots, of the reader and of the pooled vector
    assert reading(told, pooled, right).tolist() == pytest.approx([expected] * 4)


def test_things_answer_in_the_order_of_the_text_and_the_pooled_vector_in_the_canonical_one():
    reading = Reading(**SIZES)
    told, pooled, right = random_case()
    more = reading.pooled_head(torch.nn.functional.layer_norm(pooled, (6,), eps=1e-6))
    for row, value in enumerate(reading(told, pooled, right)):
        costs = []
        for slot in range(2):
            for part, answer in zip(
                told.things[row, slot].split([3, 4]), right.things[row, slot], strict=True
            ):
                costs.append(-part.log_softmax(0)[answer])
        for part, answer in zip(more[row].split([3, 4, 3, 4]), right.canonical[row].flatten(), strict=True):
            costs.append(-part.log_softmax(0)[answer])
        costs.append(-told.whole[row].log_softmax(0)[right.whole[row, 0]])
        assert value.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-5)
