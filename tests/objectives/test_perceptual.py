import warnings

import pytest
import torch

from t2ilab.objectives.perceptual import LPIPS, ClipDistance, PerceptualDistance


class Given(PerceptualDistance):
    """A network whose features are the images themselves, twice, with weights that are told."""

    def __init__(self, *weights):
        super().__init__()
        self.told = weights

    def load(self):
        pass

    def features(self, images):
        return [images for _ in self.told]

    def weights(self):
        return self.told


def pixel(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


def test_distances_of_unit_vectors_match_values_found_by_hand():
    # (3, 4) and (5, 0) are (0.6, 0.8) and (1, 0) as unit vectors: squared differences 0.16 and 0.64
    x, y = pixel(3.0, 4.0), pixel(5.0, 0.0)
    assert Given(1.0)(x, y).item() == pytest.approx(0.8)
    assert Given(torch.tensor([2.0, 0.5]))(x, y).item() == pytest.approx(2 * 0.16 + 0.5 * 0.64)
    assert Given(1.0, 0.5)(x, y).item() == pytest.approx(0.8 + 0.4)
    assert Given(1.0)(torch.cat([x, y], 3), torch.cat([y, y], 3)).item() == pytest.approx(
        0.4
    )  # mean of places


def test_places_without_any_feature_have_a_finite_gradient():
    x = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(Given(1.0)(x, torch.ones(1, 3, 2, 2)).sum(), x)
    assert gradient.isfinite().all()


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """An AlexNet with random weights, as torchvision would save it, without the classifier."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    weights = alexnet(weights=None).state_dict()
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({name: value for name, value in weights.items() if name.startswith("features")}, path)
    return path


@pytest.fixture(scope="module")
def lpips_distance(backbone):
    loss = LPIPS(path=str(backbone), net="alex")
    loss.load()
    return loss


@pytest.fixture(scope="module")
def clip_distance():
    loss = ClipDistance(path="assets/encoder")
    loss.load()
    return loss


@pytest.fixture(params=["lpips", "clip"])
def distance(request):
    return request.getfixturevalue(f"{request.param}_distance")


def some_images(n=2, size=64):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_an_image_has_no_distance_from_itself_and_more_the_more_it_changes(distance):
    images = some_images()
    noise = torch.randn_like(images)
    found = [distance(images + strength * noise, images) for strength in (0.0, 0.1, 0.4)]
    assert found[0].tolist() == [0.0, 0.0]
    assert (found[0] < found[1]).all() and (found[1] < found[2]).all()
    torch.testing.assert_close(distance(images, images + 0.4 * noise), found[2])  # it is symmetric


def test_training_mode_leaves_a_distance_as_it_is(distance):
    """The layers of LPIPS have a dropout."""
    images, others = some_images(3), some_images(3).roll(1, 0)
    before = distance(images, others)
    assert torch.equal(distance.train()(images, others), before)
    assert not any(module.training for module in distance.children())


def test_the_gradient_reaches_the_image_and_not_the_target_nor_the_network(distance):
    x, y = some_images().requires_grad_(), (some_images() * 0.5).requires_grad_()
    distance(x, y).sum().backward()
    assert x.grad.abs().sum() > 0 and y.grad is None
    assert list(distance.parameters()) == [] and distance.state_dict() == {}
    moved = (x - 0.5 * x.grad / x.grad.norm()).detach()
    assert distance(moved, y).sum() < distance(x, y).sum()


def test_lpips_is_what_the_lpips_package_computes(lpips_distance, backbone):
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    kept = torch.load(backbone, weights_only=True)
    for name, value in network.net.state_dict().items():
        value.copy_(kept["features." + name.partition(".")[2]])
    x, y = some_images(3), some_images(3).roll(1, 0)
    with torch.no_grad():
        expected = network(x, y).flatten()
    assert expected.min() > 0
    torch.testing.assert_close(lpips_distance(x, y), expected, rtol=1e-4, atol=1e-7)


def test_the_distance_on_a_tower_is_at_most_four_and_takes_images_of_any_size(clip_distance):
    large = clip_distance(some_images(size=96), -some_images(size=96))
    assert large.shape == (2,) and large.min() > 0 and large.max() <= 4


def test_the_distance_on_a_tower_is_the_mean_over_its_layers_and_patches_without_the_class_token(
    clip_distance,
):
    towers, x, y = clip_distance.towers.module, some_images(3), some_images(3).roll(1, 0)
    expected = []
    for one, other in zip(towers.image_layers(x), towers.image_layers(y), strict=True):
        unit, wanted = (tokens[:, 1:] / tokens[:, 1:].norm(dim=2, keepdim=True) for tokens in (one, other))
        expected.append((unit - wanted).square().sum(2).mean(1))
    assert len(expected) > 1
    torch.testing.assert_close(clip_distance(x, y), torch.stack(expected).mean(0))


def test_weights_of_another_network_are_refused_by_name(tmp_path, backbone):
    with pytest.raises(ValueError, match=r"loss.perceptual.path=<file> is needed: nothing is downloaded"):
        LPIPS(path=None, net="vgg")
    with pytest.raises(ValueError, match=r"loss.perceptual.path: there is no file"):
        LPIPS(path=str(tmp_path / "none.pth"), net="vgg")
    with pytest.raises(ValueError, match=r"loss.perceptual.net must be vgg or alex, got squeeze"):
        LPIPS(path=str(backbone), net="squeeze")
    with pytest.raises(ValueError, match=r"does not hold the weights of loss.perceptual.net=vgg"):
        LPIPS(path=str(backbone), net="vgg").load()
    with pytest.raises(ValueError, match=r"loss.perceptual.path: there is no folder"):
        ClipDistance(path=str(tmp_path / "none"))
