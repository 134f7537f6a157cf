"""Products with the posterior covariance by the native library: one pass in float64 from differences."""

from __future__ import annotations

from ctypes import c_void_p

import torch

from ...base.arrays import Float64, Tensor
from ..common.rescore import Pairs
from ..common.rows import Rows, Span
from ..common.state import Wanted
from ..common.work import Work
from ..portable import covariance
from ..portable.covariance import DROPPED_SHARE, Directions
from ..portable.scan import score_dtype
from .double import ScanView, parts_of, shares_for
from .pairs import lists_of
from .views import Digits, ListsView, QueriesView, RowsView, View, called, readable

# queries up to which float64 differences cost no more than the reading of the rows
FEW = 4


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

    def __init__(self, rows: Rows, directions: Directions, total: Float64[Tensor, "*S B D"]) -> None:
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

    rows: the samples. directions: the changes s_j of logits, m and lse of each query, in row units.
    The products of disjoint spans add up, as in torch. Narrow or float64 rows and few queries are scanned here in
    float64, from differences; else torch's products in float32 say which samples are summed here, or are exact enough.
    Costs one read of the span and 2 to 6 B n D operations, the fewest where few rows carry weight; memory is B D values
    for every group of queries that a thread has, and a block of rows.
    """
    if not readable(rows):
        return covariance.covariance_product(rows, directions, span)
    if score_dtype(rows) == torch.float32 and len(directions) > FEW:
        return covariance.covariance_product(rows, directions, span, of_pairs=pairs_product)
    work = Work(rows, directions.query, span, Wanted(mean=False))
    total = torch.zeros_like(directions.mean)
    if len(directions):
        for part in parts_of(work):
            total += _product(part, directions)
    return total


def pairs_product(rows: Rows, directions: Directions, pairs: Pairs) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) s_j over the samples that `pairs` names, [B, D], in float64 from differences.

    rows, directions: the samples, and the changes s_j of logits of B queries. Costs two reads of P rows.
    """
    total = torch.zeros_like(directions.mean)
    if len(pairs):
        lists = ListsView(*lists_of(pairs, len(directions)))
        views = RowsView.of(rows), QueriesView(directions.query), Digits(True), lists
        called("oracle_covariance_of_pairs", *views, DirectionsView(rows, directions, total))
    return total


def _product(work: Work, directions: Directions) -> Float64[Tensor, "B D"]:
    rows, shares = work.rows, shares_for(len(directions))
    totals = torch.zeros(shares, len(directions), rows.dim, dtype=torch.float64)
    scan = ScanView(work, shares, DROPPED_SHARE)
    called(
        "oracle_covariance",
        *(RowsView.of(rows), QueriesView(work.query), Digits(True), scan, DirectionsView(rows, directions, totals)),
    )
    return totals.sum(0)
