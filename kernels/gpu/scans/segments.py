"""Queries over segments of the rows, one launch of each kernel for all of them: classes, and unions of classes."""

from __future__ import annotations

from dataclasses import replace

from ....base.arrays import Int64, Tensor
from ....base.calls.early import EarlyNumber
from ...common.matmul import ieee_products
from ...common.rows import Span
from ...common.segments import SegmentWork
from ...common.state import PosteriorState
from ...common.work import Work
from ..core.configs import LaunchConfig
from ..core.limits import DEFAULT_LIMITS, ScanLimits
from ..operands.moved_query import taken
from ..operands.panels import Panels
from ..operands.rows import copy_bytes
from ..operands.splits import EXACT, Split
from ..states.unions import Unions
from .launch_checks import checked_config
from .narrow import NARROW_DIM
from .scan import launching_on, triton_state
from .segment_order import SegmentOrder
from .segment_scan import SEGMENT_BATCH, SegmentScan

# what a state has without moments and heaviest samples
AVERAGED = ("lse", "lse_rest", "mean")

# pairs that are sorted together, and values of their means
MOST_PAIRS, MOST_VALUES = 1 << 13, 1 << 28


def segments_state(work: SegmentWork, *, limits: ScanLimits = DEFAULT_LIMITS) -> PosteriorState:
    """Return the states of the queries of `work` over their spans together, [B].

    limits: of the logits held at once: of longer spans a block is scanned after the other. The host waits once for how
    many spans of all rows there are, which are scanned apart, and once more where it has to look how many pairs a query
    has. Where all rows at once take no more time, one scan of them leaves out those of no span, without a wait.

    Raises InputError where the kernels cannot run. Costs as :func:`segment_states` or :func:`.scan.triton_state`.
    """
    if len(work.pairs) == 0:
        return work.nothing()
    every = Work(work.rows, work.query, Span(0, len(work.rows)), work.wanted)
    checked_config(every)
    work = work.even()
    if scans_all(work, every, limits):
        return triton_state(work.in_one(_by_query(work)), limits=limits)
    return _some_of_all(work, every, limits)


def scans_all(work: SegmentWork, every: Work, limits: ScanLimits = DEFAULT_LIMITS) -> bool:
    """Return whether one scan of `every` row, of which queries leave out some, answers for the pairs of `work`.

    limits: of a copy of all rows, where one is read. It does where no scan of segments can, and where that would cost
    half as many products of padded tiles or more: its own are of many queries, which take half the time.
    """
    pairs, (count, dim) = len(work.pairs), work.rows.stored.shape
    if dim <= NARROW_DIM or _config(every, EXACT).score.least_slices(dim) > 1:
        return True
    if pairs > MOST_PAIRS or pairs * dim > MOST_VALUES or count * copy_bytes(work.rows) > limits.score_bytes:
        return True
    columns = SEGMENT_BATCH * Panels.most(pairs, SEGMENT_BATCH, work.distinct)
    padded = SEGMENT_BATCH * -(-len(work.query) // SEGMENT_BATCH)
    return work.distinct is not None and work.distinct * padded < 2 * columns


def _by_query(work: SegmentWork) -> Int64[Tensor, "B U 2"]:
    """Return the spans of each query."""
    spans: Int64[Tensor, "B U 2"] = work.spans.unflatten(0, (len(work.query), -1))
    return spans


def _some_of_all(work: SegmentWork, every: Work, limits: ScanLimits) -> PosteriorState:
    """Return the states of queries with as many spans each, the longest of which is known, or of all rows.

    The latter are left to a scan of everything; whether there are any the host reads while the device scans the others.
    """
    longest = max(1, work.longest or 0)
    order = _sorted(every, work.pairs, work.spans, longest, each=work.each or 1)
    apart = EarlyNumber(order.apart)
    found = _sorted_states(every, order, longest, distinct=work.distinct, limits=limits)
    count = apart.read()
    if count == 0:
        return found
    free = order.order[len(order.order) - count :]
    if work.each != 1:
        free = work.pairs[free]
    asked = taken(work.query, free).excluding(work.query.excluded[free])
    rest = triton_state(replace(every, query=asked), limits=limits)
    if work.wanted.moments or work.wanted.top_k:
        return found.put(free, rest)
    changed = {name: getattr(found, name).index_copy(0, free, getattr(rest, name)) for name in AVERAGED}
    return replace(found, **changed)


def segment_states(
    work: Work,
    which: Int64[Tensor, "P"],
    spans: Int64[Tensor, "P 2"],
    longest: int,
    split: Split = EXACT,
    *,
    limits: ScanLimits = DEFAULT_LIMITS,
) -> PosteriorState:
    """Return the states of pairs of a query and a segment of the rows, [P]; no synchronisation.

    work: rows, [B] queries, the span that all segments lie in, and what is wanted. which: the query of each pair, [P].
    spans: rows [start, stop) of each segment, [P, 2], empty for none. longest: rows of the longest one; longer ones
    count for none. split, limits: as in :func:`.scan.triton_state`.

    Costs one read of every segment for each 16 queries that are about it, and of its rows with weight once more. Memory
    is that of the logits of a block of each segment, and P D values.
    """
    return _sorted_states(work, _sorted(work, which, spans, longest), longest, split, limits=limits)


def _sorted(
    work: Work, which: Int64[Tensor, "P"], spans: Int64[Tensor, "P 2"], longest: int, *, each: int = 1
) -> SegmentOrder:
    with launching_on(work.rows.device):
        return SegmentOrder.of(work.query, which, spans, longest=longest, rows=work.span.stop, each=each)


def _sorted_states(
    work: Work,
    order: SegmentOrder,
    longest: int,
    split: Split = EXACT,
    *,
    distinct: int | None = None,
    limits: ScanLimits = DEFAULT_LIMITS,
) -> PosteriorState:
    """Return the states of the pairs of `order`, in the order they were given in, [P], or of its unions, [B].

    distinct: how many different segments there are at most but empty ones, or None.
    """
    asked = replace(work, query=order.query)
    # no segment has more rows to rescore
    room = replace(limits, most_rescored=min(limits.most_rescored, longest))
    with launching_on(work.rows.device), ieee_products(work.rows.device.type):
        scan = SegmentScan(asked, _config(asked, split), split, limits=room)
        scan.spans, scan.longest, scan.distinct = order.spans, longest, distinct
        for block in scan.blocks():
            scan.add(block)
        if order.unions is None:
            scan.output = order.order
            return scan.state()
        law, measures = scan.meeting.law, scan.operand.measures
        return Unions(replace(work, query=order.unions), order.place, measures, law).state(scan.state(), limits)


def _config(work: Work, split: Split) -> LaunchConfig:
    return checked_config(work, split, batch=SEGMENT_BATCH)
