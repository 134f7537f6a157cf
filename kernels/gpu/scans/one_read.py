"""Triton: the state of a single query in one read of the rows, scored and weighed in float64 while they are held.

A scan in two phases reads rows twice where all of them have weight. A program that holds all of D for a few rows, and
the sum that one query weighs them into, needs each of them once, and float64 costs it less time than the read.
Off until a card has timed it: see :func:`reading_once`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...common.state import PosteriorState
from ...common.work import Work
from ..core.devices import device_of
from ..core.tiles import Tile
from ..jit.places import share_of
from ..operands.queries import QueryMeasures
from ..rescore.rescored import Rescored
from ..rescore.steps import RESCORE_TILE, scored, store_sums
from ..states.finish import Finish
from ..sums.running_sums import RunningSums
from ..sums.softmax import joining, softmax_step, spread_step

# the most values of a row, and of the rows that a program holds at once
ONE_READ_DIM, ONE_READ_VALUES = 4096, 16384

# rows of a program at least, in tiles
ONE_READ_TILES = 4

# architectures whose float64 keeps up with their memory
ONE_READ_ARCHITECTURES = ("sm_90", "interpreter")

# excluded ranges of a query up to which they are compiled into the loop
ONE_READ_RANGES = 4


@triton.jit(do_not_specialize=["batch", "begin", "stop"])
@no_type_check
def one_read_kernel(
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
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    SPREAD: tl.constexpr,
    RANGES: tl.constexpr,
    UNIT: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Softmax of one query over one share of the rows of [begin, stop), with a moving origin.

    Arguments are those of the rescore kernel. UNIT: what shares are a multiple of, as where they are added up.
    """
    i_b, o_d = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK_D)
    m_d = o_d < dim
    first, last = share_of(stop - begin, tl.program_id(1), tl.num_programs(1), UNIT)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    # [BLOCK_D]; beyond D the query and the rows are zero
    centre = tl.load(p_centre + o_d, mask=m_d, other=0.0)
    shifted = tl.load(p_point + i_b * dim + o_d, mask=m_d, other=0.0) + alpha * centre
    b_total = tl.zeros([BLOCK_D], dtype=tl.float64)
    b_spread = tl.zeros([BLOCK_D], dtype=tl.float64)
    top = tl.full([1], float("-inf"), dtype=tl.float64)
    mass = tl.zeros([1], dtype=tl.float64)
    squares = tl.zeros([1], dtype=tl.float64)
    first_logit = tl.zeros([1], dtype=tl.float64)
    for start in tl.range(first, last, BLOCK_N, num_stages=STAGES):
        o_s = start + tl.arange(0, BLOCK_N)
        o_n = (begin + o_s).to(tl.int64)
        p_tile = p_rows + o_n[:, None] * row_stride + o_d[None, :]
        # [BLOCK_N, BLOCK_D]
        b_rows = tl.load(p_tile, mask=(o_s < last)[:, None] & m_d[None, :], other=0).to(tl.float64)
        b_gap = shifted[None, :] - alpha * b_rows
        # [BLOCK_N]
        b_logits = -0.5 * precision * tl.sum(b_gap * b_gap, axis=1)
        if WEIGHTED:
            b_logits += tl.load(p_log_weight + o_n, mask=o_s < last, other=0.0)
        m_keep = o_s < last
        # not a loop, in which nothing would be asked for ahead
        for i_h in tl.static_range(RANGES):
            p_range = p_excluded + (i_b * RANGES + i_h) * 2
            m_keep = m_keep & ((o_n < tl.load(p_range)) | (o_n >= tl.load(p_range + 1)))
        b_logits = tl.where(m_keep, b_logits, float("-inf"))
        kept = mass
        b_weights, factor, top, mass, squares, first_logit = softmax_step(top, mass, squares, first_logit, b_logits)
        if MEAN:
            b_sum = tl.sum(b_weights[:, None] * b_rows, axis=0)
            b_total *= factor
            if SPREAD:
                b_spread *= factor
                joined = joining(tl.sum(b_weights, axis=0), factor * kept)
                b_spread += spread_step(b_rows, b_weights[:, None], b_sum, b_total, joined)
            b_total += b_sum
    sums = (top, mass, squares, first_logit, tl.sum(b_spread, axis=0, keep_dims=True))
    store_sums(p_sums, i_b + tl.arange(0, 1), batch, sums, None, SPREAD)
    if MEAN:
        p_total = p_out + (tl.program_id(1).to(tl.int64) * batch + i_b) * dim + o_d
        tl.store(p_total, b_total - mass * centre, mask=m_d)


_READING_ONCE: ContextVar[bool] = ContextVar("reading once", default=False)


@contextmanager
def reading_once(on: bool = True) -> Iterator[None]:
    """Have single queries answered in one read of the rows in this context, so that both ways can be compared."""
    token = _READING_ONCE.set(on)
    try:
        yield
    finally:
        _READING_ONCE.reset(token)


def reads_once(work: Work) -> bool:
    """Return whether `work` is answered in one read: a single query over rows that a program can hold, where asked."""
    if not _READING_ONCE.get() or len(work.query) > 1 or work.wanted.top_k > 0:
        return False
    rows, stored = work.rows, work.rows.stored
    held = rows.dim <= ONE_READ_DIM and work.query.excluded.shape[1] <= ONE_READ_RANGES
    # bytes are read faster than float64 takes them
    return held and stored.itemsize > 1 and device_of(stored.device).architecture in ONE_READ_ARCHITECTURES


def one_read_tile(dim: int) -> Tile:
    """Return the tile for rows of `dim` values: as many rows as a program can hold."""
    block_d = max(16, triton.next_power_of_2(dim))
    return Tile(block_n=max(1, ONE_READ_VALUES // block_d), block_b=1, block_d=block_d, warps=8, stages=3)


def one_read_state(work: Work) -> PosteriorState:
    """Return the state of the span of `work` for its single query; no synchronisation.

    work: rows of at most ONE_READ_DIM values, a query, the span, and what is wanted, which is no heaviest sample.

    Costs one read of the span and 6 n D operations in float64. Memory is 8 (D + 5) bytes a share of the rows.
    """
    rows, query, span, tile = work.rows, work.query, work.span, one_read_tile(work.rows.dim)
    shares = one_read_shares(work, ONE_READ_TILES * tile.block_n)
    sums = torch.empty(0, dtype=torch.float64, device=rows.device).new_empty(5, shares, 1)
    means = sums.new_empty(shares, 1, rows.dim if work.wanted.mean else 0)
    one_read_kernel[(1, shares)](
        *scored(work), query.excluded.contiguous(), sums, means, 1, span.start, span.stop, rows.dim,
        rows.stored.stride(0), WEIGHTED=rows.log_weights is not None, MEAN=work.wanted.mean,
        SPREAD=work.wanted.variance, RANGES=query.excluded.shape[1], UNIT=RESCORE_TILE.block_n,
        STAGES=tile.stages, BLOCK_N=tile.block_n, BLOCK_D=tile.block_d, num_warps=tile.warps, enable_fp_fusion=True,
    )  # fmt: skip
    # nothing is added in another way
    nothing = RunningSums.empty(1, rows.dim if work.wanted.mean else 0, rows.device)
    return Finish(work, QueryMeasures.empty(query), nothing, Rescored.every(work, sums, means)).state()


def one_read_shares(work: Work, least: int) -> int:
    """Return among how many programs the rows of `work` are shared, of `least` rows each where there are so many."""
    # registers leave room for one of them
    most = device_of(work.rows.device).multiprocessors
    return max(1, min(most, len(work.span) // least))
