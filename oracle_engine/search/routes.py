"""The late route: answers from the few samples that can matter, with a bound on what the others could change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..base.arrays import Bool, Float, Float64, Int64, Tensor
from ..data.dataset import OracleDataset
from ..kernels import Pairs, PosteriorState, Query, Wanted, merge, pairs_state
from ..kernels.screens import PrincipalScreen, Sampled, SharedProducts, Shortlist, sampled_state, source_log_omitted
from ..paths.paths import Prediction
from ..queries.answer import Answer, Route
from ..queries.classes import scan_tasks
from ..queries.modes import Budget
from ..queries.request import Request
from .certificate import allowance, farthest, largest_allowance, omitted_mass, relative_error
from .search import Ask, Search


@dataclass(frozen=True)
class LateRoute:
    """Searches over `data` for queries that few samples can matter to."""

    data: OracleDataset
    point_std: float
    search: Search
    route: Route

    def certified(
        self,
        request: Request,
        wanted: Wanted,
        tolerance: Float64[Tensor, "B"],
        shared_products: SharedProducts | None = None,
    ) -> tuple[Answer, Bool[Tensor, "B"]]:
        """Return answers whose velocity errors are proved to be within `tolerance`, and which queries have one."""
        query = request.query(self.data, self.point_std)

        def allowed(index: Int64[Tensor, "b"], state: PosteriorState) -> Float64[Tensor, "b"]:
            return allowance(self._prediction(request.take(index), state), farthest(self.data, state), tolerance[index])

        def find(ask: Ask, index: Int64[Tensor, "b"]) -> Shortlist:
            return self.search.within(self.data.rows, ask, lambda part, state: allowed(index[part], state))

        found = self._by_tasks(request, query, wanted, shared_products, find)
        return Answer.listed(found, self.route, request.source >= 0), self._proved(request, wanted, tolerance, found)

    def _proved(
        self, request: Request, wanted: Wanted, tolerance: Float64[Tensor, "B"], found: Shortlist
    ) -> Bool[Tensor, "B"]:
        # a shortlist without any weight proves nothing
        certified = found.certified & (found.state.lse > -torch.inf)
        if not wanted.mean:
            return certified
        # the velocity aimed with may have been larger than the final one is
        error = omitted_mass(found.state, found.log_omitted) * farthest(self.data, found.state)
        return certified & (relative_error(self._prediction(request, found.state), error) <= tolerance)

    def top(self, request: Request, wanted: Wanted, count: int) -> Answer:
        """Return answers from the `count` most promising samples of each query and class."""
        query = request.query(self.data, self.point_std)
        found = self._by_tasks(
            request, query, wanted, None, lambda ask, index: self.search.top(self.data.rows, ask, count)
        )
        return Answer.listed(found, self.route, request.source >= 0)

    def _by_tasks(
        self,
        request: Request,
        query: Query,
        wanted: Wanted,
        shared_products: SharedProducts | None,
        find: Callable[[Ask, Int64[Tensor, "b"]], Shortlist],
    ) -> Shortlist:
        everyone = torch.arange(len(query), device=self.data.device)
        source = request.known_source(self.data)
        total = Shortlist.nothing(len(query), self.data.dim, wanted.top_k, self.data.device)
        for task in scan_tasks(request.labels, self.data.segments, len(self.data), everyone):
            index = task.query
            known = None if shared_products is None else shared_products.take(index)
            ask = Ask(query.take(index), task.span, wanted, source.take(index), known)
            total = total.put(index, total.take(index).joined(find(ask, index)))
        return total

    def _prediction(self, request: Request, state: PosteriorState) -> Prediction:
        values = self.data.value_map.scale * state.mean + self.data.base
        return Prediction(request.x, values, request.at, self.point_std)


@dataclass(frozen=True)
class SourceRoute:
    """Answers that are the sample a query was made from, without a look at any other.

    distances: to the nearest other row, at least, [N] float32 in row units.
    """

    data: OracleDataset
    point_std: float
    distances: Float[Tensor, "N"]

    def certified(
        self, request: Request, wanted: Wanted, tolerance: Float64[Tensor, "B"]
    ) -> tuple[Answer, Bool[Tensor, "B"]]:
        """Return answers within `tolerance` except with probability BOUND_FAILURE, and for which queries they hold."""
        query = request.query(self.data, self.point_std)
        log_omitted = self._log_omitted(request, query)
        # most sources are told to be out of reach by one comparison
        index = (log_omitted <= largest_allowance(tolerance).log()).nonzero()[:, 0]
        pairs = Pairs(index, request.source[index], torch.zeros_like(request.times[index]))
        state = pairs_state(self.data.rows, query, pairs, wanted)
        named = torch.zeros_like(request.source, dtype=torch.bool).index_fill_(0, index, value=True)
        answer = Answer.bounded(state, state.lse + log_omitted, named.long(), Route.SOURCE)
        values = self.data.value_map.scale * state.mean + self.data.base
        prediction = Prediction(request.x, values, request.at, self.point_std)
        certified = named & (log_omitted <= allowance(prediction, farthest(self.data, state), tolerance).log())
        return replace(answer, likely=named), certified

    def _log_omitted(self, request: Request, query: Query) -> Float64[Tensor, "B"]:
        """Return the log of what all but the source hold at most, beside it; infinite where it does not count."""
        index = request.source_counts(self.data).nonzero()[:, 0]
        source = request.known_source(self.data).take(index)
        found = source_log_omitted(self.data.rows, query.take(index), source, self.distances)
        return torch.full_like(request.times, torch.inf).index_copy_(0, index, found)


@dataclass(frozen=True)
class SampledRoute:
    """Estimates from samples drawn by their weight in a screen."""

    data: OracleDataset
    point_std: float
    screen: PrincipalScreen

    def estimate(self, request: Request, wanted: Wanted, budget: Budget) -> Answer:
        """Return estimates from as many samples of each class as the budget has; unions merge them by mass."""
        query = request.query(self.data, self.point_std)
        generator = torch.Generator(self.data.device).manual_seed(budget.seed)
        answer = Answer.unknown(len(query), self.data.dim, wanted.top_k, self.data.device)
        everyone = torch.arange(len(query), device=self.data.device)
        for task in scan_tasks(request.labels, self.data.segments, len(self.data), everyone):
            part, index = query.take(task.query), task.query
            found = sampled_state(self.data.rows, self.screen, part, task.span, wanted, budget.rows, generator)
            answer = answer.put(index, _joined(answer.take(index), found))
        return replace(answer, log_omitted=torch.full_like(answer.log_omitted, torch.nan))


def _joined(answer: Answer, found: Sampled) -> Answer:
    state = merge(answer.state, found.state)
    shares = [(part.lse - state.lse).exp() for part in (answer.state, found.state)]
    error = torch.hypot(shares[0] * answer.standard_error, shares[1] * found.standard_error)
    sampled = Answer.bounded(state, answer.log_omitted, answer.survivors + found.count, Route.SAMPLED)
    return replace(sampled, standard_error=error)
