"""Triton: the states of several spans of rows as one for each query, such as those of a union of classes; no waits.

What little noise is left of a query shows only in the mean over all of its spans: midway between samples of two classes
of a union it is on top of neither. A query in doubt, see :mod:`..rescore.doubt`, is scored anew over every row of its
spans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton

from ....base.arrays import Float64, Int64, Shaped, Tensor
from ...common.state import FIELDS, PosteriorState
from ...common.work import Work
from ..core.limits import ScanLimits
from ..operands.queries import QueryMeasures
from ..rescore.lists import RescoreList
from ..rescore.rescored import Rescored, share_count
from ..sums.law import Law
from ..sums.running_sums import RunningSums
from .finish import Finish
from .union_kernels import (
    UNION_BLOCK,
    UNION_TOP,
    union_doubt_kernel,
    union_kernel,
    union_top_kernel,
)


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
        """Return the states of the queries, [B], of those of all spans, [P]; no synchronisation.

        spans: in the order of their scan. limits: room of the rescore lists. Costs one read of the means, and one of
        all rows for queries in doubt.
        """
        batch, wanted = len(self.work.query), self.work.wanted
        dim = self.work.rows.dim if wanted.mean else 0
        facts, mean = spans.lse.new_empty(5, batch), spans.lse.new_empty(batch, dim)
        union_kernel[(batch, 1 if wanted.moments else max(1, triton.cdiv(dim, UNION_BLOCK)))](
            spans.lse, spans.lse_rest, spans.concentration, spans.entropy, spans.variance, spans.mean, self.place,
            facts, mean, self.each, batch, dim, MOMENTS=wanted.moments, BLOCK=UNION_BLOCK, num_warps=4,
            enable_fp_fusion=False,
        )  # fmt: skip
        found = PosteriorState(*[getattr(spans, name)[:batch] for name in FIELDS])
        found = replace(found, lse=facts[0], lse_rest=facts[1], mean=mean if wanted.mean else found.mean)
        if wanted.moments:
            found = replace(found, concentration=facts[2], entropy=facts[3], variance=facts[4])
        if wanted.top_k:
            found = self._with_top(spans, found)
        if wanted.mean:
            self._look_again(found, facts, limits)
        return found

    def _with_top(self, spans: PosteriorState, found: PosteriorState) -> PosteriorState:
        """Return `found` with the heaviest samples of the queries; those of a query in doubt are as sharp already."""
        batch, top = len(self.work.query), self.work.wanted.top_k
        logits, rest = spans.top_logits.new_empty(2, batch, top).unbind(0)
        rows = spans.top_rows.new_empty(batch, top)
        union_top_kernel[(batch, triton.cdiv(self.each * top, UNION_TOP))](
            spans.top_logits, spans.top_rest, spans.top_rows, self.place, logits, rest, rows, self.each, top,
            BLOCK=UNION_TOP, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip
        return replace(found, top_logits=logits, top_rest=rest, top_rows=rows)

    def _look_again(self, found: PosteriorState, facts: Float64[Tensor, "5 B"], limits: ScanLimits) -> None:
        """Replace the states of queries in doubt, whose facts and means change in place, by those over every row."""
        work, count = self.work, self._doubted(found)
        (batch, dim), device = found.mean.shape, work.rows.device
        shares = share_count(batch, limits.listed(len(work.span)), dim)
        sums, means = facts.new_empty(5, shares, batch), facts.new_empty(shares, batch, dim)
        rescore_list = RescoreList(count.new_empty(batch, 1, dtype=torch.int64), count, 1)
        rescored = Rescored.compensated(work, rescore_list, found.lse, sums=sums, means=means)
        # nothing is added in another way: what is measured of the queries for that, and summed, is not read
        nothing = RunningSums.empty(batch, dim, device)
        Finish(work, QueryMeasures.empty(work.query), nothing, rescored).write(facts, found.mean, overflowed=True)

    def _doubted(self, found: PosteriorState) -> Shaped[Tensor, "B"]:
        """Return the counts of rescore lists, [B], which say of which queries every row is rescored."""
        query = self.work.query
        count = found.lse.new_empty(len(query), dtype=torch.int32)
        union_doubt_kernel[(len(query),)](
            found.lse, found.mean, query.point.contiguous(), query.alpha.contiguous(),
            query.inverse_variance.contiguous(), self.measures.facts, self.place, count, self.each, len(self.place),
            self.work.rows.dim, *self.law.of_loss, BLOCK=UNION_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
        return count
