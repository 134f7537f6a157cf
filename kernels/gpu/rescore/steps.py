"""Triton: the steps of rescoring: which samples a list names, their logits by direct difference, and their sum.

What these steps are told of the samples is a tuple: the rows [N, D] as stored, the centre [D], the logs of the weights
[N], D, and the values from one row to the next. What of a query is another: its point [D], alpha and 1 / sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import triton
import triton.language as tl

from ....base.arrays import Tensor
from ...common.work import Work
from ..core.tiles import Tile
from ..jit.masks import where_positive
from ..jit.places import share_of
from ..sums.softmax import joining, spread_step

# samples this many nats below the heaviest of their share add nothing to a mean in float64
UNSEEN = 80.0


@dataclass(frozen=True)
class RescoreConfig(Tile):
    """Tile of rows and values of D of one query: the same on every GPU.

    Float64 sums take two registers each, which leaves no room for more.
    """


RESCORE_TILE = RescoreConfig(block_n=8, block_b=1, block_d=512, warps=4, stages=3)

STAGES = tl.constexpr(RESCORE_TILE.stages)

# tiles of values of D after which rows are left that turn out to be far
_FAR_TILES = tl.constexpr(4)


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
def slot_rows(start, end, listed, names, BLOCK_N: tl.constexpr):
    """Return the rows of the slots of a query from `start` on, and which of them count; only those before `end` do.

    names: the runs of its list, its excluded ranges, their number, the first row of the span, the one after its last,
    and the rows of a run. listed: whether the list holds.
    """
    p_first, p_range, excluded, begin, stop, run = names
    o_s = start + tl.arange(0, BLOCK_N)
    row = named_rows(o_s, o_s < end, listed, p_first, begin, run)
    return row, not_excluded(row, o_s < end, stop, p_range, excluded)


@triton.jit
@no_type_check
def add_squares(b_square, samples, p_point, alpha, row, m_s, begin, end, BLOCK_D: tl.constexpr):
    """Return `b_square`, [BLOCK_N, BLOCK_D], plus the squares of q - alpha (row - centre) at values [begin, end)."""
    p_rows, p_centre, _, _, row_stride = samples
    o_d = tl.arange(0, BLOCK_D)
    p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
    # lists are short: what a step would wait for is asked for two steps before
    for first in tl.range(begin, end, BLOCK_D, num_stages=STAGES):
        m_d = first + o_d < end
        point = tl.load(p_point + first + o_d, mask=m_d, other=0.0)
        centre = tl.load(p_centre + first + o_d, mask=m_d, other=0.0)
        mask = m_s[:, None] & m_d[None, :]
        b_rows = tl.load(p_block + first, mask=mask, other=0).to(tl.float64)
        b_gap = point[None, :] - alpha * (b_rows - centre[None, :])
        b_square += tl.where(mask, b_gap * b_gap, 0.0)
    return b_square


@triton.jit
@no_type_check
def distances(samples, p_point, alpha, row, m_s, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return |q - alpha (row - centre)|^2 of some rows in float64, [BLOCK_N]; p_point: [D] float64."""
    b_square = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
    return tl.sum(add_squares(b_square, samples, p_point, alpha, row, m_s, 0, samples[3], BLOCK_D), axis=1)


@triton.jit
@no_type_check
def difference_logits(samples, query, row, m_s, WEIGHTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return log w - |q - alpha r|^2 / 2 sigma^2 of some rows in float64, [BLOCK_N], -inf where not in `m_s`."""
    p_point, alpha, precision = query
    b_logits = -0.5 * precision * distances(samples, p_point, alpha, row, m_s, BLOCK_N, BLOCK_D)
    if WEIGHTED:
        b_logits += tl.load(samples[2] + row, mask=m_s, other=0.0)
    return tl.where(m_s, b_logits, float("-inf"))


@triton.jit
@no_type_check
def logits_above(samples, query, floor, row, m_s, WEIGHTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return what `difference_logits` does, or, where all of the rows are below `floor`, numbers that are so too.

    Rows that are far are read no further than that takes.
    """
    p_point, alpha, precision = query
    dim = samples[3]
    limit = -2.0 * floor / precision
    b_square = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
    nearest = tl.cast(float("-inf"), tl.float64)
    first = 0
    while (first < dim) & (nearest < limit):
        end = tl.minimum(first + _FAR_TILES * BLOCK_D, dim)
        b_square = add_squares(b_square, samples, p_point, alpha, row, m_s, first, end, BLOCK_D)
        nearest = tl.min(tl.where(m_s, tl.sum(b_square, axis=1), float("inf")), axis=0)
        first += _FAR_TILES * BLOCK_D
    b_logits = -0.5 * precision * tl.sum(b_square, axis=1)
    if WEIGHTED:
        # no log of a weight is above zero
        b_logits += tl.load(samples[2] + row, mask=m_s, other=0.0)
    return tl.where(m_s, b_logits, float("-inf"))


@triton.jit
@no_type_check
def add_rows(samples, p_out, row, m_s, weights, factor, sums, SPREAD: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rescale the sum at `p_out`, [D] float64, and add weights times rows less the centre; not read without mass.

    sums: mass before, and the weighted squares about the mean so far, which are returned with those of the rows where
    SPREAD.
    """
    p_rows, p_centre, _, dim, row_stride = samples
    mass, spread = sums
    o_d = tl.arange(0, BLOCK_D)
    p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
    m_rows = m_s & (weights > 0.0)
    joined = joining(tl.sum(tl.where(m_rows, weights, 0.0), axis=0), factor * mass)
    spread *= factor
    for first in range(0, dim, BLOCK_D):
        m_d = first + o_d < dim
        centre = tl.load(p_centre + first + o_d, mask=m_d, other=0.0)
        # [BLOCK_N, BLOCK_D]; rows without weight are not read
        mask = m_rows[:, None] & m_d[None, :]
        b_rows = tl.load(p_block + first, mask=mask, other=0).to(tl.float64) - centre[None, :]
        b_sum = tl.sum(tl.where(mask, weights[:, None] * b_rows, 0.0), axis=0)
        p_sum = p_out + first + o_d
        b_kept = factor * tl.load(p_sum, mask=where_positive(m_d, mass), other=0.0)
        tl.store(p_sum, b_sum + b_kept, mask=m_d)
        if SPREAD:
            spread += tl.sum(spread_step(b_rows, weights[:, None], b_sum, b_kept, joined), axis=0)
    # the next rows are added to what other threads may have written
    tl.debug_barrier()
    return spread


@triton.jit
@no_type_check
def store_sums(p_sums, i_b, batch, sums, mask, SPREAD: tl.constexpr):
    """Store the sums of a softmax of the share of this program, see :mod:`..sums.softmax`.

    p_sums: [5, shares, B]. i_b: the query, or queries. sums: the largest logit and three sums, and the weighted squares
    about the mean, which are stored where SPREAD. mask: which queries exist.
    """
    p_stat = p_sums + tl.program_id(1) * batch + i_b
    stride = tl.num_programs(1) * batch
    for i_sum in tl.static_range(4):
        tl.store(p_stat + i_sum * stride, sums[i_sum], mask=mask)
    if SPREAD:
        tl.store(p_stat + 4 * stride, sums[4], mask=mask)


def scored(work: Work) -> tuple[Tensor, ...]:
    """Return what kernels that score rows by direct differences read of `work`.

    The rows, the points of the queries, the centre, alpha, 1 / sigma^2, and the logs of the weights, any numbers where
    there are none.
    """
    rows, query = work.rows, work.query
    log_weights = rows.half_norms if rows.log_weights is None else rows.log_weights
    points, factors = query.point.contiguous(), (query.alpha.contiguous(), query.inverse_variance.contiguous())
    return (rows.stored, points, rows.centre, *factors, log_weights)


def slice_width(dim: int) -> int:
    """Return how many values of D a tile holds, a power of two, for rows of `dim` values."""
    return max(16, min(RESCORE_TILE.block_d, 1 << (dim - 1).bit_length()))
