"""Triton: the heaviest of the samples on rescore lists, by logits of direct differences in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Bool, Float64, Int64, Shaped, Tensor
from ..common.rows import Span
from ..common.state import PosteriorState, merge
from ..common.work import Work
from .limits import DEFAULT_LIMITS, ScanLimits
from .rescore import RESCORE_TILE, distances, named_rows, not_excluded, slice_width
from .rescore_list import RescoreList, programs


@triton.jit(do_not_specialize=["begin", "stop", "width", "limit", "excluded"])
@no_type_check
def distance_kernel(
    p_rows,
    p_point,
    p_centre,
    p_alpha,
    p_precision,
    p_log_weight,
    p_first,
    p_count,
    p_used,
    p_excluded,
    p_logits,
    begin,
    stop,
    width,
    limit,
    run,
    dim,
    row_stride,
    excluded,
    WEIGHTED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Logits log w - |q - alpha r|^2 / 2 sigma^2 of the rows in the slots of a query.

    p_rows: [N, D] as stored. p_point: [B, D]. p_first: [B, limit]. p_count, p_used: [B]. p_logits: [B, width], -inf for
    rows beyond `stop` or excluded.
    """
    i_b = tl.program_id(0).to(tl.int64)
    used = tl.load(p_used + i_b)
    listed = tl.load(p_count + i_b) >= 0
    alpha = tl.load(p_alpha + i_b)
    precision = tl.load(p_precision + i_b)
    for start in range(tl.program_id(1) * BLOCK_N, used, tl.num_programs(1) * BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        row = named_rows(o_s, o_s < used, listed, p_first + i_b * limit, begin, run)
        m_s = not_excluded(row, o_s < used, stop, p_excluded + i_b * excluded * 2, excluded)
        # [BLOCK_N]
        b_square = distances(p_rows, p_point + i_b * dim, p_centre, row, m_s, alpha, dim, row_stride, BLOCK_N, BLOCK_D)
        b_logits = -0.5 * precision * b_square
        if WEIGHTED:
            b_logits += tl.load(p_log_weight + row, mask=m_s, other=0.0)
        tl.store(p_logits + i_b * width + o_s, tl.where(m_s, b_logits, float("-inf")), mask=o_s < used)


@dataclass(frozen=True)
class Slots:
    """Slots for the logits of every query, each of which stands for a row.

    rescore_list: whose rows the slots of a query stand for, one after the other; those of a query whose list
    overflowed stand for the rows from `begin` on.
    used: [B] int32, slots that stand for a row. stop: end of the span. width: slots of each query.
    """

    rescore_list: RescoreList
    used: Shaped[Tensor, "B"]
    begin: int
    stop: int
    width: int

    @classmethod
    def parts(cls, rescore_list: RescoreList, span: Span, *, limits: ScanLimits, reads_values: bool) -> Iterator[Slots]:
        """Yield the slots for the rows of a span a part at a time; the first has those of the lists.

        rescore_list: what is to be rescored. span: rows that lists and queries whose list overflowed are about.
        limits: `logit_bytes` bounds a part. reads_values: whether the host may wait for the device to read whether any
        list overflowed, and leave out the other parts where none did.
        """
        batch, count = len(rescore_list.count), rescore_list.count
        width = limits.logit_slots(batch, rescore_list.width, len(span))
        short = reads_values and len(span) > width and not bool(rescore_list.overflowed.any())
        for begin in range(span.start, span.start + 1 if short else span.stop, width):
            listed = count * rescore_list.run if begin == span.start else torch.zeros_like(count)
            used = torch.where(rescore_list.overflowed, min(width, span.stop - begin), listed)
            yield cls(rescore_list, used, begin, span.stop, width)

    def logits(self, work: Work) -> Float64[Tensor, "B W"]:
        """Return the logits of the rows in the slots, [B, width] float64, -inf in unused slots.

        work: rows and [B] queries.
        """
        rows, query = work.rows, work.query
        (batch, dim), room = query.point.shape, torch.empty(0, dtype=torch.float64, device=rows.device)
        out = room.new_empty(batch, self.width)
        log_weights = rows.half_norms if rows.log_weights is None else rows.log_weights
        distance_kernel[(batch, programs(batch, self.width, RESCORE_TILE.block_n))](
            rows.stored, query.point.contiguous(), rows.centre, query.alpha.contiguous(),
            query.inverse_variance.contiguous(), log_weights, self.rescore_list.first, self.rescore_list.count,
            self.used, query.excluded.contiguous(), out, self.begin, self.stop, self.width,
            self.rescore_list.first.shape[1], self.rescore_list.run, dim, rows.stored.stride(0),
            query.excluded.shape[1], WEIGHTED=rows.log_weights is not None, BLOCK_N=RESCORE_TILE.block_n,
            BLOCK_D=slice_width(dim), num_warps=RESCORE_TILE.warps, enable_fp_fusion=True,
        )  # fmt: skip
        return out.masked_fill(~self._inside(), -torch.inf)

    def rows_at(self, slot: Int64[Tensor, "B k"]) -> Int64[Tensor, "B k"]:
        """Return the rows that the slots `slot` of each query stand for, [B, k]."""
        run, limit = self.rescore_list.run, self.rescore_list.first.shape[1]
        listed = self.rescore_list.first.gather(1, (slot // run).clamp_max(limit - 1)) + slot % run
        return torch.where(self.rescore_list.overflowed[:, None], self.begin + slot, listed)

    def _inside(self) -> Bool[Tensor, "B W"]:
        return torch.arange(self.width, device=self.used.device) < self.used[:, None]


def rescored_top(
    work: Work, rescore_list: RescoreList, *, reads_values: bool, limits: ScanLimits = DEFAULT_LIMITS
) -> PosteriorState:
    """Return states that name the heaviest samples on a rescore list, and are empty but for that.

    work: rows, queries, the span that the samples lie in, and how many of them are wanted. rescore_list: the samples,
    for every query of the work. reads_values: whether the host may wait for the device, which spares launches where
    lists are short beside the span. limits: `logit_bytes` bounds the logits held at once.

    Costs a float64 pass over the rows of each query. Memory is 8 bytes for each pair of a query and a row, at most
    `logit_bytes` or the whole list.
    """
    parts = Slots.parts(rescore_list, work.span, limits=limits, reads_values=reads_values)
    return reduce(merge, [_top(work, slots) for slots in parts])


def top_memory(batch: int, listed: int, count: int, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return the most bytes that :func:`rescored_top` needs.

    batch: number of queries. listed: room of a list. count: rows of the span. limits: of the logits.
    """
    return 8 * batch * limits.logit_slots(batch, listed, count)


def _top(work: Work, slots: Slots) -> PosteriorState:
    empty = PosteriorState.empty(len(work.query), 0, work.wanted.top_k, work.rows.device)
    top = slots.logits(work).topk(min(work.wanted.top_k, slots.width), dim=1)
    found = slots.rows_at(top.indices).masked_fill(top.values == -torch.inf, -1)
    room = (0, work.wanted.top_k - found.shape[1])
    return replace(
        empty,
        top_logits=torch.nn.functional.pad(top.values, room, value=-torch.inf),
        top_rows=torch.nn.functional.pad(found, room, value=-1),
    )
