"""Triton: logits to weights, and the weighted sum over the compacted list of rows that carry weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from .configs import WeighConfig
from .jit import WEIGHT_SCALE, centre_of, dot, dot_add, operand, rounded, tile_of
from .logits import Scores
from .operands import EXACT, BlockOperand, Split, operand_dtype


@triton.jit
@no_type_check
def weights_kernel(
    p_logits,
    p_half_norm,
    p_reference,
    p_live_floor,
    p_rescore_floor,
    p_weights,
    p_live,
    p_sums,
    p_rescore_count,
    p_rescore_row,
    p_rescore_logit,
    first_row,
    count,
    batch,
    logit_stride,
    part_stride,
    live_stride,
    rescore_limit,
    PARTS: tl.constexpr,
    STORE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Weights exp(l - reference) of a tile, which rows are live, the samples set aside, and sums over the others."""
    i_n, i_b, o_n, o_b, m_n, m_b = tile_of(count, batch, BLOCK_N, BLOCK_B)
    # [BLOCK_B]
    reference = tl.load(p_reference + o_b, mask=m_b, other=0.0)
    live_floor = tl.load(p_live_floor + o_b, mask=m_b, other=float("inf"))
    rescore_floor = tl.load(p_rescore_floor + o_b, mask=m_b, other=float("inf"))
    # [BLOCK_N, BLOCK_B]
    offset = o_n.to(tl.int64)[:, None] * logit_stride + o_b[None, :]
    b_logits = tl.load(p_logits + offset, mask=m_n[:, None] & m_b[None, :], other=float("-inf"))
    # a query without any sample has a floor of -inf, which its logits meet
    m_live = (b_logits >= live_floor[None, :]) & (b_logits > float("-inf"))
    m_rescore = m_live & (b_logits >= rescore_floor[None, :])
    o_query = tl.broadcast_to(o_b[None, :], [BLOCK_N, BLOCK_B])
    # integer counters: the order of the list varies, its content does not
    slot = tl.atomic_add(p_rescore_count + o_query, 1, mask=m_rescore)
    m_slot = m_rescore & (slot < rescore_limit)
    p_slot = o_query.to(tl.int64) * rescore_limit + slot
    tl.store(p_rescore_row + p_slot, tl.broadcast_to(first_row + o_n.to(tl.int64)[:, None], [BLOCK_N, BLOCK_B]), m_slot)
    tl.store(p_rescore_logit + p_slot, b_logits, mask=m_slot)

    m_live = m_live & (m_rescore == 0)
    b_gap = tl.where(m_live, b_logits - reference[None, :], 0.0)
    b_weights = tl.where(m_live, tl.exp(b_gap) * WEIGHT_SCALE, 0.0)
    if STORE:
        dtype: tl.constexpr = p_weights.dtype.element_ty
        first, rest, b_weights = rounded(b_weights, PARTS, dtype)
        # dead rows are never read: their weights need not be written
        m_row = tl.max(m_live.to(tl.int32), axis=1)
        m_store = (m_row[:, None] > 0) & (o_b < logit_stride)[None, :]
        tl.store(p_weights + offset, first, mask=m_store)
        if PARTS == 2:
            tl.store(p_weights + part_stride + offset, rest, mask=m_store)
        tl.store(p_live + i_b.to(tl.int64) * live_stride + o_n, m_row, mask=m_n)
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
    p_live_count,
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
    """Sum of weights times rows over one share of the live rows, for a slice of D and a tile of queries."""
    i_d = tl.program_id(0)
    i_b = tl.program_id(1)
    i_split = tl.program_id(2)
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    o_b = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    m_d = o_d < dim
    m_b = o_b < batch
    live = tl.load(p_live_count + i_b)
    share = tl.cdiv(tl.cdiv(live, tl.num_programs(2)), BLOCK_N) * BLOCK_N
    begin = i_split * share
    end = tl.minimum(begin + share, live)
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
    # [BLOCK_D, BLOCK_B], out is [splits, B, D]
    p_sum = p_out + (i_split.to(tl.int64) * batch + o_b[None, :]) * dim + o_d[:, None]
    tl.store(p_sum, b_total / WEIGHT_SCALE, mask=m_d[:, None] & m_b[None, :])


# logits of a tile of the weights kernel, and the warps that share them: more of either spills
WEIGHTS_TILE, WEIGHTS_WARPS = 4096, 4


def weights_rows(block_b: int) -> int:
    """Return how many rows a tile of the weights kernel has beside `block_b` queries."""
    return min(128, WEIGHTS_TILE // block_b)


@dataclass(frozen=True)
class Reference:
    """What logits are compared with: the origin of the weights, and the floors of live and of set aside samples.

    All [B] float32; a head floor of +inf sets nothing aside.
    """

    origin: Float[Tensor, "B"]
    live_floor: Float[Tensor, "B"]
    rescore_floor: Float[Tensor, "B"]


@dataclass(frozen=True)
class ListedPairs:
    """Samples set aside: how many of each query, their rows and coarse logits; beyond its end they are only counted."""

    count: Shaped[Tensor, "B"]
    row: Int64[Tensor, "B L"]
    logit: Float[Tensor, "B L"]

    @classmethod
    def empty(cls, batch: int, limit: int, device: torch.device) -> ListedPairs:
        """Return a list for at most `limit` samples of each query."""
        count = torch.zeros(batch, dtype=torch.int32, device=device)
        row = torch.zeros(batch, limit, dtype=torch.int64, device=device)
        return cls(count, row, torch.zeros(batch, limit, dtype=torch.float32, device=device))


@dataclass(frozen=True)
class Weights:
    """Weights of the live rows of a block and their sums.

    parts: [P, n, Q] in the dtype of the matrix unit, WEIGHT_SCALE times the weights; dead rows hold nothing.
    live: [tiles of queries, n], whether a row carries weight for a query of the tile. Both are empty without the mean.
    sums: [4, B] float64: of p, p^2, p (l - origin) and p |r|^2 / 2 over the samples not set aside.
    """

    parts: Shaped[Tensor, "P n Q"]
    live: Shaped[Tensor, "U m"]
    sums: Float64[Tensor, "4 B"]


def weights_of(
    scores: Scores,
    block: BlockOperand,
    reference: Reference,
    rescore_list: ListedPairs,
    config: WeighConfig,
    mean: bool,
    split: Split = EXACT,
) -> Weights:
    """Turn logits into weights and append what is set aside to `rescore_list`; no synchronisation.

    Costs one read of the logits and, for the mean, a write of as many bytes for the live rows.
    """
    (count, padded), batch = scores.logits.shape, len(reference.origin)
    dtype = operand_dtype(block.rows.dtype)
    rows = weights_rows(config.block_b)
    tiles, tiles_b = triton.cdiv(count, rows), triton.cdiv(batch, config.block_b)
    parts = block.rows.new_empty(split.weight[dtype] if mean else 1, count if mean else 0, padded, dtype=dtype)
    live = block.rows.new_empty(tiles_b, count if mean else 0, dtype=torch.int32)
    sums = block.rows.new_empty(tiles, 4, padded, dtype=torch.float32)
    weights_kernel[(tiles * tiles_b,)](
        scores.logits, block.half_norms, reference.origin, reference.live_floor, reference.rescore_floor,
        parts, live, sums, rescore_list.count, rescore_list.row, rescore_list.logit, block.start,
        count, batch, padded, count * padded,
        count, rescore_list.row.shape[1], PARTS=len(parts), STORE=mean, BLOCK_N=rows, BLOCK_B=config.block_b,
        num_warps=WEIGHTS_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return Weights(parts, live, sums[:, :, :batch].double().sum(0))


def live_rows(live: Shaped[Tensor, "U n"]) -> tuple[Shaped[Tensor, "U m"], Shaped[Tensor, "U"]]:
    """Return the numbers of the marked rows at the front of each line, and how many there are; no synchronisation."""
    rank = live.cumsum(1, dtype=torch.int32)
    count = live.shape[1]
    # unmarked rows all go to one place behind the list
    place = torch.where(live > 0, rank - 1, count).long()
    rows = torch.arange(count, dtype=torch.int32, device=live.device).expand_as(live)
    return live.new_empty(len(live), count + 1).scatter_(1, place, rows), rank[:, -1].contiguous()


def weigh(
    weights: Weights, block: BlockOperand, batch: int, precision: str, config: WeighConfig, splits: int
) -> Float64[Tensor, "B D"]:
    """Return the sum of weights times rows, 8-bit ones centred, [B, D]; deterministic, no synchronisation.

    The live rows are shared among `splits` programs, whose float32 sums are added in float64.
    """
    rows, count = live_rows(weights.live)
    out = block.rows.new_empty(splits, batch, block.dim, dtype=torch.float32)
    grid = (triton.cdiv(block.dim, config.block_d), len(rows), splits)
    _, _, padded = weights.parts.shape
    weigh_kernel[grid](
        block.rows, weights.parts, block.centre, rows, count, out, block.dim, batch, block.rows.stride(0), padded,
        weights.parts.stride(0), rows.stride(0), PARTS=len(weights.parts), PRECISION=precision,
        BLOCK_N=config.block_n, BLOCK_B=config.block_b, BLOCK_D=config.block_d,
        num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return out.sum(0, dtype=torch.float64)
