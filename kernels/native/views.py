"""Rows, queries and lists as the native library takes them: see src/core/problem.hpp and src/core/queries.hpp."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ctypes import Structure, byref, c_double, c_int64, c_void_p
from functools import lru_cache
from typing import Any, ClassVar

import torch

from ...base.arrays import STORAGE_DTYPES, Float64, Int64, Shaped, Tensor
from ...base.calls.transforms import unreadable
from ...base.outside.rows import in_one_piece
from ..common.rescore import COMPENSATED_WINDOW, GAP_LIMIT, LOGIT_SHARE
from ..common.rounding import UNIT_ROUNDOFF, WALK
from ..common.rows import Query, Rows, ValueQuery
from ..common.state import FIELDS, PosteriorState, Wanted
from ..common.work import Work
from .library import native_library


class View(Structure):
    """Addresses inside tensors, which stay alive as long as the view does."""

    held: list[Any]

    def hold_all(self, tensors: Iterable[Tensor | None]) -> list[int | None]:
        """Return the addresses of tensors, made contiguous where they are not, and keep these; None for none."""
        dense = [None if one is None else one.contiguous() for one in tensors]
        self.held = [one for one in dense if one is not None]
        return [None if one is None else one.data_ptr() for one in dense]

    def hold(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor that is contiguous, and keep it; None for none."""
        if tensor is None:
            return None
        self.held.append(tensor)
        return int(tensor.data_ptr())


class StoredView(View):
    """Rows as they are stored, of which nothing else need be known: the first fields of RowsView."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = (
        ("stored", c_void_p),
        ("storage", c_int64),
        ("stride", c_int64),
        ("dim", c_int64),
        ("centre", c_void_p),
        ("log_weights", c_void_p),
    )

    def __init__(
        self,
        stored: Shaped[Tensor, "n D"],
        centre: Float64[Tensor, "D"],
        log_weights: Float64[Tensor, "n"] | None = None,
        *further: Any,
    ) -> None:
        """Look at `stored`, in one piece on the CPU, their `centre` and weights; further: the fields that follow."""
        self.held = []
        storage, (stride, _) = STORAGE_DTYPES.index(stored.dtype), stored.stride()
        known = self.hold(centre.contiguous()), self.hold(None if log_weights is None else log_weights.contiguous())
        super().__init__(self.hold(stored), storage, stride, stored.shape[1], *known, *further)


class RowsView(StoredView):
    """Rows as they are stored, and what rounding laws need to know of them."""

    _fields_ = (
        ("half_norms", c_void_p),
        ("radius", c_double),
        ("centre_norm", c_double),
        ("copies", c_int64),
    )

    def __init__(self, rows: Rows) -> None:
        """Look at `rows`, which must be :func:`readable`."""
        # what derivatives need next is kept with the rows, too: where a compiler traces them it could not be
        _ = rows.operand_centre
        half_norms = rows.half_norms.contiguous()
        law = half_norms.data_ptr(), rows.radius, rows.centre_norm, rows.copies
        super().__init__(rows.stored, rows.centre, rows.log_weights, *law)
        self.hold(half_norms)
        self.addresses = [tensor.data_ptr() for tensor in self.held]

    @classmethod
    def of(cls, rows: Rows) -> RowsView:
        """Return the view of `rows`, which is kept with them."""
        view = rows.derived("native view", cls)
        if view.addresses != [tensor.data_ptr() for tensor in view.held]:
            # tensors that go to another process move into memory that both share
            view = rows.derived("native view", cls, anew=True)
        return view


class AskedQueries(View):
    """Queries of some rows: in their coordinates, or in the space of values."""

    _fields_ = (
        ("count", c_int64),
        *((name, c_void_p) for name in ("point", "inverse_variance", "alpha", "given", "variance", "base")),
        ("scale", c_double),
        ("offset", c_double),
    )

    def __init__(self, query: Query) -> None:
        """Look at the queries `query`."""
        self.held, given = [], query.given
        scale, offset = (1.0, 0.0) if given is None else (given.scale, given.offset)
        x = None if given is None else given.x
        parts: tuple[Tensor | None, ...]
        if isinstance(query, ValueQuery):
            parts = None, None, query.alpha, x, query.variance, query.base
        else:
            parts = query.point, query.inverse_variance, query.alpha, x, None, None
        super().__init__(len(query), *self.hold_all(parts), scale, offset)


class ListsView(View):
    """A list of rows for each query: `row`, [P], from `first`, [B + 1]."""

    _fields_ = (("first", c_void_p), ("row", c_void_p), ("threads", c_int64))

    def __init__(self, first: Int64[Tensor, "C"], row: Int64[Tensor, "P"]) -> None:
        """Look at lists, to be worked on by as many threads as torch uses."""
        self.held = []
        super().__init__(self.hold(first), self.hold(row), torch.get_num_threads())


class StatesView(View):
    """States of no sample, which the library fills in."""

    _fields_ = (
        ("lse", c_void_p),
        ("lse_rest", c_void_p),
        ("mean", c_void_p),
        ("concentration", c_void_p),
        ("entropy", c_void_p),
        ("variance", c_void_p),
        ("top_logits", c_void_p),
        ("top_rest", c_void_p),
        ("top_rows", c_void_p),
        ("top_k", c_int64),
    )

    def __init__(self, state: PosteriorState, wanted: Wanted) -> None:
        """Look at what is wanted of `state`, whose parts are contiguous."""
        self.held = [state]
        moments, mean = wanted.moments, wanted.mean
        super().__init__(
            state.lse.data_ptr(),
            state.lse_rest.data_ptr(),
            state.mean.data_ptr() if mean else None,
            state.concentration.data_ptr() if moments else None,
            state.entropy.data_ptr() if moments else None,
            state.variance.data_ptr() if moments and mean else None,
            state.top_logits.data_ptr(),
            state.top_rest.data_ptr(),
            state.top_rows.data_ptr(),
            wanted.top_k,
        )


def room_for_named(
    batch: int, count: int
) -> tuple[Float64[Tensor, "B K"], Float64[Tensor, "B K"], Int64[Tensor, "B K"]]:
    """Return room for the logits, their rest, which is zero, and the rows of `count` samples of each of B queries."""
    logits = torch.empty(batch, count, dtype=torch.float64)
    return logits, torch.zeros_like(logits), torch.empty(batch, count, dtype=torch.int64)


@lru_cache(64)
def unnamed(batch: int, count: int) -> tuple[Float64[Tensor, "B 0"], Float64[Tensor, "B 0"], Int64[Tensor, "B 0"]]:
    """Return what :func:`room_for_named` does for no sample: tensors without a value, which many states share."""
    with torch.inference_mode(False):
        return room_for_named(batch, count)


class OwnStates:
    """States that a scan writes, and the view that it writes them by."""

    def __init__(self, work: Work) -> None:
        """Make room for what is wanted by `work`; the rest is zero."""
        batch, dim, wanted = len(work.query), work.rows.dim, work.wanted
        numbers = torch.zeros(5 if wanted.moments else 3, batch, dtype=torch.float64)
        lse, lse_rest, *moments = numbers.unbind(0)
        concentration, entropy, variance = moments if wanted.moments else 3 * moments
        mean = (torch.empty if wanted.mean else torch.zeros)(batch, dim, dtype=torch.float64)
        top_logits, top_rest, top_rows = (room_for_named if wanted.top_k else unnamed)(batch, wanted.top_k)
        self.state = PosteriorState(
            lse, mean, concentration, entropy, variance, top_logits, top_rows, lse_rest, top_rest
        )
        self.view = StatesView(self.state, wanted)


class Digits(Structure):
    """When a float64 difference is not enough, as kernels/common/rescore.py has it."""

    _fields_ = (
        ("roundoff", c_double),
        ("gap_limit", c_double),
        ("logit_share", c_double),
        ("window", c_double),
        ("mergeable", c_int64),
    )

    def __init__(self, mergeable: bool) -> None:
        """Start from the constants; mergeable: whether other samples may compete with these."""
        unit = WALK * UNIT_ROUNDOFF[torch.float64]
        super().__init__(unit, GAP_LIMIT, LOGIT_SHARE, COMPENSATED_WINDOW, int(mergeable))


def readable(rows: Rows) -> bool:
    """Return whether the native library is there and can read `rows` where they are."""
    stored = rows.stored
    plain = stored.device.type == "cpu" and (rows.dim == 1 or stored.stride(1) == 1) and not unreadable(stored)
    return plain and in_one_piece(stored) and native_library().library is not None


def writable(state: PosteriorState) -> PosteriorState:
    """Return `state` with parts that share no memory, as all but the means of an empty one do."""
    return PosteriorState(*[state.mean if name == "mean" else getattr(state, name).clone() for name in FIELDS])


def called(name: str, *arguments: Any) -> None:
    """Call a function of the library with views, which it gets by reference, and addresses.

    Raises MemoryError where it found no memory.
    """
    library = native_library().library
    if library is None:
        raise RuntimeError("no native library is loaded")
    # as an attribute, which is looked up in the library once
    if getattr(library, name)(*(byref(one) if isinstance(one, Structure) else one for one in arguments)):
        raise MemoryError(f"{name}: memory is short; pass fewer queries at once")
