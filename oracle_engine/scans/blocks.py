"""Scans of rows that stay in files: block after block in the order of the files, and the states merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import reduce, wraps

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.file_blocks import blocks
from ..base.file_rows import FileRows
from ..kernels import Directions, PosteriorState, Query, Rows, SegmentWork, Span, Work, merge

# what computes the state of a span of rows
ScanState = Callable[[Work], PosteriorState]

# what computes the states over several spans for each query
SegmentState = Callable[[SegmentWork], PosteriorState]

# what multiplies changes of logits with the rows of a span
CovarianceProduct = Callable[[Rows, Directions, Span], Float64[Tensor, "B D"]]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some of the rows, in memory, in the order in which they are among all.

    rows: these. index: which of all rows they are, [n] int64, rising.
    """

    rows: Rows
    index: Int64[Tensor, "n"]

    def ranges(self, ranges: Int64[Tensor, "... 2"]) -> Int64[Tensor, "... 2"]:
        """Return what ranges of all rows are here; rows rise, so that a range of all is a range of these."""
        return torch.searchsorted(self.index, ranges.contiguous())

    def span(self, span: Span) -> Span:
        """Return what a span of all rows is here."""
        return Span(*self.ranges(torch.tensor([span.start, span.stop])).tolist())

    def query(self, query: Query) -> Query:
        """Return queries of all rows as queries of these."""
        return query.excluding(self.ranges(query.excluded))

    def state(self, state: PosteriorState) -> PosteriorState:
        """Return a state over these rows as one over some of all: its heaviest samples are named as there."""
        rows = torch.where(state.top_rows < 0, -1, self.index[state.top_rows.clamp_min(0)])
        return replace(state, top_rows=rows)


def row_blocks(rows: Rows, spans: Int64[Tensor, "S 2"]) -> Iterator[RowBlock]:
    """Yield the rows in some spans, [S, 2], whose samples stay in files, as blocks in memory.

    Each is to be used before the next one is asked for. Costs one read of the files, at most.
    """
    if not isinstance(rows.stored, FileRows):
        raise AssertionError("rows in memory are scanned as they are")
    for block in blocks(rows.stored, spans):
        index, weights = block.index, rows.log_weights
        log_weights = None if weights is None else weights[index]
        some = replace(rows, stored=block.values, half_norms=rows.half_norms[index], log_weights=log_weights)
        yield RowBlock(some, index)


def block_by_block(state: ScanState) -> ScanState:
    """Return what scans a span by `state`, and one of rows that stay in files block after block."""

    @wraps(state)
    def scan(work: Work) -> PosteriorState:
        if not isinstance(work.rows.stored, FileRows) or _is_empty(work.query, work.span):
            return state(work)
        wanted = replace(work.wanted, mergeable=True)
        parts = (
            block.state(state(Work(block.rows, block.query(work.query), block.span(work.span), wanted)))
            for block in row_blocks(work.rows, torch.tensor([[work.span.start, work.span.stop]]))
        )
        return reduce(merge, parts)

    return scan


def segments_block_by_block(state: SegmentState) -> SegmentState:
    """Return what scans several spans by `state`, and those of rows that stay in files block after block."""

    @wraps(state)
    def scan(work: SegmentWork) -> PosteriorState:
        if not isinstance(work.rows.stored, FileRows):
            return state(work)
        wanted = replace(work.wanted, mergeable=True)
        total = work.nothing()
        for block in row_blocks(work.rows, work.spans.unique(dim=0)):
            spans = block.ranges(work.spans)
            some = spans[:, 0] < spans[:, 1]
            part = SegmentWork(block.rows, block.query(work.query), work.pairs[some], spans[some], wanted)
            total = merge(total, block.state(state(part)))
        return total

    return scan


def product_block_by_block(product: CovarianceProduct) -> CovarianceProduct:
    """Return what computes a covariance product over a span by `product`, block after block where rows are in files."""

    @wraps(product)
    def scan(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
        if not isinstance(rows.stored, FileRows) or _is_empty(directions.query, span):
            return product(rows, directions, span)
        parts = (
            product(block.rows, replace(directions, query=block.query(directions.query)), block.span(span))
            for block in row_blocks(rows, torch.tensor([[span.start, span.stop]]))
        )
        return sum(parts, torch.zeros_like(directions.mean))

    return scan


def _is_empty(query: Query, span: Span) -> bool:
    return len(query) == 0 or len(span) == 0
