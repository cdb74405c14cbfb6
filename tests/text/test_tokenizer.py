"""The byte-pair tokenizer: any string, marks and padding, one file."""

import warnings

import pytest
import torch

from t2ilab.text.tokenizer import Tokenizer

CAPTIONS = ["a red circle above a blue star", "two small green squares", "a large red star"] * 3


def tokenizer(length=12, vocab_size=340):
    return Tokenizer.train(CAPTIONS, vocab_size=vocab_size, length=length)


def test_known_words_are_one_token_between_the_marks_and_padding_is_masked():
    tokens = tokenizer()
    ids, mask = tokens(["a red circle", ""])
    assert ids.shape == mask.shape == (2, 12)
    assert mask.sum(1).tolist() == [5, 2]
    assert ids[0, 0] == tokens.start_id and ids[0, 4] == tokens.end_id and not ids[0, 5:].any()
    assert ids[1].tolist() == [1, 2] + [0] * 10
    assert tokens.count(["a red circle", ""]) == [5, 2]


@pytest.mark.parametrize(
    "text", ["a red circle", "caf\u00e9 \u96ea \U0001f3d4", "x = 3; drop <table>", "tab\tand\nline"]
)
def test_any_string_is_encoded_and_decoded_in_lower_case(text):
    tokens = tokenizer(length=64)
    assert tokens.decode(tokens([text.upper()])[0][0]) == text


def test_words_that_look_like_the_marks_are_encoded_as_text():
    tokens = tokenizer(length=64)
    ids, mask = tokens(["<pad> <end> <start>"])
    assert int(mask.sum()) == tokens.count(["<pad> <end> <start>"])[0]
    assert (ids[0, 1 : int(mask.sum()) - 1] > 2).all()


def test_a_text_too_long_is_cut_before_its_end_mark_with_one_warning():
    tokens = tokenizer(length=4)
    with pytest.warns(UserWarning, match=r"7 tokens.*reads 2"):
        ids, mask = tokens(["a red circle above a blue star"])
    assert ids[0, -1] == tokens.end_id and mask.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens(["a red circle above a blue star"])


def test_a_saved_tokenizer_is_the_same_and_is_one_file(tmp_path):
    tokens = tokenizer()
    tokens.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", length=12)
    assert len(loaded) == len(tokens)
    assert torch.equal(loaded(CAPTIONS)[0], tokens(CAPTIONS)[0])


def test_training_twice_gives_the_same_tokenizer():
    assert tokenizer().rust.to_str() == tokenizer().rust.to_str()


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="at least 259"):
        tokenizer(vocab_size=100)
    with pytest.raises(ValueError, match="length"):
        tokenizer(length=2)
    with pytest.raises(ValueError, match="list of strings"):
        tokenizer()("a red circle")
    with pytest.raises(ValueError, match="no tokenizer file"):
        Tokenizer.load("nowhere.json", length=12)
