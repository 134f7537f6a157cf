"""Triton: logits to weights, the sums of weights, and the samples to rescore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Shaped, Tensor
from ...common.state import Wanted
from ..core.tiles import WeighConfig
from ..jit.parts import WEIGHT_SCALE, rounded
from ..jit.places import tile_of
from ..operands.panels import Panels
from ..operands.rows import BlockOperand
from ..operands.splits import EXACT, Split, operand_dtype
from ..rescore.listed_pairs import ListedPairs, any_of, list_samples
from .logits import Scores


@triton.jit(
    do_not_specialize=["first_row", "panels", "count", "batch", "mark_stride", "rescore_limit"],
    do_not_specialize_on_alignment=["p_half_norm"],
)
@no_type_check
def weights_kernel(
    p_logits,
    p_half_norm,
    p_reference,
    p_weight_floor,
    p_rescore_floor,
    p_panels,
    p_weights,
    p_marks,
    p_live,
    p_sums,
    p_rescore_count,
    p_rescore_row,
    p_rescore_logit,
    first_row,
    panels,
    count,
    batch,
    logit_stride,
    weight_stride,
    mark_stride,
    rescore_limit,
    PARTS: tl.constexpr,
    STORE: tl.constexpr,
    MOMENTS: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Weights exp(l - reference) of a tile of logits, the rows with weight, and the samples to rescore.

    p_logits: [n, P]. p_weights: [n, tiles of queries, PARTS, BLOCK_B], not written where no row of a tile has weight.
    p_marks: [tiles of queries, n], 1 where a row has weight for a query of the tile, as p_weights. p_live: [tiles of
    queries, tiles of rows], how many have. p_sums: [tiles of rows, 4, P], by the queries, over the samples that are not
    to be rescored, or [tiles of rows, 1, P], the first of the four, without MOMENTS.
    p_rescore_count: [B], counts that are added to. p_rescore_row, p_rescore_logit: [B, rescore_limit]. p_panels: see
    `panel_of`.
    """
    where, of_rows, of_queries = tile_of(p_panels, panels, count, batch, SEGMENTED, BLOCK_N, BLOCK_B)
    i_n, i_b, _, _ = where
    o_n, row, m_n = of_rows
    o_b, column, m_b = of_queries
    # [BLOCK_B]
    reference = tl.load(p_reference + o_b, mask=m_b, other=0.0)
    weight_floor = tl.load(p_weight_floor + o_b, mask=m_b, other=float("inf"))
    rescore_floor = tl.load(p_rescore_floor + o_b, mask=m_b, other=float("inf"))
    # [BLOCK_N, BLOCK_B]
    offset = o_n.to(tl.int64)[:, None] * logit_stride + column[None, :]
    b_logits = tl.load(p_logits + offset, mask=m_n[:, None] & m_b[None, :], other=float("-inf"))
    # a query without any sample has a floor of -inf, which logits of -inf reach
    m_keep = (b_logits >= weight_floor[None, :]) & (b_logits > float("-inf"))
    m_rescore = m_keep & (b_logits >= rescore_floor[None, :])
    listed = any_of(m_rescore)
    m_keep = m_keep & (m_rescore == 0)
    b_gap = tl.where(m_keep, b_logits - reference[None, :], 0.0)
    b_weights = tl.where(m_keep, tl.exp(b_gap) * WEIGHT_SCALE, 0.0)
    if STORE:
        first, rest, b_weights = rounded(b_weights, PARTS, p_weights.dtype.element_ty)
        m_row = tl.max(m_keep.to(tl.int32), axis=1)
        live = tl.sum(m_row, axis=0)
        tl.store(p_live + i_b * tl.cdiv(count, BLOCK_N) + i_n, live)
        # elsewhere weights are not read, or filled in
        if live > 0:
            o_w = i_b * PARTS * BLOCK_B + tl.arange(0, BLOCK_B)
            p_weight = p_weights + o_n.to(tl.int64)[:, None] * weight_stride + o_w[None, :]
            # rows beyond the last of a panel are read with it, so that their weights must be zeros
            tl.store(p_weight, first, mask=(o_n < count)[:, None])
            if PARTS == 2:
                tl.store(p_weight + BLOCK_B, rest, mask=(o_n < count)[:, None])
            tl.store(p_marks + i_b.to(tl.int64) * mark_stride + o_n, m_row.to(tl.int8), mask=o_n < count)
    b_weights = b_weights / WEIGHT_SCALE
    # [BLOCK_B]
    p_sum = p_sums + i_n * (4 if MOMENTS else 1) * logit_stride + o_b
    tl.store(p_sum, tl.sum(b_weights, axis=0), mask=m_b)
    if MOMENTS:
        half_norm = tl.load(p_half_norm + row, mask=m_n, other=0.0)
        tl.store(p_sum + logit_stride, tl.sum(b_weights * b_weights, axis=0), mask=m_b)
        tl.store(p_sum + 2 * logit_stride, tl.sum(b_weights * b_gap, axis=0), mask=m_b)
        tl.store(p_sum + 3 * logit_stride, tl.sum(b_weights * half_norm[:, None], axis=0), mask=m_b)
    if listed:
        # few tiles come here: they read their logits again, which the others need not keep in registers until now
        b_logits = tl.load(p_logits + offset, mask=m_n[:, None] & m_b[None, :], other=float("-inf"))
        floor = tl.maximum(weight_floor, rescore_floor)
        m_rescore = (b_logits >= floor[None, :]) & (b_logits > float("-inf"))
        list_samples(
            b_logits, m_rescore, first_row + row.to(tl.int64), o_b, p_rescore_count, p_rescore_row, p_rescore_logit,
            rescore_limit, 0,
        )  # fmt: skip


# logits of a tile of the weights kernel, and warps of a program: on an H100 1.4 times as fast as 4096 and 4
WEIGHTS_TILE, WEIGHTS_WARPS = 1024, 2


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
class Weights:
    """Weights of a block and their sums.

    values: [n, U, P, b] in the dtype of the matrix unit, of U tiles of b queries in P parts, WEIGHT_SCALE times the
    weights. Tiles of rows without weight hold nothing.
    marks: [U, n] int8, whether a row has weight for a query of the tile, undefined in tiles without. live: [U, T]
    int32, rows with weight of each tile of rows. All three are empty without the mean.
    sums: [T, 4, Q] float32, of each tile: of p, p^2, p (l - origin) and p |r|^2 / 2 over the samples that are not to be
    rescored, or [T, 1, Q], the first, without moments. batch: queries; columns from there on hold nothing.
    """

    values: Shaped[Tensor, "n U P b"]
    marks: Shaped[Tensor, "U n"]
    live: Shaped[Tensor, "U T"]
    sums: Float[Tensor, "T S Q"]
    batch: int


def weights_of(
    scores: Scores,
    block: BlockOperand,
    reference: Reference,
    listed: ListedPairs,
    *,
    config: WeighConfig,
    wanted: Wanted,
    split: Split = EXACT,
    panels: Panels | None = None,
) -> Weights:
    """Return the weights of a block, and append the samples to rescore to `listed`; no synchronisation.

    scores: logits of the block, [n, P]. block: n rows. reference: what the logits are compared with, [B].
    listed: the samples to rescore of all blocks so far, changed in place. config: the tile of the weighted sum.
    wanted: whether weights are written, for the mean, and which sums. split: how many numbers a weight is split into.
    panels: tiles of queries with rows of their own, as the logits have them.

    Costs one read of the logits and, for the mean, a write of as many bytes for the rows with weight.
    """
    (count, padded), batch = scores.logits.shape, len(reference.origin)
    dtype, rows = operand_dtype(block.rows.dtype), weights_rows(config.block_b)
    tiles, tiles_b = triton.cdiv(count, rows), triton.cdiv(batch, config.block_b) if panels is None else len(panels)
    held, new = count if wanted.mean else 0, block.rows.new_empty
    values = new(held, tiles_b, split.weight[dtype], config.block_b, dtype=dtype)
    marks, live = new(tiles_b, held, dtype=torch.int8), new(tiles_b, tiles, dtype=torch.int32)
    sums = new(tiles, 4 if wanted.moments else 1, padded, dtype=torch.float32)
    weights_kernel[(tiles * tiles_b,)](
        scores.logits, block.half_norms, reference.origin, reference.weight_floor, reference.rescore_floor,
        live if panels is None else panels.table, values, marks, live, sums, listed.count, listed.row, listed.logit,
        block.start, tiles_b, count, batch, padded,
        values.stride(0), count, listed.row.shape[1], PARTS=values.shape[2], STORE=wanted.mean,
        MOMENTS=wanted.moments, SEGMENTED=panels is not None, BLOCK_N=rows, BLOCK_B=config.block_b,
        num_warps=WEIGHTS_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return Weights(values, marks, live, sums, batch)
