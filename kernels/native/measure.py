"""What preparation needs to know of rows, by the native library in one pass, else in torch."""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from functools import partial

import torch

from ...base.arrays import Float64, Shaped, Tensor
from ...base.calls.transforms import unreadable
from ...base.outside.rows import in_one_piece
from ..common import prepare
from ..common.copies import DIRECTIONS
from ..common.prepare import Measures
from ..common.rows import Rows
from .library import native_library
from .views import StoredView, View, called

# parts that rows are measured in: sums are the same for any number of threads up to it
SHARES = 16

# values of one call: half a second or so, after which Ctrl-C is heard
CALL_VALUES = 1 << 29


class MeasuresView(View):
    """Room for the measures of rows."""

    _fields_ = tuple((name, c_void_p) for name in ("directions", "half_norms", "projected", "total", "ends"))

    def __init__(self, *tensors: Tensor) -> None:
        """Look at `tensors`, in the order of the fields."""
        self.held = []
        super().__init__(*(self.hold(tensor) for tensor in tensors))


def native_prepared(stored: Shaped[Tensor, "N D"], weights: Float64[Tensor, "N"] | None) -> Rows:
    """Return what `prepare_rows` of these returns, by the native library where it can read them. Reads them once."""
    return prepare.prepare_rows(stored, weights, measure=native_measured)


def native_measured(
    stored: Shaped[Tensor, "n D"], centre: Float64[Tensor, "D"], directions: Float64[Tensor, "D 4"]
) -> Measures:
    """Return what `measured` of these returns, by the native library where it can read them.

    Costs one read of the rows and about 14 n D operations in float64. The same bits for any number of threads.
    """
    beside = stored.shape[1] == 1 or stored.stride(1) == 1
    plain = stored.device.type == "cpu" and beside and in_one_piece(stored) and not unreadable(stored)
    if not plain or native_library().library is None or len(stored) == 0:
        return prepare.measured(stored, centre, directions)
    step = max(1, CALL_VALUES // stored.shape[1])
    parts = [_call(stored[start : start + step], centre, directions) for start in range(0, len(stored), step)]
    return Measures(
        torch.cat([part.half_norms for part in parts]),
        torch.cat([part.projected for part in parts]),
        torch.stack([part.total for part in parts]).sum(0),
        max(part.largest_square for part in parts),
        min(part.low for part in parts),
        max(part.high for part in parts),
    )


def _call(stored: Tensor, centre: Float64[Tensor, "D"], directions: Float64[Tensor, "D 4"]) -> Measures:
    new = partial(torch.empty, dtype=torch.float64)
    half_norms, projected, total = new(len(stored)), new(len(stored), DIRECTIONS), new(SHARES, len(centre)).zero_()
    ends = torch.tensor([0.0, torch.inf, -torch.inf], dtype=torch.float64).repeat(SHARES, 1)
    out = MeasuresView(directions.T.contiguous(), half_norms, projected, total, ends)
    sizes = len(stored), SHARES, torch.get_num_threads()
    called("oracle_measure", StoredView(stored, centre), out, *(c_int64(size) for size in sizes))
    largest, low, high = ends[:, 0].max(), ends[:, 1].min(), ends[:, 2].max()
    return Measures(half_norms, projected, total.sum(0), float(largest), float(low), float(high))
