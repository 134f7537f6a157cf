"""Which route answers which query of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..base.arrays import Bool, Float64, Int64, Tensor
from ..base.calls.checked import check
from ..base.calls.cuda_graphs import capturing
from ..base.errors import invalid
from ..kernels import FARTHEST, PosteriorState, Wanted
from ..kernels.screens import PrincipalScreen, SharedProducts
from ..queries.answer import Answer
from ..queries.modes import Auto, Budget, FullScan, Mode, TopK
from ..queries.request import Request, nothing_scored
from ..scans.backends import Merge
from ..scans.exact import ExactScan, WholeScan
from ..search.index import SearchIndex
from ..search.routes import LateRoute, SampledRoute, SourceRoute


@dataclass(frozen=True)
class Router:
    """Sends every query of a batch along the cheapest route its mode allows.

    mode: which routes there are. tolerance: largest relative velocity error that a search may be proved to cause.
    exact: the scan of everything. point_std: width of every sample. index: what `OracleEngine.prepare` made, or None.
    merge: makes one mean of those over two parts of the samples.
    """

    mode: Mode
    tolerance: float
    exact: WholeScan
    point_std: float
    index: SearchIndex | None
    merge: Merge

    def state(self, request: Request, wanted: Wanted, shared_products: SharedProducts | None = None) -> PosteriorState:
        """Return the posterior states of the queries of `request`, [B]; `wanted` of them.

        shared_products: of the trajectory that all queries belong to, or None. Raises InputError as :meth:`answer`
        does.
        """
        if self._scans_everything(request):
            return self.exact.state(request, wanted)
        return self.answer(request, wanted, shared_products).state

    def answer(self, request: Request, wanted: Wanted, shared_products: SharedProducts | None = None) -> Answer:
        """Return the posterior states of the queries of `request` with what they may have missed.

        wanted, shared_products: as in :meth:`state`. Raises InputError where the mode needs an index and there is none,
        and where no sample has any weight.
        """
        if self._scans_everything(request):
            return self._scanned(request, wanted)
        if isinstance(self.mode, TopK):
            answer = self._late().top(request, wanted, self.mode.count)
            # a search that finds nothing near leaves the query to a scan, which knows whether there is anything to find
            return self._completed(request, wanted, answer, ~(answer.state.lse > FARTHEST))
        if isinstance(self.mode, Budget):
            return self._sampled(request, wanted, self.mode)
        return self._automatic(request, wanted, shared_products)

    def both(
        self, request: Request, index: slice | Int64[Tensor, "b"], wanted: Wanted
    ) -> tuple[PosteriorState, PosteriorState] | None:
        """Return the states of `request`, and the unconditional ones of its queries in `index`, from one read.

        wanted: of the former. None where one read does not give both: then ask for one after the other.
        """
        exact = self.exact
        if not (isinstance(exact, ExactScan) and exact.streams and self._scans_everything(request)):
            return None
        own, rest = exact.state_and_rest(request, request.take(index), wanted)
        return own, self.merge(own if isinstance(index, slice) else own.take(index), rest)

    def unconditional(
        self, request: Request, own: PosteriorState, shared_products: SharedProducts | None = None
    ) -> PosteriorState:
        """Return the unconditional states of the queries of `request`, whose states given their labels are `own`.

        shared_products: as in :meth:`state`.
        """
        if isinstance(self.mode, FullScan) or self.index is None:
            # the classes are scanned already: the rest of the data completes the unconditional state
            return self.merge(own, self.exact.rest(request, Wanted()))
        return self.state(request.unconditional, Wanted(), shared_products)

    @property
    def only_scans(self) -> bool:
        """Whether there is no other route than the scan of everything."""
        return isinstance(self.mode, FullScan) or (isinstance(self.mode, Auto) and self.index is None)

    @property
    def searched_from(self) -> float:
        """Least alpha^2 / sigma^2, in row units, of the queries without conditions that another route may answer."""
        if self.only_scans:
            return math.inf
        if not isinstance(self.mode, Auto):
            return 0.0
        search = self._late().search
        return search.least_snr if search.certified else math.inf

    def _scans_everything(self, request: Request) -> bool:
        # what a search finds depends on values, so a CUDA graph records the scan, which is right at every t
        return self.only_scans or (isinstance(self.mode, Auto) and (len(request) == 0 or capturing()))

    def _prepared(self) -> SearchIndex:
        if self.index is None:
            raise invalid("mode", "needs an index of the data", "none", "call engine.prepare() first")
        return self.index

    def _late(self) -> LateRoute:
        index = self._prepared()
        return LateRoute(self.exact.data, self.point_std, index.search, index.route)

    def _sampled(self, request: Request, wanted: Wanted, budget: Budget) -> Answer:
        """Return estimates from as many samples as the budget allows."""
        index = self._prepared()
        if not isinstance(index.screen, PrincipalScreen):
            found = f"{index.spec!r}, {index.kind}"
            raise invalid("mode", "budget needs a screen of leading coordinates", found, "call engine.prepare('pca')")
        answer = SampledRoute(self.exact.data, index.screen).estimate(request, wanted, budget)
        # neither where no sample has weight nor where float32 cannot hold a logit
        known = (answer.state.lse > -torch.inf) & answer.standard_error.isfinite()
        check(lambda: known, lambda: nothing_scored(request, self.exact.data, known))
        return answer

    def _automatic(self, request: Request, wanted: Wanted, shared_products: SharedProducts | None) -> Answer:
        """Return the answer by the cheapest route that is certified, query by query."""
        late = self._late()
        if shared_products is None and self._known_too_early(request, late):
            return self._scanned(request, wanted)
        tolerance = self._tolerances(request)
        answer, pending = self._from_sources(request, wanted, tolerance)
        if answer is None or pending is None:
            if not late.search.certified:
                return self._scanned(request, wanted)
            found = late.certified(request, wanted, tolerance, shared_products)
            return found.answer if found.complete else self._completed(request, wanted, found.answer, ~found.certified)
        if late.search.certified and bool(pending.any()):
            place = pending.nonzero()[:, 0]
            shared = None if shared_products is None else shared_products.take(place)
            found = late.certified(request.take(place), wanted, tolerance[place], shared)
            answer = answer.put(place, found.answer)
            pending = pending.index_copy(0, place, ~found.certified)
        return self._completed(request, wanted, answer, pending)

    def _known_too_early(self, request: Request, late: LateRoute) -> bool:
        """Return whether the host knows, without a wait for a device, that a search finds nothing for any query."""
        known = None if request.known_times is None or request.names_sources else request.known_times()
        if known is None:
            return False
        snr = known.largest_snr() * self.exact.data.value_map.scale**2
        return snr < late.search.least_snr

    def _tolerances(self, request: Request) -> Float64[Tensor, "B"]:
        """Return how large the error of a posterior mean may be, relative to that of the answer, [B]."""
        if not request.guided:
            return torch.full_like(request.times, self.tolerance)
        # guidance multiplies what its two terms may miss
        return self.tolerance / (request.scale.abs() + (1.0 - request.scale).abs())

    def _from_sources(
        self, request: Request, wanted: Wanted, tolerance: Float64[Tensor, "B"]
    ) -> tuple[Answer | None, Bool[Tensor, "B"] | None]:
        """Return answers that sources alone certify, and which queries are pending, None where no source is known."""
        distances = self._prepared().distances
        if distances is None or not request.names_sources or not bool((request.source >= 0).any()):
            return None, None
        answer, certified = SourceRoute(self.exact.data, self.point_std, distances).certified(
            request, wanted, tolerance
        )
        return answer, ~certified

    def _completed(self, request: Request, wanted: Wanted, answer: Answer, pending: Bool[Tensor, "B"]) -> Answer:
        """Return the answer with those that are `pending` scanned."""
        place: Int64[Tensor, "b"] = pending.nonzero()[:, 0]
        if len(place) == 0:
            return answer
        if len(place) == len(request):
            return self._scanned(request, wanted)
        return answer.put(place, self._scanned(request.take(place), wanted))

    def _scanned(self, request: Request, wanted: Wanted) -> Answer:
        state = self.exact.state(request, wanted)
        return Answer.exact(state, request.usable(self.exact.data))
