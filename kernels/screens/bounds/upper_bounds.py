"""Upper logits: for every row of a span a number that its logit does not exceed, from one product with a screen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ....base.arrays import Float, Int64, Tensor
from ...common.screen_terms import Shared, Terms
from ...common.work import Work
from ...native.screens import CODES, TILE, screens_apply
from .query_bounds import QueryBound, SideInformation, product_rounding, weight_rounding
from .screen import Screen
from .shared_products import SharedProducts

# rows whose largest upper logit stands for them until one of them turns out to matter
ROW_TILE = 64

# exact sums of two digits are rounded a few times
DIGIT_SUMS = 4

# upper logits held at once: 28 MB, because larger blocks come fresh from the system each time and cost a fault a page;
# for many rows at least as many queries as a matrix product needs to be worth its read of the features
CHUNK_VALUES = 7 << 20
# matrix products are twice as fast for a multiple of this many queries
CHUNK_QUERIES = 32


def chunk_of(values: int) -> int:
    """Return how many queries to ask for at once where so many `values` are held of each."""
    fitting = CHUNK_VALUES // max(1, values)
    return max(CHUNK_QUERIES, fitting - fitting % CHUNK_QUERIES)


@dataclass(frozen=True)
class UpperLogits:
    """Upper logits of a batch of queries over a span, up to -|q|^2 / 2 sigma^2, which all rows of a query share.

    work: the queries, the rows and their span. screen: of the rows. side: what is known of the queries.
    level: that the coefficients of the queries are of, where the screen has others for each.
    """

    work: Work
    screen: Screen
    side: SideInformation
    level: int = 0

    @classmethod
    def of(cls, work: Work, screen: Screen, side: SideInformation, level: int = 0) -> UpperLogits:
        """Return what gives the upper logits of the queries of `work`.

        work: queries, rows and their span. screen: of the rows. side: what is known of the queries, which narrows the
        bounds. level: that is asked for first.
        """
        return cls(work, screen, side, level)

    def __len__(self) -> int:
        return len(self.work.query)

    @cached_property
    def query_bound(self) -> QueryBound:
        """Coefficients of the queries; they cost a product of the queries with the basis of the screen."""
        return self.screen.query_bound(self.work.rows, self.work.query, self.side, self.level)

    @property
    def shared_products(self) -> SharedProducts | None:
        """Those of the trajectories of the queries, or None."""
        return self.side.shared_products

    def take(self, index: Int64[Tensor, "b"]) -> UpperLogits:
        """Return the upper logits of the queries in `index`, [b] int64."""
        part = UpperLogits(self.work.take(index), self.screen, self.side.take(index), self.level)
        if "query_bound" in vars(self):
            vars(part)["query_bound"] = self.query_bound.take(index)
        return part

    def for_level(self, level: int) -> UpperLogits:
        """Return the upper logits with coefficients of a level, the cheapest is 0."""
        if level == self.level or not self.screen.bounds_by_level:
            return self
        return replace(self, level=level)

    def terms(self, level: int) -> Terms | None:
        """Return what native kernels add up for a level, the cheapest is 0; None where none apply.

        It is kept for the next who asks.
        """
        if level not in self._terms:
            terms = self.screen.terms(self.work.rows, level, self.query_bound)
            self._terms[level] = terms if terms is not None and screens_apply(self.work, terms) else None
        return self._terms[level]

    @cached_property
    def _terms(self) -> dict[int, Terms | None]:
        """What was found for each level."""
        return {}

    def finer(self) -> Terms | None:
        """Return what native kernels add up for single rows, from the rows as they are stored; None where they cannot.

        Only rounding is bounded: upper logits of this kind are close to logits, and cost a row each.
        """
        rows, query = self.work.rows, self.work.query
        if rows.stored.dtype not in CODES:
            return None
        gain, whole = query.gain, rows.stored.dtype != torch.float32
        length, radius = (DIGIT_SUMS, 2.0 * rows.radius) if whole else (rows.dim, rows.stored_radius + rows.radius)
        slack = gain * product_rounding(rows, query, query.point, terms=length, radius=radius) + weight_rounding(rows)
        terms = Terms(
            rows.stored,
            query.point,
            slack,
            centre=rows.centre,
            radius=rows.radius,
            norm_gain=gain * query.alpha,
            unit=gain,
            common=None if whole else -gain * (query.point @ rows.centre),
        )
        return terms if screens_apply(self.work, terms) else None

    @property
    def kernel_shared(self) -> Shared | None:
        """What kernels need to know of the shared products, or None."""
        shared, gain = self.shared_products, self.query_bound.shared_gain
        return None if shared is None or gain is None else Shared(shared.products, shared.column, gain)

    @property
    def chunk(self) -> int:
        """How many queries to ask for at once."""
        return chunk_of(len(self.work.span) if self.terms(self.level) is None else len(self.work.span) // TILE)

    def at(self, level: int, chosen: Int64[Tensor, "n"] | None = None) -> Float[Tensor, "m B"]:
        """Return the upper logits of some rows, [m, B] float32, -inf where a row does not count.

        level: of the screen, the cheapest is 0. chosen: numbers of the rows, [n] int64, or None for the whole span.
        m is a multiple of ROW_TILE; rows beyond the last are -inf. Costs a product of the rows with the queries.
        """
        rows, query_bound = self.work.rows, self.query_bound
        place = self.work.span if chosen is None else chosen
        count = len(place)
        out = torch.empty(-(-count // ROW_TILE) * ROW_TILE, len(self), device=rows.device)
        self.screen.bound(rows, level, query_bound, place, out=out[:count])
        out[count:] = -torch.inf
        out += query_bound.slack.float() * (1.0 + 2.0**-21)
        if self.shared_products is not None and query_bound.shared_gain is not None:
            out[:count].addcmul_(self.shared_products.of_rows(self.work.span, chosen), query_bound.shared_gain.float())
        self._mask_excluded(out, chosen)
        return out

    def _mask_excluded(self, upper: Float[Tensor, "m B"], chosen: Int64[Tensor, "n"] | None) -> None:
        span = self.work.span
        for one_range in self.work.query.excluded.unbind(1):
            for column in (one_range[:, 1] > one_range[:, 0]).nonzero()[:, 0].tolist():
                start, stop = one_range[column].tolist()
                if chosen is None:
                    first, last = max(start - span.start, 0), min(stop - span.start, len(span))
                    upper[first : max(last, first), column] = -torch.inf
                else:
                    inside = (chosen >= start) & (chosen < stop)
                    upper[: len(chosen), column].masked_fill_(inside, -torch.inf)
