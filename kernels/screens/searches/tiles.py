"""Upper logits tile by tile: the largest of each tile tells which tiles hold a row that may matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ....base.arrays import Float, Float64, Int64, Tensor
from ...common.rescore import Pairs
from ...common.rows import Span
from ...common.screen_terms import OpenTiles, ScreenLevel, log_of_sum
from ...common.work import Work
from ...native.screens import NativeLevel, screens_apply
from ..bounds.upper_bounds import ROW_TILE, UpperLogits

# a deeper level gathers its rows where tiles that may matter are fewer than this share
GATHER_SHARE = 0.5


@dataclass(frozen=True)
class Remaining:
    """The rows that earlier levels leave to a level, and what the rows they ruled out hold at most.

    left: rows, [n] int64, or the open tiles of kernels, or None for the whole span.
    log_omitted: log of a bound on the sum of the weights of the others, [B] float64.
    """

    left: Int64[Tensor, "n"] | OpenTiles | None
    log_omitted: Float64[Tensor, "B"]

    @classmethod
    def everything(cls, batch: int, device: torch.device) -> Remaining:
        """Return the whole span, for `batch` queries on `device`."""
        return cls(None, torch.full((batch,), -torch.inf, dtype=torch.float64, device=device))


@runtime_checkable
class TileBounds(Protocol):
    """What one level of a screen tells of a batch of queries."""

    @property
    def pair_error(self) -> Float64[Tensor, "B"] | None:
        """How far the logits of pairs that are found are above true ones at most, [B], or None where unknown."""
        ...

    def promising(self, count: int) -> Pairs:
        """Return the rows with the largest upper logits of each query, one a tile, `count` at most."""
        ...

    def open_tiles(self, floor: Float[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """Return how many tiles hold a row that reaches the `floor` of each query, [B]."""
        ...

    def above(self, floor: Float[Tensor, "B"], few: Int64[Tensor, "f"]) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows of the queries `few` that reach the `floor`, and the log of what their others hold, [B].

        The log of the sum of the upper weights below the floor is -inf for queries not in `few`.
        """
        ...

    def left(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> Remaining:
        """Return what reaches the `floor` of any of the queries in `index`, [b] int64, for the next level."""
        ...


def tile_bounds(upper: UpperLogits, level: int, remaining: Remaining) -> TileBounds:
    """Return what a level of a screen tells, by native kernels where they apply.

    upper: upper logits of the batch. level: of the screen, the cheapest is 0. remaining: what earlier levels left.
    """
    terms = upper.terms(level)
    if terms is None or not screens_apply(upper.work, terms):
        return PortableTiles.of(upper, level, remaining)
    before = remaining.left if isinstance(remaining.left, OpenTiles) else None
    native = NativeLevel(upper.work, terms, finer=upper.finer(), shared=upper.kernel_shared, before=before)
    return KernelTiles(native, remaining)


class KernelTiles:
    """Tile bounds whose upper logits exist only in registers."""

    def __init__(self, level: ScreenLevel, remaining: Remaining) -> None:
        """Take over what was found from the rows in `remaining`."""
        self.level, self.remaining = level, remaining
        nothing = remaining.log_omitted
        self._against = (torch.zeros_like(nothing, dtype=torch.int64), torch.zeros_like(nothing))

    @property
    def pair_error(self) -> Float64[Tensor, "B"] | None:
        """Return how exact single rows are, as :meth:`TileBounds.pair_error`."""
        return self.level.pair_error

    def promising(self, count: int) -> Pairs:
        """Return the most promising rows, as :meth:`TileBounds.promising`; `count` as there."""
        return self.level.promising(count)

    def open_tiles(self, floor: Float[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """Return how many tiles reach the `floor`, as :meth:`TileBounds.open_tiles`."""
        self._against = self.level.against(floor)
        return self._against[0].clone()

    def above(self, floor: Float[Tensor, "B"], few: Int64[Tensor, "f"]) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows above the `floor` for the queries `few`, as :meth:`TileBounds.above`, after that."""
        return self.level.above(floor, self._against, few)

    def left(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> Remaining:
        """Return the tiles open at the `floor` to the queries in `index`, as :meth:`TileBounds.left`."""
        below = log_of_sum(self._against[1][index], floor[index])
        log_omitted = torch.logaddexp(self.remaining.log_omitted[index], below)
        return Remaining(self.level.open(floor, index), log_omitted)


@dataclass(frozen=True)
class PortableTiles:
    """Tile bounds in torch, which hold every upper logit.

    work: the queries, the rows and their span. remaining: the rows that were bounded.
    tiles: their upper logits in tiles of rows, [T, s, B] float32. largest: of each tile, [T, B].
    """

    work: Work
    remaining: Remaining
    tiles: Float[Tensor, "T s B"]
    largest: Float[Tensor, "T B"]
    pair_error: None = None

    @classmethod
    def of(cls, upper: UpperLogits, level: int, remaining: Remaining) -> PortableTiles:
        """Return the tiles of a level of `upper` over the rows in `remaining`."""
        rows = None if isinstance(remaining.left, OpenTiles) else remaining.left
        tiles = upper.at(level, rows).unflatten(0, (-1, ROW_TILE))
        return cls(upper.work, remaining, tiles, tiles.amax(1))

    def promising(self, count: int) -> Pairs:
        """Return the most promising rows, as :meth:`TileBounds.promising`; `count` as there."""
        tile = self.largest.topk(min(count, len(self.largest)), dim=0).indices.T
        column = torch.arange(self.largest.shape[1], device=tile.device)[:, None].expand_as(tile)
        upper, offset = self.tiles[tile, :, column].max(2)
        row = self._numbers(tile * ROW_TILE + offset)
        counts = upper > -torch.inf
        return Pairs(column[counts], row[counts], upper[counts].double())

    def open_tiles(self, floor: Float[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """Return how many tiles reach the `floor`, as :meth:`TileBounds.open_tiles`."""
        return (self.largest >= floor).sum(0)

    def above(self, floor: Float[Tensor, "B"], few: Int64[Tensor, "f"]) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows above the `floor` for the queries `few`, as :meth:`TileBounds.above`."""
        own = floor[few]
        is_open = self.largest[:, few] >= own
        # relative to the floor, below which all of these are: nothing overflows
        closed = ROW_TILE * _exp(self.largest[:, few] - own).masked_fill_(is_open, 0.0).sum(0)
        place, tile = is_open.T.nonzero().unbind(1)
        values = self.tiles[tile, :, few[place]] - own[place, None]
        above = values >= 0.0
        pair, offset = above.nonzero().unbind(1)
        logit = values[pair, offset].double() + own[place[pair]]
        below = closed.index_add_(0, place, _exp(values).masked_fill_(above, 0.0).sum(1))
        log_below = torch.full_like(floor, -torch.inf, dtype=torch.float64)
        # sums of float32 terms
        log_below[few] = log_of_sum(below.double(), own)
        row = self._numbers(tile[pair] * ROW_TILE + offset)
        return Pairs(few[place[pair]], row, logit), log_below

    def left(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> Remaining:
        """Return the rows that reach the `floor` of a query in `index`, as :meth:`TileBounds.left`."""
        log_omitted = self.remaining.log_omitted[index]
        tile = (self.largest[:, index] >= floor[index]).any(1).nonzero()[:, 0]
        # gathering rows costs a copy of their features: not worth it for most of them
        if len(tile) >= GATHER_SHARE * len(self.largest):
            return Remaining(self.remaining.left, log_omitted)
        above = (self.tiles[tile][:, :, index] >= floor[index]).any(2)
        position = (tile[:, None] * ROW_TILE + torch.arange(ROW_TILE, device=tile.device))[above]
        total = len(self._place)
        left_out = math.log(total - len(position)) if len(position) < total else -math.inf
        log_omitted = torch.logaddexp(log_omitted, floor[index].double() + left_out)
        return Remaining(self._numbers(position), log_omitted)

    @property
    def _place(self) -> Span | Int64[Tensor, "n"]:
        left = self.remaining.left
        return left if isinstance(left, torch.Tensor) else self.work.span

    def _numbers(self, position: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """Return the rows of the data at positions among these; beyond the last, where nothing counts, any."""
        place = self._place
        return position + place.start if isinstance(place, Span) else place[position.clamp_max(len(place) - 1)]


def _exp(difference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    # in place and never below e^-80: results that underflow take many times as long
    return difference.clamp_(min=-80.0, max=80.0).exp_()
