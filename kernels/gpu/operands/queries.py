"""Triton: what the products read of the queries, and what the laws of rounding ask of them, in one launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl

from ....base.arrays import Float, Float64, Shaped, Tensor
from ...common.rows import Query
from ..jit.parts import nearest

RADIX = 256

# the largest first digit: larger ones would round up to 128, which int8 lacks
TOP_DIGIT = 127

# queries whose largest coordinate is below this count as zero: the scale of their digits would leave the range of
# float64
LEAST = 1e-290

# values of a query that a program looks at together, and its warps
QUERY_BLOCK, QUERY_WARPS = 4096, 8

_RADIX, _TOP_DIGIT, _LEAST = tl.constexpr(float(RADIX)), tl.constexpr(float(TOP_DIGIT)), tl.constexpr(LEAST)


@triton.jit
@no_type_check
def store_facts(p_point, p_centre, p_facts, dim, batch, CENTRED: tl.constexpr, BLOCK: tl.constexpr):
    """Store |q|^2, the largest |q_d| and <q, centre> of the query of this program, and return the largest."""
    i_b = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK)
    # [BLOCK]
    b_size = tl.zeros([BLOCK], dtype=tl.float64)
    b_square = tl.zeros([BLOCK], dtype=tl.float64)
    b_product = tl.zeros([BLOCK], dtype=tl.float64)
    for start in range(0, dim, BLOCK):
        m_d = start + o_d < dim
        b_point = tl.load(p_point + i_b * dim + start + o_d, mask=m_d, other=0.0)
        b_size = tl.maximum(b_size, tl.abs(b_point))
        b_square += b_point * b_point
        if CENTRED:
            b_product += b_point * tl.load(p_centre + start + o_d, mask=m_d, other=0.0)
    size = tl.max(b_size, axis=0)
    tl.store(p_facts + i_b, tl.sum(b_square, axis=0))
    tl.store(p_facts + batch + i_b, size)
    tl.store(p_facts + 2 * batch + i_b, tl.sum(b_product, axis=0))
    return size


@triton.jit
@no_type_check
def store_factors(p_alpha, p_precision, p_gain, p_slope, scale):
    """Store what the products of the query of this program, in units of `scale`, and half norms are multiplied by."""
    i_b = tl.program_id(0)
    alpha = tl.load(p_alpha + i_b)
    gain = alpha * tl.load(p_precision + i_b)
    tl.store(p_gain + i_b, (gain * scale).to(tl.float32))
    tl.store(p_slope + i_b, (-gain * alpha).to(tl.float32))


@triton.jit(do_not_specialize=["batch"])
@no_type_check
def query_parts_kernel(
    p_point,
    p_alpha,
    p_precision,
    p_centre,
    p_parts,
    p_gain,
    p_slope,
    p_facts,
    dim,
    batch,
    part_stride,
    PARTS: tl.constexpr,
    SLOTS: tl.constexpr,
    CENTRED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A query over the power of two above its largest coordinate, as the sum of `PARTS` numbers of the operands.

    p_point: [B, D] float64. p_parts: [SLOTS, B, D], zeros from PARTS on. p_facts: [3, B] float64.
    """
    size = store_facts(p_point, p_centre, p_facts, dim, batch, CENTRED, BLOCK)
    # the exponent of a float64, and the two powers of two by their bits; a query of zeros has the scale one
    exponent = tl.minimum((size.to(tl.int64, bitcast=True) >> 52) & 0x7FF, 2044)
    exponent = tl.where(exponent == 0, 1022, exponent)
    scale = ((exponent + 1) << 52).to(tl.float64, bitcast=True)
    inverse = ((2045 - exponent) << 52).to(tl.float64, bitcast=True)
    store_factors(p_alpha, p_precision, p_gain, p_slope, scale)
    dtype: tl.constexpr = p_parts.dtype.element_ty
    offset = tl.program_id(0).to(tl.int64) * dim + tl.arange(0, BLOCK)
    for start in range(0, dim, BLOCK):
        m_d = start + tl.arange(0, BLOCK) < dim
        b_rest = tl.load(p_point + offset + start, mask=m_d, other=0.0) * inverse
        p_part = p_parts + offset + start
        for i_part in tl.static_range(SLOTS):
            b_part = nearest(b_rest.to(tl.float32) if i_part < PARTS else tl.zeros([BLOCK], dtype=tl.float32), dtype)
            tl.store(p_part, b_part, mask=m_d)
            b_rest -= b_part.to(tl.float64)
            p_part += part_stride


@triton.jit(do_not_specialize=["batch", "units"])
@no_type_check
def query_digits_kernel(
    p_point,
    p_alpha,
    p_precision,
    p_centre,
    p_digits,
    p_sums,
    p_gain,
    p_slope,
    p_facts,
    dim,
    batch,
    units,
    part_stride,
    middle,
    DIGITS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A query in base-256 digits, and the sums of each digit times the centre less `middle` over `UNIT` values of D.

    p_point: [B, D] float64. p_digits: [DIGITS, B, D] int8, the highest first. p_sums: [DIGITS, units, B] int32.
    p_facts: [3, B] float64.
    """
    size = store_facts(p_point, p_centre, p_facts, dim, batch, False, BLOCK)
    scale = tl.maximum(size, _LEAST) / _TOP_DIGIT
    for _ in tl.static_range(DIGITS - 1):
        scale = scale / _RADIX
    store_factors(p_alpha, p_precision, p_gain, p_slope, scale)
    i_b = tl.program_id(0).to(tl.int64)
    o_d = tl.arange(0, BLOCK)
    o_unit = tl.arange(0, BLOCK // UNIT)
    for start in range(0, dim, BLOCK):
        m_d = start + o_d < dim
        b_number = tl.load(p_point + i_b * dim + start + o_d, mask=m_d, other=0.0) / scale
        b_rest = tl.floor(b_number + 0.5).to(tl.int32)
        b_centre = tl.load(p_centre + start + o_d, mask=m_d, other=0.0).to(tl.int32) - middle
        unit = start // UNIT + o_unit
        for place in tl.static_range(DIGITS - 1, -1, -1):
            b_digit = b_rest
            if place > 0:
                b_digit = ((b_rest + 128) & 255) - 128
                b_rest = (b_rest - b_digit) >> 8
            tl.store(p_digits + place * part_stride + i_b * dim + start + o_d, b_digit.to(tl.int8), mask=m_d)
            b_product = tl.where(m_d, b_digit * b_centre, 0)
            sums = tl.sum(tl.reshape(b_product, [BLOCK // UNIT, UNIT]), axis=1)
            tl.store(p_sums + (place * units + unit).to(tl.int64) * batch + i_b, sums, mask=unit < units)


@triton.jit(do_not_specialize=["batch", "units", "width", "slices"])
@no_type_check
def shift_kernel(p_sums, p_shift, batch, units, width, slices, BLOCK: tl.constexpr):
    """Sums of `width` units of D each: those of the slices of a product with digits.

    p_sums: [P, units, B] int32. p_shift: [P, slices, B] int32.
    """
    i_part = tl.program_id(2).to(tl.int64)
    o_b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.program_id(1) * width
    # [BLOCK]
    total = tl.zeros([BLOCK], dtype=tl.int32)
    for unit in range(begin, tl.minimum(begin + width, units)):
        total += tl.load(p_sums + (i_part * units + unit) * batch + o_b, mask=o_b < batch, other=0)
    tl.store(p_shift + (i_part * slices + tl.program_id(1)) * batch + o_b, total, mask=o_b < batch)


@dataclass(frozen=True)
class QueryMeasures:
    """What is measured of queries on the way.

    gain: [B] float32, alpha / sigma^2 times the scale of the operand. slope: [B] float32, -alpha^2 / sigma^2.
    facts: [3, B] float64: |q|^2, the largest |q_d|, and the product with the centre that is left in the rows.
    """

    gain: Float[Tensor, "B"]
    slope: Float[Tensor, "B"]
    facts: Float64[Tensor, "3 B"]

    @classmethod
    def empty(cls, query: Query) -> QueryMeasures:
        """Return room for what is measured of `query`."""
        gain = query.point.new_empty(len(query), dtype=torch.float32)
        return cls(gain, torch.empty_like(gain), query.point.new_empty(3, len(query)))


def query_parts(
    query: Query, dtype: torch.dtype, parts: int, slots: int, centre: Float64[Tensor, "D"] | None = None
) -> tuple[Shaped[Tensor, "P B D"], QueryMeasures]:
    """Return the queries over a power of two as the sums of numbers of `dtype`, [slots, B, D]; no synchronisation.

    query: [B] queries. dtype: of the operands. parts: how many numbers. slots: room for them, zeros behind the last.
    centre: what is left in the rows, or None.
    Costs two reads of the queries.
    """
    (batch, dim), found = query.point.shape, QueryMeasures.empty(query)
    point, out = query.point.contiguous(), _room(query, slots, dtype)
    query_parts_kernel[(batch,)](
        point, query.alpha.contiguous(), query.inverse_variance.contiguous(), point if centre is None else centre,
        out, found.gain, found.slope, found.facts, dim, batch, out.stride(0),
        PARTS=parts, SLOTS=slots, CENTRED=centre is not None, BLOCK=_block(dim), num_warps=QUERY_WARPS,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out, found


def query_digits(
    query: Query, centre: Float64[Tensor, "D"], middle: int, *, digits: int, unit: int
) -> tuple[Shaped[Tensor, "P B D"], Shaped[Tensor, "P U B"], QueryMeasures]:
    """Return the digits of queries, [P, B, D] int8, and their sums with the centre; no synchronisation.

    query: [B] queries. centre: [D], whole numbers; the sums, [P, U, B] int32, are those of the digits times it less
    `middle`, over `unit` values of D each, a power of two. digits: of a number.
    Costs two reads of the queries.
    """
    (batch, dim), found = query.point.shape, QueryMeasures.empty(query)
    units, out = -(-dim // unit), _room(query, digits, torch.int8)
    sums = query.point.new_empty(digits, units, batch, dtype=torch.int32)
    query_digits_kernel[(batch,)](
        query.point.contiguous(), query.alpha.contiguous(), query.inverse_variance.contiguous(), centre,
        out, sums, found.gain, found.slope, found.facts, dim, batch, units, out.stride(0), middle,
        DIGITS=digits, UNIT=unit, BLOCK=max(unit, _block(dim)), num_warps=QUERY_WARPS, enable_fp_fusion=True,
    )  # fmt: skip
    return out, sums, found


def digit_shift(sums: Shaped[Tensor, "P U B"], slices: int, width: int) -> Shaped[Tensor, "P S B"]:
    """Return the sums of `width` units each, [P, slices, B] int32; no synchronisation.

    sums: [P, U, B] int32. slices: how many there are; what begins behind the last unit is zero.
    """
    parts, units, batch = sums.shape
    out = sums.new_empty(parts, slices, batch)
    shift_kernel[(triton.cdiv(batch, 128), slices, parts)](
        sums, out, batch, units, width, slices, BLOCK=128, num_warps=4, enable_fp_fusion=True
    )
    return out


def _room(query: Query, parts: int, dtype: torch.dtype) -> Shaped[Tensor, "P B D"]:
    # a distance between parts that is a multiple of 16 for every batch, so that none is compiled anew
    batch, dim = query.point.shape
    return query.point.new_empty(parts, -(-batch // 16) * 16, dim, dtype=dtype)[:, :batch]


def _block(dim: int) -> int:
    return max(16, min(QUERY_BLOCK, 1 << (dim - 1).bit_length()))
