"""Triton: pairs of a query and a segment in the order in which a scan takes them, equal segments beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import triton
import triton.language as tl

from ....base.arrays import Int64, Tensor
from ...common.rows import Query
from ..operands.moved_query import taken

# pairs that a program compares at once
SEGMENT_BLOCK = 64


@triton.jit
@no_type_check
def segment_key(p_spans, o_p, m_p, longest, rows):
    """Return the segments of some pairs, and what they are sorted by.

    Those of more than `longest` rows are apart: they have none here, and are sorted behind all others, even those of no
    row, which are all alike and whose key is rows (rows + 2).
    """
    start = tl.load(p_spans + 2 * o_p, mask=m_p, other=0)
    stop = tl.load(p_spans + 2 * o_p + 1, mask=m_p, other=0)
    m_apart = stop - start > longest
    m_some = (stop > start) & (m_apart == 0)
    start, stop = tl.where(m_some, start, 0), tl.where(m_some, stop, 0)
    key = tl.where(m_some, start * (rows.to(tl.int64) + 1) + stop, rows.to(tl.int64) * (rows + 2))
    return start, stop, key + m_apart.to(tl.int64)


@triton.jit
@no_type_check
def store_ranges(p_range, p_from, excluded, mask):
    """Copy the `excluded` ranges at p_from to p_range, [BLOCK] pointers both, and return where the next one goes."""
    for _ in range(excluded):
        tl.store(p_range, tl.load(p_from, mask=mask, other=0), mask=mask)
        tl.store(p_range + 1, tl.load(p_from + 1, mask=mask, other=0), mask=mask)
        p_range += 2
        p_from += 2
    return p_range


@triton.jit
@no_type_check
def store_between(p_between, p_spans, p_from, o_p, m_p, query, each, rows, excluded):
    """Write what some of the pairs know of the ranges that do not count for their query, [B, excluded + each + 1, 2].

    What it excludes, and all rows before, between and behind its `each` spans: pairs are those of the queries in turn.
    """
    place = o_p - query * each
    m_first = m_p & (place == 0)
    p_range = store_ranges(p_between + query * (excluded + each + 1) * 2, p_from, excluded, m_first)
    tl.store(p_range, tl.zeros(o_p.shape, dtype=tl.int64), mask=m_first)
    tl.store(p_range + 2 * place + 1, tl.load(p_spans + 2 * o_p, mask=m_p, other=0), mask=m_p)
    tl.store(p_range + 2 * place + 2, tl.load(p_spans + 2 * o_p + 1, mask=m_p, other=0), mask=m_p)
    tl.store(p_range + 2 * each + 1, tl.zeros(o_p.shape, dtype=tl.int64) + rows, mask=m_p & (place == each - 1))


@triton.jit(do_not_specialize=["count", "each", "longest", "rows", "excluded"])
@no_type_check
def segment_order_kernel(
    p_spans, p_pairs, p_excluded, p_order, p_place, p_query, p_own, p_ranges, p_between, p_apart, count, each, longest,
    rows, excluded, UNIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sort some of the pairs by their segments, and write for each what the scan is told in its place.

    p_spans: [P, 2] and p_pairs: [P], the query of each. p_excluded: [B, excluded, 2]. p_order, p_place, p_query: [P],
    the pair in each place, the place of each pair, and the query in each place. p_own: [P, 2], the segment there.
    p_ranges: [P, excluded + 2, 2], rows that do not count there: what its query excludes, and all outside the segment.
    p_between: [B, excluded + each + 1, 2], rows that do not count for a query of `each` pairs, where UNIONS are asked
    for. p_apart: [1], how many pairs are apart.
    """
    o_p = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_p = o_p < count
    start, stop, key = segment_key(p_spans, o_p, m_p, longest, rows)
    place = tl.zeros([BLOCK], dtype=tl.int64)
    apart = tl.zeros([BLOCK], dtype=tl.int64)
    for first in range(0, count, BLOCK):
        o_r = first + tl.arange(0, BLOCK)
        _, _, rival = segment_key(p_spans, o_r, o_r < count, longest, rows)
        apart += (rival > rows.to(tl.int64) * (rows + 2)).to(tl.int64)
        m_before = (rival[None, :] < key[:, None]) | ((rival[None, :] == key[:, None]) & (o_r[None, :] < o_p[:, None]))
        place += tl.sum((m_before & (o_r < count)[None, :]).to(tl.int64), axis=1)
    if tl.program_id(0) == 0:
        tl.store(p_apart, tl.sum(apart, axis=0))
    query = tl.load(p_pairs + o_p, mask=m_p, other=0)
    tl.store(p_order + place, o_p.to(tl.int64), mask=m_p)
    tl.store(p_place + o_p, place, mask=m_p)
    tl.store(p_query + place, query, mask=m_p)
    tl.store(p_own + 2 * place, start, mask=m_p)
    tl.store(p_own + 2 * place + 1, stop, mask=m_p)
    p_from = p_excluded + query * excluded * 2
    if UNIONS:
        store_between(p_between, p_spans, p_from, o_p, m_p, query, each, rows, excluded)
    p_range = store_ranges(p_ranges + place * (excluded + 2) * 2, p_from, excluded, m_p)
    tl.store(p_range, tl.zeros([BLOCK], dtype=tl.int64), mask=m_p)
    tl.store(p_range + 1, start, mask=m_p)
    tl.store(p_range + 2, stop, mask=m_p)
    tl.store(p_range + 3, tl.zeros([BLOCK], dtype=tl.int64) + rows, mask=m_p)


@dataclass(frozen=True)
class SegmentOrder:
    """Pairs of a query and a segment, sorted by segments.

    order: the pair in each place, and place: the place of each pair, [P]. query: of each place, all rows outside of the
    segment excluded. spans: the segment there, [P, 2]. apart: how many pairs, the last ones in this order, have a
    segment that is too long, and none here, [1]. unions: every query, all rows outside of its segments excluded, or
    None where it has one.
    """

    order: Int64[Tensor, "P"]
    place: Int64[Tensor, "P"]
    query: Query
    spans: Int64[Tensor, "P 2"]
    apart: Int64[Tensor, "1"]
    unions: Query | None

    @classmethod
    def of(
        cls,
        query: Query,
        pairs: Int64[Tensor, "P"],
        spans: Int64[Tensor, "P 2"],
        *,
        longest: int,
        rows: int,
        each: int = 1,
    ) -> SegmentOrder:
        """Return the pairs of queries in `pairs`, [P], and rows in `spans`, [P, 2], sorted; no synchronisation.

        longest: rows of a segment that is not too long. rows: of all segments. each: pairs of every query, one after
        the other, where there are more than one. Costs the square of P in comparisons.
        """
        count, (batch, excluded, _) = len(pairs), query.excluded.shape
        order, place, which = spans.new_empty(3, count).unbind(0)
        own, ranges, apart = spans.new_empty(count, 2), spans.new_empty(count, excluded + 2, 2), spans.new_empty(1)
        between = spans.new_empty(batch if each > 1 else 0, excluded + each + 1, 2)
        segment_order_kernel[(triton.cdiv(count, SEGMENT_BLOCK),)](
            spans.contiguous(), pairs, query.excluded.contiguous(), order, place, which, own, ranges, between, apart,
            count, each, longest, rows, excluded, UNIONS=each > 1, BLOCK=SEGMENT_BLOCK, num_warps=4,
            enable_fp_fusion=True,
        )  # fmt: skip
        asked = taken(query, which, ready=each > 1)
        unions = query.excluding(between) if each > 1 else None
        return cls(order, place, asked.excluding(ranges), own, apart, unions)
