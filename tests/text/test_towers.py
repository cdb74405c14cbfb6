"""The small CLIP: agreement with open_clip's own forward passes, masks, saving, the conditioner on top."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.text.clip import EmbeddedCLIP
from t2ilab.text.tokenizer import Tokenizer
from t2ilab.text.towers import TwoTowers

CAPTIONS = ["a red circle above a blue star", "two small green squares", "a large red star"]


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(CAPTIONS * 3, vocab_size=300, length=16)
    return TwoTowers(
        tokenizer=tokenizer,
        embed_dim=8,
        image_size=16,
        patch_size=4,
        image_width=16,
        image_layers=2,
        image_heads=2,
        text_width=12,
        text_layers=3,
        text_heads=2,
    ).eval()


@pytest.fixture(scope="module")
def folder(towers, tmp_path_factory):
    place = tmp_path_factory.mktemp("encoder")
    towers.save(place)
    return place


@torch.no_grad()
def test_images_are_encoded_as_open_clip_encodes_them(towers):
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    features = towers.encode_image(images)
    assert features.tokens.shape == (3, 16, 16) and features.pooled.shape == (3, 8)
    torch.testing.assert_close(features.pooled, towers.clip.encode_image(images), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_text_that_fills_the_context_is_encoded_as_open_clip_encodes_it(towers):
    ids = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = towers.tokenizer.end_id
    features = towers.encode_text(ids, ids != 0)
    torch.testing.assert_close(features.pooled, towers.clip.encode_text(ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_and_the_other_texts_of_a_batch_change_nothing(towers):
    ids, mask = towers.tokenizer(CAPTIONS)
    together = towers.encode_text(ids, mask)
    for row in range(3):
        alone = towers.encode_text(ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(alone.tokens, together.tokens[row : row + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.pooled, together.pooled[row : row + 1], atol=1e-5, rtol=1e-5)
    assert together.tokens.shape == (3, 16, 12)
    assert not together.tokens[~mask].any()


@torch.no_grad()
def test_every_token_sees_the_whole_text(towers):
    first, second = (towers.encode_text(*towers.tokenizer([text])) for text in ("a red star", "a red square"))
    assert not torch.allclose(first.tokens[0, 1], second.tokens[0, 1], atol=1e-4)


@torch.no_grad()
def test_skipping_layers_changes_the_tokens_and_leaves_pooled_as_it_is(towers):
    ids, mask = towers.tokenizer(CAPTIONS)
    last, early = towers.encode_text(ids, mask), towers.encode_text(ids, mask, skip=1)
    torch.testing.assert_close(last.pooled, early.pooled)
    assert not torch.allclose(last.tokens, early.tokens, atol=1e-3)


def test_a_contrastive_loss_trains_both_towers_and_the_temperature(towers):
    images, (ids, mask) = torch.rand(3, 3, 16, 16), towers.tokenizer(CAPTIONS)
    vectors = (towers.encode_image(images).pooled, towers.encode_text(ids, mask).pooled)
    seen, told = (torch.nn.functional.normalize(each, dim=-1) for each in vectors)
    similarity = seen @ told.T
    assert similarity.shape == (3, 3) and similarity.abs().max() <= 1 + 1e-5
    loss = torch.nn.functional.cross_entropy(towers.log_temperature.exp() * similarity, torch.arange(3))
    gradients = torch.autograd.grad(loss, list(towers.parameters()), allow_unused=True)
    named = zip(towers.named_parameters(), gradients, strict=True)
    assert [name for (name, _), gradient in named if gradient is None or not gradient.any()] == []


@torch.no_grad()
def test_the_conditioner_on_a_saved_folder_gives_the_towers_features(towers, folder):
    conditioner = EmbeddedCLIP(path=str(folder), dim=12, pooled_dim=8, length=16, skip=1)
    cond = conditioner(CAPTIONS)
    ids, mask = towers.tokenizer(CAPTIONS)
    expected = towers.encode_text(ids, mask, skip=1)
    assert isinstance(cond, Condition) and torch.equal(cond.mask, mask)
    torch.testing.assert_close(cond.tokens, expected.tokens)
    torch.testing.assert_close(cond.pooled, expected.pooled)
    assert not conditioner.training


@torch.no_grad()
def test_the_null_condition_is_the_empty_prompt(folder):
    conditioner = EmbeddedCLIP(path=str(folder), dim=12, pooled_dim=8, length=16)
    null, empty = conditioner.null(3), conditioner(["", "", ""])
    for mine, other in ((null.tokens, empty.tokens), (null.mask, empty.mask), (null.pooled, empty.pooled)):
        torch.testing.assert_close(mine, other)
    assert null.mask.sum(1).tolist() == [2, 2, 2]


def test_half_precision_files_load_as_float32_and_stay_close(towers, tmp_path):
    towers.save(tmp_path, dtype=torch.float16)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    loaded = TwoTowers.load(tmp_path)
    assert next(loaded.parameters()).dtype == torch.float32
    ids, mask = towers.tokenizer(CAPTIONS)
    torch.testing.assert_close(
        loaded.encode_text(ids, mask).pooled, towers.encode_text(ids, mask).pooled, atol=1e-2, rtol=1e-2
    )


def test_the_towers_as_shipped_fit_their_share_of_the_assets():
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=300, length=32)
    sizes = sum(parameter.numel() for parameter in TwoTowers(tokenizer=tokenizer).parameters())
    assert sizes + (448 - len(tokenizer)) * 96 < 0.9e6


def test_unfit_folders_and_sizes_are_refused_by_name(folder, tmp_path):
    with pytest.raises(ValueError, match=r"conditioner\.path=<folder> is needed"):
        EmbeddedCLIP(path=None, dim=12, pooled_dim=8, length=16)
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        EmbeddedCLIP(path=str(tmp_path), dim=12, pooled_dim=8, length=16)
    with pytest.raises(ValueError, match=r"conditioner\.dim=13, found 12.*conditioner\.length=9, found 16"):
        EmbeddedCLIP(path=str(folder), dim=13, pooled_dim=8, length=9)
    with pytest.raises(ValueError, match=r"conditioner\.skip must be from 0 to 2"):
        EmbeddedCLIP(path=str(folder), dim=12, pooled_dim=8, length=16, skip=3)


def test_pooled_can_be_left_out(folder):
    assert EmbeddedCLIP(path=str(folder), dim=12, pooled_dim=None, length=16)(["a"]).pooled is None


def test_images_of_another_size_are_refused(towers):
    with pytest.raises(ValueError, match=r"\(B, 3, 16, 16\)"):
        towers.encode_image(torch.zeros(1, 3, 32, 32))


@torch.no_grad()
def test_a_reader_brings_a_token_for_the_whole_and_for_each_thing_it_finds(towers, tmp_path):
    torch.manual_seed(1)
    sizes = {**towers.sizes, "text_width": 16, "slots": 3, "choices": [2, 4], "whole_choices": [3]}
    reading = TwoTowers(tokenizer=towers.tokenizer, **sizes).eval()
    reading.save(tmp_path)
    conditioner = EmbeddedCLIP(path=str(tmp_path), dim=16, pooled_dim=3 + 3 * 6, length=4 + 16)
    reader = conditioner.towers.reader
    for parameter, trained in zip(reader.parameters(), reading.reader.parameters(), strict=True):
        assert torch.equal(parameter, trained)
    reader.head.bias[:2] = torch.tensor([-50.0, 50.0])  # there always is a thing
    found = conditioner(CAPTIONS)
    ids, mask = towers.tokenizer(CAPTIONS)
    features = conditioner.towers.encode_text(ids, mask, skip=1)
    told, _ = reader.probabilities(features.told)
    assert found.tokens.shape == (3, 20, 16) and found.mask[:, :4].all()
    assert torch.equal(found.tokens[:, :4, :4], torch.eye(4).expand(3, 4, 4))  # which of them it is
    torch.testing.assert_close(found.tokens[:, 0, 4:7], told.whole)
    torch.testing.assert_close(found.tokens[:, 1:4, 7:13], told.things)
    assert not found.tokens[:, 0, 7:].any()
    assert not found.tokens[:, 1:4, 4:7].any() and not found.tokens[:, 1:4, 13:].any()
    torch.testing.assert_close(found.tokens[:, 4:], features.tokens)
    assert torch.equal(found.mask[:, 4:], mask)
    torch.testing.assert_close(found.pooled, torch.cat([told.whole, told.things.flatten(1)], 1))
    short = EmbeddedCLIP(path=str(tmp_path), dim=16, pooled_dim=None, length=4, words=False)
    assert short(CAPTIONS).tokens.shape == (3, 4, 16) and short(CAPTIONS).pooled is None
    plain = EmbeddedCLIP(path=str(tmp_path), dim=16, pooled_dim=8, length=16, reads=False)(CAPTIONS)
    torch.testing.assert_close(plain.tokens, features.tokens)
    torch.testing.assert_close(plain.pooled, features.pooled)
    assert torch.equal(plain.mask, mask)
    empty = conditioner([""])
    assert empty.mask[0, :4].tolist() == [True, False, False, False] and not empty.pooled.any()
    reader.head.bias[:2] = torch.tensor([50.0, -50.0])  # there never is
    none = conditioner(CAPTIONS)
    assert none.mask[:, 0].all() and not none.mask[:, 1:4].any() and not none.tokens[:, 1:4].any()
    assert not none.pooled[:, 3:].any()
    with pytest.raises(ValueError, match=r"conditioner\.length=16, found 20"):
        EmbeddedCLIP(path=str(tmp_path), dim=16, pooled_dim=21, length=16)


def test_without_a_reader_the_words_are_needed(folder):
    with pytest.raises(ValueError, match=r"conditioner\.words=false, but the towers of .* read no things"):
        EmbeddedCLIP(path=str(folder), dim=12, pooled_dim=8, length=16, words=False)


def test_words_without_the_reader_cannot_be_left_out_too(tmp_path, towers):
    TwoTowers(
        tokenizer=towers.tokenizer, **{**towers.sizes, "slots": 3, "choices": [2], "whole_choices": []}
    ).save(tmp_path)
    with pytest.raises(ValueError, match=r"conditioner\.words=false, but conditioner\.reads=false"):
        EmbeddedCLIP(path=str(tmp_path), dim=12, pooled_dim=8, length=16, words=False, reads=False)
