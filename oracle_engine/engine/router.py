"""Which route answers which query of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..base.arrays import Bool, Tensor
from ..base.cuda_graphs import capturing
from ..base.errors import invalid
from ..kernels import Wanted, merge
from ..kernels.screens import PrincipalScreen, SharedProducts
from ..queries.answer import Answer
from ..queries.modes import Budget, FullScan, Mode, TopK
from ..queries.request import Request
from ..scans.exact import ExactScan
from ..search.index import SearchIndex
from ..search.routes import LateRoute, SampledRoute, SourceRoute


@dataclass(frozen=True)
class Router:
    """Sends every query of a batch along the cheapest route its mode allows.

    index: what `OracleEngine.prepare` made, or None.
    tolerance: largest relative velocity error that a search may be proved to cause.
    """

    mode: Mode
    tolerance: float
    exact: ExactScan
    index: SearchIndex | None

    def answer(self, request: Request, wanted: Wanted, shared_products: SharedProducts | None = None) -> Answer:
        """Return the answers of a batch. Raises InputError where the mode needs an index and there is none."""
        if isinstance(self.mode, TopK):
            answer = self._late(self._prepared).top(request, wanted, self.mode.count)
            # a search that finds nothing leaves the query to a scan, which knows whether there is anything to find
            return self._completed(request, wanted, answer, answer.state.lse == -torch.inf)
        if isinstance(self.mode, Budget):
            return self._sampled(self._prepared, request, wanted, self.mode)
        # what a search finds depends on values, so a CUDA graph records the scan, which is right at every t
        if isinstance(self.mode, FullScan) or self.index is None or len(request) == 0 or capturing():
            return self._scanned(request, wanted)
        return self._automatic(request, wanted, shared_products)

    def unconditional(self, request: Request, own: Answer, shared_products: SharedProducts | None = None) -> Answer:
        """Return the answers without labels of queries whose conditional answers are `own`."""
        if isinstance(self.mode, FullScan) or self.index is None:
            # the classes are scanned already: the rest of the data completes the unconditional answer
            state = merge(own.state, self.exact.rest(request, Wanted()))
            return Answer.exact(state, request.unconditional.usable(self.exact.data))
        return self.answer(request.unconditional, Wanted(), shared_products)

    @property
    def _prepared(self) -> SearchIndex:
        if self.index is None:
            raise invalid("mode", "needs an index of the data", "none", "call engine.prepare() first")
        return self.index

    def _late(self, index: SearchIndex) -> LateRoute:
        return LateRoute(self.exact.data, self.exact.point_std, index.search, index.route)

    def _sampled(self, index: SearchIndex, request: Request, wanted: Wanted, budget: Budget) -> Answer:
        if not isinstance(index.screen, PrincipalScreen):
            found = f"{index.spec!r}, {index.kind}"
            raise invalid("mode", "budget needs a screen of leading coordinates", found, "call engine.prepare('pca')")
        route = SampledRoute(self.exact.data, self.exact.point_std, index.screen)
        return route.estimate(request, wanted, budget)

    def _automatic(self, request: Request, wanted: Wanted, shared_products: SharedProducts | None) -> Answer:
        index = self._prepared
        # guidance multiplies what its two terms may miss
        tolerance = self.tolerance / (request.scale.abs() + (1.0 - request.scale).abs())
        answer = Answer.unknown(len(request), self.exact.data.dim, wanted.top_k, request.x.device)
        pending = torch.ones(len(request), dtype=torch.bool, device=request.x.device)
        if index.distances is not None and bool((request.source >= 0).any()):
            route = SourceRoute(self.exact.data, self.exact.point_std, index.distances)
            answer, pending = _certify(answer, pending, *route.certified(request, wanted, tolerance))
        late = self._late(index)
        if late.search.certified and bool(pending.any()):
            place = pending.nonzero()[:, 0]
            known = None if shared_products is None else shared_products.take(place)
            found, certified = late.certified(request.take(place), wanted, tolerance[place], known)
            everywhere = torch.zeros_like(pending).index_copy_(0, place, certified)
            answer, pending = _certify(answer, pending, answer.put(place, found), everywhere)
        return self._completed(request, wanted, answer, pending)

    def _completed(self, request: Request, wanted: Wanted, answer: Answer, pending: Bool[Tensor, "B"]) -> Answer:
        place = pending.nonzero()[:, 0]
        return answer.put(place, self._scanned(request.take(place), wanted)) if len(place) else answer

    def _scanned(self, request: Request, wanted: Wanted) -> Answer:
        state = self.exact.state(request, wanted)
        return Answer.exact(state, request.usable(self.exact.data))


def _certify(
    answer: Answer, pending: Bool[Tensor, "B"], found: Answer, certified: Bool[Tensor, "B"]
) -> tuple[Answer, Bool[Tensor, "B"]]:
    place = (pending & certified).nonzero()[:, 0]
    return answer.put(place, found.take(place)), pending & ~certified
