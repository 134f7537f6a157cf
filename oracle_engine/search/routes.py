"""The late route: answers from the few samples that can matter, with a bound on what the others could change."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..base.arrays import Bool, Float, Float64, Int64, Shaped, Tensor
from ..base.calls.checked import holds_beside
from ..base.seeds import seeded
from ..data.dataset import OracleDataset
from ..kernels import FARTHEST, Combination, Pairs, PosteriorState, Query, Wanted, Work, merge, outside, pairs_state
from ..kernels.screens import (
    Mass,
    PrincipalScreen,
    Sampled,
    SharedProducts,
    Shortlist,
    SideInformation,
    sampled_state,
    source_log_omitted,
)
from ..paths.predictions import factors
from ..queries.answer import Answer, Route
from ..queries.classes import scan_tasks
from ..queries.modes import Budget
from ..queries.request import Request
from .certificate import Scale, largest_allowance, omitted_mass
from .search import Search


@dataclass(frozen=True)
class VelocityAllowance:
    """The posterior mass that a search may leave out of each query of a request: what its tolerance allows.

    data: what is searched. request: the queries. tolerance: largest relative velocity errors, in (0, 1), [B] float64.
    point_std: width of every sample in value space. whole: whether a search finds all of the posterior of a query, and
    not that of one of its classes.
    """

    data: OracleDataset
    request: Request
    tolerance: Float64[Tensor, "B"]
    point_std: float
    whole: bool = True

    def take(self, index: Int64[Tensor, "b"]) -> VelocityAllowance:
        """Return the allowance of the queries in `index`, [b] int64."""
        return replace(self, request=self.request.take(index), tolerance=self.tolerance[index])

    def __call__(self, state: PosteriorState) -> Float64[Tensor, "B"]:
        """Return the mass in [0, 1], [B] float64, given the posterior `state` over the samples known so far."""
        return self._scale(state).allowance(self.tolerance)

    def allowed(self, batch: int, device: torch.device) -> Mass:
        """Return what the tolerance allows of each query, for kernels that find the states of `batch` queries there."""
        data, request, at = self.data, self.request, self.request.at
        direct, gap = factors("velocity", at, request.variance, self.point_std)
        answer = Combination(request.x, at.alpha_t, direct, gap, data.value_map.scale, data.base)
        error = self.tolerance if self.whole else None
        return Mass(largest_allowance(self.tolerance), answer, error)

    def met_by(self, state: PosteriorState, log_omitted: Float64[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """Return whether the velocity error of `state` is within the tolerance, [B].

        log_omitted: log of a bound on the weight of all other samples, [B] float64.
        """
        scale = self._scale(state)
        return scale.relative_error(omitted_mass(state, log_omitted) * scale.distance) <= self.tolerance

    def _scale(self, state: PosteriorState) -> Scale:
        return Scale.of(self.data, self.request, state, self.point_std)


@dataclass(frozen=True)
class _ClassWork:
    """The part of a batch that may use the rows of one class, or all rows.

    index: which queries of the batch, rising, [b] int64. work, side: of these queries.
    """

    index: Int64[Tensor, "b"]
    work: Work
    side: SideInformation


def _by_class(data: OracleDataset, request: Request, work: Work, side: SideInformation) -> list[_ClassWork]:
    """Return the work for all rows where there are no labels, else for the rows of each class and its queries."""
    everyone = torch.arange(len(request), device=data.device)
    if request.labels is None:
        return [_ClassWork(everyone, work, side)]
    tasks = scan_tasks(request.labels, data.segments, len(data), everyone)
    work = replace(work, wanted=replace(work.wanted, mergeable=True))
    return [
        _ClassWork(task.query, replace(work.take(task.query), span=task.span), side.take(task.query)) for task in tasks
    ]


def _joined(work: Work, parts: list[_ClassWork], found: list[Shortlist]) -> Shortlist:
    """Return the shortlist of the queries of `work` from those of its parts; a query may use several classes."""
    if len(parts) == 1 and len(parts[0].index) == len(work.query):
        return found[0]
    total = Shortlist.nothing(work)
    for part, one in zip(parts, found, strict=True):
        total = total.put(part.index, total.take(part.index).merged(one))
    return total


@dataclass(frozen=True)
class Certified:
    """What the late route answers.

    answer: whose velocity errors are proved to be within the tolerance where a query is `certified`, [B]. pending: how
    many are not, [1], where the kernels that searched have counted them, or None.
    """

    answer: Answer
    certified: Bool[Tensor, "B"]
    pending: Shaped[Tensor, "1"] | None = None

    @property
    def complete(self) -> bool:
        """Whether it is known that all are certified; the host waits for the number of the others."""
        return self.pending is not None and holds_beside(self.pending == 0)


@dataclass(frozen=True)
class LateRoute:
    """Searches over `data` for queries that few samples can matter to.

    data: what is searched. point_std: width of every sample in value space. search: over the data. route: its name.
    """

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
    ) -> Certified:
        """Return answers, and which of them are proved to have velocity errors within `tolerance`.

        request: the queries. wanted: what is wanted of their posteriors. tolerance: largest relative velocity errors,
        in (0, 1), [B] float64. shared_products: of the trajectories of the queries, or None outside of one.
        """
        work, side = request.work(self.data, wanted), self._side(request, shared_products)
        whole = self._together(request) and wanted.mean
        allowed = VelocityAllowance(self.data, request, tolerance, self.point_std, whole)
        found = self._within(work, side, allowed)
        answer = Answer.listed(found, self.route, self._likely(request))
        if found.uncertified is not None:
            return Certified(answer, found.certified, found.uncertified)
        # a shortlist without any weight proves nothing, nor one of samples that are too far away to be told apart
        certified = found.certified & (found.state.lse > FARTHEST)
        if wanted.mean and bool(certified.any()):
            # the velocity aimed with may have been larger than the final one is
            certified = certified & allowed.met_by(found.state, found.log_omitted)
        return Certified(answer, certified)

    def top(self, request: Request, wanted: Wanted, count: int) -> Answer:
        """Return answers from the most promising samples of each query and class.

        request: the queries. wanted: what is wanted of their posteriors. count: how many samples.
        """
        work, side = request.work(self.data, wanted), self._side(request)
        parts = _by_class(self.data, request, work, side)
        found = _joined(work, parts, [self.search.top(part.work, part.side, count) for part in parts])
        return Answer.listed(found, self.route, self._likely(request))

    def _side(self, request: Request, shared_products: SharedProducts | None = None) -> SideInformation:
        source = request.known_source(self.data) if request.names_sources else None
        return SideInformation(source, shared_products)

    def _likely(self, request: Request) -> Bool[Tensor, "B"] | None:
        return request.source >= 0 if request.names_sources else None

    def _together(self, request: Request) -> bool:
        """Return whether one search of all rows answers the queries of `request`, without a wait for their classes."""
        return request.labels is None or self.search.asks_nothing(self.data.rows)

    def _among_classes(self, work: Work, request: Request) -> Work:
        """Return `work` without the rows of other classes than those that its queries use, if they name any."""
        if request.labels is None:
            return work
        others = outside(request.ranges(self.data), len(self.data))
        return replace(work, query=work.query.excluding(torch.cat([work.query.excluded, others], dim=1)))

    def _within(self, work: Work, side: SideInformation, allowed: VelocityAllowance) -> Shortlist:
        """Return what is found for the queries of `work`, of which `side` is known: of all, or class by class."""
        request = allowed.request
        if self._together(request):
            return self.search.within(self._among_classes(work, request), side, allowed)
        parts = _by_class(self.data, request, work, side)
        everyone = [len(part.index) == len(request) for part in parts]
        found = [
            self.search.within(part.work, part.side, allowed if every else allowed.take(part.index))
            for part, every in zip(parts, everyone, strict=True)
        ]
        return _joined(work, parts, found)


@dataclass(frozen=True)
class SourceRoute:
    """Answers that are the sample a query was made from, without reading any other.

    data: what is searched. point_std: width of every sample in value space.
    distances: to the nearest other row, at least, [N] float32 in row units.
    """

    data: OracleDataset
    point_std: float
    distances: Float[Tensor, "N"]

    def certified(
        self, request: Request, wanted: Wanted, tolerance: Float64[Tensor, "B"]
    ) -> tuple[Answer | None, Bool[Tensor, "B"]]:
        """Return answers within `tolerance` but with probability BOUND_FAILURE, and for which queries they hold, [B].

        request: the queries. wanted: what is wanted of their posteriors. tolerance: largest relative velocity errors,
        in (0, 1), [B] float64. The answers are None where no query has one. Costs one row for each query.
        """
        query = request.query(self.data)
        log_omitted = self._log_omitted(request, query)
        # one comparison tells for most queries that their source does not hold enough
        named = log_omitted <= largest_allowance(tolerance).log()
        if not bool(named.any()):
            return None, named
        state = self._state(request, wanted, named)
        answer = Answer.bounded(state, state.lse + log_omitted, named.long(), Route.SOURCE)
        allowed = VelocityAllowance(self.data, request, tolerance, self.point_std)
        certified = named & (log_omitted <= allowed(state).log())
        return replace(answer, likely=named), certified

    def _state(self, request: Request, wanted: Wanted, named: Bool[Tensor, "B"]) -> PosteriorState:
        """Return the states of the sources of at least the queries that are `named`."""
        rows = self.data.rows
        if rows.log_weights is None and wanted == Wanted():
            return request.source_state(self.data)
        index = named.nonzero()[:, 0]
        pairs = Pairs(index, request.source[index], torch.zeros_like(request.times[index]))
        return pairs_state(rows, request.query(self.data), pairs, wanted)

    def _log_omitted(self, request: Request, query: Query) -> Float64[Tensor, "B"]:
        """Return the log of what all but the source hold at most, beside it; infinite where it does not count."""
        index = request.source_counts(self.data).nonzero()[:, 0]
        source, at = request.known_source(self.data).take(index), (query.alpha[index], query.inverse_variance[index])
        found = source_log_omitted(self.data.rows, *at, source, self.distances)
        return torch.full_like(request.times, torch.inf).index_copy_(0, index, found)


@dataclass(frozen=True)
class SampledRoute:
    """Estimates from samples drawn by their weight in a screen.

    data: what is sampled. screen: of the data.
    """

    data: OracleDataset
    screen: PrincipalScreen

    def estimate(self, request: Request, wanted: Wanted, budget: Budget) -> Answer:
        """Return estimates from as many samples of each class as the budget has; unions merge them by mass.

        request: the queries. wanted: what is wanted of their posteriors. budget: samples of each query, and the seed.
        """
        whole = request.work(self.data, wanted)
        generator = seeded(budget.seed, self.data.device)
        answer = Answer.unknown(len(request), self.data.dim, wanted.top_k, self.data.device)
        for part in _by_class(self.data, request, whole, SideInformation()):
            found = sampled_state(self.screen, part.work, count=budget.rows, generator=generator)
            answer = answer.put(part.index, _added(answer.take(part.index), found))
        return replace(answer, log_omitted=torch.full_like(answer.log_omitted, torch.nan))


def _added(answer: Answer, found: Sampled) -> Answer:
    """Return `answer` with the samples in `found`, which are of another class."""
    state = merge(answer.state, found.state)
    shares = [(part.lse - state.lse).exp() for part in (answer.state, found.state)]
    error = torch.hypot(shares[0] * answer.standard_error, shares[1] * found.standard_error)
    sampled = Answer.bounded(state, answer.log_omitted, answer.survivors + found.count, Route.SAMPLED)
    return replace(sampled, standard_error=error)
