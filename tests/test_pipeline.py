"""From prompts to images: what an image depends on, and what it does not."""

import pytest
import torch

from t2ilab.core.guidance import CFG, NoGuidance
from t2ilab.export.denoiser import load
from t2ilab.sampling.grid import Grid
from t2ilab.sampling.ode import Euler
from tests.tiny import finished_run

PROMPTS = ["a red circle", "a blue star", "two green hearts", "a pink ring", "a cyan cross"]


@pytest.fixture(scope="module")
def generate():
    generate = load(finished_run()).generate
    return generate.with_(sampler=Euler(Grid(3)))


def test_images_are_bytes_of_the_right_size(generate):
    images = generate(PROMPTS, seed=0)
    assert images.dtype == torch.uint8
    assert images.shape == (5, 3, 32, 32)
    assert generate([], seed=0).shape[0] == 0


def test_the_same_seed_draws_the_same_images_and_another_seed_others(generate):
    assert torch.equal(generate(PROMPTS, seed=4), generate(PROMPTS, seed=4))
    assert not torch.equal(generate(PROMPTS, seed=4), generate(PROMPTS, seed=5))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_the_noise_of_an_image_does_not_depend_on_the_batch(generate, batch_size):
    noise = []
    sampler = generate.sampler

    def noting(denoiser, x1, *args, **kwargs):
        noise.append(x1)
        return sampler(denoiser, x1, *args, **kwargs)

    generate.with_(sampler=noting, batch_size=batch_size)(PROMPTS, seed=0)
    whole = generate.rng(0, range(5)).normal("noise", 3, 32, 32)
    assert torch.equal(torch.cat(noise), whole)


def test_images_do_not_depend_on_the_batch_beyond_rounding(generate):
    small, large = (generate.with_(batch_size=size)(PROMPTS, seed=0).int() for size in (2, 64))
    assert (small - large).abs().max() <= 1


def test_an_image_is_a_function_of_its_row(generate):
    all_of_them = generate.latents(PROMPTS, seed=0, rows=[0, 1, 2, 3, 4])
    some = generate.latents([PROMPTS[3], PROMPTS[1]], seed=0, rows=[3, 1])
    torch.testing.assert_close(some, all_of_them[[3, 1]], rtol=1e-5, atol=1e-5)


def test_a_row_for_every_prompt_is_asked_for(generate):
    with pytest.raises(ValueError, match="5 prompts need as many rows, got 2"):
        generate(PROMPTS, seed=0, rows=[0, 1])


def test_latents_are_rounded_to_the_nearest_byte_not_cut(generate):
    values = torch.tensor([-1.0, 0.0, 1.0, 3.0, 0.5 / 127.5 - 1 + 1e-4]) * generate.autoencoder.scale
    latents = values.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    assert generate.decode(latents)[:, 0, 0, 0].tolist() == [0, 128, 255, 255, 1]


def test_guidance_and_sampler_can_be_exchanged_without_touching_the_original(generate):
    before = generate.guidance.scale
    other = generate.with_(guidance=CFG(7.0))
    assert other.denoiser is generate.denoiser
    assert not torch.equal(other(PROMPTS, seed=0), generate.with_(guidance=NoGuidance())(PROMPTS, seed=0))
    assert generate.guidance.scale == before != 7.0


def test_drawing_leaves_training_mode_and_gradients_alone(generate):
    generate.denoiser.train()
    try:
        latents = generate.latents(PROMPTS, seed=0, rows=range(5))
        assert not latents.requires_grad
        assert generate.denoiser.training
        assert not generate.conditioner.training
    finally:
        generate.denoiser.eval()


def test_networks_draw_in_evaluation_mode(generate):
    seen = []
    hook = generate.denoiser.register_forward_hook(lambda module, *_: seen.append(module.training))
    generate.denoiser.train()
    try:
        generate(PROMPTS[:1], seed=0)
    finally:
        hook.remove()
        generate.denoiser.eval()
    assert seen
    assert not any(seen)


def test_an_unknown_precision_is_refused(generate):
    with pytest.raises(ValueError, match="precision must be bf16 or fp32, got fp16"):
        generate.with_(precision="fp16")


def test_bf16_images_are_near_those_of_fp32(generate):
    full, half = (generate.with_(precision=name)(PROMPTS, seed=0).float() for name in ("fp32", "bf16"))
    assert not torch.equal(full, half)
    assert (full - half).abs().mean() < 3


def test_tokens_are_counted_in_patches(generate):
    assert generate.tokens == (32 // 8) ** 2
