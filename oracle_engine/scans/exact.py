"""The exact route: every sample a query may use is scanned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from ..base.arrays import Float64, Int64, Tensor
from ..base.calls.checked import above, check
from ..base.calls.cuda_graphs import capturing
from ..base.calls.transforms import cached_tensor
from ..base.outside.rows import OutsideRows
from ..data.dataset import OracleDataset
from ..kernels import Directions, PosteriorState, SegmentWork, Wanted, Work, concatenate
from ..queries.classes import batch_slices, class_pairs, rows_between, scan_tasks, scanned_together
from ..queries.request import Request, nothing_scored
from .scanner import Scanner

# what makes the work of a request, and what is wanted of it
MakeWork = Callable[[Request, Wanted], Work | SegmentWork]


@runtime_checkable
class WholeScan(Protocol):
    """What scans all samples of a data set, wherever they are."""

    @property
    def data(self) -> OracleDataset:
        """The samples."""
        ...

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over the samples each query of `request` may use, [B]; `wanted` of the posteriors."""
        ...

    def rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over all samples outside the classes of each query of `request`, [B]; `wanted` of them."""
        ...

    def covariance(self, directions: Directions, labels: Int64[Tensor, "B U"] | None) -> Float64[Tensor, "B D"]:
        """Return the products of posterior covariances with `directions` over the classes of each query, [B, D]."""
        ...

    def on_any_rank(self, asked: bool) -> bool:
        """Return whether what is to follow is asked for here, or by another process that scans with this one."""
        ...


@dataclass(frozen=True)
class ExactScan:
    """Scans of `data` by one backend.

    whole: whether every class that may be asked for has rows here, as in a data set that is no part of another.
    """

    data: OracleDataset
    scanner: Scanner
    whole: bool = True

    def state(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over the samples each query of `request` may use, [B]; `wanted` of the posteriors.

        Raises InputError where no sample that a query may use has any weight, or one that float64 can hold.
        Costs one pass over the rows in question.
        """
        state = self.part(request, wanted)
        check(lambda: above(state.lse, -torch.inf), lambda: nothing_scored(request, self.data, state.lse > -torch.inf))
        return state

    def part(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return what :meth:`state` does, empty where a query may use no sample: others may be elsewhere."""
        if request.labels is None and self._is_one_scan(request):
            return self.scanner.state(request.work(self.data, wanted))
        return self._by_slices(request, wanted, self._work)

    def rest(self, request: Request, wanted: Wanted) -> PosteriorState:
        """Return the states over all samples outside the classes of each query of `request`, [B]; `wanted` of them.

        Empty where there are none. Costs one pass over the data.
        """
        return self._by_slices(request, wanted, self._rest_work)

    @property
    def streams(self) -> bool:
        """Whether samples stay outside, so that scans in one read cost less than one after the other."""
        return isinstance(self.data.rows.stored, OutsideRows)

    def state_and_rest(
        self, request: Request, others: Request, wanted: Wanted
    ) -> tuple[PosteriorState, PosteriorState]:
        """Return :meth:`state` of `request` and :meth:`rest` of `others`, of the means, in one read of the samples."""
        works = [*self._works(request, wanted, self._work), *self._works(others, Wanted(), self._rest_work)]
        states, own = self.scanner.states(self.data.rows, works), len(self._slices(request))
        state, rest = concatenate(states[:own]), concatenate(states[own:])
        check(lambda: above(state.lse, -torch.inf), lambda: nothing_scored(request, self.data, state.lse > -torch.inf))
        return state, rest

    def covariance(self, directions: Directions, labels: Int64[Tensor, "B U"] | None) -> Float64[Tensor, "B D"]:
        """Return the products of posterior covariances with `directions` over the classes of each query, [B, D].

        directions: changes of the logits of B queries. labels: the classes of each, -1 for none, or None where all use
        everything. Costs one pass over the rows in question.
        """
        total = torch.zeros_like(directions.mean)
        everyone = torch.arange(len(directions), device=total.device)
        tasks = [
            task
            for part in batch_slices(len(directions), self.data.dim)
            for task in scan_tasks(
                None if labels is None else labels[part], self.data.segments, len(self.data), everyone[part]
            )
        ]
        works = [(directions.take(task.query), task.span) for task in tasks]
        for task, product in zip(tasks, self.scanner.products(self.data.rows, works), strict=True):
            total[task.query] += product
        return total

    def on_any_rank(self, asked: bool) -> bool:
        """Return `asked`: no other process scans with this one."""
        return asked

    @cached_property
    def _longest(self) -> int:
        """Rows of the largest class: only queries without one use more."""
        return max(map(len, self.data.segments.values()), default=1)

    @cached_tensor
    def _places(self) -> Int64[Tensor, "B"]:
        """The numbers of as many queries as are scanned together."""
        return torch.arange(scanned_together(self.data.dim), device=self.data.device)

    def _is_one_scan(self, request: Request) -> bool:
        return 0 < len(request) <= scanned_together(self.data.dim)

    def _slices(self, request: Request) -> Sequence[slice]:
        return batch_slices(len(request), self.data.dim)

    def _works(self, request: Request, wanted: Wanted, work: MakeWork) -> Iterator[Work | SegmentWork]:
        return (work(request.take(part), wanted) for part in self._slices(request))

    def _by_slices(self, request: Request, wanted: Wanted, work: MakeWork) -> PosteriorState:
        """Return the states of a large batch, a slice of it at a time."""
        if len(request) == 0:
            return request.work(self.data, wanted).nothing()
        if self._is_one_scan(request):
            return self.scanner.state(work(request, wanted))
        return concatenate(self.scanner.states(self.data.rows, self._works(request, wanted, work)))

    def _work(self, request: Request, wanted: Wanted) -> Work | SegmentWork:
        """Return the work of a request: over all rows, or over the spans of its classes."""
        if request.labels is None:
            return request.work(self.data, wanted)
        # states of classes merge with each other, and with that of the rest of the data
        work = request.work(self.data, replace(wanted, mergeable=True))
        if capturing():
            return self._without(work, rows_between(request.ranges(self.data), len(self.data)))
        ranges, classes = request.ranges(self.data), request.labels.shape[1]
        # with a class each that has rows, or all of them, the pairs are those of the queries one after the other
        if self.whole or classes > 1:
            places = self._places[: len(request)]
            pairs = places if classes == 1 else places.repeat_interleave(classes)
            known = (classes, self._longest, len(self.data.segments))
            return SegmentWork(work.rows, work.query, pairs, ranges.flatten(0, 1), work.wanted, *known)
        return SegmentWork(work.rows, work.query, *class_pairs(ranges), work.wanted)

    def _rest_work(self, request: Request, wanted: Wanted) -> Work:
        work = request.work(self.data, replace(wanted, mergeable=True))
        return self._without(work, request.ranges(self.data))

    def _without(self, work: Work, ranges: Int64[Tensor, "B V 2"]) -> Work:
        """Return the work over all samples, of which each query leaves out some ranges of rows."""
        excluded = work.query.excluded
        excluded = ranges if excluded.shape[1] == 0 else torch.cat([excluded, ranges], dim=1)
        return replace(work, query=work.query.excluding(excluded))
