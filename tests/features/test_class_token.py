"""Latents that carry the encoder's vector of the image."""

import functools

import pytest
import torch

from t2ilab.core.carried import carried
from t2ilab.features.class_token import WithClassToken
from t2ilab.features.embedded import EmbeddedCLIP
from t2ilab.latents.identity import Identity
from t2ilab.latents.pca import PCA

ENCODER = functools.partial(EmbeddedCLIP, path="assets/encoder", dim=96)


def some_images(rows=3, size=8):
    return torch.rand(rows, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def with_vector(make=ENCODER, channels=5):
    return WithClassToken(vae=Identity(), encoder=make, channels=channels, factor=1)


@torch.no_grad()
def test_latents_are_those_of_the_inner_autoencoder_with_the_class_token_behind_them():
    autoencoder, images = with_vector(), some_images()
    latents = autoencoder.encode(images)
    assert latents.shape == (3, 5, 8, 8)
    assert torch.equal(latents[:, :3], Identity().encode(images))
    vector = carried(latents[:, 3:], 96)
    token = ENCODER().summary(images)
    torch.testing.assert_close(vector, torch.nn.functional.layer_norm(token, (96,)))
    torch.testing.assert_close(vector.square().mean(1), torch.ones(3), rtol=1e-3, atol=0)


def test_decoding_leaves_the_vector_away_and_needs_no_encoder():
    def never():
        raise AssertionError("the encoder was made")

    autoencoder = with_vector(never)
    latents = torch.cat([Identity().encode(some_images()), torch.randn(3, 2, 8, 8)], 1)
    torch.testing.assert_close(autoencoder.decode(latents), some_images())
    assert not list(autoencoder.parameters())


def test_the_encoder_is_made_once_and_is_no_part_of_the_weights():
    made = []

    def count():
        made.append(ENCODER())
        return made[-1]

    autoencoder = with_vector(count)
    autoencoder.encode(some_images())
    autoencoder.encode(some_images())
    assert len(made) == 1 and not autoencoder.state_dict()
    assert not any(parameter.requires_grad for parameter in made[0].parameters())


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match=r"autoencoder\.channels more than its 3; got 1 and 3"):
        with_vector(channels=3)
    with pytest.raises(ValueError, match="needs 2 further channels of 8 x 8, got 1"):
        with_vector(channels=4).encode(some_images())


def test_components_that_are_not_fitted_yet_are_refused():
    with pytest.raises(ValueError, match=r"autoencoder\.vae: principal components are fitted"):
        WithClassToken(vae=PCA(channels=3, factor=1), encoder=ENCODER, channels=5, factor=1)
