"""The torch implementation: one streaming pass over blocks of rows, on any device; the CPU path.

Each block is read (and converted) once, scored against all queries while it is in cache, and summed only where it
carries weight. Samples whose rounding would show are set aside and scored again in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Bool, Float, Float64, Int64, Tensor
from ...base.settings import Settings
from ..common.accumulate import Accumulator, dropped_constant
from ..common.matmul import FEW_QUERIES, SUMS_BYTES, ieee_products, score_product
from ..common.rescore import GATHER_VALUES, Pairs, pairs_state
from ..common.rounding import Windows, logit_error, longest_sum, path_partition, weight_window, windows
from ..common.rows import Query, Rows, Span
from ..common.state import PosteriorState, Wanted, merge, without_top
from ..common.top_k import TopCandidates
from ..common.work import Work
from .attention import attention_applies, attention_state, navigating

# below this width a float64 product costs less than the exponentials beside it, and needs no second look
NARROW_DIM = 64

# a block of rows as operand, in bytes: with the logits beside it, it stays in a last-level cache
BLOCK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}

# where the rows are read as they are stored, larger blocks spread the fixed cost of some thirty small operations; with
# few queries, which are soon done with a block, it weighs more than a second read from memory
VIEW_FACTOR, FEW_QUERIES_FACTOR = 2, 4

# from this window on, samples to score again are told by their logits before weights of e^-80 underflow
WIDE_WINDOW = 30.0

# below this share of live rows a query sums a block row by row; measured break-even on CPU 0.12 .. 0.2
SPARSE_SHARE = 0.12


def posterior_state(work: Work) -> PosteriorState:
    """Return the state of the span for every query.

    Relative velocity error below 1e-5 against float64 for queries in every regime. Costs one read of the span,
    2 B n D operations for the logits and as many again for the blocks that carry weight; memory is a block of
    rows, its logits, and B D values.
    """
    rows, query, span, wanted = work.rows, work.query, work.span, work.wanted
    if len(query) == 0:
        return work.nothing()
    with ieee_products(rows.device.type):
        if score_dtype(rows) == torch.float64:
            return Scan(rows, query, wanted, torch.float64).run(span).coarse
        if attention_applies(rows, query, wanted) and _all_early(rows, query, span):
            state = attention_state(rows, query, span)
            # where queries are, off the path, is known only now
            if _none_again(rows, query, len(span), state.lse + dropped_constant(rows, query)):
                return state
        return scanned_state(work)


def _all_early(rows: Rows, query: Query, span: Span) -> bool:
    # a scan that some of them need anyway takes the others along for less than a pass of their own
    expected = path_partition(rows, query)
    return _none_again(rows, query, len(span), expected) and bool(navigating(rows, query, span).all())


def _none_again(rows: Rows, query: Query, count: int, partition: Float64[Tensor, "B"]) -> bool:
    # whether no sample of any query needs a second look
    error = logit_error(rows, query, torch.float32, partition)
    return bool((windows(rows, query, count, error).rescore == -torch.inf).all())


def scanned_state(work: Work) -> PosteriorState:
    """Return the state of `span` from a float32 scan, its heads scored again, and float64 for crowded queries."""
    rows, query, span, wanted = work.rows, work.query, work.span, work.wanted
    result = Scan(rows, query, wanted, torch.float32).run(span)
    rescore_list = pairs_state(rows, query, result.rescore_list, wanted)
    state = merge(without_top(result.coarse, rescore_list.top_rows), rescore_list)
    overflowed = result.overflowed.nonzero()[:, 0]
    if len(overflowed):
        part = Scan(rows, query.take(overflowed), wanted, torch.float64).run(span).coarse
        state = state.put(overflowed, part)
    return state


@dataclass(frozen=True)
class ScanResult:
    """What one scan leaves: the coarse state, the pairs to score again, and the queries with too many of those."""

    coarse: PosteriorState
    rescore_list: Pairs
    overflowed: Tensor


class Scan:
    """One pass of one batch of queries over one span, in one precision; float64 sets nothing aside."""

    def __init__(self, rows: Rows, query: Query, wanted: Wanted, dtype: torch.dtype) -> None:
        self.rows, self.query, self.wanted, self.dtype = rows, query, wanted, dtype
        self.scaled = (query.gain[:, None] * query.point).to(dtype)
        self.bias = (-query.gain * query.alpha).to(dtype)
        self.longest = longest_sum(rows, len(query))
        self.partition = torch.full((len(query),), -torch.inf, dtype=dtype, device=rows.device)
        self.sums = Accumulator(len(query), rows.dim, dtype, wanted, rows.device)
        self.top = TopCandidates(len(query), wanted.top_k, rows.device)
        self.rescore_list: list[Pairs] = []
        self.rescore_count = torch.zeros(len(query), dtype=torch.int64, device=rows.device)

    def run(self, span: Span) -> ScanResult:
        """Scan `span` block by block."""
        self.count, self.rescore_limit = len(span), min(max(256, len(span) // 32), 8192)
        self._set_windows(None)
        for block, operand in self.operands(span):
            self._add_block(block, operand)
        return self._result()

    def operands(self, span: Span) -> Iterator[tuple[Span, Float[Tensor, "n D"]]]:
        """Yield the blocks of `span` and their rows as the products read them, valid until the next one."""
        size = block_rows(self.rows, self.dtype, span, len(self.query))
        buffer = torch.empty(size, self.rows.dim, dtype=self.dtype, device=self.rows.device)
        for start in range(span.start, span.stop, size):
            block = Span(start, min(start + size, span.stop))
            yield block, self.rows.block(block.start, block.stop, buffer)

    def _set_windows(self, partition: Float64[Tensor, "B"] | None) -> None:
        error = logit_error(self.rows, self.query, self.dtype, partition)
        if self.dtype == torch.float64:
            weight = weight_window(self.count, error, self.dtype)
            found = Windows(weight, torch.full_like(weight, -torch.inf))
        else:
            found = windows(self.rows, self.query, self.count, error)
        self.weight_window = found.weight.to(self.dtype)
        # a crowded query starts again in float64: what else it meets here need not be kept
        self.rescore_window = found.rescore.masked_fill(self.overflowed, -torch.inf)

    @property
    def overflowed(self) -> Bool[Tensor, "B"]:
        """Queries with more samples set aside than are scored again one by one."""
        return self.rescore_count > self.rescore_limit

    def _add_block(self, block: Span, operand: Float[Tensor, "n D"]) -> None:
        half_norms = self.rows.half_norms[block.start : block.stop].to(self.dtype)
        logits = self.logits(block, operand)
        top = logits.amax(1)
        self.top.offer(logits, top, block.start)
        self.partition = torch.maximum(self.partition, top)
        if self.dtype == torch.float32:
            self._set_windows(self.partition.double())
        floor = self.partition - self.weight_window
        query = ((top >= floor) & (top > -torch.inf)).nonzero()[:, 0]
        if len(query) == 0:
            return
        self.sums.raise_reference(torch.maximum(self.sums.reference, top))
        # a sample of the rows tells queries of many live ones from those of few at an eighth of the cost
        some = logits[:, :: max(1, min(8, logits.shape[1] // 64))]
        many = (some >= floor[:, None]).sum(1)[query] > SPARSE_SHARE * some.shape[1]
        dense, sparse = query[many], query[~many]
        if len(dense):
            self._add_dense(dense, _of(logits, dense), top[dense], block, operand, half_norms)
        if len(sparse):
            own = _of(logits, sparse)
            self._add_pairs(sparse, own, own >= floor[sparse, None], block, operand, half_norms)
        self.partition = torch.maximum(self.partition, self.sums.partition().to(self.dtype))

    def logits(self, block: Span, operand: Float[Tensor, "n D"]) -> Float[Tensor, "B n"]:
        """Return the coarse logits of a block: without the terms that are the same for all samples of a query."""
        half_norms = self.rows.half_norms[block.start : block.stop].to(self.dtype)
        logits = score_product(operand, self.scaled, self.longest).addr_(half_norms, self.bias).T
        if len(self.query) <= FEW_QUERIES:
            logits = logits.contiguous()  # a maximum over rows this short is slower than turning them around
        if self.rows.log_weights is not None:
            logits += self.rows.log_weights[block.start : block.stop].to(self.dtype)
        for one_range in self.query.excluded.unbind(1):
            touched = ((one_range[:, 0] < block.stop) & (one_range[:, 1] > block.start)).nonzero()[:, 0]
            if len(touched):
                index = torch.arange(block.start, block.stop, device=logits.device)
                inside = (index >= one_range[touched, :1]) & (index < one_range[touched, 1:])
                logits[touched] = logits[touched].masked_fill(inside, -torch.inf)
        return logits

    def _add_dense(
        self,
        query: Int64[Tensor, "b"],
        logits: Float[Tensor, "b n"],
        top: Float[Tensor, "b"],
        block: Span,
        operand: Float[Tensor, "n D"],
        half_norms: Float[Tensor, "n"],
    ) -> None:
        wide = (self.rescore_window[query] > WIDE_WINDOW).nonzero()[:, 0]
        if len(wide):
            floor = (self.partition - self.rescore_window)[query[wide], None]
            pair = (logits[wide] >= floor).nonzero()
            which, column = wide[pair[:, 0]], pair[:, 1]
            self._set_aside(query[which], column + block.start, logits[which, column].double())
            logits[which, column] = -torch.inf
            top = logits.amax(1)
        weights, largest = self.sums.weigh(query, logits), self.sums.weigh(query, top)
        mass = weights.sum(1)
        self.sums.meet(query, mass)
        # steep queries are told already, and what is left of them may have underflowed
        floor = self._rescore_floor()[query].index_fill(0, wide, torch.inf)
        rescore_list = (largest >= floor).nonzero()[:, 0]
        if len(rescore_list):
            pair = (weights[rescore_list] >= floor[rescore_list, None]).nonzero()
            which, column = rescore_list[pair[:, 0]], pair[:, 1]
            weight = weights[which, column].double()
            self._set_aside(query[which], column + block.start, self.sums.logit(query[which], weight))
            weights[which, column] = 0.0
            mass[rescore_list] = weights[rescore_list].sum(1)
        self.sums.add_dense(query, weights, mass, operand, half_norms)

    def _add_pairs(
        self,
        query: Int64[Tensor, "b"],
        logits: Float[Tensor, "b n"],
        weight: Bool[Tensor, "b n"],
        block: Span,
        operand: Float[Tensor, "n D"],
        half_norms: Float[Tensor, "n"],
    ) -> None:
        pair = weight.nonzero()
        query, column, logit = query[pair[:, 0]], pair[:, 1], logits[weight]
        weights = self.sums.weigh(query, logit.clone())
        self.sums.meet(query, weights)
        floor = torch.maximum(self.partition.double(), self.sums.partition()) - self.rescore_window
        rescore = logit >= floor[query]
        self._set_aside(query[rescore], column[rescore] + block.start, logit[rescore].double())
        rest = ~rescore
        if bool(rest.any()):
            self.sums.add_sparse(query[rest], weights[rest], column[rest], operand, half_norms)

    def _rescore_floor(self) -> Float[Tensor, "B"]:
        # the weight from which on a sample is set aside; infinite where nothing is
        floor: Tensor = (self.sums.seen.log() - self.rescore_window).exp()
        return floor.to(self.dtype)

    def _set_aside(self, query: Int64[Tensor, "P"], row: Int64[Tensor, "P"], logit: Float64[Tensor, "P"]) -> None:
        if len(query) == 0:
            return
        self.rescore_list.append(Pairs(query, row, logit))
        self.rescore_count += torch.bincount(query, minlength=len(self.query))
        self.rescore_window[self.overflowed] = -torch.inf

    def _result(self) -> ScanResult:
        overflowed = self.overflowed
        none = torch.empty(0, dtype=torch.int64, device=self.rows.device)
        found = self.rescore_list or [Pairs(none, none, none.double())]
        rescore_list = Pairs(
            *(torch.cat([getattr(part, name) for part in found]) for name in ("query", "row", "logit"))
        )
        late = rescore_list.logit >= (self.partition - self.weight_window)[rescore_list.query]
        logits, named = self.top.settle(self.rows, self.query)
        coarse = replace(self.sums.state(self.rows, self.query), top_logits=logits, top_rows=named)
        return ScanResult(coarse, rescore_list.where(late & ~overflowed[rescore_list.query]), overflowed)


def _of(logits: Float[Tensor, "B n"], query: Int64[Tensor, "b"]) -> Float[Tensor, "b n"]:
    # turned around only for the queries that need it
    return logits.contiguous() if len(query) == len(logits) else logits[query].contiguous()


def score_dtype(rows: Rows) -> torch.dtype:
    """Return the dtype of the matrix products over these rows."""
    wide = rows.stored.dtype != torch.float64 and rows.dim > NARROW_DIM
    return torch.float32 if wide else torch.float64


def block_rows(rows: Rows, dtype: torch.dtype, span: Span, batch: int) -> int:
    """Return how many rows a block holds for a scan of `span` in `dtype` for `batch` queries."""
    view = rows.raw_operand and rows.stored.dtype == dtype
    factor = (FEW_QUERIES_FACTOR if batch <= FEW_QUERIES else VIEW_FACTOR) if view else 1
    wished = Settings.read().block_mb
    limit = int(wished * 2**20) if wished else BLOCK_BYTES["cpu" if rows.device.type == "cpu" else "cuda"]
    size = factor * limit // (rows.dim * dtype.itemsize)
    return max(1, min(len(span), max(64, min(size, 16384))))


def scan_memory(rows: Rows, batch: int) -> int:
    """Return the most bytes a scan of all rows for `batch` queries needs beyond the data: independent of N x batch."""
    dtype = score_dtype(rows)
    size = block_rows(rows, dtype, Span(0, len(rows)), batch)
    copies = 0 if rows.raw_operand and rows.stored.dtype == dtype else size * rows.dim
    logits = 3 * size * batch  # the product, its transpose with the bias, and a mask
    # scaled and padded queries and sums; query, means and their merge in float64
    sums = batch * rows.dim * (3 + 8 * 8 // dtype.itemsize)
    shares = min(SUMS_BYTES, torch.get_num_threads() * batch * rows.dim * dtype.itemsize)
    again = 0 if dtype == torch.float64 else 4 * 8 * min(GATHER_VALUES, batch * len(rows) * rows.dim)
    return (copies + logits + sums) * dtype.itemsize + shares + again
