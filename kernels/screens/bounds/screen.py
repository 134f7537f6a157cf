"""What a screen is: something about every row whose product with a query is at least the logit of the row.

There are three kinds, values with one interface: leading coordinates (:mod:`.pca`), 8-bit codes of all coordinates
(:mod:`.int8`), and rows that are stored in 8 bits already (:mod:`.exact8`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ....base.progress import Progress
from ...common.rows import Query, Rows, Span
from ...common.screen_terms import Terms
from ...common.search import LeadingLevel
from .costs import SearchCosts
from .nearest import DistanceVectors
from .query_bounds import (
    Knowledge,
    Projected,
    QueryBound,
    SideInformation,
    Source,
    SourceResidual,
    make_query_bound,
    shared_rounding,
    with_source,
)

# rows of a data set: a range, or their numbers
SomeRows = Span | Int64[Tensor, "n"]

Thresholds = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Screen(ABC):
    """A way to bound the logits of all rows at one or more levels of detail, the cheapest first.

    thresholds: SNR thresholds: for each level the smallest alpha^2 / sigma^2 from which on it is worth trying, infinite
        for never; one row for each Knowledge of a query.
    dim: values in a row, D.
    widths: how many coordinates each level multiplies.
    measured_costs: of a search and of a scan, measured where the screen was prepared, or None before.
    """

    kind: ClassVar[str]
    # whether the shared products of a trajectory, and known sources, narrow its bounds
    uses_shared_products: ClassVar[bool] = True
    uses_sources: ClassVar[bool] = True
    # whether the coefficients of queries are those of one level, rather than of all
    bounds_by_level: ClassVar[bool] = False
    thresholds: Thresholds
    dim: int
    widths: tuple[int, ...]
    measured_costs: SearchCosts | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def operations(self) -> tuple[int, ...]:
        """How many coordinates of a float32 product cost as much as a product with each level, where none is timed."""

    @property
    def costs(self) -> SearchCosts:
        """What a search and a scan cost: measured, or by their operations before that."""
        return self.measured_costs or SearchCosts.by_operations(self.dim, self.operations)

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory beyond the data."""

    @abstractmethod
    def to(self, device: torch.device) -> Screen:
        """Return the screen on `device`."""

    @abstractmethod
    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> Screen:
        """Return the screen of `rows`, of which those of this screen are a part; only the others are compressed.

        rows: all rows, around the centre that this screen was made with. kept: where the rows of this screen are among
        them, [n] int64. progress: called with how many of the other rows are done, and their number.
        """

    def knowledge(self, query: Query, side: SideInformation) -> Int64[Tensor, "B"]:
        """Return what is known of each of the queries that may narrow its bounds, values of Knowledge, [B].

        query: the batch. side: what is known of it.
        """
        nothing = torch.full_like(query.alpha, Knowledge.NOTHING, dtype=torch.int64)
        if side.shared_products is not None and self.uses_shared_products:
            return torch.full_like(nothing, Knowledge.TRAJECTORY)
        if side.source is None or not self.uses_sources:
            return nothing
        return nothing.masked_fill_(side.source.row >= 0, Knowledge.SOURCE)

    def query_bound(self, rows: Rows, query: Query, side: SideInformation, level: int = 0) -> QueryBound:
        """Return the coefficients of a batch of queries.

        rows: the data. query: the batch. side: what is known of it; what cannot narrow the bounds of this screen is
        ignored. level: of the screen, which counts where it `bounds_by_level`. Costs a product of the batch with the
        basis of the screen.
        """
        shared_products, source = side.shared_products, side.source
        if shared_products is not None and self.uses_shared_products:
            share, point = shared_products.split(query.point)
            projected = self._projected(rows, query, point, level)
            rounding = projected.rounding + shared_rounding(rows, shared_products, share)
            return make_query_bound(rows, query, replace(projected, rounding=rounding), share)
        query_bound = make_query_bound(rows, query, self._projected(rows, query, query.point, level))
        residual = None if source is None else self._source_residual(rows, query, source, level)
        return query_bound if source is None or residual is None else with_source(query_bound, query, source, residual)

    @abstractmethod
    def _projected(self, rows: Rows, query: Query, point: Float64[Tensor, "B D"], level: int) -> Projected:
        """Return what a level of the screen sees of `point`, the points of `query` or what is left of them."""

    def _source_residual(self, rows: Rows, query: Query, source: Source, level: int) -> SourceResidual | None:
        """Return what bounds products with the residuals of rows at a level; None where rows have none."""
        return None

    @abstractmethod
    def bound(
        self, rows: Rows, level: int, query_bound: QueryBound, place: SomeRows, *, out: Float[Tensor, "n B"]
    ) -> None:
        """Write the upper logits of some rows, less slack and shared products, into `out`, [n, B] float32.

        rows: the data. level: of the screen, the cheapest is 0. query_bound: coefficients of the batch.
        place: which rows, a range or their numbers, [n] int64. Costs a product of 2 n B w operations, w the width of
        the level.
        """

    @abstractmethod
    def terms(self, rows: Rows, level: int, query_bound: QueryBound) -> Terms | None:
        """Return what native kernels add up to the same, or None where they cannot.

        rows: the data. level: of the screen, the cheapest is 0. query_bound: coefficients of the batch.
        """

    def entry_terms(self, device: torch.device) -> tuple[Float64[Tensor, "K L"], Float64[Tensor, "C"]]:
        """Return the thresholds, [K, L], and the costs of levels on `device`, which are kept."""
        if device not in self._entry_terms:
            kept = (self.thresholds, self.costs.in_order())
            least, costs = (torch.tensor(part, dtype=torch.float64, device=device) for part in kept)
            self._entry_terms[device] = least, costs
        return self._entry_terms[device]

    @cached_property
    def _entry_terms(self) -> dict[torch.device, tuple[Float64[Tensor, "K L"], Float64[Tensor, "C"]]]:
        return {}

    @property
    def narrow_basis(self) -> Float[Tensor, "D M"] | None:
        """The directions of its coordinates in float32, or None where these are values."""
        return None

    def leading_level(self, rows: Rows, level: int) -> LeadingLevel | None:
        """Return what kernels of a card multiply coordinates of queries with; None where they do not read the screen.

        rows: the data. level: of the screen, the cheapest is 0.
        """
        return None

    @abstractmethod
    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return vectors whose distances are never larger than those of `rows`."""

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a file says of them."""


def no_thresholds(levels: int) -> Thresholds:
    """Return the SNR thresholds of so many `levels` that are tried for every query: zeros."""
    return ((0.0,) * levels,) * len(Knowledge)


def chosen_rows(part: Shaped[Tensor, "N ..."], place: SomeRows) -> Shaped[Tensor, "n ..."]:
    """Return the rows of `part`, [N, ...], at `place`: a view of a range, a copy of others."""
    return part[place.start : place.stop] if isinstance(place, Span) else part.index_select(0, place)


def log_weights(rows: Rows, part: slice | Int64[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return the logs of the weights of the rows in `part`, [n] float32, zeros where there are none."""
    if rows.log_weights is None:
        return rows.half_norms[part].float() * 0.0
    # the log of no weight at all is finite here: infinities do not survive a matrix product
    return rows.log_weights[part].clamp_min(-1e30).float()


def added_spans(count: int, kept: Int64[Tensor, "n"], progress: Progress | None) -> Iterator[Span]:
    """Yield the ranges of rows, of `count`, that are not in `kept`, [n] int64.

    progress: called once a range is done with how many rows of such ranges are, and the number of all of them.
    """
    fresh = torch.ones(count + 2, dtype=torch.int8)
    fresh[0] = fresh[-1] = 0
    fresh[kept.cpu() + 1] = 0
    edges = fresh.diff().nonzero()[:, 0].reshape(-1, 2).tolist()
    done = 0
    for start, stop in edges:
        done += stop - start
        yield Span(start, stop)
        if progress is not None:
            progress(done, count - len(kept))
