"""What a screen is: something about every row whose product with a query is at least the logit of the row.

There are three kinds, values with one interface: leading coordinates (:mod:`.principal`), 8-bit codes of all
coordinates (:mod:`.codes`), and rows that are stored in 8 bits already (:mod:`.stored`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...base.arrays import Float, Int64, Shaped, Tensor
from ...base.progress import Progress
from ..common.rows import Query, Rows, Span
from .nearest import DistanceVectors
from .query_bounds import Knowledge, QueryBound, Source
from .shared_products import SharedProducts

# rows of a data set: a range, or their numbers
Place = Span | Int64[Tensor, "n"]

Thresholds = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Screen(ABC):
    """A way to bound the logits of all rows at one or more levels of detail, the cheapest first.

    thresholds: for each level the smallest alpha^2 / sigma^2 from which on it is worth trying, infinite for never; one
        row for each Knowledge of a query.
    dim: values in a row, D. widths: how many coordinates each level multiplies.
    """

    kind: ClassVar[str]
    # whether the products of a trajectory narrow its bounds
    uses_shared_products: ClassVar[bool] = True
    thresholds: Thresholds
    dim: int
    widths: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def costs(self) -> tuple[int, ...]:
        """How many coordinates of a float32 product cost as much as a product with each level."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory beyond the data."""

    @abstractmethod
    def to(self, device: torch.device) -> Screen:
        """Return the screen on `device`."""

    @abstractmethod
    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> Screen:
        """Return the screen of `rows`, where the rows of this one stand at `kept`; the centre has to be the same."""

    @abstractmethod
    def query_bound(
        self, rows: Rows, query: Query, source: Source | None = None, shared_products: SharedProducts | None = None
    ) -> QueryBound:
        """Return the coefficients of a batch of queries."""

    @abstractmethod
    def bound(self, rows: Rows, level: int, query_bound: QueryBound, place: Place, out: Float[Tensor, "n b"]) -> None:
        """Write the upper logits of the rows at `place` into `out`, up to the constants of `query_bound`."""

    @abstractmethod
    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return vectors whose distances are never larger than those of the rows."""

    @property
    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a file says of them."""


def no_thresholds(levels: int) -> Thresholds:
    """Return the reach of levels that are tried for every query."""
    return ((0.0,) * levels,) * len(Knowledge)


def chosen_rows(part: Shaped[Tensor, "N ..."], place: Place) -> Shaped[Tensor, "n ..."]:
    """Return the rows of `part` at `place`: a view of a range, a copy of others."""
    return part[place.start : place.stop] if isinstance(place, Span) else part.index_select(0, place)


def log_weights(rows: Rows, part: slice | Int64[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Return the logs of the weights of some rows, zeros where there are none."""
    if rows.log_weights is None:
        return rows.half_norms[part].float() * 0.0
    # the log of no weight at all is finite here: infinities do not survive a matrix product
    return rows.log_weights[part].clamp_min(-1e30).float()


def gaps(count: int, kept: Int64[Tensor, "n"]) -> Iterator[tuple[Span, int]]:
    """Yield the ranges of rows, of `count`, that are not in `kept`, and how many have been named so far."""
    fresh = torch.ones(count + 2, dtype=torch.int8)
    fresh[0] = fresh[-1] = 0
    fresh[kept.cpu() + 1] = 0
    edges = fresh.diff().nonzero()[:, 0].reshape(-1, 2).tolist()
    done = 0
    for start, stop in edges:
        done += stop - start
        yield Span(start, stop), done
