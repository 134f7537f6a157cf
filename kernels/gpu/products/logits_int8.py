"""Triton: logits of a block of 8-bit rows through the int8 matrix unit, whose sums are exact."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ..core.tiles import DigitConfig
from ..jit.blocks import part_tile, row_tile
from ..jit.matrix_unit import signed
from ..jit.places import slice_of, tile_of
from ..operands.digits import DigitOperand
from ..operands.panels import Panels
from ..operands.rows import BlockOperand
from .logits import Scores, finish_slice, launch


@triton.jit(
    do_not_specialize=["panels", "count", "batch", "slice_stride", "excluded"],
    do_not_specialize_on_alignment=["p_half_norm", "p_log_weight"],
)
@no_type_check
def digits_kernel(
    rows,
    query,
    p_shift,
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
    PARTS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    DESCRIBED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Exact products of a tile of rows with two or three digits of queries, less those with the centre of the rows.

    rows: [n, D] as stored. query: [PARTS, B, D] int8. p_shift: [PARTS, slices, B], products with the centre.
    p_logits: [slices, n, P] products, or [n, P] logits. p_stats: [tiles, 2, P], not written with several slices.
    p_panels: see `panel_of`.
    """
    where, of_rows, of_queries = tile_of(p_panels, panels, count, batch, SEGMENTED, BLOCK_N, BLOCK_B)
    _, row, m_n = of_rows
    o_b, _, m_b = of_queries
    begin, end = slice_of(dim, BLOCK_D)
    if SEGMENTED:
        # panels have rows of different number: of some there is nothing here
        end = tl.where(tl.max(m_n.to(tl.int32), axis=0) > 0, end, begin)
    # [BLOCK_N, BLOCK_B]; slices of D are so short that none of these can overflow
    b_first = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    b_second = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    b_third = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    for start in range(begin, end, BLOCK_D):
        b_rows = signed(row_tile(rows, where[2], row, m_n, start, end, row_stride, DESCRIBED, BLOCK_D))
        digit = (where[3], batch, start, end, dim, part_stride)
        b_digit = part_tile(query, 0, digit, DESCRIBED, BLOCK_B, BLOCK_D)
        b_first = tl.dot(b_rows, tl.trans(b_digit), b_first, out_dtype=tl.int32)
        b_digit = part_tile(query, 1, digit, DESCRIBED, BLOCK_B, BLOCK_D)
        b_second = tl.dot(b_rows, tl.trans(b_digit), b_second, out_dtype=tl.int32)
        if PARTS == 3:
            b_digit = part_tile(query, 2, digit, DESCRIBED, BLOCK_B, BLOCK_D)
            b_third = tl.dot(b_rows, tl.trans(b_digit), b_third, out_dtype=tl.int32)

    # less the products with the centre, sums are small where rows are close to it: only these are rounded
    p_off = p_shift + tl.program_id(1) * batch + o_b
    part = tl.num_programs(1) * batch
    b_total = (b_first - tl.load(p_off, mask=m_b, other=0)[None, :]).to(tl.float32)
    b_total = 256.0 * b_total + (b_second - tl.load(p_off + part, mask=m_b, other=0)[None, :]).to(tl.float32)
    if PARTS == 3:
        b_third -= tl.load(p_off + 2 * part, mask=m_b, other=0)[None, :]
        b_total = 256.0 * b_total + b_third.to(tl.float32)
    finish_slice(
        b_total, where[0], of_rows, of_queries, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
        p_logits, p_stats, logit_stride, slice_stride, WEIGHTED, True,
    )  # fmt: skip


def score_digits(
    query: DigitOperand, block: BlockOperand, config: DigitConfig, slices: int, *, panels: Panels | None = None
) -> Scores:
    """Return the logits of a block of 8-bit rows for every query; no synchronisation.

    query: [B] queries in digits. block: n rows. config: the tile. slices: slices of D, as in :func:`.logits.score`, at
    least `config.least_slices`. panels: tiles of queries with rows of their own, which take a single slice.

    Costs one read of the block and 2 parts B n D operations on 8-bit numbers, and writes 4 n B bytes.
    """
    shift = query.shift(slices).contiguous()
    return launch(digits_kernel, query, block, config, centre=shift, slices=slices, together=False, panels=panels)
