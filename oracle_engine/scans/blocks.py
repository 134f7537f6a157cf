"""Scans of rows that stay outside: block after block in the order of the files, and the states merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.outside.blocks import shared_blocks
from ..base.outside.rows import OutsideRows
from ..kernels import Directions, PosteriorState, Query, Rows, SegmentWork, Span, Work, merge

# what computes the state of a span of rows
ScanState = Callable[[Work], PosteriorState]

# what computes the states over several spans for each query
SegmentState = Callable[[SegmentWork], PosteriorState]

# what multiplies changes of logits with the rows of a span
CovarianceProduct = Callable[[Rows, Directions, Span], Float64[Tensor, "B D"]]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Some of the rows, where they are scanned, in the order in which they are among all.

    rows: these. index: which of all rows they are, [n] int64, rising. numbers: the same on the host.
    """

    rows: Rows
    index: Int64[Tensor, "n"]
    numbers: Int64[Tensor, "n"]

    def ranges(self, ranges: Int64[Tensor, "... 2"]) -> Int64[Tensor, "... 2"]:
        """Return what ranges of all rows are here; rows rise, so that a range of all is a range of these."""
        return torch.searchsorted(self.index, ranges.contiguous())

    def span(self, span: Span) -> Span:
        """Return what a span of all rows is here."""
        return Span(*torch.searchsorted(self.numbers, torch.tensor([span.start, span.stop])).tolist())

    def query(self, query: Query) -> Query:
        """Return queries of all rows as queries of these."""
        return query.excluding(self.ranges(query.excluded))

    def state(self, state: PosteriorState) -> PosteriorState:
        """Return a state over these rows as one over some of all: its heaviest samples are named as there."""
        rows = torch.where(state.top_rows < 0, -1, self.index[state.top_rows.clamp_min(0)])
        return replace(state, top_rows=rows)


@contextmanager
def row_blocks(rows: Rows, spans: Int64[Tensor, "S 2"]) -> Iterator[Iterator[RowBlock]]:
    """Give the rows in some spans, [S, 2], which stay outside, and perhaps others, as blocks where they are scanned.

    Each is to be used before the next one is asked for. Costs one read of the files, at most.
    """
    if not isinstance(rows.stored, OutsideRows):
        raise AssertionError("rows in memory are scanned as they are")
    with shared_blocks(rows.stored, spans) as blocks:
        yield (_row_block(rows, block.index, block.numbers, block.values) for block in blocks)


def _row_block(rows: Rows, index: Tensor, numbers: Tensor, values: Tensor) -> RowBlock:
    weights = None if rows.log_weights is None else rows.log_weights[index]
    return RowBlock(
        replace(rows, stored=values, half_norms=rows.half_norms[index], log_weights=weights), index, numbers
    )


@runtime_checkable
class BlockScan(Protocol[T_co]):
    """A scan that takes the blocks of a pass one by one."""

    @property
    def spans(self) -> Int64[Tensor, "S 2"]:
        """The ranges of rows that it needs, [S, 2]."""
        ...

    def add(self, block: RowBlock) -> None:
        """Scan a block, which may hold rows that are not needed."""
        ...

    def found(self) -> T_co:
        """Return what all blocks together come to."""
        ...


def in_one_pass(rows: Rows, scans: Sequence[BlockScan[T_co]]) -> list[T_co]:
    """Return what several scans of rows that stay outside find. Costs one read of the rows that some scan needs."""
    spans = torch.cat([scan.spans for scan in scans])
    if len(spans):
        with row_blocks(rows, spans) as blocks:
            for block in blocks:
                for scan in scans:
                    scan.add(block)
    return [scan.found() for scan in scans]


class _Merged:
    """States of blocks, merged as they come."""

    def __init__(self, work: Work | SegmentWork) -> None:
        self.wanted = replace(work.wanted, mergeable=True)
        self.total: PosteriorState | None = None
        self.nothing = work.nothing

    def add(self, state: PosteriorState) -> None:
        """Merge one more state."""
        self.total = state if self.total is None else merge(self.total, state, self.wanted)

    def found(self) -> PosteriorState:
        """Return the state of all, which is empty where none was added."""
        return self.nothing() if self.total is None else self.total


class SpanScan:
    """Scans the span of `work` by `state`."""

    def __init__(self, work: Work, state: ScanState) -> None:
        self.work, self.state, self.merged = work, state, _Merged(work)

    @property
    def spans(self) -> Int64[Tensor, "S 2"]:
        """Its span, [1, 2]; none where there is no query."""
        span = self.work.span
        return torch.tensor([[span.start, span.stop]])[: int(len(self.work.query) > 0 and len(span) > 0)]

    def add(self, block: RowBlock) -> None:
        """Scan what a block holds of the span."""
        span = block.span(self.work.span)
        if len(span):
            work = Work(block.rows, block.query(self.work.query), span, self.merged.wanted)
            self.merged.add(block.state(self.state(work)))

    def found(self) -> PosteriorState:
        """Return the states over the span."""
        return self.merged.found()


class SegmentsScan:
    """Scans the spans of `work` by `state`."""

    def __init__(self, work: SegmentWork, state: SegmentState) -> None:
        self.work, self.state, self.merged = work.some(), state, _Merged(work)
        self.spans = self.work.spans.unique(dim=0).cpu()

    def add(self, block: RowBlock) -> None:
        """Scan what a block holds of the spans."""
        spans = block.ranges(self.work.spans)
        some = spans[:, 0] < spans[:, 1]
        pairs = self.work.pairs[some]
        if len(pairs):
            part = SegmentWork(block.rows, block.query(self.work.query), pairs, spans[some], self.merged.wanted)
            self.merged.add(block.state(self.state(part)))

    def found(self) -> PosteriorState:
        """Return the states over the spans."""
        return self.merged.found()


class ProductScan:
    """Multiplies the changes `directions` of logits with the rows of a span by `product`."""

    def __init__(self, directions: Directions, span: Span, product: CovarianceProduct) -> None:
        self.directions, self.span, self.product = directions, span, product
        self.total = torch.zeros_like(directions.mean)

    @property
    def spans(self) -> Int64[Tensor, "S 2"]:
        """Its span, [1, 2]; none where there is no query."""
        some = len(self.directions) > 0 and len(self.span) > 0
        return torch.tensor([[self.span.start, self.span.stop]])[: int(some)]

    def add(self, block: RowBlock) -> None:
        """Add what a block holds of the span."""
        span = block.span(self.span)
        if len(span):
            directions = replace(self.directions, query=block.query(self.directions.query))
            self.total = self.total + self.product(block.rows, directions, span)

    def found(self) -> Float64[Tensor, "B D"]:
        """Return the products."""
        return self.total
