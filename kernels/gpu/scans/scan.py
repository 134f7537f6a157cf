"""The Triton implementation, from rows and queries to states: score, merge, weigh, and rescore where rounding shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Generic, TypeVar

import torch

from ....base.arrays import Int64, Tensor
from ....base.calls.cuda_graphs import capturing
from ...common.matmul import ieee_products
from ...common.rounding import Rounding
from ...common.rows import Query, Rows, Span
from ...common.state import PosteriorState, Wanted
from ...common.work import Work
from ..core.configs import LaunchConfig
from ..core.limits import DEFAULT_LIMITS, ScanLimits
from ..core.tiles import DigitConfig, FusedConfig, ScoreConfig
from ..operands.digits import DigitOperand, digit_rounding
from ..operands.moved_query import make_ready
from ..operands.parts import QueryOperand
from ..operands.rows import BlockOperand, block_dtype, copy_bytes, operand_rows
from ..operands.splits import EXACT, Split, operand_dtype, unit_rounding
from ..products.candidates import TileCandidates
from ..products.fused import fused
from ..products.logits import Scores, score
from ..products.logits_int8 import score_digits
from ..products.weighted_sum import weigh
from ..products.weights import Reference, weights_of
from ..rescore.doubt import Doubt
from ..rescore.listed_pairs import ListedPairs
from ..rescore.lists import RescoreList
from ..rescore.rescored import Rescored
from ..states.finish import Finish
from ..states.top import rescored_top
from ..sums.law import Law
from ..sums.partition import Meeting
from ..sums.running_sums import RunningSums
from .launch_checks import checked_config
from .narrow import NARROW_DIM, narrow_state
from .one_read import one_read_state, reads_once

# the fused kernel unrolls its loop over excluded ranges and is compiled for each number of them, up to this one
FUSED_RANGES = 4


def triton_state(work: Work, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS) -> PosteriorState:
    """Return the state of the span for every query, as `posterior_state` does and with the same bound on the error.

    work: rows in a dtype of KERNEL_DTYPES, [N, D], queries [B], a span of at least one row, and what is wanted.
    split: into how many numbers operands are split; with HALF half the products give the velocity to about 1e-3.
    limits: rows and logits held at once, and how many samples are rescored one by one.

    Raises InputError before any launch where the kernels cannot run. Costs one read of the span for the logits and one
    of the rows with weight, 2 to 4 B n D operations each. Memory is the logits of a block, and B D values. Where a
    program can hold all of D, and neither moments nor top-k are wanted, no logits are held; rows of few values are
    scored in float64.
    """
    config = checked_config(work, split)
    device = work.rows.device
    with launching_on(device), ieee_products(device.type):
        make_ready(work.query)
        if work.rows.dim <= NARROW_DIM:
            return narrow_state(work, limits)
        if reads_once(work):
            return one_read_state(work)
        scan = scan_type(work.query, work.wanted, config)(work, config, split, limits=limits)
        for block in scan.blocks():
            scan.add(block)
        return scan.state()


def scan_type(query: Query, wanted: Wanted, config: LaunchConfig) -> type[TwoPhaseScan] | type[FusedScan]:
    """Return the scan that answers: the fused one where a program can hold all that is wanted.

    query: [B] queries, whose excluded ranges are counted. wanted: what is computed. config: of the call.
    """
    plain = not wanted.moments and wanted.top_k == 0 and query.excluded.shape[1] <= FUSED_RANGES
    return FusedScan if config.fused is not None and plain else TwoPhaseScan


Operand = TypeVar("Operand", bound=QueryOperand | DigitOperand)


class TritonScan(Generic[Operand]):
    """What both scans share: operands, partition and running sums; the host does not wait before the top-k is named.

    work: what is scanned, its rows as the kernels multiply them. operand: the queries as the kernels read them.
    rounding: how their products round. meeting: the log-partition so far, and what logits are compared with.
    sums: over the samples that are not to be rescored. list: the samples that are. top: the heaviest samples.
    output: the place of each query in the states, [B], or None for its own. pair_bytes: bytes held for each pair of a
    row and a query.
    """

    pair_bytes: int
    output: Int64[Tensor, "B"] | None = None

    def __init__(
        self, work: Work, config: LaunchConfig, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS
    ) -> None:
        """Prepare the operands of the queries, and room for sums and rescore lists; no synchronisation.

        work: what is scanned. config: of the call. split: into how many numbers operands are split. limits: rows held
        at once and room of the rescore lists.
        """
        self.work = replace(work, rows=operand_rows(work.rows))
        self.config, self.split, self.limits = config, split, limits
        self.operand, self.rounding = self._operand()
        self.meeting = Meeting.of(self.work, Law.of(self.work, self.rounding, split), self.operand.measures)
        dim = self.rows.dim if work.wanted.mean else 0
        self.sums = RunningSums.empty(len(self.query), dim, self.rows.device)
        self.list = ListedPairs.empty(self.meeting.counts[0], limits.listed(len(work.span)))
        self.top = TileCandidates.empty(len(self.query), work.wanted.top_k, work.rows.device)

    @property
    def rows(self) -> Rows:
        """The data set as the kernels multiply it."""
        return self.work.rows

    @property
    def query(self) -> Query:
        """The queries as they were given."""
        return self.work.query

    def blocks(self) -> list[Span]:
        """Return the blocks of the span that are held at once: their logits, and a centred copy where one is needed."""
        size = self.limits.block_rows(len(self.query), self.pair_bytes, copy_bytes(self.rows))
        start, stop = self.work.span.start, self.work.span.stop
        return [Span(first, min(first + size, stop)) for first in range(start, stop, size)]

    def add(self, span: Span) -> None:
        """Score the block of rows in `span`, move the origin of the weights to the log-partition so far, and weigh."""
        block = self._block(span)
        scores = self._score(block)
        self._offer(scores, span.start)
        self.meeting.meet(scores.stats, self.sums)
        self.sums.add(*self._weigh(scores, block, Reference(*self.meeting.reference.unbind(0))))

    def state(self) -> PosteriorState:
        """Return the state of all samples of the span, once every block was added."""
        # the samples to rescore are those with weight in the whole span
        rescore_list = RescoreList.of_list(self.list, self.meeting.reference[1], self.meeting.counts[1])
        rescored = Rescored.of(self.work, rescore_list, self._doubt())
        state = Finish(self.work, self.operand.measures, self.sums, rescored, self.output).state()
        return self._with_top(state, rescored) if self.work.wanted.top_k else state

    def _doubt(self) -> Doubt | None:
        """Return what tells whether a loss of the sums shows in the mean, None where that is not wanted."""
        if not self.work.wanted.mean:
            return None
        return Doubt(self.work, self.operand.measures, self.sums, self.meeting.law)

    def _with_top(self, state: PosteriorState, rescored: Rescored) -> PosteriorState:
        top = rescored_top(rescored, self.top, reads_values=not capturing(), limits=self.limits, output=self.output)
        return replace(state, top_logits=top.logits, top_rows=top.rows, top_rest=top.rest)

    def _block(self, span: Span) -> BlockOperand:
        """Return the rows of a block as the kernels read them."""
        return BlockOperand.of(self.rows, span)

    def _offer(self, scores: Scores, start: int) -> None:
        """Take the candidates for the heaviest samples from the `scores` of a block whose first row is `start`."""
        self.top.offer(scores, start)

    def _operand(self) -> tuple[Operand, Rounding]:
        """Return the queries as the kernels read them, and how their products round."""
        raise NotImplementedError

    def _score(self, block: BlockOperand) -> Scores:
        """Return the statistics of the logits of a block, and what is kept of the logits."""
        raise NotImplementedError

    def _weigh(self, scores: Scores, block: BlockOperand, reference: Reference) -> BlockSums:
        """Return the sums over the samples of a block that are not to be rescored, and list those that are."""
        raise NotImplementedError

    def _parts(self, depth: int, *, chained: bool = False) -> tuple[QueryOperand, Rounding]:
        """Return the queries in floating point numbers, and the rounding of sums over `depth` values of D at a time.

        chained: whether all parts of a query add to one running sum.
        """
        dtype, device = block_dtype(self.rows), self.config.device
        centre = self.rows.centre if self.rows.raw_operand else None
        operand = QueryOperand.of(self.query, operand_dtype(dtype), self.split, centre)
        return operand, unit_rounding(dtype, device, depth, self.split, chained=chained)


# sums of weights of the tiles or shares of a block, [T, 4 or 1, P] float32, and of weights times rows, [S, B, D]
BlockSums = tuple[Tensor, Tensor]


class TwoPhaseScan(TritonScan[QueryOperand | DigitOperand]):
    """Logits of a block first, then, with the reference that follows from them, its weights and the weighted sum."""

    # logits, weights in two parts, and the same again of rows that are gathered
    pair_bytes = 12

    def _operand(self) -> tuple[QueryOperand | DigitOperand, Rounding]:
        config = self.config.score
        if isinstance(config, DigitConfig):
            operand = DigitOperand.of(self.query, self.rows, config.block_d, self.split)
            return operand, digit_rounding(self.split)
        return self._parts(config.block_d * config.every)

    def _score(self, block: BlockOperand) -> Scores:
        config, operand = self.config.score, self.operand
        slices = self.config.score_slices(len(block), len(operand), block.dim)
        if isinstance(config, DigitConfig) and isinstance(operand, DigitOperand):
            return score_digits(operand, block, config, slices)
        if isinstance(config, ScoreConfig) and isinstance(operand, QueryOperand):
            return score(operand, block, config, slices)
        raise AssertionError(f"{type(operand).__name__} has no kernel for {config}")

    def _weigh(self, scores: Scores, block: BlockOperand, reference: Reference) -> BlockSums:
        config, wanted, batch = self.config, self.work.wanted, len(self.query)
        weights = weights_of(scores, block, reference, self.list, config=config.weigh, wanted=wanted, split=self.split)
        if not wanted.mean:
            return weights.sums, weights.sums.new_empty(0, batch, 0)
        shares = config.weigh_shares(len(block), batch, block.dim)
        return weights.sums, weigh(weights, block, config.weigh, shares=shares)


class FusedScan(TritonScan[QueryOperand]):
    """Statistics of the logits of a block first, then logits, weights and weighted sum in one launch."""

    # statistics of tiles, a fraction of this
    pair_bytes = 1

    @property
    def fused(self) -> FusedConfig:
        """The tile of the fused kernel.

        Raises AssertionError where the configuration has none.
        """
        if self.config.fused is None:
            raise AssertionError("a fused scan needs a fused configuration")
        return self.config.fused

    def _operand(self) -> tuple[QueryOperand, Rounding]:
        # rows in 16 bits serve both products, so digits would spare no conversion and need the rows in 8 bits as well
        return self._parts(max(self.fused.block_d, self.config.parts.block_d), chained=True)

    def _score(self, block: BlockOperand) -> Scores:
        return score(self.operand, block, self.config.parts, 1, store=False)

    def _weigh(self, scores: Scores, block: BlockOperand, reference: Reference) -> BlockSums:
        shares = self.config.fused_shares(len(block), len(self.query))
        return fused(
            self.operand, block, reference, self.list, config=self.fused, shares=shares, mean=self.work.wanted.mean,
            split=self.split,
        )  # fmt: skip


def launching_on(device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which kernels are launched on `device`: products in float32, its streams."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
