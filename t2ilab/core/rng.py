"""Counter-based randomness: every number is a pure function of (seed, purpose, step, row, element).

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") turns a 128-bit counter and
a 64-bit key into 128 random bits. The key is a hash of seed, folded data and purpose; the counter is

    (block of four words, row, step mod 2^32, step div 2^32)

so a row draws the same numbers whatever process, micro-batch, device or order it is computed in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)  # Philox4x32_M4x32_0, _1 of the Random123 library
_WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio and sqrt(3) - 1, the key increments of the same library
_ROUNDS = 10
_WORD = 0xFFFFFFFF


Key = tuple[int, int] | tuple[Tensor, Tensor]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Key) -> tuple[Tensor, ...]:
    """Philox-4x32-10 of many counters, in six buffers that the rounds pass around.

    A 32 x 32 bit product needs all 64 bits: int64 multiplication wraps modulo 2^64, which keeps them. Words
    are cut to their 32 bits only where it matters, before they are multiplied or returned.

    Args:
        counter: four int64 tensors that broadcast together, each entry in [0, 2^32).
        key: two integers in [0, 2^32), or two int64 tensors that broadcast with the counters.
    Returns:
        four int64 tensors of the broadcast shape, entries in [0, 2^32).
    """
    keys = [word for word in key if isinstance(word, Tensor)]
    c0, c1, c2, c3, *_ = (word.clone() for word in torch.broadcast_tensors(*counter, *keys))
    p0, p1 = torch.empty_like(c0), torch.empty_like(c2)
    k0, k1 = key
    for _ in range(_ROUNDS):
        torch.mul(c0, _MULTIPLIERS[0], out=p0)
        torch.mul(c2, _MULTIPLIERS[1], out=p1)
        torch.bitwise_right_shift(p1, 32, out=c0).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(_WORD)
        torch.bitwise_right_shift(p0, 32, out=c2).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(_WORD)
        c1, p1, c3, p0 = p1, c1, p0, c3
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1.bitwise_and_(_WORD), c2, c3.bitwise_and_(_WORD)


def _digest(*parts: int | str) -> int:
    """64 bits that depend on every part, its place and whether it is a text or a number of any type."""
    return _hash(tuple(part if isinstance(part, str) else int(part) for part in parts))


@lru_cache(maxsize=4096)
def _hash(parts: tuple[int | str, ...]) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _key(*parts: int | str) -> tuple[int, int]:
    digest = _digest(*parts)
    return digest & _WORD, digest >> 32


def generator(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for draws of a whole tensor, seeded by (seed, purpose)."""
    return torch.Generator(device=device).manual_seed(_digest("generator", seed, *purpose) >> 1)


class RowRng:
    """The random numbers of some rows of one global batch.

    Args:
        seed: the run seed.
        step: index of the global batch, for instance the student's optimizer step; not negative.
        rows: numbers of the own rows inside the global batch, (n,) int64, each in [0, total).
        total: rows of the whole global batch.
    """

    def __init__(
        self, seed: int, step: int, rows: Tensor, total: int, *, _folds: tuple[int | str, ...] = ()
    ) -> None:
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise ValueError(f"rows must be one int64 vector, got {rows.dtype} of shape {tuple(rows.shape)}")
        if step < 0 or not 0 < total <= _WORD:
            raise ValueError(f"need step >= 0 and 0 < total < 2^32, got step {step} and total {total}")
        if rows.device.type == "cpu" and rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < total:
            raise ValueError(f"rows must lie in [0, {total}), got {int(rows.min())} to {int(rows.max())}")
        self.seed, self.step, self.rows, self.total = int(seed), int(step), rows, int(total)
        self._folds = _folds

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> RowRng:
        """The same stream seen by some of the rows."""
        return self._with(self.rows[rows])

    def to(self, device: torch.device | str) -> RowRng:
        """The same numbers, made on another device."""
        return self if self.rows.device == torch.device(device) else self._with(self.rows.to(device))

    def fold(self, data: int | str) -> RowRng:
        """An independent stream for the same rows, for instance one per sampler step or player."""
        return self._with(self.rows, (*self._folds, data))

    def uniform(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers in [0, 1), (n, *shape); 24 random bits each in float32, 32 in float64."""
        words = self._words(purpose, math.prod(shape)).view(-1, *shape)
        if dtype == torch.float64:
            return words.to(dtype).mul_(2.0**-32)
        return (words >> 8).to(torch.float32).mul_(2.0**-24).to(dtype)

    def normal(self, purpose: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, (n, *shape), by the Box-Muller map of pairs of words.

        z_0 = r cos(phi), z_1 = r sin(phi) with r = sqrt(-2 ln u), u in (0, 1], phi uniform in [0, 2 pi).
        """
        count = math.prod(shape)
        blocks = self._blocks("rows", purpose, self.rows, -(-count // 4))
        return _normal(blocks, count, dtype).view(-1, *shape)

    def normal_of_each(
        self, data: Sequence[int | str], purpose: str, *shape: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """fold(data[i]).normal(purpose, *shape) for every i at once, (n, len(data), *shape), bit for bit.

        Cheaper than one by one where the rows are few: an operation takes longer to start than to run.
        """
        count = math.prod(shape)
        keys = [_key("rows", self.seed, *self._folds, own, purpose) for own in data]
        k0, k1 = self.rows.new_tensor(keys).T.reshape(2, len(data), 1)
        blocks = self._philox(self.rows.view(-1, 1, 1), -(-count // 4), (k0, k1))
        return _normal(blocks, count, dtype).view(-1, len(data), *shape)

    def shared_uniform(self, purpose: str) -> Tensor:
        """One uniform number in [0, 1), a float64 scalar, the same for every row of the global batch."""
        word = self._blocks("shared", purpose, self.rows.new_zeros(1), 1)[0]
        return word.to(torch.float64).mul_(2.0**-32).view(())

    def permutation(self, purpose: str) -> Tensor:
        """A random permutation of the global batch, (total,) int64, the same for every row."""
        everybody = torch.arange(self.total, device=self.rows.device)
        first, second, *_ = self._blocks("permutation", purpose, everybody, 1)
        return ((first << 31) ^ second).flatten().argsort(stable=True)

    def _with(self, rows: Tensor, folds: tuple[int | str, ...] | None = None) -> RowRng:
        folds = self._folds if folds is None else folds
        return RowRng(self.seed, self.step, rows, self.total, _folds=folds)

    def _words(self, purpose: str, count: int) -> Tensor:
        """`count` random words per row, (n, count) int64."""
        blocks = self._blocks("rows", purpose, self.rows, -(-count // 4))
        return torch.cat(blocks, dim=1)[:, :count]

    def _blocks(self, kind: str, purpose: str, rows: Tensor, count: int) -> tuple[Tensor, ...]:
        """The four words of `count` blocks of every given row, four times (len(rows), count) int64."""
        return self._philox(rows.view(-1, 1), count, _key(kind, self.seed, *self._folds, purpose))

    def _philox(self, rows: Tensor, count: int, key: Key) -> tuple[Tensor, ...]:
        """The four words of `count` blocks, which come last, of rows (n, ..., 1)."""
        block = torch.arange(count, device=rows.device)
        step = (rows.new_full((), self.step & _WORD), rows.new_full((), self.step >> 32))
        return philox((block, rows, *step), key)


def _normal(blocks: tuple[Tensor, ...], count: int, dtype: torch.dtype) -> Tensor:
    """Box-Muller of the first `count` words (one more if odd) of four times (..., m), one after the other.

    The first half of them gives the radius, the second the angle.
    """
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    words = torch.cat([block.to(kind) for block in blocks], dim=-1)
    half = (count + 1) // 2
    radius, angle = words[..., :half], words[..., half : 2 * half]
    radius.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    cosine = angle.mul_(2.0**-32 * 2.0 * math.pi).cos()
    angle.sin_().mul_(radius)
    radius.mul_(cosine)
    return words[..., :count].to(dtype).contiguous()
