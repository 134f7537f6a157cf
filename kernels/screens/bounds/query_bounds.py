"""The query side of a screen: coefficients whose product with the features of a row is at least its logit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import torch

from ....base.arrays import Bool, Float64, Int64, Tensor
from ...common.rounding import UNIT_ROUNDOFF, WALK
from ...common.rows import Query, Rows
from ...common.screen_terms import UPWARD
from .shared_products import SharedProducts

# probability, over the noise of a query whose source is known, that a bound which uses it does not hold
BOUND_FAILURE = 1e-6

# rows whose average tells which of two bounds is the smaller
TYPICAL_ROWS = 1024


class Knowledge(IntEnum):
    """What narrows the bounds of a query: nothing, the row it was made from, or the point its trajectory began at."""

    NOTHING = 0
    SOURCE = 1
    TRAJECTORY = 2


@dataclass(frozen=True)
class Source:
    """The row every query was made from, x = alpha X + noise with Gaussian noise independent of the data.

    row: number of the row, -1 where it is unknown, [B] int64.
    blur: norm of what rounding added to the query, which is no noise, in row units, [B] float64.
    failure: probability, over that noise, that any bound of a query fails, in (0, 1).
    """

    row: Int64[Tensor, "B"]
    blur: Float64[Tensor, "B"]
    failure: float

    def take(self, index: Int64[Tensor, "b"]) -> Source:
        """Return the sources of the queries in `index`, [b] int64."""
        return Source(self.row[index], self.blur[index], self.failure)


@dataclass(frozen=True)
class SideInformation:
    """What is known of a batch of queries beyond the queries themselves; it narrows the bounds on their logits.

    source: the rows they were made from, or None where no query has a known one.
    shared_products: what the queries of a trajectory share, or None outside of one; sources do not count beside it.
    """

    source: Source | None = None
    shared_products: SharedProducts | None = None

    def take(self, index: Int64[Tensor, "b"]) -> SideInformation:
        """Return what is known of the queries in `index`, [b] int64."""
        source = None if self.source is None else self.source.take(index)
        return SideInformation(source, None if self.shared_products is None else self.shared_products.take(index))


@dataclass(frozen=True)
class QueryBound:
    """Coefficients of a batch of queries, in nats; upper logits lack the term -|q|^2 / 2 sigma^2 of every row.

    The upper logit of a row is <projection, compressed row> + <residual_gain, residual norms of its blocks> +
    whole_residual_gain * residual norm - norm_gain |z|^2 / 2 + shared_gain * shared product + slack (+ log weight).

    projection: gain alpha / sigma^2 times what multiplies the compressed rows, [B, M] float64.
    residual_gain: gain times what bounds the product of a unit vector of each block with the query, [B, e] float64.
    whole_residual_gain: the same for a unit vector anywhere in what the compressed rows leave out, [B] float64.
    norm_gain: minus the factor of |z|^2 / 2, [B] float64.
    slack: what rounding may hide, [B] float64.
    shared_gain: factor of the shared products of a trajectory, [B] float64, or None.
    knowledge: what is known that may narrow the bounds, values of Knowledge, [B] int64.
    """

    projection: Float64[Tensor, "B M"]
    residual_gain: Float64[Tensor, "B e"]
    whole_residual_gain: Float64[Tensor, "B"]
    norm_gain: Float64[Tensor, "B"]
    slack: Float64[Tensor, "B"]
    shared_gain: Float64[Tensor, "B"] | None
    knowledge: Int64[Tensor, "B"]

    def take(self, index: Int64[Tensor, "b"]) -> QueryBound:
        """Return the coefficients of the queries in `index`, [b] int64."""
        return QueryBound(
            projection=self.projection[index],
            residual_gain=self.residual_gain[index],
            whole_residual_gain=self.whole_residual_gain[index],
            norm_gain=self.norm_gain[index],
            slack=self.slack[index],
            shared_gain=None if self.shared_gain is None else self.shared_gain[index],
            knowledge=self.knowledge[index],
        )

    def feature_gains(self, weighted: bool, skipped: int = 0) -> list[Float64[Tensor, "B _"]]:
        """Return the factors of the features beside the compressed rows, in their order, as columns [B, _] float64.

        weighted: whether the logs of weights are among the features. skipped: how many of the first blocks the
        features leave out. Features are the residual norms of the blocks and of all of the row, |z|^2 / 2, and the
        log of the weight; factors of norms are rounded up.
        """
        norms = torch.cat([self.residual_gain[:, skipped:], self.whole_residual_gain[:, None]], dim=1) * UPWARD
        return [norms, -self.norm_gain[:, None]] + ([torch.ones_like(self.norm_gain)[:, None]] if weighted else [])


@dataclass(frozen=True)
class Projected:
    """A batch of points as a screen sees them: what it multiplies and what it only bounds.

    projection: what multiplies the compressed rows, [B, M] float64.
    block_norms: norms of what bounds the residuals in each block, [B, e] float64.
    rounding: what float32 may hide of the product of a point with a row, [B] float64.
    """

    projection: Float64[Tensor, "B M"]
    block_norms: Float64[Tensor, "B e"]
    rounding: Float64[Tensor, "B"]


@dataclass(frozen=True)
class SourceResidual:
    """What bounds the products of the sources of a batch with the residuals of other rows.

    block_norms: alpha times norms that bound them in each block, [B, e] float64.
    typical_block_norms, typical_norm: residual norms of a typical row, of each block, [e], and of all of it, [].
    tests: how many Gaussian products a query is bounded by at once.
    """

    block_norms: Float64[Tensor, "B e"]
    typical_block_norms: Float64[Tensor, "e"]
    typical_norm: Float64[Tensor, ""]
    tests: int


def make_query_bound(
    rows: Rows, query: Query, projected: Projected, share: Float64[Tensor, "B"] | None = None
) -> QueryBound:
    """Return the coefficients of a batch of queries whose bounds hold for every row, whatever made the queries.

    rows: the data. query: the batch. projected: what the screen sees of its points, less what is shared.
    share: how much of the point of its trajectory is in each query, [B] float64, or None outside of one.
    """
    gain = query.gain
    knowledge = Knowledge.NOTHING if share is None else Knowledge.TRAJECTORY
    return QueryBound(
        projection=gain[:, None] * projected.projection,
        residual_gain=gain[:, None] * projected.block_norms,
        whole_residual_gain=torch.zeros_like(gain),
        norm_gain=gain * query.alpha,
        slack=gain * projected.rounding + weight_rounding(rows),
        shared_gain=None if share is None else gain * share,
        knowledge=torch.full_like(gain, knowledge, dtype=torch.int64),
    )


def with_source(query_bound: QueryBound, query: Query, source: Source, residual: SourceResidual) -> QueryBound:
    """Return the coefficients of queries that know their sources, where that makes the bound of a typical row smaller.

    query_bound: coefficients that hold whatever made the queries. query: the batch. source: its sources.
    residual: of the sources, as the screen knows it.
    |y_b| |e_b| becomes alpha |s_b| |e_b| + sigma |e| sqrt(2 ln(tests / failure)), s the source: the noise is
    independent of every row, so its product with the residual of one is Gaussian, and the union bound covers all.
    """
    gain = query.gain
    deviations = noise_deviations(residual.tests, source.failure)
    noise = gain * (query.inverse_variance.rsqrt() * deviations + source.blur)
    own = gain[:, None] * residual.block_norms
    typical = residual.typical_block_norms
    # for short rows the tail of the noise may be longer than all of it
    tighter: Bool[Tensor, "B"] = own @ typical + noise * residual.typical_norm < query_bound.residual_gain @ typical
    known = source.row >= 0
    use = known & tighter
    return replace(
        query_bound,
        residual_gain=torch.where(use[:, None], own, query_bound.residual_gain),
        whole_residual_gain=torch.where(use, noise, query_bound.whole_residual_gain),
        # what the level proves of them was measured with sources, whichever bound they took
        knowledge=torch.where(known, Knowledge.SOURCE, query_bound.knowledge),
    )


def product_rounding(
    rows: Rows, query: Query, point: Float64[Tensor, "B D"], *, terms: int, radius: float
) -> Float64[Tensor, "B"]:
    """Return what float32 may hide of <y, z> - alpha |z|^2 / 2, [B] float64.

    rows: the rows z. query: the batch, for its alpha. point: the points y, [B, D] float64.
    terms: how many products are summed. radius: norm of the largest operand that a point is multiplied with.
    """
    size = torch.linalg.vector_norm(point, dim=1) * radius + query.alpha * rows.radius**2
    error: Tensor = walk_error(terms) * size
    return error


def walk_error(terms: int) -> float:
    """Return what float32 may hide of a sum of so many `terms`, relative to the norms of what it multiplies."""
    return WALK * UNIT_ROUNDOFF[torch.float32] * (math.sqrt(terms) + 2.0)


def shared_rounding(rows: Rows, shared_products: SharedProducts, share: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return what float32 may hide of the shared products of a trajectory in its queries, [B] float64.

    rows: the data. shared_products: of the points that the trajectories began at. share: how much of these is in each
    query, [B] float64.
    """
    size = torch.linalg.vector_norm(shared_products.point, dim=1) * rows.operand_radius
    error: Tensor = walk_error(rows.dim) * share.abs() * size
    return error


def weight_rounding(rows: Rows) -> float:
    """Return what float32 may hide of the logs of the weights of `rows`, which is kept with them."""
    return 0.0 if rows.log_weights is None else rows.derived("weight rounding", _weight_rounding)


def _weight_rounding(rows: Rows) -> float:
    if rows.log_weights is None:
        return 0.0
    return WALK * UNIT_ROUNDOFF[torch.float32] * float(rows.log_weights[rows.log_weights > -torch.inf].abs().max())


def noise_deviations(tests: int, failure: float) -> float:
    """Return how many deviations none of so many Gaussian products exceeds but with probability `failure`.

    tests: how many products. failure: in (0, 1).
    """
    return math.sqrt(2.0 * math.log(tests / failure))
