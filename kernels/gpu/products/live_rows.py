"""Triton: the rows with weight of a block, gathered where they are few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Shaped, Tensor
from ..jit.places import panel_of
from ..operands.panels import Panels
from ..operands.rows import BlockOperand
from .descriptors import reads_descriptors
from .weights import Weights, weights_rows

# rows are taken one after the other where more than half of them have weight: a row through a list takes up to twice
# the time. Measured on an H100 with 196,608 x 4,096 float16 rows, B = 256: 631 against 399 TFLOP/s
DENSE_SHARE = 2

# tiles of rows that a program of the prefix kernel counts at once
PREFIX_BLOCK = 1024

PLACE_WARPS = 4


@triton.jit
@no_type_check
def is_dense(live, count, DESCRIBED: tl.constexpr, DENSE: tl.constexpr):
    """Return whether all `count` rows are read, of which `live` have weight."""
    return DESCRIBED & (live * DENSE > count)


@triton.jit(do_not_specialize=["tiles"])
@no_type_check
def prefix_kernel(p_live, p_offset, p_total, tiles, BLOCK: tl.constexpr):
    """Running sums of the rows with weight over the tiles of rows, for one tile of queries.

    p_live: [tiles of queries, tiles]. p_offset: the same, those of earlier tiles. p_total: [tiles of queries].
    """
    i_b = tl.program_id(0)
    total = 0
    for start in range(0, tiles, BLOCK):
        o_n = start + tl.arange(0, BLOCK)
        live = tl.load(p_live + i_b * tiles + o_n, mask=o_n < tiles, other=0)
        tl.store(p_offset + i_b * tiles + o_n, total + tl.cumsum(live, axis=0) - live, mask=o_n < tiles)
        total += tl.sum(live, axis=0)
    tl.store(p_total + i_b, total)


@triton.jit(do_not_specialize=["count", "room", "mark_stride"])
@no_type_check
def place_kernel(
    p_weights,
    p_marks,
    p_live,
    p_offset,
    p_total,
    p_panels,
    p_list,
    p_gathered,
    count,
    room,
    weight_stride,
    mark_stride,
    WIDTH: tl.constexpr,
    DENSE: tl.constexpr,
    DESCRIBED: tl.constexpr,
    SEGMENTED: tl.constexpr,
    TAIL: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """List the rows with weight of a tile and gather their weights, or fill the tile in where all rows are read.

    p_weights: [n, tiles of queries, WIDTH]. p_marks: [tiles of queries, n]. p_live, p_offset, p_total: as the prefix
    kernel leaves them. p_list: [tiles of queries, room], rows with weight first. p_gathered: [room, tiles of queries,
    WIDTH], their weights, and zeros for TAIL rows more. p_panels: see `panel_of`.
    """
    i_n, i_b = tl.program_id(0), tl.program_id(1)
    o_n, o_w = i_n * BLOCK_N + tl.arange(0, BLOCK_N), i_b * WIDTH + tl.arange(0, WIDTH)
    m_n = o_n < count
    _, _, first_row, height = panel_of(p_panels, i_b, count, 0, SEGMENTED, 1)
    live = tl.load(p_live + i_b * tl.num_programs(0) + i_n)
    total = tl.load(p_total + i_b)
    p_weight = p_weights + o_n.to(tl.int64)[:, None] * weight_stride + o_w[None, :]
    if is_dense(total, height, DESCRIBED, DENSE):
        if live == 0:
            nothing = tl.zeros([BLOCK_N, WIDTH], dtype=p_weights.dtype.element_ty)
            tl.store(p_weight, nothing, mask=m_n[:, None])
    else:
        if live > 0:
            mark = tl.load(p_marks + i_b.to(tl.int64) * mark_stride + o_n, mask=m_n, other=0).to(tl.int32)
            place = tl.load(p_offset + i_b * tl.num_programs(0) + i_n) + tl.cumsum(mark, axis=0) - 1
            tl.store(p_list + i_b.to(tl.int64) * room + place, first_row + o_n, mask=mark > 0)
            p_place = p_gathered + place.to(tl.int64)[:, None] * weight_stride + o_w[None, :]
            b_weights = tl.load(p_weight, mask=(mark > 0)[:, None], other=0.0)
            tl.store(p_place, b_weights, mask=(mark > 0)[:, None])
        if i_n == 0:
            # a program reads whole tiles
            o_t = total + tl.arange(0, TAIL)
            p_place = p_gathered + o_t.to(tl.int64)[:, None] * weight_stride + o_w[None, :]
            nothing = tl.zeros([TAIL, WIDTH], dtype=p_weights.dtype.element_ty)
            tl.store(p_place, nothing, mask=(o_t < room)[:, None])


@dataclass(frozen=True)
class LiveRows:
    """Which rows of a block have weight, for each of U tiles of queries.

    rows: [U, m] int32, those with weight first, in rising order; undefined where all rows are read. total: [U] int32,
    how many they are. gathered: [m, U, P, b], their weights, and zeros behind them.
    """

    rows: Shaped[Tensor, "U m"]
    total: Shaped[Tensor, "U"]
    gathered: Shaped[Tensor, "m U P b"]


def room_for(count: int, tail: int, uses: bool) -> int:
    """Return how many rows a list has room for.

    count: rows of the block. tail: rows of a tile of the weighted sum. uses: whether all rows can be read instead.
    """
    return (count // DENSE_SHARE if uses else count) + tail


def live_rows(weights: Weights, block: BlockOperand, tail: int, panels: Panels | None = None) -> LiveRows:
    """Return the rows with weight of a block, or fill its weights in where most rows have some; no synchronisation.

    weights: of the block, changed in place. block: n rows. tail: rows of a tile of the weighted sum. panels: tiles of
    queries with rows of their own, as the weights have them.

    Costs one read and one write of the weights of the rows with weight, where these are few.
    """
    count, tiles_b, parts, block_b = weights.values.shape
    tiles, uses = weights.live.shape[1], reads_descriptors(block.rows)
    room = room_for(count, tail, uses)
    offset, total = torch.empty_like(weights.live), weights.live.new_empty(tiles_b)
    prefix_kernel[(tiles_b,)](weights.live, offset, total, tiles, BLOCK=PREFIX_BLOCK, enable_fp_fusion=True)
    rows, gathered = offset.new_empty(tiles_b, room), weights.values.new_empty(room, *weights.values.shape[1:])
    place_kernel[(tiles, tiles_b)](
        weights.values, weights.marks, weights.live, offset, total, total if panels is None else panels.table, rows,
        gathered, count, room, weights.values.stride(0), count, WIDTH=parts * block_b, DENSE=DENSE_SHARE,
        DESCRIBED=uses, SEGMENTED=panels is not None, TAIL=tail, BLOCK_N=weights_rows(block_b), num_warps=PLACE_WARPS,
        enable_fp_fusion=True,
    )  # fmt: skip
    return LiveRows(rows, total, gathered)
