"""Scenes as a source: images independent of the batch, digests that tell contents apart."""

import pytest
import torch

from t2ilab.data.scenes import SceneSource, captions, render


def test_image_i_is_the_same_in_whatever_batch_it_is_asked_for():
    source = SceneSource("general", "val", size=50)
    whole = source.images(range(50))
    assert whole.dtype == torch.uint8 and whole.shape == (50, 3, 64, 64)
    assert torch.equal(source.images([17, 3]), whole[[17, 3]])
    assert torch.equal(SceneSource("general", "val", size=20).images([17])[0], whole[17])
    assert torch.equal(whole[7].permute(1, 2, 0), torch.from_numpy(render(source.scene(7))))


def test_captions_are_those_of_the_kinds_asked_for():
    source = SceneSource("curated", size=10, caption_kinds=["long"])
    assert source.captions(4) == captions(source.scene(4), ("long",))
    assert len(SceneSource("general", size=10).captions(4)) == 4


@pytest.mark.parametrize("kind", ["short", "long", "paraphrase"])
def test_only_captions_of_the_kind_that_has_all_the_weight_are_likely(kind):
    kinds = ["short", "paraphrase", "long"]
    weights = {name: float(name == kind) for name in kinds}
    source = SceneSource("general", size=10, caption_kinds=kinds, caption_weights=weights)
    for index in range(10):
        pairs = list(zip(source.captions(index), source.weights(index), strict=True))
        assert [text for text, weight in pairs if weight > 0] == captions(source.scene(index), (kind,))
        assert sum(weight for _, weight in pairs) == 1
    assert SceneSource("general", size=10, caption_kinds=kinds).weights(0) is None


def test_a_kind_without_captions_may_have_the_weight_0_and_no_other():
    kinds = ["short", "long"]
    given = {"short": 1, "long": 2, "sparse": 0}
    found = SceneSource("general", size=10, caption_kinds=kinds, caption_weights=given)
    assert found.caption_weights == {"short": 1, "long": 2}
    for weight in (0.5, -1):
        with pytest.raises(ValueError, match="one weight for each of short, long"):
            SceneSource("general", size=10, caption_kinds=kinds, caption_weights=given | {"sparse": weight})


def test_weights_of_captions_do_not_touch_the_content():
    weights = {"short": 1, "long": 0, "paraphrase": 2}
    weighted = SceneSource("general", size=10, caption_weights=weights)
    assert weighted.digest() == SceneSource("general", size=10).digest()


def test_digests_differ_exactly_when_contents_do():
    base = {"subset": "general", "split": "train", "size": 10}
    changes = [
        {},
        {"split": "val"},
        {"size": 11},
        {"seed": 1},
        {"resolution": 32},
        {"caption_kinds": ["long"]},
    ]
    digests = [SceneSource(**{**base, **change}).digest() for change in changes]
    assert len(set(digests)) == len(changes) and digests[0] == SceneSource(**base).digest()


def test_the_subject_has_five_images():
    assert len(SceneSource("subject")) == 5 and len(SceneSource("class")) == 20000
    assert SceneSource("subject", caption_kinds=["instance"]).captions(0) == ["a zwx teddy bear"]
    with pytest.raises(ValueError, match=r"data\.size"):
        SceneSource("subject", size=6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "data.size"),
        ({"resolution": 48}, "data.resolution"),
        ({"subset": "cats"}, "data.subset"),
        ({"split": "dev"}, "data.split"),
        ({"caption_kinds": ["odes"]}, "caption_kinds"),
        ({"caption_weights": {"short": 1}}, "caption_weights needs one weight for each of short, long, para"),
        ({"caption_weights": {"short": 1, "long": -1, "paraphrase": 0}}, "must not be negative"),
        ({"caption_weights": {"short": 0, "long": 0, "paraphrase": 0}}, "nor all 0"),
    ],
)
def test_wrong_options_are_refused_when_built(options, message):
    with pytest.raises(ValueError, match=message):
        SceneSource(**options)


def test_a_number_beyond_the_end_is_refused():
    with pytest.raises(IndexError):
        SceneSource(size=3).images([3])
