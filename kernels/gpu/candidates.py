"""Triton: the largest coarse logits of each query, from the tiles with the largest maxima: no other has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Float, Int64, Tensor
from ..common.top_k import MARGIN
from .logits import Scores
from .panels import Panels


@triton.jit(do_not_specialize=["tiles", "count", "batch", "first_row", "height", "room"])
@no_type_check
def candidates_kernel(
    p_logits,
    p_tile,
    p_columns,
    p_spans,
    p_value,
    p_row,
    tiles,
    count,
    batch,
    first_row,
    height,
    logit_stride,
    room,
    SEGMENTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy the logits of one tile of rows for one query, and name the rows; -inf and -1 beyond the last.

    p_logits: [height, P]. p_tile: [tiles, B] int64, the tiles of each query. p_columns: [B], the column of each query,
    and p_spans: [B, 2] int64, its rows, of which `height` are in a tile, where tiles of queries have rows of their own;
    either way those from `first_row` on. p_value, p_row: [B, room], of which the last `tiles` times `count` are
    written. count: rows of a tile.
    """
    i_b = tl.program_id(0)
    column, first, rows = i_b, first_row.to(tl.int64), height.to(tl.int64)
    if SEGMENTED:
        column = tl.load(p_columns + i_b)
        first += tl.load(p_spans + 2 * i_b)
        rows = tl.minimum(rows, tl.load(p_spans + 2 * i_b + 1) - first)
    tile = tl.load(p_tile + tl.program_id(1) * batch + i_b)
    o_n = tl.arange(0, BLOCK)
    o_row = tile * count + o_n
    m_row = (o_n < count) & (o_row < rows)
    value = tl.load(p_logits + o_row * logit_stride + column, mask=m_row, other=float("-inf"))
    place = i_b.to(tl.int64) * room + room - (tiles - tl.program_id(1)) * count + o_n
    tl.store(p_value + place, value, mask=o_n < count)
    tl.store(p_row + place, tl.where(value > float("-inf"), first + o_row, -1), mask=o_n < count)


@dataclass
class TileCandidates:
    """The `count` + MARGIN largest coarse logits of each query and their rows; in any order, -inf and -1 for none.

    count: samples to name, 0 for none. logits: [B, C] float32, and rows: [B, C] int64, with no column before a block
    was offered.
    """

    count: int
    logits: Float[Tensor, "B C"]
    rows: Int64[Tensor, "B C"]

    @classmethod
    def empty(cls, batch: int, count: int, device: torch.device) -> TileCandidates:
        """Return those of nothing, for `count` samples of each of `batch` queries, on `device`."""
        none = torch.empty(batch, 0, device=device)
        return cls(count, none, none.long())

    def offer(self, scores: Scores, start: int, panels: Panels | None = None, spans: Tensor | None = None) -> None:
        """Take what belongs here from the `scores` of a block whose first row is `start`; no synchronisation.

        panels, spans: tiles of queries with rows of their own, and the rows of each query, [B, 2] int64, of which those
        from the one numbered `start` are in its tile.
        """
        if self.count == 0:
            return
        (batch, held), wanted, tile = self.rows.shape, self.count + MARGIN, scores.tile
        found = scores.stats[:, 0, :batch].topk(min(wanted, len(scores.stats)), dim=0).indices
        tiles = len(found)
        room = held + tiles * tile
        values, rows = scores.logits.new_empty(batch, room), found.new_empty(batch, room)
        if held:
            values[:, :held] = self.logits
            rows[:, :held] = self.rows
        candidates_kernel[(batch, tiles)](
            scores.logits, found, found if panels is None else panels.columns, found if spans is None else spans,
            values, rows, tiles, tile, batch, start, len(scores.logits), scores.logits.stride(0), room,
            SEGMENTED=panels is not None, BLOCK=triton.next_power_of_2(tile), num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
        best = values.topk(min(wanted, room), dim=1)
        self.logits, self.rows = best.values, rows.gather(1, best.indices)
