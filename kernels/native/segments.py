"""The scan of several spans of rows at once in C++: one parallel loop over spans, each with its queries."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial

import torch

from ...base.arrays import Int64, Tensor
from ..common.rows import Span
from ..common.segments import SegmentWork, span_by_span
from ..common.state import PosteriorState, concatenate
from ..common.work import Work
from .double import double_state
from .library import native_library
from .scan import NATIVE_LIMITS, NativeLimits, NativeScan, applies, native_state

# queries of a task: their sums stay in the second cache
MOST_QUERIES = 64

# up to how many of a task read rows as they are stored, without a copy in panels
FEW_OF_TASK = 2

# tasks that a thread should find: the last ones to end leave little time to wait; no span of fewer rows is cut for it
TASKS, LEAST_ROWS = 4, 512

# operations that a thread is worth waking for: one that sleeps takes a virtual machine 6 ms, and does these in one
THREAD_OPERATIONS = 6e7

# values of the sums that one call keeps for spans beyond the first of each query: half a gigabyte
MOST_SUMS = 1 << 26


class SegmentsProblem(ctypes.Structure):
    """Which spans are asked about, and how they are cut into tasks, as in segments.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("query", "span")),
        *((name, ctypes.c_int64) for name in ("pairs", "batch", "queries", "tasks", "least_rows", "few")),
    ]


def segments_state(work: SegmentWork, *, limits: NativeLimits = NATIVE_LIMITS) -> PosteriorState:
    """Return the posterior states of the queries of `work` over their spans, [B].

    limits: sizes of blocks and rescore lists. Span by span where no library was loaded, or where it cannot read the
    rows. Costs one read of each span for every MOST_QUERIES queries, 4 D operations for a query and a row; memory is
    that of a scan for so many queries, and D values for every span of a query beyond the first.
    """
    work, library = work.some(), native_library().library if applies(work.rows) else None
    if library is None or _is_one_span(work):
        return span_by_span(work, partial(native_state, limits=limits))
    parts = [SegmentScan(part, library, limits).state() for part in _calls(work, limits)]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def _is_one_span(work: SegmentWork) -> bool:
    # two numbers tell for most batches that there are several
    some = len(work.pairs) > 0 and work.spans[0].tolist() != work.spans[-1].tolist()
    return not some and bool((work.spans == work.spans[:1]).all())


def _calls(work: SegmentWork, limits: NativeLimits) -> Iterator[SegmentWork]:
    """Yield `work` in parts of the batch, each small enough for one call."""
    lengths = (work.spans[:, 1] - work.spans[:, 0]).double()
    for_row, for_pair = 4.0 * work.rows.dim / limits.step_operations, work.rows.dim / MOST_SUMS
    if float(lengths.sum()) * for_row + len(lengths) * for_pair < 1.0:
        yield work
        return
    share = torch.zeros(len(work.query)).double().index_add_(0, work.pairs, lengths * for_row + for_pair)
    sizes = share.cumsum(0).long().unique_consecutive(return_counts=True)[1].tolist()
    for index in torch.arange(len(share)).split(sizes):
        yield work.take(index)


class SegmentScan(NativeScan):
    """One scan of several spans: the problem as the library reads it, and the tensors that it points to."""

    def __init__(self, work: SegmentWork, library: ctypes.CDLL, limits: NativeLimits) -> None:
        """Prepare the scan of `work` by `library`; no row is read yet."""
        self.segments = work
        lengths = work.spans[:, 1] - work.spans[:, 0]
        of_query = torch.zeros(len(work.query), dtype=torch.int64).index_add_(0, work.pairs, lengths)
        self.longest, self.together = int(of_query.max()), int(lengths.sum())
        super().__init__(Work(work.rows, work.query, Span(0, len(work.rows)), work.wanted), library, limits)

    def _count(self) -> int:
        return self.longest

    def _are_few(self) -> bool:
        return len(self.work.query) <= FEW_OF_TASK

    def _operations(self) -> float:
        return 4.0 * self.together * self.work.rows.dim

    def _threads(self) -> int:
        most = self.limits.threads or torch.get_num_threads()
        return max(1, min(most, int(self.operations / THREAD_OPERATIONS)))

    def _scan(self) -> None:
        work = self.segments
        held = work.pairs.contiguous(), work.spans.contiguous()
        segments = SegmentsProblem(
            *(part.data_ptr() for part in held),
            *(len(work.pairs), len(work.query), MOST_QUERIES, TASKS * self.asked.threads, LEAST_ROWS, FEW_OF_TASK),
        )
        self._call("oracle_scan_segments", ctypes.byref(segments))

    def _in_double(self, index: Int64[Tensor, "b"]) -> PosteriorState:
        return span_by_span(self.segments.take(index), double_state)
