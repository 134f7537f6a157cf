"""The exact route: every sample a query may use is scanned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .backends import ScanState
from .dataset import OracleDataset
from .errors import invalid
from .kernels import PosteriorState, Span, Wanted, concatenate, merge
from .plan import batch_slices, class_holes, scan_tasks
from .request import Request


@dataclass(frozen=True)
class ExactScan:
    """Scans of `data` by one backend."""

    data: OracleDataset
    point_std: float
    backend: ScanState

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over the samples each query may use. Raises InputError where none has any weight."""
        state = self._by_slices(request, wanted, self._scan)
        if bool((state.lse == -torch.inf).any()):
            first = int((state.lse == -torch.inf).nonzero()[0])
            raise invalid(
                "weights", "must be positive for some sample", f"none for query {first}", "change labels or exclude"
            )
        return state

    def rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over all samples outside the classes of each query, empty where there are none."""
        return self._by_slices(request, wanted, self._scan_rest)

    def _by_slices(
        self, request: Request, wanted: Wanted, scan: Callable[[Request, Wanted], PosteriorState]
    ) -> PosteriorState:
        parts = [scan(request.take(part), wanted) for part in batch_slices(len(request), self.data.dim)]
        return concatenate(parts or [PosteriorState.empty(0, self.data.dim, wanted.top_k, self.data.device)])

    def _scan(self, request: Request, wanted: Wanted) -> PosteriorState:
        query = request.query(self.data, self.point_std)
        everyone = torch.arange(len(query), device=self.data.device)
        state = PosteriorState.empty(len(query), self.data.dim, wanted.top_k, self.data.device)
        for task in scan_tasks(request.labels, self.data.segments, len(self.data), everyone):
            part = self.backend(self.data.rows, query.take(task.query), task.span, wanted)
            state = state.put(task.query, merge(state.take(task.query), part))
        return state

    def _scan_rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        query = request.query(self.data, self.point_std)
        holes = torch.cat([query.holes, class_holes(request.labels, self.data.segments)], dim=1)
        return self.backend(self.data.rows, replace(query, holes=holes), Span(0, len(self.data)), wanted)
