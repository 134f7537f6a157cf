"""Upper logits: for every row of a span a number that its logit does not exceed, from one product with a screen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...base.arrays import Float, Int64, Tensor
from ..common.rows import Query, Rows, Span
from .query_bounds import QueryBound, Source
from .screen import Screen
from .shared_products import SharedProducts

# rows whose largest upper logit stands for them until one of them turns out to matter
ROW_TILE = 64

# upper logits held at once: 28 MB, because larger blocks come fresh from the system each time and cost a fault a page;
# for many rows at least as many queries as a matrix product needs to be worth its read of the features
CHUNK_VALUES = 7 << 20
# matrix products are twice as fast for a multiple of this many queries
CHUNK_QUERIES = 32


@dataclass(frozen=True)
class UpperLogits:
    """Upper logits of a batch of queries over a span, up to -|q|^2 / 2 sigma^2, which all rows of a query share."""

    rows: Rows
    screen: Screen
    query: Query
    span: Span
    query_bound: QueryBound
    shared_products: SharedProducts | None

    @classmethod
    def of(
        cls,
        rows: Rows,
        screen: Screen,
        query: Query,
        span: Span,
        source: Source | None,
        shared_products: SharedProducts | None,
    ) -> UpperLogits:
        """Return what gives the upper logits of `query` over `span`; see :class:`QueryBound` for what it may use."""
        return cls(rows, screen, query, span, screen.query_bound(rows, query, source, shared_products), shared_products)

    @property
    def chunk(self) -> int:
        """How many queries to ask for at once."""
        fitting = CHUNK_VALUES // max(1, len(self.span))
        return max(CHUNK_QUERIES, fitting - fitting % CHUNK_QUERIES)

    def at(
        self, level: int, index: Int64[Tensor, "b"], chosen: Int64[Tensor, "n"] | None = None
    ) -> Float[Tensor, "m b"]:
        """Return upper logits of the queries in `index`, -inf where a row does not count; m is a multiple of ROW_TILE.

        chosen: rows of the data, or None for the whole span. Rows beyond the last are -inf.
        """
        query_bound = self.query_bound.take(index)
        place = self.span if chosen is None else chosen
        count = len(place)
        out = torch.empty(-(-count // ROW_TILE) * ROW_TILE, len(index), device=self.rows.device)
        self.screen.bound(self.rows, level, query_bound, place, out[:count])
        out[count:] = -torch.inf
        out += query_bound.constant.float() * (1.0 + 2.0**-21)
        if self.shared_products is not None and query_bound.shared is not None:
            out[:count].addcmul_(self.shared_products.of_rows(self.span, chosen, index), query_bound.shared.float())
        self._mask_excluded(out, index, chosen)
        return out

    def _mask_excluded(
        self, upper: Float[Tensor, "m b"], index: Int64[Tensor, "b"], chosen: Int64[Tensor, "n"] | None
    ) -> None:
        for one_range in self.query.excluded[index].unbind(1):
            for column in (one_range[:, 1] > one_range[:, 0]).nonzero()[:, 0].tolist():
                start, stop = one_range[column].tolist()
                if chosen is None:
                    first, last = max(start - self.span.start, 0), min(stop - self.span.start, len(self.span))
                    upper[first : max(last, first), column] = -torch.inf
                else:
                    inside = (chosen >= start) & (chosen < stop)
                    upper[: len(chosen), column].masked_fill_(inside, -torch.inf)
