"""The attention kernels agree with each other and with the formula."""

import pytest
import torch

from t2ilab.core import attention
from t2ilab.core.attention import all_keys, attend, fused, merge_heads, plain, split_heads


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 3, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, 3, 7, 8, generator=generator).unbind(0)
    mask = torch.tensor([[True] * 7, [True, False, True, True, False, False, True]])
    return [tensor.to(dtype).requires_grad_() for tensor in (q, k, v)], mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_both_kernels_give_the_same_values_and_gradients(masked, dtype, tolerance):
    (q, k, v), mask = inputs(dtype)
    mask = mask if masked else None
    weight = torch.linspace(-1, 1, q.numel()).reshape(q.shape).to(dtype)
    results = []
    for kernel in (plain, fused):
        out = kernel(q, k, v, mask)
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("device", "kernel"), [("cpu", "plain"), ("meta", "fused")])
def test_the_device_decides_on_the_kernel(monkeypatch, device, kernel):
    for name in ("plain", "fused"):
        monkeypatch.setattr(attention, name, lambda *_, name=name: name)
    q = torch.zeros(1, 2, 3, 4, device=device)
    assert attend(q, q, q) == kernel


def test_one_query_over_two_keys_matches_the_formula():
    q, k = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.tensor([[1.0, 0.0], [0.0, 5.0]]).view(1, 1, 2, 2)
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    share = torch.sigmoid(torch.tensor(2 / 2**0.5))
    torch.testing.assert_close(attend(q, k, v).flatten(), torch.stack([share, 1 - share]))


def test_keys_outside_the_mask_have_no_influence_at_all():
    (q, k, v), mask = inputs()
    hidden = ~mask[:, None, :, None]
    changed = attend(q, k + 100 * hidden, v - 50 * hidden, mask)
    assert torch.equal(attend(q, k, v, mask), changed)
    assert not torch.allclose(attend(q, k, v), attend(q, k, v, mask))


def test_shared_keys_and_values_serve_the_next_heads_of_queries():
    (q, k, v), mask = inputs()
    q = torch.cat([q, q.flip(2)], 1)  # 6 heads of queries on 3 of keys
    repeated = attend(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask)
    torch.testing.assert_close(attend(q, k, v, mask), repeated)
    torch.testing.assert_close(
        attend(q[:, :, :1], k, v, mask), repeated[:, :, :1]
    )  # fewer queries than heads


def test_splitting_into_heads_and_merging_is_the_identity():
    x = torch.randn(2, 5, 12)
    assert split_heads(x, 3).shape == (2, 3, 5, 4)
    assert torch.equal(merge_heads(split_heads(x, 3)), x)
    assert torch.equal(split_heads(x, 3)[:, 1], x[..., 4:8])


def test_keys_that_always_count_stand_in_front_of_the_mask():
    assert all_keys(torch.tensor([[True, False]]), 2).tolist() == [[True, True, True, False]]
