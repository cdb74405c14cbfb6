"""Rewards: what they score, where gradients pass, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from t2ilab.build import build
from t2ilab.config.composition import compose
from t2ilab.data.scenes import SceneSource
from t2ilab.rewards.aesthetic import Aesthetic, linear_maps
from t2ilab.rewards.base import Reward
from t2ilab.rewards.clip_score import CLIPScore
from t2ilab.rewards.combined import Combined, group_numbers, standardised
from t2ilab.rewards.judge import Judge
from t2ilab.rewards.towers import open_towers, resized

SCENES = SceneSource("general", "val", size=8, resolution=64)
IMAGES = SCENES.images(range(8)).float() / 255
PROMPTS = [SCENES.captions(index)[0] for index in range(8)]


class Brightness(Reward):
    """a mean brightness: linear, so that its gradient is known."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def score(self, images, prompts):
        return self.factor * images.flatten(1).mean(1)


def node(*options):
    return compose(["stage=pretrain", *options])["reward"]


def test_the_judge_gives_true_images_the_most_and_wrong_ones_less():
    judge = Judge(passed=1.0, share=1.0, quality=0.0)
    right, wrong = judge(IMAGES, PROMPTS), judge(IMAGES, [PROMPTS[-1], *PROMPTS[:-1]])
    assert judge.range == (0.0, 2.0)
    assert right.tolist() == [2.0] * 8
    assert wrong.mean() < 1.5 and (wrong <= 2).all() and (wrong >= 0).all()


def test_the_judge_with_twos_is_the_utility_behind_the_preferences():
    from t2ilab.data.scenes import Preferences

    pairs = Preferences("val", size=6)
    images = pairs.images(range(6)).float() / 255
    judge = Judge(passed=2.0, share=2.0, quality=2.0)
    for side in (0, 1):
        scores = judge(images[:, side], pairs.prompts(range(6)))
        assert scores.tolist() == pytest.approx([pairs[i].utilities[side] for i in range(6)], abs=0.1)


def test_a_gradient_of_the_judge_is_refused_where_it_is_asked_for():
    with pytest.raises(ValueError, match="Judge is not differentiable"):
        Judge(passed=1.0, share=0.0, quality=0.0)(IMAGES.clone().requires_grad_(), PROMPTS)


def test_the_clip_score_prefers_the_right_text_and_has_a_gradient():
    reward = build(node("reward=clip_score"))
    images = IMAGES.clone().requires_grad_()
    right, wrong = reward(images, PROMPTS), reward(IMAGES, [PROMPTS[-1], *PROMPTS[:-1]])
    assert (right.detach() > wrong).float().mean() >= 0.75
    right.sum().backward()
    assert images.grad.abs().flatten(1).sum(1).min() > 0
    assert not any(p.requires_grad for p in reward.parameters())
    assert not reward.train().training
    assert right.abs().max() <= reward.range[1] == 100


def test_the_clip_score_is_that_of_the_evaluation():
    from t2ilab.features.scorer import EmbeddedScorer

    scorer = EmbeddedScorer(path="assets/encoder", device=torch.device("cpu"))
    images, texts = scorer.images(SCENES.images(range(8))), scorer.texts(PROMPTS)
    expected = 100 * F.cosine_similarity(images, texts)
    assert torch.allclose(CLIPScore(path="assets/encoder", scale=100.0)(IMAGES, PROMPTS), expected, atol=1e-3)


def test_images_that_are_no_floats_or_lack_a_prompt_are_refused():
    with pytest.raises(ValueError, match="float images"):
        Brightness()(SCENES.images([0]), PROMPTS[:1])
    with pytest.raises(ValueError, match="a prompt for each of 8 images, got 1"):
        Brightness()(IMAGES, PROMPTS[:1])


def test_a_folder_without_a_clip_is_refused_with_what_to_name(tmp_path):
    with pytest.raises(ValueError, match=r"reward\.name=<architecture>"):
        open_towers(str(tmp_path))
    with pytest.raises(ValueError, match=r"reward\.path=<folder> is needed"):
        open_towers(None)


def test_resizing_keeps_the_middle_and_the_gradient():
    image = torch.rand(1, 3, 20, 40, requires_grad=True)
    assert resized(image, 20).equal(image[..., 10:30])
    resized(image, 8).sum().backward()
    assert image.grad[..., 10:30].abs().min() > 0 and image.grad[..., :5].abs().max() == 0


def test_an_aesthetic_head_is_the_product_of_its_maps(tmp_path):
    first, second = torch.nn.Linear(96, 5), torch.nn.Linear(5, 1)
    state = {
        "layers.0.weight": first.weight.data,
        "layers.0.bias": first.bias.data,
        "layers.2.weight": second.weight.data,
        "layers.2.bias": second.bias.data,
    }
    torch.save(state, tmp_path / "head.pth")
    reward = Aesthetic(path=str(tmp_path), clip=lambda: open_towers("assets/encoder"))
    vectors = F.normalize(reward.towers.images(IMAGES), dim=1)
    assert torch.allclose(reward(IMAGES, PROMPTS), second(first(vectors))[:, 0], atol=1e-6)
    assert reward(IMAGES, PROMPTS).equal(reward(IMAGES, PROMPTS[::-1])), "whatever the prompt"
    torch.save({"weight": torch.zeros(1, 7), "bias": torch.zeros(1)}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match="vectors of 7 numbers"):
        Aesthetic(path=str(tmp_path), clip=lambda: open_towers("assets/encoder"))
    with pytest.raises(ValueError, match="wanted linear maps"):
        linear_maps({"conv.weight": torch.zeros(1, 2, 3, 3), "conv.bias": torch.zeros(1)})


def test_a_file_that_holds_no_weights_is_refused_with_its_option(tmp_path):
    file = tmp_path / "head.pth"
    for content, said in ((b"no weights", "is no file of weights"), (None, "something else than tensors")):
        file.write_bytes(content) if content else torch.save({"head": {"weight": torch.zeros(1, 2)}}, file)
        with pytest.raises(ValueError, match=rf"reward\.path: .*head\.pth {said}|holds {said}"):
            Aesthetic(path=str(tmp_path), clip=lambda: open_towers("assets/encoder"))


def test_prompts_that_the_judge_does_not_know_are_told_before_an_image_is_made():
    judge = Judge(passed=1.0, share=0.0, quality=0.0)
    parts = {"bright": Brightness(), "judge": judge}
    both = Combined(rewards=parts, weights={"bright": 1.0, "judge": 1.0}, standardised=False)
    for reward in (judge, both):
        reward.check(PROMPTS)
        with pytest.raises(ValueError, match="which 'a photo of a dog' is not"):
            reward.check([*PROMPTS, "a photo of a dog"])
    Brightness().check(["a photo of a dog"])


def test_a_weighted_sum_adds_scores_and_ranges():
    parts = {"bright": Brightness(), "judge": Judge(passed=1.0, share=0.0, quality=0.0)}
    both = Combined(rewards=parts, weights={"bright": 2.0, "judge": -1.0}, standardised=False)
    expected = 2 * IMAGES.flatten(1).mean(1) - 1
    assert torch.allclose(both(IMAGES, PROMPTS), expected)
    assert both.range == (-math.inf, math.inf) and not both.differentiable
    assert Combined(rewards={"a": Brightness()}, weights={"a": 1.0}, standardised=False).differentiable
    with pytest.raises(ValueError, match=r"reward\.weights needs one weight for each of bright, judge"):
        Combined(rewards=parts, weights={"bright": 1.0}, standardised=False)


def test_standardised_rewards_count_by_their_weights_and_not_by_their_scales():
    prompts = ["a"] * 4 + ["b"] * 4
    one = Combined(rewards={"x": Brightness()}, weights={"x": 1.0}, standardised=True)
    other = Combined(rewards={"x": Brightness(1000.0)}, weights={"x": 1.0}, standardised=True)
    assert torch.allclose(one(IMAGES, prompts), other(IMAGES, prompts), atol=0.05)
    assert one(IMAGES, prompts)[:4].sum().abs() < 1e-5


def test_standardised_values_are_centred_invariant_and_zero_in_a_constant_group():
    values = torch.randn(12, dtype=torch.float64)
    groups = group_numbers([*"aaaabbbb", *"cccc"])
    values[8:] = 0.7
    found = standardised(values, groups)
    assert found.view(3, 4).sum(1).abs().max() < 1e-9
    assert found[8:].abs().max() == 0
    decided, own = values[:8], groups[:8]
    exact = standardised(decided, own, least=0.0)
    assert torch.allclose(standardised(3 * decided + 5, own, least=0.0), exact)
    assert torch.equal(standardised(-decided, own, least=0.0), -exact)
    order = torch.randperm(12)
    assert torch.allclose(standardised(values[order], groups[order]), found[order])
    one_hot = torch.zeros(24, dtype=torch.float64)
    one_hot[0] = 1
    assert standardised(one_hot, torch.zeros(24, dtype=torch.int64), least=0.0).max() == pytest.approx(
        math.sqrt(23)
    )
