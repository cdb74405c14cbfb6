import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.contrastive import Contrastive


def loss(images, texts, scale=1.0, same=None, largest=100.0):
    same = torch.eye(len(images), dtype=torch.bool) if same is None else same
    return Contrastive(largest=largest).compared(images, texts, torch.tensor(scale), same)


def test_two_orthogonal_pairs_have_the_closed_form():
    pairs = torch.eye(2)
    expected = math.log(1 + math.exp(-3.0))  # -ln of e^3 / (e^3 + e^0), in both directions
    assert loss(pairs, pairs, scale=3.0).tolist() == pytest.approx([expected] * 2)
    crossed = math.log(1 + math.exp(3.0))
    assert loss(pairs, pairs.flip(0), scale=3.0).tolist() == pytest.approx([crossed] * 2)


def test_a_batch_matches_two_cross_entropies_of_torch():
    images, texts = torch.randn(6, 5), torch.randn(6, 5)
    f, g = torch.nn.functional.normalize(images, dim=1), torch.nn.functional.normalize(texts, dim=1)
    logits, right = 7.0 * f @ g.T, torch.arange(6)
    forth = torch.nn.functional.cross_entropy(logits, right, reduction="none")
    back = torch.nn.functional.cross_entropy(logits.T, right, reduction="none")
    assert torch.allclose(loss(images, texts, scale=7.0), (forth + back) / 2, atol=1e-6)


def test_lengths_of_the_vectors_do_not_matter_and_the_scale_is_bounded():
    images, texts = torch.randn(4, 5), torch.randn(4, 5)
    stretched = loss(images * torch.rand(4, 1).add(0.1), 9 * texts, scale=2.0)
    assert torch.allclose(stretched, loss(images, texts, scale=2.0), atol=1e-6)
    assert torch.equal(loss(images, texts, scale=50.0, largest=10.0), loss(images, texts, scale=10.0))
    assert not torch.allclose(loss(images, texts, scale=9.0, largest=10.0), loss(images, texts, scale=10.0))


def test_equal_texts_are_all_right_answers():
    """Rows 0 and 1 share a text: the least loss is ln 2 for them, reached when both images suit it equally."""
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    found = loss(texts, texts, scale=60.0, same=same)
    assert found.tolist() == pytest.approx([math.log(2), math.log(2), 0.0], abs=1e-5)
    images = texts.clone().requires_grad_()
    loss(images, texts, scale=60.0, same=same).sum().backward()
    assert images.grad.abs().max() < 1e-5  # nothing pushes equal texts apart
    images.grad = None
    loss(images, texts, scale=5.0).sum().backward()
    assert images.grad.abs().max() > 1e-3  # the one-hot target would


def test_images_and_texts_play_the_same_part():
    images, texts = torch.randn(5, 4), torch.randn(5, 4)
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    assert torch.allclose(loss(images, texts, 3.0, same), loss(texts, images, 3.0, same.T), atol=1e-6)


def test_right_pairs_cost_less_than_wrong_ones_and_descent_joins_them():
    images, texts = torch.randn(6, 8, requires_grad=True), torch.randn(6, 8)
    before = loss(images, texts, 10.0).mean()
    (gradient,) = torch.autograd.grad(before, images)
    assert loss(images - 0.1 * gradient, texts, 10.0).mean() < before
    assert loss(texts, texts, 10.0).mean() < loss(texts, texts.roll(1, 0), 10.0).mean()


def test_a_largest_scale_that_is_not_positive_is_refused_by_name():
    with pytest.raises(ValueError, match=r"loss.largest"):
        Contrastive(largest=0.0)


class Towers(nn.Module):
    """Stands in for a CLIP: an image is its first four pixels, a text the sum of its tokens' vectors, pads apart."""

    def __init__(self):
        super().__init__()
        self.tokenizer = SimpleNamespace(pad_id=0)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(3.0)))
        self.words = nn.Embedding(9, 4)

    def encode_image(self, images):
        return SimpleNamespace(pooled=images.flatten(1)[:, :4])

    def encode_text(self, ids, mask):
        return SimpleNamespace(pooled=(self.words(ids) * mask[..., None]).sum(1), told=ids)


class Questions(nn.Module):
    """Charges a caption what its right answers say, so that one sees which captions they came with."""

    def forward(self, told, pooled, right):
        assert told.shape == (6, 3) and pooled.shape == (6, 4)
        return (right.things + 10 * right.canonical + 100 * right.whole).flatten(1).sum(1).float()


def case():
    """Two rows of three images; the texts of (0, 0) and (1, 2) are equal, others only begin or end alike."""
    ids = torch.tensor([[[1, 2, 0], [1, 3, 0], [4, 2, 0]], [[5, 6, 7], [2, 1, 0], [1, 2, 0]]])
    answers = {name: torch.randint(0, 5, (2, 3, 2)) for name in ("things", "canonical", "whole")}
    return Batch(torch.randn(2, 3, 3, 2, 2), None, extras={"ids": ids, **answers})


def found(batch, **options):
    learner = Contrastive(largest=100.0, **options)
    student = nn.ModuleDict({"towers": Towers(), "questions": Questions()})
    learner.bind(student)
    return student["towers"], learner(batch, RowRng(0, 0, torch.arange(2), 2)).terms


def test_all_pairs_of_a_batch_are_compared_and_a_row_is_the_mean_of_its_images():
    torch.manual_seed(0)
    batch = case()
    towers, terms = found(batch)
    assert set(terms) == {"contrastive"}
    ids = batch.extras["ids"].reshape(6, 3)
    same = torch.eye(6, dtype=torch.bool)
    same[0, 5] = same[5, 0] = True
    texts = torch.stack([sum(towers.words.weight[one] for one in text if one != 0) for text in ids])
    pairs = Contrastive(largest=100.0).compared(
        batch.x0.reshape(6, 12)[:, :4], texts, torch.tensor(3.0), same
    )
    assert torch.allclose(terms["contrastive"], pairs.reshape(2, 3).mean(1), atol=1e-6)


def test_questions_are_asked_of_each_caption_with_its_own_answers_and_weighed():
    torch.manual_seed(0)
    batch = case()
    _, terms = found(batch, reading=0.25)
    parts = zip((1, 10, 100), ("things", "canonical", "whole"), strict=True)
    charged = sum(factor * batch.extras[name].float().sum(-1) for factor, name in parts)
    assert torch.allclose(terms["reading"], 0.25 * charged.mean(1))
