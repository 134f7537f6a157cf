"""What a scan or a search is asked: one value instead of four parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...base.arrays import Int64, Tensor
from .rows import Query, Rows, Span
from .state import PosteriorState, Wanted


@dataclass(frozen=True)
class Work:
    """Queries over the rows of a span, and what is wanted of their posteriors."""

    rows: Rows
    query: Query
    span: Span
    wanted: Wanted = Wanted()  # noqa: RUF009  a frozen value

    def take(self, index: Int64[Tensor, "b"]) -> Work:
        """Return the work of the queries in `index`."""
        return replace(self, query=self.query.take(index))

    def nothing(self) -> PosteriorState:
        """Return the states of no sample at all, one for each query: the neutral element of `merge`."""
        return PosteriorState.empty(len(self.query), self.rows.dim, self.wanted.top_k, self.rows.device)
