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

    rows, query: the samples and B queries. pairs: the query of each pair, [P], in rising order; a query may be in none.
    spans: the rows [start, stop) of each pair, [P, 2]; those of one query are disjoint, in rising order. each: how many
    pairs every query has, as far as is known without a look at them, or None; where it is more than one, some may have
    a span of no row. longest: rows that no span has more of but those of all rows, and distinct: how many different
    spans there may be but those and empty ones; both as far as is known without a look at them, or None.
    """

    rows: Rows
    query: Query
    pairs: Int64[Tensor, "P"]
    spans: Int64[Tensor, "P 2"]
    wanted: Wanted = Wanted()  # noqa: RUF009  a frozen value
    each: int | None = None
    longest: int | None = None
    distinct: int | None = None

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
        some, numbers = self.some(), torch.arange(len(index), device=index.device)
        place = torch.full((len(self.query),), -1, device=index.device).index_copy_(0, index, numbers)
        kept = place[some.pairs] >= 0
        pairs, spans = place[some.pairs[kept]], some.spans[kept]
        return replace(some, query=self.query.take(index), pairs=pairs, spans=spans, each=None)

    def some(self) -> SegmentWork:
        """Return the work without pairs of no row, where there may be any; the host waits for how many there are."""
        if self.each is None or self.each == 1:
            return self
        kept = (self.spans[:, 1] > self.spans[:, 0]).nonzero()[:, 0]
        return replace(self, pairs=self.pairs[kept], spans=self.spans[kept], each=None, longest=None, distinct=None)

    def even(self) -> SegmentWork:
        """Return the work with as many pairs of every query, `each`, some of no row, and the `longest` span.

        The host waits for how many these are, where they are not known.
        """
        if self.each is not None and self.longest is not None:
            return self
        lengths = self.spans[:, 1] - self.spans[:, 0]
        longest = lengths.masked_fill(lengths == len(self.rows), 0).max()
        if self.each is not None:
            return replace(self, longest=int(longest))
        # pairs come in the order of their queries
        rank = torch.arange(len(self.pairs), device=self.pairs.device) - torch.searchsorted(self.pairs, self.pairs)
        longest, last = torch.stack([longest, rank.max()]).tolist()
        # behind those of a query, so that they rise
        spans = torch.full((len(self.query), last + 1, 2), len(self.rows), device=rank.device)
        spans[self.pairs, rank] = self.spans
        pairs = torch.arange(len(self.query), device=rank.device).repeat_interleave(last + 1)
        return replace(self, pairs=pairs, spans=spans.flatten(0, 1), each=last + 1, longest=longest)

    def in_one(self, spans: Int64[Tensor, "B U 2"]) -> Work:
        """Return the work as one over all rows, of which each query leaves out those in none of its `spans`."""
        excluded, others = self.query.excluded, outside(spans, len(self.rows))
        excluded = others if excluded.shape[1] == 0 else torch.cat([excluded, others], dim=1)
        return Work(self.rows, self.query.excluding(excluded), Span(0, len(self.rows)), self.wanted)

    def nothing(self) -> PosteriorState:
        """Return the states of no sample at all, one for each query."""
        return PosteriorState.empty(len(self.query), self.rows.dim, self.wanted.top_k, self.rows.device)


def outside(ranges: Int64[Tensor, "B U 2"], count: int) -> Int64[Tensor, "B V 2"]:
    """Return the ranges of rows before, between and behind `ranges`, [B, U + 1, 2]; count: of all rows."""
    ends = torch.nn.functional.pad(ranges.reshape(len(ranges), -1), (1, 1))
    ends[:, -1].fill_(count)
    return ends.reshape(len(ranges), -1, 2)


def span_by_span(work: SegmentWork, state: Callable[[Work], PosteriorState]) -> PosteriorState:
    """Return the states of the queries of `work`, [B], from those over one span after the other.

    state: what scans a span. Costs its overhead for every span.
    """
    # states of spans merge with each other
    work = replace(work.some(), wanted=replace(work.wanted, mergeable=True))
    total = work.nothing()
    for index, part in work.over_spans():
        found = state(part)
        if len(work.pairs) == len(index) == len(work.query):
            return total.put(index, found)
        total = total.put(index, merge(total.take(index), found))
    return total
