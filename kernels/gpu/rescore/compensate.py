"""Triton: samples whose gaps float64 does not hold, weighed again in twice its digits; other queries cost nothing.

Between two samples that a late query is as near to, the velocity is decided by the gap of two logits of a billion nats.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..jit.compensated import sum_of_three, twice_sum
from .steps import UNSEEN, RescoreConfig, difference_logits
from .twice_logits import digits_lost, twice_logits

# float64 sums in two numbers, and what is left of every operation on the way, take many registers
COMPENSATED_TILE = RescoreConfig(block_n=8, block_b=1, block_d=64, warps=4, stages=1)

_UNSEEN = tl.constexpr(UNSEEN)


@triton.jit
@no_type_check
def in_question(p_best, i_b, alpha, precision, reach, TWICE: tl.constexpr):
    """Return what the logits of a query are relative to, from how far below it on, and whether they are asked for.

    In float64: zero, of every query. TWICE the digits: the largest of its logits, p_best [B], of those queries whose
    gaps float64 does not hold, and for others zero, below which by nothing none is.
    """
    base, window, asked = tl.cast(0.0, tl.float64), tl.cast(0.0, tl.float64), i_b >= 0
    if TWICE:
        best = tl.load(p_best + i_b)
        error, asked = digits_lost(best, alpha, precision, reach)
        base = tl.where(asked, best, 0.0)
        window = tl.where(asked, _UNSEEN + 2.0 * error, float("-inf"))
    return base, window, asked


@triton.jit
@no_type_check
def near_logits(
    b_logits, samples, query, given, base, window, row, m_s,
    WEIGHTED: tl.constexpr, CENTRED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return the logits of some rows of one query, [BLOCK_N], -inf for those that do not count, less `base`.

    b_logits: as float64 has them. Those that are not a `window` below the base are taken in twice the digits.
    """
    m_near = m_s & (b_logits >= base - window)
    b_gap = b_logits - base
    if tl.max(m_near.to(tl.int32), axis=0) > 0:
        b_high, b_low = twice_logits(samples, query, given, row, m_near, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D)
        b_gap = tl.where(m_near, (b_high - base) + b_low, b_gap)
    return b_gap


@triton.jit(do_not_specialize=["room"])
@no_type_check
def compensated_slots_kernel(
    p_rows, p_point, p_centre, p_alpha, p_precision, p_log_weight, p_named, p_given, p_best, p_logits, room, dim,
    row_stride, reach, scale, scale_rest, scale_last, offset, offset_rest, offset_last,
    WEIGHTED: tl.constexpr, CENTRED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Logits of the rows p_named [B, room], -1 for none, less the largest, of a query whose gaps float64 does not hold.

    The logits of others stay in p_logits. Arguments are those of `rescore_kernel`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    samples = (p_rows, p_centre, p_log_weight, dim, row_stride)
    query = (p_point + i_b * dim, alpha, precision)
    given = (
        p_given + i_b * dim,
        sum_of_three(scale, scale_rest, scale_last),
        sum_of_three(offset, offset_rest, offset_last),
    )
    base, window, asked = in_question(p_best, i_b, alpha, precision, reach, TWICE=True)
    if asked:
        for start in range(tl.program_id(1) * BLOCK_N, room, tl.num_programs(1) * BLOCK_N):
            o_s = start + tl.arange(0, BLOCK_N)
            row = tl.load(p_named + i_b * room + o_s, mask=o_s < room, other=-1)
            if tl.max(row, axis=0) >= 0:
                b_logits = difference_logits(samples, query, row, row >= 0, WEIGHTED, BLOCK_N, BLOCK_D)
                b_logits = near_logits(
                    b_logits, samples, query, given, base, window, row, row >= 0, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D
                )
                tl.store(p_logits + i_b * room + o_s, b_logits, mask=o_s < room)


@triton.jit(do_not_specialize=["count", "found", "pool"])
@no_type_check
def based_kernel(
    p_logits, p_places, p_row, p_base, p_output, p_high, p_rest, p_row_out, count, found, pool,
    MOVED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Logits [B, found] plus the base of their query, as float64 and what it cuts off, and their rows, [B, count].

    p_places: [B, found], places of the rows in p_row, [B, pool]. From `found` on there is none. MOVED: those of each
    query are written in the place that p_output, [B], names.
    """
    i_b = tl.program_id(0).to(tl.int64)
    i_out = i_b
    if MOVED:
        i_out = tl.load(p_output + i_b)
    o_k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_found, m_out = o_k < found, o_k < count
    b_logits = tl.load(p_logits + i_b * found + o_k, mask=m_found, other=float("-inf"))
    m_some = b_logits > float("-inf")
    b_high, b_rest = twice_sum(tl.load(p_base + i_b), tl.where(m_some, b_logits, 0.0))
    place = tl.load(p_places + i_b * found + o_k, mask=m_found, other=0)
    row = tl.load(p_row + i_b * pool + place, mask=m_found, other=-1)
    o_out = i_out * count + o_k
    tl.store(p_high + o_out, tl.where(m_some, b_high, float("-inf")), mask=m_out)
    tl.store(p_rest + o_out, tl.where(m_some, b_rest, 0.0), mask=m_out)
    tl.store(p_row_out + o_out, row, mask=m_out)
