"""Triton: logits of a block of rows for a batch of queries, and the softmax statistics of every tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Tensor
from ..core.tiles import DigitConfig, ScoreConfig
from ..jit.blocks import query_tile, row_tile
from ..jit.masks import finite, masked_by_ranges
from ..jit.matrix_unit import add_products, centre_of
from ..jit.parts import parts_sum
from ..jit.places import slice_of, tile_of
from ..operands.panels import Panels
from ..operands.parts import QueryOperand, ScoredQuery
from ..operands.rows import BlockOperand
from .descriptors import reads_descriptors, tile_of_parts, tile_of_rows


@triton.jit(
    do_not_specialize=["panels", "count", "batch", "excluded"],
    do_not_specialize_on_alignment=["p_half_norm", "p_log_weight"],
)
@no_type_check
def score_kernel(
    rows,
    query,
    p_centre,
    p_half_norm,
    p_log_weight,
    p_gain,
    p_slope,
    p_excluded,
    p_panels,
    p_logits,
    p_stats,
    panels,
    count,
    dim,
    batch,
    row_stride,
    part_stride,
    logit_stride,
    slice_stride,
    excluded,
    row_scale,
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    STORE: tl.constexpr,
    SEGMENTED: tl.constexpr,
    EVERY: tl.constexpr,
    DESCRIBED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Products of a tile of rows with a tile of queries, over one slice of D; with one slice the logits.

    rows: [n, D] as stored. query: [PARTS, B, D]. p_logits: [slices, n, P] products, or [n, P] logits, not written
    unless STORE. p_stats: [tiles, 2, P], by the queries, not written with several slices. p_panels: see `panel_of`.
    """
    where, of_rows, of_queries = tile_of(p_panels, panels, count, batch, SEGMENTED, BLOCK_N, BLOCK_B)
    _, row, m_n = of_rows
    begin, end = slice_of(dim, BLOCK_D)
    if SEGMENTED:
        # panels have rows of different number: of some there is nothing here
        end = tl.where(tl.max(m_n.to(tl.int32), axis=0) > 0, end, begin)
    # [BLOCK_N, BLOCK_B], and all parts side by side: these sums stay in the matrix unit, which truncates them, so that
    # all would shrink together; they are emptied every so often
    b_total = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    b_sum = tl.zeros([BLOCK_N, PARTS * BLOCK_B], dtype=tl.float32)
    for i_d in range(tl.cdiv(end - begin, BLOCK_D)):
        start = begin + i_d * BLOCK_D
        o_d = start + tl.arange(0, BLOCK_D)
        b_rows = row_tile(rows, where[2], row, m_n, start, end, row_stride, DESCRIBED, BLOCK_D)
        part = (where[3], batch, start, end, dim, part_stride)
        b_query = query_tile(query, part, PARTS, DESCRIBED, BLOCK_B, BLOCK_D)
        centre = centre_of(b_rows.dtype, p_centre, o_d, o_d < end)
        b_sum = add_products(b_rows, centre[None, :], row_scale, tl.trans(b_query), b_sum, False)
        if i_d % EVERY == EVERY - 1:
            b_total += parts_sum(b_sum, PARTS)
            b_sum = tl.zeros([BLOCK_N, PARTS * BLOCK_B], dtype=tl.float32)
    b_total = (b_total + parts_sum(b_sum, PARTS)) / row_scale
    finish_slice(
        b_total, where[0], of_rows, of_queries, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
        p_logits, p_stats, logit_stride, slice_stride, WEIGHTED, STORE,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["count", "batch", "excluded", "slices"],
    do_not_specialize_on_alignment=["p_half_norm", "p_log_weight"],
)
@no_type_check
def finish_kernel(
    p_partial,
    p_half_norm,
    p_log_weight,
    p_gain,
    p_slope,
    p_excluded,
    p_logits,
    p_stats,
    count,
    batch,
    logit_stride,
    slice_stride,
    excluded,
    slices,
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """Logits and statistics of a tile from the products `p_partial` [slices, n, P] over every slice of D."""
    where, of_rows, of_queries = tile_of(p_stats, tl.cdiv(batch, BLOCK_B), count, batch, False, BLOCK_N, BLOCK_B)
    o_n, _, m_n = of_rows
    o_b, _, m_b = of_queries
    # [BLOCK_N, BLOCK_B]
    offset = o_n.to(tl.int64)[:, None] * logit_stride + o_b[None, :]
    b_total = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    p_slice = p_partial + offset
    for _ in range(slices):
        b_total += tl.load(p_slice, mask=m_n[:, None] & m_b[None, :], other=0.0)
        p_slice += slice_stride
    finish(
        b_total, o_n, o_b, m_n, m_b, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
        p_logits + offset, p_stats + where[0] * 2 * logit_stride + o_b, logit_stride, WEIGHTED, True,
    )  # fmt: skip


@triton.jit
@no_type_check
def finish_slice(
    b_product, i_n, of_rows, of_queries, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
    p_logits, p_stats, logit_stride, slice_stride, WEIGHTED: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Store the products [BLOCK_N, BLOCK_B] of one of several slices of D, or, of the only one, finish the logits."""
    o_n, row, m_n = of_rows
    o_b, column, m_b = of_queries
    p_out = p_logits + o_n.to(tl.int64)[:, None] * logit_stride + column[None, :]
    if tl.num_programs(1) > 1:
        p_out += tl.program_id(1).to(tl.int64) * slice_stride
        tl.store(p_out, b_product, mask=m_n[:, None] & m_b[None, :])
    else:
        finish(
            b_product, row, o_b, m_n, m_b, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
            p_out, p_stats + i_n * 2 * logit_stride + o_b, logit_stride, WEIGHTED, STORE,
        )  # fmt: skip


@triton.jit
@no_type_check
def finish(
    b_product, row, o_b, m_n, m_b, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded, p_out, p_stat,
    stat_stride, WEIGHTED: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Turn products [BLOCK_N, BLOCK_B] into logits and store these, their maximum and their sum of exponentials."""
    gain = tl.load(p_gain + o_b, mask=m_b, other=0.0)
    slope = tl.load(p_slope + o_b, mask=m_b, other=0.0)
    half_norm = tl.load(p_half_norm + row, mask=m_n, other=0.0)
    b_logits = gain[None, :] * b_product + slope[None, :] * half_norm[:, None]
    if WEIGHTED:
        b_logits += tl.load(p_log_weight + row, mask=m_n, other=0.0)[:, None]
    b_logits = masked_by_ranges(b_logits, row, o_b, m_b, p_excluded, excluded)
    if STORE:
        tl.store(p_out, b_logits, mask=m_n[:, None] & m_b[None, :])
    b_logits = tl.where(m_n[:, None], b_logits, float("-inf"))
    # [BLOCK_B]
    top = tl.max(b_logits, axis=0)
    mass = tl.sum(tl.exp(b_logits - finite(top)[None, :]), axis=0)
    tl.store(p_stat, top, mask=m_b)
    tl.store(p_stat + stat_stride, mass, mask=m_b)


@dataclass(frozen=True)
class Scores:
    """Logits of a block and their statistics; columns from B on are padding and hold nothing.

    logits: [n, P] float32 with P >= B. stats: [tiles, 2, Q] float32, the maximum of every tile of rows and its sum of
    exp(l - maximum), one for each query, in the order of these.
    tile: rows of a tile.
    """

    logits: Float[Tensor, "n P"]
    stats: Float[Tensor, "T 2 Q"]
    tile: int


def score(
    query: QueryOperand,
    block: BlockOperand,
    config: ScoreConfig,
    slices: int,
    *,
    store: bool = True,
    panels: Panels | None = None,
) -> Scores:
    """Return the logits of a block of rows for every query; no synchronisation.

    query: [B] queries in floating point numbers. block: n rows. config: the tile. slices: slices of D, each summed by
    programs of its own; with several a second launch adds the sums. store: whether logits are stored, or only their
    statistics, which takes a single slice. panels: tiles of queries with rows of their own, which take a single slice.

    Costs one read of the block and 2 parts B n D operations, and writes 4 n B bytes.
    """
    scaled: dict[str, Any] = {"row_scale": block.scale, "EVERY": config.every, "STORE": store}
    return launch(
        score_kernel, query, block, config, centre=block.centre, slices=slices, store=store, panels=panels, **scaled
    )


def launch(
    kernel: Any,
    query: ScoredQuery,
    block: BlockOperand,
    config: ScoreConfig | DigitConfig,
    *,
    centre: Tensor,
    slices: int,
    together: bool = True,
    store: bool = True,
    panels: Panels | None = None,
    **further: Any,
) -> Scores:
    """Launch a kernel that multiplies and, where D is cut, the one that adds the slices.

    kernel: that of :func:`score` or a like one. query: [B] queries. block: n rows. config: the tile. centre: what the
    kernel takes off rows or products. slices: slices of D. together: whether a tile of queries holds all their parts.
    store: whether there is room for logits. panels: tiles of queries with rows of their own. further: arguments of the
    kernel.
    """
    batch, parts = len(query), len(query.parts)
    count = len(block) if panels is None else panels.height
    tiles_b = triton.cdiv(batch, config.block_b) if panels is None else len(panels)
    padded = 16 * triton.cdiv(batch, 16) if panels is None else tiles_b * config.block_b
    tiles = triton.cdiv(count, config.block_n)
    logits = block.rows.new_empty(count if store else 0, padded, dtype=torch.float32)
    stats = block.rows.new_empty(tiles, 2, padded, dtype=torch.float32)
    target = logits if slices == 1 else logits.new_empty(slices, count, padded)
    grid = tiles * tiles_b
    side = (block.half_norms, block.log_weights, query.gain, query.slope, block.excluded(query))
    excluded = query.excluded.shape[1]
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": True}
    uses = reads_descriptors(block.rows, query.parts)
    kernel[(grid, slices)](
        tile_of_rows(block.rows, config.block_n, config.block_d, uses),
        tile_of_parts(query.parts, parts if together else 1, config.block_b, config.block_d, uses),
        centre, *side, stats if panels is None else panels.table, target, stats, tiles_b, count, block.dim, batch,
        block.rows.stride(0), query.parts.stride(0), padded, count * padded, excluded, PARTS=parts,
        WEIGHTED=block.weighted, DESCRIBED=uses, SEGMENTED=panels is not None,
        BLOCK_N=config.block_n, BLOCK_B=config.block_b, BLOCK_D=config.block_d, **further, **options,
    )  # fmt: skip
    if slices > 1:
        finish_kernel[(grid,)](
            target, *side, logits, stats, count, batch, padded, count * padded, excluded, slices,
            WEIGHTED=block.weighted,
            BLOCK_N=config.block_n, BLOCK_B=config.block_b, **options,
        )  # fmt: skip
    return Scores(logits, stats, config.block_n)
