"""Triton: what is said of a posterior beside its mean, in one launch."""

from __future__ import annotations

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Tensor
from ...common.describe import Described, Description
from ..jit.compensated import sum_of_three
from ..operands.given import float32_parts

# heaviest samples that a program looks at together
DESCRIBE_BLOCK = 64


@triton.jit(do_not_specialize=["batch", "count"])
@no_type_check
def describe_kernel(
    p_lse, p_rest, p_concentration, p_spread, p_mass, p_variance, p_top, p_top_rest, p_row, p_order, p_facts, p_weight,
    p_index, batch, count, half, constant, constant_rest, constant_last, square, square_rest, square_last,
    MASSES: tl.constexpr, ORDERED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Log density, effective number of samples, variance, and weights and indices of the heaviest samples of a query.

    p_lse, p_rest, p_concentration, p_spread, p_variance: [B] float64, and p_mass where MASSES; three numbers add up to
    what is taken off all log densities, and three to what p_spread is multiplied by. half: of D. p_top, p_top_rest,
    p_row: [B, count], logits, what float64 cut off them, and rows. p_order: [N], the index of every row where ORDERED.
    p_facts: [7, B], the first three and three zeros and a one. p_weight, p_index: [B, count].
    """
    i_b = tl.program_id(0).to(tl.int64)
    lse, rest = tl.load(p_lse + i_b), tl.load(p_rest + i_b)
    off = sum_of_three(constant, constant_rest, constant_last)
    if MASSES:
        off += tl.log(tl.load(p_mass + i_b).to(tl.float64))
    p_fact = p_facts + i_b
    tl.store(p_fact, (lse - off) - tl.cast(half, tl.float64) * tl.log(tl.load(p_variance + i_b)))
    tl.store(p_fact + batch, 1.0 / tl.load(p_concentration + i_b))
    tl.store(p_fact + 2 * batch, sum_of_three(square, square_rest, square_last) * tl.load(p_spread + i_b))
    for place in tl.static_range(3):
        tl.store(p_fact + (3 + place) * batch, tl.cast(0.0, tl.float64))
    tl.store(p_fact + 6 * batch, tl.cast(1.0, tl.float64))
    for start in range(0, count, BLOCK):
        o_k = start + tl.arange(0, BLOCK)
        m_k = o_k < count
        # [BLOCK]
        b_rest = tl.load(p_top_rest + i_b * count + o_k, mask=m_k, other=0.0) - rest
        b_gap = tl.load(p_top + i_b * count + o_k, mask=m_k, other=float("-inf")) - lse
        tl.store(p_weight + i_b * count + o_k, tl.exp(b_gap + b_rest), mask=m_k)
        row = tl.load(p_row + i_b * count + o_k, mask=m_k, other=-1)
        if ORDERED:
            row = tl.load(p_order + row, mask=row >= 0, other=-1)
        tl.store(p_index + i_b * count + o_k, row, mask=m_k)


def posterior_facts(description: Description) -> Described:
    """Return the facts of posteriors as :func:`...common.describe.described` does; no synchronisation.

    description: of at least one query. Costs one read of what is named in it.
    """
    state, mass, order = description.state, description.mass, description.order
    (batch, count), half = state.top_rows.shape, 0.5 * description.dim
    facts, weights = state.lse.new_empty(7, batch), state.lse.new_empty(batch, count)
    rows, indices = state.top_rows.contiguous(), state.top_rows.new_empty(batch, count)
    constant = half * math.log(2 * math.pi) + (0.0 if isinstance(mass, Tensor) else math.log(mass))
    given = (state.lse, state.lse_rest, state.concentration, state.variance)
    masses = mass if isinstance(mass, Tensor) else state.lse
    read = (part.contiguous() for part in (*given, masses, description.variance, state.top_logits, state.top_rest))
    describe_kernel[(batch,)](
        *read, rows, rows if order is None else order, facts, weights, indices, batch, count, half,
        *float32_parts(constant), *float32_parts(description.scale**2), MASSES=isinstance(mass, torch.Tensor),
        ORDERED=order is not None, BLOCK=DESCRIBE_BLOCK, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return Described(facts[0], facts[1], facts[2], weights, indices, facts[3:6], facts[6])
