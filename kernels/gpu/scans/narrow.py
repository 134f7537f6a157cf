"""Triton: every sample of a span scored and weighed in float64, for so few values that a velocity can be small.

Products round relative to the size of rows and queries. Of few values a velocity may by chance be far smaller than
these, and differences in float64 cost little.
"""

from __future__ import annotations

from dataclasses import replace
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.calls.cuda_graphs import capturing
from ...common.rows import Rows
from ...common.state import PosteriorState
from ...common.work import Work
from ..core.limits import ScanLimits
from ..jit.places import share_of
from ..operands.queries import QueryMeasures
from ..rescore.lists import RESCORE_PROGRAMS
from ..rescore.rescored import Rescored
from ..rescore.steps import RESCORE_TILE, scored, slice_width, store_sums
from ..states.finish import Finish
from ..states.top import rescored_top, top_memory
from ..sums.running_sums import RunningSums
from ..sums.softmax import joining, softmax_step, spread_step

# the largest D that is scanned in float64: of more values none is small by chance
NARROW_DIM = 16

# rows and queries of a tile, and its warps
NARROW_ROWS, NARROW_QUERIES, NARROW_WARPS = 32, 32, 4


@triton.jit
@no_type_check
def narrow_logits(
    p_rows, p_point, p_centre, p_log_weight, o_n, o_b, m_n, m_b, alpha, precision, dim, row_stride,
    WEIGHTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Return log w - |q - alpha (row - centre)|^2 / 2 sigma^2 in float64, [BLOCK_N, BLOCK_B]."""
    b_square = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float64)
    for i_d in range(dim):
        row = narrow_values(p_rows, p_centre, o_n, m_n, i_d, row_stride)
        point = tl.load(p_point + o_b.to(tl.int64) * dim + i_d, mask=m_b, other=0.0)
        b_gap = point[None, :] - alpha[None, :] * row[:, None]
        b_square += b_gap * b_gap
    b_logits = -0.5 * precision[None, :] * b_square
    if WEIGHTED:
        b_logits += tl.load(p_log_weight + o_n, mask=m_n, other=0.0)[:, None]
    return b_logits


@triton.jit
@no_type_check
def narrow_values(p_rows, p_centre, o_n, m_n, i_d, row_stride):
    """Return the values of rows at `i_d` less the centre in float64, [BLOCK_N]."""
    row = tl.load(p_rows + o_n * row_stride + i_d, mask=m_n, other=0).to(tl.float64)
    return row - tl.load(p_centre + i_d)


@triton.jit(do_not_specialize=["batch", "begin", "stop", "excluded"])
@no_type_check
def narrow_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_excluded,
    p_sums,
    p_out,
    batch,
    begin,
    stop,
    dim,
    row_stride,
    excluded,
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    SPREAD: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Softmax of a tile of queries over one share of the rows of [begin, stop), with a moving origin.

    Arguments are those of the rescore kernel. UNIT: what shares are a multiple of.
    """
    o_b, o_d = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_D)
    m_b = o_b < batch
    first, last = share_of(stop - begin, tl.program_id(1), tl.num_programs(1), UNIT)
    # [BLOCK_B]
    alpha = tl.load(p_alpha + o_b, mask=m_b, other=0.0)
    precision = tl.load(p_precision + o_b, mask=m_b, other=0.0)
    top = tl.full([BLOCK_B], float("-inf"), dtype=tl.float64)
    mass = tl.zeros([BLOCK_B], dtype=tl.float64)
    squares = tl.zeros([BLOCK_B], dtype=tl.float64)
    first_logit = tl.zeros([BLOCK_B], dtype=tl.float64)
    spread = tl.zeros([BLOCK_B], dtype=tl.float64)
    b_total = tl.zeros([BLOCK_D, BLOCK_B], dtype=tl.float64)
    for start in range(first, last, BLOCK_N):
        o_n = (begin + start + tl.arange(0, BLOCK_N)).to(tl.int64)
        m_n = start + tl.arange(0, BLOCK_N) < last
        b_logits = narrow_logits(
            p_rows, p_point, p_centre, p_log_weight, o_n, o_b, m_n, m_b, alpha, precision, dim, row_stride,
            WEIGHTED, BLOCK_N, BLOCK_B,
        )  # fmt: skip
        m_keep = m_n[:, None] & m_b[None, :]
        for i_h in range(excluded):
            p_range = p_excluded + (o_b.to(tl.int64) * excluded + i_h) * 2
            low = tl.load(p_range, mask=m_b, other=0)
            high = tl.load(p_range + 1, mask=m_b, other=0)
            m_keep = m_keep & ((o_n[:, None] < low[None, :]) | (o_n[:, None] >= high[None, :]))
        b_logits = tl.where(m_keep, b_logits, float("-inf"))
        kept = mass
        b_weights, factor, top, mass, squares, first_logit = softmax_step(top, mass, squares, first_logit, b_logits)
        if MEAN:
            b_total *= factor[None, :]
            spread *= factor
            joined = joining(tl.sum(b_weights, axis=0), factor * kept)
            for i_d in range(dim):
                row = narrow_values(p_rows, p_centre, o_n, m_n, i_d, row_stride)
                product = tl.sum(b_weights * row[:, None], axis=0)
                m_value = (o_d == i_d)[:, None]
                if SPREAD:
                    before = tl.sum(tl.where(m_value, b_total, 0.0), axis=0)
                    spread += spread_step(row[:, None], b_weights, product, before, joined)
                b_total += tl.where(m_value, product[None, :], 0.0)
    store_sums(p_sums, o_b, batch, (top, mass, squares, first_logit, spread), m_b, SPREAD)
    if MEAN:
        p_total = p_out + (tl.program_id(1).to(tl.int64) * batch + o_b[None, :]) * dim + o_d[:, None]
        tl.store(p_total, b_total, mask=(o_d < dim)[:, None] & m_b[None, :])


def narrow_sums(work: Work) -> Rescored:
    """Return the sums over all samples of the span of `work`, as those of rescored ones; no synchronisation.

    work: rows of at most NARROW_DIM values, queries, the span, and what is wanted.

    Costs one read of the span for each tile of queries and 5 B n D operations in float64. Memory is 8 (D + 5) bytes for
    each query and share of the rows.
    """
    rows, query, span = work.rows, work.query, work.span
    batch, unit, mean = len(query), RESCORE_TILE.block_n, work.wanted.mean
    tiles, shares = triton.cdiv(batch, NARROW_QUERIES), narrow_shares(batch, len(span))
    sums = torch.empty(0, dtype=torch.float64, device=rows.device).new_empty(5, shares, batch)
    means = sums.new_empty(shares, batch, rows.dim if mean else 0)
    narrow_kernel[(tiles, shares)](
        *scored(work), query.excluded.contiguous(), sums, means, batch, span.start, span.stop, rows.dim,
        rows.stored.stride(0), query.excluded.shape[1], WEIGHTED=rows.log_weights is not None, MEAN=mean,
        SPREAD=work.wanted.variance, UNIT=unit, BLOCK_N=NARROW_ROWS, BLOCK_B=NARROW_QUERIES,
        BLOCK_D=slice_width(rows.dim), num_warps=NARROW_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return Rescored.every(work, sums, means)


def narrow_shares(batch: int, count: int) -> int:
    """Return among how many programs the rows are shared, for each tile of queries.

    batch: number of queries. count: rows of the span.
    """
    tiles = -(-batch // NARROW_QUERIES)
    return max(1, min(RESCORE_PROGRAMS // tiles, -(-count // (2 * NARROW_ROWS))))


def narrow_state(work: Work, limits: ScanLimits) -> PosteriorState:
    """Return the state of the span of `work`, whose rows have at most NARROW_DIM values, for every query.

    limits: `logit_bytes` bounds the logits held at once where the heaviest samples are wanted.
    """
    batch, device, wanted = len(work.query), work.rows.device, work.wanted
    # nothing is added in another way: what is measured of the queries for that, and summed, is not read
    nothing = RunningSums.empty(batch, work.rows.dim if wanted.mean else 0, device)
    rescored = narrow_sums(work)
    state = Finish(work, QueryMeasures.empty(work.query), nothing, rescored).state()
    if not wanted.top_k:
        return state
    top = rescored_top(rescored, reads_values=not capturing(), limits=limits)
    return replace(state, top_logits=top.logits, top_rows=top.rows, top_rest=top.rest)


def narrow_memory(rows: Rows, batch: int, limits: ScanLimits) -> int:
    """Return the most bytes that :func:`narrow_state` needs for `batch` queries beyond the data in `rows`.

    limits: as there.
    """
    shares = narrow_shares(batch, len(rows))
    return 8 * batch * (shares + 12) * (rows.dim + 5) + top_memory(batch, 1, len(rows), limits)
