"""Products of the matrix unit, and rows as the operands of these."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .interpreter import INTERPRETED
from .parts import two_parts


@triton.jit
@no_type_check
def dot(left, right):
    """Return the product of two blocks of one 16-bit dtype, summed in float32 from zero."""
    # the interpreter multiplies the bit patterns of bf16; in float32 the products of 16-bit numbers are exact as well
    if INTERPRETED:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(left, right, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def dot_add(left, right, total):
    """Return the product of two blocks of one 16-bit dtype, summed inside the matrix unit on top of `total`."""
    if INTERPRETED:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), total, input_precision="ieee")
    else:
        product = tl.dot(left, right, total, out_dtype=tl.float32)
    return product


@triton.jit
@no_type_check
def add_products(rows, centre, scale, right, total, TURNED: tl.constexpr):
    """Return `total` plus the product of rows as they are stored, TURNED or not, with `right`, in the matrix unit.

    centre: what is taken off 8-bit rows, to be broadcast over `rows`. scale: what float32 rows are multiplied by.
    """
    dtype: tl.constexpr = right.dtype
    if rows.dtype == tl.float32:
        high, rest = two_parts(rows, scale, dtype)
        total = dot_add(turned(rest, TURNED), right, total)
    else:
        high = operand(rows, centre, dtype)
    return dot_add(turned(high, TURNED), right, total)


@triton.jit
@no_type_check
def turned(block, TURNED: tl.constexpr):
    """Return a block, or its transpose where it is TURNED."""
    return tl.trans(block) if TURNED else block


@triton.jit
@no_type_check
def centre_of(stored: tl.constexpr, p_centre, o_d, m_d):
    """Return what :func:`operand` takes off rows of dtype `stored` at the values `o_d` of D, masked by `m_d`.

    Zeros but for 8-bit rows.
    """
    if stored.primitive_bitwidth == 8:
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
