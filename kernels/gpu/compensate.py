"""Triton: samples whose gaps float64 does not hold, weighed again in twice its digits; other queries cost nothing.

Between two samples that a late query is as near to, the velocity is decided by the gap of two logits of a billion nats.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .compensated import digits_lost, joined, twice_logits, twice_sum
from .rescore import UNSEEN, RescoreConfig, add_rows, distances, listed_share, named_rows, not_excluded
from .softmax import softmax_step

# float64 sums in two numbers, and what is left of every operation on the way, take many registers
COMPENSATED_TILE = RescoreConfig(block_n=8, block_b=1, block_d=64, warps=4, stages=1)

_UNSEEN = tl.constexpr(UNSEEN)


@triton.jit
@no_type_check
def near_logits(
    p_rows, p_point, p_given, p_centre, p_log_weight, row, m_s, alpha, precision, scale, offset, base, window,
    dim, row_stride, WEIGHTED: tl.constexpr, CENTRED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return the logits of some rows of one query less `base`, [BLOCK_N], -inf for those that do not count.

    Those that are not a `window` below it are taken in twice the digits.
    """
    b_square = distances(p_rows, p_point, p_centre, row, m_s, alpha, dim, row_stride, BLOCK_N, BLOCK_D)
    b_logits = -0.5 * precision * b_square
    if WEIGHTED:
        b_logits += tl.load(p_log_weight + row, mask=m_s, other=0.0)
    m_near = m_s & (b_logits >= base - window)
    b_gap = tl.where(m_s, b_logits - base, float("-inf"))
    if tl.max(m_near.to(tl.int32), axis=0) > 0:
        b_high, b_low = twice_logits(
            p_rows, p_given, p_centre, p_log_weight, row, m_near, alpha, precision, scale, offset, dim, row_stride,
            WEIGHTED, CENTRED, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        b_gap = tl.where(m_near, (b_high - base) + b_low, b_gap)
    return b_gap


@triton.jit(do_not_specialize=["batch", "begin", "stop", "limit", "excluded"])
@no_type_check
def compensate_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_first,
    p_count,
    p_excluded,
    p_given,
    p_best,
    p_base,
    p_sums,
    p_out,
    batch,
    begin,
    stop,
    limit,
    run,
    dim,
    row_stride,
    excluded,
    reach,
    scale,
    scale_rest,
    scale_last,
    offset,
    offset_rest,
    offset_last,
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Softmax over one share of the rows to rescore of a query that float64 does not hold the logits of.

    Arguments are those of `rescore_kernel`, whose sums are replaced by those relative to p_base [B]: the largest logit,
    p_best [B], for such a query, and zero for the others, whose sums stay. p_given: [B, D], the queries as they were
    given. Three numbers add up to the scale, and three to the offset.
    """
    i_b, i_share = tl.program_id(0).to(tl.int64), tl.program_id(1)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    base = tl.load(p_best + i_b)
    error, needed = digits_lost(base, alpha, precision, reach)
    if i_share == 0:
        tl.store(p_base + i_b, tl.where(needed, base, 0.0))
    if needed:
        listed, slot, end = listed_share(p_count, i_b, i_share, tl.num_programs(1), run, stop - begin, BLOCK_N)
        p_sum = p_out + (i_share.to(tl.int64) * batch + i_b) * dim
        top = tl.cast(float("-inf"), tl.float64)
        mass = tl.cast(0.0, tl.float64)
        squares = tl.cast(0.0, tl.float64)
        first_logit = tl.cast(0.0, tl.float64)
        for start in range(slot, end, BLOCK_N):
            o_s = start + tl.arange(0, BLOCK_N)
            row = named_rows(o_s, o_s < end, listed, p_first + i_b * limit, begin, run)
            m_s = not_excluded(row, o_s < end, stop, p_excluded + i_b * excluded * 2, excluded)
            b_logits = near_logits(
                p_rows, p_point + i_b * dim, p_given + i_b * dim, p_centre, p_log_weight, row, m_s, alpha, precision,
                joined(scale, scale_rest, scale_last), joined(offset, offset_rest, offset_last), base,
                _UNSEEN + 2.0 * error, dim, row_stride, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            seen, had = tl.max(b_logits, axis=0) > top - _UNSEEN, mass
            b_weights, factor, top, mass, squares, first_logit = softmax_step(top, mass, squares, first_logit, b_logits)
            if MEAN:  # noqa: SIM102  a constant, which a number cannot be joined to
                if seen:
                    add_rows(
                        p_rows, p_centre, p_sum, row, m_s, b_weights, factor, had, dim, row_stride, BLOCK_N, BLOCK_D
                    )
        p_stat = p_sums + i_share * batch + i_b
        stride = tl.num_programs(1) * batch
        tl.store(p_stat, top)
        tl.store(p_stat + stride, mass)
        tl.store(p_stat + 2 * stride, squares)
        tl.store(p_stat + 3 * stride, first_logit)


@triton.jit(do_not_specialize=["batch", "begin", "stop", "limit", "excluded"])
@no_type_check
def compensated_spread_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_first,
    p_count,
    p_excluded,
    p_given,
    p_best,
    p_lse,
    p_rest,
    p_mean,
    p_out,
    batch,
    begin,
    stop,
    limit,
    run,
    dim,
    row_stride,
    excluded,
    reach,
    scale,
    scale_rest,
    scale_last,
    offset,
    offset_rest,
    offset_last,
    WEIGHTED: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of exp(l - lse) |r - mean|^2 over one share of the rows of such a query, into p_out [shares, B].

    Arguments are those of `spread_kernel` and `compensate_kernel`; p_rest: [B], what float64 cut off p_lse.
    """
    i_b = tl.program_id(0).to(tl.int64)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    base = tl.load(p_best + i_b)
    error, needed = digits_lost(base, alpha, precision, reach)
    if needed:
        listed, slot, end = listed_share(p_count, i_b, tl.program_id(1), tl.num_programs(1), run, stop - begin, BLOCK_N)
        shift = (base - tl.load(p_lse + i_b)) - tl.load(p_rest + i_b)
        total = tl.zeros([BLOCK_N], dtype=tl.float64)
        for start in range(slot, end, BLOCK_N):
            o_s = start + tl.arange(0, BLOCK_N)
            row = named_rows(o_s, o_s < end, listed, p_first + i_b * limit, begin, run)
            m_s = not_excluded(row, o_s < end, stop, p_excluded + i_b * excluded * 2, excluded)
            b_logits = near_logits(
                p_rows, p_point + i_b * dim, p_given + i_b * dim, p_centre, p_log_weight, row, m_s, alpha, precision,
                joined(scale, scale_rest, scale_last), joined(offset, offset_rest, offset_last), base,
                _UNSEEN + 2.0 * error, dim, row_stride, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D,
            )  # fmt: skip
            b_far = distances(p_rows, p_mean + i_b * dim, p_centre, row, m_s, 1.0, dim, row_stride, BLOCK_N, BLOCK_D)
            total += tl.exp(b_logits + shift) * b_far
        tl.store(p_out + tl.program_id(1) * batch + i_b, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["room"])
@no_type_check
def compensated_slots_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_named,
    p_given,
    p_best,
    p_logits,
    room,
    dim,
    row_stride,
    reach,
    scale,
    scale_rest,
    scale_last,
    offset,
    offset_rest,
    offset_last,
    WEIGHTED: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Logits of the rows p_named [B, room] of such a query, -1 for none, less its largest; others stay in p_logits.

    Arguments are those of `compensate_kernel`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    base = tl.load(p_best + i_b)
    error, needed = digits_lost(base, alpha, precision, reach)
    if needed:
        for start in range(tl.program_id(1) * BLOCK_N, room, tl.num_programs(1) * BLOCK_N):
            o_s = start + tl.arange(0, BLOCK_N)
            row = tl.load(p_named + i_b * room + o_s, mask=o_s < room, other=-1)
            if tl.max(row, axis=0) >= 0:
                b_logits = near_logits(
                    p_rows, p_point + i_b * dim, p_given + i_b * dim, p_centre, p_log_weight, row, row >= 0, alpha,
                    precision, joined(scale, scale_rest, scale_last), joined(offset, offset_rest, offset_last), base,
                    _UNSEEN + 2.0 * error, dim, row_stride, WEIGHTED, CENTRED, BLOCK_N, BLOCK_D,
                )  # fmt: skip
                tl.store(p_logits + i_b * room + o_s, b_logits, mask=o_s < room)


@triton.jit(do_not_specialize=["count"])
@no_type_check
def based_kernel(p_logits, p_base, p_high, p_rest, count, BLOCK: tl.constexpr):
    """Logits [B, count] plus the base of their query, as float64 and what it cuts off."""
    i_b = tl.program_id(0).to(tl.int64)
    o_k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    b_logits = tl.load(p_logits + i_b * count + o_k, mask=o_k < count, other=0.0)
    m_some = b_logits > float("-inf")
    b_high, b_rest = twice_sum(tl.load(p_base + i_b), tl.where(m_some, b_logits, 0.0))
    tl.store(p_high + i_b * count + o_k, tl.where(m_some, b_high, float("-inf")), mask=o_k < count)
    tl.store(p_rest + i_b * count + o_k, tl.where(m_some, b_rest, 0.0), mask=o_k < count)
