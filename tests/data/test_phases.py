"""One data set after the other."""

import numpy as np
import pytest

from t2ilab.data.mixture import MixtureOrder
from t2ilab.data.order import EpochOrder, MicroBatches
from t2ilab.data.phases import PhaseOrder, Phases
from t2ilab.data.sets import Scenes

ORDER = PhaseOrder((0, 4, 9), (EpochOrder(20, 8, 1), MixtureOrder((7, 5), (6, 2), 1), EpochOrder(20, 8, 1)))


def visits(order, step):
    return [part.tolist() for part in order.arrays(step)]


@pytest.mark.parametrize(("step", "place"), [(0, 0), (3, 0), (4, 1), (8, 1), (9, 2), (50, 2)])
def test_each_phase_reads_its_own_rows_in_its_own_order(step, place):
    epochs, indices = ORDER.arrays(step)
    own_epochs, own_indices = ORDER.orders[place].arrays(step)
    first = (0, 20, 32)[place]
    assert epochs.tolist() == own_epochs.tolist()
    assert indices.tolist() == (own_indices + first).tolist()
    assert ORDER.num_rows == 52 and ORDER.batch_size == 8


def test_the_same_images_in_another_form_go_on_with_one_permutation():
    plain, order = EpochOrder(20, 8, 1), PhaseOrder((0, 4), (EpochOrder(20, 8, 1), EpochOrder(20, 8, 1)))
    for step in range(9):
        epochs, indices = order.arrays(step)
        assert [epochs.tolist(), (indices % 20).tolist()] == visits(plain, step)


def test_a_micro_batch_lies_in_one_phase():
    for step in range(12):
        for part in MicroBatches(ORDER, 2, 1, 2, step, step + 1):
            assert len(set(np.searchsorted([20, 32, 52], part.indices, side="right"))) == 1


@pytest.mark.parametrize(
    "other",
    [
        PhaseOrder((0, 5, 9), ORDER.orders),
        PhaseOrder((0, 4, 9), (*ORDER.orders[1:], ORDER.orders[0])),
        PhaseOrder((0, 4, 9), (*ORDER.orders[:2], EpochOrder(20, 8, 2))),
    ],
)
def test_the_description_knows_when_and_what(other):
    assert ORDER.describe() != other.describe()
    assert ORDER.describe() == PhaseOrder((0, 4, 9), ORDER.orders).describe()


def scenes(resolution, size=6):
    return Scenes(
        subset="general",
        size=size,
        val_size=2,
        resolution=resolution,
        caption_kinds=["long"],
        jitter=0.0,
        seed=0,
        batch_size=4,
        workers=1,
    )


def test_phases_train_on_their_data_and_do_everything_else_with_the_main_one():
    main, small, low = scenes(64), scenes(64, size=3), scenes(32)
    data = Phases(main, [low, small], [0, 5])
    assert data.sources() == [low.train, small.train]
    assert data.order(2) == PhaseOrder((0, 5), (EpochOrder(6, 4, 2), EpochOrder(3, 4, 2)))
    assert (data.train, data.val, data.world) == (main.train, main.val, main.world)
    assert (data.batch_size, data.workers) == (4, 1)
    assert data.preview_prompts() == main.preview_prompts() and data.report() is None
    assert data.summary() == "scenes/general, 6 images at 64 px, in 2 phases"
    digests = {
        Phases(m, parts, [0, 5]).digest() for m in (main, small) for parts in ([low, small], [low, main])
    }
    assert len(digests) == 4
