"""Triton: the largest coarse logits of each query, from the tiles with the largest maxima: no other has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Int64, Tensor
from ...common.top_k import MARGIN
from ..operands.panels import Panels
from .logits import Scores


@triton.jit
@no_type_check
def copy_best(p_places, p_value, p_row, p_value_out, p_row_out, held, BLOCK: tl.constexpr):
    """Copy the `held` logits and rows whose places p_places names."""
    for start in range(0, held, BLOCK):
        o_h = start + tl.arange(0, BLOCK)
        m_h = o_h < held
        place = tl.load(p_places + o_h, mask=m_h, other=0)
        tl.store(p_value_out + o_h, tl.load(p_value + place, mask=m_h, other=0.0), mask=m_h)
        tl.store(p_row_out + o_h, tl.load(p_row + place, mask=m_h, other=0), mask=m_h)


@triton.jit(do_not_specialize=["tiles", "count", "batch", "first_row", "height", "room", "held", "held_room"])
@no_type_check
def candidates_kernel(
    p_logits,
    p_tile,
    p_columns,
    p_spans,
    p_places,
    p_value_held,
    p_row_held,
    p_value,
    p_row,
    tiles,
    count,
    batch,
    first_row,
    height,
    logit_stride,
    room,
    held,
    held_room,
    CHOSEN: tl.constexpr,
    SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy the logits of one tile of rows for one query, and name the rows; -inf and -1 beyond the last.

    The first program of a query copies the best of those that earlier blocks left, too.

    p_logits: [height, P]. p_tile: [tiles, B] int64, the tiles of each query, where they are CHOSEN. p_columns: [B], the
    column of each query, and p_spans: [B, 2] int64, its rows, of which `height` are in a tile, where tiles of queries
    have rows of their own; either way those from `first_row` on. p_value, p_row: [B, room]; of the tiles are the last
    `tiles` times `count`. count: rows of a tile. p_places: [B, held], places in p_value_held and p_row_held, [B,
    held_room].
    """
    i_b = tl.program_id(0).to(tl.int64)
    if tl.program_id(1) == 0:
        o_held, o_out = i_b * held_room, i_b * room
        copy_best(
            p_places + i_b * held,
            p_value_held + o_held,
            p_row_held + o_held,
            p_value + o_out,
            p_row + o_out,
            held,
            BLOCK,
        )
    column, first, rows = i_b, first_row.to(tl.int64), height.to(tl.int64)
    if SEGMENTED:
        column = tl.load(p_columns + i_b)
        first += tl.load(p_spans + 2 * i_b)
        rows = tl.minimum(rows, tl.load(p_spans + 2 * i_b + 1) - first)
    tile = tl.program_id(1).to(tl.int64)
    if CHOSEN:
        tile = tl.load(p_tile + tile * batch + i_b)
    o_n = tl.arange(0, BLOCK)
    o_row = tile * count + o_n
    m_row = (o_n < count) & (o_row < rows)
    value = tl.load(p_logits + o_row * logit_stride + column, mask=m_row, other=float("-inf"))
    place = i_b * room + room - (tiles - tl.program_id(1)) * count + o_n
    tl.store(p_value + place, value, mask=o_n < count)
    tl.store(p_row + place, tl.where(value > float("-inf"), first + o_row, -1), mask=o_n < count)


@dataclass
class TileCandidates:
    """Coarse logits of each query and their rows, among which are the `count` + MARGIN largest of all blocks.

    count: samples to name, 0 for none. logits: [B, W] float32, and rows: [B, W] int64, -inf and -1 for none, with no
    column before a block was offered. best: the places of the largest in these, [B, C], in any order.
    """

    count: int
    logits: Float[Tensor, "B W"]
    rows: Int64[Tensor, "B W"]
    best: Int64[Tensor, "B C"]

    @classmethod
    def empty(cls, batch: int, count: int, device: torch.device) -> TileCandidates:
        """Return those of nothing, for `count` samples of each of `batch` queries, on `device`."""
        none = torch.empty(batch, 0, device=device)
        return cls(count, none, none.long(), none.long())

    def offer(self, scores: Scores, start: int, panels: Panels | None = None, spans: Tensor | None = None) -> None:
        """Take what belongs here from the `scores` of a block whose first row is `start`; no synchronisation.

        panels, spans: tiles of queries with rows of their own, and the rows of each query, [B, 2] int64, of which those
        from the one numbered `start` are in its tile.
        """
        if self.count == 0:
            return
        (batch, held), wanted, tile = self.best.shape, self.count + MARGIN, scores.tile
        tiles, chosen = min(wanted, len(scores.stats)), len(scores.stats) > wanted
        found = scores.stats[:, 0, :batch].topk(tiles, dim=0).indices if chosen else self.best
        room = held + tiles * tile
        values, rows = scores.logits.new_empty(batch, room), self.rows.new_empty(batch, room)
        candidates_kernel[(batch, tiles)](
            scores.logits, found, found if panels is None else panels.columns, found if spans is None else spans,
            self.best, self.logits, self.rows, values, rows, tiles, tile, batch, start, len(scores.logits),
            scores.logits.stride(0), room, held, self.rows.shape[1], CHOSEN=chosen, SEGMENTED=panels is not None,
            BLOCK=triton.next_power_of_2(tile), num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
        self.logits, self.rows, self.best = values, rows, values.topk(min(wanted, room), dim=1).indices
