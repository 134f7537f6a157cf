"""The search by leading coordinates in C++: one call from queries to the states of the rows that can matter to them."""

from __future__ import annotations

from ctypes import Structure, addressof, c_double, c_int64, c_void_p
from dataclasses import dataclass

import torch

from ...base.arrays import Float, Float64, Int64, Tensor
from ..common.rows import ValueQuery
from ..common.search import Mass, NoiseKnown, Searched, SearchLimits
from ..common.state import PosteriorState
from ..common.work import Work
from .segments import THREAD_OPERATIONS
from .views import AskedQueries, Digits, RowsView, StatesView, View, called, readable, writable

# the basis is multiplied so many rows at a time
BASIS_ROWS = 12


@dataclass(frozen=True)
class Leading:
    """Leading coordinates of rows at the levels of a screen, see kernels/screens/kinds/pca.py.

    basis: its directions as rows, [M', D] float32, M' a multiple of BASIS_ROWS; those beyond the last are zero.
    edges: where blocks beyond the first level begin, and where the last one ends, [e] int64.
    widths, features: of the levels, the features [N, _] float32. typical: mean norms of some rows in every block, in
    what no block holds, and altogether, [f = e + 1] float64.
    """

    basis: Float[Tensor, "M D"]
    edges: Int64[Tensor, "e"]
    widths: tuple[int, ...]
    features: tuple[Float[Tensor, "N _"], ...]
    typical: Float64[Tensor, "f"]


@dataclass(frozen=True)
class Roundings:
    """What float32 may hide: of upper logits, coordinates, products with whole rows and shared ones, relative to norms.

    row_radius: the norm of rows as whole products see them. weights: of logs of weights, in nats.
    """

    upper: float
    coordinate: float
    row: float
    row_radius: float
    shared: float
    weights: float


class _Level(Structure):
    _fields_ = (("features", c_void_p), *((name, c_int64) for name in ("stride", "width", "skipped")))


class _Asked(View):
    _fields_ = (
        ("rows", c_void_p),
        ("digits", c_void_p),
        ("queries", AskedQueries),
        ("start", c_int64),
        ("stop", c_int64),
        ("excluded", c_void_p),
        *((name, c_int64) for name in ("ranges", "threads", "most_tiles", "most_rows")),
        ("basis", c_void_p),
        ("coordinates", c_int64),
        ("edges", c_void_p),
        ("blocks", c_int64),
        ("projected", c_int64),
        ("levels", c_void_p),
        ("depth", c_int64),
        *((name, c_double) for name in ("upper_error", "coordinate_error", "row_error", "row_radius", "weight_error")),
        *((name, c_void_p) for name in ("source_level", "source", "blur", "typical")),
        ("deviations", c_double),
        ("shared", c_void_p),
        ("shared_stride", c_int64),
        ("shared_column", c_void_p),
        ("shared_point", c_void_p),
        ("shared_error", c_double),
        *((name, c_void_p) for name in ("mass", "direct", "gap", "change")),
        ("out", StatesView),
        *((name, c_void_p) for name in ("log_omitted", "survivors", "opened", "scored", "found")),
    )


def search_applies(work: Work, leading: Leading) -> bool:
    """Return whether the native library is there and can search the rows of `work` by `leading`."""
    plain = all(part.is_cpu and part.stride(1) == 1 for part in leading.features)
    return plain and len(work.span) > 0 and len(work.query) > 0 and readable(work.rows)


class NativeSearch:
    """A search of the rows of a span for a batch of queries, from a level on that bounds all of them."""

    def __init__(self, work: Work, leading: Leading, roundings: Roundings, mass: Mass, limits: SearchLimits) -> None:
        """Prepare the search; no row is read yet.

        work: the queries, the rows and their span, and what is wanted. leading: coordinates of the rows. roundings: of
        its products. mass: that may be left out. limits: from which on a query is left to a scan.
        """
        self.work, self.leading = work, leading
        query, batch = work.query, len(work.query)
        self.levels = (_Level * len(leading.widths))(*self._described())
        self.state = writable(PosteriorState.empty(batch, work.rows.dim, work.wanted.top_k, work.rows.device))
        self.digits = Digits(work.wanted.compared)
        self.log_omitted = torch.empty(batch, dtype=torch.float64)
        self.counts = torch.zeros(4, batch, dtype=torch.int64)
        self.asked = asked = _Asked()
        # what the library reads must stay where it is while it runs
        self.views = RowsView.of(work.rows), AskedQueries(query), StatesView(self.state, work.wanted)
        asked.held, (_, asked.queries, asked.out) = [], self.views
        asked.rows, asked.digits = addressof(self.views[0]), addressof(self.digits)
        asked.start, asked.stop = work.span.start, work.span.stop
        excluded = query.excluded.contiguous()
        asked.excluded, asked.ranges, asked.threads = asked.hold(excluded), excluded.shape[1], self._threads()
        asked.most_tiles, asked.most_rows = limits.tiles, limits.rows
        asked.basis, asked.coordinates = asked.hold(leading.basis), len(leading.basis)
        asked.edges, asked.blocks = asked.hold(leading.edges), len(leading.edges) - 1
        asked.upper_error, asked.coordinate_error = roundings.upper, roundings.coordinate
        asked.row_error, asked.row_radius, asked.weight_error = roundings.row, roundings.row_radius, roundings.weights
        asked.shared_error = roundings.shared
        self._allow(mass)
        asked.log_omitted = asked.hold(self.log_omitted)
        asked.survivors, asked.opened, asked.scored, asked.found = (asked.hold(part) for part in self.counts)

    def from_sources(self, known: NoiseKnown) -> None:
        """Narrow the bounds by what is `known` of the noise of the queries."""
        asked = self.asked
        asked.source_level = addressof(self.levels)
        asked.source, asked.blur = asked.hold(known.row.contiguous()), asked.hold(known.blur.contiguous())
        asked.typical, asked.deviations = asked.hold(self.leading.typical), known.deviations

    def along(self, products: Float[Tensor, "N P"], column: Int64[Tensor, "B"], point: Float64[Tensor, "B D"]) -> None:
        """Narrow the bounds by `products` of the starting points of trajectories with all rows.

        column: which of the products belong to each query. point: the starting point of each.
        """
        asked, products = self.asked, products.contiguous()
        asked.shared, asked.shared_stride = asked.hold(products), products.shape[1]
        asked.shared_column, asked.shared_point = (asked.hold(part.contiguous()) for part in (column, point))

    def found(self, level: int) -> Searched:
        """Return what is found where `level` bounds all rows, the cheapest is 0. Raises MemoryError.

        Costs a product of the batch with the basis and with the coordinates of this level, and of single rows that are
        left with those of the further ones.
        """
        asked = self.asked
        asked.levels, asked.depth = addressof(self.levels[level]), len(self.leading.widths) - level
        # the first level is for batches to which few rows are left: further coordinates wait until they are asked for
        asked.projected = asked.blocks if level else self.levels[0].skipped
        called("oracle_search", asked)
        return Searched(self.state, self.log_omitted, *self.counts)

    def _threads(self) -> int:
        # products with the basis, and of all rows with the first coordinates
        basis, first = self.leading.basis, self.leading.features[0].shape[1]
        operations = 2.0 * len(self.work.query) * (basis.numel() + len(self.work.span) * first)
        return max(1, min(torch.get_num_threads(), int(operations / THREAD_OPERATIONS)))

    def _described(self) -> list[_Level]:
        leading = self.leading
        edges = leading.edges.tolist()
        return [
            _Level(part.data_ptr(), part.stride(0), width, edges.index(width))
            for width, part in zip(leading.widths, leading.features, strict=True)
        ]

    def _allow(self, mass: Mass) -> None:
        asked, answer = self.asked, mass.answer
        asked.mass = asked.hold(mass.largest.contiguous())
        if answer is None or not isinstance(self.work.query, ValueQuery):
            return
        parts = answer.direct, answer.gap, answer.change
        asked.direct, asked.gap, asked.change = (asked.hold(part.contiguous()) for part in parts)
