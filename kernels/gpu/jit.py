"""Steps that the Triton kernels share, for Triton 3.6 to 3.9, compiled or interpreted."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl
from triton.knobs import runtime

# whether kernels run in Triton's interpreter, which is decided when triton is imported
INTERPRET = bool(runtime.interpret)

_INTERPRET = tl.constexpr(INTERPRET)

# weights lie in [0, 1]; scaled by this they use the upper half of float16's range, so that 2^-28 keeps full precision
WEIGHT_SCALE = tl.constexpr(16384.0)


@triton.jit
@no_type_check
def tile_of(count, batch, BLOCK_N: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return the tile of this program: its number in rows and queries, the rows and queries, and which of them exist.

    count, batch: rows and queries of the launch.
    """
    tiles_b = tl.cdiv(batch, BLOCK_B)
    # neighbouring programs share their rows, which are the larger operand
    i_b = tl.program_id(0) % tiles_b
    i_n = tl.program_id(0) // tiles_b
    o_n = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    o_b = i_b * BLOCK_B + tl.arange(0, BLOCK_B)
    return i_n, i_b, o_n, o_b, o_n < count, o_b < batch


@triton.jit
@no_type_check
def slice_of(dim, SLICES: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return the first value of D in the slice of this program, and the one after its last."""
    width = tl.cdiv(tl.cdiv(dim, SLICES), BLOCK_D) * BLOCK_D
    begin = tl.program_id(1) * width
    return begin, tl.minimum(begin + width, dim)


@triton.jit
@no_type_check
def share_of(count, i_share, shares, BLOCK_N: tl.constexpr):
    """Return the first of the `count` rows in share `i_share` of `shares`, and the one after its last."""
    share = tl.cdiv(tl.cdiv(count, shares), BLOCK_N) * BLOCK_N
    begin = i_share * share
    return begin, tl.minimum(begin + share, count)


@triton.jit
@no_type_check
def dot(left, right, PRECISION: tl.constexpr):
    """Return the product of two blocks of one dtype, summed in float32 from zero; plain TF32 only where asked for."""
    # the interpreter multiplies the bit patterns of bf16; in float32 the products of 16-bit numbers are exact as well
    if _INTERPRET:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision=PRECISION)
    else:
        product = tl.dot(left, right, input_precision=PRECISION, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def dot_add(left, right, total, PRECISION: tl.constexpr):
    """Return the product of two blocks, summed inside the matrix unit on top of `total`."""
    if _INTERPRET:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision=PRECISION)
    else:
        product = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def centre_of(p_rows, p_centre, o_d, m_d):
    """Return what :func:`operand` takes off 8-bit rows at the values `o_d` of D, masked by `m_d`; zeros for others."""
    if p_rows.dtype.element_ty.primitive_bitwidth == 8:
        centre = tl.load(p_centre + o_d, mask=m_d, other=0.0)
    else:
        centre = tl.zeros(o_d.shape, dtype=tl.float16)
    return centre


@triton.jit
@no_type_check
def operand(rows, centre, dtype: tl.constexpr):
    """Return rows as operands of `dtype`, exactly: 8-bit ones in float16, less `centre`."""
    if rows.dtype.primitive_bitwidth == 8:
        if rows.dtype == tl.int8:
            rows = rows.to(tl.uint8, bitcast=True) ^ 0x80
        # the bits of 1024, whose last place is one, with a level in their last byte: this takes no conversion
        # instruction, only the subtraction of the centre, which is higher by 1024 as well
        rows = (rows.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - centre
    else:
        rows = rows.to(dtype)
    return rows


@triton.jit
@no_type_check
def signed(rows):
    """Return 8-bit rows as int8: unsigned levels less 128."""
    if rows.dtype == tl.uint8:
        rows = (rows ^ 0x80).to(tl.int8, bitcast=True)
    return rows


@triton.jit
@no_type_check
def masked_by_ranges(logits, o_row, o_b, m_b, p_excluded, excluded):
    """Return logits [rows, queries] with -inf where a row lies in one of the `excluded` ranges of a query.

    o_row: rows of the tile. o_b, m_b: its queries, and which exist. p_excluded: [B, excluded, 2] int64.
    """
    for i_h in range(excluded):
        # [BLOCK_B]
        p_range = p_excluded + (o_b * excluded + i_h) * 2
        start = tl.load(p_range, mask=m_b, other=0)
        stop = tl.load(p_range + 1, mask=m_b, other=0)
        inside = (o_row[:, None] >= start[None, :]) & (o_row[:, None] < stop[None, :])
        logits = tl.where(inside, float("-inf"), logits)
    return logits


@triton.jit
@no_type_check
def finite(reference):
    """Return the reference of a softmax, zero where it is -inf, so that -inf minus it stays -inf."""
    return tl.where(reference == float("-inf"), 0.0, reference)


@triton.jit
@no_type_check
def where_positive(mask, number):
    """Return `mask`, a block, where the scalar `number` is above zero, and false everywhere else."""
    # as a block: the interpreter cannot spread what a comparison of scalars gives
    return mask & (tl.zeros(mask.shape, dtype=tl.float64) + number > 0.0)


@triton.jit
@no_type_check
def nearest(values, dtype: tl.constexpr):
    """Return float32 values, none of them negative zero or infinite, rounded to the nearest of `dtype`."""
    # the interpreter truncates to bf16, half a unit of its last place off
    if _INTERPRET and dtype == tl.bfloat16:
        bits = values.to(tl.uint32, bitcast=True) + 0x8000
        values = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return values.to(dtype)


@triton.jit
@no_type_check
def rounded(weights, PARTS: tl.constexpr, dtype: tl.constexpr):
    """Return what `PARTS` numbers of `dtype` hold of float32 weights: the first part, the rest, and their sum."""
    first = nearest(weights, dtype)
    kept = first.to(tl.float32)
    rest = nearest(weights - kept, dtype)
    if PARTS == 2:
        kept += rest.to(tl.float32)
    return first, rest, kept
