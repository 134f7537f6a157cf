"""A screen without a copy: rows stored in 8 bits are multiplied as they are, and only rounding has to be bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...base.arrays import Float, Int64, Tensor
from ...base.progress import Progress
from ..common.rows import Query, Rows, Span
from .int8 import code_cost
from .int8_products import BASE, integers_pay, products, two_digits
from .nearest import DistanceVectors
from .query_bounds import UPWARD, QueryBound, Source, Split, make_query_bound, product_slack
from .screen import Place, Screen, Thresholds, chosen_rows, log_weights, no_thresholds
from .shared_products import SharedProducts

STORED_DTYPES = (torch.uint8, torch.int8)


@dataclass(frozen=True, kw_only=True)
class StoredScreen(Screen):
    """Rows of a data set that are stored as uint8 or int8: nothing is kept beside them.

    count: of the rows. device: where they are.
    """

    kind: ClassVar[str] = "exact8"
    uses_shared_products: ClassVar[bool] = False
    count: int
    device: torch.device

    def __len__(self) -> int:
        return self.count

    @property
    def costs(self) -> tuple[int, ...]:
        """The dimension times what a product with 8-bit numbers costs on this device."""
        return (round(self.dim * code_cost(self.device, self.dim)),)

    @property
    def nbytes(self) -> int:
        """Nothing."""
        return 0

    def to(self, device: torch.device) -> StoredScreen:
        """Return the screen on `device`."""
        return replace(self, device=device)

    def extended(self, rows: Rows, kept: Int64[Tensor, "n"], progress: Progress | None = None) -> StoredScreen:
        """Return the screen of `rows`: there is nothing to add."""
        return replace(self, count=len(rows))

    def query_bound(
        self, rows: Rows, query: Query, source: Source | None = None, shared_products: SharedProducts | None = None
    ) -> QueryBound:
        """Return the coefficients of a batch of queries; sources and carries cannot narrow what is exact."""
        # an operand is a stored row, less 128 where uint8 is read as int8: its centred part and its centre
        origin = rows.centre - (BASE if rows.stored.dtype == torch.uint8 else 0)
        operand = rows.radius + max(float(origin.norm()), float(rows.centre.norm()))
        head, point = query.point, query.point
        rounding = product_slack(rows, query, point, self.dim, operand + rows.radius)
        if integers_pay(self.device, self.dim):
            head = two_digits(point)
            rounding = rounding + torch.linalg.vector_norm(point - head, dim=1) * rows.radius * UPWARD
        return make_query_bound(rows, query, Split(point, None, head, point[:, :0]), rounding, with_shared=False)

    def bound(self, rows: Rows, level: int, query_bound: QueryBound, place: Place, out: Float[Tensor, "n b"]) -> None:
        """Write the products of the rows at `place` into `out`."""
        products(chosen_rows(rows.stored, place), query_bound.head, out)
        # products with stored rows contain the centre
        out -= (query_bound.head @ rows.centre).float()
        out.addr_(chosen_rows(rows.half_norms, place).float(), -query_bound.fall.float())
        if rows.log_weights is not None:
            out += log_weights(rows, slice(place.start, place.stop) if isinstance(place, Span) else place)[:, None]

    def vectors(self, rows: Rows) -> DistanceVectors:
        """Return the rows themselves."""
        return DistanceVectors.of(rows)

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
        """Return the screen that a file keeps."""
        dim = facts["dim"]
        return cls(thresholds=thresholds, dim=dim, widths=(dim,), count=facts["count"], device=torch.device("cpu"))


def stored_screen(rows: Rows) -> StoredScreen:
    """Return the screen of `rows`, stored in 8 bits; costs nothing."""
    return StoredScreen(
        thresholds=no_thresholds(1), dim=rows.dim, widths=(rows.dim,), count=len(rows), device=rows.device
    )
