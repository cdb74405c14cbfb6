"""What a training step reads: encoded once, chosen by index and epoch."""

import pytest
import torch

from t2ilab.core.types import Condition
from t2ilab.data.source import Source
from t2ilab.latents.identity import Identity
from t2ilab.text.random import RandomText
from t2ilab.training.latent_rows import (
    ImageRows,
    LatentRows,
    distinct_captions,
    joined_rows,
    to_signed,
)

CAPTIONS = [["a", "b"], ["b"], ["c", "a", "d"], ["e"]]


class Colours(Source):
    """Four images of one colour each, with one to three captions; counts how often pixels are asked for."""

    resolution = 4

    def __init__(self, shade=10, weights=None):
        self.shade, self.asked, self.given = shade, [], weights

    def __len__(self):
        return len(CAPTIONS)

    def images(self, indices):
        self.asked += list(indices)
        shades = torch.tensor([self.shade * (index + 1) for index in indices], dtype=torch.uint8)
        return shades.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()

    def captions(self, index):
        return list(CAPTIONS[index])

    def weights(self, index):
        return self.given

    def digest(self):
        return f"images {self.shade}"


class Words(RandomText):
    """Counts the texts it encodes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.asked = []

    def forward(self, prompts):
        self.asked += list(prompts)
        return super().forward(prompts)


def rows(tmp_path, source=None, words=None, identity=None, seed=0):
    return LatentRows(
        source or Colours(),
        autoencoder=Identity(scale=2.0),
        conditioner=words or Words(dim=8, pooled_dim=8, length=4),
        identity=identity or {"autoencoder": {"scale": 2.0}, "conditioner": {"seed": 0}},
        seed=seed,
        cache=tmp_path,
    )


def test_bytes_become_numbers_from_minus_one_to_one():
    assert to_signed(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_captions_are_numbered_once():
    texts, options = distinct_captions(Colours())
    assert texts == ["a", "b", "c", "d", "e"]
    assert options == [[0, 1], [1], [2, 0, 3], [4]]


def test_a_row_is_the_latent_of_its_image_and_the_encoding_of_one_of_its_captions(tmp_path):
    source, words = Colours(), Words(dim=8, pooled_dim=8, length=4)
    made = rows(tmp_path, source, words)
    batch = made.fetch([2, 1], [0, 0])
    expected = to_signed(source.images([2, 1])) * 2.0
    torch.testing.assert_close(batch["x0"], expected, rtol=0, atol=0.01)
    assert batch["x0"].dtype == torch.float32
    assert made.shape == (3, 4, 4)
    condition = Condition(batch["tokens"], batch["mask"], batch["pooled"])
    encoded = words(["a", "c", "d"])
    match = (encoded.tokens - condition.tokens[0]).abs().amax((1, 2)) < 0.02
    assert match.sum() == 1
    one = words(["b"])
    torch.testing.assert_close(condition.tokens[1:], one.tokens, rtol=0, atol=0.02)
    assert torch.equal(condition.mask[1:], one.mask)
    torch.testing.assert_close(condition.pooled[1:], one.pooled, rtol=0, atol=0.02)


def test_images_and_texts_are_encoded_once_and_never_again(tmp_path):
    source, words = Colours(), Words(dim=8, pooled_dim=8, length=4)
    first = rows(tmp_path, source, words)
    assert source.asked == [0, 1, 2, 3]
    assert words.asked == ["a", "b", "c", "d", "e"]
    for epoch in range(3):
        first.fetch([0, 1, 2, 3], [epoch] * 4)
    second = rows(tmp_path, source, words)
    assert len(source.asked) == 4
    assert len(words.asked) == 5
    assert torch.equal(first.fetch([3], [0])["x0"], second.fetch([3], [0])["x0"])


@pytest.mark.parametrize("what", ["source", "autoencoder", "conditioner"])
def test_whatever_changes_the_encoding_makes_it_anew(tmp_path, what):
    identity = {"autoencoder": {"scale": 2.0}, "conditioner": {"seed": 0}}
    rows(tmp_path, identity=identity)
    source, words = Colours(20 if what == "source" else 10), Words(dim=8, pooled_dim=8, length=4)
    if what != "source":
        identity = identity | {what: {"other": 1}}
    rows(tmp_path, source, words, identity)
    assert bool(source.asked) == (what != "conditioner")
    assert bool(words.asked) == (what == "conditioner")


def test_the_run_seed_shares_the_cache_but_not_the_choice_of_captions(tmp_path):
    def chosen(seed):
        made = rows(tmp_path, seed=seed)
        return [made.fetch([2], [epoch])["tokens"] for epoch in range(24)]

    first, again, other = chosen(0), chosen(0), chosen(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({tuple(tokens.flatten().tolist()) for tokens in first}) == 3, "every caption has its turn"


def test_captions_are_drawn_by_their_weights_from_the_same_caches(tmp_path):
    rows(tmp_path)
    words = Words(dim=8, pooled_dim=8, length=4)
    made = rows(tmp_path, Colours(weights=[0.0, 2.0, 1.0]), words)
    assert words.asked == []
    epochs = list(range(600))
    tokens = made.fetch([2] * 600, epochs)["tokens"]
    expected = words(["c", "a", "d"]).tokens
    shares = [((tokens - text).abs().amax((1, 2)) < 0.02).float().mean() for text in expected]
    assert shares == pytest.approx([0, 2 / 3, 1 / 3], abs=0.06)
    texts = ImageRows(Colours(weights=[0.0, 2.0, 1.0]), seed=0, cache=tmp_path).texts([2] * 600, epochs)
    assert texts.count("a") == round(600 * float(shares[1]))


def test_equal_sources_share_their_rows_and_others_stand_behind_them(tmp_path):
    light, weighted = Colours(20), Colours(20)
    weighted.caption_weights = {"any": 1.0}
    joined = joined_rows([Colours(20), Colours(10), light, weighted], lambda source: rows(tmp_path, source))
    first, other, again, fourth = joined.providers
    assert first is again and first is not other and first is not fourth
    assert len(joined) == 16
    assert torch.equal(joined.fetch([6], [0])["x0"], other.fetch([2], [0])["x0"])
    assert not torch.equal(joined.fetch([6], [0])["x0"], first.fetch([2], [0])["x0"])


def test_a_text_encoder_without_a_pooled_vector_gives_none(tmp_path):
    made = rows(tmp_path, words=Words(dim=8, pooled_dim=None, length=4))
    assert set(made.fetch([0], [0])) == {"x0", "tokens", "mask"}


def test_the_order_of_the_rows_is_the_order_asked_for(tmp_path):
    made = rows(tmp_path)
    both = made.fetch([3, 0], [1, 1])
    assert torch.equal(both["x0"][0], made.fetch([3], [1])["x0"][0])
    assert torch.equal(both["x0"][1], made.fetch([0], [1])["x0"][0])


def test_images_are_kept_as_the_bytes_they_are(tmp_path):
    source = Colours()
    made = ImageRows(source, seed=0, cache=tmp_path)
    assert torch.equal(made.fetch([1, 3], [0, 0])["images"], source.images([1, 3]))
    assert len(made) == 4
    assert set(made.texts([0] * 20, list(range(20)))) == {"a", "b"}
    source.asked.clear()
    ImageRows(source, seed=0, cache=tmp_path)
    assert source.asked == []


def test_captions_that_are_cut_are_counted_aloud(tmp_path, capsys):
    rows(tmp_path, words=Words(dim=8, pooled_dim=8, length=2))
    assert "of the captions are longer" not in capsys.readouterr().out, "one word and the end mark"
    rows(
        tmp_path, words=Words(dim=8, pooled_dim=8, length=1), identity={"autoencoder": {}, "conditioner": {}}
    )
    said = capsys.readouterr().out
    assert "note: 100% of the captions are longer than conditioner.length=1 and are cut there" in said


def test_the_caption_that_is_measured_with_is_the_first_one_that_training_draws():
    assert [Colours().shown(index) for index in range(4)] == ["a", "b", "c", "e"]
    assert Colours(weights=[0.0, 0.0, 2.0]).shown(2) == "d"
