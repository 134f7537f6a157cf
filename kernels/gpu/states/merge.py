"""Triton: posterior means over two parts of the samples as one, in one launch."""

from __future__ import annotations

from dataclasses import replace
from typing import no_type_check

import triton
import triton.language as tl

from ...common.state import PosteriorState
from ..jit.compensated import twice_sum
from ..jit.masks import finite

# values of D that a program merges
MERGE_BLOCK = 1024


@triton.jit
@no_type_check
def merge_kernel(
    p_lse, p_rest, p_mean, p_lse_other, p_rest_other, p_mean_other, p_lse_out, p_rest_out, p_mean_out, dim,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The log-partition of two parts of the samples together, and a slice of D of the mean, of a query.

    p_lse, p_rest: [B] float64, the log-partition of a part and what float64 cut off it. p_mean: [B, D] float64.
    """
    i_b = tl.program_id(0).to(tl.int64)
    own, other = tl.load(p_lse + i_b), tl.load(p_lse_other + i_b)
    rest, rest_other = tl.load(p_rest + i_b), tl.load(p_rest_other + i_b)
    some, some_other = own > float("-inf"), other > float("-inf")
    # a part without samples has no share, and what it is compared with does not matter
    own, other = finite(own), finite(other)
    gap = tl.where(some & some_other, (own - other) + (rest - rest_other), 0.0)
    less = tl.exp(-tl.abs(gap))
    large, small = 1.0 / (1.0 + less), less / (1.0 + less)
    share = tl.where(some_other, tl.where(gap >= 0.0, large, small), 1.0)
    share_other = tl.where(some, tl.where(gap >= 0.0, small, large), 1.0)
    share, share_other = tl.where(some, share, 0.0), tl.where(some_other, share_other, 0.0)
    if tl.program_id(1) == 0:
        first = some & ((some_other == 0) | (gap >= 0.0))
        high, low = tl.where(first, own, other), tl.where(first, rest, rest_other)
        both = tl.where(some & some_other, tl.log(1.0 + less), 0.0)
        lse, cut = twice_sum(tl.where(some | some_other, high, 0.0), low + both)
        tl.store(p_lse_out + i_b, tl.where(some | some_other, lse, float("-inf")))
        tl.store(p_rest_out + i_b, tl.where(some | some_other, cut, 0.0))
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_d = o_d < dim
    b_own = tl.load(p_mean + i_b * dim + o_d, mask=m_d, other=0.0)
    b_other = tl.load(p_mean_other + i_b * dim + o_d, mask=m_d, other=0.0)
    tl.store(p_mean_out + i_b * dim + o_d, share * b_own + share_other * b_other, mask=m_d)


def merged_means(first: PosteriorState, second: PosteriorState) -> PosteriorState:
    """Return the means over two disjoint subsets of the samples as one, as `merge` does; no synchronisation.

    first, second: the states of the same B queries over either. What is neither mean nor log-partition is that of the
    first. Costs one read of both means.
    """
    batch, dim = first.mean.shape
    lse, rest = first.lse.new_empty(2, batch).unbind(0)
    mean = first.mean.new_empty(batch, dim)
    parts = [part.contiguous() for state in (first, second) for part in (state.lse, state.lse_rest, state.mean)]
    merge_kernel[(batch, triton.cdiv(dim, MERGE_BLOCK))](
        *parts, lse, rest, mean, dim, BLOCK=MERGE_BLOCK, num_warps=4, enable_fp_fusion=False
    )
    return replace(first, lse=lse, lse_rest=rest, mean=mean)
