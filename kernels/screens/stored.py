"""A screen without a copy: rows stored in 8 bits are multiplied as they are, and only rounding has to be bounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ...arrays import Float, Int64, Tensor
from ..rows import Query, Rows, Span
from .carry import Carry
from .codes import code_cost
from .eight_bit import BASE, integers_pay, products, two_digits
from .neighbours import Vectors
from .probe import UPWARD, Probe, Source, Split, make_probe, product_rounding
from .screen import Place, Progress, Reach, Screen, always, chosen_rows, log_weights

STORED_DTYPES = (torch.uint8, torch.int8)


@dataclass(frozen=True, kw_only=True)
class StoredScreen(Screen):
    """Rows of a data set that are stored as uint8 or int8: nothing is kept beside them.

    count: of the rows. device: where they are.
    """

    kind: ClassVar[str] = "exact8"
    carries: ClassVar[bool] = False
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

    def probe(self, rows: Rows, query: Query, source: Source | None = None, carry: Carry | None = None) -> Probe:
        """Return the coefficients of a batch of queries; sources and carries cannot narrow what is exact."""
        # an operand is a stored row, less 128 where uint8 is read as int8: its centred part and its centre
        origin = rows.centre - (BASE if rows.stored.dtype == torch.uint8 else 0)
        operand = rows.radius + max(float(origin.norm()), float(rows.centre.norm()))
        head, point = query.point, query.point
        rounding = product_rounding(rows, query, point, self.dim, operand + rows.radius)
        if integers_pay(self.device, self.dim):
            head = two_digits(point)
            rounding = rounding + torch.linalg.vector_norm(point - head, dim=1) * rows.radius * UPWARD
        return make_probe(rows, query, Split(point, None, head, point[:, :0]), rounding, carried=False)

    def bound(self, rows: Rows, level: int, probe: Probe, place: Place, out: Float[Tensor, "n b"]) -> None:
        """Write the products of the rows at `place` into `out`."""
        products(chosen_rows(rows.stored, place), probe.head, out)
        # products with stored rows contain the centre
        out -= (probe.head @ rows.centre).float()
        out.addr_(chosen_rows(rows.half_norms, place).float(), -probe.fall.float())
        if rows.log_weights is not None:
            out += log_weights(rows, slice(place.start, place.stop) if isinstance(place, Span) else place)[:, None]

    def vectors(self, rows: Rows) -> Vectors:
        """Return the rows themselves."""
        return Vectors.of(rows)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    @property
    def facts(self) -> dict[str, Any]:
        """The size of the rows."""
        return {"count": self.count, "dim": self.dim}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any], reach: Reach) -> StoredScreen:
        """Return the screen that a file keeps."""
        dim = facts["dim"]
        return cls(reach=reach, dim=dim, widths=(dim,), count=facts["count"], device=torch.device("cpu"))


def stored_screen(rows: Rows) -> StoredScreen:
    """Return the screen of `rows`, stored in 8 bits; costs nothing."""
    return StoredScreen(reach=always(1), dim=rows.dim, widths=(rows.dim,), count=len(rows), device=rows.device)
