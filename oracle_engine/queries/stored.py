"""Queries as files hold them, before any of them is checked, and blocks of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..base.arrays import Float, Float64, Shaped, Tensor


@dataclass(frozen=True)
class Queries:
    """Queries that can be answered.

    x: [B, *shape], floating. t: their times, [B] float64. labels: their classes, [B] integers, or None.
    """

    x: Float[Tensor, "B ..."]
    t: Float64[Tensor, "B"]
    labels: Shaped[Tensor, "B ..."] | None

    def block(self, start: int, size: int) -> Queries:
        """Return the queries from the place `start` on, `size` of them or as many as there are."""
        part = slice(start, start + size)
        return Queries(self.x[part], self.t[part], None if self.labels is None else self.labels[part])

    def blocks(self, size: int) -> Iterator[Queries]:
        """Yield the queries in their order, at most `size` of them at once."""
        for start in range(0, len(self.x), size):
            yield self.block(start, size)
