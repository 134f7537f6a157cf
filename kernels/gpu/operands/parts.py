"""Queries split into numbers of the kind that the matrix unit sees the rows in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ....base.arrays import Float, Float64, Int64, Shaped, Tensor
from ...common.rows import Query
from .queries import QueryMeasures, query_parts
from .splits import EXACT, Split, part_slots


@dataclass(frozen=True)
class ScoredQuery:
    """Queries split into numbers of a matrix unit: logit = gain <numbers, row> + slope |r|^2 / 2.

    parts: [P, B, D] in the dtype of the matrix unit. measures: gain and slope, and what the laws of rounding ask for.
    excluded: [B, H, 2] int64, as in Query.
    """

    parts: Shaped[Tensor, "P B D"]
    measures: QueryMeasures
    excluded: Int64[Tensor, "B H 2"]

    def __len__(self) -> int:
        return self.parts.shape[1]

    @property
    def gain(self) -> Float[Tensor, "B"]:
        """Factor of products with the parts in a logit, [B] float32."""
        return self.measures.gain

    @property
    def slope(self) -> Float[Tensor, "B"]:
        """Factor of |r|^2 / 2 in a logit, [B] float32."""
        return self.measures.slope


@dataclass(frozen=True)
class QueryOperand(ScoredQuery):
    """Queries in floating point numbers, whose sum is q / 2^e, at most one in size.

    parts: [P, B, D] float16 or bfloat16, a power of two of them, since tiles hold all side by side; the last may be
    zero. measures: with the gain alpha / sigma^2 2^e. excluded: [B, H, 2] int64, as in Query.
    """

    @classmethod
    def of(
        cls, query: Query, dtype: torch.dtype, split: Split = EXACT, centre: Float64[Tensor, "D"] | None = None
    ) -> QueryOperand:
        """Return the queries in numbers of a dtype, each query scaled by a power of two; no synchronisation.

        query: [B] queries. dtype: of the matrix unit. split: how many numbers. centre: what is left in the rows, [D],
        or None.
        """
        count = split.query[dtype]
        parts, measures = query_parts(query, dtype, count, part_slots(count), centre)
        return cls(parts, measures, query.excluded)
