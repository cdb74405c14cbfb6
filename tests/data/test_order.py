from collections import Counter

import numpy as np
import pytest

from t2ilab.data.order import EpochOrder, MicroBatches, caption_choice, permutation


def rows(order, step):
    """(epoch, index) of every row of a step."""
    return list(zip(*(part.tolist() for part in order.arrays(step)), strict=True))


def visits(order, steps):
    return [visit for step in range(steps) for visit in rows(order, step)]


@pytest.mark.parametrize(("num_rows", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 5), (7, 7)])
def test_every_index_comes_once_per_epoch_also_over_epoch_borders(num_rows, batch_size):
    order = EpochOrder(num_rows, batch_size, seed=3)
    stream = visits(order, steps=2 * num_rows)
    epochs = len(stream) // num_rows
    assert epochs >= 2
    for epoch in range(epochs):
        mine = stream[epoch * num_rows : (epoch + 1) * num_rows]
        assert {e for e, _ in mine} == {epoch}
        assert sorted(i for _, i in mine) == list(range(num_rows))


def test_a_step_is_a_pure_function_of_its_number():
    again = EpochOrder(100, 8, seed=1)
    assert rows(EpochOrder(100, 8, seed=1), 37) == rows(again, 37) == rows(again, 37)


def test_the_stream_of_rows_does_not_depend_on_the_batch_size():
    assert visits(EpochOrder(10, 4, seed=5), 6) == visits(EpochOrder(10, 8, seed=5), 3)


def test_epochs_and_seeds_give_different_orders():
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_order_of_a_seed_never_changes():
    assert rows(EpochOrder(8, 8, seed=0), 0) == [(0, index) for index in (6, 2, 7, 4, 1, 5, 0, 3)]


def test_every_place_of_a_permutation_is_uniform():
    counts = np.zeros((4, 4))
    for epoch in range(2000):
        counts[np.arange(4), permutation(0, epoch, 4)] += 1
    assert np.abs(counts / 2000 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_parts_of_all_ranks_make_the_global_batch(world, accumulate):
    order = EpochOrder(20, 16, seed=2)
    for step in range(3):
        seen = {}
        for rank in range(world):
            parts = list(MicroBatches(order, world, rank, accumulate, step, step + 1))
            assert [len(part) for part in parts] == [16 // (world * accumulate)] * accumulate
            for part in parts:
                assert part.step == step
                for row, visit in zip(part.rows, zip(part.epochs, part.indices, strict=True), strict=True):
                    assert row not in seen
                    seen[row] = visit
        assert [seen[row] for row in range(16)] == rows(order, step)


def test_starting_at_a_step_equals_skipping_to_it():
    order = EpochOrder(9, 4, seed=0)
    skipped = list(MicroBatches(order, 1, 0, 2, 0, 6))[2 * 2 :]
    started = list(MicroBatches(order, 1, 0, 2, 2, 6))
    assert [(m.step, *m.rows, *m.indices) for m in started] == [
        (m.step, *m.rows, *m.indices) for m in skipped
    ]


def test_without_a_last_step_the_batches_do_not_end():
    batches = iter(MicroBatches(EpochOrder(2, 2, seed=0)))
    assert [next(batches).step for _ in range(50)] == list(range(50))
    assert not hasattr(MicroBatches, "__len__")


def test_a_batch_that_cannot_be_shared_is_refused_by_name():
    with pytest.raises(ValueError, match=r"data\.batch_size=6 .* multiple of 4"):
        MicroBatches(EpochOrder(10, 6, seed=0), world=2, accumulate=2)
    with pytest.raises(ValueError, match=r"data\.batch_size"):
        EpochOrder(10, 0, seed=0)
    with pytest.raises(ValueError, match="empty"):
        EpochOrder(0, 4, seed=0)


def test_caption_choice_follows_its_weights_and_its_arguments_only():
    draws = Counter(caption_choice(0, epoch, index, 3) for epoch in range(40) for index in range(100))
    assert set(draws) == {0, 1, 2}
    assert max(abs(n / 4000 - 1 / 3) for n in draws.values()) < 0.04
    weighted = Counter(caption_choice(0, 0, index, [1.0, 0.0, 3.0]) for index in range(4000))
    assert weighted[1] == 0
    assert abs(weighted[2] / 4000 - 0.75) < 0.04
    assert caption_choice(7, 1, 2, 5) == caption_choice(7, 1, 2, 5)
    assert len({tuple(caption_choice(7, e, i, 9) for i in range(20)) for e in range(5)}) == 5


@pytest.mark.parametrize("weights", [0, [], [0.0], [-1.0, 2.0]])
def test_impossible_caption_weights_are_refused(weights):
    with pytest.raises(ValueError, match="caption"):
        caption_choice(0, 0, 0, weights)
