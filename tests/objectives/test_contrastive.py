import math

import pytest
import torch

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
