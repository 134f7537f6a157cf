"""Triton: the heaviest samples of each query, by logits of direct differences in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float64, Int64, Tensor
from ..core.limits import DEFAULT_LIMITS, ScanLimits
from ..products.candidates import TileCandidates
from ..rescore.compensate import based_kernel
from ..rescore.lists import programs
from ..rescore.rescored import Rescored
from ..rescore.steps import RESCORE_TILE, difference_logits, named_rows, not_excluded, scored, slice_width

# heaviest samples that a program looks at together
TOP_BLOCK = 64


@triton.jit
@no_type_check
def on_list(row, p_first, slots, run, BLOCK_N: tl.constexpr):
    """Return which of the rows, [BLOCK_N], are in the first `slots` slots of a list at `p_first`."""
    found = tl.zeros([BLOCK_N], dtype=tl.int32)
    for start in range(0, slots, BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        other = tl.load(p_first + o_s // run, mask=o_s < slots, other=-1) + o_s % run
        same = (row[:, None] == other[None, :]) & (o_s < slots)[None, :]
        found = tl.maximum(found, tl.max(same.to(tl.int32), axis=1))
    return found > 0


@triton.jit(do_not_specialize=["begin", "stop", "span", "width", "limit", "candidates", "pool", "excluded"])
@no_type_check
def distance_kernel(
    p_rows, p_point, p_centre, p_alpha, p_precision, p_log_weight, p_first, p_count, p_candidate, p_places, p_excluded,
    p_logits, p_row_out, begin, stop, span, width, limit, candidates, pool, run, dim, row_stride, excluded,
    WEIGHTED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Logits log w - |q - alpha r|^2 / 2 sigma^2 of the slots of a query, and the rows that these stand for.

    `width` slots are for the rows of its list, or, where that overflowed, for those from `begin` on; `candidates` more
    for further rows, unless they are on the list, or it overflowed. p_rows: [N, D] as stored. p_point: [B, D]. p_first:
    [B, limit], of a span from `span` on. p_count: [B]. p_candidate: [B, pool], -1 for none, of which p_places, [B,
    candidates], names the places. p_logits, p_row_out: [B, width + candidates], -inf and -1 for slots that stand for no
    row, and for rows that are excluded or not before `stop`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    count = tl.load(p_count + i_b)
    listed = count >= 0
    # lists are in the first part of the span
    used = tl.where(listed, tl.where(begin == span, count * run, 0), tl.minimum(width, stop - begin))
    further = tl.where(listed, candidates, 0)
    samples = (p_rows, p_centre, p_log_weight, dim, row_stride)
    query = (p_point + i_b * dim, tl.load(p_alpha + i_b), tl.load(p_precision + i_b))
    p_first += i_b * limit
    room = width + candidates
    for start in range(tl.program_id(1) * BLOCK_N, room, tl.num_programs(1) * BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        # [BLOCK_N]
        b_logits = tl.full([BLOCK_N], float("-inf"), dtype=tl.float64)
        row = tl.full([BLOCK_N], -1, dtype=tl.int64)
        if (start < used) | (start + BLOCK_N > width):
            m_used = o_s < used
            row = named_rows(o_s, m_used, listed, p_first, begin, run)
            m_further = (o_s >= width) & (o_s < width + further)
            place = tl.load(p_places + i_b * candidates + o_s - width, mask=m_further, other=0)
            candidate = tl.load(p_candidate + i_b * pool + place, mask=m_further, other=-1)
            if start + BLOCK_N > width:
                m_further = m_further & (candidate >= 0) & (on_list(candidate, p_first, used, run, BLOCK_N) == 0)
            row = tl.where(m_further, candidate, row)
            m_s = not_excluded(row, m_used | m_further, stop, p_excluded + i_b * excluded * 2, excluded)
            b_logits = difference_logits(samples, query, row, m_s, WEIGHTED, BLOCK_N, BLOCK_D)
            row = tl.where(m_s, row, -1)
        tl.store(p_logits + i_b * room + o_s, b_logits, mask=o_s < room)
        tl.store(p_row_out + i_b * room + o_s, row, mask=o_s < room)


class Heaviest(NamedTuple):
    """The heaviest samples of each query in falling order: logits less the base, [B, k], -inf for none.

    places: [B, k], where their rows are in `rows`, [B, W], -1 for none.
    """

    logits: Float64[Tensor, "B k"]
    places: Int64[Tensor, "B k"]
    rows: Int64[Tensor, "B W"]

    @classmethod
    def among(cls, logits: Float64[Tensor, "B W"], rows: Int64[Tensor, "B W"], count: int) -> Heaviest:
        """Return the `count` largest of `logits`, or all where there are fewer."""
        return cls(*logits.topk(min(count, logits.shape[1]), dim=1), rows)

    @property
    def named(self) -> Int64[Tensor, "B k"]:
        """The rows of these samples."""
        return self.rows.gather(1, self.places)


class NamedSamples(NamedTuple):
    """The heaviest samples of each query: logits, what float64 cut off them, and rows, [B, k]; -inf and -1 for none."""

    logits: Float64[Tensor, "B k"]
    rest: Float64[Tensor, "B k"]
    rows: Int64[Tensor, "B k"]

    @classmethod
    def of(
        cls, top: Heaviest, count: int, base: Float64[Tensor, "B"], output: Int64[Tensor, "B"] | None = None
    ) -> NamedSamples:
        """Return `count` samples, those of `top`, whose logits lack the `base` of their query, [B]; no synchronisation.

        output: the place of each query in the result, [B], or None for its own.
        """
        (batch, found), pool = top.places.shape, top.rows.shape[1]
        logits, rest = base.new_empty(2, batch, count).unbind(0)
        rows = top.rows.new_empty(batch, count)
        based_kernel[(batch, triton.cdiv(count, TOP_BLOCK))](
            top.logits.contiguous(), top.places.contiguous(), top.rows, base, top.places if output is None else output,
            logits, rest, rows, count, found, pool, MOVED=output is not None, BLOCK=TOP_BLOCK, num_warps=1,
            enable_fp_fusion=False,
        )  # fmt: skip
        return cls(logits, rest, rows)


@dataclass(frozen=True)
class Slots:
    """Slots for the logits of every query, each of which may stand for a row.

    rescored: whose rows the slots of a query stand for, one after the other; those of a query whose list overflowed
    stand for the rows of the span from `begin` on. width: slots of each query for these. candidates: rows of further
    slots.
    """

    rescored: Rescored
    begin: int
    width: int
    candidates: TileCandidates

    def heaviest(self) -> Heaviest:
        """Return the heaviest of the rows in the slots, as many as are wanted; no synchronisation."""
        work, listed = self.rescored.work, self.rescored.rescore_list
        rows, query, span = work.rows, work.query, work.span
        (batch, further), dim = self.candidates.best.shape, rows.dim
        room = self.width + further
        logits = torch.empty(0, dtype=torch.float64, device=rows.device).new_empty(batch, room)
        found = listed.first.new_empty(batch, room)
        distance_kernel[(batch, programs(batch, room, RESCORE_TILE.block_n))](
            *scored(work), listed.first, listed.count, self.candidates.rows, self.candidates.best,
            query.excluded.contiguous(), logits, found, self.begin, span.stop, span.start, self.width,
            listed.first.shape[1], further, self.candidates.rows.shape[1], listed.run, dim, rows.stored.stride(0),
            query.excluded.shape[1], WEIGHTED=rows.log_weights is not None,
            BLOCK_N=RESCORE_TILE.block_n, BLOCK_D=slice_width(dim), num_warps=RESCORE_TILE.warps,
            enable_fp_fusion=True,
        )  # fmt: skip
        self.rescored.sharpen(logits, found)
        return Heaviest.among(logits, found, work.wanted.top_k)


def slots_of(
    rescored: Rescored,
    candidates: TileCandidates | None,
    *,
    limits: ScanLimits,
    reads_values: bool,
) -> Iterator[Slots]:
    """Yield the slots for the rows of a span a part at a time; the first has those of the lists and the candidates.

    rescored, candidates: as in :func:`rescored_top`. limits: `logit_bytes` bounds a part. reads_values:
    whether the host may wait for the device to read whether any list overflowed, and leave out the other parts where
    none did.
    """
    rescore_list, span = rescored.rescore_list, rescored.work.span
    batch = len(rescore_list.count)
    none = TileCandidates.empty(batch, 0, rescore_list.count.device)
    if not rescore_list.may_overflow:
        yield Slots(rescored, span.start, rescore_list.width, none if candidates is None else candidates)
        return
    width = limits.logit_slots(batch, rescore_list.width, len(span))
    short = reads_values and len(span) > width and not bool(rescore_list.overflowed.any())
    for begin in range(span.start, span.start + 1 if short else span.stop, width):
        further = none if candidates is None or begin > span.start else candidates
        yield Slots(rescored, begin, width, further)


def rescored_top(
    rescored: Rescored,
    candidates: TileCandidates | None = None,
    *,
    reads_values: bool,
    limits: ScanLimits = DEFAULT_LIMITS,
    output: Int64[Tensor, "B"] | None = None,
) -> NamedSamples:
    """Return the heaviest samples that were rescored, or are among some candidates, as many as are wanted.

    rescored: samples of every query. candidates: rows that may be heavy too; they do not count where a list overflowed,
    which stands for all rows. reads_values: whether the host may wait for the device, which
    spares launches where lists are short beside the span. output: as in :meth:`NamedSamples.of`.

    Costs a float64 pass over the rows of each query. Memory is 16 bytes for each pair of a query and a row, at most
    twice `logit_bytes` or the whole list.
    """
    found = [part.heaviest() for part in slots_of(rescored, candidates, limits=limits, reads_values=reads_values)]
    count = rescored.work.wanted.top_k
    if len(found) > 1:
        logits = torch.cat([part.logits for part in found], dim=1)
        found = [Heaviest.among(logits, torch.cat([part.named for part in found], dim=1), count)]
    return NamedSamples.of(found[0], count, rescored.base, output)


def top_memory(batch: int, listed: int, count: int, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return the most bytes that :func:`rescored_top` needs.

    batch: number of queries. listed: room of a list. count: rows of the span. limits: of the logits.
    """
    return 16 * batch * limits.logit_slots(batch, listed, count)
