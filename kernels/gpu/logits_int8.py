"""Triton: logits of a block of 8-bit rows through the int8 matrix unit, whose sums are exact."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .configs import DigitConfig
from .digits import DigitOperand
from .jit import signed, slice_of, tile_of
from .logits import Scores, finish, launch
from .operands import BlockOperand


@triton.jit
@no_type_check
def digits_kernel(
    p_rows,
    p_query,
    p_shift,
    p_half_norm,
    p_log_weight,
    p_gain,
    p_slope,
    p_excluded,
    p_logits,
    p_stats,
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
    SLICES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Exact products of a tile of rows with two or three digits of queries, less those with the centre of the rows.

    p_rows: [n, D] as stored. p_query: [PARTS, B, D] int8. p_shift: [PARTS, SLICES, B], products with the centre.
    p_logits: [SLICES, n, P] products, or [n, P] logits. p_stats: [tiles, 2, P], not written with several slices.
    """
    i_slice = tl.program_id(1)
    i_n, _, o_n, o_b, m_n, m_b = tile_of(count, batch, BLOCK_N, BLOCK_B)
    begin, end = slice_of(dim, SLICES, BLOCK_D)

    # [BLOCK_N, BLOCK_D], 64-bit offsets: N D may exceed 2^31
    p_block = p_rows + o_n.to(tl.int64)[:, None] * row_stride + tl.arange(0, BLOCK_D)[None, :]
    # [BLOCK_B, BLOCK_D]
    p_digit = p_query + o_b.to(tl.int64)[:, None] * dim + tl.arange(0, BLOCK_D)[None, :]
    # [BLOCK_N, BLOCK_B]; slices of D are so short that none of these can overflow
    b_first = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    b_second = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    b_third = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.int32)
    for start in range(begin, end, BLOCK_D):
        m_d = start + tl.arange(0, BLOCK_D) < end
        b_rows = signed(tl.load(p_block + start, mask=m_n[:, None] & m_d[None, :], other=0))
        m_query = m_b[:, None] & m_d[None, :]
        b_digit = tl.load(p_digit + start, mask=m_query, other=0)
        b_first = tl.dot(b_rows, tl.trans(b_digit), b_first, out_dtype=tl.int32)
        b_digit = tl.load(p_digit + part_stride + start, mask=m_query, other=0)
        b_second = tl.dot(b_rows, tl.trans(b_digit), b_second, out_dtype=tl.int32)
        if PARTS == 3:
            b_digit = tl.load(p_digit + 2 * part_stride + start, mask=m_query, other=0)
            b_third = tl.dot(b_rows, tl.trans(b_digit), b_third, out_dtype=tl.int32)

    # less the products with the centre, sums are small where rows are close to it: only these are rounded
    p_off = p_shift + i_slice * batch + o_b
    part = tl.num_programs(1) * batch
    b_total = (b_first - tl.load(p_off, mask=m_b, other=0)[None, :]).to(tl.float32)
    b_total = 256.0 * b_total + (b_second - tl.load(p_off + part, mask=m_b, other=0)[None, :]).to(tl.float32)
    if PARTS == 3:
        b_third -= tl.load(p_off + 2 * part, mask=m_b, other=0)[None, :]
        b_total = 256.0 * b_total + b_third.to(tl.float32)
    p_out = p_logits + o_n.to(tl.int64)[:, None] * logit_stride + o_b[None, :]
    if SLICES > 1:
        tl.store(p_out + i_slice.to(tl.int64) * slice_stride, b_total, mask=m_n[:, None] & m_b[None, :])
    else:
        finish(
            b_total, o_n, o_b, m_n, m_b, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
            p_out, p_stats + i_n * 2 * logit_stride + o_b, logit_stride, WEIGHTED,
        )  # fmt: skip


def score_digits(query: DigitOperand, block: BlockOperand, config: DigitConfig, slices: int) -> Scores:
    """Return the logits of a block of 8-bit rows for every query; no synchronisation.

    query: [B] queries in digits. block: n rows. config: the tile. slices: slices of D, as in :func:`.logits.score`, at
    least `config.least_slices`.

    Costs one read of the block and 2 parts B n D operations on 8-bit numbers, and writes 4 n B bytes.
    """
    return launch(digits_kernel, query, block, config, centre=query.shift(slices).contiguous(), slices=slices)
