import pytest
import torch
from torch import nn

from t2ilab.models.patch_gan import PatchGAN


def without_norms(network):
    """Group norms look at the whole image; what is asked here is what the convolutions see."""
    stages = [nn.Identity() if isinstance(m, nn.GroupNorm) else m for m in network.stages]
    network.stages = nn.Sequential(*stages)
    return network.double()


@pytest.mark.parametrize(("layers", "edge"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_the_receptive_field_is_that_of_the_paper(layers, edge):
    network = PatchGAN(width=4, layers=layers, groups=4)
    images = torch.randn(1, 3, 192, 192, dtype=torch.float64, requires_grad=True)
    logits = without_norms(network)(images)
    middle = logits.shape[-1] // 2
    (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], images)
    seen = gradient.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [edge, edge]


def test_layers_and_parameters_are_those_of_pix2pix():
    network = PatchGAN(width=64, layers=3, groups=32)
    shapes = [(m.out_channels, m.stride[0]) for m in network.stages if isinstance(m, nn.Conv2d)]
    assert shapes == [(64, 2), (128, 2), (256, 2), (512, 1), (1, 1)]
    assert sum(p.numel() for p in network.parameters()) == 2_765_633
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 1, 6, 6)


def test_convolutions_begin_with_a_std_of_two_hundredths():
    torch.manual_seed(0)
    network = PatchGAN(width=64, layers=3, groups=32)
    for module in network.stages:
        if isinstance(module, nn.Conv2d):
            few = module.weight.numel() ** -0.5
            assert module.weight.std().item() == pytest.approx(0.02, rel=4 * few)
            assert abs(module.weight.mean().item()) < 4 * 0.02 * few
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.GroupNorm):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.01) and not module.bias.any()


def test_an_image_is_judged_the_same_in_any_company():
    torch.manual_seed(0)
    network = PatchGAN(width=8, layers=2, groups=4).double()
    images = torch.randn(4, 3, 24, 24, dtype=torch.float64)
    together = network(images)
    assert together.std() > 0
    torch.testing.assert_close(network(images[2:3]), together[2:3])


def test_images_too_small_for_a_logit_are_refused_by_name():
    network = PatchGAN(width=4, layers=3, groups=4)
    assert network(torch.zeros(1, 3, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=r"loss.discriminator.network.layers=3 wants .* edges of 24 or more"):
        network(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("sizes", [(0, 3, 1), (8, 0, 4), (8, 3, 5)])
def test_impossible_sizes_are_refused(sizes):
    width, layers, groups = sizes
    with pytest.raises(ValueError, match=r"loss.discriminator.network: width, layers and groups"):
        PatchGAN(width=width, layers=layers, groups=groups)
