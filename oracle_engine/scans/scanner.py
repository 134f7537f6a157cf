"""What a backend computes over rows, wherever they are: those in memory as they are, others block after block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..base.arrays import Float64, Tensor
from ..base.outside.rows import OutsideRows
from ..kernels import Directions, PosteriorState, Rows, SegmentWork, Span, Work
from .blocks import (
    BlockScan,
    CovarianceProduct,
    ProductScan,
    ScanState,
    SegmentsScan,
    SegmentState,
    SpanScan,
    in_one_pass,
)


@dataclass(frozen=True)
class Scanner:
    """Scans of rows by one backend in one precision.

    span: computes the state of a span of rows in memory. segments: the states over several. product: multiplies changes
    of logits with the rows of one.
    """

    span: ScanState
    segments: SegmentState
    product: CovarianceProduct

    def state(self, work: Work | SegmentWork) -> PosteriorState:
        """Return the states of the queries of `work`, [B]. Costs one read of its rows."""
        if isinstance(work.rows.stored, OutsideRows):
            return in_one_pass(work.rows, [self._scan(work)])[0]
        return self.segments(work) if isinstance(work, SegmentWork) else self.span(work)

    def states(self, rows: Rows, works: Iterable[Work | SegmentWork]) -> list[PosteriorState]:
        """Return the states of several works over `rows`, which are read once where they stay outside."""
        if isinstance(rows.stored, OutsideRows):
            return in_one_pass(rows, [self._scan(work) for work in works])
        return [self.state(work) for work in works]

    def products(self, rows: Rows, works: Sequence[tuple[Directions, Span]]) -> list[Float64[Tensor, "B D"]]:
        """Return the covariance products of changes of logits over spans of `rows`, read as for :meth:`states`."""
        if isinstance(rows.stored, OutsideRows):
            return in_one_pass(rows, [ProductScan(*work, self.product) for work in works])
        return [self.product(rows, *work) for work in works]

    def _scan(self, work: Work | SegmentWork) -> BlockScan[PosteriorState]:
        if isinstance(work, SegmentWork):
            return SegmentsScan(work, self.segments)
        return SpanScan(work, self.span)
