"""Queries over segments of the rows, one launch of each kernel for all of them: classes, and unions of classes."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...base.arrays import Bool, Int64, Tensor
from ...base.early import EarlyNumber
from ..common.matmul import ieee_products
from ..common.rows import Span
from ..common.segments import SegmentWork, span_by_span
from ..common.state import PosteriorState
from ..common.work import Work
from .configs import LaunchConfig
from .digits import DigitOperand
from .launch_checks import checked_config
from .limits import DEFAULT_LIMITS, ScanLimits
from .logits import Scores, score
from .logits_int8 import score_digits
from .moved_query import taken
from .narrow import NARROW_DIM
from .operands import EXACT, BlockOperand, QueryOperand, Split
from .panels import Panels
from .scan import BlockSums, TwoPhaseScan, on_device, triton_state
from .segment_order import SegmentOrder
from .tiles import DigitConfig, ScoreConfig
from .unions import Unions
from .weighted_sum import weigh
from .weights import Reference, weights_of

# what a state has without moments and heaviest samples
AVERAGED = ("lse", "lse_rest", "mean")

# the batch whose tiles serve segments, of which few queries share one
SEGMENT_BATCH = 16


class SegmentScan(TwoPhaseScan):
    """A scan in which every tile of queries has rows of its own.

    panels: these tiles; the queries of the work are sorted as they are there. spans: the rows of each query, [B, 2].
    """

    panels: Panels
    spans: Int64[Tensor, "B 2"]

    def blocks(self) -> list[Span]:
        """Return the span as a whole: the logits of all segments are held at once."""
        return [self.work.span]

    def _score(self, block: BlockOperand) -> Scores:
        config, operand = self.config.score, self.operand
        if isinstance(config, DigitConfig) and isinstance(operand, DigitOperand):
            slices = config.least_slices(block.dim)
            return score_digits(operand, block, config, slices, panels=self.panels)
        if isinstance(config, ScoreConfig) and isinstance(operand, QueryOperand):
            return score(operand, block, config, 1, panels=self.panels)
        raise AssertionError(f"{type(operand).__name__} has no kernel for {config}")

    def _offer(self, scores: Scores, start: int) -> None:
        self.top.offer(scores, start, self.panels, self.spans)

    def _weigh(self, scores: Scores, block: BlockOperand, reference: Reference) -> BlockSums:
        config, wanted, panels = self.config, self.work.wanted, self.panels
        weights = weights_of(
            scores, block, reference, self.list, config=config.weigh, wanted=wanted, split=self.split, panels=panels
        )
        if not wanted.mean:
            return weights.sums, weights.sums.new_empty(0, len(self.query), 0)
        return weights.sums, weigh(weights, block, config.weigh, shares=1, panels=panels)


def segments_state(work: SegmentWork, *, limits: ScanLimits = DEFAULT_LIMITS) -> PosteriorState:
    """Return the states of the queries of `work` over their spans together, [B]; the host waits twice at most.

    limits: of the logits held at once: longer spans are scanned one after the other, and queries of several of them by
    one scan of all rows, as rows of few values always are.

    Raises InputError where the kernels cannot run. Costs as :func:`segment_states`.
    """
    if len(work.pairs) == 0:
        return work.nothing()
    every = Work(work.rows, work.query, Span(0, len(work.rows)), work.wanted)
    checked_config(every)
    known, each = work.longest, work.each
    if each is not None and work.rows.dim <= NARROW_DIM:
        return triton_state(work.in_one(work.spans.unflatten(0, (-1, each))), limits=limits)
    if each is not None and known is not None and known <= segments_height(every, len(work.pairs), limits):
        return _some_of_all(work, every, known, limits)
    return _looked_at(work.some(), every, limits)


def _looked_at(work: SegmentWork, every: Work, limits: ScanLimits) -> PosteriorState:
    """Return the states as :func:`segments_state` does, after a look at how long the spans are and how many of each."""
    if len(work.pairs) == 0:
        return work.nothing()
    lengths = work.spans[:, 1] - work.spans[:, 0]
    if work.each == 1:
        return _pair_states(work, every, int(lengths.max()), limits)
    place = torch.arange(len(work.pairs), device=work.pairs.device)
    # pairs come in the order of their queries
    rank = place - torch.searchsorted(work.pairs, work.pairs)
    longest, most = torch.stack([lengths.max(), rank.max()]).tolist()
    if most == 0:
        return work.nothing().put(work.pairs, _pair_states(work, every, longest, limits))
    table = torch.full((len(work.query), most + 1, 2), len(work.rows), device=place.device)
    table[work.pairs, rank] = work.spans
    return triton_state(work.in_one(table), limits=limits)


def _some_of_all(work: SegmentWork, every: Work, longest: int, limits: ScanLimits) -> PosteriorState:
    """Return the states of queries with as many spans each, which have at most `longest` rows, or all.

    The latter are left to a scan of everything; whether there are any the host reads while the device scans the others.
    """
    order = _sorted(every, work.pairs, work.spans, longest)
    apart = EarlyNumber(order.apart)
    found = _sorted_states(every, order, longest, union=None if work.each == 1 else work, limits=limits)
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


def _pair_states(work: SegmentWork, every: Work, longest: int, limits: ScanLimits) -> PosteriorState:
    # of each pair, whose spans have at most `longest` rows
    together = segments_height(every, len(work.pairs), limits)
    if longest <= together:
        return segment_states(every, work.pairs, work.spans, longest)
    return _two_ways(work, every, work.spans[:, 1] - work.spans[:, 0] > together, together)


def _two_ways(work: SegmentWork, every: Work, alone: Bool[Tensor, "P"], together: int) -> PosteriorState:
    # those in `alone` one span after the other, the others, of at most `together` rows, in one launch
    long, short = (which.nonzero()[:, 0] for which in (alone, ~alone))
    each = torch.arange(len(long), device=long.device)
    apart = replace(work, query=work.query.take(work.pairs[long]), pairs=each, spans=work.spans[long])
    found = replace(work, query=work.query.take(work.pairs)).nothing()
    found = found.put(long, span_by_span(apart, triton_state))
    # spans of no row have no weight
    if len(short) == 0 or together < 1:
        return found
    return found.put(short, segment_states(every, work.pairs[short], work.spans[short], together))


def segments_height(work: Work, pairs: int, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return how many rows the longest segment may have for :func:`segment_states`, 0 where it cannot answer `work`.

    pairs: of a query and a segment. limits: of the logits held at once.
    """
    score = _config(work, EXACT).score
    if work.rows.dim <= NARROW_DIM or score.least_slices(work.rows.dim) > 1:
        return 0
    return limits.score_bytes // (12 * SEGMENT_BATCH * pairs)


def segment_states(
    work: Work, which: Int64[Tensor, "P"], spans: Int64[Tensor, "P 2"], longest: int, split: Split = EXACT
) -> PosteriorState:
    """Return the states of pairs of a query and a segment of the rows, [P]; no synchronisation.

    work: rows, [B] queries, the span that all segments lie in, and what is wanted. which: the query of each pair, [P].
    spans: rows [start, stop) of each segment, [P, 2], empty for none. longest: rows of the longest one; longer ones
    count for none. split: as in :func:`.scan.triton_state`.

    Costs one read of every segment for each 16 queries that are about it, and of its rows with weight once more. Memory
    is 12 bytes for each of 16 queries a pair and row of the longest segment, and P D values.
    """
    return _sorted_states(work, _sorted(work, which, spans, longest), longest, split)


def _sorted(work: Work, which: Int64[Tensor, "P"], spans: Int64[Tensor, "P 2"], longest: int) -> SegmentOrder:
    with on_device(work.rows.device):
        return SegmentOrder.of(work.query, which, spans, longest=longest, rows=work.span.stop)


def _sorted_states(
    work: Work,
    order: SegmentOrder,
    longest: int,
    split: Split = EXACT,
    *,
    union: SegmentWork | None = None,
    limits: ScanLimits = DEFAULT_LIMITS,
) -> PosteriorState:
    """Return the states of the pairs of `order`, of the queries of `work`, in the order they were given in, [P].

    union: whose pairs they are, as many of each query, where the states of the queries are asked for instead, [B].
    """
    with on_device(work.rows.device), ieee_products(work.rows.device.type):
        asked = replace(work, query=order.query)
        config = _config(asked, split)
        scan = SegmentScan(asked, config, split)
        scan.panels, scan.spans = Panels.of(order.spans, config.score.block_b, longest), order.spans
        scan.add(work.span)
        if union is None or union.each is None:
            scan.output = order.order
            return scan.state()
        one = union.in_one(union.spans.unflatten(0, (-1, union.each)))
        return Unions(one, order.place, scan.operand.measures, scan.meeting.law).state(scan.state(), limits)


def _config(work: Work, split: Split) -> LaunchConfig:
    return checked_config(work, split, batch=SEGMENT_BATCH)
