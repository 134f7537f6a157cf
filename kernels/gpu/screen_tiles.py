"""Triton: what a level of a screen tells of tiles of rows: their largest upper logits, and the rows above a floor.

Upper logits exist only in registers: kept of them are the largest of each tile and where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from .rescore_list import RescoreList
from .screen_logits import SCREEN_ROWS, ScreenOperand, upper_logits

# tiles that a program compares with floors at once, their queries, and the most programs that share those of a query
CLOSE_TILES, CLOSE_QUERIES, CLOSE_SHARES = 32, 32, 64

# queries whose first rows a program names, and how many it can name of each
FIRST_QUERIES, MOST_FIRST = 32, 4

# what a level leaves to the next one: numbers of its tiles, [T, B] or [1, B] for all of them, its largest upper logits,
# and for each query the number from which on a tile is left, [B]: all are left of -inf, none of inf
TilesLeft = tuple[Float[Tensor, "_ B"], Float[Tensor, "B"]]

# weights further below a floor are rounded up to this one, in nats
_LEAST_GAP = tl.constexpr(-80.0)

_SCREEN_ROWS = tl.constexpr(SCREEN_ROWS)


@triton.jit
@no_type_check
def screen_tile(start, stop, batch, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return the tile of this program, its rows and which exist, and its queries and which exist."""
    panels = tl.cdiv(batch, BLOCK_B)
    i_n = tl.program_id(0) // panels
    o_b = (tl.program_id(0) % panels) * BLOCK_B + tl.arange(0, BLOCK_B)
    row = start.to(tl.int64) + i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    return i_n, row, row < stop, o_b, o_b < batch


@triton.jit(do_not_specialize=["start", "stop", "batch", "excluded", "before_stride"])
@no_type_check
def maxima_kernel(
    p_codes, p_digits, p_worth, p_origin, p_features, p_gains, p_half_norm, p_log_weight, p_norm_gain, p_products,
    p_column, p_shared_gain, p_slack, p_excluded, start, stop, batch, width, code_stride, feature_width,
    feature_stride, product_stride, excluded, p_before, p_left, p_largest, p_place, before_stride,
    DIGITS: tl.constexpr, FEATURES: tl.constexpr, NORMED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The largest upper logit of a tile of rows for some queries, [T, B], and the place of its row in the tile.

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. p_before: [T, B]. p_left: [B]. Tiles whose number
    before is below what is left to this level are -inf, and cost nothing where that is so for all queries.
    """
    i_n, row, m_n, o_b, m_b = screen_tile(start, stop, batch, BLOCK_N, BLOCK_B)
    o_tile = i_n.to(tl.int64) * batch + o_b
    before = tl.load(p_before + i_n.to(tl.int64) * before_stride + o_b, mask=m_b, other=float("-inf"))
    m_open = m_b & (before >= tl.load(p_left + o_b, mask=m_b, other=float("inf")))
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
    tl.store(p_place + o_tile, place.to(tl.int8), mask=m_b)


@triton.jit(do_not_specialize=["start", "stop", "batch", "excluded"])
@no_type_check
def above_kernel(
    p_codes, p_digits, p_worth, p_origin, p_features, p_gains, p_half_norm, p_log_weight, p_norm_gain, p_products,
    p_column, p_shared_gain, p_slack, p_excluded, start, stop, batch, width, code_stride, feature_width,
    feature_stride, product_stride, excluded, p_largest, p_floor, p_bits, p_count, p_below,
    DIGITS: tl.constexpr, FEATURES: tl.constexpr, NORMED: tl.constexpr, WEIGHTED: tl.constexpr, SHARED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The rows of a tile that reach the floors of queries that are open to it: a bit each, and how many there are.

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. p_largest: [T, B]. p_floor: [B]. p_bits, p_count,
    p_below: [B, T] int64, int32 and float32, the last the weights of the other rows relative to the floor, zero where
    closed.
    """
    i_n, row, m_n, o_b, m_b = screen_tile(start, stop, batch, BLOCK_N, BLOCK_B)
    o_tile = i_n.to(tl.int64) * batch + o_b
    floor = tl.load(p_floor + o_b, mask=m_b, other=float("inf"))
    m_open = m_b & (tl.load(p_largest + o_tile, mask=m_b, other=float("-inf")) >= floor)
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
    p_largest, p_floor, p_reached, p_below, tiles, batch, BLOCK_T: tl.constexpr, BLOCK_B: tl.constexpr
):  # fmt: skip
    """How many tiles of one share reach the floor of a query, and the weights of all others relative to it.

    p_largest: [tiles, B]. p_floor: [B]. p_reached, p_below: [shares, B] int32 and float64.
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
    o_out = tl.program_id(1) * batch + o_b
    tl.store(p_reached + o_out, reached, mask=m_b)
    tl.store(p_below + o_out, below, mask=m_b)


@triton.jit(do_not_specialize=["batch", "found", "first_row"])
@no_type_check
def first_rows_kernel(
    p_upper, p_tile, p_place, p_row, p_count, batch, found, first_row, BLOCK_F: tl.constexpr, BLOCK_B: tl.constexpr
):  # fmt: skip
    """Name the rows that the largest upper logits of tiles belong to, and count those that do count.

    p_upper, p_tile: [found, B] float32, falling, and int64. p_place: [T, B]. p_row: [B, found]. p_count: [B].
    """
    o_b, o_f = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_F)
    mask = (o_f < found)[:, None] & (o_b < batch)[None, :]
    o_in = o_f[:, None] * batch + o_b[None, :]
    m_counts = tl.load(p_upper + o_in, mask=mask, other=float("-inf")) > float("-inf")
    tile = tl.load(p_tile + o_in, mask=mask, other=0)
    place = tl.load(p_place + tile * batch + o_b[None, :], mask=mask, other=0).to(tl.int64)
    row = first_row.to(tl.int64) + tile * _SCREEN_ROWS + place
    tl.store(p_row + o_b.to(tl.int64)[None, :] * found + o_f[:, None], row, mask=mask)
    tl.store(p_count + o_b, tl.sum(m_counts.to(tl.int32), axis=0), mask=o_b < batch)


@dataclass(frozen=True)
class TileMaxima:
    """The largest upper logit of every tile of 64 rows at one level of a screen, for a batch of queries.

    operand: of the level. largest: [T, B] float32, -inf where nothing counts. place: of its row in the tile, [T, B].
    """

    operand: ScreenOperand
    largest: Float[Tensor, "T B"]
    place: Shaped[Tensor, "T B"]

    @classmethod
    def of(cls, operand: ScreenOperand, left: TilesLeft) -> TileMaxima:
        """Return what a level tells of all rows of a span, or of those that are left to it; no synchronisation.

        operand: of the level and its queries. left: what is left to it of each query.
        Costs a product of 2 n B w operations, and 5 bytes for each query and tile.
        """
        before, least = left
        largest = before.new_empty(operand.tiles, operand.batch)
        place = largest.new_empty(largest.shape, dtype=torch.int8)
        maxima_kernel[operand.grid](
            *operand.arguments, before, least, largest, place, before.expand_as(largest).stride(0), **operand.constants
        )
        return cls(operand, largest, place)

    def promising(self) -> RescoreList:
        """Return the rows with the largest upper logits of each query, one a tile, MOST_FIRST at most; no wait."""
        (tiles, batch), operand = self.largest.shape, self.operand
        upper, tile = self.largest.topk(min(MOST_FIRST, tiles), dim=0)
        first = tile.new_empty(batch, len(tile))
        count = first.new_empty(batch, dtype=torch.int32)
        first_rows_kernel[(triton.cdiv(batch, FIRST_QUERIES),)](
            upper, tile, self.place, first, count, batch, len(tile), operand.start, BLOCK_F=MOST_FIRST,
            BLOCK_B=FIRST_QUERIES, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
        return RescoreList(first, count, 1, may_overflow=False)

    def against(self, floor: Float[Tensor, "B"]) -> tuple[Shaped[Tensor, "S B"], Float64[Tensor, "S B"]]:
        """Return how many tiles of a share reach the `floor`, and the weights of its others relative to it; no wait."""
        tiles, batch = self.largest.shape
        shares = min(CLOSE_SHARES, triton.cdiv(tiles, CLOSE_TILES))
        below = floor.new_empty(shares, batch, dtype=torch.float64)
        reached = below.new_empty(shares, batch, dtype=torch.int32)
        close_kernel[(triton.cdiv(batch, CLOSE_QUERIES), shares)](
            self.largest, floor, reached, below, tiles, batch, BLOCK_T=CLOSE_TILES, BLOCK_B=CLOSE_QUERIES, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        return reached, below

    def above(self, floor: Float[Tensor, "B"]) -> RowsAbove:
        """Return the rows that reach the `floor`, infinite where nobody looks; no wait.

        Costs the product of the open tiles once more, and 16 bytes for each query and tile.
        """
        tiles, batch = self.largest.shape
        below = self.largest.new_empty(batch, tiles)
        count, bits = below.new_empty(batch, tiles, dtype=torch.int32), below.new_empty(batch, tiles, dtype=torch.int64)
        above_kernel[self.operand.grid](
            *self.operand.arguments, self.largest, floor, bits, count, below, **self.operand.constants
        )
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
