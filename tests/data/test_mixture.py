"""Several data sets in one batch."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from t2ilab.data import order as order_module
from t2ilab.data.buckets import Buckets
from t2ilab.data.mixture import Mixture, MixtureOrder, quotas
from t2ilab.data.report import DataReport, Drop, Reason, joined_reports
from t2ilab.data.sets import Folder, Scenes
from tests.data.test_folder import captioned


def test_quotas_are_the_weights_by_largest_remainders():
    assert quotas({"a": 0.8, "b": 0.2}, 64) == {"a": 51, "b": 13}
    assert quotas({"a": 4, "b": 1}, 64) == {"a": 51, "b": 13}
    assert quotas({"a": 1, "b": 1, "c": 1}, 8) == {"a": 3, "b": 3, "c": 2}
    assert quotas({"a": 1, "b": 0}, 5) == {"a": 5, "b": 0}


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_quotas_fill_the_batch_and_are_within_one_row_of_the_weights(batch_size):
    random = np.random.default_rng(batch_size)
    for _ in range(50):
        weights = {name: float(value) for name, value in zip("abcd", random.uniform(0.3, 1, 4), strict=True)}
        found = quotas(weights, batch_size)
        assert sum(found.values()) == batch_size
        total = sum(weights.values())
        assert all(abs(found[name] - batch_size * weight / total) < 1 for name, weight in weights.items())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": -1, "b": 2}, "data.weights must not be negative"),
        ({"a": 0, "b": 0}, "nor all 0"),
        ({"a": 1, "b": 0.01}, r"data.weights.b=0.01 is less than one row of 8"),
    ],
)
def test_impossible_weights_are_refused_by_name(weights, message):
    with pytest.raises(ValueError, match=message):
        quotas(weights, 8)


ORDER = MixtureOrder((30, 7, 5), (5, 3, 0), seed=2)


def test_every_batch_holds_the_quotas_and_every_source_runs_through_its_epochs():
    visits = Counter()
    for step in range(42):  # 7 epochs of the first source, 18 of the second
        epochs, indices = ORDER.arrays(step)
        owners = np.searchsorted([30, 37, 42], indices, side="right")
        assert np.bincount(owners, minlength=3).tolist() == [5, 3, 0]
        visits.update(zip(epochs.tolist(), indices.tolist(), strict=True))
    assert set(visits) == {(epoch, index) for epoch in range(7) for index in range(30)} | {
        (epoch, index) for epoch in range(18) for index in range(30, 37)
    }
    assert set(visits.values()) == {1}


def test_the_sources_stand_in_random_places_of_the_batch():
    places = Counter(
        int(place) for step in range(400) for place in np.flatnonzero(ORDER.arrays(step)[1] >= 30)
    )
    assert sum(places.values()) == 1200
    assert all(abs(places[place] - 150) < 45 for place in range(8))


def test_a_step_is_a_pure_function_of_its_number_and_seeds_differ():
    def plain(order, step):
        return [part.tolist() for part in order.arrays(step)]

    assert plain(ORDER, 37) == plain(MixtureOrder((30, 7, 5), (5, 3, 0), seed=2), 37)
    assert plain(ORDER, 37) != plain(MixtureOrder((30, 7, 5), (5, 3, 0), seed=3), 37)
    assert ORDER.batch_size == 8 and ORDER.num_rows == 42
    assert ORDER.describe() != MixtureOrder((30, 7, 5), (4, 4, 0), seed=2).describe()


def scenes(subset, **options):
    usual = {"size": 12, "val_size": 3, "caption_kinds": ["long"], "jitter": 0.0, "seed": 0}
    return partial(Scenes, subset=subset, **usual | options)


def mixture(weights=None, val="general", batch_size=8, **sources):
    return Mixture(
        sources=sources or {"general": scenes("general"), "curated": scenes("curated", size=5, val_size=2)},
        weights=weights or {"curated": 1, "general": 3},
        val=val,
        resolution=32,
        batch_size=batch_size,
        workers=0,
    )


def test_a_mixture_is_its_sources_and_is_measured_on_one_of_them():
    data = mixture()
    general, curated = data.sources()
    assert (len(general), len(curated)) == (12, 5)
    assert data.order(4) == MixtureOrder((12, 5), (6, 2), 4)
    assert len(data.val) == 3 and len(mixture(val="curated").val) == 2
    assert data.world is not None and len(data.preview_prompts()) == 8
    assert torch.equal(data.train.images([13, 2]), torch.cat([curated.images([1]), general.images([2])]))
    assert data.summary() == (
        "75 % scenes/general, 12 images at 32 px and 25 % scenes/curated, 5 images at 32 px"
    )


def test_the_digest_knows_the_sources_and_their_shares():
    base = mixture().digest()
    assert base == mixture(weights={"general": 0.75, "curated": 0.25}).digest()
    others = {
        mixture(weights={"general": 1, "curated": 1}).digest(),
        mixture(batch_size=16).digest(),
        mixture(general=scenes("general", seed=1), curated=scenes("curated", size=5, val_size=2)).digest(),
    }
    assert len(others | {base}) == 4


@pytest.mark.parametrize(
    "options", [{"weights": {"general": 1}}, {"val": "teddy"}, {"weights": {"general": 1, "x": 1}}]
)
def test_names_that_do_not_fit_are_refused(options):
    with pytest.raises(
        ValueError, match=r"data\.weights needs one weight for each of general, curated, and data"
    ):
        mixture(**options)


def test_folders_in_a_mixture_report_together_and_keep_no_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("T2ILAB_CACHE", str(tmp_path / "cache"))
    for place in ("one", "two"):
        for number in range(4):
            captioned(tmp_path / place / f"{number}.png")
    (tmp_path / "two" / "bad.png").write_bytes(b"")
    (tmp_path / "two" / "bad.txt").write_text("bad")

    def folder(place, **options):
        usual = {"val_share": 0.3, "caption_column": None, "min_size": None}
        return partial(Folder, path=str(tmp_path / place), **usual | options)

    data = mixture({"one": 1, "two": 1}, "two", one=folder("one"), two=folder("two"))
    report = data.report()
    assert (report.found, report.used) == (9, 8)
    assert [drop.path for drop in report.images] == ["two: bad.png"]
    assert sum(report.splits.values()) == 8
    square = Buckets(multiple=8, max_aspect=2.0, least=1)
    with pytest.raises(ValueError, match=r"data\.sources\.one: .*omit buckets"):
        mixture({"one": 1, "two": 1}, "two", one=folder("one", buckets=square), two=folder("two"))


def test_the_report_of_no_folder_is_none_and_that_of_several_adds_up():
    assert joined_reports({}) is None
    lost = Drop("x.txt", Reason.CAPTION_WITHOUT_IMAGE)
    one = DataReport("here", 3, 2, (Drop("a", Reason.CORRUPT),), (lost,), {"train": 2}, facts={"f": 1})
    two = DataReport("there", 4, 4, splits={"train": 3, "val": 1})
    both = joined_reports({"one": one, "two": two})
    assert (both.path, both.found, both.used) == ("here + there", 7, 6)
    assert both.splits == {"train": 5, "val": 1}
    assert [drop.path for drop in both.images + both.captions] == ["one: a", "one: x.txt"]
    assert both.facts == {"one": {"f": 1}, "two": {}}


def test_the_permutation_of_each_of_many_sources_is_made_once(monkeypatch):
    made = []
    shuffled = order_module.shuffled
    monkeypatch.setattr(order_module, "shuffled", lambda key, num: (made.append(num), shuffled(key, num))[1])
    order = MixtureOrder(sizes=(100,) * 12, quotas=(2,) * 12, seed=3)
    for step in range(5):
        order.arrays(step)
    assert made == [100] * 12
