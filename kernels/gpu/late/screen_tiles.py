"""Triton: what a level of a screen tells of tiles of rows: their largest upper logits, and the rows above a floor.

Upper logits exist only in registers: kept of them are the largest of each tile, and where the most promising are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Int64, Shaped, Tensor
from ..jit.masks import covered_by_ranges
from .screen_logits import SCREEN_ROWS, ScreenOperand, upper_logits

# tiles that a program compares with floors at once, their queries, and the most programs that share those of a query
CLOSE_TILES, CLOSE_QUERIES, CLOSE_SHARES = 32, 32, 64

# rows that are named as the most promising: one of every so many tiles
FIRST_ROWS = 4

# weights of closed tiles are counted in parts of the weight at the floor: sums of whole numbers have one order
CLOSED_PARTS = 1 << 30

# what a level leaves to the next one: numbers of its tiles, [T, B] or [1, B] for all of them, its largest upper logits,
# and for each query the number from which on a tile is left, [B]: all are left of -inf, none of inf
TilesLeft = tuple[Float[Tensor, "_ B"], Float[Tensor, "B"]]

# weights further below a floor are rounded up to this one, in nats
_LEAST_GAP = tl.constexpr(-80.0)

_SCREEN_ROWS, _FIRST_ROWS, _CLOSED_PARTS = (
    tl.constexpr(SCREEN_ROWS),
    tl.constexpr(FIRST_ROWS),
    tl.constexpr(float(CLOSED_PARTS)),
)

# bits that the place of a row takes beside its upper logit
_PLACE_BITS, _PLACES = tl.constexpr(31), tl.constexpr((1 << 31) - 1)


@triton.jit
@no_type_check
def screen_tile(start, stop, batch, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return the tile of this program, its rows and which exist, and its queries and which exist."""
    panels = tl.cdiv(batch, BLOCK_B)
    i_n = tl.program_id(0) // panels
    o_b = (tl.program_id(0) % panels) * BLOCK_B + tl.arange(0, BLOCK_B)
    row = start.to(tl.int64) + i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    return i_n, row, row < stop, o_b, o_b < batch


@triton.jit
@no_type_check
def promise(b_upper, place):
    """Return whole numbers above zero that are the larger, the larger float32 numbers are, and hold a place each."""
    bits = b_upper.to(tl.int32, bitcast=True)
    rank = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64) + 2147483648
    return (rank << _PLACE_BITS) | place


@triton.jit
@no_type_check
def named_first(p_first, first_row, batch, FIRST: tl.constexpr):
    """Return the rows whose `promise` a column of [FIRST, B] holds, and which of them there are; places are theirs."""
    key = tl.load(p_first + tl.arange(0, FIRST) * batch)
    return first_row.to(tl.int64) + (key & _PLACES), key > 0


@triton.jit(do_not_specialize=["start", "stop", "batch", "excluded", "before_stride"])
@no_type_check
def maxima_kernel(
    p_codes, p_digits, p_worth, p_origin, p_features, p_gains, p_half_norm, p_log_weight, p_norm_gain, p_products,
    p_column, p_shared_gain, p_slack, p_excluded, start, stop, batch, width, code_stride, feature_width,
    feature_stride, product_stride, excluded, p_before, p_left, p_largest, p_first, before_stride,
    DIGITS: tl.constexpr, FEATURES: tl.constexpr, NORMED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The largest upper logit of a tile of rows for some queries, [T, B], and what it promises.

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. p_before: [T, B]. p_left: [B]. Tiles whose number
    before is below what is left to this level, or of which no row counts, are -inf, and cost nothing where that is so
    for all queries. p_first: [FIRST_ROWS, B] int64, zeros before: the largest `promise` of every so many tiles.
    """
    i_n, row, m_n, o_b, m_b = screen_tile(start, stop, batch, BLOCK_N, BLOCK_B)
    o_tile = i_n.to(tl.int64) * batch + o_b
    before = tl.load(p_before + i_n.to(tl.int64) * before_stride + o_b, mask=m_b, other=float("-inf"))
    m_open = m_b & (before >= tl.load(p_left + o_b, mask=m_b, other=float("inf")))
    first_row = start.to(tl.int64) + i_n * BLOCK_N
    last_row = tl.minimum(first_row + BLOCK_N, stop)
    m_open &= covered_by_ranges(first_row, last_row, o_b.to(tl.int64), m_b, p_excluded, excluded) == 0
    largest = tl.full([BLOCK_B], float("-inf"), dtype=tl.float32)
    place = tl.zeros([BLOCK_B], dtype=tl.int32)
    if tl.max(m_open.to(tl.int32), axis=0) > 0:
        codes = (p_codes, p_digits, p_worth, p_origin, width, code_stride, batch)
        b_upper = upper_logits(
            codes, (p_features, p_gains, feature_width, feature_stride), (p_half_norm, p_log_weight, p_norm_gain),
            (p_products, p_column, p_shared_gain, product_stride), p_slack, (p_excluded, excluded), row, m_n, o_b,
            m_open, DIGITS, FEATURES, NORMED, WEIGHTED, SHARED, BLOCK_D, BLOCK_E,
        )  # fmt: skip
        largest, place = tl.max(b_upper, axis=0, return_indices=True)
    tl.store(p_largest + o_tile, largest, mask=m_b)
    key, p_key = promise(largest, i_n.to(tl.int64) * BLOCK_N + place), p_first + (i_n % _FIRST_ROWS) * batch + o_b
    # most are not the largest; one that was smaller when it was read may be passed by
    m_first = m_b & (largest > float("-inf"))
    m_first &= key > tl.load(p_key, mask=m_first, other=0)
    tl.atomic_max(p_key, key, mask=m_first, sem="relaxed")


@triton.jit(do_not_specialize=["start", "stop", "batch", "excluded", "most"])
@no_type_check
def above_kernel(
    p_codes, p_digits, p_worth, p_origin, p_features, p_gains, p_half_norm, p_log_weight, p_norm_gain, p_products,
    p_column, p_shared_gain, p_slack, p_excluded, start, stop, batch, width, code_stride, feature_width,
    feature_stride, product_stride, excluded, p_largest, p_floor, p_reached, p_bits, p_count, p_below, most,
    DIGITS: tl.constexpr, FEATURES: tl.constexpr, NORMED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The rows of a tile that reach the floors of queries that are open to it: a bit each, and how many there are.

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. p_largest: [T, B]. p_floor: [B]. p_reached: [B], how
    many tiles are open; a query with more than `most` is not looked into. p_bits, p_count, p_below: [B, T] int64, int32
    and float32, the last the weights of the other rows relative to the floor, zero where closed.
    """
    i_n, row, m_n, o_b, m_b = screen_tile(start, stop, batch, BLOCK_N, BLOCK_B)
    o_tile = i_n.to(tl.int64) * batch + o_b
    floor = tl.load(p_floor + o_b, mask=m_b, other=float("inf"))
    m_few = m_b & (tl.load(p_reached + o_b, mask=m_b, other=0) <= most)
    m_open = m_few & (tl.load(p_largest + o_tile, mask=m_b, other=float("-inf")) >= floor)
    bits = tl.zeros([BLOCK_B], dtype=tl.int64)
    count = tl.zeros([BLOCK_B], dtype=tl.int32)
    below = tl.zeros([BLOCK_B], dtype=tl.float32)
    if tl.max(m_open.to(tl.int32), axis=0) > 0:
        codes = (p_codes, p_digits, p_worth, p_origin, width, code_stride, batch)
        b_upper = upper_logits(
            codes, (p_features, p_gains, feature_width, feature_stride), (p_half_norm, p_log_weight, p_norm_gain),
            (p_products, p_column, p_shared_gain, product_stride), p_slack, (p_excluded, excluded), row, m_n, o_b,
            m_open, DIGITS, FEATURES, NORMED, WEIGHTED, SHARED, BLOCK_D, BLOCK_E,
        )  # fmt: skip
        m_counts = b_upper > float("-inf")
        m_above = m_counts & (b_upper >= floor[None, :])
        b_gap = tl.where(m_counts & (m_above == 0), b_upper - floor[None, :], 0.0)
        b_weight = tl.where(m_counts & (m_above == 0), tl.exp(tl.maximum(b_gap, _LEAST_GAP)), 0.0)
        below = tl.sum(b_weight, axis=0)
        count = tl.sum(m_above.to(tl.int32), axis=0)
        bits = tl.sum(m_above.to(tl.int64) << tl.arange(0, BLOCK_N).to(tl.int64)[:, None], axis=0)
    o_query = o_b.to(tl.int64) * tl.cdiv(stop - start, BLOCK_N) + i_n
    tl.store(p_bits + o_query, bits, mask=m_b)
    tl.store(p_count + o_query, count, mask=m_b)
    tl.store(p_below + o_query, below, mask=m_b)


@triton.jit(do_not_specialize=["tiles", "batch"])
@no_type_check
def close_kernel(
    p_largest, p_floor, p_reached, p_closed, tiles, batch, BLOCK_T: tl.constexpr, BLOCK_B: tl.constexpr
):  # fmt: skip
    """Count the tiles that reach the floor of a query, and the weights of all others relative to it, of one share.

    p_largest: [tiles, B]. p_floor: [B]. p_reached, p_closed: [B] int32 and int64, which are added to; the latter in
    parts, rounded up.
    """
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    m_b = o_b < batch
    floor = tl.load(p_floor + o_b, mask=m_b, other=float("inf"))
    reached = tl.zeros([BLOCK_B], dtype=tl.int32)
    below = tl.zeros([BLOCK_B], dtype=tl.float64)
    for start in range(tl.program_id(1) * BLOCK_T, tiles, tl.num_programs(1) * BLOCK_T):
        o_t = start + tl.arange(0, BLOCK_T)
        p_tile = p_largest + o_t.to(tl.int64)[:, None] * batch + o_b[None, :]
        b_largest = tl.load(p_tile, mask=(o_t < tiles)[:, None] & m_b[None, :], other=float("-inf"))
        m_open = b_largest >= floor[None, :]
        m_closed = (m_open == 0) & (b_largest > float("-inf"))
        b_gap = tl.where(m_closed, b_largest - floor[None, :], 0.0)
        b_weight = tl.where(m_closed, tl.exp(tl.maximum(b_gap, _LEAST_GAP)), 0.0)
        reached += tl.sum(m_open.to(tl.int32), axis=0)
        # all rows of a tile at most
        below += tl.sum(b_weight, axis=0).to(tl.float64) * _SCREEN_ROWS
    # whole numbers: the order of the sums does not matter
    closed = tl.ceil(below * _CLOSED_PARTS).to(tl.int64)
    tl.atomic_add(p_reached + o_b, reached, mask=m_b & (reached > 0), sem="relaxed")
    tl.atomic_add(p_closed + o_b, closed, mask=m_b & (closed > 0), sem="relaxed")


@dataclass(frozen=True)
class Floors:
    """What upper logits have to reach for a row to matter, and how many tiles of a level do, [B] each.

    floor: float32, infinite for queries that are not asked about. reached: tiles that reach it, int32. closed: weights
    of all others relative to the floor, in parts of a CLOSED_PARTS-th, int64.
    """

    floor: Float[Tensor, "B"]
    reached: Shaped[Tensor, "B"]
    closed: Int64[Tensor, "B"]


@dataclass(frozen=True)
class TileMaxima:
    """The largest upper logit of every tile of 64 rows at one level of a screen, for a batch of queries.

    operand: of the level. largest: [T, B] float32, -inf where nothing counts. first: the most promising row of every
    FIRST_ROWS-th tile of a query, as `named_first` reads it, [FIRST_ROWS, B] int64.
    """

    operand: ScreenOperand
    largest: Float[Tensor, "T B"]
    first: Int64[Tensor, "F B"]

    @classmethod
    def of(cls, operand: ScreenOperand, left: TilesLeft, first: Int64[Tensor, "F B"]) -> TileMaxima:
        """Return what a level tells of all rows of a span, or of those that are left to it; no synchronisation.

        operand: of the level and its queries. left: what is left to it of each query. first: zeros, [FIRST_ROWS, B].
        Costs a product of 2 n B w operations, and 4 bytes for each query and tile.
        """
        before, least = left
        largest = before.new_empty(operand.tiles, operand.batch)
        maxima_kernel[operand.grid](
            *operand.arguments, before, least, largest, first, before.expand_as(largest).stride(0), **operand.constants
        )
        return cls(operand, largest, first)

    def count(self, floors: Floors) -> None:
        """Add to `floors` how many tiles reach them, and the weights of all others; no wait."""
        tiles, batch = self.largest.shape
        shares = min(CLOSE_SHARES, triton.cdiv(tiles, CLOSE_TILES))
        close_kernel[(triton.cdiv(batch, CLOSE_QUERIES), shares)](
            self.largest, floors.floor, floors.reached, floors.closed, tiles, batch, BLOCK_T=CLOSE_TILES,
            BLOCK_B=CLOSE_QUERIES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip

    def above(self, floors: Floors, most: int) -> RowsAbove:
        """Return the rows that reach the `floors` of queries with at most so many open tiles; no wait.

        floors: counted. Costs the product of the open tiles once more, and 16 bytes for each query and tile.
        """
        tiles, batch = self.largest.shape
        below = self.largest.new_empty(batch, tiles)
        count, bits = below.new_empty(batch, tiles, dtype=torch.int32), below.new_empty(batch, tiles, dtype=torch.int64)
        above_kernel[self.operand.grid](
            *self.operand.arguments, self.largest, floors.floor, floors.reached, bits, count, below, most,
            **self.operand.constants,
        )  # fmt: skip
        return RowsAbove(bits, count, below, self.operand.start)


@dataclass(frozen=True)
class RowsAbove:
    """The rows of tiles that reach the floors of queries.

    bits: one for each row of a tile, [B, T] int64. count: how many are set, [B, T] int32. below: the weights of the
    other rows of open tiles, relative to the floor, [B, T] float32. start: the row that the first tile begins with.
    """

    bits: Int64[Tensor, "B T"]
    count: Shaped[Tensor, "B T"]
    below: Float[Tensor, "B T"]
    start: int
