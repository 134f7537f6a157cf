"""The Triton implementation, from rows and queries to states: score, merge, weigh, and rescore where rounding shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Generic, TypeVar

import torch

from ...base.arrays import Float64, Tensor
from ...base.cuda_graphs import capturing
from ...base.errors import invalid
from ..common.accumulate import RunningSums as TorchSums
from ..common.matmul import ieee_products
from ..common.rounding import Rounding, Windows, unit_error, windows
from ..common.rows import Query, Rows, Span
from ..common.state import PosteriorState, Wanted, merge, without_top
from ..common.top_k import TopCandidates
from ..common.work import Work
from .configs import AnyConfig, DigitConfig, FusedConfig, LaunchConfig, ScoreConfig, choose
from .devices import device_of
from .digits import DigitOperand, digit_rounding
from .finish import Finish
from .fused import fused
from .jit import INTERPRET
from .limits import DEFAULT_LIMITS, ScanLimits
from .logits import Scores, score
from .logits_int8 import score_digits
from .operands import (
    EXACT,
    KERNEL_DTYPES,
    BlockOperand,
    QueryOperand,
    Split,
    block_dtype,
    copied,
    operand_dtype,
    operand_rows,
    shared_bound,
    unit_rounding,
)
from .partition import Law, Meeting
from .rescore import Rescored, rescore_memory
from .rescore_list import RescoreList
from .rescore_top import rescored_top, top_memory
from .running_sums import RunningSums
from .weighted_sum import ListedPairs, Reference, weigh, weights_of, weights_rows

# the fused kernel unrolls its loop over excluded ranges and is compiled for each number of them, up to this one
FUSED_RANGES = 4


def triton_state(work: Work, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS) -> PosteriorState:
    """Return the state of the span for every query, as `posterior_state` does and with the same bound on the error.

    work: rows in a dtype of KERNEL_DTYPES, [N, D], queries [B], a span of at least one row, and what is wanted.
    split: into how many numbers operands are split; with HALF half the products give the velocity to about 1e-3.
    limits: rows and logits held at once, and how many samples are rescored one by one.

    Raises InputError before any launch where the kernels cannot run. Costs one read of the span for the logits and one
    of the rows with weight, 2 to 4 B n D operations each. Memory is the logits of a block, and B D values. Where a
    program can hold all of D, and neither moments nor top-k are wanted, the span is read once.
    """
    config = checked_config(work, split)
    device = work.rows.device
    with _on_device(device), ieee_products(device.type):
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
    """What both scans share: operands, and how their sums become states; the host does not wait before the top-k.

    work: what is scanned, its rows as the kernels multiply them. operand: the queries as the kernels read them.
    rounding: how their products round. listed: room of the rescore list of a query. top: the heaviest samples.
    pair_bytes: bytes held for each pair of a row and a query.
    """

    pair_bytes: int

    def __init__(
        self, work: Work, config: LaunchConfig, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS
    ) -> None:
        """Prepare the operands of the queries; no synchronisation.

        work: what is scanned. config: of the call. split: into how many numbers operands are split. limits: rows held
        at once and room of the rescore lists.
        """
        self.work = replace(work, rows=operand_rows(work.rows))
        self.config, self.split, self.limits = config, split, limits
        self.operand, self.rounding = self._operand()
        self.listed = limits.listed(len(work.span))
        self.top = TileCandidates(len(work.query), work.wanted.top_k, work.rows.device)

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
        size = self.limits.block_rows(self.rows, len(self.query), self.pair_bytes)
        start, stop = self.work.span.start, self.work.span.stop
        return [Span(first, min(first + size, stop)) for first in range(start, stop, size)]

    def add(self, span: Span) -> None:
        """Score the block of rows in `span`, and add what is not to be rescored.

        Raises NotImplementedError here: the two scans do it.
        """
        raise NotImplementedError

    def rescore_list(self) -> RescoreList:
        """Return the samples to rescore, once every block was added.

        Raises NotImplementedError here: the two scans do it.
        """
        raise NotImplementedError

    def added(self) -> RunningSums:
        """Return the sums over the samples that are not to be rescored, once every block was added.

        Raises NotImplementedError here: the two scans do it.
        """
        raise NotImplementedError

    def state(self) -> PosteriorState:
        """Return the state of all samples of the span, once every block was added."""
        rescore_list = self.rescore_list()
        rescored = Rescored.of(self.work, rescore_list)
        state = Finish(self.work, self.operand.measured, self.added(), rescored).state()
        return self._with_top(state, rescore_list) if self.work.wanted.top_k else state

    def _with_top(self, state: PosteriorState, rescore_list: RescoreList) -> PosteriorState:
        rescored = rescored_top(self.work, rescore_list, reads_values=not capturing(), limits=self.limits)
        none = replace(rescored, mean=rescored.mean[:, :0])
        found = self.top.heaviest(none, self.rows, self.query).without(rescore_list.overflowed)
        top = merge(without_top(found, rescored.top_rows), rescored)
        return replace(state, top_logits=top.top_logits, top_rows=top.top_rows, top_rest=top.top_rest)

    def _operand(self) -> tuple[Operand, Rounding]:
        """Return the queries as the kernels read them, and how their products round."""
        raise NotImplementedError

    def _windows(self, partition: Float64[Tensor, "B"] | None) -> Windows:
        error = unit_error(self.rows, self.query, self.rounding, partition)
        count, split = len(self.work.span), self.split
        return windows(self.rows, self.query, count, error, budget=split.budget, limit=split.limit)

    def _parts(self, depth: int) -> tuple[QueryOperand, Rounding]:
        """Return the queries in floating point numbers, and the rounding of sums over `depth` values of D at a time."""
        dtype, device = operand_dtype(block_dtype(self.rows)), self.config.device
        centre = self.rows.centre if self.rows.raw_operand else None
        operand = QueryOperand.of(self.query, dtype, device.precision, self.split, centre)
        return operand, unit_rounding(dtype, device, depth, self.split)


class TwoPhaseScan(TritonScan[QueryOperand | DigitOperand]):
    """Logits of a block first, then, with the reference that follows from them, its weights and the weighted sum."""

    # logits, and weights in two parts
    pair_bytes = 8

    def __init__(
        self, work: Work, config: LaunchConfig, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS
    ) -> None:
        """Prepare the operands, and room for sums and rescore lists.

        work, config, split, limits: as in :class:`TritonScan`.
        """
        super().__init__(work, config, split, limits=limits)
        self.meeting = Meeting.of(self.work, Law.of(self.work, self.rounding, split), self.operand.measured)
        self.sums = RunningSums.empty(len(self.query), self.rows.dim if work.wanted.mean else 0, self.rows.device)
        self.list = ListedPairs.empty(self.meeting.counts[0], self.listed)

    def _operand(self) -> tuple[QueryOperand | DigitOperand, Rounding]:
        config = self.config.score
        if isinstance(config, DigitConfig):
            operand = DigitOperand.of(self.query, self.rows, config.block_d, self.split)
            return operand, digit_rounding(self.split)
        return self._parts(config.block_d)

    def _score(self, block: BlockOperand) -> Scores:
        config, operand = self.config.score, self.operand
        slices = self.config.score_slices(len(block), len(operand), block.dim)
        if isinstance(config, DigitConfig) and isinstance(operand, DigitOperand):
            return score_digits(operand, block, config, slices)
        if isinstance(config, ScoreConfig) and isinstance(operand, QueryOperand):
            return score(operand, block, config, slices)
        raise AssertionError(f"{type(operand).__name__} has no kernel for {config}")

    def add(self, span: Span) -> None:
        """Score the rows in `span`, move the origin of the weights to the log-partition so far, and weigh."""
        block, config = BlockOperand.of(self.rows, span), self.config
        batch, mean = len(self.query), self.work.wanted.mean
        scores = self._score(block)
        self.top.offer_tiles(scores, span.start)
        self.meeting.meet(scores.stats, self.sums)
        reference = Reference(*self.meeting.reference.unbind(0))
        weights = weights_of(scores, block, reference, self.list, config=config.weigh, mean=mean, split=self.split)
        shares = weights.sums.new_empty(0, batch, 0)
        if mean:
            count = config.weigh_shares(len(span), batch, block.dim)
            shares = weigh(weights, block, config.weigh, precision=config.device.precision, shares=count)
        self.sums.add(weights.sums, shares)

    def rescore_list(self) -> RescoreList:
        """Return the samples to rescore that have weight in the whole span; no synchronisation."""
        return RescoreList.of_list(self.list, self.meeting.reference[1], self.meeting.counts[1])

    def added(self) -> RunningSums:
        """Return the sums over the samples that are not to be rescored; no synchronisation."""
        return self.sums


class FusedScan(TritonScan[QueryOperand]):
    """Logits and weighted sum of a block in one launch; tiles of rows are rescored as a whole."""

    # a number for every tile
    pair_bytes = 1

    def __init__(
        self, work: Work, config: LaunchConfig, split: Split = EXACT, *, limits: ScanLimits = DEFAULT_LIMITS
    ) -> None:
        """Prepare the operands and the windows.

        work, config, split, limits: as in :class:`TritonScan`; `config` has a fused tile.
        """
        super().__init__(work, config, split, limits=limits)
        self.found: list[tuple[int, Tensor]] = []
        self.sums = TorchSums(self.work)
        # a launch compares logits with these before any log-partition is known to the host
        self.windows = self._windows(None)

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
        return self._parts(self.fused.block_d)

    def add(self, span: Span) -> None:
        """Score and weigh the rows in `span` in one launch."""
        block, window = BlockOperand.of(self.rows, span), self.windows.rescore.float()
        shares, mean = self.config.fused_shares(len(span), len(self.query)), self.work.wanted.mean
        part = fused(self.operand, block, window, self.fused, shares=shares, mean=mean, split=self.split)
        self.sums.meet(part.partition)
        self.sums.add(part.block)
        self.found.append((span.start, part.rescore))

    def rescore_list(self) -> RescoreList:
        """Return the tiles to rescore whose largest logit has weight in the whole span; no synchronisation."""
        size, floor = self.fused.block_n, (self.sums.partition - self.windows.weight).float()
        # a query without samples has a floor of -inf, and its tiles hold nothing
        marked = torch.cat([(rescore >= floor) & (rescore > -torch.inf) for _, rescore in self.found])
        first = torch.cat(
            [start + size * torch.arange(len(rescore), device=rescore.device) for start, rescore in self.found]
        )
        return RescoreList.of_tiles(marked, first, size, max(1, self.listed // size))

    def added(self) -> RunningSums:
        """Return the sums over the tiles that are not to be rescored; no synchronisation."""
        sums = self.sums
        kept = (sums.partition, sums.reference.double(), sums.mass, sums.squares, sums.first_logit, sums.half_norm)
        none = sums.total.new_empty(0, 4, len(sums.mass))
        return RunningSums(torch.stack(kept), none, sums.mass, sums.total)


def triton_memory(rows: Rows, batch: int, *, limits: ScanLimits = DEFAULT_LIMITS) -> int:
    """Return the most bytes that posterior means need beyond the data.

    rows: of the data set, [N, D]. batch: number of queries. limits: those of :func:`triton_state`.
    """
    config = choose(device_of(rows.device), block_dtype(rows), batch, rows.dim)
    pair_bytes = (TwoPhaseScan if config.fused is None else FusedScan).pair_bytes
    count = min(limits.block_rows(rows, batch, pair_bytes), len(rows))
    padded, values = -(-batch // 16) * 16, batch * rows.dim
    # norms and weights of the rows, and a centred copy where one is needed
    held = 8 * len(rows) + count * (4 * rows.dim if copied(rows) else 0)
    if config.fused is None:
        slices, shares = (part(count, batch, rows.dim) for part in (config.score_slices, config.weigh_shares))
        # logits and weights, slices of the logits, statistics of tiles, and the rows with weight of each tile
        held += count * padded * (8 + (4 * slices if slices > 1 else 0))
        held += 96 * padded * -(-count // min(config.score.block_n, weights_rows(config.weigh.block_b)))
        held += 32 * count * -(-batch // config.weigh.block_b)
        held += 12 * batch * limits.listed(len(rows))
    else:
        shares = config.fused_shares(count, batch)
        held += 4 * padded * -(-count // config.fused.block_n) + 8 * values * shares
    listed = limits.listed(len(rows))
    held += rescore_memory(rows, batch, listed) + top_memory(batch, listed, len(rows), limits)
    # queries and their parts, sums and means, most of them in float64, and the sum of every share
    return held + values * (16 * 8 + 4 * shares)


class TileCandidates(TopCandidates):
    """The largest coarse logits, searched for in the tiles with the largest maxima only: no other can hold them."""

    def offer_tiles(self, scores: Scores, start: int) -> None:
        """Take what belongs here from the `scores` of a block whose first row is `start`; no synchronisation."""
        if self.count == 0:
            return
        batch, wanted = self.logits.shape
        tops = scores.stats[:, 0, :batch]
        tiles = tops.topk(min(wanted, len(tops)), dim=0).indices
        inside = torch.arange(scores.tile, device=tiles.device)
        # [tiles, rows of a tile, B]
        index = (tiles[:, None] * scores.tile + inside[:, None]).reshape(-1, batch)
        count = scores.logits.shape[0]
        values = scores.logits.gather(0, index.clamp_max(count - 1)).masked_fill(index >= count, -torch.inf)
        both = torch.cat([self.logits, values.T.double()], dim=1)
        best = both.topk(wanted, dim=1)
        self.rows = torch.cat([self.rows, index.T + start], dim=1).gather(1, best.indices)
        self.logits = best.values


def checked_config(work: Work, split: Split = EXACT) -> LaunchConfig:
    """Return the launch configuration for `work`, whose operands are split by `split`.

    Raises InputError where the kernels cannot run: on another device, for another dtype, in half precision for samples
    that are read in float32, without rows, values or queries, and for rows that are not contiguous.
    """
    rows, query, span = work.rows, work.query, work.span
    stored = rows.stored
    if not (INTERPRET or stored.is_cuda):
        raise invalid("device", "must be a CUDA device for the Triton kernels", stored.device, "use backend='torch'")
    if stored.dtype not in KERNEL_DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in KERNEL_DTYPES)
        raise invalid("points", f"must be {names} for the Triton kernels", stored.dtype, "use backend='torch'")
    if operand_dtype(block_dtype(rows)) not in split.query:
        received = f"{stored.dtype}, read as {block_dtype(rows)}"
        needs = "must be full for these samples: half is for 8-bit ones, and for 16-bit ones whose mean is small"
        raise invalid("precision", needs, received, "pass precision='full'")
    if rows.dim == 0 or len(span) == 0 or len(query) == 0:
        received = f"{len(query)} queries for {len(span)} x {rows.dim}"
        raise invalid("points", "must be samples of at least one value, for at least one query", received, "pass some")
    if rows.dim > 1 and stored.stride(1) != 1:
        raise invalid("points", "must be contiguous along D", f"strides {stored.stride()}", "pass points.contiguous()")
    config = choose(device_of(stored.device), block_dtype(rows), len(query), rows.dim)
    check_shared_memory(config, block_dtype(rows))
    return config


def check_shared_memory(config: LaunchConfig, stored: torch.dtype) -> None:
    """Refuse configurations whose programs might need more shared memory than the device has.

    config: of a call, with its device. stored: dtype of the rows as the kernels read them.

    Raises InputError for them.
    """
    parts: list[AnyConfig] = [config.score, config.weigh]
    parts += [config.fused] if config.fused else []
    for part in parts:
        if shared_bound(part, stored) > config.device.shared_bytes:
            limit, remedy = f"{config.device.shared_bytes} bytes of shared memory", "delete its tuned file"
            raise invalid("configuration", f"must fit into {limit} of {config.device.name}", f"{part}", remedy)


def _on_device(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
