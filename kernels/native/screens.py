"""Upper logits of one level of a screen in C++: tile maxima and the rows that may matter, without an array of them."""

from __future__ import annotations

from ctypes import Structure, c_int64, c_void_p

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ..common.rescore import Pairs
from ..common.screen_terms import UPWARD, OpenTiles, Shared, Terms, log_of_sum
from ..common.work import Work
from .views import View, called, readable

# rows of a tile, and the multiple that queries are padded to, as in screens.hpp
TILE, LANE_UNIT = 12, 16

# sums of products of bytes with digits of seven bits and a sign stay within 32 bits up to so many coordinates
LONGEST = (2**31 - 1) // (2 * 127 * 255)

CODES = {torch.float32: 0, torch.int8: 1, torch.uint8: 2}


def padded_floor(floor: Float[Tensor, "B"]) -> Float[Tensor, "l"]:
    """Return floors for all lanes: nothing reaches those without a query."""
    return torch.nn.functional.pad(floor.float(), (0, -len(floor) % LANE_UNIT), value=torch.inf)


class _ScreenView(View):
    _fields_ = (
        ("rows", c_void_p),
        *((name, c_int64) for name in ("codes", "stride", "width")),
        ("features", c_void_p),
        *((name, c_int64) for name in ("feature_stride", "feature_width")),
        *((name, c_void_p) for name in ("half_norms", "log_weights", "shared")),
        *((name, c_int64) for name in ("shared_stride", "start", "stop")),
    )


class _BoundView(View):
    # how far upper logits are above true ones, where only rounding is bounded
    error: Float64[Tensor, "B"]

    _fields_ = (
        ("count", c_int64),
        *(
            (name, c_void_p)
            for name in (
                *("factors", "origin", "step", "feature_gains", "norm_gain", "slack"),
                *("shared_gain", "shared_column", "excluded"),
            )
        ),
        *((name, c_int64) for name in ("ranges", "threads", "digits")),
    )


def screens_apply(work: Work, terms: Terms) -> bool:
    """Return whether the native library is there and can read the rows of `work` and the `terms` of a screen."""
    parts = [terms.rows] if terms.features is None else [terms.rows, terms.features]
    plain = all(part.device.type == "cpu" and part.stride(1) == 1 for part in parts)
    whole = terms.rows.dtype == torch.float32 or terms.rows.shape[1] <= LONGEST
    return plain and whole and len(work.span) > 0 and readable(work.rows)


class NativeLevel:
    """One level of a screen for a batch of queries: the largest upper logit of every tile of twelve rows.

    largest: [T, lanes] float32, -inf where nothing counts; lanes are the queries, padded to a multiple of sixteen.
    """

    def __init__(
        self,
        work: Work,
        terms: Terms,
        *,
        finer: Terms | None = None,
        shared: Shared | None = None,
        before: OpenTiles | None = None,
    ) -> None:
        """Bound all rows of the span of `work`, or those of tiles that are open in the level `before`.

        work: the queries, the rows and their span. terms, shared: of the upper logits, up to |q|^2 / 2 sigma^2.
        finer: of upper logits that single rows are given afterwards, which cost more.
        Costs a product of 2 n B w operations, and memory of a twelfth of its values. Raises MemoryError.
        """
        self.work = work
        self._level = _views(work, terms, shared)
        self._finer = None if finer is None else _views(work, finer, None)
        lanes = -(-len(work.query) // LANE_UNIT) * LANE_UNIT
        self.largest = torch.empty(-(-len(work.span) // TILE), lanes)
        known = [None, None] if before is None else _addresses(before.largest, before.floor)
        self._call("maxima", *known, *_addresses(self.largest))

    @property
    def pair_error(self) -> Float64[Tensor, "B"] | None:
        """How far the logits of rows that :meth:`above` finds are above true ones, [B]; None without finer terms."""
        return None if self._finer is None else self._finer[1].error

    def promising(self, count: int) -> Pairs:
        """Return the rows with the largest upper logits of each query, one a tile, `count` at most."""
        count = min(count, len(self.largest))
        row = torch.empty(len(self.work.query), count, dtype=torch.int64)
        self._call("promising", *_addresses(self.largest), count, *_addresses(row))
        query, column = (row >= 0).nonzero().unbind(1)
        return Pairs(query, row[query, column], torch.zeros(len(query), dtype=torch.float64))

    def against(self, floor: Float[Tensor, "B"]) -> tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]]:
        """Return how many tiles reach the `floor` of each query, and the weights of all others relative to it, [B]."""
        batch = len(self.work.query)
        reached, below = torch.empty(batch, dtype=torch.int64), torch.empty(batch, dtype=torch.float64)
        floors = padded_floor(floor)
        self._call("close", *_addresses(self.largest, floors, reached, below))
        return reached, below

    def above(
        self,
        floor: Float[Tensor, "B"],
        against: tuple[Int64[Tensor, "B"], Float64[Tensor, "B"]],
        few: Int64[Tensor, "f"],
    ) -> tuple[Pairs, Float64[Tensor, "B"]]:
        """Return the rows of the queries in `few` that reach the `floor`, and the log of what their others hold.

        against: what :meth:`against` said of this floor. The log is -inf for other queries. Costs the product of the
        open tiles once more.
        """
        reached, below = against
        chosen = torch.full_like(floor, torch.inf).index_copy_(0, few, floor[few])
        room, first = TILE * int(reached[few].sum()), torch.empty(len(reached) + 1, dtype=torch.int64)
        row, upper = torch.empty(room, dtype=torch.int64), torch.empty(room, dtype=torch.float64)
        below, floors = below.clone(), padded_floor(chosen)
        finer = (None, None) if self._finer is None else self._finer
        self._call("rows", *finer, *_addresses(self.largest, floors), room, *_addresses(first, row, upper, below))
        count = int(first[-1])
        query = torch.arange(len(reached)).repeat_interleave(first.diff(), output_size=count)
        log_below = torch.full_like(below, -torch.inf)
        log_below[few] = log_of_sum(below[few], floor[few])
        return Pairs(query, row[:count], upper[:count]), log_below

    def open(self, floor: Float[Tensor, "B"], index: Int64[Tensor, "b"]) -> OpenTiles:
        """Return what the next level needs to know of the tiles that reach the `floor`, of the queries in `index`."""
        lanes = -len(index) % LANE_UNIT
        padded = torch.nn.functional.pad(self.largest.index_select(1, index), (0, lanes), value=-torch.inf)
        return OpenTiles(padded, padded_floor(floor[index]))

    def _call(self, name: str, *arguments: Structure | c_void_p | int | None) -> None:
        called(f"oracle_screen_{name}", *self._level, *(c_int64(x) if isinstance(x, int) else x for x in arguments))


def _addresses(*tensors: Tensor) -> list[c_void_p]:
    return [c_void_p(tensor.data_ptr()) for tensor in tensors]


def _views(work: Work, terms: Terms, shared: Shared | None) -> tuple[_ScreenView, _BoundView]:
    return _screen_view(work, terms, shared), _bound_view(work, terms, shared)


def _screen_view(work: Work, terms: Terms, shared: Shared | None) -> _ScreenView:
    view, rows = _ScreenView(), work.rows
    view.held = []
    view.rows, view.codes = view.hold(terms.rows), CODES[terms.rows.dtype]
    view.stride, view.width = terms.rows.stride(0), terms.rows.shape[1]
    if terms.features is not None:
        view.features, view.feature_stride = view.hold(terms.features), terms.features.stride(0)
        view.feature_width = terms.features.shape[1]
    if terms.norm_gain is not None:
        view.half_norms = view.hold(rows.half_norms.contiguous())
        view.log_weights = view.hold(None if rows.log_weights is None else rows.log_weights.contiguous())
    if shared is not None:
        products = shared.products.contiguous()
        view.shared, view.shared_stride = view.hold(products), products.shape[1]
    view.start, view.stop = work.span.start, work.span.stop
    return view


def _bound_view(work: Work, terms: Terms, shared: Shared | None) -> _BoundView:
    view, slack = _BoundView(), terms.slack if terms.common is None else terms.slack + terms.common
    view.held, view.error = [], 2.0 * terms.slack
    view.count, view.threads = len(work.query), torch.get_num_threads()
    if terms.rows.dtype == torch.float32:
        factors = terms.factors if terms.unit is None else terms.unit[:, None] * terms.factors
        view.factors = view.hold(factors.float().contiguous())
    else:
        digits, origin, step, rest = _digits(terms)
        view.factors, view.origin, view.step = view.hold(digits), view.hold(origin), view.hold(step)
        rounded = rest * terms.radius * UPWARD
        # single rows are multiplied with both digits, but their upper logits keep the slack
        slack, view.digits = slack + rounded[:, terms.digits - 1], terms.digits
        view.error = 2.0 * (terms.slack + rounded[:, terms.digits - 1])
    view.feature_gains = view.hold(None if terms.gains is None else terms.gains.float().contiguous())
    view.norm_gain = view.hold(None if terms.norm_gain is None else -terms.norm_gain.float())
    # rounding the slack, and what it is added to
    view.slack = view.hold((slack + slack.abs() * 2.0**-20).float().contiguous())
    if shared is not None:
        view.shared_gain = view.hold(shared.gain.float().contiguous())
        view.shared_column = view.hold(shared.column.contiguous())
    excluded = work.query.excluded.contiguous()
    view.excluded, view.ranges = view.hold(excluded), excluded.shape[1]
    return view


def _digits(
    terms: Terms,
) -> tuple[Shaped[Tensor, "B 2 w"], Shaped[Tensor, "B 2"], Float[Tensor, "B 2"], Float64[Tensor, "B 2"]]:
    """Return the digits of the factors, what their sums begin with, what a digit is worth, and norms of the rest."""
    factors = terms.factors.contiguous()
    batch, dim = factors.shape
    # signed bytes are read as unsigned ones that are 128 larger
    lower = torch.zeros(dim, dtype=torch.float64) if terms.centre is None else terms.centre
    lower = lower + 128.0 if terms.rows.dtype == torch.int8 else lower.contiguous()
    digits = torch.empty(batch, 2, dim, dtype=torch.int8)
    origin, step = torch.empty(batch, 2, dtype=torch.int32), torch.empty(batch, 2)
    rest, unit = torch.empty(batch, 2, dtype=torch.float64), terms.unit
    unit = torch.ones_like(rest[:, 0]) if unit is None else unit.contiguous()
    sizes = c_int64(batch), c_int64(dim)
    called("oracle_screen_digits", *_addresses(factors, unit, lower), *sizes, *_addresses(digits, origin, step, rest))
    return digits, origin, step, rest
