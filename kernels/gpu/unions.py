"""Triton: the states of several spans of rows as one for each query, such as those of a union of classes; no waits.

What little noise is left of a query shows only in the mean over all of its spans: midway between samples of two classes
of a union it is on top of neither. A query in doubt, see :mod:`.doubt`, is scored anew over every row of its spans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ...base.arrays import Bool, Float64, Int64, Shaped, Tensor
from ...base.cuda_graphs import capturing
from ..common.compensated import DoubleDouble, largest
from ..common.state import FIELDS, PosteriorState
from ..common.work import Work
from .compensated import twice_sum
from .doubt import doubtful_square
from .finish import Finish
from .jit import finite, where_positive
from .limits import ScanLimits
from .merge import MERGE_BLOCK, merged_means
from .moved_query import make_ready
from .partition import Law
from .query_operand import QueryMeasures
from .rescore_list import AGAIN, RescoreList
from .rescore_top import rescored_top
from .rescored import Rescored, share_count
from .running_sums import RunningSums

_AGAIN = tl.constexpr(AGAIN)


@triton.jit
@no_type_check
def span_weight(p_lse, p_rest, origin, rest):
    """Return exp(lse - origin) of a span, zero where it has no sample; both logs with what float64 cuts off them."""
    lse = tl.load(p_lse)
    some = lse > float("-inf")
    return tl.where(some, tl.exp(tl.where(some, lse - origin, 0.0) + (tl.load(p_rest) - rest)), 0.0)


@triton.jit(do_not_specialize=["each"])
@no_type_check
def union_kernel(
    p_lse, p_rest, p_mean, p_lse_out, p_rest_out, p_mean_out, each, dim, BLOCK: tl.constexpr
):  # fmt: skip
    """The log-partition over the `each` spans of a query, and a slice of D of the mean.

    p_lse, p_rest: [B each] float64, the log-partition of every span and what float64 cut off it. p_mean: [B each, D].
    """
    i_b = tl.program_id(0).to(tl.int64)
    p_lse += i_b * each
    p_rest += i_b * each
    top, top_rest = tl.cast(float("-inf"), tl.float64), tl.cast(0.0, tl.float64)
    for i_span in range(each):
        lse, rest = tl.load(p_lse + i_span), tl.load(p_rest + i_span)
        above = (lse > top) | ((lse == top) & (rest > top_rest))
        top, top_rest = tl.where(above, lse, top), tl.where(above, rest, top_rest)
    origin, some = finite(top), top > float("-inf")
    mass = tl.cast(0.0, tl.float64)
    for i_span in range(each):
        mass += span_weight(p_lse + i_span, p_rest + i_span, origin, top_rest)
    mass = tl.where(some, mass, 1.0)
    if tl.program_id(1) == 0:
        lse, rest = twice_sum(origin, top_rest + tl.log(mass))
        tl.store(p_lse_out + i_b, tl.where(some, lse, float("-inf")))
        tl.store(p_rest_out + i_b, tl.where(some, rest, 0.0))
    o_d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    # [BLOCK]
    b_mean = tl.zeros([BLOCK], dtype=tl.float64)
    for i_span in range(each):
        weight = span_weight(p_lse + i_span, p_rest + i_span, origin, top_rest) / mass
        p_part = p_mean + (i_b * each + i_span) * dim + o_d
        b_mean += weight * tl.load(p_part, mask=where_positive(o_d < dim, weight), other=0.0)
    tl.store(p_mean_out + i_b * dim + o_d, b_mean, mask=o_d < dim)


@triton.jit(do_not_specialize=["each", "pairs"])
@no_type_check
def union_doubt_kernel(
    p_lse, p_mean, p_point, p_alpha, p_precision, p_facts, p_place, p_count, p_best, each, pairs, dim,
    radius, operand_radius, unit, cut, query, weight, log_count, budget, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write AGAIN to p_count [B] for a query in doubt, which is left no sample in p_lse [B], and zero for others.

    p_mean, p_point: [B, D]. p_facts: [3, pairs], by places of the pairs, those of each query at p_place [B each].
    p_best: [B], p_lse before. Other arguments are those of `doubt_kernel`.
    """
    i_b = tl.program_id(0).to(tl.int64)
    lse, place = tl.load(p_lse + i_b), tl.load(p_place + i_b * each)
    alpha, precision = tl.load(p_alpha + i_b), tl.load(p_precision + i_b)
    law = (radius, operand_radius, unit, cut, query, weight, log_count, budget)
    facts = (tl.load(p_facts + place), tl.load(p_facts + pairs + place))
    doubtful = tl.cast(0.0, tl.float64)
    if lse > float("-inf"):
        # which share float32 sums have is not known here, nor the partition by coarse logits: the worst of both
        unknown = tl.cast(float("inf"), tl.float64)
        doubtful = doubtful_square(law, facts, alpha, precision, unknown, lse, 1.0, dim)
    square = tl.cast(0.0, tl.float64)
    start = 0
    while (start < dim) & (square < doubtful):
        o_d = start + tl.arange(0, BLOCK)
        b_gap = tl.load(p_point + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        b_gap -= alpha * tl.load(p_mean + i_b * dim + o_d, mask=o_d < dim, other=0.0)
        square += tl.sum(b_gap * b_gap, axis=0)
        start += BLOCK
    again = square < doubtful
    tl.store(p_best + i_b, lse)
    tl.store(p_count + i_b, tl.where(again, _AGAIN, 0))
    tl.store(p_lse + i_b, tl.where(again, float("-inf"), lse))


@dataclass(frozen=True)
class Unions:
    """Spans whose states are one state of their query, as many of each, one query after the other.

    work: over all rows, of which each query leaves out those in none of its spans. place: of each pair of a query and a
    span in the scan of them, [P]. measures, law: of that scan.
    """

    work: Work
    place: Int64[Tensor, "P"]
    measures: QueryMeasures
    law: Law

    @property
    def each(self) -> int:
        """How many spans a query has."""
        return len(self.place) // len(self.work.query)

    def state(self, spans: PosteriorState, limits: ScanLimits) -> PosteriorState:
        """Return the states of the queries, [B], of those of all spans, [P]; no synchronisation but for the heaviest.

        limits: of the logits held at once. Costs one read of the means, and one of all rows for queries in doubt.
        """
        wanted, merged = self.work.wanted, self._means(spans)
        if wanted.moments or wanted.top_k:
            merged = self._described(spans, merged)
        if not wanted.mean:
            return merged
        make_ready(self.work.query)
        count, best = self._doubted(merged)
        again = self._again(RescoreList(count.new_empty(len(count), 1, dtype=torch.int64), count, 1), best, limits)
        if not wanted.moments and not wanted.top_k:
            return merged_means(merged, again)
        return _chosen(count < 0, again, merged)

    def _described(self, spans: PosteriorState, merged: PosteriorState) -> PosteriorState:
        """Return `merged` with moments and heaviest samples, as `merge` has them of two states."""
        batch, wanted = len(merged.lse), self.work.wanted
        parts = {name: getattr(spans, name).unflatten(0, (batch, self.each)) for name in FIELDS}
        gap = (parts["lse"] - merged.lse[:, None]) + (parts["lse_rest"] - merged.lse_rest[:, None])
        # [B, U]; without any sample both are infinite
        share = torch.where(parts["lse"] > -torch.inf, gap.exp(), 0.0)
        logits, rest, rows = (parts[name].flatten(1) for name in ("top_logits", "top_rest", "top_rows"))
        top, column = largest(DoubleDouble(logits, rest), wanted.top_k)
        variance = parts["variance"]
        if wanted.mean and wanted.moments:
            variance = variance + (parts["mean"] - merged.mean[:, None]).square().sum(2)
        return replace(
            merged,
            concentration=(share.square() * parts["concentration"]).sum(1),
            entropy=(share * parts["entropy"] - torch.xlogy(share, share)).sum(1),
            variance=(share * variance).sum(1),
            top_logits=top.high,
            top_rows=rows.gather(1, column),
            top_rest=top.low,
        )

    def _means(self, spans: PosteriorState) -> PosteriorState:
        """Return log-partitions and means; all else is zero."""
        batch, wanted = len(self.work.query), self.work.wanted
        dim = self.work.rows.dim if wanted.mean else 0
        lse, rest = spans.lse.new_empty(2, batch).unbind(0)
        mean = spans.lse.new_empty(batch, dim)
        union_kernel[(batch, max(1, triton.cdiv(dim, MERGE_BLOCK)))](
            spans.lse, spans.lse_rest, spans.mean, lse, rest, mean, self.each, dim, BLOCK=MERGE_BLOCK, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
        part = PosteriorState(*[getattr(spans, name)[:batch] for name in FIELDS])
        return replace(part, lse=lse, lse_rest=rest, mean=mean if wanted.mean else part.mean)

    def _doubted(self, merged: PosteriorState) -> tuple[Shaped[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return counts of rescore lists, [B], and the log-partitions; leave queries in doubt no sample in `merged`."""
        query, law, best = self.work.query, self.law, torch.empty_like(merged.lse)
        count = merged.lse.new_empty(len(query), dtype=torch.int32)
        union_doubt_kernel[(len(query),)](
            merged.lse, merged.mean, query.point.contiguous(), query.alpha.contiguous(),
            query.inverse_variance.contiguous(), self.measures.facts, self.place, count, best, self.each,
            len(self.place), self.work.rows.dim, law.radius, law.operand_radius, law.unit, law.cut, law.query,
            law.weight, law.log_count, law.budget, BLOCK=MERGE_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return count, best

    def _again(self, rescore_list: RescoreList, best: Float64[Tensor, "B"], limits: ScanLimits) -> PosteriorState:
        """Return the states of the queries in doubt over their rows, and those of no sample for others."""
        work = self.work
        batch, dim = len(work.query), work.rows.dim
        shares = share_count(batch, limits.listed(len(work.span)), dim)
        sums, means = best.new_empty(4, shares, batch), best.new_empty(shares, batch, dim)
        rescored = Rescored.compensated(work, rescore_list, best, sums=sums, means=means)
        nothing = RunningSums.nothing(batch, dim, work.rows.device)
        state = Finish(work, QueryMeasures.empty(work.query), nothing, rescored).state()
        if not work.wanted.top_k:
            return state
        top = rescored_top(rescored, reads_values=not capturing(), limits=limits)
        return replace(state, top_logits=top.logits, top_rows=top.rows, top_rest=top.rest)


def _chosen(which: Bool[Tensor, "B"], first: PosteriorState, second: PosteriorState) -> PosteriorState:
    """Return the states of the first for the queries in `which`, and of the second for others, [B]."""
    pairs = [(getattr(first, name), getattr(second, name)) for name in FIELDS]
    return PosteriorState(*[torch.where(which if one.ndim == 1 else which[:, None], one, two) for one, two in pairs])
