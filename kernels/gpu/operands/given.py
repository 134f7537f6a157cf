"""Queries as they were given, for kernels that need all of their digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ....base.arrays import Float64, Tensor
from ...common.work import Work


@dataclass(frozen=True)
class GivenOperand:
    """What kernels read to measure distances in the space in which queries were given.

    x: the queries, [B, D] float64. centred: whether samples are rows less their centre there; else they are `scale`
    times a row plus `offset`. reach: how far a query and its samples may be from zero, see `digits_lost`.
    """

    x: Float64[Tensor, "B D"]
    centred: bool
    scale: float
    offset: float
    reach: float

    @classmethod
    def of(cls, work: Work) -> GivenOperand:
        """Return the queries of `work` as they were given."""
        rows, query, given = work.rows, work.query, work.query.given
        reach = rows.stored_radius + 3.0 * rows.radius
        if given is not None:
            reach = max(reach, abs(given.offset) * rows.dim**0.5 / given.scale)
        # rounded up where it becomes a float32
        reach *= 1.0 + 2.0**-20
        if given is None:
            return cls(query.point.contiguous(), True, 1.0, 0.0, reach)
        return cls(given.x.contiguous(), False, given.scale, given.offset, reach)

    @property
    def numbers(self) -> tuple[float, ...]:
        """The reach, and the scale and the offset as three float32 numbers each, which add up to them."""
        return (self.reach, *float32_parts(self.scale), *float32_parts(self.offset))


@lru_cache(64)
def float32_parts(value: float) -> tuple[float, float, float]:
    """Return three float32 numbers that add up to `value`: kernels take numbers in no wider type."""
    parts: list[float] = []
    for _ in range(3):
        parts.append(float(np.float32(value)))
        value -= parts[-1]
    return parts[0], parts[1], parts[2]
