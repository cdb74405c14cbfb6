import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from t2ilab.features.base import FeatureEncoder
from t2ilab.features.embedded import EmbeddedCLIP
from t2ilab.objectives.latent_alignment import LatentAlignment, distance_matrix, marginal_cosine

OPTIONS = {
    "encoder": functools.partial(EmbeddedCLIP, path="assets/encoder", dim=96),
    "margin_cos": 0.5,
    "margin_dist": 0.25,
    "weight": 0.1,
    "largest_ratio": 1e8,
}


def places(*angles):
    """A map (1, 2, 1, N) of unit vectors at these angles in degrees."""
    radians = torch.tensor([math.radians(angle) for angle in angles], dtype=torch.float64)
    return torch.stack([radians.cos(), radians.sin()])[None, :, None]


def test_features_themselves_at_any_length_are_the_minimum_of_both_losses():
    wanted = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    for scale in (1.0, 7.0):
        assert marginal_cosine(scale * wanted, wanted, 0.0).abs().max() < 1e-6
        assert distance_matrix(scale * wanted, wanted, 0.0).abs().max() < 1e-6
    assert marginal_cosine(-wanted, wanted, 0.0).tolist() == pytest.approx([2.0, 2.0], rel=1e-6)


@pytest.mark.parametrize(
    ("angle", "margin", "value"),
    [(60, 0.0, 0.5), (60, 0.2, 0.3), (60, 0.5, 0.0), (45, 0.5, 0.0), (90, 0.5, 0.5)],
)
def test_places_nearer_to_their_feature_than_the_margin_cost_nothing(angle, margin, value):
    found = marginal_cosine(places(angle, 0), places(0, 0), margin)
    assert found.item() == pytest.approx(value / 2, abs=1e-6)  # one of the two places


@pytest.mark.parametrize(("margin", "value"), [(0.0, 0.5), (0.2, 0.3), (0.5, 0.0), (0.6, 0.0)])
def test_pairs_that_are_as_alike_as_their_features_up_to_the_margin_cost_nothing(margin, value):
    # cos between the two places: 1/2 of latents, 0 of features; with itself every place has 1
    for latents, features in ((places(0, 60), places(0, 90)), (places(0, 90), places(0, 60))):
        assert distance_matrix(latents, features, margin).item() == pytest.approx(2 * value / 4, abs=1e-6)


def test_a_common_rotation_of_all_places_changes_the_first_loss_only():
    latents, features = places(10, 70, 120), places(0, 60, 110)
    assert distance_matrix(latents, features, 0.0).item() == pytest.approx(0, abs=1e-6)
    assert marginal_cosine(latents, features, 0.0).item() == pytest.approx(
        1 - math.cos(math.radians(10)), rel=1e-5
    )


def aligned(**options):
    torch.manual_seed(0)
    loss = LatentAlignment(**OPTIONS | options)
    loss.load(4)
    return loss


def test_features_of_the_image_tower_come_on_the_grid_of_the_latents():
    loss, images = aligned(), torch.rand(2, 3, 64, 64) * 2 - 1
    towers = loss.encoder.module.towers
    whole = loss.features(images, (8, 8))
    with torch.no_grad():
        tokens = towers.encode_image(images).tokens
    torch.testing.assert_close(whole[:, :, 2, 5], tokens[:, 2 * 8 + 5])
    coarse = loss.features(images, (4, 4))
    torch.testing.assert_close(coarse[0, :, 0, 1], whole[0, :, :2, 2:4].mean((1, 2)))
    assert loss.features(images[:, :, ::2, ::2], (4, 4)).shape == coarse.shape  # other sizes are resized


class Averages(FeatureEncoder):
    """The first three of four numbers are the mean colours of each of 2 x 2 quarters, after a gain."""

    dim = 4

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        means = F.adaptive_avg_pool2d(self.gain * images, 2)
        return torch.cat([means, torch.ones_like(means[:, :1])], 1).flatten(2).mT


def test_any_encoder_of_features_is_aligned_to_at_its_own_width_and_grid():
    loss, images = aligned(encoder=Averages, margin_cos=0.0, margin_dist=0.0), torch.rand(2, 3, 8, 12) * 2 - 1
    assert loss.project.weight.shape == (4, 4, 1, 1)
    quarters = loss.features(images, (2, 2))
    torch.testing.assert_close(quarters[:, :3, 0, 1], 2 * images[:, :, :4, 6:].mean((2, 3)))
    finer = loss.features(images, (4, 6))
    torch.testing.assert_close(finer, quarters.repeat_interleave(2, 2).repeat_interleave(3, 3))
    nn.init.eye_(loss.project.weight.data[:, :, 0, 0])
    assert loss(quarters, images).abs().max() < 1e-5 < loss(quarters.flip(3), images).min()
    assert [name for name, _ in loss.named_parameters()] == ["project.weight"] == list(loss.state_dict())


def test_latents_that_follow_the_gradient_become_aligned():
    loss, images = aligned(), torch.rand(3, 3, 64, 64) * 2 - 1
    latents = torch.randn(3, 4, 8, 8).requires_grad_()
    optimizer = torch.optim.Adam([latents, *loss.project.parameters()], lr=0.05)
    values = []
    for _ in range(30):
        value = loss(latents, images)
        assert value.shape == (3,)
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
        values.append(value.mean().item())
    assert values[-1] < 0.5 * values[0]
    assert [name for name, _ in loss.named_parameters()] == ["project.weight"]  # the tower does not learn


def test_latents_may_be_wider_than_high_and_no_gradient_reaches_the_images():
    loss, images = aligned(), (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    latents = torch.randn(2, 4, 4, 8)
    found, wanted = loss.project(latents), loss.features(images, (4, 8))
    value = loss(latents, images)
    expected = marginal_cosine(found, wanted, 0.5) + distance_matrix(found, wanted, 0.25)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.grad(value.sum(), images, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin_cos": -0.1}, "margin_cos"),
        ({"weight": -1.0}, "weight"),
        ({"largest_ratio": 0.0}, "loss.latent_alignment.largest_ratio"),
    ],
)
def test_impossible_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        LatentAlignment(**OPTIONS | options)
