import pytest
import torch

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.objectives.reconstruction import Reconstruction, kl_divergence


class Fixed:
    """A network that gives out a stated posterior and returns its latents, shifted, as images."""

    def __init__(self, mean, log_variance, shift=0.0):
        self.mean, self.log_variance, self.shift = mean, log_variance, shift

    def posterior(self, images):
        return self.mean, self.log_variance

    def reconstruct(self, latents):
        return latents + self.shift


def losses_of(objective, network, images, rng):
    objective.bind(network)
    return objective(Batch(images), rng)


def rng(n=4, step=0):
    return RowRng(0, step, torch.arange(n), n)


def test_kl_divergence_matches_that_of_torch_distributions():
    mean, log_variance = (
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
        torch.randn(4, 3, 2, 2, dtype=torch.float64),
    )
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert torch.allclose(kl_divergence(mean, log_variance), expected.flatten(1).mean(1))


@pytest.mark.parametrize(
    ("mean", "log_variance", "value"), [(0.0, 0.0, 0.0), (2.0, 0.0, 2.0), (0.0, 2.0, 2.194528)]
)
def test_kl_divergence_of_one_gaussian(mean, log_variance, value):
    shape = (1, 1, 1, 1)
    found = kl_divergence(torch.full(shape, mean), torch.full(shape, log_variance))
    assert found.item() == pytest.approx(value, abs=1e-6)


def test_kl_divergence_is_least_at_the_standard_gaussian():
    mean = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    log_variance = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for gradient in torch.autograd.grad(kl_divergence(mean, log_variance).sum(), (mean, log_variance)):
        assert gradient.abs().max() == 0
    assert kl_divergence(mean + 0.1, log_variance) > 0 and kl_divergence(mean, log_variance - 0.1) > 0


def test_absolute_and_squared_errors_are_weighed_per_row():
    images = torch.zeros(4, 3, 8, 8)
    network = Fixed(
        torch.zeros_like(images), torch.full_like(images, -80.0), shift=0.5
    )  # no noise to speak of
    losses = losses_of(Reconstruction(l1=2.0, l2=3.0, kl=0.25), network, images, rng())
    assert losses.terms["reconstruction"].tolist() == pytest.approx([2 * 0.5 + 3 * 0.25] * 4)
    assert losses.terms["kl"].tolist() == pytest.approx([0.25 * 0.5 * (-1 + 80)] * 4)
    assert losses.t is None


def test_the_latent_is_the_mean_plus_the_std_times_the_rows_noise():
    mean, log_variance = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    noise = rng(step=7).normal("posterior", 3, 8, 8)
    images = mean + (0.5 * log_variance).exp() * noise
    loss = Reconstruction(l1=1.0, l2=1.0, kl=0.0)
    assert (
        losses_of(loss, Fixed(mean, log_variance), images, rng(step=7)).terms["reconstruction"].max() < 1e-6
    )
    assert losses_of(loss, Fixed(mean, log_variance), images, rng(step=8)).terms["reconstruction"].min() > 0.1


def test_further_noise_has_a_level_of_its_own_in_every_image_in_units_of_its_latents():
    std = torch.where(torch.arange(512) % 2 == 0, 1.0, 3.0)
    mean = 5.0 + std.view(-1, 1, 1, 1) * torch.randn(512, 3, 8, 8)
    network = Fixed(mean, torch.full_like(mean, -80.0))
    loss = Reconstruction(l1=0.0, l2=1.0, kl=0.0, noise=0.6)
    level = (
        losses_of(loss, network, mean, rng(512)).terms["reconstruction"].sqrt()
    )  # the error is the noise itself
    level = level / mean.flatten(1).std(1)
    assert level.max() < 0.6 * 1.2 and level.min() < 0.05
    for part in (level[0::2], level[1::2]):
        assert part.mean() == pytest.approx(0.3, abs=0.04)
        assert part.std() == pytest.approx(0.6 / 12**0.5, abs=0.03)


def test_further_noise_keeps_its_size_whatever_the_latents_do_so_no_gradient_asks_them_to_grow():
    """dz/dm = 1: the std d(m) is a number to the gradient."""
    mean = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    latent = Reconstruction(l1=1.0, l2=1.0, kl=0.0, noise=0.6).latent(mean, torch.zeros_like(mean), rng())
    assert (latent - mean).abs().max() > 1
    weights = torch.randn_like(mean)
    torch.testing.assert_close(torch.autograd.grad((weights * latent).sum(), mean)[0], weights)


@pytest.mark.parametrize("weights", [(-1, 1, 0), (1, -1, 0), (1, 1, -1), (0, 0, 1)])
def test_impossible_weights_are_refused_by_name(weights):
    with pytest.raises(ValueError, match=r"loss.l1, loss.l2, loss.kl"):
        Reconstruction(l1=weights[0], l2=weights[1], kl=weights[2])
