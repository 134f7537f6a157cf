"""Triton: samples of the rescore lists, scored by direct difference and weighed in float64; the host never waits.

One launch scores and weighs whatever is listed, a whole span where a list overflowed; nothing listed costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import triton
import triton.language as tl

from .jit import share_of, where_positive
from .softmax import softmax_step
from .tiles import Tile

# samples this many nats below the heaviest of their share add nothing to a mean in float64
UNSEEN = 80.0

_UNSEEN = tl.constexpr(UNSEEN)


@dataclass(frozen=True)
class RescoreConfig(Tile):
    """Tile of rows and values of D of one query: the same on every GPU.

    Float64 sums take two registers each, which leaves no room for more.
    """


RESCORE_TILE = RescoreConfig(block_n=8, block_b=1, block_d=512, warps=4, stages=3)

STAGES = tl.constexpr(RESCORE_TILE.stages)


@triton.jit
@no_type_check
def listed_share(p_count, i_b, i_share, shares, run, span, BLOCK_N: tl.constexpr):
    """Return whether the list of query `i_b` holds, and which slots a share has: of its rows, or of the whole span."""
    count = tl.load(p_count + i_b)
    listed = count >= 0
    begin, end = share_of(tl.where(listed, count * run, span), i_share, shares, BLOCK_N)
    return listed, begin, end


@triton.jit
@no_type_check
def named_rows(o_s, m_s, listed, p_first, begin, run):
    """Return the rows of the slots `o_s`, those of `m_s`: of the runs of a list at `p_first`, or all from `begin`."""
    first = tl.load(p_first + o_s // run, mask=where_positive(m_s, listed.to(tl.int32)), other=0)
    return tl.where(listed, first + o_s % run, begin + o_s)


@triton.jit
@no_type_check
def not_excluded(row, m_s, stop, p_range, excluded):
    """Return which of the rows count: those before `stop` in none of the `excluded` ranges at `p_range`."""
    m_s = m_s & (row < stop)
    for _ in range(excluded):
        m_s = m_s & ((row < tl.load(p_range)) | (row >= tl.load(p_range + 1)))
        p_range += 2
    return m_s


@triton.jit
@no_type_check
def distances(
    p_rows, p_point, p_centre, row, m_s, alpha, dim, row_stride, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Return |q - alpha (row - centre)|^2 of some rows in float64, [BLOCK_N]; p_point: [D] float64."""
    o_d = tl.arange(0, BLOCK_D)
    p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
    # [BLOCK_N, BLOCK_D]
    b_square = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
    # lists are short: what a step would wait for is asked for two steps before
    for first in tl.range(0, dim, BLOCK_D, num_stages=STAGES):
        m_d = first + o_d < dim
        point = tl.load(p_point + first + o_d, mask=m_d, other=0.0)
        centre = tl.load(p_centre + first + o_d, mask=m_d, other=0.0)
        mask = m_s[:, None] & m_d[None, :]
        b_rows = tl.load(p_block + first, mask=mask, other=0).to(tl.float64)
        b_gap = point[None, :] - alpha * (b_rows - centre[None, :])
        b_square += tl.where(mask, b_gap * b_gap, 0.0)
    return tl.sum(b_square, axis=1)


@triton.jit
@no_type_check
def add_rows(
    p_rows, p_centre, p_out, row, m_s, weights, factor, mass, dim, row_stride,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rescale the sum at `p_out`, [D] float64, and add weights times rows less the centre; not read without mass."""
    o_d = tl.arange(0, BLOCK_D)
    p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
    m_rows = m_s & (weights > 0.0)
    for first in range(0, dim, BLOCK_D):
        m_d = first + o_d < dim
        centre = tl.load(p_centre + first + o_d, mask=m_d, other=0.0)
        # [BLOCK_N, BLOCK_D]; rows without weight are not read
        mask = m_rows[:, None] & m_d[None, :]
        b_rows = tl.load(p_block + first, mask=mask, other=0).to(tl.float64) - centre[None, :]
        b_sum = tl.sum(tl.where(mask, weights[:, None] * b_rows, 0.0), axis=0)
        p_sum = p_out + first + o_d
        b_sum += factor * tl.load(p_sum, mask=where_positive(m_d, mass), other=0.0)
        tl.store(p_sum, b_sum, mask=m_d)
    # the next rows are added to what other threads may have written
    tl.debug_barrier()


@triton.jit(do_not_specialize=["batch", "begin", "stop", "limit", "excluded"])
@no_type_check
def rescore_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_first,
    p_count,
    p_excluded,
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
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Softmax over one share of the rows to rescore of a query, with a moving origin.

    p_rows: [N, D] as stored. p_point: [B, D]. p_first: [B, limit]. p_count: [B], EVERY for all rows of [begin, stop).
    p_sums: [4, shares, B]: the largest logit l, and the sums of w, w^2 and w (l - largest), w = exp(l - largest).
    p_out: [shares, B, D], the sum of w times the rows less the centre, written where one has weight.
    """
    i_b = tl.program_id(0).to(tl.int64)
    i_share = tl.program_id(1)
    listed, first_slot, last_slot = listed_share(p_count, i_b, i_share, tl.num_programs(1), run, stop - begin, BLOCK_N)
    alpha = tl.load(p_alpha + i_b)
    precision = tl.load(p_precision + i_b)
    p_sum = p_out + (i_share.to(tl.int64) * batch + i_b) * dim
    top = tl.cast(float("-inf"), tl.float64)
    mass = tl.cast(0.0, tl.float64)
    squares = tl.cast(0.0, tl.float64)
    first_logit = tl.cast(0.0, tl.float64)
    for start in range(first_slot, last_slot, BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        row = named_rows(o_s, o_s < last_slot, listed, p_first + i_b * limit, begin, run)
        m_s = not_excluded(row, o_s < last_slot, stop, p_excluded + i_b * excluded * 2, excluded)
        # [BLOCK_N]
        b_square = distances(p_rows, p_point + i_b * dim, p_centre, row, m_s, alpha, dim, row_stride, BLOCK_N, BLOCK_D)
        b_logits = -0.5 * precision * b_square
        if WEIGHTED:
            b_logits += tl.load(p_log_weight + row, mask=m_s, other=0.0)
        b_logits = tl.where(m_s, b_logits, float("-inf"))
        seen, had = tl.max(b_logits, axis=0) > top - _UNSEEN, mass
        b_weights, factor, top, mass, squares, first_logit = softmax_step(top, mass, squares, first_logit, b_logits)
        if MEAN:  # noqa: SIM102  a constant, which a number cannot be joined to
            if seen:
                add_rows(p_rows, p_centre, p_sum, row, m_s, b_weights, factor, had, dim, row_stride, BLOCK_N, BLOCK_D)
    p_stat = p_sums + i_share * batch + i_b
    stride = tl.num_programs(1) * batch
    tl.store(p_stat, top)
    tl.store(p_stat + stride, mass)
    tl.store(p_stat + 2 * stride, squares)
    tl.store(p_stat + 3 * stride, first_logit)


@triton.jit(do_not_specialize=["batch", "begin", "stop", "limit", "excluded"])
@no_type_check
def spread_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_first,
    p_count,
    p_excluded,
    p_lse,
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
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of exp(l - lse) |r - mean|^2 over one share of the rows to rescore of a query, into p_out [shares, B].

    Arguments are those of `rescore_kernel`; p_lse: [B], p_mean: [B, D].
    """
    i_b = tl.program_id(0).to(tl.int64)
    listed, first_slot, last_slot = listed_share(
        p_count, i_b, tl.program_id(1), tl.num_programs(1), run, stop - begin, BLOCK_N
    )
    alpha = tl.load(p_alpha + i_b)
    precision = tl.load(p_precision + i_b)
    lse = tl.load(p_lse + i_b)
    lse = tl.where(lse == float("-inf"), 0.0, lse)
    # [BLOCK_N]
    total = tl.zeros([BLOCK_N], dtype=tl.float64)
    for start in range(first_slot, last_slot, BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        row = named_rows(o_s, o_s < last_slot, listed, p_first + i_b * limit, begin, run)
        m_s = not_excluded(row, o_s < last_slot, stop, p_excluded + i_b * excluded * 2, excluded)
        b_square = distances(p_rows, p_point + i_b * dim, p_centre, row, m_s, alpha, dim, row_stride, BLOCK_N, BLOCK_D)
        b_logits = -0.5 * precision * b_square
        if WEIGHTED:
            b_logits += tl.load(p_log_weight + row, mask=m_s, other=0.0)
        b_far = distances(p_rows, p_mean + i_b * dim, p_centre, row, m_s, 1.0, dim, row_stride, BLOCK_N, BLOCK_D)
        total += tl.exp(tl.where(m_s, b_logits - lse, float("-inf"))) * b_far
    tl.store(p_out + tl.program_id(1) * batch + i_b, tl.sum(total, axis=0))


def slice_width(dim: int) -> int:
    """Return how many values of D a tile holds, a power of two, for rows of `dim` values."""
    return max(16, min(RESCORE_TILE.block_d, 1 << (dim - 1).bit_length()))
