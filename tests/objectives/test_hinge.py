import pytest
import torch

from t2ilab.objectives.hinge import discriminator_hinge, generator_hinge


def test_hinge_values_are_those_found_by_hand():
    real = torch.tensor([[2.0, 0.0], [-1.0, 0.5]])
    fake = torch.tensor([[-3.0, 0.0], [1.0, -0.5]])
    # rows: (relu(1 - real) + relu(1 + fake)) / 2, mean of two logits
    assert discriminator_hinge(real, fake).tolist() == pytest.approx(
        [0.5 * (0 + 0 + 1 + 1) / 2, 0.5 * (2 + 2 + 0.5 + 0.5) / 2]
    )
    assert generator_hinge(fake).tolist() == pytest.approx([1.5, -0.25])


def test_logits_beyond_the_margin_pull_no_more_and_others_pull_apart():
    real = torch.tensor([[1.5, 0.9]], requires_grad=True)
    fake = torch.tensor([[-1.5, -0.9]], requires_grad=True)
    of_real, of_fake = torch.autograd.grad(discriminator_hinge(real, fake).sum(), (real, fake))
    assert of_real.tolist() == [[0.0, -0.25]]  # descent raises it
    assert of_fake.tolist() == [[0.0, 0.25]]
    (of_generator,) = torch.autograd.grad(generator_hinge(fake).sum(), fake)
    assert of_generator.tolist() == [[-0.5, -0.5]]  # the generator raises what the discriminator lowers


def test_a_discriminator_that_knows_nothing_has_loss_one():
    blank = torch.zeros(2, 1, 3, 3)
    assert discriminator_hinge(blank, blank).tolist() == [1.0, 1.0]
