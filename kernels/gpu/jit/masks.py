"""What does not count: excluded rows, queries without any, and references of nothing."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def masked_by_ranges(logits, o_row, o_b, m_b, p_excluded, excluded):
    """Return logits [rows, queries] with -inf where a row lies in one of the `excluded` ranges of a query.

    o_row: rows of the tile. o_b, m_b: its queries, and which exist. p_excluded: [B, excluded, 2] int64.
    """
    for i_h in range(excluded):
        # [BLOCK_B]
        p_range = p_excluded + (o_b * excluded + i_h) * 2
        start = tl.load(p_range, mask=m_b, other=0)
        stop = tl.load(p_range + 1, mask=m_b, other=0)
        inside = (o_row[:, None] >= start[None, :]) & (o_row[:, None] < stop[None, :])
        logits = tl.where(inside, float("-inf"), logits)
    return logits


@triton.jit
@no_type_check
def covered_by_ranges(first_row, last_row, o_b, m_b, p_excluded, excluded):
    """Return for which queries one of the `excluded` ranges holds all rows [first_row, last_row), above zero for these.

    o_b, m_b, p_excluded: as in :func:`masked_by_ranges`.
    """
    covered = tl.zeros(o_b.shape, dtype=tl.int32)
    for i_h in range(excluded):
        p_range = p_excluded + (o_b * excluded + i_h) * 2
        start = tl.load(p_range, mask=m_b, other=0)
        stop = tl.load(p_range + 1, mask=m_b, other=0)
        covered += ((start <= first_row) & (stop >= last_row)).to(tl.int32)
    return covered


@triton.jit
@no_type_check
def finite(reference):
    """Return the reference of a softmax, zero where it is -inf, so that -inf minus it stays -inf."""
    return tl.where(reference == float("-inf"), 0.0, reference)


@triton.jit
@no_type_check
def where_positive(mask, number):
    """Return `mask`, a block, where the scalar `number` is above zero, and false everywhere else."""
    # as a block: the interpreter cannot spread what a comparison of scalars gives
    return mask & (tl.zeros(mask.shape, dtype=tl.float64) + number > 0.0)
