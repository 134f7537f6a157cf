"""Products with the posterior covariance by the native library: one pass in float64 from differences."""

from __future__ import annotations

from ctypes import CDLL, addressof, byref, c_void_p

import torch

from ...base.arrays import Float64, Int64, Tensor
from ..common.rounding import LOGIT_BUDGET
from ..common.rows import Rows, Span
from ..common.state import Wanted
from ..common.work import Work
from ..portable import covariance
from ..portable.covariance import DROPPED_SHARE, Directions, dense_product
from ..portable.scan import score_dtype
from .double import ScanView, shares_for, work_parts
from .library import native_library
from .scan import NATIVE_LIMITS, NativeLimits, NativeScan, Rounding, applies
from .views import AskedQueries, Digits, RowsView, View, called, readable

# queries up to which float64 differences of what has weight cost no more than products of all rows (measured)
FEW = 2

# rounding of a logit from which on weights are no longer right to first order
FIRST_ORDER = 1e-3

# one part of the rows that queries list at most, and how many pairs of a query and a row all of them: where more of a
# query have weight, products with all rows cost less than sums of single ones (measured at batches of 8 and 64)
LISTED_PART, LISTED_PAIRS = 5, 1 << 23

# whatever has weight is listed
LISTING = Rounding(torch.float32, limits=(-1.0, -1.0))
LISTING.dropped_mass = DROPPED_SHARE

# what rounding would show of in a product is listed; from this rounding of logits on, whatever has weight
SUMMING = Rounding(torch.float32, budget=LOGIT_BUDGET, limits=(FIRST_ORDER, -1.0))
SUMMING.dropped_mass = DROPPED_SHARE


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


class ListingScan(NativeScan):
    """One scan in which queries list all samples with weight, as many as a scan may score again."""

    step = "oracle_scan_rows"

    def __init__(self, work: Work, library: CDLL, limits: NativeLimits) -> None:
        """Prepare the scan of `work` by `library`; no row is read yet."""
        super().__init__(work, library, limits)
        fitting = LISTED_PAIRS // (len(work.query) * self.asked.threads)
        self.asked.listed = max(self.asked.listed, min(len(work.span) // LISTED_PART, fitting))

    def rounding(self) -> Rounding:
        """Return a law by which no logit is exact enough."""
        return LISTING

    def product(self, directions: Directions) -> tuple[Float64[Tensor, "B D"], Int64[Tensor, "b"]]:
        """Return the products, [B, D], and the queries that list too much, [b]: theirs are zero."""
        total, overflowed = torch.zeros_like(directions.mean), torch.zeros(len(directions), dtype=torch.uint8)
        view = DirectionsView(self.work.rows, directions, total)
        self.point_to(view)
        try:
            self._scan()
            self._call("oracle_covariance_of_listed", byref(view), c_void_p(overflowed.data_ptr()))
        finally:
            self.library.oracle_scan_stop(byref(self.asked))
        return total, overflowed.nonzero()[:, 0]

    def point_to(self, view: DirectionsView) -> None:
        """Let the scan know what the whole posterior weighs: it tells from the first row on which ones count."""
        self.asked.lse = view.lse


class CovarianceScan(ListingScan):
    """One scan in which queries sum the samples with weight, and list those whose rounding would show."""

    def rounding(self) -> Rounding:
        """Return the law for products with changes of logits."""
        return SUMMING

    def point_to(self, view: DirectionsView) -> None:
        """Let the scan multiply weights with the changes of logits, too."""
        super().point_to(view)
        self.asked.directions = addressof(view)

    def _are_few(self) -> bool:
        return False

    def _operations(self) -> float:
        return 1.5 * super()._operations()


def covariance_product(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return sum_j gamma_j (r_j - m) s_j over the rows of `span`, gamma_j = exp(l_j - lse), [B, D].

    rows: the samples. directions: the changes s_j of logits, m and lse of each query, in row units.
    The products of disjoint spans add up, as in torch. A scan sums the samples with weight, and lists those whose
    logits rounding makes too uncertain, see `direction_spread` in law.hpp: they are summed from differences in float64.
    Where they are too many, and for narrow or float64 rows, all rows are summed so, or multiplied in float64 by torch.
    Costs one read of the span and 2 to 6 B n D operations, the fewest where few rows carry weight; memory is that of a
    scan, up to 128 MiB of lists, and B D values for every group of queries that a thread has.
    """
    if not readable(rows) or (library := native_library().library) is None:
        return covariance.covariance_product(rows, directions, span)
    if score_dtype(rows) == torch.float64:
        return _of_all(rows, directions, span)
    # a scan reads rows that lie one after the other; of others torch looks at those with weight alone, late
    if not applies(rows):
        product = _of_all if len(directions) <= FEW else covariance.covariance_product
        return product(rows, directions, span)
    total, many = scanned_product(rows, directions, span, library=library)
    return total.index_add_(0, many, _fine_product(rows, directions.take(many), span)) if len(many) else total


def scanned_product(
    rows: Rows, directions: Directions, span: Span, *, library: CDLL, limits: NativeLimits = NATIVE_LIMITS
) -> tuple[Float64[Tensor, "B D"], Int64[Tensor, "b"]]:
    """Return the products of queries that list few samples of `span`, [B, D], and the other queries, [b].

    rows, directions: samples with products in float32, and the changes s_j of logits of B queries. limits: of the scan
    by `library`. The products of the other queries are zero. Few queries list all samples with weight. Costs one read
    of the span, 2 to 6 B n D operations, and two reads of what is listed.
    """
    if len(span) == 0 or len(directions) == 0:
        return torch.zeros_like(directions.mean), torch.empty(0, dtype=torch.int64)
    work = Work(rows, directions.query, span, Wanted(mean=False, mergeable=True))
    scan = ListingScan if len(directions) <= FEW else CovarianceScan
    return scan(work, library, limits).product(directions)


def _fine_product(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return products in float64."""
    few = len(directions) <= FEW
    return _of_all(rows, directions, span) if few else dense_product(rows, directions, span, torch.float64)


def _of_all(rows: Rows, directions: Directions, span: Span) -> Float64[Tensor, "B D"]:
    """Return the products over all rows of `span`, from differences."""
    total = torch.zeros_like(directions.mean)
    if len(directions) == 0:
        return total
    for part in work_parts(Work(rows, directions.query, span, Wanted(mean=False))):
        total += _product(part, directions)
    return total


def _product(work: Work, directions: Directions) -> Float64[Tensor, "B D"]:
    rows, shares = work.rows, shares_for(len(directions))
    totals = torch.zeros(shares, len(directions), rows.dim, dtype=torch.float64)
    scan = ScanView(work, shares, DROPPED_SHARE)
    called(
        "oracle_covariance",
        *(RowsView.of(rows), AskedQueries(work.query), Digits(True), scan, DirectionsView(rows, directions, totals)),
    )
    return totals.sum(0)
