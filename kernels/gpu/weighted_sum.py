"""Triton: logits to weights, and the weighted sum over a compact list of the rows with weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Int64, Shaped, Tensor
from .configs import WeighConfig
from .jit import WEIGHT_SCALE, centre_of, dot, dot_add, operand, rounded, share_of, tile_of
from .logits import Scores
from .operands import EXACT, BlockOperand, Split, operand_dtype


@triton.jit
@no_type_check
def weights_kernel(
    p_logits,
    p_half_norm,
    p_reference,
    p_weight_floor,
    p_rescore_floor,
    p_weights,
    p_marks,
    p_sums,
    p_rescore_count,
    p_rescore_row,
    p_rescore_logit,
    first_row,
    count,
    batch,
    logit_stride,
    part_stride,
    mark_stride,
    rescore_limit,
    PARTS: tl.constexpr,
    STORE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Weights exp(l - reference) of a tile of logits, the rows with weight, and the samples to rescore.

    p_logits: [n, P]. p_weights: [PARTS, n, P]. p_marks: [tiles of queries, n], 1 where a row has weight for a query of
    the tile. p_sums: [tiles of rows, 4, P] over the samples that are not to be rescored.
    p_rescore_count: [B], counts that are added to. p_rescore_row, p_rescore_logit: [B, rescore_limit].
    """
    i_n, i_b, o_n, o_b, m_n, m_b = tile_of(count, batch, BLOCK_N, BLOCK_B)
    # [BLOCK_B]
    reference = tl.load(p_reference + o_b, mask=m_b, other=0.0)
    weight_floor = tl.load(p_weight_floor + o_b, mask=m_b, other=float("inf"))
    rescore_floor = tl.load(p_rescore_floor + o_b, mask=m_b, other=float("inf"))
    # [BLOCK_N, BLOCK_B]
    offset = o_n.to(tl.int64)[:, None] * logit_stride + o_b[None, :]
    b_logits = tl.load(p_logits + offset, mask=m_n[:, None] & m_b[None, :], other=float("-inf"))
    # a query without any sample has a floor of -inf, which logits of -inf reach
    m_keep = (b_logits >= weight_floor[None, :]) & (b_logits > float("-inf"))
    m_rescore = m_keep & (b_logits >= rescore_floor[None, :])
    o_query = tl.broadcast_to(o_b[None, :], [BLOCK_N, BLOCK_B])
    # integer counters: the order of the list varies, its content does not
    slot = tl.atomic_add(p_rescore_count + o_query, 1, mask=m_rescore)
    m_slot = m_rescore & (slot < rescore_limit)
    p_slot = o_query.to(tl.int64) * rescore_limit + slot
    tl.store(p_rescore_row + p_slot, tl.broadcast_to(first_row + o_n.to(tl.int64)[:, None], [BLOCK_N, BLOCK_B]), m_slot)
    tl.store(p_rescore_logit + p_slot, b_logits, mask=m_slot)

    m_keep = m_keep & (m_rescore == 0)
    b_gap = tl.where(m_keep, b_logits - reference[None, :], 0.0)
    b_weights = tl.where(m_keep, tl.exp(b_gap) * WEIGHT_SCALE, 0.0)
    if STORE:
        dtype: tl.constexpr = p_weights.dtype.element_ty
        first, rest, b_weights = rounded(b_weights, PARTS, dtype)
        # rows without weight are never read: their weights need not be written
        m_row = tl.max(m_keep.to(tl.int32), axis=1)
        m_store = (m_row[:, None] > 0) & (o_b < logit_stride)[None, :]
        tl.store(p_weights + offset, first, mask=m_store)
        if PARTS == 2:
            tl.store(p_weights + part_stride + offset, rest, mask=m_store)
        tl.store(p_marks + i_b.to(tl.int64) * mark_stride + o_n, m_row, mask=m_n)
    b_weights = b_weights / WEIGHT_SCALE
    half_norm = tl.load(p_half_norm + o_n, mask=m_n, other=0.0)
    # [BLOCK_B]
    p_sum = p_sums + i_n * 4 * logit_stride + o_b
    tl.store(p_sum, tl.sum(b_weights, axis=0), mask=m_b)
    tl.store(p_sum + logit_stride, tl.sum(b_weights * b_weights, axis=0), mask=m_b)
    tl.store(p_sum + 2 * logit_stride, tl.sum(b_weights * b_gap, axis=0), mask=m_b)
    tl.store(p_sum + 3 * logit_stride, tl.sum(b_weights * half_norm[:, None], axis=0), mask=m_b)


@triton.jit
@no_type_check
def weigh_kernel(
    p_rows,
    p_weights,
    p_centre,
    p_list,
    p_list_count,
    p_out,
    dim,
    batch,
    row_stride,
    weight_stride,
    part_stride,
    list_stride,
    PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of weights times rows over one share of the rows with weight, for a slice of D and a tile of queries.

    p_rows: [n, D] as stored. p_weights: [PARTS, n, P]. p_list: [tiles of queries, n + 1], rows with weight first.
    p_list_count: [tiles of queries], how many they are. p_out: [shares, B, D].
    """
    i_d = tl.program_id(0)
    i_b = tl.program_id(1)
    i_share = tl.program_id(2)
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    o_b = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    m_d = o_d < dim
    m_b = o_b < batch
    begin, end = share_of(tl.load(p_list_count + i_b), i_share, tl.num_programs(2), BLOCK_N)
    p_row = p_list + i_b.to(tl.int64) * list_stride + tl.arange(0, BLOCK_N)
    centre = centre_of(p_rows, p_centre, o_d, m_d)
    # [BLOCK_D, BLOCK_B]: rows on the side whose operand may come from registers, after conversion of 8-bit data
    b_total = tl.zeros([BLOCK_D, BLOCK_B], dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        m_n = start + tl.arange(0, BLOCK_N) < end
        o_row = tl.load(p_row + start, mask=m_n, other=0).to(tl.int64)
        # [BLOCK_D, BLOCK_N], addressed as its transpose: a transposed block would not be copied asynchronously on sm_80
        p_block = p_rows + o_row[None, :] * row_stride + o_d[:, None]
        b_rows = tl.load(p_block, mask=m_d[:, None] & m_n[None, :], other=0)
        b_rows = operand(b_rows, centre[:, None], p_weights.dtype.element_ty)
        # [BLOCK_N, BLOCK_B]
        p_weight = p_weights + o_row[:, None] * weight_stride + o_b[None, :]
        # up to the padded width: a mask that ends anywhere would forbid wide asynchronous copies
        m_weight = m_n[:, None] & (o_b < weight_stride)[None, :]
        b_product = dot(b_rows, tl.load(p_weight, mask=m_weight, other=0), PRECISION)
        if PARTS == 2:
            b_rest = tl.load(p_weight + part_stride, mask=m_weight, other=0)
            b_product = dot_add(b_rows, b_rest, b_product, PRECISION)
        b_total += b_product
    # [BLOCK_D, BLOCK_B], out is [shares, B, D]
    p_sum = p_out + (i_share.to(tl.int64) * batch + o_b[None, :]) * dim + o_d[:, None]
    tl.store(p_sum, b_total / WEIGHT_SCALE, mask=m_d[:, None] & m_b[None, :])


# logits of a tile of the weights kernel, and warps of a program: with more of either registers spill
WEIGHTS_TILE, WEIGHTS_WARPS = 4096, 4


def weights_rows(block_b: int) -> int:
    """Return how many rows a tile of the weights kernel has, beside `block_b` queries."""
    return min(128, WEIGHTS_TILE // block_b)


@dataclass(frozen=True)
class Reference:
    """What the logits of a block are compared with.

    origin: [B] float32, the logit with weight one. weight_floor: [B] float32, smaller logits have no weight.
    rescore_floor: [B] float32, samples with larger logits are to be rescored; +inf where none is.
    """

    origin: Float[Tensor, "B"]
    weight_floor: Float[Tensor, "B"]
    rescore_floor: Float[Tensor, "B"]


@dataclass(frozen=True)
class ListedPairs:
    """Samples of each query that are to be rescored, in any order; beyond the end of a list they are only counted.

    count: [B] int32, how many there are. row: [B, L] int64. logit: [B, L] float32, coarse.
    """

    count: Shaped[Tensor, "B"]
    row: Int64[Tensor, "B L"]
    logit: Float[Tensor, "B L"]

    @classmethod
    def empty(cls, count: Shaped[Tensor, "B"], limit: int) -> ListedPairs:
        """Return empty lists with room for `limit` samples each; count: [B] int32, zero before the first is listed."""
        row = count.new_empty(len(count), limit, dtype=torch.int64)
        return cls(count, row, count.new_empty(len(count), limit, dtype=torch.float32))


@dataclass(frozen=True)
class Weights:
    """Weights of a block and their sums.

    parts: [P, n, Q] in the dtype of the matrix unit, WEIGHT_SCALE times the weights; rows without weight hold nothing.
    marks: [tiles of queries, n] int32, whether a row has weight for a query of the tile. Both are empty without the
    mean.
    sums: [T, 4, Q] float32, of each tile: of p, p^2, p (l - origin) and p |r|^2 / 2 over the samples that are not to be
    rescored. batch: queries; columns from there on hold nothing.
    """

    parts: Shaped[Tensor, "P n Q"]
    marks: Shaped[Tensor, "U m"]
    sums: Float[Tensor, "T 4 Q"]
    batch: int


def weights_of(
    scores: Scores,
    block: BlockOperand,
    reference: Reference,
    listed: ListedPairs,
    *,
    config: WeighConfig,
    mean: bool,
    split: Split = EXACT,
) -> Weights:
    """Return the weights of a block, and append the samples to rescore to `listed`; no synchronisation.

    scores: logits of the block, [n, P]. block: n rows. reference: what the logits are compared with, [B].
    listed: the samples to rescore of all blocks so far, changed in place. config: the tile of the weighted sum.
    mean: whether weights are written, for the weighted sum. split: how many numbers a weight is split into.

    Costs one read of the logits and, for the mean, a write of as many bytes for the rows with weight.
    """
    (count, padded), batch = scores.logits.shape, len(reference.origin)
    dtype = operand_dtype(block.rows.dtype)
    rows = weights_rows(config.block_b)
    tiles, tiles_b = triton.cdiv(count, rows), triton.cdiv(batch, config.block_b)
    parts = block.rows.new_empty(split.weight[dtype] if mean else 1, count if mean else 0, padded, dtype=dtype)
    marks = block.rows.new_empty(tiles_b, count if mean else 0, dtype=torch.int32)
    sums = block.rows.new_empty(tiles, 4, padded, dtype=torch.float32)
    weights_kernel[(tiles * tiles_b,)](
        scores.logits, block.half_norms, reference.origin, reference.weight_floor, reference.rescore_floor,
        parts, marks, sums, listed.count, listed.row, listed.logit, block.start, count, batch, padded, count * padded,
        count, listed.row.shape[1], PARTS=len(parts), STORE=mean, BLOCK_N=rows, BLOCK_B=config.block_b,
        num_warps=WEIGHTS_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return Weights(parts, marks, sums, batch)


def marked_rows(marks: Shaped[Tensor, "U n"]) -> tuple[Shaped[Tensor, "U m"], Shaped[Tensor, "U"]]:
    """Return the numbers of the marked rows, in rising order, and how many there are; no synchronisation.

    marks: [U, n] int32, 1 or 0. The numbers are [U, n + 1] int32, those of unmarked rows left out and the rest of a
    line unspecified; the counts are [U] int32.
    """
    rank = marks.cumsum(1, dtype=torch.int32)
    count = marks.shape[1]
    # unmarked rows all go to one place behind the list
    place = torch.where(marks > 0, rank - 1, count).long()
    rows = torch.arange(count, dtype=torch.int32, device=marks.device).expand_as(marks)
    return marks.new_empty(len(marks), count + 1).scatter_(1, place, rows), rank[:, -1].contiguous()


def weigh(
    weights: Weights, block: BlockOperand, config: WeighConfig, *, precision: str, shares: int
) -> Float[Tensor, "S B D"]:
    """Return the sums of weights times rows, 8-bit ones centred, [shares, B, D] float32; deterministic, no waiting.

    weights: of the block, made for the mean with the same `config`. block: n rows. config: the tile.
    precision: how float32 operands are multiplied, as in Device. shares: programs that share the rows with weight, for
    each tile; their sums are to be added in float64.

    Costs one read of the rows with weight for each tile of queries and 2 parts B n D operations.
    """
    rows, count = marked_rows(weights.marks)
    batch = weights.batch
    out = block.rows.new_empty(shares, batch, block.dim, dtype=torch.float32)
    grid = (triton.cdiv(block.dim, config.block_d), len(rows), shares)
    _, _, padded = weights.parts.shape
    weigh_kernel[grid](
        block.rows, weights.parts, block.centre, rows, count, out, block.dim, batch, block.rows.stride(0), padded,
        weights.parts.stride(0), rows.stride(0), PARTS=len(weights.parts), PRECISION=precision,
        BLOCK_N=config.block_n, BLOCK_B=config.block_b, BLOCK_D=config.block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out
