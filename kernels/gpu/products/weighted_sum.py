"""Triton: the weighted sum of the rows of a block, one after the other or through a list of those with weight."""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Tensor
from ..core.tiles import WeighConfig
from ..jit.blocks import row_tile
from ..jit.matrix_unit import add_products, centre_of
from ..jit.parts import WEIGHT_SCALE, parts_sum
from ..jit.places import panel_of, share_of
from ..operands.panels import Panels
from ..operands.rows import BlockOperand
from .descriptors import reads_descriptors, tile_of_rows
from .live_rows import DENSE_SHARE, is_dense, live_rows
from .weights import Weights


@triton.jit
@no_type_check
def emptied(b_total, b_sum, i_n, PARTS: tl.constexpr, EVERY: tl.constexpr):
    """Return both with `b_sum` added to `b_total` after every EVERY-th step `i_n`.

    Sums inside the matrix unit are truncated and would all shrink together.
    """
    if i_n % EVERY == EVERY - 1:
        b_total += parts_sum(b_sum, PARTS)
        b_sum = tl.zeros(b_sum.shape, dtype=tl.float32)
    return b_total, b_sum


@triton.jit
@no_type_check
def store_total(p_out, b_total, row_scale, o_d, first, last, batch, dim, BLOCK_B: tl.constexpr):
    """Store the weighted sum [BLOCK_D, BLOCK_B] of a share for the queries [first, last) into p_out [shares, B, D]."""
    o_b = first + tl.arange(0, BLOCK_B)
    p_sum = p_out + (tl.program_id(2).to(tl.int64) * batch + o_b[None, :]) * dim + o_d[:, None]
    tl.store(p_sum, b_total / (WEIGHT_SCALE * row_scale), mask=(o_d < dim)[:, None] & (o_b < last)[None, :])


@triton.jit(do_not_specialize=["count", "batch"])
@no_type_check
def dense_kernel(
    rows,
    weights,
    p_centre,
    p_total,
    p_panels,
    p_out,
    count,
    dim,
    batch,
    row_scale,
    PARTS: tl.constexpr,
    EVERY: tl.constexpr,
    DENSE: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of weights times rows over one share of all rows, for a slice of D and a tile of queries; or nothing.

    rows: a descriptor of [n, D] as stored. weights: one of [n, tiles of queries, PARTS, BLOCK_B]. p_total: [tiles of
    queries], how many rows have weight: few are left to the listed kernel. p_out: [shares, B, D]. p_panels: see
    `panel_of`.
    """
    first, last, first_row, height = panel_of(p_panels, tl.program_id(1), count, batch, SEGMENTED, BLOCK_B)
    if is_dense(tl.load(p_total + tl.program_id(1)), height, True, DENSE):
        first_d, first_w = tl.program_id(0) * BLOCK_D, tl.program_id(1) * PARTS * BLOCK_B
        o_d = first_d + tl.arange(0, BLOCK_D)
        centre = centre_of(rows.dtype, p_centre, o_d, o_d < dim)
        # [BLOCK_D, BLOCK_B]: rows on the side whose operand may come from registers, after conversion of 8-bit data
        b_total = tl.zeros([BLOCK_D, BLOCK_B], dtype=tl.float32)
        b_sum = tl.zeros([BLOCK_D, PARTS * BLOCK_B], dtype=tl.float32)
        begin, end = share_of(height, tl.program_id(2), tl.num_programs(2), BLOCK_N)
        for i_n in range(tl.cdiv(end - begin, BLOCK_N)):
            start = begin + i_n * BLOCK_N
            b_weights = weights.load([start, first_w])
            b_rows = rows.load([first_row + start, first_d])
            b_sum = add_products(b_rows, centre[None, :], row_scale, b_weights, b_sum, True)
            b_total, b_sum = emptied(b_total, b_sum, i_n, PARTS, EVERY)
        store_total(p_out, b_total + parts_sum(b_sum, PARTS), row_scale, o_d, first, last, batch, dim, BLOCK_B)


@triton.jit(do_not_specialize=["count", "batch", "list_stride"])
@no_type_check
def listed_kernel(
    p_rows,
    gathered,
    p_centre,
    p_list,
    p_total,
    p_panels,
    p_out,
    count,
    dim,
    batch,
    row_stride,
    weight_stride,
    list_stride,
    row_scale,
    PARTS: tl.constexpr,
    EVERY: tl.constexpr,
    DENSE: tl.constexpr,
    DESCRIBED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of weights times rows over one share of the rows with weight, for a slice of D and a tile of queries.

    Nothing where the dense kernel sums all rows. p_rows: [n, D] as stored. gathered: [m, tiles of queries, PARTS,
    BLOCK_B], weights of the rows that p_list names: [tiles of queries, list_stride]. p_total: [tiles of queries], how
    many these are. p_out: [shares, B, D]. p_panels: see `panel_of`.
    """
    WIDTH: tl.constexpr = PARTS * BLOCK_B
    i_b = tl.program_id(1)
    live = tl.load(p_total + i_b)
    first, last, _, height = panel_of(p_panels, i_b, count, batch, SEGMENTED, BLOCK_B)
    if not is_dense(live, height, DESCRIBED, DENSE):
        o_d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
        m_d = o_d < dim
        centre = centre_of(p_rows.dtype.element_ty, p_centre, o_d, m_d)
        b_total = tl.zeros([BLOCK_D, BLOCK_B], dtype=tl.float32)
        b_sum = tl.zeros([BLOCK_D, WIDTH], dtype=tl.float32)
        begin, end = share_of(live, tl.program_id(2), tl.num_programs(2), BLOCK_N)
        p_row = p_list + i_b.to(tl.int64) * list_stride + tl.arange(0, BLOCK_N)
        o_row = tl.load(p_row + begin, mask=begin + tl.arange(0, BLOCK_N) < end, other=0)
        for i_n in range(tl.cdiv(end - begin, BLOCK_N)):
            start = begin + i_n * BLOCK_N
            o_n = start + tl.arange(0, BLOCK_N)
            p_value = p_rows + o_row.to(tl.int64)[:, None] * row_stride + o_d[None, :]
            b_rows = tl.load(p_value, mask=(o_n < end)[:, None] & m_d[None, :], other=0)
            b_weights = row_tile(
                gathered, start, o_n, o_n < end, i_b * WIDTH, (i_b + 1) * WIDTH, weight_stride, DESCRIBED, WIDTH
            )
            b_sum = add_products(b_rows, centre[None, :], row_scale, b_weights, b_sum, True)
            b_total, b_sum = emptied(b_total, b_sum, i_n, PARTS, EVERY)
            # carried to the next step: loads of its rows need not wait for this one
            o_row = tl.load(p_row + start + BLOCK_N, mask=o_n + BLOCK_N < end, other=0)
        store_total(p_out, b_total + parts_sum(b_sum, PARTS), row_scale, o_d, first, last, batch, dim, BLOCK_B)


def weigh(
    weights: Weights, block: BlockOperand, config: WeighConfig, *, shares: int, panels: Panels | None = None
) -> Float[Tensor, "S B D"]:
    """Return the sums of weights times rows, 8-bit ones centred, [shares, B, D] float32; deterministic, no waiting.

    weights: of the block, made for the mean with the same `config`, and changed in place. block: n rows. config: the
    tile. shares: programs that share the rows, for each tile; their sums are to be added in float64. panels: tiles of
    queries with rows of their own, as the weights have them.

    Costs one read of the rows with weight for each tile of queries, or of all rows where more than half of them have
    weight, and 2 parts B n D operations.
    """
    few, uses = config.listed(block.rows.itemsize), reads_descriptors(block.rows)
    live = live_rows(weights, block, few.block_n, panels)
    batch, parts = weights.batch, weights.values.shape[2]
    values, gathered = weights.values.flatten(1), live.gathered.flatten(1)
    table = live.total if panels is None else panels.table
    out = block.rows.new_empty(shares, batch, block.dim, dtype=torch.float32)
    tiles_b, width, size = weights.values.shape[1], parts * config.block_b, (len(values), block.dim, batch)
    if uses:
        dense_kernel[(triton.cdiv(block.dim, config.block_d), tiles_b, shares)](
            tile_of_rows(block.rows, config.block_n, config.block_d, uses),
            tile_of_rows(values, config.block_n, width, uses), block.centre, live.total, table, out, *size, block.scale,
            PARTS=parts, DENSE=DENSE_SHARE, SEGMENTED=panels is not None, **_options(config),
        )  # fmt: skip
    listed_kernel[(triton.cdiv(block.dim, few.block_d), tiles_b, shares)](
        block.rows, tile_of_rows(gathered, few.block_n, width, uses), block.centre, live.rows, live.total, table, out,
        *size, block.rows.stride(0), values.stride(0), live.rows.stride(0), block.scale,
        PARTS=parts, DENSE=DENSE_SHARE, DESCRIBED=uses, SEGMENTED=panels is not None, **_options(few),
    )  # fmt: skip
    return out


def _options(config: WeighConfig) -> dict[str, int | bool]:
    return {
        "EVERY": config.every,
        "BLOCK_N": config.block_n,
        "BLOCK_B": config.block_b,
        "BLOCK_D": config.block_d,
        "num_warps": config.warps,
        "num_stages": config.stages,
        "enable_fp_fusion": True,
    }
