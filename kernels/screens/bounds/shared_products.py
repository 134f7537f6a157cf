"""What the queries of one trajectory share: the point it started from, whose products with all rows are kept.

A deterministic sampler only adds posterior means to a multiple of its starting point. Whatever lies along that point
need not be bounded again at every step: its products with the rows are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....base.arrays import Bool, Float, Float64, Int64, Tensor
from ...common.matmul import ieee_products
from ...common.rows import Query, Rows, Span

# rows multiplied at once, in values: 16 MB in float32
PRODUCT_VALUES = 1 << 22

# posterior means lie within the radius of the rows; steps of a sampler may overshoot by this factor
OVERSHOOT = 1.5


@dataclass(frozen=True)
class SharedProducts:
    """A point for every query and its products with all rows.

    point: [B, D] float64 in centred coordinates.
    products: of all starting points, [N, P] float32; never copied.
    column: which of the products belong to each query, [B] int64.
    """

    point: Float64[Tensor, "B D"]
    products: Float[Tensor, "N P"]
    column: Int64[Tensor, "B"]

    @classmethod
    def of(cls, rows: Rows, point: Float64[Tensor, "B D"]) -> SharedProducts:
        """Return the products of `point`, [B, D] float64 in centred coordinates, with `rows`.

        Costs 2 B N D operations and keeps 4 B N bytes.
        """
        products = torch.empty(len(rows), len(point), device=rows.device)
        narrow, shift = point.float(), (point @ rows.operand_centre).float()
        step = max(1, PRODUCT_VALUES // rows.dim)
        buffer = torch.empty(min(step, len(rows)), rows.dim, device=rows.device)
        with ieee_products(rows.device.type):
            for start in range(0, len(rows), step):
                stop = min(start + step, len(rows))
                torch.mm(rows.block(start, stop, buffer), narrow.T, out=products[start:stop]).sub_(shift)
        return cls(point, products, torch.arange(len(point), device=rows.device))

    def take(self, index: Int64[Tensor, "b"]) -> SharedProducts:
        """Return the points of the queries in `index`, [b] int64; their products are not copied."""
        return SharedProducts(self.point[index], self.products, self.column[index])

    def of_rows(self, span: Span, chosen: Int64[Tensor, "n"] | None) -> Float[Tensor, "n B"]:
        """Return the products of the rows `chosen`, [n] int64, or of all of `span` where that is None, [n, B]."""
        first = int(self.column[0])
        count = len(self.column)
        adjacent = bool((self.column == torch.arange(first, first + count, device=self.column.device)).all())
        part = self.products[span.start : span.stop] if chosen is None else self.products.index_select(0, chosen)
        return part[:, first : first + count] if adjacent else part.index_select(1, self.column)

    def split(self, point: Float64[Tensor, "B D"]) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B D"]]:
        """Return how much of its starting point is in each of `point`, [B], and the rest, [B, D] float64.

        Bounds hold for any multiple of the starting point; this one leaves the shortest rest.
        """
        square = self.point.square().sum(1).clamp_min(1e-300)
        share: Tensor = torch.linalg.vecdot(point, self.point) / square
        return share, torch.addcmul(point, share[:, None], self.point, value=-1.0)

    def explains(self, rows: Rows, query: Query, stretch: Float64[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """Return whether what the queries do not share with their points can be a mixture of posterior means, [B].

        rows: the data. query: the batch. stretch: how many times longer than means guidance makes them, [B] float64.
        """
        rest: Tensor = torch.linalg.vector_norm(self.split(query.point)[1], dim=1)
        longest: Tensor = OVERSHOOT * stretch * query.alpha * rows.radius + 1e-3 * query.norm
        return rest <= longest
