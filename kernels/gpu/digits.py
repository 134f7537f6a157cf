"""Queries in base-256 digits for the int8 matrix unit, whose sums with 8-bit rows are exact.

A query is a scale times whole numbers, sum_k d_k 256^(P - 1 - k) with d_k in [-128, 127]. Three digits hold it to
2^-24.8 of its largest coordinate, root mean square, no worse than the float32 that the product is rounded to. Two hold
2^-16.8: far below the error that half precision allows, but as large as the whole error that an exact answer allows.
Base 128 would allow exact sums of twice the length, but leaves three bits of the same operands unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...base.arrays import Float64, Int64, Shaped, Tensor
from ..common.rounding import Rounding
from ..common.rows import Query, Rows
from .operands import EXACT, ScoredQuery, Split, number_rounding

RADIX = 256

# the largest first digit: larger ones would round up to 128, which int8 lacks
TOP_DIGIT = 127

# queries whose largest coordinate is below this count as zero: the scale of their digits would leave the range of
# float64
LEAST = 1e-290


@dataclass(frozen=True)
class DigitOperand(ScoredQuery):
    """Queries in digits: <numbers, row> = sum_k <parts[k], stored - centre> 256^(P-1-k).

    parts: [P, B, D] int8, the highest digit first. gain: [B] float32, alpha / sigma^2 times the scale.
    slope: [B] float32, -alpha^2 / sigma^2. excluded: [B, H, 2] int64, as in Query.
    unit: values of D in a tile. shifts: [P, U + 1, B] int64; entry u is the sum of digits times the centre of the rows,
    as int8, over the first u tiles.
    """

    shifts: Int64[Tensor, "P U B"]
    unit: int

    @classmethod
    def of(cls, query: Query, rows: Rows, unit: int, split: Split = EXACT) -> DigitOperand:
        """Return the queries in digits, for products with 8-bit rows in tiles of D.

        query: [B] queries. rows: [N, D] uint8 or int8. unit: values of D in a tile. split: how many digits.
        """
        scale = query.point.abs().amax(1).clamp_min(LEAST) / (TOP_DIGIT * RADIX ** (split.digits - 1))
        parts = digits_of(query.point / scale[:, None], split.digits)
        # unsigned levels are multiplied less 128
        middle = 128 if rows.stored.dtype == torch.uint8 else 0
        shifts = torch.stack([_running_sums(digit, rows.centre - middle, unit) for digit in parts])
        gain, slope = (query.gain * scale).float(), (-query.gain * query.alpha).float()
        return cls(parts, gain, slope, query.excluded, shifts, unit)

    def shift(self, slices: int) -> Shaped[Tensor, "P S B"]:
        """Return the sums of digits times centre over each of `slices` slices of D, [P, S, B] int32.

        The slices are those of the kernels.
        """
        units = self.shifts.shape[1] - 1
        width = math.ceil(math.ceil(self.parts.shape[2] / slices) / self.unit)
        bounds = (width * torch.arange(slices + 1, device=self.shifts.device)).clamp_max(units)
        # no slice is so long that its sum would overflow
        return self.shifts[:, bounds].diff(dim=1).int()


def digits_of(numbers: Float64[Tensor, "B D"], count: int) -> Shaped[Tensor, "P B D"]:
    """Return the digits of rounded numbers, [P, B, D] int8 with P = count, the highest digit first.

    numbers: [B, D] float64, at most TOP_DIGIT 256^(count-1) in size. count: digits of a number.
    """
    rest, digits = numbers.round().int(), []
    for _ in range(count - 1):
        digits.append(((rest + 128) & 255) - 128)
        rest = (rest - digits[-1]) >> 8
    return torch.stack([rest, *reversed(digits)]).to(torch.int8)


def digit_rounding(split: Split = EXACT) -> Rounding:
    """Return how products with digits round: sums are exact, and rounded once to float32.

    split: how many digits there are, and how many parts weights have. A coordinate is rounded by half a unit of its
    last digit at most.
    """
    query = 1.0 / (TOP_DIGIT * RADIX ** (split.digits - 1) * math.sqrt(12.0))
    return Rounding(steps=0, query=query, weight=number_rounding(torch.float16, split.weight[torch.float16]))


def _running_sums(digits: Shaped[Tensor, "B D"], centre: Float64[Tensor, "D"], unit: int) -> Int64[Tensor, "U B"]:
    # float64 sums of whole numbers are exact
    products = torch.nn.functional.pad(digits.double() * centre, (0, -digits.shape[1] % unit))
    sums = products.unflatten(1, (-1, unit)).sum(2).long().T
    return torch.nn.functional.pad(sums.cumsum(0), (0, 0, 1, 0))
