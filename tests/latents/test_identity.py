"""Pixels as latents."""

import pytest
import torch

from t2ilab.latents.identity import Identity


def test_decode_undoes_encode_and_clamps():
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    autoencoder = Identity()
    assert (autoencoder.channels, autoencoder.factor) == (3, 1)
    torch.testing.assert_close(autoencoder.encode(images), 2 * images)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images)
    assert autoencoder.decode(torch.full((1, 3, 2, 2), 9.0)).max() == 1


def test_other_sizes_and_wrong_images_are_refused():
    with pytest.raises(ValueError, match="3 channels"):
        Identity(channels=4)
    with pytest.raises(ValueError, match=r"autoencoder\.scale"):
        Identity(scale=0.0)
    with pytest.raises(ValueError, match=r"\(B, 3, h, w\)"):
        Identity().encode(torch.zeros(1, 1, 8, 8))
