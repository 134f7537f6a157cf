"""Triton: scores and weighted sum in one program and one read of the rows, for D that fits in it.

Without moments: their sums would not fit into the registers beside two accumulators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Float64, Tensor
from ..common.accumulate import BlockSums
from .configs import FusedConfig
from .jit import WEIGHT_SCALE, centre_of, dot, dot_add, finite, operand, rounded, share_of
from .operands import EXACT, BlockOperand, QueryOperand, Split


@triton.jit
@no_type_check
def load_parts(p_part, part_stride, mask, PARTS: tl.constexpr):
    """Return the first, second and third part of queries; those beyond `PARTS` repeat the first and are not used."""
    b_first = tl.load(p_part, mask=mask, other=0)
    b_second = b_first
    b_third = b_first
    if PARTS >= 2:
        b_second = tl.load(p_part + part_stride, mask=mask, other=0)
    if PARTS == 3:
        b_third = tl.load(p_part + 2 * part_stride, mask=mask, other=0)
    return b_first, b_second, b_third


@triton.jit
@no_type_check
def dot_parts(b_first, b_second, b_third, b_right, PARTS: tl.constexpr, PRECISION: tl.constexpr):
    """Return the product of `b_right` with queries in one to three parts, summed inside the matrix unit."""
    b_product = dot(b_first, b_right, PRECISION)
    if PARTS >= 2:
        b_product = dot_add(b_second, b_right, b_product, PRECISION)
    if PARTS == 3:
        b_product = dot_add(b_third, b_right, b_product, PRECISION)
    return b_product


@triton.jit
@no_type_check
def without_excluded(b_logits, o_n, o_b, m_b, p_excluded, RANGES: tl.constexpr):
    """Return logits [queries, rows] with -inf where a row lies in one of the `RANGES` excluded ranges of a query."""
    # unrolled: a loop would forbid asynchronous copies in the loop over rows around it
    for i_h in tl.static_range(RANGES):
        range_start = tl.load(p_excluded + (o_b * RANGES + i_h) * 2, mask=m_b, other=0)
        range_stop = tl.load(p_excluded + (o_b * RANGES + i_h) * 2 + 1, mask=m_b, other=0)
        m_excluded = (o_n[None, :] >= range_start[:, None]) & (o_n[None, :] < range_stop[:, None])
        b_logits = tl.where(m_excluded, float("-inf"), b_logits)
    return b_logits


@triton.jit
@no_type_check
def softmax_step(b_logits, reference, seen, rescore_window):
    """Add a tile of logits [queries, rows] to a softmax whose weights exp(l - reference) sum to `seen`.

    Return its largest logits, its weights, the raised reference and the sum of weights, the factor of earlier sums, and
    for which queries the tile may hold a sample to rescore.
    """
    top = tl.max(b_logits, axis=1)
    raised = tl.maximum(reference, top)
    origin = finite(raised)
    shrink = tl.exp(tl.where(seen > 0.0, reference - origin, 0.0))
    b_weights = tl.exp(b_logits - origin[:, None])
    seen = shrink * seen + tl.sum(b_weights, axis=1)
    partition = origin + tl.log(tl.where(seen > 0.0, seen, 1.0))
    m_rescore = (top >= partition - rescore_window) & (top > float("-inf"))
    return top, b_weights, raised, seen, shrink, m_rescore


@triton.jit
@no_type_check
def fused_kernel(
    p_rows,
    p_query,
    p_centre,
    p_half_norm,
    p_log_weight,
    p_gain,
    p_slope,
    p_excluded,
    p_rescore_window,
    p_sums,
    p_out,
    p_rescore,
    count,
    dim,
    batch,
    row_stride,
    part_stride,
    sum_stride,
    RANGES: tl.constexpr,
    QUERY_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Softmax of a tile of queries over one share of the rows, with a moving reference.

    The sums of p and p r leave out the tiles of rows that are to be rescored; `p_rescore` gets their largest logits.
    """
    i_split = tl.program_id(1)
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    o_d = tl.arange(0, BLOCK_D)
    m_b = o_b < batch
    m_d = o_d < dim
    begin, end = share_of(count, i_split, tl.num_programs(1), BLOCK_N)
    dtype: tl.constexpr = p_query.dtype.element_ty
    # [BLOCK_B, BLOCK_D]; queries are the rows of the accumulators, so that a thread holds few of their statistics
    p_part = p_query + o_b.to(tl.int64)[:, None] * dim + o_d[None, :]
    b_query, b_second, b_third = load_parts(p_part, part_stride, m_b[:, None] & m_d[None, :], QUERY_PARTS)
    centre = centre_of(p_rows.dtype.element_ty, p_centre, o_d, m_d)
    # [BLOCK_B]
    gain = tl.load(p_gain + o_b, mask=m_b, other=0.0)
    slope = tl.load(p_slope + o_b, mask=m_b, other=0.0)
    rescore_window = tl.load(p_rescore_window + o_b, mask=m_b, other=float("-inf"))
    reference = tl.full([BLOCK_B], float("-inf"), dtype=tl.float32)
    seen = tl.zeros([BLOCK_B], dtype=tl.float32)
    mass = tl.zeros([BLOCK_B], dtype=tl.float32)
    b_total = tl.zeros([BLOCK_B, BLOCK_D], dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        o_n = start + tl.arange(0, BLOCK_N)
        m_n = o_n < end
        # [BLOCK_N, BLOCK_D]
        p_block = p_rows + o_n.to(tl.int64)[:, None] * row_stride + o_d[None, :]
        b_rows = tl.load(p_block, mask=m_n[:, None] & m_d[None, :], other=0)
        b_rows = operand(b_rows, centre[None, :], dtype)
        # [BLOCK_B, BLOCK_N]
        b_product = dot_parts(b_query, b_second, b_third, tl.trans(b_rows), QUERY_PARTS, PRECISION)
        half_norm = tl.load(p_half_norm + o_n, mask=m_n, other=0.0)
        b_logits = gain[:, None] * b_product + slope[:, None] * half_norm[None, :]
        if WEIGHTED:
            b_logits += tl.load(p_log_weight + o_n, mask=m_n, other=0.0)[None, :]
        b_logits = without_excluded(b_logits, o_n, o_b, m_b, p_excluded, RANGES)
        b_logits = tl.where(m_b[:, None] & m_n[None, :], b_logits, float("-inf"))

        top, b_weights, reference, seen, shrink, m_rescore = softmax_step(b_logits, reference, seen, rescore_window)
        # a tile that may hold a sample to rescore is rescored as a whole: no list to write from within the loop
        p_tile = p_rescore + tl.cast(start // BLOCK_N, tl.int64) * sum_stride + o_b
        tl.store(p_tile, tl.where(m_rescore, top, float("-inf")), mask=m_b)
        b_weights = tl.where(m_rescore[:, None], 0.0, b_weights * WEIGHT_SCALE)
        first, rest, b_kept = rounded(b_weights, PARTS, dtype)
        mass = shrink * mass + tl.sum(b_kept, axis=1)
        if MEAN:
            b_sum = dot(first, b_rows, PRECISION)
            if PARTS == 2:
                b_sum = dot_add(rest, b_rows, b_sum, PRECISION)
            # added outside the matrix unit, whose own sums are truncated
            b_total = b_total * shrink[:, None] + b_sum

    p_sum = p_sums + i_split * 3 * sum_stride + o_b
    tl.store(p_sum, reference, mask=m_b)
    tl.store(p_sum + sum_stride, seen, mask=m_b)
    tl.store(p_sum + 2 * sum_stride, mass / WEIGHT_SCALE, mask=m_b)
    if MEAN:
        # [BLOCK_B, BLOCK_D], out is [splits, B, D]
        p_mean = p_out + (i_split.to(tl.int64) * batch + o_b[:, None]) * dim + o_d[None, :]
        tl.store(p_mean, b_total / WEIGHT_SCALE, mask=m_b[:, None] & m_d[None, :])


@dataclass(frozen=True)
class FusedSums:
    """What one launch of the fused kernel computes of a block.

    partition: [B] float64, log of the sum of the weights of all samples of the block, -inf where there are none.
    block: the sums over the tiles that are not to be rescored. rescore: [tiles, B] float32, the largest logit of every
    tile that is to be rescored, -inf for the others. tile: rows of a tile.
    """

    partition: Float64[Tensor, "B"]
    block: BlockSums
    rescore: Float[Tensor, "T B"]
    tile: int


def fused(
    query: QueryOperand,
    block: BlockOperand,
    rescore_window: Float[Tensor, "B"],
    config: FusedConfig,
    *,
    shares: int,
    mean: bool,
    split: Split = EXACT,
) -> FusedSums:
    """Return the sums over a block; no synchronisation.

    query: [B] queries. block: n rows. rescore_window: [B] float32, nats; a tile of rows is to be rescored where its
    largest logit lies above the log-partition of what its program has seen so far less this window.
    config: the tile, whose `block_d` is D at least. shares: programs that share the rows, for each tile of queries.
    mean: whether the weighted sums of the rows are wanted. split: how many numbers a weight is split into.

    Costs one read of the block for each tile of queries and 4 parts B n D operations.
    """
    count, batch, dim = len(block), len(query), block.dim
    padded = 16 * triton.cdiv(batch, 16)
    sums = block.rows.new_empty(shares, 3, padded, dtype=torch.float32)
    out = block.rows.new_empty(shares, batch, dim if mean else 0, dtype=torch.float32)
    rescore = block.rows.new_empty(triton.cdiv(count, config.block_n), padded, dtype=torch.float32)
    fused_kernel[(triton.cdiv(batch, config.block_b), shares)](
        block.rows, query.parts, block.centre, block.half_norms, block.log_weights, query.gain, query.slope,
        block.excluded(query), rescore_window, sums, out, rescore, count, dim, batch, block.rows.stride(0),
        query.parts.stride(0), padded,
        RANGES=query.excluded.shape[1], QUERY_PARTS=min(3, len(query.parts)), PARTS=split.weight[query.parts.dtype],
        WEIGHTED=block.weighted, MEAN=mean, PRECISION=query.precision,
        BLOCK_N=config.block_n, BLOCK_B=config.block_b, BLOCK_D=config.block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    partition, combined = _combined(sums[:, :, :batch].double(), out)
    return FusedSums(partition, combined, rescore[:, :batch], config.block_n)


def _combined(sums: Float64[Tensor, "S 3 B"], out: Float[Tensor, "S B E"]) -> tuple[Float64[Tensor, "B"], BlockSums]:
    """Bring the shares to one origin and add them in float64."""
    reference, seen, mass = sums.unbind(1)
    top = reference.amax(0)
    # exact: the references are float32
    origin = torch.where(top == -torch.inf, 0.0, top)
    factor = (reference - origin).exp()
    total = torch.einsum("sb,sbd->bd", factor, out.double())
    partition = origin + (factor * seen).sum(0).log()
    none = torch.zeros_like(origin)
    return partition, BlockSums(origin.float(), torch.stack([(factor * mass).sum(0), none, none, none]), total)
