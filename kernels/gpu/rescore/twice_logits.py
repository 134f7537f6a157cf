"""Triton: logits in twice the digits of float64, for gaps that float64 does not hold, and where it does not.

What is launched with these steps is compiled as :mod:`..core.compensated` says.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...common.rescore import GAP_LIMIT
from ...common.rounding import UNIT_ROUNDOFF, WALK
from ..jit.compensated import twice_product, twice_sum

# how far a float64 logit may be off, relative to the sizes it is made of, and from where on that matters
_ROUNDING, _GAP_LIMIT = tl.constexpr(WALK * UNIT_ROUNDOFF[torch.float64]), tl.constexpr(GAP_LIMIT)


@triton.jit
@no_type_check
def digits_lost(best, alpha, precision, reach):
    """Return how far float64 logits of a query, the largest of which is `best`, may be off, and whether that shows.

    reach: no less than the longest row with its centre and three times the longest without. The query is no further
    from the nearest row than that logit says.
    """
    depth = tl.maximum(-best, 0.5)
    # in float32: a root in float64 is a call
    root = tl.sqrt((2.0 * depth * precision).to(tl.float32)).to(tl.float64)
    error = _ROUNDING * (tl.abs(alpha) * reach * root + 5.0 * depth)
    return error, (best > float("-inf")) & (error > _GAP_LIMIT)


@triton.jit
@no_type_check
def twice_distances(
    samples, given, alpha, row, m_s, CENTRED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Return |x - alpha X|^2 of some rows, [BLOCK_N], as float64 and the rest.

    samples: as the steps of :mod:`.steps` take them. given: x, [D] float64, a scale and an offset; X is the row less
    the centre where queries are CENTRED, else the scale times the row plus the offset.
    """
    p_rows, p_centre, _, dim, row_stride = samples
    p_given, scale, offset = given
    o_d = tl.arange(0, BLOCK_D)
    p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
    # [BLOCK_N, BLOCK_D]
    b_high = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
    b_low = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
    for first in range(0, dim, BLOCK_D):
        m_d = first + o_d < dim
        mask = m_s[:, None] & m_d[None, :]
        point = tl.load(p_given + first + o_d, mask=m_d, other=0.0)
        b_rows = tl.load(p_block + first, mask=mask, other=0).to(tl.float64)
        if CENTRED:
            centre = tl.load(p_centre + first + o_d, mask=m_d, other=0.0)
            b_value, b_rest = twice_sum(b_rows, -centre[None, :])
        else:
            b_scaled, b_cut = twice_product(b_rows, scale)
            b_value, b_rest = twice_sum(b_scaled, offset)
            b_rest += b_cut
        b_drift, b_cut = twice_product(b_value, alpha)
        b_gap, b_more = twice_sum(point[None, :], -b_drift)
        b_gap, b_more = twice_sum(b_gap, b_more - (b_cut + alpha * b_rest))
        b_square, b_cut = twice_product(b_gap, b_gap)
        b_cut += 2.0 * b_gap * b_more
        b_high, b_more = twice_sum(b_high, tl.where(mask, b_square, 0.0))
        b_low += b_more + tl.where(mask, b_cut, 0.0)
    # what all of them hold on one grid sums without rounding; [BLOCK_N]
    anchor = 2.0 * BLOCK_D * tl.max(b_high, axis=1)
    b_grid = (b_high + anchor[:, None]) - anchor[:, None]
    return twice_sum(tl.sum(b_grid, axis=1), tl.sum((b_high - b_grid) + b_low, axis=1))


@triton.jit
@no_type_check
def twice_logits(
    samples, query, given, row, m_s,
    WEIGHTED: tl.constexpr, CENTRED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Return log w - |x - alpha X|^2 / 2 sigma^2 of some rows, [BLOCK_N], as float64 and the rest.

    samples, query: as the steps of :mod:`.steps` take them. given: as in :func:`twice_distances`.
    """
    _, alpha, precision = query
    distance, rest = twice_distances(samples, given, alpha, row, m_s, CENTRED, BLOCK_N, BLOCK_D)
    factor = -0.5 * precision
    if not CENTRED:
        factor = factor / (given[1] * given[1])
    logit, cut = twice_product(distance, factor)
    logit, cut = twice_sum(logit, cut + factor * rest)
    if WEIGHTED:
        # the log of no weight is infinite, and so is the sum
        weighted, lost = twice_sum(logit, tl.load(samples[2] + row, mask=m_s, other=0.0))
        cut = tl.where(weighted > float("-inf"), cut + lost, 0.0)
        logit = weighted
    return logit, cut
