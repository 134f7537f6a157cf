"""Queries in base-256 digits for the int8 matrix unit, whose sums with 8-bit rows are exact.

A query is a scale times whole numbers, sum_k d_k 256^(P - 1 - k) with d_k in [-128, 127]. Three digits hold it to
2^-24.8 of its largest coordinate, root mean square, no worse than the float32 that the product is rounded to. Two hold
2^-16.8: far below the error that half precision allows, but as large as the whole error that an exact answer allows.
Base 128 would allow exact sums of twice the length, but leaves three bits of the same operands unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from ....base.arrays import Shaped, Tensor
from ...common.rounding import Rounding
from ...common.rows import Query, Rows
from .parts import ScoredQuery
from .queries import RADIX, TOP_DIGIT, digit_shift, query_digits
from .splits import EXACT, Split, number_rounding


@dataclass(frozen=True)
class DigitOperand(ScoredQuery):
    """Queries in digits: <numbers, row> = sum_k <parts[k], stored - centre> 256^(P-1-k).

    parts: [P, B, D] int8, the highest digit first. measures: with the gain alpha / sigma^2 times the scale.
    excluded: [B, H, 2] int64, as in Query.
    unit: values of D in a tile. sums: [P, U, B] int32, of the digits times the centre of the rows, as int8, over each
    tile. shifts: what :meth:`shift` has returned, by the number of slices.
    """

    sums: Shaped[Tensor, "P U B"]
    unit: int
    shifts: dict[int, Shaped[Tensor, "P S B"]] = field(default_factory=dict)

    @classmethod
    def of(cls, query: Query, rows: Rows, unit: int, split: Split = EXACT) -> DigitOperand:
        """Return the queries in digits, for products with 8-bit rows in tiles of D.

        query: [B] queries. rows: [N, D] uint8 or int8. unit: values of D in a tile. split: how many digits.
        """
        # unsigned levels are multiplied less 128
        middle = 128 if rows.stored.dtype == torch.uint8 else 0
        parts, sums, measures = query_digits(query, rows.centre, middle, digits=split.digits, unit=unit)
        return cls(parts, measures, query.excluded, sums, unit)

    def shift(self, slices: int) -> Shaped[Tensor, "P S B"]:
        """Return the sums of digits times centre over each of `slices` slices of D, [P, S, B] int32.

        The slices are those of the kernels, none so long that its sum would overflow. Blocks share them.
        """
        if slices not in self.shifts:
            width = math.ceil(math.ceil(self.parts.shape[2] / slices) / self.unit)
            self.shifts[slices] = digit_shift(self.sums, slices, width)
        return self.shifts[slices]


def digit_rounding(split: Split = EXACT) -> Rounding:
    """Return how products with digits round: sums are exact, and rounded once to float32.

    split: how many digits there are, and how many parts weights have. A coordinate is rounded by half a unit of its
    last digit at most.
    """
    query = 1.0 / (TOP_DIGIT * RADIX ** (split.digits - 1) * math.sqrt(12.0))
    return Rounding(steps=0, query=query, weight=number_rounding(torch.float16, split.weight[torch.float16]))
