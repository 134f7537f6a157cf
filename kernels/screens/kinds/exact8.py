"""A screen without a copy: rows stored in 8 bits are multiplied as they are, and only rounding has to be bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ....base.progress import Progress
from ...common.rounding import UNIT_ROUNDOFF
from ...common.rows import Query, Rows, Span
from ...common.screen_terms import Terms
from ...common.search import LeadingLevel
from ..bounds.query_bounds import Projected, QueryBound, product_rounding, walk_error, weight_rounding
from ..bounds.screen import SomeRows, Thresholds, chosen_rows, log_weights, no_thresholds
from .int8 import EightBitScreen
from .int8_products import BASE, SCREENING_DIGITS, given_or_timed, products

STORED_DTYPES = (torch.uint8, torch.int8)


@dataclass(frozen=True, kw_only=True)
class StoredScreen(EightBitScreen):
    """Rows of a data set that are stored as uint8 or int8: nothing is kept beside them.

    count: number of rows, N. device: where they are.
    """

    kind: ClassVar[str] = "exact8"
    uses_shared_products: ClassVar[bool] = False
    uses_sources: ClassVar[bool] = False
    count: int
    device: torch.device

    def __len__(self) -> int:
        return self.count

    @property
    def nbytes(self) -> int:
        """Nothing."""
        return 0

    def to(self, device: torch.device) -> StoredScreen:
        """Return the screen on `device`, where products are timed if it is another one."""
        cost = self.product_cost if device == self.device else given_or_timed(None, device, SCREENING_DIGITS)
        return replace(self, device=device, product_cost=cost)

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> StoredScreen:
        """Return the screen of `rows`, of which those of this screen are a part: there is nothing to add.

        rows: all rows. kept: where the rows of this screen are among them, [n] int64. progress: is not called.
        """
        return replace(self, count=len(rows))

    def _projected(self, rows: Rows, query: Query, point: Float64[Tensor, "B D"], level: int) -> Projected:
        rounding = product_rounding(rows, query, point, terms=self.dim, radius=_multiplied(rows))
        projection, rounding = self._factors(point, rounding, rows.radius)
        return Projected(projection, point[:, :0], rounding)

    @cached_property
    def _edges(self) -> Shaped[Tensor, "1"]:
        return torch.zeros(1, dtype=torch.int32, device=self.device)

    @cached_property
    def _ones(self) -> Float64[Tensor, "D"]:
        return torch.ones(self.dim, dtype=torch.float64, device=self.device)

    def leading_level(self, rows: Rows, level: int) -> LeadingLevel | None:
        """Return what kernels of a card multiply values of queries with, None where rows are not read as integers.

        rows, level: the data, and 0.
        """
        if not self.on_card:
            return None
        return LeadingLevel(
            None,
            self._edges,
            self._ones,
            blocks=0,
            norms=0,
            coordinate=0.0,
            upper=walk_error(self.dim) + UNIT_ROUNDOFF[torch.float32],
            row_size=_multiplied(rows),
            square_size=rows.radius**2,
            shared=0.0,
            weights=weight_rounding(rows),
            codes=rows.stored,
            scale=self._ones,
            centre=rows.centre,
            radius=rows.radius,
            digits=SCREENING_DIGITS,
        )

    def bound(
        self, rows: Rows, level: int, query_bound: QueryBound, place: SomeRows, *, out: Float[Tensor, "n B"]
    ) -> None:
        """Write upper logits less slack into `out`, [n, B]; arguments as in :meth:`Screen.bound`.

        rows, level, query_bound, place: the data, 0, the coefficients of the batch, and which rows.
        """
        products(chosen_rows(rows.stored, place), query_bound.projection, out, integers=self.integers)
        # products with stored rows contain the centre
        out -= (query_bound.projection @ rows.centre).float()
        out.addr_(chosen_rows(rows.half_norms, place).float(), -query_bound.norm_gain.float())
        if rows.log_weights is not None:
            out += log_weights(rows, slice(place.start, place.stop) if isinstance(place, Span) else place)[:, None]

    def terms(self, rows: Rows, level: int, query_bound: QueryBound) -> Terms | None:
        """Return what native kernels add up, None where rows are not multiplied as integers.

        rows, level, query_bound: the data, 0, and the coefficients of the batch.
        """
        bound = query_bound
        terms = Terms(
            rows.stored,
            bound.projection,
            bound.slack,
            centre=rows.centre,
            radius=rows.radius,
            norm_gain=bound.norm_gain,
            digits=SCREENING_DIGITS,
        )
        return terms if self.integers else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the rows."""
        return {"count": self.count, "dim": self.dim}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any], thresholds: Thresholds) -> StoredScreen:
        """Return the screen that a file keeps, on the CPU, where products are timed.

        tensors: is empty. facts: what :attr:`facts` were. thresholds: its SNR thresholds.
        """
        dim, device = facts["dim"], torch.device("cpu")
        cost = given_or_timed(None, device, SCREENING_DIGITS)
        return cls(
            thresholds=thresholds, dim=dim, widths=(dim,), product_cost=cost, count=facts["count"], device=device
        )


def _multiplied(rows: Rows) -> float:
    """Return the norm of what a point is multiplied with, which is kept with `rows`."""
    return rows.derived("multiplied in 8 bits", _operand_norm)


def _operand_norm(rows: Rows) -> float:
    # an operand is a stored row, less 128 where uint8 is read as int8: its centred part and its centre
    origin = rows.centre - (BASE if rows.stored.dtype == torch.uint8 else 0)
    return 2.0 * rows.radius + max(float(origin.norm()), float(rows.centre.norm()))


def stored_screen(rows: Rows, product_cost: float | None = None) -> StoredScreen:
    """Return the screen of `rows`, stored in 8 bits, which keeps nothing beside them.

    product_cost: time of a product with 8-bit rows over that with float32 rows, in (0, 1], or None to time it.
    """
    return StoredScreen(
        thresholds=no_thresholds(1),
        dim=rows.dim,
        widths=(rows.dim,),
        product_cost=given_or_timed(product_cost, rows.device, SCREENING_DIGITS),
        count=len(rows),
        device=rows.device,
    )
