"""Triton: sums and products in twice the digits of float64: Dekker (1971), Knuth's two-sum.

What is launched with these steps is compiled without fused multiply-adds, which would change what rounding leaves over.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl

from ...common.compensated import SPLITTER

_SPLITTER = tl.constexpr(SPLITTER)


@triton.jit
@no_type_check
def twice_sum(a, b):
    """Return a + b exactly, as what float64 holds of it and the rest."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@triton.jit
@no_type_check
def twice_product(a, b):
    """Return a b exactly, as what float64 holds of it and the rest."""
    product = a * b
    a_spread = _SPLITTER * a
    a_high = a_spread - (a_spread - a)
    b_spread = _SPLITTER * b
    b_high = b_spread - (b_spread - b)
    a_low, b_low = a - a_high, b - b_high
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@triton.jit
@no_type_check
def sum_of_three(first, second, third):
    """Return the float64 number that three float32 ones add up to."""
    return tl.cast(first, tl.float64) + tl.cast(second, tl.float64) + tl.cast(third, tl.float64)
