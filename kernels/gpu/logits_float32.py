"""Triton: logits of float32 rows, each product in three of TF32."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .configs import ScoreConfig
from .jit import part_tile, row_tile, slice_of, tf32_part, tile_of
from .logits import Scores, finish_slice, launch
from .operands import BlockOperand, QueryOperand


@triton.jit(do_not_specialize=["count", "batch", "excluded"])
@no_type_check
def float32_kernel(
    rows,
    query,
    p_centre,
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
    EVERY: tl.constexpr,
    DESCRIBED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Products of a tile of rows with a tile of queries, over one slice of D; with one slice the logits.

    rows: [n, D] float32. query: [2, B, D] float32, numbers of TF32 and what these leave. p_centre: not read.
    p_logits: [slices, n, P] products, or [n, P] logits. p_stats: [tiles, 2, P], not written with several slices.
    """
    i_n, i_b, o_n, o_b, m_n, m_b = tile_of(count, batch, BLOCK_N, BLOCK_B)
    begin, end = slice_of(dim, BLOCK_D)
    # [BLOCK_N, BLOCK_B]: all, products of the large parts and those with a small one, both kept in the matrix unit
    b_total = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    b_large = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    b_small = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    for i_d in range(tl.cdiv(end - begin, BLOCK_D)):
        start = begin + i_d * BLOCK_D
        b_rows = row_tile(rows, i_n * BLOCK_N, o_n, m_n, start, end, row_stride, DESCRIBED, BLOCK_D)
        # what Triton makes of one product in three parts looks for infinities in a third of its instructions
        b_high = tf32_part(b_rows)
        where = (i_b * BLOCK_B, batch, start, end, dim, part_stride)
        b_query = tl.trans(part_tile(query, 0, where, DESCRIBED, BLOCK_B, BLOCK_D))
        b_rest = tl.trans(part_tile(query, 1, where, DESCRIBED, BLOCK_B, BLOCK_D))
        b_small = tl.dot(b_rows - b_high, b_query, b_small, input_precision="tf32", out_dtype=tl.float32)
        b_small = tl.dot(b_high, b_rest, b_small, input_precision="tf32", out_dtype=tl.float32)
        b_large = tl.dot(b_high, b_query, b_large, input_precision="tf32", out_dtype=tl.float32)
        if i_d % EVERY == EVERY - 1:
            b_total += b_large + b_small
            b_large = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
            b_small = tl.zeros([BLOCK_N, BLOCK_B], dtype=tl.float32)
    b_total += b_large + b_small
    finish_slice(
        b_total, i_n, o_n, o_b, m_n, m_b, p_half_norm, p_log_weight, p_gain, p_slope, p_excluded, excluded,
        p_logits, p_stats, logit_stride, slice_stride, WEIGHTED,
    )  # fmt: skip


def score_float32(query: QueryOperand, block: BlockOperand, config: ScoreConfig, slices: int) -> Scores:
    """Return the logits of a block of float32 rows for every query, as :func:`.logits.score` does.

    query: [B] queries in two parts of float32. block: n rows. config: the tile. slices: slices of D.

    Costs one read of the block and 6 B n D operations in TF32, and writes 4 n B bytes.
    """
    return launch(
        float32_kernel, query, block, config, centre=block.centre, slices=slices, together=False, EVERY=config.every
    )
