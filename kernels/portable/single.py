"""The scan in float32: coarse logits block by block, and a list of the samples whose rounding would show.

Each block is read (and converted) once, scored against all queries while it is in cache, and summed only where it
carries weight. Samples on the rescore list are scored again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...base.arrays import Bool, Float, Float64, Int64, Tensor
from ..common.accumulate import EVERYONE, BlockSums, Index, RunningSums
from ..common.matmul import mean_product
from ..common.rescore import Pairs, pairs_state
from ..common.rounding import POINT_LIMIT, Windows, logit_error, loss_shows, point_error, windows
from ..common.state import PosteriorState, Wanted, merge, without_top
from ..common.top_k import TopCandidates
from ..common.work import Work
from .blocks import BLOCK_LIMITS, Block, BlockLimits, BlockLogits
from .double import double_state
from .rescore_collector import RescoreCollector

# from this rescore window on, samples are listed by their logits before weights of e^-80 underflow
WIDE_WINDOW = 30.0

# how far below others a sum has no weight, in nats
UNSEEN = 60.0


@dataclass(frozen=True)
class ScanResult:
    """What a scan in float32 leaves.

    coarse: states over the samples that were not listed. listed: the samples to rescore. overflowed: queries, [B], with
    more samples to rescore than are rescored one by one. partition: of the coarse logits, [B] nats.
    """

    coarse: PosteriorState
    listed: Pairs
    overflowed: Bool[Tensor, "B"]
    partition: Float64[Tensor, "B"]


def single_state(work: Work, limits: BlockLimits = BLOCK_LIMITS) -> PosteriorState:
    """Return the states over the span of `work` from a float32 scan, its listed samples rescored.

    limits: sizes of blocks and lists. Queries whose list overflowed are scanned again in float64. Costs one read of the
    span, 2 B n D operations for the logits and as many again for the blocks that carry weight.
    """
    found = scan_once(work, limits)
    state = found.coarse
    if len(found.listed):
        rescored = pairs_state(work.rows, work.query, found.listed, work.wanted)
        state = merge(without_top(state, rescored.top_rows), rescored)
    again = found.overflowed | _lost_digits(work, found.coarse, state)
    if work.wanted.mean:
        rows, query = work.rows, work.query
        share = (found.coarse.lse - state.lse).exp().nan_to_num(0.0).clamp_max(1.0)
        error = logit_error(rows, query, torch.float32, found.partition)
        again = again | (loss_shows(rows, query, state.mean, share, error) & (state.lse > -torch.inf))
    overflowed = again.nonzero()[:, 0]
    return state.put(overflowed, double_state(work.take(overflowed), limits)) if len(overflowed) else state


def _lost_digits(work: Work, coarse: PosteriorState, state: PosteriorState) -> Bool[Tensor, "B"]:
    """Return which points have lost digits, [B], beside which `coarse` sums have weight in the `state` of all."""
    lost = point_error(work.rows, work.query)
    return (lost > POINT_LIMIT) & (coarse.lse > -torch.inf) & (coarse.lse >= state.lse - UNSEEN - lost)


def scan_once(work: Work, limits: BlockLimits = BLOCK_LIMITS) -> ScanResult:
    """Return what one pass over the span of `work` leaves; nothing is rescored yet."""
    scan = SingleScan(work, limits)
    for block in scan.scores.blocks():
        scan.add(block)
    return scan.result()


class SingleScan:
    """One pass in float32: logits of a block, running sums, rescore list, and candidates for the top-k."""

    def __init__(self, work: Work, limits: BlockLimits) -> None:
        """Prepare the pass of `work`; no row is read yet."""
        batch, device = len(work.query), work.rows.device
        self.work, self.limits = work, limits
        self.scores = BlockLogits(work, torch.float32, limits)
        self.sums = RunningSums(work)
        self.top = TopCandidates(batch, work.wanted.top_k, device)
        self.listed = RescoreCollector(batch, limits.rescore_limit(len(work.span)), device)
        # a lower bound of the log-partition of the coarse logits, [B]
        self.partition = torch.full_like(work.query.alpha, -torch.inf)

    def add(self, block: Block) -> None:
        """Score a block, list what is to be rescored, and add the rest where it carries weight."""
        logits = self.scores.of(block)
        top = logits.amax(1)
        self.top.offer(logits, top, block.span.start)
        self.partition = torch.maximum(self.partition, top.double())
        window = self._windows()
        floor = (self.partition - window.weight).float()
        query = ((top >= floor) & (top > -torch.inf)).nonzero()[:, 0]
        if len(query) == 0:
            return
        self.sums.raise_reference(torch.maximum(self.sums.reference, top))
        many = self._carry_much_weight(logits, floor)[query]
        if bool(many.any()):
            self._add_dense(query[many], _taken(logits, query[many]), window, block)
        if not bool(many.all()):
            self._add_pairs(query[~many], _taken(logits, query[~many]), window, block)
        self.partition = torch.maximum(self.partition, self.sums.partition)

    def result(self) -> ScanResult:
        """Return what the blocks so far leave."""
        overflowed = self.listed.overflowed
        pairs = self.listed.pairs()
        has_weight = pairs.logit >= (self.partition - self._windows().weight)[pairs.query]
        rows, query = self.work.rows, self.work.query
        coarse = self.top.heaviest(self.sums.state(rows, query), rows, query)
        listed = pairs.where(has_weight & ~overflowed[pairs.query])
        return ScanResult(coarse, listed, overflowed, self.partition)

    def _windows(self) -> Windows:
        rows, query, count = self.work.rows, self.work.query, len(self.work.span)
        found = windows(rows, query, count, logit_error(rows, query, torch.float32, self.partition))
        # an overflowed query starts again in float64: what else it meets here need not be listed
        return replace(found, rescore=found.rescore.masked_fill(self.listed.overflowed, -torch.inf))

    def _carry_much_weight(self, logits: Float[Tensor, "B n"], floor: Float[Tensor, "B"]) -> Bool[Tensor, "B"]:
        # a sample of the rows tells queries with many rows of weight from those with few at an eighth of the cost
        some = logits[:, :: max(1, min(8, logits.shape[1] // 64))]
        return (some >= floor[:, None]).sum(1) > self.limits.sparse_share * some.shape[1]

    def _add_dense(
        self, query: Int64[Tensor, "b"], logits: Float[Tensor, "b n"], window: Windows, block: Block
    ) -> None:
        """List the heaviest samples of a block for rescoring, and add all others by one product."""
        start, reference = block.span.start, self.sums.reference[query]
        wide = (window.rescore[query] > WIDE_WINDOW).nonzero()[:, 0]
        if len(wide):
            floor = (self.partition - window.rescore)[query[wide], None]
            pair = (logits[wide] >= floor).nonzero()
            which, column = wide[pair[:, 0]], pair[:, 1]
            self.listed.add(Pairs(query[which], column + start, logits[which, column].double()))
            logits[which, column] = -torch.inf
        weights = logits.sub_(reference[:, None]).exp_()
        mass = weights.sum(1)
        self.sums.meet_at(query, mass)
        # samples of wide windows are listed already, and what is left of them may have underflowed
        floor = (self.sums.partition[query] - window.rescore[query] - reference.double()).exp().float()
        floor = floor.index_fill(0, wide, torch.inf)
        some = (weights.amax(1) >= floor).nonzero()[:, 0]
        if len(some):
            pair = (weights[some] >= floor[some, None]).nonzero()
            which, column = some[pair[:, 0]], pair[:, 1]
            logit = reference[which].double() + weights[which, column].double().log()
            self.listed.add(Pairs(query[which], column + start, logit))
            weights[which, column] = 0.0
            mass[some] = weights[some].sum(1)
        everyone = len(query) == len(self.work.query)
        found = dense_sums(weights, mass, reference, block, wanted=self.work.wanted)
        self.sums.add(found, EVERYONE if everyone else query)

    def _add_pairs(
        self, query: Int64[Tensor, "b"], logits: Float[Tensor, "b n"], window: Windows, block: Block
    ) -> None:
        """List the heaviest samples of a block for rescoring, and add only the others that have weight."""
        has_weight = logits >= (self.partition - window.weight).float()[query, None]
        pair, logit = has_weight.nonzero(), logits[has_weight]
        which, column = pair[:, 0], pair[:, 1]
        weights = (logit - self.sums.reference[query[which]]).exp_()
        self.sums.meet_at(query, torch.bincount(which, weights.double(), minlength=len(query)))
        floor = torch.maximum(self.partition, self.sums.partition)[query] - window.rescore[query]
        listed = logit >= floor[which]
        self.listed.add(Pairs(query[which[listed]], column[listed] + block.span.start, logit[listed].double()))
        rest = ~listed
        if bool(rest.any()):
            index, found = sparse_sums(query[which[rest]], weights[rest], column[rest], block, sums=self.sums)
            self.sums.add(found, index)


def dense_sums(
    weights: Float[Tensor, "b n"], mass: Float[Tensor, "b"], origin: Float[Tensor, "b"], block: Block, *, wanted: Wanted
) -> BlockSums:
    """Return the sums over every row of `block`, for b queries.

    weights: exp(l - origin), [b, n], zero where a sample is rescored or does not count. mass: their sums, [b].
    wanted: which sums. Costs 2 b n D operations where the mean is wanted.
    """
    sums = torch.zeros(4, len(weights), dtype=torch.float64, device=weights.device)
    sums[0] = mass
    if wanted.moments:
        sums[1] = torch.linalg.vecdot(weights, weights)
        sums[2] = torch.xlogy(weights, weights).sum(1)
        sums[3] = weights @ block.half_norms
    return BlockSums(origin, sums, mean_product(weights, block.operand) if wanted.mean else weights[:, :0])


def sparse_sums(
    query: Int64[Tensor, "P"],
    weights: Float[Tensor, "P"],
    column: Int64[Tensor, "P"],
    block: Block,
    *,
    sums: RunningSums,
) -> tuple[Index, BlockSums]:
    """Return the sums over single rows of `block`, and the queries, [b], they are of.

    query, column: of each pair of a query and a row of the block, [P], sorted by query. weights: exp(l - reference),
    [P]. sums: whose reference that is, and which says what is wanted. Costs one read of P rows.
    """
    which, place, counts = query.unique_consecutive(return_inverse=True, return_counts=True)
    terms = [weights.double()]
    if sums.wanted.moments:
        terms += [weights.double().square(), torch.xlogy(weights, weights).double()]
        terms += [(weights * block.half_norms[column]).double()]
    found = torch.zeros(4, len(which), dtype=torch.float64, device=weights.device)
    for row, term in zip(found, terms, strict=False):
        row.index_add_(0, place, term)
    total = weights.new_empty(len(which), 0)
    if sums.wanted.mean:
        offsets = counts.cumsum(0) - counts
        total = torch.nn.functional.embedding_bag(
            column, block.operand, offsets, mode="sum", per_sample_weights=weights
        )
    return which, BlockSums(sums.reference[which], found, total)


def _taken(logits: Float[Tensor, "B n"], query: Int64[Tensor, "b"]) -> Float[Tensor, "b n"]:
    # turned around only for the queries that need it
    return logits.contiguous() if len(query) == len(logits) else logits[query].contiguous()
