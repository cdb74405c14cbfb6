"""Closed forms of the shared layers."""

import math

import pytest
import torch
import torch.nn.functional as F

from t2ilab.models.layers import (
    PatchIn,
    RMSNorm,
    TimeEmbedding,
    modulate,
    patchify,
    plain_norm,
    sinusoid,
    unpatchify,
)


def test_time_sinusoid_holds_cosines_first_and_spans_the_periods():
    embedding = sinusoid(torch.tensor([0.0, 3.0]), 6)
    frequencies = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = [math.cos(3 * w) for w in frequencies] + [math.sin(3 * w) for w in frequencies]
    assert embedding[0].tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(embedding[1], torch.tensor(expected))


def test_modulation_scales_about_one_and_then_shifts():
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


def test_plain_norm_gives_zero_mean_and_unit_variance_in_float32():
    normed = plain_norm(torch.randn(4, 64).bfloat16() * 7 + 3)
    assert normed.dtype == torch.float32
    torch.testing.assert_close(normed.mean(-1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(-1, unbiased=False), torch.ones(4), atol=1e-4, rtol=0)


def test_rms_norm_starts_with_unit_mean_square_and_keeps_the_type():
    norm = RMSNorm(32)
    x = torch.randn(5, 32) * 9
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(5))
    torch.testing.assert_close(norm(2 * x), norm(x))
    assert norm(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unpatchify_undoes_patchify_on_a_grid_that_is_not_square(patch):
    x = torch.randn(2, 3, 8, 12)
    tokens = patchify(x, patch)
    assert tokens.shape == (2, 96 // patch**2, 3 * patch**2)
    assert torch.equal(unpatchify(tokens, patch, 8, 12), x)
    assert torch.equal(tokens[0, 1].view(3, patch, patch), x[0, :, :patch, patch : 2 * patch])


def test_patchify_refuses_edges_that_the_patch_does_not_divide():
    with pytest.raises(ValueError, match=r"model\.patch_size"):
        patchify(torch.zeros(1, 3, 6, 8), 4)


def test_time_embedding_tells_times_apart():
    embedding = TimeEmbedding(16)
    first, second = embedding(torch.tensor([10.0, 900.0]))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("overlap", [0, 1, 3])
@pytest.mark.parametrize("patch", [1, 2])
def test_tokens_are_a_convolution_over_their_patch_and_what_lies_around_it(patch, overlap):
    layer, x = PatchIn(3, patch, 8, overlap=overlap), torch.randn(2, 3, 4, 6)
    size = patch + 2 * overlap
    weight = layer.weight.view(8, 3, size, size)
    expected = F.conv2d(x, weight, layer.bias, stride=patch, padding=overlap)
    torch.testing.assert_close(layer(x), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_overlaps_below_zero_and_edges_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"model\.overlap must not be negative, got -1"):
        PatchIn(3, 2, 8, overlap=-1)
    with pytest.raises(ValueError, match=r"model\.patch_size"):
        PatchIn(3, 4, 8, overlap=1)(torch.zeros(1, 3, 6, 8))
