"""Token routing: in training some image tokens stay out of a stretch of the blocks, which then cost less.

Of the N image tokens of an image a share is left out of the blocks first + 1 to last; text takes part in all. Rules:

    TREAD     the tokens left out come back behind block `last` as they were before block first + 1
    SPRINT    they come back as a mask token m, and a layer joins all with what stood before block first + 1:
              x = W [y; x_before] + b, y = the blocks' result for a token that was kept, m for one that was not
    Masking   they do not come back: the first blocks mix all tokens, the loss counts the kept ones only

Which tokens are kept is drawn outside of the network, as a function of (seed, step, row), and given to it as `kept`,
(B, K) numbers of tokens. A network in evaluation mode, or one that is given none, lets all tokens through all blocks.
The share may change with the step (`curriculum=unmask`); while it is 0, no tokens are drawn or moved.
How a network follows a rule is in `passage.py`.
Source: Krause et al. 2025 (TREAD), arXiv 2501.04765; Park et al. 2025 (SPRINT), arXiv 2510.21986; Sehwag et al. 2024
(deferred patch masking), arXiv 2407.15811.

Shapes: B batch, N image tokens, K kept ones, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from t2ilab.core.phased import phase_at
from t2ilab.core.rng import RowRng
from t2ilab.models.layers import full_precision


class Routing(nn.Module, ABC):
    """A rule; as it stands here, tokens that were left out come back unchanged.

    Args:
        width, depth: of the network.
        share: of the image tokens, left out; in [0, 1). `follow` lets it change with the step.
        first, last: the blocks first + 1 to last are those left out; None for the places of `stretch`.

    Attributes:
        hides: whether tokens left out do not come back, so that the network says nothing about them.
    """

    hides = False

    def __init__(self, *, width: int, depth: int, share: float, first: int | None, last: int | None) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"model.routing.share must lie in [0, 1), got {share}")
        usual = self.stretch(depth)
        self.share = share
        self.follow([0], [share])
        self.first, self.last = usual[0] if first is None else first, usual[1] if last is None else last
        if not 0 <= self.first < self.last <= depth:
            raise ValueError(
                f"model.routing leaves tokens out of the blocks behind first={self.first} up to last={self.last}, "
                f"of model.depth={depth}: it needs 0 <= first < last <= depth"
            )

    @staticmethod
    @abstractmethod
    def stretch(depth: int) -> tuple[int, int]:
        """The usual first and last."""

    def follow(self, starts: Sequence[int], shares: Sequence[float]) -> None:
        """Lets the share change: from step starts[k] on it is shares[k], starts rising from 0."""
        self.starts, self.shares = list(starts), list(shares)

    def share_at(self, step: int) -> float:
        """Share of the image tokens left out in a step."""
        return self.shares[phase_at(self.starts, step)]

    def keeps(self, count: int, step: int) -> int:
        """K of N = `count` tokens in a step.

        Raises:
            ValueError: none is kept.
        """
        share = self.share_at(step)
        kept = round((1 - share) * count)
        if kept < 1:
            raise ValueError(f"model.routing.share={share} leaves none of {count} tokens: lower it")
        return kept

    def draw(self, rng: RowRng, grid: tuple[int, int]) -> dict[str, Tensor]:
        """What a network is told in a training step, the keywords of its `forward`: kept (B, K), sorted.

        Nothing is said of kept tokens while the share is 0.

        Args:
            rng: one row per image.
            grid: rows and columns of image tokens.
        """
        if not self.share_at(rng.step):
            return {}
        count = grid[0] * grid[1]
        order = rng.uniform("routing", count).argsort(dim=1, stable=True)
        return {"kept": order[:, : self.keeps(count, rng.step)].sort(1).values}

    def rejoin(self, before: Tensor, kept_ones: Tensor, kept: Tensor | None, bypass: Tensor | None) -> Tensor:
        """All image tokens (B, N, D) behind block `last`.

        Args:
            before: all image tokens before block first + 1, (B, N, D).
            kept_ones: those that passed the blocks, (B, K, D); all of them where `kept` is None.
            kept: (B, K) or None.
            bypass: rows for which the stretch shall count for nothing, (B,) bool, or None.
        """
        return kept_ones if kept is None else put(before, kept, kept_ones)


Rule = Callable[..., Routing]
"""Makes a routing from the width and the depth of a network."""


class NoRouting(Routing):
    """All tokens pass all blocks, as without a rule."""

    def __init__(self, *, width: int, depth: int) -> None:
        nn.Module.__init__(self)
        self.first, self.last = self.stretch(depth)

    @staticmethod
    def stretch(depth: int) -> tuple[int, int]:
        """Behind the end: there is none."""
        return depth, 0

    def draw(self, rng: RowRng, grid: tuple[int, int]) -> dict[str, Tensor]:
        return {}


class TREAD(Routing):
    """Tokens left out come back unchanged; no parameters. Half of the tokens in the paper."""

    @staticmethod
    def stretch(depth: int) -> tuple[int, int]:
        """Blocks 3 to 9 of 12, to 25 of 28, to 13 of 16 (PRX); 2 to 5 of 6.

        The official code counts blocks from 0 and routes from block 2 to block depth - 4, that one included:
        three blocks stand behind, whatever the depth.
        """
        return _edge(depth, 2), depth - _edge(depth, 3)


class SPRINT(Routing):
    """Tokens left out come back as a mask token, and a layer joins all with the dense tokens before the stretch.

    The layer is there in evaluation, too. It starts as the mean of both, W = [I/2 | I/2], so blocks that start as the
    identity still are, and a token that was left out starts as half of what it was. In the official code W starts at
    random and the mask token stays at its draw from N(0, 0.02); here it starts at 0 and learns.
    Left out: path-drop guidance, which samples with the bypassed network as the weaker one.

    Args:
        share: 0.75 in the paper.
        group: edge of the squares of tokens of which the same number is kept each, 2 in the paper; None: any tokens.
        path_drop: share of rows in training whose tokens all come back as mask tokens, 0.1 in the paper.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        share: float,
        first: int | None,
        last: int | None,
        group: int | None,
        path_drop: float,
    ) -> None:
        super().__init__(width=width, depth=depth, share=share, first=first, last=last)
        if not 0 <= path_drop <= 1:
            raise ValueError(f"model.routing.path_drop must lie in [0, 1], got {path_drop}")
        self.path_drop, self.group = path_drop, group
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.fuse = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.fuse.weight.copy_(torch.eye(width).repeat(1, 2) / 2)
            self.fuse.bias.zero_()

    @staticmethod
    def stretch(depth: int) -> tuple[int, int]:
        """All but two blocks at either end, as in the paper; one in networks of less than 8."""
        return _edge(depth, 2), depth - _edge(depth, 2)

    def draw(self, rng: RowRng, grid: tuple[int, int]) -> dict[str, Tensor]:
        """As in `Routing`, from each square; with path_drop also bypass (B,), whatever the share.

        While the share is 0 there is a bypass even without path_drop, of no row: DDP waits for a gradient of the mask
        token.
        """
        share = self.share_at(rng.step)
        squares = share > 0 and self.group is not None
        drawn = {"kept": self._from_squares(rng, grid)} if squares else super().draw(rng, grid)
        bypassed = self.path_drop or not share
        return drawn | ({"bypass": rng.uniform("path drop") < self.path_drop} if bypassed else {})

    def rejoin(self, before: Tensor, kept_ones: Tensor, kept: Tensor | None, bypass: Tensor | None) -> Tensor:
        deep = kept_ones if kept is None else put(self.mask_token.expand_as(before), kept, kept_ones)
        if bypass is not None:
            deep = torch.where(bypass[:, None, None], self.mask_token, deep)
        with full_precision(before):
            fused: Tensor = self.fuse(torch.cat([deep, before], -1).float())
        return fused

    def _from_squares(self, rng: RowRng, grid: tuple[int, int]) -> Tensor:
        edge, (rows, columns) = self.group, grid
        if edge is None or edge < 1 or rows % edge or columns % edge:
            raise ValueError(
                f"model.routing.group={edge} does not divide {rows} x {columns} tokens: change it, or null"
            )
        share, kept = self.share_at(rng.step), self.keeps(edge * edge, rng.step)
        if abs(kept - (1 - share) * edge * edge) > 1e-6:
            raise ValueError(
                f"model.routing.share={share} of squares of {edge} x {edge} tokens is no whole number: "
                "change it, or model.routing.group=null"
            )
        scores = rng.uniform("routing", rows * columns)
        places = torch.arange(rows * columns, device=scores.device)
        scores, places = (_squares(values, grid, edge) for values in (scores, places[None]))
        chosen = scores.argsort(dim=-1, stable=True)[..., :kept]
        return places.expand_as(scores).gather(-1, chosen).flatten(1).sort(1).values


class Masking(Routing):
    """Tokens left out do not come back; the network's output there is zero and no part of the loss.

    The first blocks are the mixer that sees all tokens; in the paper it is a network of its own, 4 to 6 narrower
    blocks. Three quarters are left out there, none in the last tenth of a training at 256 px (`curriculum=unmask`).
    """

    hides = True

    def __init__(self, *, width: int, depth: int, share: float, first: int | None) -> None:
        super().__init__(width=width, depth=depth, share=share, first=first, last=None)

    @staticmethod
    def stretch(depth: int) -> tuple[int, int]:
        """An eighth of the blocks mix: as much work as the mixer of the paper's larger model."""
        return max(1, depth // 8), depth


def pick(tokens: Tensor, kept: Tensor) -> Tensor:
    """The kept ones (B, K, d) of tokens (B, N, d)."""
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def put(tokens: Tensor, kept: Tensor, values: Tensor) -> Tensor:
    """Tokens (B, N, d) with values (B, K, d) in the places of the kept ones."""
    return tokens.scatter(1, kept[..., None].expand_as(values), values.to(tokens.dtype))


def _edge(depth: int, most: int) -> int:
    """A quarter of the blocks, from 1 to `most` of them."""
    return max(1, min(most, depth // 4))


def _squares(values: Tensor, grid: tuple[int, int], edge: int) -> Tensor:
    """(B, rows columns) -> (B, squares, edge^2)."""
    rows, columns = grid
    cut = values.view(-1, rows // edge, edge, columns // edge, edge).transpose(2, 3)
    return cut.flatten(3).flatten(1, 2)
