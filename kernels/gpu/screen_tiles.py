"""Triton: what a level of a screen tells of tiles of rows: their largest upper logits, and the rows above a floor.

Upper logits exist only in registers: kept of them are the largest of each tile and where it is.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Float64, Int64, Tensor
from ..common.rescore import Pairs
from ..common.screen_terms import OpenTiles, Shared, Terms, log_of_sum
from ..common.work import Work
from .screen_logits import SCREEN_ROWS, ScreenOperand, upper_logits

# tiles that a program compares with floors at once, their queries, and the most programs that share those of a query
CLOSE_TILES, CLOSE_QUERIES, CLOSE_SHARES = 32, 32, 64

# tiles of a query whose rows a program names together
NAMED_TILES = 32

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


@triton.jit(do_not_specialize=["start", "stop", "batch", "excluded"])
@no_type_check
def maxima_kernel(
    p_codes, p_digits, p_worth, p_origin, p_features, p_gains, p_half_norm, p_log_weight, p_norm_gain, p_products,
    p_column, p_shared_gain, p_slack, p_excluded, start, stop, batch, width, code_stride, feature_width,
    feature_stride, product_stride, excluded, p_before, p_floor, p_largest, p_place,
    BEFORE: tl.constexpr, DIGITS: tl.constexpr, FEATURES: tl.constexpr, NORMED: tl.constexpr, WEIGHTED: tl.constexpr,
    SHARED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The largest upper logit of a tile of rows for some queries, [T, B], and the place of its row in the tile.

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. BEFORE: a level before knew p_before [T, B]; tiles
    that did not reach p_floor [B] there are -inf, and cost nothing where that is so for all queries.
    """
    i_n, row, m_n, o_b, m_b = screen_tile(start, stop, batch, BLOCK_N, BLOCK_B)
    o_tile = i_n.to(tl.int64) * batch + o_b
    m_open = m_b
    if BEFORE:
        before = tl.load(p_before + o_tile, mask=m_b, other=float("-inf"))
        m_open = m_b & (before >= tl.load(p_floor + o_b, mask=m_b, other=float("inf")))
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

    p_codes .. p_excluded, width .. excluded: see `upper_logits`. p_largest: [T, B]. p_floor: [B]. p_bits, p_count:
    [B, T] int64 and int32. p_below: [T, B], the weights of the other rows relative to the floor, zero where closed.
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
    tl.store(p_below + o_tile, below, mask=m_b)


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


@triton.jit(do_not_specialize=["tiles", "batch", "first_row"])
@no_type_check
def named_kernel(
    p_bits, p_end, p_count, p_largest, p_query, p_row, p_upper, tiles, batch, first_row,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the rows of some tiles of a query whose bits are set, with its number and the largest of their tile.

    p_bits, p_count: [B, tiles]. p_end: [B, tiles] int64, sums of the counts up to each. p_largest: [tiles, B].
    p_query, p_row: int64, and p_upper: float64, as many as all counts come to.
    """
    i_b = tl.program_id(0).to(tl.int64)
    o_t, o_n = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_N)
    m_t = o_t < tiles
    bits = tl.load(p_bits + i_b * tiles + o_t, mask=m_t, other=0)
    first = tl.load(p_end + i_b * tiles + o_t, mask=m_t, other=0) - tl.load(
        p_count + i_b * tiles + o_t, mask=m_t, other=0
    )
    largest = tl.load(p_largest + o_t.to(tl.int64) * batch + i_b, mask=m_t, other=0.0).to(tl.float64)
    # [BLOCK_T, BLOCK_N]
    b_set = ((bits[:, None] >> o_n.to(tl.int64)[None, :]) & 1).to(tl.int32)
    m_set = (b_set > 0) & m_t[:, None]
    b_slot = first[:, None] + tl.cumsum(b_set, axis=1) - 1
    b_row = first_row + o_t.to(tl.int64)[:, None] * BLOCK_N + o_n[None, :]
    tl.store(p_query + b_slot, tl.zeros([BLOCK_T, BLOCK_N], dtype=tl.int64) + i_b, mask=m_set)
    tl.store(p_row + b_slot, b_row, mask=m_set)
    tl.store(p_upper + b_slot, tl.zeros([BLOCK_T, BLOCK_N], dtype=tl.float64) + largest[:, None], mask=m_set)


class TritonLevel:
    """One level of a screen for a batch of queries: the largest upper logit of every tile of 64 rows.

    largest: [T, B] float32, -inf where nothing counts. pair_error: nothing is known of the rows that are found.
    """

    pair_error: Float64[Tensor, "B"] | None = None

    def __init__(self, work: Work, terms: Terms, shared: Shared | None = None, before: OpenTiles | None = None) -> None:
        """Bound all rows of the span of `work`, or those of tiles that are open in the level `before`.

        work: the queries, the rows and their span. terms, shared: of the upper logits, up to |q|^2 / 2 sigma^2. No
        synchronisation. Costs a product of 2 n B w operations, and 5 bytes for each query and tile.
        """
        self.operand, self._first_row = ScreenOperand.of(work, terms, shared), work.span.start
        self.largest = terms.slack.new_empty(self.operand.tiles, len(work.query), dtype=torch.float32)
        self._place = self.largest.new_empty(self.largest.shape, dtype=torch.int8)
        known = (self.largest, self.largest) if before is None else (before.largest, before.floor)
        maxima_kernel[self.operand.grid](
            *self.operand.arguments, *known, self.largest, self._place, BEFORE=before is not None,
            **self.operand.constants,
        )  # fmt: skip

    def promising(self, count: int) -> Pairs:
        """Return the rows with the largest upper logits of each query, one a tile, `count` at most; one wait."""
        upper, tile = self.largest.topk(min(count, len(self.largest)), dim=0)
        row = torch.add(self._place.gather(0, tile), tile, alpha=SCREEN_ROWS).add_(self._first_row)
        query, column = (-torch.inf < upper.T).nonzero().unbind(1)
        return Pairs(query, row[column, query], upper[column, query].double())

    def against(self, floor: Float[Tensor, "B"]) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return how many tiles reach the `floor`, and the weights of all others relative to it, [B]; no wait."""
        tiles, batch = self.largest.shape
        shares = min(CLOSE_SHARES, triton.cdiv(tiles, CLOSE_TILES))
        below = floor.new_empty(shares, batch, dtype=torch.float64)
        reached = below.new_empty(shares, batch, dtype=torch.int32)
        close_kernel[(triton.cdiv(batch, CLOSE_QUERIES), shares)](
            self.largest, floor.contiguous(), reached, below, tiles, batch, BLOCK_T=CLOSE_TILES,
            BLOCK_B=CLOSE_QUERIES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return reached.sum(0), below.sum(0)

    def above(
        self,
        floor: Float[Tensor, "B"],
        against: tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]],
        few: Int64[Tensor, "f"],
    ) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows of the queries in `few` that reach the `floor`, and the log of what their others hold.

        against: what :meth:`against` said of this floor. Rows have the largest upper logit of their tile, which bounds
        theirs. The log is -inf for other queries. The host waits once, for the number of rows. Costs the product of the
        open tiles once more, and 20 bytes for each query and tile.
        """
        tiles, batch = self.largest.shape
        chosen = torch.full_like(floor, torch.inf).index_copy_(0, few, floor[few])
        bits = few.new_empty(batch, tiles)
        count, open_below = bits.new_empty(batch, tiles, dtype=torch.int32), self.largest.new_empty(tiles, batch)
        above_kernel[self.operand.grid](
            *self.operand.arguments, self.largest, chosen, bits, count, open_below, **self.operand.constants
        )
        end = count.view(-1).cumsum(0)
        found = self._named(bits, count, end, int(end[-1]))
        below = against[1] + open_below.sum(0, dtype=torch.float64)
        log_below = torch.full_like(below, -torch.inf).index_copy_(0, few, log_of_sum(below, floor)[few])
        return found, log_below

    def _named(self, bits: Int64[Tensor, "B T"], count: Tensor, end: Int64[Tensor, "n"], total: int) -> Pairs:
        (batch, tiles), row = bits.shape, bits.new_empty(total)
        query, upper = torch.empty_like(row), row.new_empty(total, dtype=torch.float64)
        named_kernel[(batch, triton.cdiv(tiles, NAMED_TILES))](
            bits, end, count, self.largest, query, row, upper, tiles, batch, self._first_row, BLOCK_T=NAMED_TILES,
            BLOCK_N=SCREEN_ROWS, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return Pairs(query, row, upper)

    def open(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> OpenTiles:
        """Return what the next level needs to know of the tiles that reach the `floor`, of the queries in `index`."""
        return OpenTiles(self.largest.index_select(1, index), floor[index])
