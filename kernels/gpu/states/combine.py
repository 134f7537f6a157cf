"""Triton: answers that are linear in a posterior mean and in its point, in one launch."""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Float64, Tensor
from ...common.combine import Combination
from ..jit.parts import nearest
from ..operands.given import float32_parts

# values of D that a program combines
COMBINE_BLOCK = 1024


@triton.jit
@no_type_check
def combine_kernel(
    p_mean, p_x, p_base, p_alpha, p_direct, p_gap, p_out, dim, scale, scale_rest, BLOCK: tl.constexpr
):  # fmt: skip
    """A slice of D of the answer direct m + gap (x - alpha m), m = (scale + scale_rest) mean + base, of a query.

    p_mean, p_x, p_out: [B, D]. p_base: [D]. p_alpha, p_direct, p_gap: [B]. All float64 but p_out.
    """
    i_b = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    m_d = o_d < dim
    # [BLOCK]
    b_mean = tl.load(p_mean + i_b * dim + o_d, mask=m_d, other=0.0)
    b_mean = b_mean * scale + b_mean * scale_rest
    b_base, alpha = tl.load(p_base + o_d, mask=m_d, other=0.0), tl.load(p_alpha + i_b)
    # far from zero this difference has digits that a value has no room for
    b_rest = (tl.load(p_x + i_b * dim + o_d, mask=m_d, other=0.0) - alpha * b_base) - alpha * b_mean
    b_out = tl.load(p_direct + i_b) * (b_mean + b_base) + tl.load(p_gap + i_b) * b_rest
    dtype: tl.constexpr = p_out.dtype.element_ty
    if dtype.primitive_bitwidth == 16:
        tl.store(p_out + i_b * dim + o_d, nearest(b_out.to(tl.float32), dtype), mask=m_d)
    else:
        tl.store(p_out + i_b * dim + o_d, b_out.to(dtype), mask=m_d)


def combined_answer(combination: Combination, mean: Float64[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B D"]:
    """Return the answer of `combination` as :func:`...common.combine.combined` does; no synchronisation.

    combination: of [B] queries. mean: [B, D] float64. dtype: of the answer. Costs one read of both.
    """
    batch, dim = mean.shape
    out = mean.new_empty(batch, dim, dtype=dtype)
    # two of the numbers hold 48 bits
    scale, rest, _ = float32_parts(combination.scale)
    factors = (part.contiguous() for part in (combination.alpha, combination.direct, combination.gap))
    combine_kernel[(batch, triton.cdiv(dim, COMBINE_BLOCK))](
        mean.contiguous(), combination.x.contiguous(), combination.base, *factors, out, dim, scale,
        rest, BLOCK=COMBINE_BLOCK, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return out
