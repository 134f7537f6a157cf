"""Scans of several spans of rows at once, each for the queries that ask about it: classes and unions of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Int64, Tensor
from .rows import Query, Rows, Span
from .state import PosteriorState, Wanted, merge
from .work import Work


@dataclass(frozen=True)
class SegmentWork:
    """Pairs of a query and a span of rows, and what is wanted of the posterior of each query over its spans together.

    rows, query: the samples and B queries. pairs: the query of each pair, [P]; a query may be in none. spans: the rows
    [start, stop) of each pair, [P, 2]; those of one query are disjoint. one_each: whether it is known without a look at
    them that the pairs are those of the queries one after the other. longest: rows that no span has more of but
    those of all rows, as far as is known without a look at them, or None.
    """

    rows: Rows
    query: Query
    pairs: Int64[Tensor, "P"]
    spans: Int64[Tensor, "P 2"]
    wanted: Wanted = Wanted()  # noqa: RUF009  a frozen value
    one_each: bool = False
    longest: int | None = None

    def grouped(self) -> tuple[Int64[Tensor, "P"], Int64[Tensor, "G"]]:
        """Return the order, [P], that brings pairs of equal spans together by rising rows, and the sizes of groups."""
        names, order = (self.spans[:, 0] * (len(self.rows) + 1) + self.spans[:, 1]).sort(stable=True)
        sizes: Int64[Tensor, "G"] = names.unique_consecutive(return_counts=True)[1]
        return order, sizes

    def over_spans(self) -> Iterator[tuple[Int64[Tensor, "b"], Work]]:
        """Yield the numbers of the queries that ask about a span, and the work that is, for each of the spans."""
        order, sizes = self.grouped()
        for group in order.split(sizes.tolist()):
            index = self.pairs[group]
            yield index, Work(self.rows, self.query.take(index), Span(*self.spans[group[0]].tolist()), self.wanted)

    def take(self, index: Int64[Tensor, "b"]) -> SegmentWork:
        """Return the work of the queries in `index`, in which each stands once at most."""
        place = torch.full((len(self.query),), -1, device=index.device).index_copy_(
            0, index, torch.arange(len(index), device=index.device)
        )
        kept = place[self.pairs] >= 0
        pairs, spans = place[self.pairs[kept]], self.spans[kept]
        return replace(self, query=self.query.take(index), pairs=pairs, spans=spans, one_each=False)

    def nothing(self) -> PosteriorState:
        """Return the states of no sample at all, one for each query."""
        return PosteriorState.empty(len(self.query), self.rows.dim, self.wanted.top_k, self.rows.device)


def span_by_span(work: SegmentWork, state: Callable[[Work], PosteriorState]) -> PosteriorState:
    """Return the states of the queries of `work`, [B], from those over one span after the other.

    state: what scans a span. Costs its overhead for every span.
    """
    # states of spans merge with each other
    work = replace(work, wanted=replace(work.wanted, mergeable=True))
    total = work.nothing()
    for index, part in work.over_spans():
        found = state(part)
        if len(work.pairs) == len(index) == len(work.query):
            return total.put(index, found)
        total = total.put(index, merge(total.take(index), found))
    return total
