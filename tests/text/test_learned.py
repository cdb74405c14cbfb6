"""Words of one's own: what they begin as, that nothing else moves, and how they are written and read."""

import pytest
import torch
from safetensors.torch import load_file

from t2ilab.build import build
from t2ilab.config.composition import compose
from t2ilab.text.learned import FILE, LearnedWords, with_words
from t2ilab.text.pretrained import CLIPText, T5Text
from t2ilab.text.random import RandomText
from t2ilab.text.several import Several
from t2ilab.text.words import Extended, spelt
from tests.text import folders

NODES = {
    "table": {
        "_target_": "t2ilab.text.random.RandomText",
        "dim": 8,
        "pooled_dim": 8,
        "length": 12,
        "seed": 1,
    },
    "tower": compose(["conditioner=scenes_words"])["conditioner"],
}


def learned(node, vectors=2, start="red circle", **options):
    return build(with_words(node, words={"zwx": vectors}, starts={"zwx": start}, **options))


def same(one, other):
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.mask, other.mask)
    assert torch.equal(one.pooled, other.pooled)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
@torch.no_grad()
def test_a_new_word_begins_as_a_known_one_and_texts_without_it_are_what_they_were(node):
    plain, own = build(node), learned(node)
    same(own(["a zwx above a blue star"]), plain(["a red circle above a blue star"]))
    same(own(["a red circle", ""]), plain(["a red circle", ""]))
    same(own.null(2), plain.null(2))
    (rows,) = learned(node, 1).rows.values()
    assert torch.equal(rows[0], plain.vectors("red circle")[""].mean(0))


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
def test_a_step_moves_the_rows_of_the_word_and_nothing_else(node):
    own = learned(node).requires_grad_(False)
    (rows,) = own.rows.values()
    rows.requires_grad_()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    tables = [value.clone() for value in own.buffers()]
    found = own(["a zwx", "a red circle"])
    (found.tokens.square().sum() + found.pooled.sum()).backward()
    torch.optim.SGD([rows], 0.1).step()
    moved = [name for name, value in own.state_dict().items() if not torch.equal(value, before[name])]
    assert len(moved) == 1 and moved[0].endswith(".rows")
    assert all(map(torch.equal, own.buffers(), tables))


@pytest.mark.parametrize("node", NODES.values(), ids=NODES)
@torch.no_grad()
def test_words_are_saved_by_their_name_and_read_back(node, tmp_path):
    own = learned(node, 3)
    (rows,) = own.rows.values()
    rows.add_(torch.randn(rows.shape))
    file = own.save_words(tmp_path)
    assert file.name == FILE and load_file(file)["zwx"].shape == (3, node["dim"])
    again = build(with_words(node, learned=str(tmp_path)))
    same(again(["a ZWX and a circle"]), own(["a zwx and a circle"]))
    two = build(with_words(node, learned=str(tmp_path), words={"zwx": 1, "qzv": 1}, starts={"qzv": "star"}))
    same(two(["a zwx"]), own(["a zwx"]))
    same(two(["a qzv"]), own(["a star"]))
    with pytest.raises(ValueError, match="two of these models have learned the word zwx"):
        build(with_words(node, learned=[str(tmp_path), str(tmp_path)]))


def test_a_word_is_found_in_capitals_and_not_inside_another():
    words = {"zwx": ["zwx__0", "zwx__1"]}
    assert spelt("A Zwx, zwxy and zwx's", words) == "A zwx__0 zwx__1, zwxy and zwx__0 zwx__1's"


def test_rows_stand_behind_the_ids_that_a_tokenizer_gives():
    table = torch.nn.Embedding(20, 3)
    further = Extended(table, 10, 2)
    further.rows.data = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    found = further(torch.tensor([[9, 10, 11]]))
    assert torch.equal(found[0, 0], table.weight[9])
    assert torch.equal(found[0, 1:], further.rows)
    assert further.weight is table.weight and set(further.state_dict()) == {"weight", "rows"}


def test_a_word_that_begins_as_nothing_is_refused():
    with pytest.raises(ValueError, match=r"loss\.init_word: say which known word"):
        learned(NODES["table"], start="")
    with pytest.raises(ValueError, match=r"stage\.token=a b is no single word"):
        build(with_words(NODES["table"], words={"a b": 1}, starts={"a b": "red"}))


@torch.no_grad()
def test_each_of_several_encoders_gets_vectors_of_its_own_width(tmp_path):
    def both():
        parts = {
            "one": RandomText(dim=8, pooled_dim=8, length=12),
            "two": RandomText(dim=4, pooled_dim=None, length=12),
        }
        return Several(
            encoders=parts, tokens=[["one", "two"]], pooled=["one"], dim=12, pooled_dim=8, length=12
        )

    options = {"dim": 12, "pooled_dim": 8, "length": 12}
    own = LearnedWords(text_encoder=both(), words={"zwx": 1}, starts={"zwx": "star"}, learned=None, **options)
    same(own(["a zwx"]), both()(["a star"]))
    for rows in own.rows.values():
        rows.add_(1)
    own.save_words(tmp_path)
    assert {name: value.shape[1] for name, value in load_file(tmp_path / FILE).items()} == {
        "one.zwx": 8,
        "two.zwx": 4,
    }
    again = LearnedWords(text_encoder=both(), words={}, starts={}, learned=str(tmp_path), **options)
    same(again(["a zwx"]), own(["a zwx"]))


@pytest.mark.slow  # importing transformers takes seconds
@torch.no_grad()
def test_pretrained_encoders_learn_words_and_write_trained_weights(tmp_path):
    clip = {"tokenizer_path": None, "dim": 16, "pooled_dim": 8, "length": 12}
    t5 = {"tokenizer_path": None, "dim": 16, "pooled_dim": None, "length": 12}
    for kind, make, options in ((CLIPText, folders.save_clip, clip), (T5Text, folders.save_t5, t5)):
        path = make(tmp_path / kind.__name__)
        plain = kind(path=path, **options)
        sizes = {name: options[name] for name in ("dim", "pooled_dim", "length")}
        own = LearnedWords(
            text_encoder=kind(path=path, **options),
            words={"zwx": 2},
            starts={"zwx": "red circle"},
            learned=None,
            **sizes,
        )
        wanted, found = plain(["a red circle above"]), own(["a zwx above"])
        assert torch.equal(found.tokens, wanted.tokens)
        assert found.pooled is None or torch.equal(found.pooled, wanted.pooled)
        for weight in own.text_encoder.network.parameters():
            weight.mul_(1.5)
        own.text_encoder.save(tmp_path / f"{kind.__name__}_trained")
        trained = kind(path=str(tmp_path / f"{kind.__name__}_trained"), **options)
        assert torch.equal(trained(["a red circle"]).tokens, own(["a red circle"]).tokens)
        assert not torch.equal(trained(["a red circle"]).tokens, plain(["a red circle"]).tokens)


@pytest.mark.slow
@torch.no_grad()
def test_diffusers_reads_the_file_and_makes_the_same_condition(tmp_path):
    from diffusers import StableDiffusionPipeline

    path = folders.save_clip(tmp_path / "clip", projected=False)
    options = {"tokenizer_path": None, "dim": 16, "pooled_dim": None, "length": 12, "skip": 0}
    options["padding"] = "counts"
    sizes = {name: options[name] for name in ("dim", "pooled_dim", "length")}
    own = LearnedWords(
        text_encoder=CLIPText(path=path, **options),
        words={"zwx": 2},
        starts={"zwx": "red circle"},
        learned=None,
        **sizes,
    )
    for rows in own.rows.values():
        rows.add_(torch.randn(rows.shape))
    own.save_words(tmp_path / "learned")
    theirs = CLIPText(path=path, **options)
    others = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline.__new__(StableDiffusionPipeline)
    pipe.register_modules(
        text_encoder=theirs.network, tokenizer=theirs.tokenizer, image_encoder=None, **others
    )
    pipe.load_textual_inversion(str(tmp_path / "learned"))
    prompt = pipe.maybe_convert_prompt("a zwx above", theirs.tokenizer)
    torch.testing.assert_close(theirs([prompt]).tokens, own(["a zwx above"]).tokens, atol=1e-6, rtol=1e-6)
