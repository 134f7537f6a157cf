"""Operands of the Triton kernels: blocks of rows as they are stored, queries split into numbers of the same kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ...base.arrays import Float, Float64, Int64, Shaped, Tensor
from ..common.rounding import COARSE_LIMIT, LOGIT_BUDGET, Rounding
from ..common.rows import Query, Rows, Span
from .configs import AnyConfig, DigitConfig, WeighConfig
from .devices import Device

# storage dtypes that the kernels read; float64 rows are for the torch implementation
KERNEL_DTYPES = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)

# bits of a significand, the hidden one included; 8-bit numbers are exact in float16
SIGNIFICAND = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}

# numbers that a query is split into. Its rounding moves all logits together, as another query would: with 16 bits, two
# bfloat16, that is as large as the accuracy bar, with 22 bits, two float16, far below it
QUERY_PARTS = {torch.float16: 2, torch.bfloat16: 3, torch.float32: 2}

# numbers that a weight is split into; the errors of weights are independent of each other, so 16 bits are enough
WEIGHT_PARTS = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 1}


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

# half of the products and a velocity error of about 1e-3. One bfloat16 has too few bits for a query, and float32
# operands are not split
HALF = Split({torch.float16: 1, torch.bfloat16: 2}, {torch.float16: 1, torch.bfloat16: 1}, 2, budget=1e-3, limit=0.3)

# a float16 whose last bits are zero, so that setting them to the bits of an 8-bit level gives the sum of both: this is
# how the kernels turn 8-bit rows into float16
RAISED = 1024.0


def operand_dtype(stored: torch.dtype) -> torch.dtype:
    """Return the dtype in which the matrix unit sees rows stored as `stored`; the conversion is exact."""
    return torch.float16 if stored in (torch.uint8, torch.int8) else stored


def operand_rows(rows: Rows) -> Rows:
    """Return `rows` as the kernels multiply them: of 8-bit rows the centre, which is a whole number, is taken off."""
    return rows if rows.stored.is_floating_point() else replace(rows, centre_off=True)


def copied(rows: Rows) -> bool:
    """Return whether the kernels read a centred copy of `rows`.

    They do for floating point rows whose centre is so large that products would lose digits to it.
    """
    return rows.stored.is_floating_point() and not rows.raw_operand


def block_dtype(rows: Rows) -> torch.dtype:
    """Return the dtype in which the kernels read `rows`: that of the storage, float32 where they are copied."""
    return torch.float32 if copied(rows) else rows.stored.dtype


@dataclass(frozen=True)
class BlockOperand:
    """Rows [start, start + n) of a data set as the kernels read them.

    rows: [n, D] in a dtype of KERNEL_DTYPES. half_norms: [n] float32, |r|^2 / 2. log_weights: [n] float32, not read
    unless `weighted`. start: the first row.
    centre: [D] float16, what is taken off 8-bit rows in registers: the centre, counted from the lowest level, plus
    RAISED; empty for other rows.
    """

    rows: Shaped[Tensor, "n D"]
    centre: Float[Tensor, "C"]
    half_norms: Float[Tensor, "n"]
    log_weights: Float[Tensor, "n"]
    weighted: bool
    start: int

    @classmethod
    def of(cls, rows: Rows, span: Span) -> BlockOperand:
        """Return the operand of the rows in `span`: a view of the data, or a centred copy where :func:`copied`."""
        stored = rows.stored[span.start : span.stop]
        if copied(rows):
            copy = torch.empty(stored.shape, dtype=block_dtype(rows), device=rows.device)
            stored = rows.block(span.start, span.stop, copy)
        half_norms = rows.half_norms[span.start : span.stop].float()
        weights = rows.log_weights
        log_weights = half_norms if weights is None else weights[span.start : span.stop].float()
        return cls(stored, _raised_centre(rows), half_norms, log_weights, weights is not None, span.start)

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def dim(self) -> int:
        """D, the values of a row."""
        return self.rows.shape[1]

    def excluded(self, query: ScoredQuery) -> Int64[Tensor, "B H 2"]:
        """Return the excluded ranges of `query` as row numbers within the block, [B, H, 2] int64."""
        return (query.excluded - self.start).contiguous()


def _raised_centre(rows: Rows) -> Float[Tensor, "C"]:
    if rows.stored.is_floating_point():
        return rows.centre[:0].half()
    lowest = torch.iinfo(rows.stored.dtype).min
    return (rows.centre - lowest + RAISED).half()


@dataclass(frozen=True)
class ScoredQuery:
    """Queries split into numbers of a matrix unit: logit = gain <numbers, row> + slope |r|^2 / 2.

    parts: [P, B, D] in the dtype of the matrix unit. gain, slope: [B] float32. excluded: [B, H, 2] int64, as in Query.
    """

    parts: Shaped[Tensor, "P B D"]
    gain: Float[Tensor, "B"]
    slope: Float[Tensor, "B"]
    excluded: Int64[Tensor, "B H 2"]

    def __len__(self) -> int:
        return self.parts.shape[1]


@dataclass(frozen=True)
class QueryOperand(ScoredQuery):
    """Queries in floating point numbers, whose sum is q / 2^e, at most one in size.

    parts: [P, B, D] float16, bfloat16 or float32. gain: [B] float32, alpha / sigma^2 2^e. slope: [B] float32,
    -alpha^2 / sigma^2. excluded: [B, H, 2] int64, as in Query.
    precision: how float32 operands are multiplied, as in Device; products of 16-bit operands are exact.
    """

    precision: str

    @property
    def cut_to_tf32(self) -> bool:
        """Whether the parts are numbers of TF32 and what these leave."""
        return self.parts.dtype == torch.float32 and len(self.parts) == 2

    @classmethod
    def of(cls, query: Query, dtype: torch.dtype, precision: str, split: Split = EXACT) -> QueryOperand:
        """Return the queries in numbers of a dtype, each query scaled by a power of two.

        query: [B] queries. dtype: of the matrix unit. precision: how float32 operands are multiplied, as in Device.
        split: how many numbers.
        """
        scale = unit_scale(query)
        rest = query.point / scale[:, None]
        parts: list[Tensor] = []
        count = query_parts(dtype, precision, split)
        for number in range(1, count + 1):
            parts.append(rest.to(dtype) if dtype != torch.float32 or number == count else tf32_number(rest))
            rest = rest - parts[-1].double()
        # tiles hold all parts side by side, a power of two of them
        parts += [torch.zeros_like(parts[0])] * (part_slots(len(parts)) - len(parts))
        gain = (query.gain * scale).float()
        slope = (-query.gain * query.alpha).float()
        return cls(torch.stack(parts), gain, slope, query.excluded, precision)


def part_slots(parts: int) -> int:
    """Return how many parts a tile of queries has room for, of which it needs `parts`."""
    return 1 << (parts - 1).bit_length()


def query_parts(dtype: torch.dtype, precision: str, split: Split = EXACT) -> int:
    """Return how many numbers of `dtype` a query is split into.

    precision: how float32 operands are multiplied, as in Device; only TF32 needs them in parts. split: of the scan.
    """
    return 1 if precision == "bf16x6" and dtype == torch.float32 else split.query[dtype]


def tf32_number(values: Float64[Tensor, "B D"]) -> Float[Tensor, "B D"]:
    """Return `values` cut to numbers of TF32, as float32: the first 10 bits of a significand."""
    return (values.float().view(torch.int32) & -8192).view(torch.float32)


def unit_scale(query: Query) -> Float64[Tensor, "B"]:
    """Return the powers of two above the largest coordinate of each query, 1 for a query of zeros, [B] float64."""
    exponent = torch.frexp(query.point.abs().amax(1)).exponent
    return torch.ldexp(torch.ones_like(query.alpha), exponent)


def unit_rounding(
    dtype: torch.dtype, device: Device, depth: int, split: Split = EXACT, *, chained: bool = False
) -> Rounding:
    """Return how products of floating point operands round.

    dtype: of the operands. device: whose matrix unit multiplies. depth: values of D after which a sum starts again from
    zero. split: how many numbers queries and weights are split into. chained: whether every part of a query adds to
    the same running sum; sums of their own are of full size for the first part only.
    A float32 product is a sum of several products, smallest first, of which only the last is added to a sum of full
    size.
    """
    steps = device.steps(depth, dtype.itemsize)
    if dtype == torch.float32:
        # both operands are kept to 22 bits and a sign, independently; float32 units keep them exactly
        kept = 0.0 if device.precision == "ieee" else 2.0**-22
        return Rounding(steps, kept + number_rounding(dtype, 1), kept + number_rounding(dtype, 1))
    query, weight = (number_rounding(dtype, count[dtype]) for count in (split.query, split.weight))
    return Rounding(steps * (split.query[dtype] if chained else 1), query, weight)


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
