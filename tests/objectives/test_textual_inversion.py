"""Textual inversion on a network that draws its condition: the word becomes what the images are."""

import pytest
import torch

from t2ilab.build import build
from t2ilab.core.denoiser import Denoiser
from t2ilab.core.path import Linear
from t2ilab.core.prediction import Velocity
from t2ilab.core.rng import RowRng
from t2ilab.core.timestep import Uniform
from t2ilab.core.types import Batch
from t2ilab.objectives.textual_inversion import TextualInversion
from t2ilab.text.learned import with_words

TABLE = {"_target_": "t2ilab.text.random.RandomText", "dim": 3, "pooled_dim": 3, "length": 6}


class Drawn(torch.nn.Module):
    """Gives the pooled vector as the colour of the whole image."""

    def forward(self, x, t, cond, taps=()):
        return cond.pooled[:, :, None, None].expand_as(x), {}


def test_the_word_comes_to_mean_the_images():
    """With v the output, E |eps - x0 - v|^2 is least at v = -x0 for images of one colour."""
    conditioner = build(with_words(TABLE, words={"zwx": 1}, starts={"zwx": "red"})).requires_grad_(False)
    (rows,) = conditioner.rows.values()
    objective = TextualInversion(Uniform(), vectors=1)
    objective.bind(Denoiser(Drawn(), Linear(), Velocity()))
    color = torch.tensor([0.5, -1.0, 2.0])
    x0 = color[None, :, None, None].expand(16, 3, 8, 8)
    optimizer = torch.optim.Adam([rows.requires_grad_()], lr=0.1)
    for step in range(80):
        batch = Batch(x0, conditioner(["a zwx"] * 16))
        loss = objective(batch, RowRng(0, step, torch.arange(16), 16)).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(conditioner(["a zwx"]).pooled[0], -color, atol=0.1, rtol=0)
    assert loss < 1.2  # that of the noise, of variance 1
    assert not torch.allclose(conditioner(["a red"]).pooled[0], -color, atol=0.5)


def test_a_word_without_vectors_is_refused():
    with pytest.raises(ValueError, match=r"loss\.vectors must be at least 1, got 0"):
        TextualInversion(Uniform(), vectors=0)
