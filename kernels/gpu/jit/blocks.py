"""Blocks of rows and queries as they lie in memory, through pointers or descriptors."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def row_tile(rows, first, row, m_n, start, end, row_stride, DESCRIBED: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return values [start, start + BLOCK_D) of some rows as they are stored, zeros from `end` on.

    rows: a descriptor of the rows, of which those from `first` on are read, or a pointer to them, of which those in
    `row`, masked by `m_n`, are read.
    """
    if DESCRIBED:
        b_rows = rows.load([first, start])
    else:
        o_d = start + tl.arange(0, BLOCK_D)
        # 64-bit offsets: N D may exceed 2^31
        p_rows = rows + row.to(tl.int64)[:, None] * row_stride + o_d[None, :]
        b_rows = tl.load(p_rows, mask=m_n[:, None] & (o_d < end)[None, :], other=0)
    return b_rows


@triton.jit
@no_type_check
def query_tile(
    query, where, PARTS: tl.constexpr, DESCRIBED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Return a slice of all parts of a tile of queries: [PARTS BLOCK_B, BLOCK_D], zeros beyond the end.

    query: a descriptor of the parts [PARTS, B, D], or a pointer to them. where: the first query, B, the first value of
    D, the one after the last, D, and the values of a part.
    """
    first, batch, start, end, dim, part_stride = where
    if DESCRIBED:
        b_query = tl.reshape(query.load([0, first, start]), [PARTS * BLOCK_B, BLOCK_D])
    else:
        o_w, o_d = tl.arange(0, PARTS * BLOCK_B), start + tl.arange(0, BLOCK_D)
        o_b = first + o_w % BLOCK_B
        p_query = query + ((o_w // BLOCK_B).to(tl.int64) * part_stride + o_b.to(tl.int64) * dim)[:, None] + o_d[None, :]
        b_query = tl.load(p_query, mask=(o_b < batch)[:, None] & (o_d < end)[None, :], other=0)
    return b_query


@triton.jit
@no_type_check
def part_tile(query, i_part, where, DESCRIBED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return a slice of part `i_part` of a tile of queries: [BLOCK_B, BLOCK_D], otherwise as :func:`query_tile`."""
    first, batch, start, end, dim, part_stride = where
    if DESCRIBED:
        b_query = tl.reshape(query.load([i_part, first, start]), [BLOCK_B, BLOCK_D])
    else:
        o_b, o_d = first + tl.arange(0, BLOCK_B), start + tl.arange(0, BLOCK_D)
        p_query = query + i_part * part_stride + o_b.to(tl.int64)[:, None] * dim + o_d[None, :]
        b_query = tl.load(p_query, mask=(o_b < batch)[:, None] & (o_d < end)[None, :], other=0)
    return b_query
