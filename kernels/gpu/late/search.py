"""Triton: a search through the levels of a screen on a card: the host launches all of them and asks nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...common.rows import Span
from ...common.search import Mass, Searched, SearchLevel, SearchLimits
from ...common.state import PosteriorState
from ...common.work import Work
from ..operands.given import GivenOperand, float32_parts
from ..rescore.lists import RescoreList
from ..rescore.steps import scored, slice_width
from ..states.pairs import listed_state
from .projection import ROUNDED_UP, projected_coefficients
from .screen_logits import SCREEN_ROWS, ScreenOperand
from .screen_tiles import FIRST_ROWS, Floors, RowsAbove, TileMaxima, TilesLeft
from .search_floor import floor_kernel
from .search_kernels import certify_kernel, list_kernel

# values of D and tiles that a program looks at together, tiles whose rows it lists together, and the most programs
# that share those of a query
CERTIFY_BLOCK, LIST_TILES, LIST_BLOCK, LIST_SHARES = 512, 32, 1024, 16

# slots of the lists of all queries together, 8 MB, and of one query at least
ALL_SLOTS, LEAST_SLOTS = 1 << 20, 256

# the largest number that kernels take
LARGEST_NUMBER = 2**31 - 1


def card_searched(
    work: Work, levels: Sequence[SearchLevel], mass: Mass, entry: Shaped[Tensor, "B"] | None = None
) -> Searched:
    """Return what a search finds for a batch of queries, all of its levels launched; no synchronisation.

    work: the queries, at least one, the rows, their span, and what is wanted. levels: the cheapest first. mass: that
    may be left out of each query. entry: the level that each enters at, the number of levels for none, [B], or
    None for the first; as int32 it is written over.
    Queries to which more rows matter than the limits say at every level, or than the lists have room for, are not
    found. Costs a product with each level for queries that are not found before it, another of their open tiles, and
    a float64 pass over the rows that are listed; memory is 24 bytes for each query and tile and 8 for each slot.
    """
    wished = min(len(work.span), max(level.limits.rows for level in levels))
    room = max(1, min(wished, max(LEAST_SLOTS, ALL_SLOTS // len(work.query))))
    verdicts, left = _begun(entry, mass.largest, len(levels))
    search = _Search(work, mass, verdicts, room)
    for number, level in enumerate(levels):
        left = search.passed(number, level, left)
    return search.found()


@dataclass(frozen=True)
class _Verdicts:
    """What is known of each query, [B] each, as the kernels leave it: see `search_kernels.decide`.

    pending: how many are not found, where that is counted, [1]. first: the most promising rows at each of the L levels,
    as TileMaxima has them.
    """

    enter: Shaped[Tensor, "B"]
    listed: Shaped[Tensor, "B"]
    kept: Int64[Tensor, "B"]
    found: Shaped[Tensor, "B"]
    before: Float64[Tensor, "B"]
    omitted: Float64[Tensor, "B"]
    common: Float64[Tensor, "B"]
    opened: Int64[Tensor, "B"]
    pending: Shaped[Tensor, "1"]
    first: Int64[Tensor, "L F B"]


def _begun(entry: Shaped[Tensor, "B"] | None, like: Float64[Tensor, "B"], levels: int) -> tuple[_Verdicts, TilesLeft]:
    """Return room for what will be known of queries, and what is left to the first level.

    entry: as in :func:`card_searched`. like: a number of each query. levels: how many there are.
    """
    batch, rows = len(like), levels * FIRST_ROWS
    # zeros of any kind, filled together
    zeros = like.new_empty((rows + 1) * batch + 1, dtype=torch.int64).zero_()
    first, own = zeros[: rows * batch].view(levels, FIRST_ROWS, batch), zeros[rows * batch :]
    nothing, none = own[:batch].view(torch.float32).view(2, batch)
    listed, (kept, opened) = like.new_empty(batch, dtype=torch.int32), like.new_empty(2, batch, dtype=torch.int64)
    before, omitted, common = like.new_empty(3, batch)
    # all tiles are left to those that enter at the first level: zero is no less than what is left of them
    enter, left = (none.view(torch.int32), nothing) if entry is None else (entry.to(torch.int32), entry.float())
    found, pending = like.new_empty(batch, dtype=torch.int8), own[batch:].view(torch.int32)[:1]
    verdicts = _Verdicts(enter, listed, kept, found, before, omitted, common, opened, pending, first)
    return verdicts, (nothing[None], left)


class _Search:
    """A search of `work` that leaves out `mass` at most: its lists, and what is known of each query so far."""

    def __init__(self, work: Work, mass: Mass, verdicts: _Verdicts, room: int) -> None:
        """Begin a search; room: rows that the list of a query holds."""
        self.work, self.mass, self.verdicts = work, mass, verdicts
        self.first = verdicts.kept.new_empty(len(work.query), room)
        # lists name rows that count
        query, rows = work.query, work.rows
        self.listed = Work(rows, query.excluding(query.excluded[:, :0]), Span(0, len(rows)), work.wanted)

    def passed(self, number: int, level: SearchLevel, left: TilesLeft) -> TilesLeft:
        """Return what a level leaves to the next one, after listing the rows of the queries that it finds.

        number: of the level. left: what is left to it.
        """
        operand = ScreenOperand.of(self.work, projected_coefficients(self.work, level.terms))
        tiles = TileMaxima.of(operand, left, self.verdicts.first[number])
        floors = self._floors(number, tiles)
        tiles.count(floors)
        above = tiles.above(floors, min(level.limits.tiles, LARGEST_NUMBER))
        return tiles.largest, self._listed(number, level.limits, floors, above)

    def found(self) -> Searched:
        """Return what was found at all levels."""
        known = self.verdicts
        state = listed_state(self.listed, RescoreList(self.first, known.listed, 1, may_overflow=False))
        pending = self._certified(state)
        found = known.found.view(torch.bool)
        return Searched(state, known.omitted, known.kept, known.opened, known.kept, found, pending)

    def _certified(self, state: PosteriorState) -> Shaped[Tensor, "1"] | None:
        """Leave only those queries found whose answers are proved to be within their errors; return how many are not.

        None where errors were not asked for.
        """
        mass, known, dim = self.mass, self.verdicts, self.work.rows.dim
        answer = mass.answer
        if answer is None or mass.error is None:
            return None
        scale, rest, _ = float32_parts(answer.scale)
        parts = (answer.x, answer.base, answer.alpha, answer.direct, answer.gap)
        certify_kernel[(len(known.enter),)](
            state.mean, state.lse, known.omitted, mass.error.contiguous(), *(part.contiguous() for part in parts),
            known.found, known.pending, dim, scale, rest, ROUNDED_UP * answer.scale, ROUNDED_UP * self.work.rows.radius,
            BLOCK=CERTIFY_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return known.pending

    def _floors(self, number: int, tiles: TileMaxima) -> Floors:
        """Return the floors that the first rows of a level prove, infinite for queries that take no part."""
        work, mass, query, known = self.work, self.mass, self.work.query, self.verdicts
        answer, batch = mass.answer, len(query)
        parts: tuple[Tensor, ...] = (query.point, *[known.common] * 4)
        if answer is not None:
            parts = (answer.x, answer.base, answer.alpha, answer.direct, answer.gap)
        floor, reached = known.common.new_empty(batch, dtype=torch.float32), known.listed.new_empty(batch)
        closed = known.kept.new_empty(batch)
        floor_kernel[(batch,)](
            *scored(work), tiles.first, mass.largest.contiguous(), *(part.contiguous() for part in parts), known.enter,
            floor, known.common, reached, closed, batch, work.span.start, number, work.rows.dim,
            work.rows.stored.stride(0), *float32_parts(1.0 if answer is None else answer.scale)[:2], work.rows.radius,
            GivenOperand.of(work).reach, math.log(len(work.span)), ANSWER=answer is not None,
            WEIGHTED=work.rows.log_weights is not None, FIRST=FIRST_ROWS, BLOCK=slice_width(work.rows.dim),
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return Floors(floor, reached, closed)

    def _listed(self, number: int, limits: SearchLimits, floors: Floors, above: RowsAbove) -> Float[Tensor, "B"]:
        """List the rows of the queries that are found at this level; return what tiles have to reach that are left."""
        (batch, room), tiles, known = self.first.shape, above.bits.shape[1], self.verdicts
        shares, left = max(1, min(LIST_SHARES, triton.cdiv(tiles, LIST_BLOCK))), torch.empty_like(floors.floor)
        list_kernel[(batch, shares)](
            above.bits, above.count, above.below, floors.floor, floors.reached, floors.closed, left, known.enter,
            known.listed, known.kept, known.found, known.opened, known.before, known.omitted, known.common, self.first,
            tiles, number, min(limits.tiles, LARGEST_NUMBER), min(limits.rows, room), room, above.start,
            BLOCK=LIST_BLOCK, BLOCK_T=LIST_TILES, BLOCK_N=SCREEN_ROWS, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return left
