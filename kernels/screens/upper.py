"""Upper logits: for every row of a span a number that its logit does not exceed, from one product with a screen."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...arrays import Float, Int64, Tensor
from ..rows import Query, Rows, Span
from .carry import Carry
from .probe import Probe, Source
from .screen import Screen

# rows whose largest upper logit stands for them until one of them turns out to matter
TILE = 64

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
    probe: Probe
    carry: Carry | None

    @classmethod
    def of(
        cls, rows: Rows, screen: Screen, query: Query, span: Span, source: Source | None, carry: Carry | None
    ) -> UpperLogits:
        """Return what gives the upper logits of `query` over `span`; see :class:`Probe` for what it may use."""
        return cls(rows, screen, query, span, screen.probe(rows, query, source, carry), carry)

    @property
    def chunk(self) -> int:
        """How many queries to ask for at once."""
        fitting = CHUNK_VALUES // max(1, len(self.span))
        return max(CHUNK_QUERIES, fitting - fitting % CHUNK_QUERIES)

    def at(
        self, level: int, index: Int64[Tensor, "b"], chosen: Int64[Tensor, "n"] | None = None
    ) -> Float[Tensor, "m b"]:
        """Return upper logits of the queries in `index`, -inf where a row does not count; m is a multiple of TILE.

        chosen: rows of the data, or None for the whole span. Rows beyond the last are -inf.
        """
        probe = self.probe.take(index)
        place = self.span if chosen is None else chosen
        count = len(place)
        out = torch.empty(-(-count // TILE) * TILE, len(index), device=self.rows.device)
        self.screen.bound(self.rows, level, probe, place, out[:count])
        out[count:] = -torch.inf
        out += probe.constant.float() * (1.0 + 2.0**-21)
        if self.carry is not None and probe.shared is not None:
            out[:count].addcmul_(self.carry.of_rows(self.span, chosen, index), probe.shared.float())
        self._cut_holes(out, index, chosen)
        return out

    def _cut_holes(
        self, upper: Float[Tensor, "m b"], index: Int64[Tensor, "b"], chosen: Int64[Tensor, "n"] | None
    ) -> None:
        for hole in self.query.holes[index].unbind(1):
            for column in (hole[:, 1] > hole[:, 0]).nonzero()[:, 0].tolist():
                start, stop = hole[column].tolist()
                if chosen is None:
                    first, last = max(start - self.span.start, 0), min(stop - self.span.start, len(self.span))
                    upper[first : max(last, first), column] = -torch.inf
                else:
                    inside = (chosen >= start) & (chosen < stop)
                    upper[: len(chosen), column].masked_fill_(inside, -torch.inf)
