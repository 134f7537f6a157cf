"""The exact scan in C++: one call for one pass over the rows, from the rounding law to states."""

from __future__ import annotations

from ctypes import CDLL, Structure, addressof, byref, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache

import torch

from ...base.arrays import STORAGE_DTYPES, Float64, Int64, Tensor
from ...base.outside.rows import in_one_piece
from ..common.rounding import (
    CALM_DIM,
    COARSE_LIMIT,
    DROPPED_MASS,
    FAR_APART,
    FEW_SHARES,
    LITTLE_NOISE,
    LOGIT_BUDGET,
    LONGEST_NOISE,
    MOVED,
    POINT_LIMIT,
    PRODUCT_ERROR,
    SUM_ROUNDINGS,
    UNIT_ROUNDOFF,
    WORST_CASE,
    Windows,
)
from ..common.rows import Rows
from ..common.state import PosteriorState
from ..common.top_k import MARGIN
from ..common.work import Work
from ..portable.double import DOUBLE_LIMIT
from ..portable.scan import posterior_state, scan_memory, score_dtype
from .double import double_state
from .library import native_library
from .views import AskedQueries, Digits, OwnStates, RowsView, StatesView

# values of rows up to which products in float64 cost no more than in float32
NATIVE_DOUBLE_DIM = 16

# operations of a share of a scan: a fifth of a millisecond; share_out.hpp says which threads take the shares
SHARE_OPERATIONS = 1.4e7

# bytes of the vectors of the best libraries, whose blocks of whole products grow with the queries: see asked.hpp
LONG_VECTOR = 64

# operations between two looks at whether the user has asked to stop: about a tenth of a second
STEP_OPERATIONS = 3e10

# rows of a block: a multiple of those of every tile, and at most so many
ROW_UNIT, MOST_ROWS = 12, 192
# of rows that are so short that what is done for a query once a block costs as much as its products (measured)
SHORT_DIM, MOST_SHORT_ROWS = 96, 384

# rows of a block at least that are all multiplied with whole queries, by short vectors: the more there are, the less
# often the sums of all queries pass, and a panel of rows comes from the second cache however long a block is
WHOLE_ROWS = 96

# share of the second cache that a block of rows may have, its size where the system does not say, and the most of it
# that short blocks reckon with
CACHE_SHARE, CACHE_BYTES = 0.6, 1 << 19

# what matrix units multiply: bytes of a value of 8-bit rows and of others in a block, rows of a product with weights
UNIT_BYTES, PLANE_BYTES, UNIT_ROWS = 2, 3, 64


class Rounding(Structure):
    """The constants of the rounding law for products in one dtype, as in law.hpp."""

    _fields_ = (
        *((name, c_double) for name in ("roundoff", "calm_dim", "dropped_mass", "budget", "far_apart")),
        *((name, c_double) for name in ("worst_case", "few_shares", "limit", "double_limit")),
        *((name, c_double) for name in ("sum_roundings", "moved", "little_noise", "point_limit")),
        *((name, c_double) for name in ("product_error", "longest_noise")),
        ("wide", c_int64),
    )

    def __init__(
        self,
        dtype: torch.dtype,
        budget: float = LOGIT_BUDGET,
        limits: tuple[float, float] = (COARSE_LIMIT, DOUBLE_LIMIT),
    ) -> None:
        """Start from the constants for products in `dtype`.

        budget: velocity error that rounding may cause. limits: rounding errors of float32 and of float64 logits from
        which on whatever has weight is scored again.
        """
        law = UNIT_ROUNDOFF[dtype], CALM_DIM, DROPPED_MASS[dtype], budget, FAR_APART
        loss = SUM_ROUNDINGS, MOVED, LITTLE_NOISE, POINT_LIMIT
        far = PRODUCT_ERROR, LONGEST_NOISE
        super().__init__(*law, WORST_CASE, FEW_SHARES, *limits, *loss, *far, dtype == torch.float64)


ROUNDING = {dtype: Rounding(dtype) for dtype in (torch.float32, torch.float64)}

# of logits that are compared with those of other samples, and of those that are not
DIGITS = {mergeable: Digits(mergeable) for mergeable in (False, True)}


class ScanAsked(Structure):
    """What a scan is asked, as in asked.hpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("rows", "rounding", "digits")),
        ("queries", AskedQueries),
        ("start", c_int64),
        ("stop", c_int64),
        ("count", c_int64),
        ("excluded", c_void_p),
        *((name, c_int64) for name in ("ranges", "threads", "listed", "margin", "block", "whole_block", "few")),
        ("out", StatesView),
        ("overflows", c_int64),
        ("closed", c_int64),
        ("weighed", c_int64),
        ("begun", c_void_p),
        ("lse", c_void_p),
        ("directions", c_void_p),
    )


@dataclass(frozen=True)
class NativeLimits:
    """Sizes that a native scan keeps to; the defaults are measured, tests pass smaller ones.

    block_rows: rows of a block, or None for what the second cache holds. whole_rows: of one whose rows are all
        multiplied with whole queries, or None for as many; read where block_rows is given, multiples of ROW_UNIT both.
        rescored: samples of a query that are rescored one by one, at least and at most; with more of them, or with more
        than a 32nd of the span, the query is scanned in float64. step_operations: operations of one call. threads: of a
        scan, or None for as many as torch has.
    """

    block_rows: int | None = None
    whole_rows: int | None = None
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
    return NativeScan(work, library, limits).state()


def native_memory(rows: Rows, batch: int) -> int:
    """Return the most bytes that a native scan of all `rows` for `batch` queries needs beyond the data."""
    library = native_library().library
    if library is None or not applies(rows):
        return scan_memory(rows, batch)
    size = 4 if product_dtype(rows) == torch.float32 else 8
    width = rows.dim + 48
    lanes = -(-batch // 16) * 16
    few = batch <= few_queries(rows, library)
    block = block_rows(rows, NATIVE_LIMITS, library, few=few)[not few]
    own = width * block * (size + 2 + PLANE_BYTES) + lanes * (
        width * (size + 8) + 3 * block * size + 24 * (MARGIN + 64) + 8192
    )
    return torch.get_num_threads() * own + lanes * width * (size + 5 * 8 + 10) + scan_memory(rows, batch)


def product_dtype(rows: Rows) -> torch.dtype:
    """Return the dtype of the products of a scan of `rows`, float32 or float64."""
    return score_dtype(rows, NATIVE_DOUBLE_DIM)


def applies(rows: Rows) -> bool:
    """Return whether native kernels can read `rows`."""
    stored = rows.stored
    plain = stored.is_contiguous() and in_one_piece(stored)
    return stored.is_cpu and stored.dtype in STORAGE_DTYPES and plain


def few_queries(rows: Rows, library: CDLL) -> int:
    """Return up to how many queries `library` reads rows as they are stored, without a copy in panels."""
    stored = STORAGE_DTYPES.index(rows.stored.dtype)
    return int(library.oracle_few_queries(stored, product_dtype(rows) == torch.float64, rows.dim))


def block_rows(rows: Rows, limits: NativeLimits, library: CDLL, *, few: bool) -> tuple[int, int]:
    """Return how many rows a block holds, and one at most whose rows are all multiplied with whole queries.

    few: whether rows are read as they are stored.
    """
    if limits.block_rows is not None:
        return limits.block_rows, limits.whole_rows or limits.block_rows
    return _block_rows(library, rows.stored.element_size(), rows.dim, few)


@cache
def _block_rows(library: CDLL, size: int, dim: int, few: bool) -> tuple[int, int]:
    """Return what block_rows() does for rows of `dim` values of `size` bytes."""
    second = library.oracle_second_cache() or CACHE_BYTES
    if library.oracle_matrix_units() and not few:
        whole = _fitting(dim, UNIT_BYTES if size == 1 else PLANE_BYTES, second, UNIT_ROWS)
        return (whole if size == 1 else min(whole, _fitting(dim, 4, CACHE_BYTES))), whole
    block = _fitting(dim, size if few else 4, min(second, CACHE_BYTES))
    long_vectors = library.oracle_vector_bytes() == LONG_VECTOR
    return block, max(block, _fitting(dim, 4, second) if long_vectors else WHOLE_ROWS)


def _fitting(dim: int, value_bytes: int, cache_bytes: int, multiple: int = ROW_UNIT) -> int:
    """Return how many rows of `dim` values of so many bytes a block may have where the second cache has so many.

    multiple: of rows that are multiplied together; a block has as many whole units of these as fit.
    """
    most = MOST_SHORT_ROWS if dim <= SHORT_DIM else MOST_ROWS
    fitting = min(int(CACHE_SHARE * cache_bytes) // (dim * value_bytes), most)
    return max(ROW_UNIT, max(fitting // multiple * multiple, min(fitting, multiple)) // ROW_UNIT * ROW_UNIT)


def shares_of(operations: float, most: int) -> int:
    """Return into how many shares a scan of so many operations is cut, one for each thread; most: of the threads."""
    return max(1, min(most, int(operations / SHARE_OPERATIONS)))


def most_listed(count: int, limits: NativeLimits) -> int:
    """Return how many of `count` rows a query may list to be scored again."""
    least, most = limits.rescored
    return min(max(least, count // 32), most, count)


class NativeScan:
    """One scan: what is asked, as the library reads it, and the states that it writes."""

    # what the library calls a step of it
    step = "oracle_scan"

    def __init__(self, work: Work, library: CDLL, limits: NativeLimits) -> None:
        """Prepare the scan of `work` by `library`; no row is read yet."""
        self.work, self.library, self.limits = work, library, limits
        rows, query, span = work.rows, work.query, work.span
        count, excluded = self._count(), query.excluded.contiguous()
        # what the library reads must stay where it is while it runs
        self.out, self.queries, self.excluded = OwnStates(work), AskedQueries(query), excluded
        self.views = views = RowsView.of(rows), self.rounding(), DIGITS[work.wanted.compared]
        self.operations, few = self._operations(), self._are_few()
        self.asked = ScanAsked(
            *map(addressof, views),
            self.queries,
            span.start,
            span.stop,
            count,
            excluded.data_ptr(),
            excluded.shape[1],
            self._threads(),
            most_listed(count, limits),
            MARGIN,
            *block_rows(rows, limits, library, few=few),
            few,
            self.out.view,
        )

    def state(self) -> PosteriorState:
        """Scan the span, and score again what was listed."""
        try:
            self._scan()
        finally:
            if self.asked.begun:
                self.library.oracle_scan_stop(byref(self.asked))
        state = self.out.state
        if self.asked.overflows == 0:
            return state
        overflowed = state.lse_rest.isnan().nonzero()[:, 0]
        return state.put(overflowed, self._in_double(overflowed))

    def windows(self, partition: Float64[Tensor, "B"]) -> Windows:
        """Return the windows of the queries whose log-partition is `partition`, [B] nats, as the library has them."""
        found = torch.empty(2, len(partition), dtype=torch.float64)
        self._call("oracle_windows", *(c_void_p(part.data_ptr()) for part in (partition.contiguous(), found)))
        return Windows(*found)

    def rounding(self) -> Rounding:
        """Return the constants of the rounding law of this scan."""
        return ROUNDING[product_dtype(self.work.rows)]

    def _are_few(self) -> bool:
        return len(self.work.query) <= few_queries(self.work.rows, self.library)

    def _count(self) -> int:
        """Return how many rows a query may use at most."""
        return len(self.work.span)

    def _operations(self) -> float:
        return 4.0 * len(self.work.query) * self.work.rows.dim * len(self.work.span)

    def _scan(self) -> None:
        span = self.work.span
        rows = max(1024, int(self.limits.step_operations * len(span) / self.operations))
        for start in range(span.start, span.stop, rows):
            self._call(self.step, c_int64(start), c_int64(min(start + rows, span.stop)))

    def _in_double(self, index: Int64[Tensor, "b"]) -> PosteriorState:
        return double_state(self.work.take(index))

    def _threads(self) -> int:
        return self.limits.threads or shares_of(self.operations, torch.get_num_threads())

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self.library, name)(byref(self.asked), *arguments):
            raise MemoryError("the scan could not allocate its bookkeeping")
