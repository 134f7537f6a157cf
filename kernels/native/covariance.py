"""Products with the posterior covariance by the native library: one pass in float64 from differences."""

from __future__ import annotations

from ctypes import c_void_p

import torch

from ...base.arrays import Float64, Tensor
from ..common.rows import Rows, Span
from ..common.state import Wanted
from ..common.work import Work
from ..portable import covariance
from ..portable.covariance import DROPPED_SHARE, Directions
from .double import ScanView, parts_of, shares_for
from .views import Digits, QueriesView, RowsView, View, called, readable


class DirectionsView(View):
    """Changes of logits, and the room for their products."""

    _fields_ = (
        ("lse", c_void_p),
        ("lse_rest", c_void_p),
        ("mean", c_void_p),
        ("vector", c_void_p),
        ("curvature", c_void_p),
        ("total", c_void_p),
    )

    def __init__(self, rows: Rows, directions: Directions, total: Float64[Tensor, "S B D"]) -> None:
        """Look at `directions` of `rows`, whose products are added to `total`."""
        self.held, rest, curvature = [], directions.lse_rest, directions.curvature
        super().__init__(
            self.hold(directions.lse.contiguous()),
            self.hold(torch.zeros_like(directions.lse) if rest is None else rest.contiguous()),
            self.hold((directions.mean + rows.centre).contiguous()),
            self.hold(directions.vector.contiguous()),
            self.hold(None if curvature is None else curvature.contiguous()),
            self.hold(total),
        )


def covariance_product(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) s_j over the rows of `span`, gamma_j = exp(l_j - lse), [B, D].

    rows: the samples. directions: the changes s_j of logits, m and lse of each query, in row units. Everything is in
    float64, from differences, logits in twice the digits where the gaps between them ask for it. The products of
    disjoint spans add up, as those of :func:`~oracle_engine.kernels.portable.covariance.covariance_product`, which
    answers where no library can read the rows. Costs one read of the span and 2 to 6 B n D operations, the fewest where
    few rows carry weight; memory is B D values for every group of queries that a thread has, and a block of rows.
    """
    if not readable(rows):
        return covariance.covariance_product(rows, directions, span)
    work = Work(rows, directions.query, span, Wanted(mean=False))
    total = torch.zeros_like(directions.mean)
    if len(directions):
        for part in parts_of(work):
            total += _product(part, directions)
    return total


def _product(work: Work, directions: Directions) -> Float64[Tensor, "B D"]:
    rows, shares = work.rows, shares_for(len(directions))
    totals = torch.zeros(shares, len(directions), rows.dim, dtype=torch.float64)
    scan = ScanView(work, shares, DROPPED_SHARE)
    called(
        "oracle_covariance",
        *(RowsView(rows), QueriesView(rows, work.query), Digits(True), scan, DirectionsView(rows, directions, totals)),
    )
    return totals.sum(0)
