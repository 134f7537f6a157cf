"""Answers that are linear in the posterior mean, from queries as a caller has them: one call of the library each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import CDLL, Structure, addressof, c_char_p, c_double, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ...base.arrays import STORAGE_DTYPES, Float, Float64, Tensor
from ...base.calls.changes import Probes
from ..common.rescore import FARTHEST
from ..common.rows import Rows
from ..common.top_k import MARGIN
from .library import native_library
from .scan import (
    DIGITS,
    NATIVE_LIMITS,
    ROUNDING,
    ScanAsked,
    applies,
    block_rows,
    few_queries,
    most_listed,
    product_dtype,
    shares_of,
)
from .views import RowsView

# of queries and of their answers
STORAGE = {dtype: STORAGE_DTYPES.index(dtype) for dtype in STORAGE_DTYPES if dtype.is_floating_point}


@dataclass(frozen=True)
class ValueSpace:
    """Where queries are: a sample is scale * stored + offset there, and the centre of the rows is `base`, [D] float64.

    point_std: width of every sample. least_variance: of x around alpha X_j; with less there is no posterior.
    """

    scale: float
    offset: float
    base: Float64[Tensor, "D"]
    point_std: float
    least_variance: float


class AnswersAsked(Structure):
    """What all answers over the same rows have in common, as in answer.cpp."""

    _fields_ = (
        ("scan", ScanAsked),
        ("base", c_void_p),
        *((name, c_double) for name in ("scale", "offset", "point_std", "least_variance", "farthest")),
        *((name, c_int64) for name in ("few", "few_block", "block", "probes", "probe_bytes")),
        ("probe_at", c_void_p),
        ("probe", c_char_p),
    )

    view: RowsView
    library: CDLL
    held: Any


# coefficients that all queries share
FourNumbers = c_double * 4

# what `oracle_answer` takes
ARGUMENTS = (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_int64, c_void_p)


@cache
def _answer_of(library: CDLL) -> Callable[..., int]:
    function = library.oracle_answer
    function.argtypes = ARGUMENTS
    return function


class NativeAnswers:
    """Answers over all of some rows, by one call of the library for each batch of queries."""

    def __init__(self, rows: Rows, space: ValueSpace, probes: Probes | None) -> None:
        """Answer over `rows`, whose samples in `space` are asked about.

        probes: bytes of the rows that a change in place would show in, or None.
        """
        self.rows, self.space, self.probes = rows, space, probes
        # a copy, which nobody else can move to other memory
        self.base = space.base.clone()
        self._asked: AnswersAsked | None = None

    @classmethod
    def of(cls, rows: Rows, space: ValueSpace, probes: Probes | None) -> NativeAnswers | None:
        """Return what answers over `rows`, or None where the library cannot read them; space, probes: as for one."""
        return cls(rows, space, probes) if applies(rows) else None

    def write(self, x: Float[Tensor, "B ..."], coefficients: Tensor | Sequence[float], out: Tensor) -> bool:
        """Write E[a X + b eps | x], x = alpha X + sigma eps, to `out`, and return whether that is the answer.

        x: [B, *shape] in a dtype of STORAGE, contiguous, in the space of values, B > 0. coefficients: alpha, sigma, a
        and b, [4, B] float64, contiguous, or four numbers for all queries. out: like x. Another look is needed where
        it returns False: where a query, a coefficient or an answer is no finite number, the noise none, the rows are
        others than they were, or more of them compete than are scored again one by one. Costs what a scan does.
        """
        library = native_library().library
        if library is None:
            return False
        if isinstance(coefficients, Tensor):
            each, address = 1, coefficients.data_ptr()
        else:
            numbers = FourNumbers(*coefficients)
            each, address = 0, addressof(numbers)
        batch, asked, view = x.shape[0], self._asked, RowsView.of(self.rows)
        if asked is None or view is not asked.view or library is not asked.library:
            # one assignment: other threads may be at work with what was there before
            asked = self._asked = self._made(view, library)
        threads = shares_of(self.operations(batch), torch.get_num_threads())
        arguments = x.data_ptr(), STORAGE[x.dtype], batch, address, each, threads, out.data_ptr()
        return not _answer_of(library)(addressof(asked), *arguments)

    def operations(self, batch: int) -> float:
        """Return how many operations answers to `batch` queries take."""
        return 4.0 * batch * self.rows.dim * self.rows.stored.shape[0]

    def _made(self, view: RowsView, library: CDLL) -> AnswersAsked:
        rows, space = self.rows, self.space
        count, rounding, digits = rows.stored.shape[0], ROUNDING[product_dtype(rows)], DIGITS[False]
        listed = most_listed(count, NATIVE_LIMITS)
        few_block, _ = block_rows(rows, NATIVE_LIMITS, library, few=True)
        block, whole_block = block_rows(rows, NATIVE_LIMITS, library, few=False)
        scan = ScanAsked(
            *map(addressof, (view, rounding, digits)),
            stop=count,
            count=count,
            listed=listed,
            margin=MARGIN,
            whole_block=whole_block,
        )
        few = few_queries(rows, library)
        limits = space.scale, space.offset, space.point_std, space.least_variance, FARTHEST, few, few_block, block
        place, size, values = (None, 0, b"") if self.probes is None else self.probes
        probed = 0 if place is None else len(place), size, None if place is None else place.ctypes.data, values
        asked = AnswersAsked(scan, self.base.data_ptr(), *limits, *probed)
        asked.view, asked.library, asked.held = view, library, (place, values)
        return asked
