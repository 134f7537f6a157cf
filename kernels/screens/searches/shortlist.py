"""What a search finds: an exact posterior over a few rows of each query, and a bound on the weight of all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from ....base.arrays import Bool, Float64, Int64, Shaped, Tensor
from ...common.matmul import ieee_products
from ...common.rescore import Pairs
from ...common.rounding import point_error
from ...common.rows import Query, Rows
from ...common.search import Mass
from ...common.state import PosteriorState, merge
from ...common.work import Work
from ...pairs import pairs_state
from ..bounds.upper_bounds import UpperLogits

# what rounding may lose of what logits share, and of the log-partition that it is held against, in such of a point
LOST_TWICE = 2.0


@runtime_checkable
class Allowance(Protocol):
    """The posterior mass that a search may leave out of each query of a batch."""

    def take(self, index: Int64[Tensor, "b"]) -> Allowance:
        """Return the allowance of the queries in `index`, [b] int64."""
        ...

    def __call__(self, state: PosteriorState) -> Float64[Tensor, "B"]:
        """Return the mass in [0, 1], [B] float64, given the posterior `state` over the rows that are known so far."""
        ...

    def allowed(self, batch: int, device: torch.device) -> Mass:
        """Return the same for kernels that find the states themselves, of a `batch` of so many queries on `device`."""
        ...


@dataclass(frozen=True)
class FixedAllowance:
    """The same posterior mass for every query, whatever is known of it."""

    mass: float

    def take(self, index: Int64[Tensor, "b"]) -> FixedAllowance:
        """Return the same: it does not depend on `index`."""
        return self

    def __call__(self, state: PosteriorState) -> Float64[Tensor, "B"]:
        """Return the mass for each query of `state`, [B] float64."""
        return torch.full_like(state.lse, self.mass)

    def allowed(self, batch: int, device: torch.device) -> Mass:
        """Return the mass of each of `batch` queries on `device`."""
        return Mass(torch.full((batch,), self.mass, dtype=torch.float64, device=device))


@dataclass(frozen=True)
class Shortlist:
    """What a search finds for a batch: states of the rows it rescored, and what the others hold at most.

    state: posterior over the rows that were rescored.
    log_omitted: log of a bound on the sum of the weights of all other rows, on the scale of `state.lse`, [B] float64.
    survivors: how many rows were rescored, [B] int64.
    certified: whether a query has a state and a bound, [B] bool; the others are pending, with an empty state.
    uncertified: how many these are, [1], where the errors of all answers were held against what they may be too, so
    that those with a larger one are pending; None elsewhere.
    """

    state: PosteriorState
    log_omitted: Float64[Tensor, "B"]
    survivors: Int64[Tensor, "B"]
    certified: Bool[Tensor, "B"]
    uncertified: Shaped[Tensor, "1"] | None = None

    def put(self, index: Int64[Tensor, "b"], part: Shortlist) -> Shortlist:
        """Return this with the queries in `index`, [b] int64, replaced by those of `part`."""
        return Shortlist(
            self.state.put(index, part.state),
            self.log_omitted.index_copy(0, index, part.log_omitted),
            self.survivors.index_copy(0, index, part.survivors),
            self.certified.index_copy(0, index, part.certified),
        )

    def take(self, index: Int64[Tensor, "b"]) -> Shortlist:
        """Return the part of the queries in `index`, [b] int64."""
        return Shortlist(self.state.take(index), self.log_omitted[index], self.survivors[index], self.certified[index])

    def merged(self, other: Shortlist) -> Shortlist:
        """Return the shortlist of the rows of this one and those of `other`, which are others, for the same queries."""
        return Shortlist(
            merge(self.state, other.state),
            torch.logaddexp(self.log_omitted, other.log_omitted),
            self.survivors + other.survivors,
            self.certified & other.certified,
        )

    @classmethod
    def nothing(cls, work: Work) -> Shortlist:
        """Return the shortlist of no rows at all for the queries of `work`, the neutral element of :meth:`merged`."""
        state = work.nothing()
        none = torch.zeros_like(state.lse, dtype=torch.int64)
        return cls(state, torch.full_like(state.lse, -torch.inf), none, ~none.bool())

    @classmethod
    def pending(cls, work: Work) -> Shortlist:
        """Return the shortlist of the queries of `work` where all of them are pending."""
        state = work.nothing()
        none = torch.zeros_like(state.lse, dtype=torch.int64)
        return cls(state, torch.full_like(state.lse, torch.inf), none, none.bool())

    @classmethod
    def assembled(cls, work: Work, parts: list[tuple[Int64[Tensor, "b"], Shortlist]]) -> Shortlist:
        """Return the shortlist of a batch from those of parts of it.

        work: the batch. parts: queries in rising order, [b] int64, no query twice, and their shortlist; queries in no
        part are pending.
        """
        if len(parts) == 1 and len(parts[0][0]) == len(work.query):
            return parts[0][1]
        result = cls.pending(work)
        for index, part in parts:
            result = result.put(index, part)
        return result


def strongest(upper: UpperLogits, count: int) -> Shortlist:
    """Return the rows with the largest upper logits of every query, and what the others hold at most.

    upper: upper logits of the batch. count: how many rows of each query.
    Costs one product at the widest level; memory as in :func:`screened`.
    """
    upper = upper.for_level(len(upper.screen.widths) - 1)
    with ieee_products(upper.work.rows.device.type):
        chunks = torch.arange(len(upper), device=upper.work.rows.device).split(upper.chunk)
        parts = [(index, _strongest(upper, index, count)) for index in chunks]
    return Shortlist.assembled(upper.work, parts)


def query_term(query: Query) -> Float64[Tensor, "B"]:
    """Return -|q|^2 / 2 sigma^2, [B]: what all logits of a `query` have in common and upper logits leave out."""
    return -0.5 * query.inverse_variance * query.norm.square()


def common_term(rows: Rows, query: Query) -> Float64[Tensor, "B"]:
    """Return no less than what all logits of a `query` share, [B], beside a log-partition of differences.

    Far from all of the `rows` either has lost more to rounding than what is left of it tells: up to the error of the
    point and half as much again.
    """
    return query_term(query) + LOST_TWICE * point_error(rows, query)


def _strongest(upper: UpperLogits, index: Int64[Tensor, "b"], count: int) -> Shortlist:
    if len(index) < len(upper):
        upper = upper.take(index)
    work, values = upper.work, upper.at(len(upper.screen.widths) - 1)
    best = values.topk(min(count, len(work.span)), dim=0)
    values.scatter_(0, best.indices, -torch.inf)
    query = torch.arange(len(upper), device=values.device).expand_as(best.indices)
    real = best.values > -torch.inf
    pairs = Pairs(query[real], best.indices[real] + work.span.start, best.values[real].double())
    state = pairs_state(work.rows, work.query, pairs, work.wanted)
    # sums of float32 terms
    omitted = values.logsumexp(0).double() + 1e-4 + common_term(work.rows, work.query)
    return Shortlist(state, omitted, real.sum(0), torch.ones_like(real[0]))
