"""The exact scan in C++: one pass over the rows, as many threads as torch has, and what is listed scored again."""

from __future__ import annotations

import ctypes
import math
import os
from dataclasses import dataclass, replace
from functools import cache

import torch

from ...base.arrays import Float64, Int64, Tensor
from ...base.file_rows import in_one_piece
from ..common.matmul import ieee_products
from ..common.rescore import Pairs
from ..common.rounding import (
    CALM_DIM,
    COARSE_LIMIT,
    DROPPED_MASS,
    FAR_APART,
    FEW_SHARES,
    LOGIT_BUDGET,
    UNIT_ROUNDOFF,
    WORST_CASE,
    Windows,
    competitor_spread,
    logit_error,
)
from ..common.rows import Rows
from ..common.state import PosteriorState, without_top
from ..common.top_k import MARGIN, TopCandidates
from ..common.work import Work
from ..portable.double import DOUBLE_LIMIT
from ..portable.scan import posterior_state, scan_memory, score_dtype
from .double import double_state
from .library import native_library
from .means import merged_into
from .pairs import candidate_logits, pairs_state

# numbers of the storage dtypes in scan.hpp
STORED = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.float32: 4,
    torch.float64: 5,
}

# up to here rows are read as they are stored, without a copy in panels
FEW_QUERIES = 2

# operations of a scan below which a second thread costs more than it saves
THREAD_OPERATIONS = 4e6

# operations between two looks at whether the user has asked to stop: about a tenth of a second
STEP_OPERATIONS = 3e10

# rows of a block: a multiple of those of every tile, and at most so many
ROW_UNIT, MOST_ROWS = 12, 192

# share of the second cache that a block of rows may have, and its size where the system does not say
CACHE_SHARE, CACHE_BYTES = 0.6, 1 << 19

QueryLaw = ctypes.c_double * 5


class ScanLaw(ctypes.Structure):
    """What the rounding law needs to know of a scan, as in law.hpp."""

    _fields_ = [
        (name, ctypes.c_double)
        for name in (
            *("factor", "rounding", "log_count", "budget", "far_apart", "log_copies", "worst_case", "few_shares"),
        )
    ]


class ScanProblem(ctypes.Structure):
    """What a scan is asked, as in scan.hpp."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("rows", "half_norms", "log_weights", "centre", "point", "gain", "bias", "law", "excluded"),
                *("memory", "sums", "mean", "top_logits", "top_rows", "kept"),
            )
        ),
        ("scan", ScanLaw),
        *(
            (name, ctypes.c_int64)
            for name in (
                *("stored", "wide", "dim", "batch", "ranges", "threads", "listed", "top"),
                *("wants_mean", "wants_moments", "block", "few"),
            )
        ),
    ]


@dataclass(frozen=True)
class NativeLimits:
    """Sizes that a native scan keeps to; the defaults are measured, tests pass smaller ones.

    block_rows: rows of a block, or None for what the second cache holds. rescored: samples of a query that are rescored
        one by one, at least and at most; with more of them, or with more than a 32nd of the span, the query is scanned
        in float64. step_operations: operations of one call. threads: of a scan, or None for as many as torch has.
    """

    block_rows: int | None = None
    rescored: tuple[int, int] = (256, 8192)
    step_operations: float = STEP_OPERATIONS
    threads: int | None = None


NATIVE_LIMITS = NativeLimits()


def native_state(work: Work, *, limits: NativeLimits = NATIVE_LIMITS) -> PosteriorState:
    """Return the posterior states of the queries of `work` over its span, [B], as the portable scan does.

    limits: sizes of blocks and rescore lists. The portable scan answers where no library was loaded, or where the rows
    are not on the CPU. Costs one read of the span, 2 B n D operations for the logits and as many again for the rows
    that carry weight; memory is a block of rows, its logits, and 3 B D values a thread.
    """
    if len(work.query) == 0 or len(work.span) == 0:
        return work.nothing()
    library = native_library().library if applies(work.rows) else None
    if library is None:
        return posterior_state(work)
    with ieee_products("cpu"):
        return NativeScan(work, library, limits).state()


def native_memory(rows: Rows, batch: int) -> int:
    """Return the most bytes that a native scan of all `rows` for `batch` queries needs beyond the data."""
    if native_library().library is None or not applies(rows):
        return scan_memory(rows, batch)
    size = 4 if score_dtype(rows) == torch.float32 else 8
    width = rows.dim + 48
    lanes = -(-batch // 16) * 16
    block = block_rows(rows, batch, NATIVE_LIMITS)
    own = width * block * size + lanes * (width * (size + 8) + 3 * block * size + 24 * (MARGIN + 64) + 8192)
    return torch.get_num_threads() * own + lanes * width * (size + 5 * 8) + scan_memory(rows, batch)


def applies(rows: Rows) -> bool:
    """Return whether native kernels can read `rows`."""
    stored = rows.stored
    return rows.device.type == "cpu" and stored.dtype in STORED and stored.is_contiguous() and in_one_piece(stored)


def block_rows(rows: Rows, batch: int, limits: NativeLimits) -> int:
    """Return how many rows a block holds."""
    if limits.block_rows is not None:
        return limits.block_rows
    size = rows.stored.element_size() if batch <= FEW_QUERIES else 4
    fitting = int(CACHE_SHARE * cache_bytes()) // (rows.dim * size)
    return max(ROW_UNIT, min(fitting // ROW_UNIT * ROW_UNIT, MOST_ROWS))


@cache
def cache_bytes() -> int:
    """Return the bytes of a core's second cache."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or CACHE_BYTES
    except (ValueError, OSError):
        return CACHE_BYTES


class NativeScan:
    """One scan: the problem as the library reads it, and the tensors that it points to."""

    def __init__(self, work: Work, library: ctypes.CDLL, limits: NativeLimits) -> None:
        """Prepare the scan of `work` by `library`; no row is read yet."""
        # the products take the centre off: weights that are nearly one would be rounded off sums of one sign together
        self.asked, self.work = work, replace(work, rows=replace(work.rows, centre_off=True))
        self.library, self.limits = library, limits
        # what derivatives need next is kept with the rows here: where a compiler traces them it could not be
        _ = work.rows.operand_centre
        self.dtype = score_dtype(work.rows)
        self.count = self._count()
        least, most = limits.rescored
        self.listed = min(max(least, self.count // 32), most, self.count)
        self.kept_alive: list[Tensor] = []
        self.problem = self._problem()

    def state(self) -> PosteriorState:
        """Scan the span, and rescore what was listed."""
        work = self.asked
        self._scan()
        state = self._coarse()
        pairs = self._pairs()
        if len(pairs):
            rescored = pairs_state(work.rows, work.query, pairs, work.wanted)
            state = merged_into(without_top(state, rescored.top_rows), rescored)
        overflowed = (self.kept < 0).nonzero()[:, 0]
        return state.put(overflowed, self._in_double(overflowed)) if len(overflowed) else state

    def windows(self, partition: Float64[Tensor, "B"]) -> Windows:
        """Return the windows of the queries whose log-partition is `partition`, [B] nats, as the library has them."""
        found = torch.empty(2, len(partition), dtype=torch.float64)
        at = [ctypes.c_void_p(part.data_ptr()) for part in (partition.contiguous(), found)]
        self._call("oracle_windows", *at)
        return Windows(*found)

    def _count(self) -> int:
        """Return how many rows a query may use at most."""
        return len(self.work.span)

    def _tops(self) -> int:
        """Return how many lists of heaviest samples a query gets."""
        return self._threads()

    def _operations(self) -> float:
        return 4.0 * len(self.work.query) * self.work.rows.dim * len(self.work.span)

    def _scan(self) -> None:
        size, span = ctypes.c_int64(), self.work.span
        self._call("oracle_scan_bytes", ctypes.byref(size))
        self._point("memory", torch.empty(size.value, dtype=torch.uint8))
        self._call("oracle_scan_begin")
        rows = max(1024, int(self.limits.step_operations * len(span) / self._operations()))
        for start in range(span.start, span.stop, rows):
            stop = min(start + rows, span.stop)
            self._call("oracle_scan_add", ctypes.c_int64(start), ctypes.c_int64(stop))
        self._call("oracle_scan_finish")

    def _in_double(self, index: Int64[Tensor, "b"]) -> PosteriorState:
        return double_state(self.asked.take(index))

    def _problem(self) -> ScanProblem:
        rows, query, wanted = self.work.rows, self.work.query, self.work.wanted
        batch, dim = len(query), rows.dim
        threads = self._threads()
        problem = self.problem = ScanProblem(
            scan=self.law(),
            stored=STORED[rows.stored.dtype],
            wide=int(self.dtype == torch.float64),
            dim=dim,
            batch=batch,
            ranges=query.excluded.shape[1],
            threads=threads,
            listed=self.listed,
            top=wanted.top_k + MARGIN if wanted.top_k else 0,
            wants_mean=int(wanted.mean),
            wants_moments=int(wanted.moments),
            block=block_rows(rows, batch, self.limits),
            few=int(batch <= FEW_QUERIES),
        )
        self._point("rows", rows.stored)
        self._point("half_norms", rows.half_norms)
        if rows.log_weights is not None:
            self._point("log_weights", rows.log_weights)
        self._point("centre", rows.centre)
        gain = query.gain
        self._point("point", query.point)
        self._point("gain", gain)
        self._point("bias", -gain * query.alpha)
        self._point("law", self.query_law())
        self._point("excluded", query.excluded)
        self.sums = self._point("sums", torch.empty(6, batch, dtype=torch.float64))
        self.mean = self._point("mean", torch.empty(batch, dim if wanted.mean else 0, dtype=torch.float64))
        shape = self._tops(), batch, problem.top
        self.top_logits = self._point("top_logits", torch.empty(shape, dtype=torch.float64))
        self.top_rows = self._point("top_rows", torch.empty(shape, dtype=torch.int64))
        self.kept = self._point("kept", torch.empty(batch, dtype=torch.int64))
        return problem

    def _threads(self) -> int:
        most = self.limits.threads or torch.get_num_threads()
        return max(1, min(most, int(self._operations() / THREAD_OPERATIONS)))

    def law(self) -> ScanLaw:
        """Return the rounding law of this scan, as in law.hpp."""
        rows, wide = self.work.rows, self.dtype == torch.float64
        # float64 scans list everything with weight or, where the rounding of their logits cannot show, nothing
        budget = float("inf") if wide else LOGIT_BUDGET
        longest = max(1.0, (rows.dim / CALM_DIM) ** 0.5)
        return ScanLaw(
            factor=0.5 * UNIT_ROUNDOFF[self.dtype] * longest,
            rounding=0.0,
            log_count=math.log(self.count / DROPPED_MASS[self.dtype]),
            budget=budget,
            far_apart=FAR_APART,
            log_copies=math.log(rows.copies),
            worst_case=WORST_CASE,
            few_shares=FEW_SHARES,
        )

    def query_law(self) -> Float64[Tensor, "B 5"]:
        """Return bound, norms, own, spread and limit of each query, as in law.hpp."""
        rows, query = self.work.rows, self.work.query
        gain = query.gain.abs()
        squared = gain * query.alpha.abs()
        limit = torch.full_like(gain, COARSE_LIMIT)
        if self.dtype == torch.float64:
            limit = torch.where(logit_error(rows, query, torch.float64) > DOUBLE_LIMIT, -1.0, torch.inf)
        return torch.stack(
            [
                gain * query.norm * rows.operand_radius,
                0.5 * squared * rows.radius**2,
                4.0 * squared * rows.radius * rows.operand_radius,
                competitor_spread(rows, query, self.count),
                limit,
            ],
            dim=1,
        )

    def _coarse(self) -> PosteriorState:
        rows, query, wanted = self.asked.rows, self.asked.query, self.asked.wanted
        reference, _, mass, squares, first_logit, half_norm = self.sums
        some = mass > 0
        mass = torch.where(some, mass, 1.0)
        lse = reference + mass.log() - 0.5 * query.inverse_variance * query.norm.square()
        changes = {"lse": torch.where(some, lse, -torch.inf)}
        if wanted.mean:
            changes["mean"] = self.mean
        if wanted.moments:
            changes["concentration"] = squares / mass / mass
            changes["entropy"] = mass.log() - first_logit / mass
        if wanted.moments and wanted.mean:
            variance = 2 * half_norm / mass - self.mean.square().sum(1)
            changes["variance"] = torch.where(some, variance.clamp_min(0.0), 0.0)
        width = 0 if wanted.mean else rows.dim
        state = replace(PosteriorState.empty(len(query), width, 0, rows.device), **changes)
        return self._top().heaviest(state, rows, query, scored=candidate_logits)

    def _top(self) -> TopCandidates:
        top = TopCandidates(len(self.work.query), self.work.wanted.top_k, self.work.rows.device)
        if self.problem.top:
            logits, rows = (part.transpose(0, 1).flatten(1) for part in (self.top_logits, self.top_rows))
            top.logits, column = logits.topk(self.problem.top, dim=1)
            top.rows = rows.gather(1, column)
        return top

    def _pairs(self) -> Pairs:
        count = int(self.kept.clamp_min(0).sum())
        query, row = torch.empty(2, count, dtype=torch.int64)
        logit = torch.empty(count, dtype=torch.float64)
        if count:
            self._call("oracle_scan_listed", *(ctypes.c_void_p(part.data_ptr()) for part in (query, row, logit)))
        return Pairs(query, row, logit)

    def _point(self, name: str, tensor: Tensor) -> Tensor:
        # what the library reads must stay where it is while it runs
        held = tensor.detach().contiguous()
        self.kept_alive.append(held)
        setattr(self.problem, name, held.data_ptr())
        return held

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self.library, name)(ctypes.byref(self.problem), *arguments):
            raise MemoryError("the scan could not allocate its bookkeeping")
