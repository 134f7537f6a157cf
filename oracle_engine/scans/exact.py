"""The exact route: every sample a query may use is scanned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..base.arrays import Int64, Tensor
from ..base.cuda_graphs import capturing, holds
from ..base.errors import invalid
from ..data.dataset import OracleDataset
from ..kernels import PosteriorState, Span, Wanted, concatenate, merge
from ..kernels.common.work import Work
from ..queries.classes import batch_slices, class_ranges, rows_between, scan_tasks
from ..queries.request import Request
from .backends import ScanState


@dataclass(frozen=True)
class ExactScan:
    """Scans of `data` by one backend."""

    data: OracleDataset
    point_std: float
    backend: ScanState

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over the samples each query may use. Raises InputError where none has any weight."""
        state = self._by_slices(request, wanted, self._scan)
        if not holds(state.lse > -torch.inf):
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
        if capturing() and request.labels is not None:
            return self._scan_all(request, wanted, rows_between(self._ranges(request), len(self.data)))
        query = request.query(self.data, self.point_std)
        everyone = torch.arange(len(query), device=self.data.device)
        state = PosteriorState.empty(len(query), self.data.dim, wanted.top_k, self.data.device)
        for task in scan_tasks(request.labels, self.data.segments, len(self.data), everyone):
            part = self.backend(Work(self.data.rows, query.take(task.query), task.span, wanted))
            state = state.put(task.query, merge(state.take(task.query), part))
        return state

    def _scan_rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        return self._scan_all(request, wanted, self._ranges(request))

    def _scan_all(self, request: Request, wanted: Wanted, without: Int64[Tensor, "B V 2"]) -> PosteriorState:
        """Scan all samples, of which each query leaves out some ranges of rows."""
        query = request.query(self.data, self.point_std)
        excluded = torch.cat([query.excluded, without], dim=1)
        return self.backend(Work(self.data.rows, replace(query, excluded=excluded), Span(0, len(self.data)), wanted))

    def _ranges(self, request: Request) -> Int64[Tensor, "B U 2"]:
        if request.labels is None or self.data.sorted_labels is None:
            raise AssertionError("labels of unlabelled data, and guidance without labels, are refused before any scan")
        return class_ranges(request.labels, self.data.sorted_labels)
