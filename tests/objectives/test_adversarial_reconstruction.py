import functools
import math

import pytest
import torch
from torch import nn

from t2ilab.core.rng import RowRng
from t2ilab.core.types import Batch
from t2ilab.features.embedded import EmbeddedCLIP
from t2ilab.latents.kl import KL
from t2ilab.objectives.adversarial_reconstruction import AdversarialReconstruction
from t2ilab.objectives.latent_alignment import LatentAlignment
from t2ilab.objectives.perceptual import PerceptualDistance
from t2ilab.objectives.reconstruction import Reconstruction
from tests.objectives.test_reconstruction import losses_of
from tests.objectives.test_turns import player

PLAIN = {"l1": 1.0, "l2": 2.0, "kl": 0.25, "noise": 0.5}


class Fixed(nn.Module):
    """Latents are the images plus a learned shift, reconstructions the latents times a learned gain."""

    channels = 3

    def __init__(self, shift=0.0, gain=1.0):
        super().__init__()
        self.shift = nn.Parameter(torch.full((1, 3, 1, 1), shift))
        self.gain = nn.Parameter(torch.full((1, 3, 1, 1), gain))

    def posterior(self, images):
        mean = images + self.shift
        return mean, torch.full_like(mean, -80.0)  # no noise to speak of

    def reconstruct(self, latents):
        return latents * self.gain

    def last_layer(self):
        return self.gain

    def last_encoder_layer(self):
        return self.shift


class Judge(nn.Module):
    """A logit per place: a learned factor times the first channel."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images):
        return self.factor * images[:, :1]


class Brightness(PerceptualDistance):
    def load(self):
        self.loaded = True

    def features(self, images):
        raise NotImplementedError

    weights = features

    def forward(self, images, target):
        return (images - target).mean((1, 2, 3)).abs()


def objective(network=None, *, bound=True, **options):
    usual = {
        "perceptual": None,
        "perceptual_weight": 1.0,
        "learned_variance": False,
        "discriminator": player(Judge()),
        "adversarial_weight": 0.5,
        "adaptive": True,
        "largest_ratio": 1e4,
        "start_step": 3,
    }
    loss = AdversarialReconstruction(**PLAIN | {"noise": 0.0} | usual | options)
    if bound:
        loss.bind(network or Fixed())
    return loss


def aligned_to_the_built_in_clip():
    encoder = functools.partial(EmbeddedCLIP, path="assets/encoder", dim=96)
    return LatentAlignment(encoder=encoder, margin_cos=0.5, margin_dist=0.25, weight=0.1, largest_ratio=1e8)


def rng(step, n=4):
    return RowRng(0, step, torch.arange(n), n)


def some_images(n=4):
    return torch.rand(n, 3, 8, 8) * 2 - 1


def test_without_further_terms_the_loss_is_that_of_reconstruction_bit_for_bit():
    network = KL(channels=4, factor=4, widths=[8, 8, 8], groups=4, attention=False)
    images = some_images()
    plain = losses_of(Reconstruction(**PLAIN), network, images, rng(2)).terms
    more = objective(network, **PLAIN, discriminator=None)
    found = more(Batch(images), rng(2)).terms
    assert found.keys() == plain.keys() == {"reconstruction", "kl"}
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_before_its_first_step_the_discriminator_neither_learns_nor_is_felt():
    network = Fixed(shift=0.5)
    loss = objective(network)
    for step in (0, 2):
        assert loss.turns(step) == ("student",)
        terms = loss(Batch(some_images()), rng(step)).terms
        assert "adversarial" not in terms
        total = sum(value.sum() for value in terms.values())
        assert torch.autograd.grad(total, list(loss.parameters()), allow_unused=True) == (None,)
    for step in (3, 4):
        assert loss.turns(step) == ("student", "discriminator")
        assert "adversarial" in loss(Batch(some_images()), rng(step)).terms


def test_the_students_adversarial_term_is_minus_the_logits_of_its_reconstruction():
    network, images = Fixed(shift=0.5), some_images()
    found = objective(network)(Batch(images), rng(3)).terms["adversarial"]
    assert torch.allclose(found, -2 * (images + 0.5)[:, 0].mean((1, 2)), atol=1e-6)
    fixed = objective(network, adaptive=False)
    assert torch.allclose(fixed(Batch(images), rng(3)).terms["adversarial"], 0.5 * found, atol=1e-6)
    assert fixed.balances("student") == {}


def test_the_discriminator_compares_images_with_what_the_student_left_and_reaches_no_student():
    network, images = Fixed(shift=0.5), some_images()
    loss = objective(network)
    kept = loss(Batch(images), rng(3)).kept
    assert torch.allclose(kept["rebuilt"], images + 0.5, atol=1e-6) and not kept["rebuilt"].requires_grad
    found = loss(Batch(images), rng(3), "discriminator", kept)
    real, fake = 2 * images[:, 0], 2 * (images + 0.5)[:, 0]
    hinge = 0.5 * ((1 - real).relu() + (1 + fake).relu()).mean((1, 2))
    assert torch.allclose(found.terms["hinge"], hinge, atol=1e-6)
    assert torch.allclose(found.notes["logits_real"], real.mean((1, 2)))
    assert torch.allclose(found.notes["logits_fake"], fake.mean((1, 2)), atol=1e-6)
    assert not any(value.requires_grad for value in found.notes.values())
    reached = torch.autograd.grad(
        found.terms["hinge"].sum(), [*network.parameters(), *loss.parameters()], allow_unused=True
    )
    assert [gradient is None for gradient in reached] == [True, True, False]


def test_a_learned_variance_divides_all_errors_and_is_best_at_their_mean():
    """L(s) = e exp(-s) + s is least at s = ln e, where it is 1 + ln e."""
    network, images = Fixed(shift=0.5), some_images()
    plain = objective(network, perceptual=Brightness(), perceptual_weight=3.0)(Batch(images), rng(0)).terms
    loss = objective(network, perceptual=Brightness(), perceptual_weight=3.0, learned_variance=True)
    error = (plain["reconstruction"] + plain["perceptual"]).mean()
    assert error.item() == pytest.approx(0.5 + 2 * 0.25 + 3 * 0.5, rel=1e-5)
    for s, value in ((0.0, error.item()), (math.log(2.0), error.item() / 2 + math.log(2.0))):
        loss.log_variance.data.fill_(s)
        found = loss(Batch(images), rng(0))
        total = (found.terms["reconstruction"] + found.terms["perceptual"]).mean()
        assert total.item() == pytest.approx(value, rel=1e-5)
        assert found.notes["log_variance"].tolist() == pytest.approx([s])
        assert not found.notes["log_variance"].requires_grad
        assert torch.equal(found.terms["kl"], plain["kl"])
    loss.log_variance.data.fill_(error.log().item())
    found = loss(Batch(images), rng(0)).terms
    best = (found["reconstruction"] + found["perceptual"]).mean()
    assert best.item() == pytest.approx(1 + error.log().item(), rel=1e-5)
    assert torch.autograd.grad(best, loss.log_variance)[0].abs() < 1e-5
    assert [name for name, _ in loss.beside_student()] == ["log_variance"]


def test_gradients_are_compared_at_the_last_layers_of_decoder_and_encoder():
    network = KL(channels=4, factor=4, widths=[8, 8, 8], groups=4, attention=False)
    alignment = aligned_to_the_built_in_clip()
    loss = objective(network, latent_alignment=alignment)
    balances = loss.balances("student")
    assert balances["adversarial"].layer is network.network.decoder.conv_out.weight
    assert balances["alignment"].layer is network.network.encoder.conv_out.weight
    assert (balances["adversarial"].weight, balances["adversarial"].largest) == (0.5, 1e4)
    assert (balances["alignment"].weight, balances["alignment"].largest) == (0.1, 1e8)
    assert loss.balances("discriminator") == {}
    terms = loss(Batch(torch.rand(4, 3, 32, 32)), rng(0)).terms
    assert terms["alignment"].shape == (4,) and terms["alignment"].min() > 0
    assert [name for name, _ in loss.beside_student()] == ["latent_alignment.project.weight"]


def test_an_encoder_at_rest_cannot_be_aligned():
    network = KL(channels=4, factor=4, widths=[8, 8, 8], groups=4, attention=False)
    network.freeze_encoder()
    alignment = aligned_to_the_built_in_clip()
    with pytest.raises(ValueError, match=r"stage.freeze_encoder=false"):
        objective(network, latent_alignment=alignment)


def test_a_student_without_a_discriminator_plays_alone():
    loss = objective(discriminator=None, start_step=0)
    assert loss.players == {} and loss.turns(9) == ("student",) and loss.balances("student") == {}


@pytest.mark.parametrize(
    "wrong",
    [{"perceptual_weight": -1.0}, {"adversarial_weight": -1.0}, {"start_step": -1}, {"largest_ratio": 0.0}],
)
def test_impossible_options_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"loss.{next(iter(wrong))}"):
        objective(bound=False, **wrong)
