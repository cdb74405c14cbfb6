"""Distances between two sets of images, as pure functions of their features, in float64.

Features are (n, d): real x with n rows, generated y with m rows. The equations stand at each function.

The Frechet distance is biased upward by finite samples: for N(0, I_d) on both sides, n and m rows, by about
(d + d(d+1)/4) (1/n + 1/m). Compare it only at equal n, or use KID, which is unbiased and may be negative.
Neither may be called FID: that name belongs to Inception features with their own preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t2ilab.eval.intervals import RESAMPLES, TAILS, Interval, block_counts, quantile

_CHUNK = 2048  # rows of a kernel matrix held at once
_GROUPS = 20  # of the jackknife, at most
_MOST_BLOCKS = 500  # of a block bootstrap; more blocks are joined, which costs nothing in the interval


@dataclass(frozen=True)
class Moments:
    """Sums from which mean and covariance follow; sums of parts (ranks, batches) add up exactly.

    Attributes:
        total: sum of features, (d,) float64.
        outer: sum of outer products, (d, d) float64.
    """

    n: int
    total: Tensor
    outer: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """The sums of (n, d) features."""
        features = _features(features)
        return Moments(len(features), features.sum(0), features.T @ features)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.total - other.total, self.outer - other.outer)

    @property
    def mean(self) -> Tensor:
        """(d,)."""
        return self.total / self.n

    @property
    def covariance(self) -> Tensor:
        """Unbiased (n - 1), (d, d)."""
        return (self.outer - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)


def frechet_to(real: Moments) -> Callable[[Moments], float]:
    """The Frechet distance of other moments to one reference, whose root is computed once.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1^{1/2} S2 S1^{1/2})^{1/2}), eigenvalues clipped at 0. The symmetric form has
    real eigenvalues also for singular covariances (n < d), where a general matrix square root may turn complex.
    Source: Heusel et al. 2017, arXiv 1706.08500 eq. 6; Dowson and Landau 1982.
    """
    _check_count(real)
    values, vectors = torch.linalg.eigh(real.covariance)
    root, trace = (vectors * values.clamp_min(0).sqrt()) @ vectors.T, real.covariance.trace()

    def distance(generated: Moments) -> float:
        _check_count(generated)
        covariance = generated.covariance
        cross = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
        shift = (real.mean - generated.mean).square().sum()
        return float((shift + trace + covariance.trace() - 2 * cross).clamp_min(0))

    return distance


def _check_count(moments: Moments) -> None:
    if moments.n < 2:
        raise ValueError(f"a Frechet distance needs at least 2 images a side, got {moments.n}")


def frechet_interval(real: Moments, generated: Tensor, blocks: Tensor | None = None) -> Interval:
    """Frechet distance with a delete-a-group jackknife interval over the generated side.

    Prompts (blocks) are dealt into g groups; with theta_k the distance without group k,
    se^2 = (g - 1)/g sum (theta_k - mean)^2. A bootstrap would be biased up by its duplicates. The reference
    is taken as given, as it is the same for every compared model.
    """
    generated = _features(generated)
    index = _block_index(generated, blocks)
    distance, whole = frechet_to(real), Moments.of(generated)
    value = distance(whole)
    groups = min(_GROUPS, int(index.max()) + 1)
    if groups < 2:
        return Interval(value, value, value, whole.n, "one block: no interval")
    lots = index % groups
    parts = [whole - Moments.of(generated[lots == k]) for k in range(groups)]
    left_out = np.array([distance(part) for part in parts if part.n >= 2])
    half = quantile() * float(np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum()))
    return Interval(
        value, max(0.0, value - half), value + half, whole.n, f"jackknife over {groups} prompt groups"
    )


def kernel_interval(
    real: Tensor,
    generated: Tensor,
    blocks: Tensor | None = None,
    *,
    paired: bool = False,
    degree: int = 3,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """KID, the unbiased MMD^2 with k(x, y) = (x.y/d + 1)^degree, with a block bootstrap; it may be negative.

    sum_{i != j} k(x_i, x_j)/(n(n-1)) + the same for y - 2 mean k(x_i, y_j). Source: Binkowski et al. 2018.

    The bootstrap draws prompts on the generated side and images on the real side.
    With w the times that each block was drawn, pairs of a block with its own duplicate are left out (they
    hold k(y, y), which the estimate excludes); pairs inside a block count w times. Without resamples only the
    value.

    Args:
        blocks: the prompt of each generated image, (m,).
        paired: prompt k is the caption of real image k. Such a pair is alike because of what it shows; in
            the cross term it would push the distance below zero. It is left out (Gretton et al. 2012,
            JMLR 13, eq. 4), and a caption is resampled with all its images.
    """
    real, generated = _features(real), _features(generated)
    if min(len(real), len(generated)) < 2:
        raise ValueError(f"a kernel distance needs 2 images a side, got {len(real)} and {len(generated)}")
    rows, columns = _block_index(real, None) % _MOST_BLOCKS, _block_index(generated, blocks) % _MOST_BLOCKS
    xx = _BlockSums.of(real, rows, degree)
    yy = _BlockSums.of(generated, columns, degree)
    xy = _block_sums(real, rows, generated, columns, degree).numpy()
    xy_count = np.outer(xx.sizes, yy.sizes)
    if paired:
        if xy.shape[0] != xy.shape[1]:
            raise ValueError(f"pairs need as many prompts as real images, got {xy.shape[1]} and {len(real)}")
        np.fill_diagonal(xy, 0)
        np.fill_diagonal(xy_count, 0)

    def estimate(w: np.ndarray, v: np.ndarray) -> np.ndarray:
        cross = ((w @ xy) * v).sum(1) / ((w @ xy_count) * v).sum(1)
        return xx.mean(w) + yy.mean(v) - 2 * cross

    ones_x, ones_y = np.ones((1, len(xx.sizes))), np.ones((1, len(yy.sizes)))
    value = float(estimate(ones_x, ones_y)[0])
    if resamples == 0 or len(yy.sizes) < 3:
        return Interval(value, value, value, len(generated), "no interval")
    of_real = block_counts(len(xx.sizes), resamples, 2 * seed)
    of_generated = of_real if paired else block_counts(len(yy.sizes), resamples, 2 * seed + 1)
    low, high = np.quantile(estimate(of_real, of_generated), TAILS)
    unit = "captions and their images" if paired else "prompts"
    return Interval(value, float(low), float(high), len(generated), f"unbiased; block bootstrap over {unit}")


@dataclass(frozen=True)
class _BlockSums:
    """Kernel sums between and inside blocks: what an off-diagonal mean needs for any block weights."""

    sizes: np.ndarray
    between: np.ndarray
    inside: np.ndarray

    @staticmethod
    def of(features: Tensor, index: Tensor, degree: int) -> _BlockSums:
        sizes = torch.bincount(index).double()
        sums = _block_sums(features, index, features, index, degree)
        own = (features.square().sum(1) / features.shape[1] + 1) ** degree
        inside = sums.diagonal() - torch.zeros_like(sizes).index_add_(0, index, own)
        return _BlockSums(sizes.numpy(), (sums - torch.diag(sums.diagonal())).numpy(), inside.numpy())

    def mean(self, w: np.ndarray) -> np.ndarray:
        """Mean kernel over pairs of different images, for each row of block weights (r, blocks)."""
        total = ((w @ self.between) * w).sum(1) + w @ self.inside
        pairs = (w @ self.sizes) ** 2 - (w**2) @ self.sizes**2 + w @ (self.sizes * (self.sizes - 1))
        return total / pairs


def _block_sums(a: Tensor, a_index: Tensor, b: Tensor, b_index: Tensor, degree: int) -> Tensor:
    sums = torch.zeros(int(a_index.max()) + 1, int(b_index.max()) + 1, dtype=torch.float64)
    for rows, index in zip(a.split(_CHUNK), a_index.split(_CHUNK), strict=True):
        kernel = (rows @ b.T / a.shape[1] + 1) ** degree
        by_column = torch.zeros(len(rows), sums.shape[1], dtype=torch.float64).index_add_(1, b_index, kernel)
        sums.index_add_(0, index, by_column)
    return sums


def _block_index(features: Tensor, blocks: Tensor | None) -> Tensor:
    if blocks is None:
        return torch.arange(len(features))
    if len(blocks) != len(features):
        raise ValueError(f"{len(features)} features need as many block numbers, got {len(blocks)}")
    return torch.unique(blocks.cpu(), return_inverse=True)[1]


def _features(features: Tensor) -> Tensor:
    features = features.detach().to(device="cpu", dtype=torch.float64)
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must be (n, d) with n > 0, got {tuple(features.shape)}")
    if not features.isfinite().all():
        raise ValueError("features contain NaN or infinity: look at the images and at the feature extractor")
    return features
