"""Triton: logits, weights and weighted sum in one program, for D that fits in it: no logit is ever stored.

Statistics of the logits come first, so that the origin of the weights and the floors are known. Without moments: their
sums would not fit into the registers beside two accumulators.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Tensor
from ..core.tiles import FusedConfig
from ..jit.blocks import row_tile
from ..jit.matrix_unit import centre_of, dot, dot_add, operand
from ..jit.parts import WEIGHT_SCALE, rounded, two_parts
from ..jit.places import share_of
from ..operands.parts import QueryOperand
from ..operands.rows import BlockOperand
from ..operands.splits import EXACT, Split
from ..rescore.listed_pairs import ListedPairs, any_of, list_samples
from .weights import Reference


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
def dot_parts(b_first, b_second, b_third, b_right, PARTS: tl.constexpr):
    """Return the product of queries in one to three parts with `b_right`, summed inside the matrix unit."""
    b_product = dot(b_first, b_right)
    if PARTS >= 2:
        b_product = dot_add(b_second, b_right, b_product)
    if PARTS == 3:
        b_product = dot_add(b_third, b_right, b_product)
    return b_product


@triton.jit
@no_type_check
def row_parts(b_rows, centre, scale, dtype: tl.constexpr):
    """Return rows as they are stored as one number of `dtype`, or as the sum of two; others have the first twice."""
    if b_rows.dtype == tl.float32:
        high, rest = two_parts(b_rows, scale, dtype)
    else:
        high = operand(b_rows, centre[None, :], dtype)
        rest = high
    return high, rest


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
def tile_products(b_query, b_second, b_third, b_high, b_rest, QUERY_PARTS: tl.constexpr, SPLIT: tl.constexpr):
    """Return the products of a tile of queries with one of rows, [BLOCK_B, BLOCK_N], of all parts of both."""
    b_product = dot_parts(b_query, b_second, b_third, tl.trans(b_high), QUERY_PARTS)
    if SPLIT:
        b_product += dot_parts(b_query, b_second, b_third, tl.trans(b_rest), QUERY_PARTS)
    return b_product


@triton.jit
@no_type_check
def tile_logits(b_product, o_n, m_n, gain, slope, p_half_norm, p_log_weight, WEIGHTED: tl.constexpr):
    """Return the logits of products of queries with the rows `o_n`, [BLOCK_B, BLOCK_N]."""
    half_norm = tl.load(p_half_norm + o_n, mask=m_n, other=0.0)
    b_logits = gain[:, None] * b_product + slope[:, None] * half_norm[None, :]
    if WEIGHTED:
        b_logits += tl.load(p_log_weight + o_n, mask=m_n, other=0.0)[None, :]
    return b_logits


@triton.jit
@no_type_check
def tile_sum(first, rest, b_high, b_rest, PARTS: tl.constexpr, SPLIT: tl.constexpr):
    """Return the sum of the rows of a tile times their weights, [BLOCK_B, BLOCK_D], of all parts of both."""
    b_sum = dot(first, b_high)
    if PARTS == 2:
        b_sum = dot_add(rest, b_high, b_sum)
    if SPLIT:
        b_sum = dot_add(first, b_rest, b_sum)
    return b_sum


@triton.jit(
    do_not_specialize=["first_row", "count", "batch", "rescore_limit"],
    do_not_specialize_on_alignment=["p_half_norm", "p_log_weight"],
)
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
    p_reference,
    p_weight_floor,
    p_rescore_floor,
    p_sums,
    p_out,
    p_rescore_count,
    p_rescore_row,
    p_rescore_logit,
    first_row,
    count,
    dim,
    batch,
    row_stride,
    part_stride,
    sum_stride,
    rescore_limit,
    row_scale,
    RANGES: tl.constexpr,
    QUERY_PARTS: tl.constexpr,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sums of weights, and of weights times rows, of a tile of queries over one share of the rows.

    p_rows: [n, D] as stored. p_query: [P, B, D]. p_reference, p_weight_floor, p_rescore_floor, p_rescore_count,
    p_rescore_row, p_rescore_logit: as in the weights kernel. p_sums: [shares, P]. p_out: [shares, B, D].
    """
    o_b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    o_d = tl.arange(0, BLOCK_D)
    m_b, m_d = o_b < batch, o_d < dim
    begin, end = share_of(count, tl.program_id(1), tl.num_programs(1), BLOCK_N)
    dtype: tl.constexpr = p_query.dtype.element_ty
    split: tl.constexpr = p_rows.dtype.element_ty == tl.float32
    # [BLOCK_B, BLOCK_D]; queries are the rows of the accumulators, so that a thread holds few of their statistics
    p_part = p_query + o_b.to(tl.int64)[:, None] * dim + o_d[None, :]
    b_query, b_second, b_third = load_parts(p_part, part_stride, m_b[:, None] & m_d[None, :], QUERY_PARTS)
    centre = centre_of(p_rows.dtype.element_ty, p_centre, o_d, m_d)
    # [BLOCK_B]
    gain = tl.load(p_gain + o_b, mask=m_b, other=0.0)
    slope = tl.load(p_slope + o_b, mask=m_b, other=0.0)
    reference = tl.load(p_reference + o_b, mask=m_b, other=0.0)
    weight_floor = tl.load(p_weight_floor + o_b, mask=m_b, other=float("inf"))
    rescore_floor = tl.load(p_rescore_floor + o_b, mask=m_b, other=float("inf"))
    mass = tl.zeros([BLOCK_B], dtype=tl.float32)
    b_total = tl.zeros([BLOCK_B, BLOCK_D], dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        o_n = start + tl.arange(0, BLOCK_N)
        m_n = o_n < end
        # [BLOCK_N, BLOCK_D]
        b_rows = row_tile(p_rows, 0, o_n, m_n, 0, dim, row_stride, False, BLOCK_D)
        b_high, b_rest = row_parts(b_rows, centre, row_scale, dtype)
        # [BLOCK_B, BLOCK_N]
        b_product = tile_products(b_query, b_second, b_third, b_high, b_rest, QUERY_PARTS, split) / row_scale
        b_logits = tile_logits(b_product, o_n, m_n, gain, slope, p_half_norm, p_log_weight, WEIGHTED)
        b_logits = without_excluded(b_logits, o_n, o_b, m_b, p_excluded, RANGES)
        b_logits = tl.where(m_b[:, None] & m_n[None, :], b_logits, float("-inf"))
        # a query without any sample has a floor of -inf, which logits of -inf reach
        m_keep = (b_logits >= weight_floor[:, None]) & (b_logits > float("-inf"))
        m_rescore = m_keep & (b_logits >= rescore_floor[:, None])
        if any_of(m_rescore):
            list_samples(
                b_logits, m_rescore, first_row + o_n.to(tl.int64), o_b, p_rescore_count, p_rescore_row, p_rescore_logit,
                rescore_limit, 1,
            )  # fmt: skip
        m_keep = m_keep & (m_rescore == 0)
        b_gap = tl.where(m_keep, b_logits - reference[:, None], 0.0)
        b_weights = tl.where(m_keep, tl.exp(b_gap) * WEIGHT_SCALE, 0.0)
        first, rest, b_kept = rounded(b_weights, PARTS, dtype)
        mass += tl.sum(b_kept, axis=1)
        if MEAN:
            # added outside the matrix unit, whose own sums are truncated
            b_total += tile_sum(first, rest, b_high, b_rest, PARTS, split)
    tl.store(p_sums + tl.program_id(1) * sum_stride + o_b, mass / WEIGHT_SCALE, mask=m_b)
    if MEAN:
        # [BLOCK_B, BLOCK_D]
        p_mean = p_out + (tl.program_id(1).to(tl.int64) * batch + o_b[:, None]) * dim + o_d[None, :]
        tl.store(p_mean, b_total / (WEIGHT_SCALE * row_scale), mask=m_b[:, None] & m_d[None, :])


def fused(
    query: QueryOperand,
    block: BlockOperand,
    reference: Reference,
    listed: ListedPairs,
    *,
    config: FusedConfig,
    shares: int,
    mean: bool,
    split: Split = EXACT,
) -> tuple[Float[Tensor, "S 1 Q"], Float[Tensor, "S B E"]]:
    """Return the sums of weights over shares of a block, [shares, 1, P], and of weights times rows, [shares, B, D].

    query: [B] queries. block: n rows. reference: what logits are compared with, [B]. listed: the samples to rescore of
    all blocks so far, changed in place. config: the tile, whose `block_d` is D at least. shares: programs that share
    the rows, for each tile of queries. mean: whether the weighted sums of the rows are wanted, else [shares, B, 0].
    split: how many numbers a weight is split into. No synchronisation; both are to be added in float64.

    Costs one read of the block for each tile of queries and 4 parts B n D operations.
    """
    count, batch, dim = len(block), len(query), block.dim
    padded, new = 16 * triton.cdiv(batch, 16), block.rows.new_empty
    sums = new(shares, 1, padded, dtype=torch.float32)
    out = new(shares, batch, dim if mean else 0, dtype=torch.float32)
    fused_kernel[(triton.cdiv(batch, config.block_b), shares)](
        block.rows, query.parts, block.centre, block.half_norms, block.log_weights, query.gain, query.slope,
        block.excluded(query), reference.origin, reference.weight_floor, reference.rescore_floor, sums, out,
        listed.count, listed.row, listed.logit, block.start, count, dim, batch, block.rows.stride(0),
        query.parts.stride(0), padded, listed.row.shape[1], block.scale,
        RANGES=query.excluded.shape[1], QUERY_PARTS=min(3, len(query.parts)), PARTS=split.weight[query.parts.dtype],
        WEIGHTED=block.weighted, MEAN=mean, BLOCK_N=config.block_n, BLOCK_B=config.block_b, BLOCK_D=config.block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return sums, out
