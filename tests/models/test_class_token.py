"""The vector that travels with an image: its way through the channels, through the DiT, and what is refused."""

import pytest
import torch

from t2ilab.core.carried import carried, carry
from t2ilab.models.class_token import ClassToken
from t2ilab.models.dit import CONTEXTS
from tests.models import families
from tests.models.families import condition, noisy
from tests.models.test_routing import KEPT, RULES

VECTOR = {"in_channels": 6, "class_dim": 100, "class_channels": 2}  # 4 + 2 channels of 8 x 8


def latents(rows=2):
    x, t = noisy(rows)
    return torch.cat([x, torch.randn(rows, 2, 8, 8, generator=torch.Generator().manual_seed(3))], 1), t


@pytest.mark.parametrize("size", [(8, 8), (4, 16), (10, 5)])
def test_a_vector_comes_out_as_it_went_in_with_zeros_behind_it(size):
    vector = torch.randn(3, 70)
    maps = carry(vector, 2, size)
    assert maps.shape == (3, 2, *size)
    assert torch.equal(carried(maps, 70), vector)
    assert maps.flatten(1)[:, 70:].count_nonzero() == 0


def test_a_vector_without_room_says_what_it_needs():
    with pytest.raises(ValueError, match="needs 3 further channels of 8 x 2, got 2"):
        carry(torch.zeros(1, 33), 2, (8, 2))
    carry(torch.zeros(1, 32), 2, (8, 2))


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_image_and_vector_see_each_other_and_what_lies_behind_the_vector_is_not_read(context, positions):
    network = families.trained("dit joint", **VECTOR, context=context, positions=positions)
    x, t = latents()
    x.requires_grad_()
    out, hidden = network(x, t, condition(), ["block4"])
    assert out.shape == x.shape
    assert hidden["block4"].shape == (2, 16, 32)  # image tokens alone
    assert out[:, 4:].flatten(1)[:, 100:].count_nonzero() == 0
    of_image = torch.autograd.grad(out[:, :4].square().sum(), x, retain_graph=True)[0]
    of_vector = torch.autograd.grad(out[:, 4:].square().sum(), x)[0]
    for gradient in (of_image, of_vector):
        assert (gradient[:, :4].flatten(1) != 0).all()
        assert (gradient[:, 4:].flatten(1)[:, :100] != 0).all()
        assert gradient[:, 4:].flatten(1)[:, 100:].count_nonzero() == 0


@pytest.mark.parametrize("rule", ["tread", "sprint", "masking"])
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_vector_passes_blocks_that_leave_image_tokens_out(context, rule):
    options = VECTOR | {"context": context, "routing": RULES[rule], "skips": False}
    network = families.trained("dit joint", **options).train()
    x, t = latents()
    assert torch.equal(
        network(x, t, condition(), kept=torch.arange(16).expand(2, -1))[0], network(x, t, condition())[0]
    )
    x.requires_grad_()
    out = network(x, t, condition(), kept=KEPT)[0]
    of_vector = torch.autograd.grad(out[:, 4:].square().sum(), x)[0]
    assert (of_vector[:, 4:].flatten(1)[:, :100] != 0).all()  # it was never left out
    assert out.shape == x.shape and out[:, 4:].flatten(1)[:, 100:].count_nonzero() == 0


def test_it_starts_with_no_output_and_costs_two_linear_layers_and_a_norm():
    with_it, without = families.small("dit joint", **VECTOR), families.small("dit joint")
    x, t = latents()
    assert with_it(x, t, condition())[0].count_nonzero() == 0
    counts = [sum(p.numel() for p in network.parameters()) for network in (with_it, without)]
    assert counts[0] - counts[1] == (100 * 32 + 32) + 2 * 32 + (32 * 100 + 100)


def test_without_a_vector_nothing_is_added():
    assert not [name for name, _ in families.small("dit joint").named_parameters() if "class_token" in name]


@pytest.mark.parametrize(
    "options", [{"class_dim": 129}, {"class_channels": 0}, {"class_dim": None}, {"in_channels": 2}]
)
def test_a_vector_that_does_not_fit_its_channels_is_refused(options):
    with pytest.raises(ValueError, match=r"model\.class_channels="):
        families.small("dit joint", **VECTOR | options)


def test_the_token_is_normalised_and_takes_the_first_numbers_only():
    layer = ClassToken(3, 1, 8)
    maps = torch.randn(2, 1, 2, 2)
    image, (token,) = layer.enter(torch.cat([torch.ones(2, 4, 2, 2), maps], 1))
    assert torch.equal(image, torch.ones(2, 4, 2, 2))
    torch.testing.assert_close(token.mean(-1), torch.zeros(2, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(token[:, 0], layer.norm(layer.into(maps.flatten(1)[:, :3])))
