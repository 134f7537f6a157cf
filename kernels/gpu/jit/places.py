"""Where a program works: its tile of rows and queries, its slice of D, and its share of the rows."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def panel_of(p_panels, i_b, count, batch, SEGMENTED: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return what a tile of queries is about: its first query, the one after the last, its first row, and its height.

    p_panels: [tiles of queries, 4] int32, where tiles have rows of their own: both queries, the first row and the one
    after the last. count, batch: rows and queries of all tiles elsewhere.
    """
    if SEGMENTED:
        p_panel = p_panels + 4 * i_b
        first, last, first_row = tl.load(p_panel), tl.load(p_panel + 1), tl.load(p_panel + 2)
        height = tl.load(p_panel + 3) - first_row
    else:
        first, last, first_row, height = i_b * BLOCK_B, batch, 0, count
    return first, last, first_row, height


@triton.jit
@no_type_check
def tile_of(p_panels, panels, count, batch, SEGMENTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return where the tile of this program is, its rows, and its queries.

    Where: its number in rows, that of its tile of queries, of `panels`, its first row and its first query. Rows: the
    place of each in the panel, among all rows, and which exist. Queries: the place of each, its column, which exist.
    p_panels, count, batch: as in :func:`panel_of`.
    """
    # neighbouring programs share their rows, which are the larger operand
    i_b = tl.program_id(0) % panels
    i_n = tl.program_id(0) // panels
    first, last, first_row, height = panel_of(p_panels, i_b, count, batch, SEGMENTED, BLOCK_B)
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_b = first + tl.arange(0, BLOCK_B)
    column = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    where = (i_n, i_b, first_row + i_n * BLOCK_N, first)
    return where, (o_n, first_row + o_n, o_n < height), (o_b, column, o_b < last)


@triton.jit
@no_type_check
def slice_of(dim, BLOCK_D: tl.constexpr):
    """Return the first value of D in the slice of this program, and the one after its last."""
    width = tl.cdiv(tl.cdiv(dim, tl.num_programs(1)), BLOCK_D) * BLOCK_D
    begin = tl.program_id(1) * width
    return begin, tl.minimum(begin + width, dim)


@triton.jit
@no_type_check
def share_of(count, i_share, shares, BLOCK_N: tl.constexpr):
    """Return the first of the `count` rows in share `i_share` of `shares`, and the one after its last."""
    share = tl.cdiv(tl.cdiv(count, shares), BLOCK_N) * BLOCK_N
    begin = i_share * share
    return begin, tl.minimum(begin + share, count)
