"""Triton: samples of the rescore lists, scored by direct difference and weighed in float64; the host never waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Bool, Float64, Int64, Shaped, Tensor
from ..common.rows import Query, Rows, Span
from ..common.state import PosteriorState, Wanted, merge
from ..common.work import Work
from .configs import Tile
from .jit import share_of
from .limits import DEFAULT_LIMITS, ScanLimits
from .rescore_list import RESCORE_PROGRAMS, RescoreList, programs

# logits of a query that one program sums at once
SUM_BLOCK = 512


@triton.jit
@no_type_check
def distance_kernel(
    p_rows,
    p_point,
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

    p_rows: [N, D] as stored. p_point: [B, D] in stored coordinates. p_first: [B, limit]. p_count, p_used: [B].
    p_logits: [B, width], -inf for rows beyond `stop` or excluded.
    """
    i_b = tl.program_id(0).to(tl.int64)
    used = tl.load(p_used + i_b)
    alpha = tl.load(p_alpha + i_b)
    precision = tl.load(p_precision + i_b)
    p_point += i_b * dim
    o_d = tl.arange(0, BLOCK_D)
    for start in range(tl.program_id(1) * BLOCK_N, used, tl.num_programs(1) * BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        # [BLOCK_N]
        row = named_rows(o_s, i_b, used, p_first, p_count, begin, limit, run)
        m_s = (o_s < used) & (row < stop)
        for i_h in range(excluded):
            p_range = p_excluded + (i_b * excluded + i_h) * 2
            m_s = m_s & ((row < tl.load(p_range)) | (row >= tl.load(p_range + 1)))
        p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
        # [BLOCK_N, BLOCK_D]
        b_square = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float64)
        for first in range(0, dim, BLOCK_D):
            m_d = first + o_d < dim
            point = tl.load(p_point + first + o_d, mask=m_d, other=0.0)
            b_rows = tl.load(p_block + first, mask=m_s[:, None] & m_d[None, :], other=0).to(tl.float64)
            b_gap = point[None, :] - alpha * b_rows
            b_square += b_gap * b_gap
        logits = -0.5 * precision * tl.sum(b_square, axis=1)
        if WEIGHTED:
            logits += tl.load(p_log_weight + row, mask=m_s, other=0.0)
        tl.store(p_logits + i_b * width + o_s, tl.where(m_s, logits, float("-inf")), mask=o_s < used)


@triton.jit
@no_type_check
def named_rows(o_s, i_b, used, p_first, p_count, begin, limit, run):
    """Return the rows of the slots `o_s` of query `i_b`: those of the runs in its list, or all from `begin` on."""
    listed = tl.load(p_count + i_b) >= 0
    first = tl.load(p_first + i_b * limit + o_s // run, mask=o_s < tl.where(listed, used, 0), other=0)
    return tl.where(listed, first + o_s % run, begin + o_s)


@triton.jit
@no_type_check
def mass_kernel(p_logits, p_used, p_sums, width, batch, BLOCK: tl.constexpr):
    """Log-sum-exp, sum of squared weights and entropy of the logits [B, width] of a query, into p_sums [3, B]."""
    i_b = tl.program_id(0).to(tl.int64)
    used = tl.load(p_used + i_b)
    p_logit = p_logits + i_b * width + tl.arange(0, BLOCK)
    # [BLOCK]
    b_top = tl.full([BLOCK], float("-inf"), dtype=tl.float64)
    for start in range(0, used, BLOCK):
        m_s = start + tl.arange(0, BLOCK) < used
        b_top = tl.maximum(b_top, tl.load(p_logit + start, mask=m_s, other=float("-inf")))
    top = tl.max(b_top, axis=0)
    top = tl.where(top == float("-inf"), 0.0, top)
    b_mass = tl.zeros([BLOCK], dtype=tl.float64)
    b_squares = tl.zeros([BLOCK], dtype=tl.float64)
    b_first = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, used, BLOCK):
        m_s = start + tl.arange(0, BLOCK) < used
        b_logits = tl.load(p_logit + start, mask=m_s, other=float("-inf"))
        b_gap = tl.where(b_logits > float("-inf"), b_logits - top, 0.0)
        b_weights = tl.exp(b_logits - top)
        b_mass += b_weights
        b_squares += b_weights * b_weights
        b_first += b_weights * b_gap
    mass = tl.sum(b_mass, axis=0)
    scale = tl.where(mass > 0.0, mass, 1.0)
    tl.store(p_sums + i_b, tl.where(mass > 0.0, top + tl.log(scale), float("-inf")))
    tl.store(p_sums + batch + i_b, tl.sum(b_squares, axis=0) / (scale * scale))
    tl.store(p_sums + 2 * batch + i_b, tl.log(scale) - tl.sum(b_first, axis=0) / scale)


@triton.jit
@no_type_check
def mean_kernel(
    p_rows,
    p_logits,
    p_lse,
    p_first,
    p_count,
    p_used,
    p_out,
    begin,
    width,
    limit,
    run,
    dim,
    row_stride,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum of the weights exp(l - lse) times the rows of one share of the slots, for a slice of D.

    p_rows: [N, D] as stored. p_logits: [B, width]. p_lse: [B]. p_out: [shares, B, D].
    """
    i_b = tl.program_id(1).to(tl.int64)
    i_share = tl.program_id(2).to(tl.int64)
    o_d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    used = tl.load(p_used + i_b)
    lse = tl.load(p_lse + i_b)
    origin = tl.where(lse == float("-inf"), 0.0, lse)
    share_begin, share_end = share_of(used, i_share, tl.num_programs(2), BLOCK_N)
    # [BLOCK_D]
    b_total = tl.zeros([BLOCK_D], dtype=tl.float64)
    for start in range(share_begin, share_end, BLOCK_N):
        o_s = start + tl.arange(0, BLOCK_N)
        row = named_rows(o_s, i_b, used, p_first, p_count, begin, limit, run)
        b_logits = tl.load(p_logits + i_b * width + o_s, mask=o_s < used, other=float("-inf"))
        b_weights = tl.exp(b_logits - origin)
        # rows without weight, which include excluded ones, are not read
        m_rows = (b_weights > 0.0)[:, None] & (o_d < dim)[None, :]
        p_block = p_rows + row[:, None] * row_stride + o_d[None, :]
        b_rows = tl.load(p_block, mask=m_rows, other=0).to(tl.float64)
        b_total += tl.sum(b_weights[:, None] * b_rows, axis=0)
    # out is [shares, B, D]
    p_sum = p_out + (i_share * tl.num_programs(1) + i_b) * dim + o_d
    tl.store(p_sum, b_total, mask=o_d < dim)


@dataclass(frozen=True)
class RescoreConfig(Tile):
    """Tile of rows and values of D of one query: the same on every GPU.

    Float64 sums take two registers each, which leaves no room for more, and lists are too short for a pipeline to pay.
    """


RESCORE_TILE = RescoreConfig(block_n=16, block_b=1, block_d=256, warps=4, stages=1)


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

    def logits(self, rows: Rows, query: Query, *, weighted: bool) -> Float64[Tensor, "B W"]:
        """Return the logits of the rows in the slots, [B, width] float64; unused slots hold nothing.

        rows: of the data set. query: [B] queries whose points are in stored coordinates. weighted: whether the logs of
        the weights of the samples are added, where they have any.
        """
        batch, dim = query.point.shape
        out = torch.empty(0, dtype=torch.float64, device=rows.device).new_empty(batch, self.width)
        log_weights = rows.half_norms if rows.log_weights is None else rows.log_weights
        distance_kernel[(batch, programs(batch, self.width, RESCORE_TILE.block_n))](
            rows.stored, query.point.contiguous(), query.alpha, query.inverse_variance, log_weights,
            self.rescore_list.first, self.rescore_list.count, self.used, query.excluded.contiguous(),
            out, self.begin, self.stop,
            self.width, self.rescore_list.first.shape[1], self.rescore_list.run, dim, rows.stored.stride(0),
            query.excluded.shape[1],
            WEIGHTED=weighted and rows.log_weights is not None, BLOCK_N=RESCORE_TILE.block_n, BLOCK_D=slice_width(dim),
            num_warps=RESCORE_TILE.warps, enable_fp_fusion=True,
        )  # fmt: skip
        return out

    def mean(self, rows: Rows, logits: Float64[Tensor, "B W"], lse: Float64[Tensor, "B"]) -> Float64[Tensor, "B D"]:
        """Return the weighted mean of the rows in the slots, as stored, [B, D] float64; zero where there are none.

        rows: of the data set. logits: [B, width] float64. lse: [B] float64, their log-sum-exp.
        """
        batch, slices = len(lse), triton.cdiv(rows.dim, slice_width(rows.dim))
        shares = max(1, min(RESCORE_PROGRAMS // (batch * slices), triton.cdiv(self.width, 8 * RESCORE_TILE.block_n)))
        out = logits.new_empty(shares, batch, rows.dim)
        mean_kernel[(slices, batch, shares)](
            rows.stored, logits, lse, self.rescore_list.first, self.rescore_list.count, self.used, out,
            self.begin, self.width,
            self.rescore_list.first.shape[1], self.rescore_list.run, rows.dim, rows.stored.stride(0),
            BLOCK_N=RESCORE_TILE.block_n, BLOCK_D=slice_width(rows.dim),
            num_warps=RESCORE_TILE.warps, enable_fp_fusion=True,
        )  # fmt: skip
        return out.sum(0)

    def filled(self, logits: Float64[Tensor, "B W"]) -> Float64[Tensor, "B W"]:
        """Return `logits` [B, width] with -inf in unused slots."""
        return logits.masked_fill(~self._inside(), -torch.inf)

    def rows_at(self, slot: Int64[Tensor, "B k"]) -> Int64[Tensor, "B k"]:
        """Return the rows that the slots `slot` of each query stand for, [B, k]."""
        run, limit = self.rescore_list.run, self.rescore_list.first.shape[1]
        listed = self.rescore_list.first.gather(1, (slot // run).clamp_max(limit - 1)) + slot % run
        return torch.where(self.rescore_list.overflowed[:, None], self.begin + slot, listed)

    def _inside(self) -> Bool[Tensor, "B W"]:
        return torch.arange(self.width, device=self.used.device) < self.used[:, None]


def rescored_state(
    work: Work, rescore_list: RescoreList, *, reads_values: bool, limits: ScanLimits = DEFAULT_LIMITS
) -> PosteriorState:
    """Return the states of the samples on a rescore list, each scored by direct difference in float64.

    work: rows, queries, the span that the samples lie in, and what is wanted. rescore_list: the samples, for every
    query of the work. reads_values: whether the host may wait for the device, which spares launches where lists are
    short beside the span. limits: `logit_bytes` bounds the logits held at once.

    Costs a float64 pass over the rows of each query, twice with the mean. Memory is 8 bytes for each pair of a query
    and a row, at most `logit_bytes` or the whole list.
    """
    rows, query = work.rows, work.query
    stored = replace(query, point=query.in_stored_coordinates(rows), alpha=query.alpha.contiguous())
    parts = Slots.parts(rescore_list, work.span, limits=limits, reads_values=reads_values)
    state = reduce(merge, [_state(rows, stored, slots, work.wanted) for slots in parts])
    # the centre was left in: products with it cancel only where it is large, and these are float64
    return replace(state, mean=state.mean - rows.centre) if work.wanted.mean else state


def slice_width(dim: int) -> int:
    """Return how many values of D a tile holds, a power of two, for rows of `dim` values."""
    return max(16, min(RESCORE_TILE.block_d, 1 << (dim - 1).bit_length()))


def rescore_memory(rows: Rows, batch: int, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return the most bytes that :func:`rescored_state` needs.

    rows: of the data set, all of which the span may hold. batch: number of queries. limits: of lists and logits.
    """
    listed, dim = limits.listed(len(rows)), rows.dim
    width = limits.logit_slots(batch, listed, len(rows))
    sums = max(3 * batch, RESCORE_PROGRAMS * RESCORE_TILE.block_d // min(dim, RESCORE_TILE.block_d))
    return 8 * batch * (width + listed) + 8 * dim * sums


def _state(rows: Rows, stored: Query, slots: Slots, wanted: Wanted) -> PosteriorState:
    logits = slots.logits(rows, stored, weighted=True)
    batch = len(logits)
    sums = logits.new_empty(3, batch)
    mass_kernel[(batch,)](
        logits, slots.used, sums, slots.width, batch, BLOCK=SUM_BLOCK, num_warps=RESCORE_TILE.warps,
        enable_fp_fusion=True,
    )  # fmt: skip
    lse, concentration, entropy = sums.unbind(0)
    state = replace(PosteriorState.empty(batch, rows.dim, wanted.top_k, rows.device), lse=lse)
    if wanted.mean:
        state = replace(state, mean=slots.mean(rows, logits, lse))
    if wanted.moments:
        state = replace(state, concentration=concentration, entropy=entropy)
    if wanted.moments and wanted.mean:
        weights = (slots.filled(logits) - lse.clamp_min(-1e300)[:, None]).exp()
        state = replace(state, variance=_variance(rows, slots, weights, replace(stored, point=state.mean)))
    return _with_top(state, slots, logits, wanted.top_k) if wanted.top_k else state


def _variance(rows: Rows, slots: Slots, weights: Float64[Tensor, "B W"], mean: Query) -> Float64[Tensor, "B"]:
    """Return the trace of the covariance: the weighted mean of the squared distances to the points of `mean`."""
    ones = torch.ones_like(mean.alpha)
    squares = slots.logits(rows, replace(mean, alpha=ones, inverse_variance=ones), weighted=False).mul(-2.0)
    return torch.where(weights > 0, weights * squares, 0.0).sum(1)


def _with_top(state: PosteriorState, slots: Slots, logits: Float64[Tensor, "B W"], top_k: int) -> PosteriorState:
    top = slots.filled(logits).topk(min(top_k, slots.width), dim=1)
    found = slots.rows_at(top.indices).masked_fill(top.values == -torch.inf, -1)
    count = found.shape[1]
    state.top_logits[:, :count] = top.values
    state.top_rows[:, :count] = found
    return state
