"""Numbers in one or two parts of a 16-bit dtype, rounded alike when compiled and interpreted."""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from .interpreter import INTERPRETED

# weights lie in [0, 1]; scaled by this they use the upper half of float16's range, so that 2^-28 keeps full precision
WEIGHT_SCALE = tl.constexpr(16384.0)


@triton.jit
@no_type_check
def nearest(values, dtype: tl.constexpr):
    """Return float32 values, none of them negative zero or infinite, rounded to the nearest of `dtype`."""
    # the interpreter truncates to bf16, half a unit of its last place off
    if INTERPRETED and dtype == tl.bfloat16:
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


@triton.jit
@no_type_check
def two_parts(rows, scale, dtype: tl.constexpr):
    """Return float32 rows times `scale` as the sum of two numbers of `dtype`."""
    rows = rows * scale
    high = rows.to(dtype)
    return high, (rows - high.to(tl.float32)).to(dtype)


@triton.jit
@no_type_check
def parts_sum(b_sum, PARTS: tl.constexpr):
    """Return the sum over the parts that stand side by side in `b_sum` [M, PARTS N]: [M, N]."""
    if PARTS > 1:
        b_sum = tl.sum(tl.reshape(b_sum, [b_sum.shape[0], PARTS, b_sum.shape[1] // PARTS]), axis=1)
    return b_sum
