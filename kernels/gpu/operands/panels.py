"""Triton: tiles of queries that have rows of their own, the segments of a batch by classes, found in one launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Int64, Shaped, Tensor
from ...common.rows import Span

# pairs that the program looks at together at least, so that batches of all sizes share it, and its warps
PANEL_BLOCK, PANEL_WARPS = 1024, 4


@triton.jit
@no_type_check
def larger(first, second):
    """Return the larger of two numbers."""
    return tl.maximum(first, second)


@triton.jit(do_not_specialize=["count", "most", "begin", "height"])
@no_type_check
def panels_kernel(
    p_spans, p_table, p_columns, count, most, begin, height, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Cut runs of equal spans into tiles of BLOCK_B queries, and take `height` rows of each from `begin` on.

    All in one program. p_spans: [P, 2] int64, equal ones beside each other. p_table, p_columns: [most, 4] and [P]
    int32, as in Panels.
    """
    o_p = tl.arange(0, BLOCK)
    m_p = o_p < count
    start, stop = tl.load(p_spans + 2 * o_p, mask=m_p, other=-1), tl.load(p_spans + 2 * o_p + 1, mask=m_p, other=-1)
    m_last = (o_p > 0) & m_p
    m_next = o_p + 1 < count
    new = tl.load(p_spans + 2 * o_p - 2, mask=m_last, other=-2) != start
    new = new | (tl.load(p_spans + 2 * o_p - 1, mask=m_last, other=-2) != stop)
    ends = tl.load(p_spans + 2 * o_p + 2, mask=m_next, other=-2) != start
    ends = ends | (tl.load(p_spans + 2 * o_p + 3, mask=m_next, other=-2) != stop)
    # place in the run of equal spans
    inside = o_p - tl.associative_scan(tl.where(new, o_p, 0), 0, larger)
    head = m_p & (inside % BLOCK_B == 0)
    tail = m_p & (ends | ((inside + 1) % BLOCK_B == 0))
    panel = tl.cumsum(head.to(tl.int32), axis=0) - 1
    total = tl.sum(head.to(tl.int32), axis=0)
    start = tl.minimum(start + begin, stop)
    tl.store(p_columns + o_p, panel * BLOCK_B + inside % BLOCK_B, mask=m_p)
    tl.store(p_table + 4 * panel, o_p, mask=head)
    tl.store(p_table + 4 * panel + 1, o_p + 1, mask=tail)
    tl.store(p_table + 4 * panel + 2, start.to(tl.int32), mask=head)
    tl.store(p_table + 4 * panel + 3, tl.minimum(start + height, stop).to(tl.int32), mask=head)
    for place in tl.static_range(4):
        tl.store(p_table + 4 * o_p + place, o_p * 0, mask=(o_p < most) & (o_p >= total))


@dataclass(frozen=True)
class Panels:
    """Queries sorted by the rows they are about, in tiles of queries with the same rows.

    table: [U, 4] int32: of every tile its first query and the one after the last, its first row and the one after the
    last, all zero for tiles that are not needed. columns: [P] int32, which column of the tiles, [U b], each query has.
    height: the most rows of a tile.
    """

    table: Shaped[Tensor, "U 4"]
    columns: Shaped[Tensor, "P"]
    height: int

    def __len__(self) -> int:
        return self.table.shape[0]

    @staticmethod
    def most(pairs: int, block_b: int, distinct: int | None) -> int:
        """Return how many tiles of `block_b` queries there are at most.

        pairs: of a query and its rows. distinct: how many different rows these have at most, or None.
        """
        return pairs if distinct is None else min(pairs, distinct + pairs // block_b)

    @classmethod
    def of(cls, spans: Int64[Tensor, "P 2"], block_b: int, part: Span, *, most: int) -> Panels:
        """Return the tiles of sorted queries; no synchronisation.

        spans: [P, 2], rows [start, stop) of each query, equal ones beside each other. block_b: queries of a tile. part:
        which of the rows of each query are in its tile, of at least one row. most: tiles, as :meth:`most` tells.
        """
        count = len(spans)
        table = spans.new_empty(most, 4, dtype=torch.int32)
        columns = spans.new_empty(count, dtype=torch.int32)
        block = max(PANEL_BLOCK, triton.next_power_of_2(count))
        panels_kernel[(1,)](
            spans.contiguous(), table, columns, count, most, part.start, len(part), BLOCK_B=block_b, BLOCK=block,
            num_warps=PANEL_WARPS, enable_fp_fusion=True,
        )  # fmt: skip
        return cls(table, columns, len(part))
