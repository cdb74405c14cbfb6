"""The reader of things: its formula, what it does not see, and that it binds."""

import torch

from t2ilab.text.reader import Reader, Told

SIZES = {"dim": 12, "pooled_dim": 6, "slots": 2, "choices": (3, 4), "whole_choices": (2, 3)}


def random_case(batch=4, length=5, dim=12):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(length) < torch.tensor([5, 3, 2, 1])[:, None]
    tokens, pooled = (
        torch.randn(batch, length, dim, generator=generator),
        torch.randn(batch, 6, generator=generator),
    )
    return tokens, mask, pooled


@torch.no_grad()
def test_a_slot_is_one_attention_over_the_tokens_and_a_linear_map():
    reader = Reader(**SIZES)
    tokens, mask, pooled = random_case()
    told = reader(tokens, mask, pooled)
    found = told.things
    assert found.shape == (4, 2, 7) and told.whole.shape == (4, 5)
    normal = torch.nn.functional.layer_norm(pooled, (6,), eps=1e-6)
    torch.testing.assert_close(told.whole, reader.whole_head(normal), atol=1e-5, rtol=1e-5)
    for row in range(4):
        seen = torch.nn.functional.layer_norm(tokens[row][mask[row]], (12,), eps=1e-6)
        for slot in range(2):
            weight = (reader.key(seen) @ reader.queries[slot] / 12**0.5).softmax(0)
            expected = reader.head((weight[:, None] * reader.value(seen)).sum(0))
            torch.testing.assert_close(found[row, slot], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_not_read():
    reader = Reader(**SIZES)
    tokens, mask, pooled = random_case()
    spoilt = torch.where(mask[..., None], tokens, 100 * torch.randn_like(tokens))
    assert torch.equal(reader(spoilt, mask, pooled).things, reader(tokens, mask, pooled).things)


def test_things_are_probabilities_and_exist_unless_their_first_answer_is_none():
    reader = Reader(**SIZES)
    logits = Told(
        torch.tensor([[[9.0, 0, 0, 1, 2, 3, 4], [0.0, 9, 0, 4, 3, 2, 1]]]), torch.tensor([[1.0, 2, 5, 4, 3]])
    )
    found, there = reader.probabilities(logits)
    assert there.tolist() == [[False, True]]
    for row in range(2):
        parts = [part.softmax(0) for part in logits.things[0, row].split([3, 4])]
        torch.testing.assert_close(found.things[0, row], torch.cat(parts))
    torch.testing.assert_close(
        found.whole[0], torch.cat([part.softmax(0) for part in logits.whole[0].split([2, 3])])
    )


def test_it_learns_to_read_tokens_that_tell_and_not_a_bag_that_does_not():
    """Two things with two colours each: told per token all can be answered, from their sum the binding cannot."""
    torch.manual_seed(0)
    colors = torch.randint(0, 2, (256, 2))
    tokens = torch.zeros(256, 2, 12)
    tokens[:, 0, 0], tokens[:, 1, 1] = 1.0, 1.0  # which slot a token is
    tokens[:, :, 2:4] = torch.nn.functional.one_hot(colors, 2).float()

    def left_over(seen):
        reader = Reader(dim=12, pooled_dim=6, slots=2, choices=(2,), whole_choices=(1,))
        optimizer = torch.optim.Adam(reader.parameters(), 0.03)
        mask, pooled = torch.ones(seen.shape[:2], dtype=torch.bool), torch.zeros(256, 6)
        for _ in range(150):
            loss = -reader(seen, mask, pooled).things.log_softmax(-1).gather(-1, colors[..., None]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    assert left_over(tokens) < 0.05
    assert left_over(tokens.sum(1, keepdim=True)) > 0.3  # a mixed pair costs ln 2, half are mixed: 0.35
