"""Numbers of the matrix unit: in which dtype it sees rows, and into how many of them queries and weights are split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...common.rounding import COARSE_LIMIT, LOGIT_BUDGET, Rounding
from ..core.devices import Device
from ..core.tiles import AnyConfig, DigitConfig, WeighConfig

# storage dtypes that the kernels read; float64 rows are for the torch implementation
KERNEL_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)

# bits of a significand, the hidden one included; 8-bit numbers are exact in float16
SIGNIFICAND = {torch.float16: 11, torch.bfloat16: 8}

# numbers that a query is split into. Its rounding moves all logits together, as another query would: with 16 bits, two
# bfloat16, that is as large as the accuracy bar, with 22 bits, two float16, far below it
QUERY_PARTS = {torch.float16: 2, torch.bfloat16: 3}

# numbers that a weight is split into; the errors of weights are independent of each other, so 16 bits are enough
WEIGHT_PARTS = {torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class Split:
    """Into how many numbers queries and weights are split, and what their rounding may cost.

    query, weight: numbers of a query and of a weight, by dtype of the matrix unit. digits: base-256 digits of a query
    for the int8 matrix unit, see :mod:`.digits`.
    budget: relative velocity error that rounding of logits may cause. limit: error of a logit, in nats, above which
    every sample with weight is rescored.
    """

    query: Mapping[torch.dtype, int]
    weight: Mapping[torch.dtype, int]
    digits: int
    budget: float
    limit: float


EXACT = Split(QUERY_PARTS, WEIGHT_PARTS, 3, LOGIT_BUDGET, COARSE_LIMIT)

# half of the products and a velocity error of about 1e-3. One bfloat16 has too few bits for a query
HALF = Split({torch.float16: 1, torch.bfloat16: 2}, {torch.float16: 1, torch.bfloat16: 1}, 2, budget=1e-3, limit=0.3)


def operand_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the dtype in which the matrix unit sees rows stored as `stored`.

    The conversion is exact, but for float32, of which two float16 hold 22 bits.
    """
    return stored if stored in SIGNIFICAND else torch.float16


def part_slots(parts: int) -> int:
    """Return how many parts a tile of queries has room for, of which it needs `parts`."""
    return 1 << (parts - 1).bit_length()


def unit_rounding(
    dtype: torch.dtype, device: Device, depth: int, split: Split = EXACT, *, chained: bool = False
) -> Rounding:
    """Return how products of floating point operands round.

    dtype: of the rows as the kernels read them. device: whose matrix unit multiplies. depth: values of D after which a
    sum starts again from zero. split: how many numbers queries and weights are split into. chained: whether every part
    of a query adds to the same running sum; sums of their own are of full size for the first part only.
    Both parts of a float32 row add to one sum, and what they lose acts on products as a rounding of the query does.
    """
    unit = operand_dtype(dtype)
    query, weight = (number_rounding(unit, count[unit]) for count in (split.query, split.weight))
    steps = device.steps(depth) * (split.query[unit] if chained else 1)
    return (
        Rounding(2 * steps, math.sqrt(2.0) * query, weight)
        if dtype == torch.float32
        else Rounding(steps, query, weight)
    )


def number_rounding(dtype: torch.dtype, parts: int) -> float:
    """Return the root mean square rounding of a number that `parts` numbers of `dtype` hold, relative to it."""
    return 2.0 ** -(parts * SIGNIFICAND[dtype]) / math.sqrt(3.0)


def shared_bound(config: AnyConfig, stored: torch.dtype) -> int:
    """Return an upper bound of the shared memory of a program of `config`, in bytes, for rows stored as `stored`."""
    if isinstance(config, DigitConfig):
        return config.shared_bytes(stored.itemsize, EXACT.digits)
    dtype = operand_dtype(stored)
    parts = WEIGHT_PARTS if isinstance(config, WeighConfig) else QUERY_PARTS
    return config.shared_bytes(stored.itemsize, part_slots(parts[dtype]) * dtype.itemsize)
