"""Known answers of Philox, moments, and what the numbers may and may not depend on."""

import math

import numpy as np
import pytest
import torch

from t2ilab.core.rng import RowRng, _key, generator, philox

# kat_vectors of the Random123 library, philox4x32 with 10 rounds: counter, key, result
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def make(rows: int = 64, *, seed: int = 0, step: int = 0) -> RowRng:
    return RowRng(seed, step, torch.arange(rows), rows)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, result):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(word) for word in words) == result


def test_philox_equals_integer_arithmetic_on_random_counters():
    counters = np.random.default_rng(0).integers(0, 2**32, (5, 4)).tolist()
    key = (0xDEADBEEF, 0x12345678)
    for counter in counters:
        c, k = list(counter), list(key)
        for _ in range(10):
            p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
            k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
        words = philox(tuple(torch.tensor([x]) for x in counter), key)
        assert [int(word) for word in words] == c


def test_the_counter_is_block_row_and_step_and_a_row_takes_the_first_words_of_all_blocks_first():
    """What a seed draws stays what it was."""

    def words(kind, *places):
        blocks = [
            philox(tuple(torch.tensor([c]) for c in (*place, 5, 3)), _key(kind, 9, "x")) for place in places
        ]
        return [int(block[number]) for number in range(4) for block in blocks]

    rng = RowRng(9, 5 + 3 * 2**32, torch.tensor([2, 7]), 8)
    double, single = rng.uniform("x", 7, dtype=torch.float64), rng.uniform("x", 7)
    for i, row in enumerate((2, 7)):
        expected = words("rows", (0, row), (1, row))[:7]
        assert (double[i] * 2**32).long().tolist() == expected
        assert (single[i] * 2**24).long().tolist() == [word >> 8 for word in expected]
    assert int(rng.shared_uniform("x") * 2**32) == words("shared", (0, 0))[0]


def test_normals_are_those_of_box_and_muller_from_the_words_of_the_row():
    """z = r cos(phi) for the first half, r sin(phi) for the second, r = sqrt(-2 ln u), u in the middle of a cell."""
    u, turn = make(8).uniform("noise", 4, dtype=torch.float64).chunk(2, 1)
    radius, angle = (-2 * (u + 2.0**-33).log()).sqrt(), 2 * math.pi * turn
    expected = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
    torch.testing.assert_close(make(8).normal("noise", 4, dtype=torch.float64), expected)
    torch.testing.assert_close(make(8).normal("noise", 3, dtype=torch.float64), expected[:, :3])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normals_of_several_folds_at_once_are_those_of_each(shape, dtype):
    stream, folds = make(8)[torch.tensor([6, 1, 3])].fold("own"), [3, 0, "word"]
    each = [stream.fold(own).normal("noise", *shape, dtype=dtype) for own in folds]
    assert torch.equal(stream.normal_of_each(folds, "noise", *shape, dtype=dtype), torch.stack(each, dim=1))


def test_normals_have_the_moments_of_a_standard_normal():
    z = make(2048).normal("noise", 4, 8, 8).double().flatten()
    bar = 5 / z.numel() ** 0.5  # five standard errors of the mean
    assert abs(z.mean()) < bar
    assert abs(z.square().mean() - 1) < bar * 2**0.5
    assert abs((z**3).mean()) < bar * 15**0.5
    assert abs((z**4).mean() - 3) < bar * 96**0.5
    assert 4.3 < z.abs().max() < 6.8


def test_normals_of_different_elements_rows_steps_purposes_and_folds_are_uncorrelated():
    rng = make(256)
    z = rng.normal("noise", 256)
    others = {
        "neighbour": z.roll(1, 1),
        "row": z.roll(1, 0),
        "half": z.roll(128, 1),
        "step": make(256, step=1).normal("noise", 256),
        "far step": make(256, step=2**32).normal("noise", 256),
        "seed": make(256, seed=1).normal("noise", 256),
        "purpose": rng.normal("noise2", 256),
        "fold": rng.fold(0).normal("noise", 256),
        "second fold": rng.fold(0).fold(1).normal("noise", 256),
    }
    for name, other in others.items():
        assert abs((z * other).mean()) < 5 / 256, name
        assert abs((z.square() * other.square()).mean() - 1) < 5 * 8**0.5 / 256, name


def test_folds_of_different_type_and_order_are_different_streams():
    rng = make(4)
    streams = [rng.fold(0), rng.fold("0"), rng.fold(1), rng.fold(0).fold(1), rng.fold(1).fold(0)]
    draws = [stream.uniform("x", 4) for stream in streams]
    for i, first in enumerate(draws):
        for second in draws[i + 1 :]:
            assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 5, 5), (8, 8, 8)])
def test_a_row_draws_the_same_numbers_in_any_split(shape):
    whole = make(64, step=7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for kind in ("normal", "uniform"):
        expected = getattr(whole, kind)("noise", *shape)
        assert expected.shape == (64, *shape)
        for rows in (torch.arange(3, 10), torch.tensor([63]), order):
            assert torch.equal(getattr(whole[rows], kind)("noise", *shape), expected[rows])


def test_a_row_does_not_know_the_size_of_the_global_batch():
    small, large = RowRng(0, 1, torch.arange(4), 4), RowRng(0, 1, torch.arange(4), 4096)
    assert torch.equal(small.normal("noise", 9), large.normal("noise", 9))


def test_precisions_and_shapes():
    rng = make(8)
    assert rng.normal("a", 3, 3).dtype == torch.float32
    assert rng.normal("a", 3, 3, dtype=torch.bfloat16).dtype == torch.bfloat16
    double = rng.normal("a", 3, 3, dtype=torch.float64)
    assert torch.allclose(double.float(), rng.normal("a", 3, 3), atol=2e-5)


def test_uniforms_fill_the_unit_interval_evenly():
    u = make(512).uniform("time", 64).flatten()
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, bins=32, min=0, max=1)
    expected = u.numel() / 32
    assert ((counts - expected) ** 2 / expected).sum() < 31 + 5 * 62**0.5


def test_shared_numbers_are_the_same_for_every_part_of_the_batch():
    whole = make(32)
    part = whole[torch.tensor([30, 2])]
    assert torch.equal(whole.shared_uniform("time"), part.shared_uniform("time"))
    assert torch.equal(whole.permutation("time"), part.permutation("time"))
    assert 0 <= float(whole.shared_uniform("time")) < 1


def test_permutations_are_permutations_and_differ_between_steps():
    first, second = make(500).permutation("x"), make(500, step=1).permutation("x")
    assert torch.equal(first.sort().values, torch.arange(500))
    assert not torch.equal(first, second)


def test_every_place_of_a_permutation_is_equally_likely():
    places = torch.stack([make(4, step=s).permutation("x") for s in range(600)])
    counts = torch.stack([(places == value).sum(0) for value in range(4)]).float()
    assert (counts - 150).abs().max() < 5 * (600 * 3 / 16) ** 0.5


def test_generators_depend_on_seed_and_purpose():
    def draw(*args):
        return torch.randn(4, generator=generator(*args))

    assert torch.equal(draw(0, "init"), draw(0, "init"))
    assert not torch.equal(draw(0, "init"), draw(1, "init"))
    assert not torch.equal(draw(0, "init"), draw(0, "init", 1))


def test_the_type_of_a_number_does_not_matter():
    plain = RowRng(3, 2, torch.arange(4), 4).fold(1).normal("noise", 4)
    other = RowRng(np.int64(3), torch.tensor(2), torch.arange(4), np.int32(4)).fold(np.int64(1))
    assert torch.equal(other.normal("noise", 4), plain)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_numbers_of_the_cpu():
    rng = make(64, step=5)
    there = rng.to("cuda")
    assert torch.equal(there.uniform("time", 9).cpu(), rng.uniform("time", 9))
    assert torch.equal(there.permutation("time").cpu(), rng.permutation("time"))
    torch.testing.assert_close(
        there.normal("noise", 4, 8, 8).cpu(), rng.normal("noise", 4, 8, 8), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("rows", "step", "total"),
    [
        (torch.arange(4.0), 0, 4),
        (torch.arange(4)[None], 0, 4),
        (torch.arange(4), -1, 4),
        (torch.arange(4), 0, 3),
        (torch.tensor([-1]), 0, 3),
        (torch.tensor([1, -1]), 0, 3),
    ],
)
def test_impossible_rows_are_refused(rows, step, total):
    with pytest.raises(ValueError):
        RowRng(0, step, rows, total)
