"""The Triton implementation, from rows and queries to states: score, merge, weigh, and score again where it shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Generic, TypeVar

import torch

from ...base.arrays import Float64, Tensor
from ...base.cuda_graphs import capturing
from ...base.errors import invalid
from ..common.accumulate import BlockSums, RunningSums
from ..common.matmul import ieee_products
from ..common.rounding import Rounding, Windows, unit_error, windows
from ..common.rows import Query, Rows, Span
from ..common.state import PosteriorState, Wanted, merge, without_top
from ..common.top_k import TopCandidates
from ..common.work import Work
from .configs import AnyConfig, DigitConfig, FusedConfig, LaunchConfig, ScoreConfig, choose
from .devices import device_of
from .digits import DigitOperand, digit_rounding
from .fused import fused
from .jit import INTERPRET
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
from .rescore import rescore_memory, rescored_state
from .rescore_list import RescoreList
from .weighted_sum import ListedPairs, Reference, weigh, weights_of, weights_rows

# logits and weights of a block of rows, in bytes: enough to fill a GPU, little beside its memory
SCORE_BYTES = 512 << 20

# rows of a block are a multiple of every tile
BLOCK_UNIT = 1024

# samples of a query that are scored again from a list; with more of them every row is, in float64
LEAST_RESCORED, MOST_RESCORED = 256, 8192

# the fused kernel unrolls its loop over holes and is compiled for each number of them
FUSED_RANGES = 4


def triton_state(work: Work, split: Split = EXACT) -> PosteriorState:
    """Return the state of the span for every query; same meaning as `posterior_state`, and the same bar.

    With split=HALF half the products give the velocity to about 1e-3.

    Raises InputError before any launch where the kernels cannot run. Costs one read of the span for the logits and
    one of the rows that carry weight, 2 to 4 B n D operations each; memory is the logits of a block, and B D values.
    Where a program can hold all of D, and neither moments nor top-k are wanted, both are one read.
    """
    config = checked_config(work, split)
    rows, query, span, wanted = work.rows, work.query, work.span, work.wanted
    with _on_device(rows.device), ieee_products(rows.device.type):
        scan = scan_type(query, wanted, config)(rows, query, len(span), wanted, config, split)
        for block in scan.blocks(span):
            scan.add(block)
        rescore_list = scan.rescore_list()
        again = rescored_state(rows, query, rescore_list, span, wanted, looks=not capturing())
        state = scan.state().without(rescore_list.overflowed)
        return merge(without_top(state, again.top_rows), again)


def scan_type(query: Query, wanted: Wanted, config: LaunchConfig) -> type[TwoPhaseScan] | type[FusedScan]:
    """Return the scan that answers: the fused one where a program can hold all that is wanted."""
    plain = not wanted.moments and wanted.top_k == 0 and query.excluded.shape[1] <= FUSED_RANGES
    return FusedScan if config.fused is not None and plain else TwoPhaseScan


Operand = TypeVar("Operand", bound=QueryOperand | DigitOperand)


class TritonScan(Generic[Operand]):
    """What both scans share: operands, windows and running sums; nothing waits for the device but naming the top-k."""

    # bytes held for each pair of a row and a query
    pair_bytes: int

    # set once what they depend on is known
    windows: Windows

    def __init__(
        self, rows: Rows, query: Query, count: int, wanted: Wanted, config: LaunchConfig, split: Split = EXACT
    ) -> None:
        self.rows, self.query, self.wanted, self.config, self.split = operand_rows(rows), query, wanted, config, split
        self.operand, self.rounding = self._operand()
        self.sums = RunningSums(len(query), rows.dim, wanted, rows.device)
        self.count, self.rescore_limit = count, rescore_limit_of(count)
        self.top = TileCandidates(len(query), wanted.top_k, rows.device)

    def blocks(self, span: Span) -> list[Span]:
        """Return the blocks of `span` that are held at once: their logits, and a centred copy where one is needed."""
        size = scan_block_rows(self.rows, len(self.query), self.pair_bytes)
        return [Span(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size)]

    def add(self, span: Span) -> None:
        """Meet a block, and add what is not set aside."""
        raise NotImplementedError

    def rescore_list(self) -> RescoreList:
        """Return the samples set aside that are live; no synchronisation."""
        raise NotImplementedError

    def state(self) -> PosteriorState:
        """Return the state of what was not set aside, with the heaviest samples of all."""
        logits, named = self.top.settle(self.rows, self.query)
        return replace(self.sums.state(self.rows, self.query), top_logits=logits, top_rows=named)

    def _operand(self) -> tuple[Operand, Rounding]:
        """Return the queries as the kernels read them, and how their products round."""
        raise NotImplementedError

    def _windows(self, partition: Float64[Tensor, "B"] | None) -> Windows:
        error = unit_error(self.rows, self.query, self.rounding, partition)
        return windows(self.rows, self.query, self.count, error, self.split.budget, self.split.limit)

    def _parts(self, depth: int) -> tuple[QueryOperand, Rounding]:
        """Return the queries in floating point numbers, and the rounding of sums over `depth` values of D at a time."""
        dtype, device = operand_dtype(block_dtype(self.rows)), self.config.device
        operand = QueryOperand.of(self.query, dtype, device.precision, self.split)
        return operand, unit_rounding(dtype, device, depth, self.split)


class TwoPhaseScan(TritonScan[QueryOperand | DigitOperand]):
    """Logits of a block, the reference they settle, then the weighted sum over the rows that are live."""

    # logits, and weights in two parts
    pair_bytes = 8

    def __init__(
        self, rows: Rows, query: Query, count: int, wanted: Wanted, config: LaunchConfig, split: Split = EXACT
    ) -> None:
        super().__init__(rows, query, count, wanted, config, split)
        self.list = ListedPairs.empty(len(query), self.rescore_limit, rows.device)

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
        """Score a block, move the origin of the weights to the new log-partition, and weigh."""
        block, batch, config = BlockOperand.of(self.rows, span), len(self.query), self.config
        scores = self._score(block)
        self.top.offer_tiles(scores, span.start)
        tops, masses = scores.stats[:, :, :batch].double().unbind(1)
        origin = self.sums.meet((tops + masses.log()).logsumexp(0))
        self.windows = self._windows(self.sums.partition)
        floors = (self.sums.partition - window for window in (self.windows.weight, self.windows.rescore))
        reference = Reference(origin, *(floor.float() for floor in floors))
        weights = weights_of(scores, block, reference, self.list, config.weigh, self.wanted.mean, self.split)
        total = weights.sums.new_empty(batch, 0)
        if self.wanted.mean:
            shares = config.weigh_shares(len(span), batch, block.dim)
            total = weigh(weights, block, batch, config.device.precision, config.weigh, shares)
        self.sums.add(BlockSums(origin, weights.sums, total))

    def rescore_list(self) -> RescoreList:
        """Return the samples set aside that are live; no synchronisation."""
        return RescoreList.of_list(self.list, (self.sums.partition - self.windows.weight).float())


class FusedScan(TritonScan[QueryOperand]):
    """Everything in one launch a block; what is set aside are whole tiles."""

    # a number for every tile
    pair_bytes = 1

    def __init__(
        self, rows: Rows, query: Query, count: int, wanted: Wanted, config: LaunchConfig, split: Split = EXACT
    ) -> None:
        super().__init__(rows, query, count, wanted, config, split)
        self.found: list[tuple[int, Tensor]] = []
        # one launch settles everything: no log-partition is known before
        self.windows = self._windows(None)

    @property
    def fused(self) -> FusedConfig:
        """The configuration, which the choice of this scan says there is."""
        if self.config.fused is None:
            raise AssertionError("a fused scan needs a fused configuration")
        return self.config.fused

    def _operand(self) -> tuple[QueryOperand, Rounding]:
        # rows in 16 bits serve both products, so digits would spare no conversion and add a second form of the rows
        return self._parts(self.fused.block_d)

    def add(self, span: Span) -> None:
        """Score and weigh a block in one launch."""
        block, window = BlockOperand.of(self.rows, span), self.windows.rescore.float()
        shares = self.config.fused_shares(len(span), len(self.query))
        part = fused(self.operand, block, window, self.fused, shares, self.wanted.mean, self.split)
        self.sums.meet(part.partition)
        self.sums.add(part.block)
        self.found.append((span.start, part.rescore))

    def rescore_list(self) -> RescoreList:
        """Return the tiles set aside that are live; no synchronisation."""
        size, floor = self.fused.block_n, (self.sums.partition - self.windows.weight).float()
        # a query without samples has no floor, and its tiles hold nothing
        marked = torch.cat([(rescore >= floor) & (rescore > -torch.inf) for _, rescore in self.found])
        first = torch.cat(
            [start + size * torch.arange(len(rescore), device=rescore.device) for start, rescore in self.found]
        )
        return RescoreList.of_tiles(marked, first, size, max(1, self.rescore_limit // size))


def scan_block_rows(rows: Rows, batch: int, pair_bytes: int) -> int:
    """Return how many rows are held at once with `pair_bytes` for each of them and a query."""
    copy = 4 * rows.dim if copied(rows) else 0
    size = SCORE_BYTES // (pair_bytes * (batch + 15) + copy)
    # whole tiles, and row numbers within a block that fit into 32 bits
    return max(BLOCK_UNIT, min(size, 1 << 30) // BLOCK_UNIT * BLOCK_UNIT)


def triton_memory(rows: Rows, batch: int) -> int:
    """Return the bytes that the posterior means of `batch` queries need beyond the data, at most."""
    config = choose(device_of(rows.device), block_dtype(rows), batch, rows.dim)
    count = min(
        scan_block_rows(rows, batch, (TwoPhaseScan if config.fused is None else FusedScan).pair_bytes), len(rows)
    )
    padded, values = -(-batch // 16) * 16, batch * rows.dim
    # a centred copy where one is needed, norms and weights of the rows
    held = count * (8 + (4 * rows.dim if copied(rows) else 0))
    if config.fused is None:
        slices, shares = (part(count, batch, rows.dim) for part in (config.score_slices, config.weigh_shares))
        # logits and weights, slices of the logits, statistics of tiles, and the list of live rows for each tile
        held += count * padded * (8 + (4 * slices if slices > 1 else 0))
        held += 96 * padded * -(-count // min(config.score.block_n, weights_rows(config.weigh.block_b)))
        held += 32 * count * -(-batch // config.weigh.block_b)
        held += 12 * batch * rescore_limit_of(len(rows))
    else:
        shares = config.fused_shares(count, batch)
        held += 4 * padded * -(-count // config.fused.block_n) + 8 * values * shares
    held += rescore_memory(batch, rescore_limit_of(len(rows)), len(rows), rows.dim)
    # queries and their parts, sums and means, most of them in float64, and the sum of every share
    return held + values * (16 * 8 + 4 * shares)


def rescore_limit_of(count: int) -> int:
    """Return how many samples of a query are scored again one by one, of `count`."""
    return min(max(LEAST_RESCORED, count // 32), MOST_RESCORED)


class TileCandidates(TopCandidates):
    """The largest coarse logits, looked for only in the tiles with the largest maxima: no other can hold them."""

    def offer_tiles(self, scores: Scores, start: int) -> None:
        """Look at a block whose first row is `start`; no synchronisation."""
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
    """Return the launch configuration for this work. Raises InputError where the kernels cannot run."""
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
    """Raise InputError where a program of `config` might need more shared memory than the device has."""
    parts: list[AnyConfig] = [config.score, config.weigh]
    parts += [config.fused] if config.fused else []
    for part in parts:
        if shared_bound(part, stored) > config.device.shared_bytes:
            limit, remedy = f"{config.device.shared_bytes} bytes of shared memory", "delete its tuned file"
            raise invalid("configuration", f"must fit into {limit} of {config.device.name}", f"{part}", remedy)


def _on_device(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
