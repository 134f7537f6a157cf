"""The query side of a screen: coefficients whose product with the features of a row is at least its logit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import torch

from ...base.arrays import Bool, Float64, Int64, Tensor
from ..common.rounding import UNIT_ROUNDOFF, WALK
from ..common.rows import Query, Rows
from .shared_products import SharedProducts

# probability, over the noise of a query whose source is known, that a bound which uses it does not hold
BOUND_FAILURE = 1e-6

# rows whose average tells which of two bounds is the smaller
TYPICAL_ROWS = 1024

# norms are stored a little larger than they are: a few float32 roundings
UPWARD = 1.0 + 2.0**-21


class Knowledge(IntEnum):
    """What narrows the bounds of a query: nothing, the row it was made from, or the point its trajectory began at."""

    NOTHING = 0
    SOURCE = 1
    TRAJECTORY = 2


@dataclass(frozen=True)
class Source:
    """The row every query was made from, x = alpha X + noise with Gaussian noise independent of the data.

    row: [B], -1 for unknown. blur: norm of what rounding added to the query, [B]; it is not noise.
    failure: probability, over that noise, that any bound of a query fails.
    """

    row: Int64[Tensor, "B"]
    blur: Float64[Tensor, "B"]
    failure: float

    def take(self, index: Int64[Tensor, "b"]) -> Source:
        """Return the sources of the queries in `index`."""
        return Source(self.row[index], self.blur[index], self.failure)


@dataclass(frozen=True)
class QueryBound:
    """Coefficients of a batch of queries, in nats; upper logits lack the term -|q|^2 / 2 sigma^2 of every sample.

    head: gain times what multiplies the compressed rows, [B, M].
    blocks: gain times what bounds the product of a unit vector of each block with the query, [B, e].
    spread: the same for a unit vector anywhere in what the compressed rows leave out, [B].
    fall, constant: minus the factor of |z|^2 / 2, and what rounding may hide, [B].
    shared: factor of the products of a carry, [B], or None.
    knowledge: what is known that may narrow the bounds, values of Knowledge, [B].
    """

    head: Float64[Tensor, "B M"]
    blocks: Float64[Tensor, "B e"]
    spread: Float64[Tensor, "B"]
    fall: Float64[Tensor, "B"]
    constant: Float64[Tensor, "B"]
    shared: Float64[Tensor, "B"] | None
    knowledge: Int64[Tensor, "B"]

    def take(self, index: Int64[Tensor, "b"] | Bool[Tensor, "B"]) -> QueryBound:
        """Return the coefficients of the queries in `index`."""
        return QueryBound(
            head=self.head[index],
            blocks=self.blocks[index],
            spread=self.spread[index],
            fall=self.fall[index],
            constant=self.constant[index],
            shared=None if self.shared is None else self.shared[index],
            knowledge=self.knowledge[index],
        )

    def bounds(self, skipped: int = 0) -> Float64[Tensor, "B _"]:
        """Return the factors of the norms of the blocks from `skipped` on, and of the norm of all, rounded up."""
        return torch.cat([self.blocks[:, skipped:], self.spread[:, None]], dim=1) * UPWARD

    def tail(self, weighted: bool) -> list[Float64[Tensor, "B 1"]]:
        """Return the factors of |z|^2 / 2 and, where rows have weights, of their logs."""
        return [-self.fall[:, None]] + ([torch.ones_like(self.fall)[:, None]] if weighted else [])


@dataclass(frozen=True)
class Split:
    """A batch of queries as a screen sees it: what it multiplies and what it only bounds.

    point: what a carry does not know of the queries, [B, D]; shared: how much of its point is in them, [B], or None.
    head: what multiplies the compressed rows, [B, M]. blocks: norms of what bounds the rest in each block, [B, e].
    """

    point: Float64[Tensor, "B D"]
    shared: Float64[Tensor, "B"] | None
    head: Float64[Tensor, "B M"]
    blocks: Float64[Tensor, "B e"]


@dataclass(frozen=True)
class Known:
    """What a screen knows of the products of a source with what it leaves out of the other rows.

    own: alpha times norms that bound them in each block, [B, e]. norms, rest: those of a typical row, [e] and [].
    tests: how many Gaussian products a query is bounded by at once.
    """

    own: Float64[Tensor, "B e"]
    norms: Float64[Tensor, "e"]
    rest: Float64[Tensor, ""]
    tests: int


def make_query_bound(
    rows: Rows, query: Query, split: Split, rounding: Float64[Tensor, "B"], with_shared: bool
) -> QueryBound:
    """Return the coefficients of a batch of queries; the bounds hold always. rounding: in units of the products."""
    gain = query.gain
    knowledge = Knowledge.TRAJECTORY if with_shared else Knowledge.NOTHING
    return QueryBound(
        head=gain[:, None] * split.head,
        blocks=gain[:, None] * split.blocks,
        spread=torch.zeros_like(gain),
        fall=gain * query.alpha,
        constant=gain * rounding + _weight_rounding(rows),
        shared=None if split.shared is None else gain * split.shared,
        knowledge=torch.full_like(gain, knowledge, dtype=torch.int64),
    )


def with_source(query_bound: QueryBound, query: Query, source: Source, known: Known) -> QueryBound:
    """Return the coefficients of queries that know their sources, where that makes the bound of a typical row smaller.

    |y_b| |e_b| becomes alpha |s_b| |e_b| + sigma |e| sqrt(2 ln(tests / failure)), s the source: the noise is
    independent of every row, so its product with what is left out of one is Gaussian, and the union bound covers all.
    """
    gain = query.gain
    tall = math.sqrt(2.0 * math.log(known.tests / source.failure))
    noise = gain * (query.inverse_variance.rsqrt() * tall + source.blur)
    own = gain[:, None] * known.own
    # for short rows the tail of the noise may be longer than all of it
    tighter: Bool[Tensor, "B"] = own @ known.norms + noise * known.rest < query_bound.blocks @ known.norms
    given = source.row >= 0
    use = given & tighter
    return replace(
        query_bound,
        blocks=torch.where(use[:, None], own, query_bound.blocks),
        spread=torch.where(use, noise, query_bound.spread),
        # what the level proves of them was measured with sources, whichever bound they took
        knowledge=torch.where(given, Knowledge.SOURCE, query_bound.knowledge),
    )


def product_slack(
    rows: Rows, query: Query, point: Float64[Tensor, "B D"], terms: int, radius: float
) -> Float64[Tensor, "B"]:
    """Return what float32 may hide of <y, z> - alpha |z|^2 / 2, [B], from sums of `terms` products.

    radius: norm of the largest operand that the query is multiplied with.
    """
    size = torch.linalg.vector_norm(point, dim=1) * radius + query.alpha * rows.radius**2
    error: Tensor = WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(terms) + 2.0) * size
    return error


def shared_slack(rows: Rows, shared_products: SharedProducts, shared: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return what float32 may hide of the products of a carry, [B]."""
    known = torch.linalg.vector_norm(shared_products.point, dim=1) * rows.operand_radius
    error: Tensor = WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(rows.dim) + 2.0) * shared.abs() * known
    return error


def _weight_rounding(rows: Rows) -> float:
    if rows.log_weights is None:
        return 0.0
    return WALK * UNIT_ROUNDOFF[torch.float32] * float(rows.log_weights[rows.log_weights > -torch.inf].abs().max())
